"""Groups of cells: the profile of each perturbation, time and context, with its sampling variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from pyro_citevae.data.pseudobulk import profile
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories

__all__ = ["Groups", "grouped"]

_CHUNK = 20_000
_CELLS_OF_A_PRIOR = 20.0  # that a group's own scatter is weighed against
_OF_CELLS = 4  # fields before those that cells add to
_LEAST = 1e-3  # counts at the common total that a gene is expected to have at least


@final
@dataclass(frozen=True)
class Groups:
    r"""Sums over the cells of each group, from which follow its profile and the profile's variance.

    ::

        R_pg = sum_n x_ng / sum_n N_n          b_pg = log(1 + total R_pg)
        var(x_ng | p) = mu + phi_g mu^2        mu = N_n R_pg
        var(b_pg) = kappa_p (total / (1 + total R_pg))^2 (R_pg sum N + phi_g R_pg^2 sum N^2) / (sum N)^2

    over the cells n of group p, where N_n is a cell's sum of counts. ``phi_g`` is learnt from all groups
    together, and ``kappa_p`` is by how much a group is more scattered than that, in the mean over genes. R on
    the right is what a model expects: from the group's own counts, a gene that happened to have few would be
    thought to be sure of it. For real values ``b`` is the mean and ``var(b_pg) = kappa_p sigma_g^2 / n``.

    Attributes:
        schema: Names of the genes, and the common total.
        labels: Perturbation of each group.
        times: Time of each group.
        contexts: Context of each group.
        n: Cells of each group.
        depth: Sum of the cells' counts N; of ones where values are real.
        depth_squared: Sum of their squares.
        sums: Sum of each gene's values.
        squares: Sum of their squares.
        products: Sum of their products with N.
    """

    schema: Schema
    labels: tuple[str, ...]
    times: Float[np.ndarray, " group"]
    contexts: Int[np.ndarray, " group"]
    n: Float[np.ndarray, " group"]
    depth: Float[np.ndarray, " group"]
    depth_squared: Float[np.ndarray, " group"]
    sums: Float[np.ndarray, "group gene"]
    squares: Float[np.ndarray, "group gene"]
    products: Float[np.ndarray, "group gene"]

    @classmethod
    def of(cls, data: Trajectories, chosen: Bool[np.ndarray, " observation"] | None = None) -> Groups:
        """Sums over the chosen observations, in the groups of all of them.

        Args:
            data: Cells.
            chosen: Observations that count; None for all.

        Example:
            >>> from pyro_citevae import simulate
            >>> groups = Groups.of(simulate(n_cells=60, n_genes=8, n_perturbations=2, n_steps=2).data)
            >>> len(groups.labels), groups.sums.shape, int(groups.n.sum())
            (6, (6, 8), 60)
        """
        labels, times, contexts, group = grouped(data)
        shape = (len(labels), data.schema.n_genes)
        made: dict[str, Any] = {name: np.zeros(shape) for name in ("sums", "squares", "products")}
        made |= {name: np.zeros(shape[0]) for name in ("n", "depth", "depth_squared")}
        rows = np.flatnonzero(np.ones(len(group), bool) if chosen is None else chosen)
        for first in range(0, len(rows), _CHUNK):
            part = rows[first : first + _CHUNK]
            x = data.stored[part].tocsr().astype(float)
            N = np.ones(len(part)) if data.schema.values == "real" else np.asarray(x.sum(1)).ravel()
            belongs = sparse.csr_matrix(
                (np.ones(len(part)), (group[part], np.arange(len(part)))), (shape[0], len(part))
            )
            made["n"] += np.bincount(group[part], minlength=shape[0])
            made["depth"] += belongs @ N
            made["depth_squared"] += belongs @ N**2
            made["sums"] += (belongs @ x).toarray()
            made["squares"] += (belongs @ x.multiply(x).tocsr()).toarray()
            made["products"] += (belongs @ sparse.diags(N) @ x).toarray()
        return cls(schema=data.schema, labels=labels, times=times, contexts=contexts, **made)

    def __add__(self, other: Groups) -> Groups:
        """The cells of both."""
        names = [one.name for one in fields(self)][_OF_CELLS:]
        added: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in names}
        return replace(self, **added)

    @property
    def share(self) -> Float[np.ndarray, "group gene"]:
        """R, or the mean where values are real; zero for a group without cells."""
        return np.asarray(self.sums / np.maximum(self.depth, 1e-300)[:, None])

    @property
    def level(self) -> Float[np.ndarray, "group gene"]:
        """The profile b of each group."""
        if self.schema.values == "real":
            return self.share
        return profile(self.sums, self.schema.panel_total)

    def variance(
        self, level: Float[np.ndarray, "group gene"], whole: Groups
    ) -> Float[np.ndarray, "group gene"]:
        """Sampling variance of the profiles, around expected ones; infinite for a group without cells.

        Args:
            level: Expected profiles, such as a model's.
            whole: The same groups with all of their cells, which say how scattered a gene is.
        """
        unit, slope = _expected(self.schema, level)
        of_cells = whole._of_cells(unit)
        # where few cells are, their own scatter says little beside that of all groups
        kappa = whole._relative_scatter(unit, of_cells)
        sampled = self._sampled(unit, of_cells)
        variance = slope**2 * sampled * kappa[:, None]
        variance[self.n < 1] = np.inf
        return np.asarray(variance)

    def _of_cells(self, R: Float[np.ndarray, "group gene"]) -> Float[np.ndarray, " gene"]:
        """``phi`` of each gene, or its variance ``sigma^2`` where values are real, from all groups."""
        several = self.n > 1
        own = self._scatter[several] * (self.n / np.maximum(self.n - 1, 1))[several, None]
        if self.schema.values == "real":
            return np.asarray((self._scatter[several].sum(0)) / max((self.n[several] - 1).sum(), 1.0))
        # weights between those for equal squares and those for equal relative errors
        excess = ((own - (self.share * self.depth[:, None])[several]) / R[several] ** 1.5).sum(0)
        return np.asarray(
            np.maximum(excess, 0.0)
            / np.maximum((R**0.5 * self.depth_squared[:, None])[several].sum(0), 1e-300)
        )

    @property
    def _scatter(self) -> Float[np.ndarray, "group gene"]:
        """``sum_n (x_ng - N_n R_pg)^2``."""
        R = self.share
        return np.asarray(self.squares - 2 * R * self.products + R**2 * self.depth_squared[:, None])

    def _sampled(
        self, R: Float[np.ndarray, "group gene"], of_cells: Float[np.ndarray, " gene"]
    ) -> Float[np.ndarray, "group gene"]:
        """Variance of the shares (of the means where values are real) if every group scatters alike."""
        if self.schema.values == "real":
            return np.asarray(np.maximum(of_cells, 1e-12) / np.maximum(self.n, 1.0)[:, None])
        poisson = R * self.depth[:, None]
        beyond = of_cells * R**2 * self.depth_squared[:, None]
        return np.asarray((poisson + beyond) / np.maximum(self.depth, 1.0)[:, None] ** 2)

    def _relative_scatter(
        self, R: Float[np.ndarray, "group gene"], of_cells: Float[np.ndarray, " gene"]
    ) -> Float[np.ndarray, " group"]:
        """``kappa`` of each group, drawn to 1 where cells are few."""
        n = self.n
        own = self._scatter * (n / np.maximum(n - 1, 1) / np.maximum(self.depth, 1e-300) ** 2)[:, None]
        found = np.where(n > 1, (own / self._sampled(R, of_cells)).mean(1), 1.0)
        return np.asarray((_CELLS_OF_A_PRIOR + n * found) / (_CELLS_OF_A_PRIOR + n))


def grouped(
    data: Trajectories,
) -> tuple[
    tuple[str, ...],
    Float[np.ndarray, " group"],
    Int[np.ndarray, " group"],
    Int[np.ndarray, " observation"],
]:
    """Label, time and context of each group, the control's first, and the group of each observation.

    Args:
        data: Cells.
    """
    condition = data.condition[data.row_cell]
    keys = np.stack([condition, data.row_step, data.context[data.row_cell]], 1)
    pairs, group = np.unique(keys, axis=0, return_inverse=True)
    control = data.schema.control
    labels: Sequence[str] = [data.conditions[c].label(control) for c in pairs[:, 0]]
    times = data.schema.ends(int(pairs[:, 1].max(initial=0)))[pairs[:, 1]]
    order = sorted(range(len(pairs)), key=lambda i: (labels[i] != control, labels[i], times[i], pairs[i, 2]))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return tuple(labels[i] for i in order), times[order], pairs[order, 2], rank[group.ravel()]


def _expected(
    schema: Schema, level: Float[np.ndarray, "group gene"]
) -> tuple[Float[np.ndarray, "group gene"], Float[np.ndarray, "group gene"]]:
    """The share that goes with a profile, and the slope of the profile there."""
    if schema.values == "real":
        return np.ones_like(level), np.ones_like(level)
    counts = np.maximum(np.expm1(level), _LEAST)
    return counts / schema.panel_total, schema.panel_total / (1 + counts)
