"""Features of genes: what is known of a gene before it is perturbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.linalg import eigh

from pyro_citevae.arguments import Names, names
from pyro_citevae.data import ontology
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError, few, reason

__all__ = ["GeneFeatures", "coexpression", "concatenate", "from_table", "gene_ontology"]

_SPECIES = ("human", "mouse")
_RANK = 32
_PERSISTENCE = 0.95


@final
@dataclass(frozen=True, eq=False)
class GeneFeatures:
    r"""Rows of numbers, one a gene, of which only the products ``F_p . F_q`` matter.

    A conditional prior ``row_p ~ N(F_p B, s)`` with ``B ~ N(0, tau)`` is a Gaussian process over genes with
    the kernel ``tau^2 F_p . F_q``: a gene is predicted from the genes that it is like. A row of zeros is a
    gene of which nothing is known, and leaves it to the population.

    Attributes:
        genes: Names of the rows, each once.
        values: The features, finite.
        names: Names of the columns, ``SOURCE_NUMBER``; columns of one source share a scale.

    Raises:
        DataError: The shapes disagree, a gene or a name comes twice, or a value is not finite.

    Example:
        >>> known = GeneFeatures(("A", "B"), np.array([[1.0], [0.0]]), ("mine_0",))
        >>> known.missing
        ('B',)
    """

    genes: tuple[str, ...]
    values: Float[np.ndarray, "gene feature"]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for axis in ("genes", "names"):
            object.__setattr__(self, axis, names(getattr(self, axis), f"GeneFeatures({axis}=...)"))
        if self.values.shape != (len(self.genes), len(self.names)):
            raise DataError(
                f"GeneFeatures(values=...) has shape {self.values.shape}, expected a row for each of "
                f"{len(self.genes)} genes and a column for each of {len(self.names)} names."
            )
        for what, listed in (("gene", self.genes), ("column", self.names)):
            twice = pd.Index(listed)[pd.Index(listed).duplicated()]
            if len(twice):
                raise DataError(f"GeneFeatures has the {what} '{twice[0]}' twice; keep one of them.")
        wrong = ~np.isfinite(self.values).all(1)
        if wrong.any():
            gene = self.genes[int(np.flatnonzero(wrong)[0])]
            raise DataError(f"GeneFeatures holds NaN or infinite values for '{gene}'; fill them or drop it.")

    @property
    def missing(self) -> tuple[str, ...]:
        """Genes of which nothing is known: those whose row is zero."""
        return tuple(gene for gene, row in zip(self.genes, self.values, strict=True) if not row.any())

    @property
    def kernel(self) -> Float[np.ndarray, "gene gene"]:
        """``F F^T``: how much two genes are expected to share."""
        return self.values @ self.values.T

    @property
    def recorded(self) -> list[str]:
        """What a run's settings hold: the columns' names. The values are with the model's weights."""
        return list(self.names)

    def rows(self, genes: Names) -> Float[np.ndarray, "gene feature"]:
        """The rows of these genes, in their order.

        Raises:
            DataError: A gene has no row; the sentence names it.
        """
        position = {gene: i for i, gene in enumerate(self.genes)}
        wanted = names(genes, "GeneFeatures.rows(genes=...)")
        absent = [gene for gene in wanted if gene not in position]
        if absent:
            raise DataError(
                f"the features have no row for {_listed(absent)}; build them for every token, as in "
                "gene_ontology(data.schema.tokens)."
            )
        return self.values[[position[gene] for gene in wanted]]

    def __or__(self, other: GeneFeatures) -> GeneFeatures:
        return concatenate((self, other))


def concatenate(parts: Sequence[GeneFeatures]) -> GeneFeatures:
    """The columns of all parts, for every gene of any; a gene that a part lacks has zeros there.

    Kernels add: ``F F^T = sum_i F_i F_i^T``. A model learns a scale for each source.

    Args:
        parts: Features with different column names.

    Raises:
        DataError: There is none, or a column's name comes twice.

    Example:
        >>> one = GeneFeatures(("A", "B"), np.ones((2, 1)), ("one_0",))
        >>> two = GeneFeatures(("B", "C"), np.ones((2, 1)), ("two_0",))
        >>> (one | two).values.tolist()
        [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    """
    if not parts:
        raise DataError("concatenate(parts) was given none; give some features.")
    genes = tuple(dict.fromkeys(gene for part in parts for gene in part.genes))
    columns = []
    for part in parts:
        table = pd.DataFrame(part.values, index=list(part.genes))
        columns.append(table.reindex(list(genes), fill_value=0.0).to_numpy())
    return GeneFeatures(genes, np.hstack(columns), tuple(name for part in parts for name in part.names))


def gene_ontology(
    genes: Names,
    *,
    species: str = "human",
    aspects: Names = ("bp",),
    without: Names = ontology.ELECTRONIC,
    term_size: tuple[int, int] = (2, 2000),
    specificity: float = 2.0,
    sharpness: float | None = 4.0,
    rank: int = _RANK,
) -> GeneFeatures:
    r"""Features from the shipped gene ontology: a low-rank factor of a sharpened similarity of terms.

    ::

        c_pq = cosine of the terms of p and q, weighted by information content to the power ``specificity``
        W_pq = exp(sharpness c_pq) for p != q, else 0        S = D^-1/2 W D^-1/2, D = diag(sum_q W_pq)
        F F^T = rho S (I - rho S)^-1 on the positive part of S's spectrum, at mean unit diagonal

    This is what genes share under the conditional autoregression ``E[f_p | others] = rho sum_q S_pq f_q``,
    rho = 0.95: close neighbours decide, however many far ones there are, and however much a gene is
    annotated. What a gene has alone is left to the model's own deviation. The graph S is that of the genes
    given, so build the features once for all tokens, unseen ones among them.

    Args:
        genes: Symbols, or earlier names of them (``MARCH8`` is found as ``MARCHF8``).
        species: ``"human"``; or ``"mouse"``, whose genes are given the terms of the human gene of the same
            symbol in capitals: ``Stat1`` those of ``STAT1``. That is an approximation: most orthologues are
            called alike, but not all are (``Trp53`` is human ``TP53``, and is missing then).
        aspects: ``"bp"`` biological process, ``"mf"`` molecular function, ``"cc"`` cellular component.
        without: Evidence codes that do not count: by default those that no curator has looked at.
        term_size: Fewest and most genes that a term may have.
        specificity: Power of the information content ``log(N / genes of the term)``.
        sharpness: Contrast of near against far genes; None for the cosine itself as the kernel.
        rank: Most columns.

    Returns:
        A row a gene; ``missing`` names those without a term.

    Raises:
        DataError: An argument is out of range, the species is another, or fewer than two of the genes have
            terms.

    Source: J. Besag, Spatial Interaction and the Statistical Analysis of Lattice Systems (1974), for the
    autoregression; A. Smola and R. Kondor, Kernels and Regularization on Graphs (2003).

    Example:
        >>> found = gene_ontology(["IFNGR1", "IFNGR2", "CUL3", "SMAD4", "MARCH8", "no such gene"])
        >>> found.missing
        ('no such gene',)
        >>> bool(found.kernel[0, 1] > found.kernel[0, 2])
        True
        >>> bool((gene_ontology(["Ifngr1", "Stat1"], species="mouse").kernel > 0).all())
        True
    """
    if species not in _SPECIES:
        raise DataError(
            f"gene_ontology(species={species!r}) is not one of {', '.join(_SPECIES)}; give features of your "
            "own by from_table(table, genes)."
        )
    distinct = _distinct(genes, "gene_ontology")
    found, cosine = ontology.similarity(
        [gene.upper() for gene in distinct] if species == "mouse" else distinct,
        aspects=names(aspects, "gene_ontology(aspects=...)"),
        without=names(without, "gene_ontology(without=...)"),
        term_size=term_size,
        specificity=specificity,
    )
    if found.sum() < 2:
        terms = f"gene_ontology(genes) finds terms for {found.sum()} of {len(distinct)} genes"
        of_mice = ontology.in_capitals_alone(distinct)
        if of_mice and species == "human":
            raise DataError(
                f"{terms}: {_listed(of_mice)} look like mouse symbols, which species='mouse' takes by the "
                "human gene of the same symbol in capitals."
            )
        raise DataError(f"{terms}, and likeness needs two; give human gene symbols, or drop less evidence.")
    return _placed(distinct, found, _factor(cosine, sharpness, rank), "ontology")


def coexpression(
    train: Trajectories, genes: Names, *, rank: int = 10, sharpness: float | None = None
) -> GeneFeatures:
    """Features from control cells: correlations of a gene's expression with the panel's main components.

    Expression is ``log(1 + total x / library)``, centred within each technical batch and time, and scaled to
    unit variance. A gene that is not in the panel has no feature.

    Args:
        train: The training data: held-out cells must not be among them. Only its controls are used.
        genes: Names, such as ``train.schema.tokens``.
        rank: Number of principal components.
        sharpness: As for :func:`gene_ontology`, on the cosine of the correlations; None for these themselves.

    Raises:
        DataError: There are fewer than two control cells, or no gene is in the panel.

    Example:
        >>> from pyro_citevae import simulate
        >>> train = simulate().data
        >>> coexpression(train, train.schema.tokens, rank=2).names
        ('coexpression_0', 'coexpression_1')
    """
    distinct, schema, controls = _distinct(genes, "coexpression"), train.schema, train.controls()
    position = {gene: g for g, gene in enumerate(schema.genes)}
    found = np.array([gene in position for gene in distinct])
    if not found.any() or controls.n_observations < 2:
        raise DataError("coexpression(train, genes) needs two control cells and a gene that is in the panel.")
    x = controls.values.toarray().astype(float)
    if schema.values == "counts":
        x = np.log1p(schema.total * x / controls.library[:, None])
    group = [controls.technical[controls.row_cell], controls.row_step]
    x -= pd.DataFrame(x).groupby(group).transform("mean").to_numpy()
    spread = x.std(0)
    x /= np.where(spread > 0, spread, 1.0)
    from sklearn.decomposition import PCA  # here, since few need it

    fitted = PCA(min(rank, *x.shape), random_state=0).fit(x)
    loadings = fitted.components_.T * np.sqrt(fitted.explained_variance_)
    own = loadings[[position[gene] for gene in np.array(distinct)[found]]]
    return _placed(distinct, found, _embedded(own, sharpness, rank), "coexpression")


def from_table(
    table: Any,
    genes: Names,
    *,
    key: str | None = None,
    name: str = "table",
    sharpness: float | None = None,
    rank: int = _RANK,
) -> GeneFeatures:
    """A user's own features, such as an embedding of gene descriptions or of proteins.

    Columns are centred over the genes found, and all are divided by one number, so that a row's mean square
    is 1 and sources weigh alike before a model learns their scales.

    Args:
        table: Path of a parquet, csv or tsv file whose first column (or index) names the genes, a DataFrame
            with genes as its index, or an AnnData, whose ``varm[key]`` is taken.
        genes: Genes wanted; those that the table lacks have no feature.
        key: Entry of ``varm``, for an AnnData.
        name: Name of the source, for the columns.
        sharpness: As for :func:`gene_ontology`, on the cosine of the rows; None for the rows themselves.
        rank: Most columns; a wider table keeps its main directions.

    Raises:
        DataError: The table cannot be read, names a gene twice, holds no numbers, or has none of the genes.

    Example:
        >>> mine = pd.DataFrame({"one": [1.0, 3.0], "two": [0.0, 1.0]}, index=["A", "B"])
        >>> from_table(mine, ["A", "B", "C"]).missing
        ('C',)
    """
    distinct, frame = _distinct(genes, "from_table"), _frame(table, key)
    if not frame.index.is_unique:
        raise DataError(f"the table names the gene '{frame.index[frame.index.duplicated()][0]}' twice.")
    found = np.isin(np.array(distinct, dtype=object), frame.index.to_numpy(dtype=object))
    if not found.any():
        raise DataError(f"the table has none of the {len(distinct)} genes, such as '{distinct[0]}'.")
    try:
        rows = frame.loc[np.array(distinct, dtype=object)[found]].to_numpy(dtype=float)
    except (TypeError, ValueError) as error:
        raise DataError(f"the table of gene features holds what is no number ({error}).") from None
    wrong = ~np.isfinite(rows).all(1)
    if wrong.any():
        gene = np.array(distinct, dtype=object)[found][wrong][0]
        raise DataError(f"the table of gene features has no finite value for '{gene}'; fill it or drop it.")
    return _placed(distinct, found, _embedded(rows - rows.mean(0), sharpness, rank), name)


def _embedded(
    rows: Float[np.ndarray, "found column"], sharpness: float | None, rank: int
) -> Float[np.ndarray, "found feature"]:
    """A factor of the kernel that rows make: of their cosine if sharpened, else of their products."""
    if sharpness is not None:
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        unit = rows / np.where(length > 0, length, 1.0)
        return _factor(unit @ unit.T, sharpness, rank)
    if rows.shape[1] > rank:
        left, size, _ = np.linalg.svd(rows, full_matrices=False)
        rows = left[:, :rank] * size[:rank]
    return _scaled(rows)


def _factor(
    cosine: Float[np.ndarray, "found found"], sharpness: float | None, rank: int
) -> Float[np.ndarray, "found feature"]:
    """A low-rank factor F of what genes share, by their similarity; see :func:`gene_ontology`."""
    if rank < 1 or (sharpness is not None and not 0 <= sharpness < np.inf):
        raise DataError(f"sharpness={sharpness} and rank={rank} must be zero or more, and one or more.")
    n = len(cosine)
    if sharpness is not None:
        # less the largest, which cancels in S, so that no sharpness overflows
        np.fill_diagonal(weight := np.exp(sharpness * (cosine - cosine.max())), 0.0)
        degree = np.sqrt(weight.sum(1))
        cosine = weight / np.outer(degree, degree)
    value, vector = eigh(cosine, subset_by_index=(max(0, n - rank), n - 1))
    kept = value > 1e-6
    value, vector = value[kept][::-1], vector[:, kept][:, ::-1]
    if sharpness is not None:
        value = _PERSISTENCE * value / (1 - _PERSISTENCE * value)
    return _scaled(vector * np.sqrt(value))


def _scaled(rows: Float[np.ndarray, "found feature"]) -> Float[np.ndarray, "found feature"]:
    """Rows whose mean square length is 1."""
    size = np.sqrt((rows**2).sum(1).mean())
    return rows / (size if size > 0 else 1.0)


def _placed(
    genes: tuple[str, ...], found: np.ndarray, rows: Float[np.ndarray, "found feature"], source: str
) -> GeneFeatures:
    """Rows at the genes that have them, zeros elsewhere."""
    values = np.zeros((len(genes), rows.shape[1]))
    values[found] = rows
    return GeneFeatures(genes, values, tuple(f"{source}_{k}" for k in range(rows.shape[1])))


def _distinct(genes: Names, asked: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(names(genes, f"{asked}(genes=...)")))
    if not found:
        raise DataError(f"{asked}(genes={genes!r}) names no gene; give data.schema.tokens, say.")
    return found


def _frame(table: Any, key: str | None) -> pd.DataFrame:
    """A user's table with genes as its index."""
    if isinstance(table, pd.DataFrame):
        return table.set_axis(table.index.astype(str))
    if hasattr(table, "varm"):
        if key not in table.varm:
            raise DataError(f"key={key!r} is not in varm, which has {', '.join(table.varm) or 'nothing'}.")
        return pd.DataFrame(np.asarray(table.varm[key]), index=table.var_names.astype(str))
    path = Path(table)
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            if isinstance(frame.index, pd.RangeIndex):
                frame = frame.set_index(frame.columns[0])
        else:
            frame = pd.read_csv(path, sep=None, engine="python", index_col=0)
    except Exception as error:
        raise DataError(f"'{path}' cannot be read as a table of gene features ({reason(error)}).") from error
    return frame.set_axis(frame.index.astype(str))


def _listed(names: Sequence[str]) -> str:
    """The first of some names in quotes."""
    return few([f"'{name}'" for name in names])
