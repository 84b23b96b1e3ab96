"""Whether two things depend on each other: a classifier's AUC, and the Hilbert-Schmidt criterion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

__all__ = ["AUC", "HSIC", "auc", "dependence"]

_FOLDS = 5
_MOST_ROWS = 150
_PERMUTATIONS = 200


@dataclass(frozen=True)
class AUC:
    """How well a classifier tells labels apart.

    Attributes:
        value: Area under the curve of each label against the rest, averaged over labels; 0.5 is chance.
        chance_error: Its standard error at chance.
        n_labels: Number of labels with a row in every fold.
    """

    value: float
    chance_error: float
    n_labels: int


def auc(rows: Float[np.ndarray, "row feature"], labels: np.ndarray) -> AUC | None:
    """The cross-validated AUC of labels from rows, by discriminant analysis on products of two features.

    Args:
        rows: Features.
        labels: Label of each row; those with fewer than five rows are left out.

    Returns:
        The score, or None if fewer than two labels are left.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.repeat(["a", "b"], 200)
        >>> found = auc(rng.normal(size=(400, 1)) * np.where(labels == "a", 1, 9)[:, None], labels)
        >>> bool(found.value > 0.8)
        True
    """
    names, of, counts = np.unique(labels.astype(str), return_inverse=True, return_counts=True)
    kept = counts[of] >= _FOLDS
    rows, of = rows[kept], of[kept]
    present = np.unique(of)
    if len(present) < 2:
        return None
    classifier = make_pipeline(
        StandardScaler(),
        PolynomialFeatures(2, include_bias=False),
        StandardScaler(),
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    )
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    odds = cross_val_predict(classifier, rows, of, cv=folds, method="predict_proba")
    values = [roc_auc_score(of == one, odds[:, i]) for i, one in enumerate(present)]
    n = counts[present]
    # Mann and Whitney's variance at chance, as if the labels' scores were independent
    variance = (len(of) + 1) / (12 * n * (len(of) - n))
    return AUC(float(np.mean(values)), float(np.sqrt(variance.mean() / len(n))), len(names[present]))


@dataclass(frozen=True)
class HSIC:
    """How far two sets of variables are from independence.

    Attributes:
        value: ``tr(K H L H) / sqrt(tr(K H K H) tr(L H L H))``, between 0 and 1.
        pvalue: Share of permutations, the identity among them, that reach it.
    """

    value: float
    pvalue: float


def dependence(x: Float[np.ndarray, "row _"], y: Float[np.ndarray, "row _"], *, seed: int = 0) -> HSIC:
    """The normalised Hilbert-Schmidt independence criterion, with a permutation test.

    Kernels are Gaussian with the median distance as width; of more than 150 rows, that many are taken.

    Args:
        x: One set of variables.
        y: The other.
        seed: Seed of the permutations.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(100, 1))
        >>> dependence(x, x**2).pvalue < 0.01
        True

    Source: A. Gretton et al., A Kernel Statistical Test of Independence (2007).
    """
    rng = np.random.default_rng(seed)
    taken = np.linspace(0, len(x) - 1, min(len(x), _MOST_ROWS)).round().astype(int)
    K, L = _centred_kernel(x[taken]), _centred_kernel(y[taken])
    orders = np.array([np.arange(len(K)), *(rng.permutation(len(K)) for _ in range(_PERMUTATIONS - 1))])
    sums = np.array([(K * L[order][:, order]).sum() for order in orders])
    size = np.sqrt((K**2).sum() * (L**2).sum())
    return HSIC(float(sums[0] / size), float((sums >= sums[0] * (1 - 1e-12)).mean()))


def _centred_kernel(x: Float[np.ndarray, "row _"]) -> Float[np.ndarray, "row row"]:
    distance = cdist(x, x)
    width = np.median(distance[np.triu_indices(len(x), 1)])
    K = np.exp(-((distance / max(width, 1e-300)) ** 2) / 2)
    return K - K.mean(0) - K.mean(1)[:, None] + K.mean()
