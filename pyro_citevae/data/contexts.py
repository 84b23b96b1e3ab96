"""Contexts of a screen: how far apart their controls lie, and which batches have cells of which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from pyro_citevae.data.pseudobulk import level

if TYPE_CHECKING:
    from pyro_citevae.data.trajectories import Trajectories

__all__ = ["batches_of_contexts", "control_profiles", "distances", "mean_distance"]

_LEAST_DISTANCE = 1e-6


def control_profiles(data: Trajectories) -> Float[np.ndarray, "context gene"]:
    """Log pseudobulk profile of each context's controls; of one without controls, of all its cells.

    A context without cells has the mean profile of the others.

    Args:
        data: Cells of several contexts.
    """
    control = data.labels == data.schema.control
    found: list[np.ndarray | None] = []
    for c in range(data.schema.n_contexts):
        here = data.context == c
        chosen = here & control if (here & control).any() else here
        found.append(level(data.cells(np.flatnonzero(chosen))) if chosen.any() else None)
    known = [one for one in found if one is not None]
    middle = np.mean(known, axis=0) if known else np.zeros(data.schema.n_genes)
    return np.stack([middle if one is None else one for one in found])


def distances(profiles: Float[np.ndarray, "context gene"]) -> Float[np.ndarray, "context context"]:
    """One less the correlation of two profiles over the genes; one where a profile is flat.

    Args:
        profiles: Profiles of controls.

    Example:
        >>> from pyro_citevae import datasets
        >>> distance = distances(control_profiles(datasets.load("kang")))
        >>> distance.shape, float(distance[0, 0])
        ((5, 5), 0.0)
    """
    if profiles.shape[1] < 2:  # one gene is flat
        return 1.0 - np.eye(len(profiles))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = 1 - np.atleast_2d(np.corrcoef(profiles))
    found = np.where(np.isfinite(found), found, 1.0)
    np.fill_diagonal(found, 0.0)
    return np.asarray(np.clip(found, 0.0, 2.0))


def mean_distance(distance: Float[np.ndarray, "context context"]) -> float:
    """Mean over the pairs of contexts, above zero; the unit in which distances are taken.

    Args:
        distance: How far contexts lie apart, zero on the diagonal.

    Example:
        >>> mean_distance(np.array([[0.0, 0.5], [0.5, 0.0]]))
        0.5
    """
    n = len(distance)
    return max(float(distance.sum()) / max(1, n * (n - 1)), _LEAST_DISTANCE)


def batches_of_contexts(data: Trajectories) -> Bool[np.ndarray, "context batch"]:
    """Which technical batches have cells of a context; all of them for a context without cells."""
    found = np.zeros((data.schema.n_contexts, data.schema.n_batches), dtype=bool)
    found[data.context, data.technical] = True
    found[~found.any(1)] = True
    return found
