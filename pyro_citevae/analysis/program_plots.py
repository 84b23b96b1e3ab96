"""Pictures of programs: their genes, what moves them, and which drives which."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from pyro_citevae.analysis.figure_style import COLOURS, bare
from pyro_citevae.errors import DataError
from pyro_citevae.infer.program_genes import sign_probability
from pyro_citevae.picture import Picture, drawn_on

__all__ = ["lag_graph", "program_genes", "program_shifts"]

_DIVERGING = "RdBu_r"


def program_genes(
    loadings: xr.DataArray, *, most: int = 3, names: dict[str, str] | None = None, ax: Axes | None = None
) -> Picture | Axes:
    """How far each program moves the genes that it moves most: a row a program, a column a gene.

    A loading whose sign is less than 90 % sure is left white.

    Args:
        loadings: Those of :meth:`~pyro_citevae.Posterior.program_genes`.
        most: Genes of each program.
        names: Names of programs by their labels, such as those of the same.
        ax: Where to draw; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.
    """
    mean = loadings.mean("draw").transpose("program", "gene")
    strongest = np.argsort(-np.abs(mean.to_numpy()), axis=1, kind="stable")[:, :most]
    columns = list(dict.fromkeys(strongest.ravel().tolist()))
    sure = sign_probability(loadings, ("draw",)).transpose("program", "gene")
    values = np.where(sure.to_numpy() >= 0.9, mean.to_numpy(), 0.0)[:, columns]
    rows = [(names or {}).get(str(one), str(one).replace("_", " ")) for one in loadings.program.values]
    size = (1.8 + 0.17 * len(columns) + 0.06 * max(map(len, rows)), 1.4 + 0.22 * len(rows))
    made, axis = drawn_on(ax, size, "how far each program moves the genes that it moves most")
    _heat(
        axis, values, rows, [str(one) for one in loadings.gene.values[columns]], str(loadings.attrs["unit"])
    )
    axis.set_xlabel("gene")
    return made


def program_shifts(
    programs: xr.DataArray, *, control: str, names: dict[str, str] | None = None, ax: Axes | None = None
) -> Picture | Axes:
    """Where each perturbation has moved each program by the last time: a row each, a column a program.

    A shift whose sign is less than 90 % sure is left white.

    Args:
        programs: Draws with dims (chain, draw, perturbation, time, program), the control among them, as
            :meth:`~pyro_citevae.Posterior.programs` returns them.
        control: Label of the control schedule.
        names: Names of programs by their labels.
        ax: Where to draw; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.
    """
    shift = (programs - programs.sel(perturbation=control)).isel(time=-1)
    shift = shift.sel(perturbation=[one for one in programs.perturbation.values if one != control])
    drawn = ("chain", "draw")
    sure = sign_probability(shift, drawn)
    values = shift.mean(drawn).where(sure >= 0.9, 0.0).transpose("perturbation", "program").to_numpy()
    columns = [(names or {}).get(str(one), str(one).replace("_", " ")) for one in programs.program.values]
    rows = [str(one) for one in shift.perturbation.values]
    size = (2.2 + 0.25 * len(columns), 1.2 + 0.2 * len(rows) + 0.06 * max(map(len, columns)))
    made, axis = drawn_on(ax, size, "how far each perturbation moves each program")
    _heat(axis, values, rows, columns, "shift against control (prior standard deviations)")
    return made


def lag_graph(
    weights: xr.DataArray,
    *,
    probability: float = 0.9,
    names: dict[str, str] | None = None,
    ax: Axes | None = None,
) -> Picture | Axes:
    """Which program moves which a step later: an arrow an edge whose sign is sure.

    Solid arrows raise, dashed ones lower; the wider, the stronger.

    Args:
        weights: Draws of W with dims (chain, draw, lag, program, source).
        probability: How sure the sign of an edge must be.
        names: Names of programs by their labels.
        ax: Where to draw; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Raises:
        DataError: There are several graphs, such as one a regime.
    """
    drawn = ("chain", "draw")
    summed = weights.sum("lag") if "lag" in weights.dims else weights
    more = [str(dim) for dim in summed.dims if dim not in (*drawn, "program", "source")]
    if more:
        raise DataError(
            f"lag_graph(weights) has a graph for each {more[0]}; pick one, as in weights.isel({more[0]}=0)."
        )
    sure = sign_probability(summed, drawn).transpose("program", "source").to_numpy()
    mean = summed.mean(drawn).transpose("program", "source").to_numpy()
    K = len(mean)
    edges = [
        (k, j) for k in range(K) for j in range(K) if k != j and sure[k, j] >= probability and mean[k, j] != 0
    ]
    made, axis = drawn_on(ax, (5.6, 5.2), "arrows between programs, one for each edge whose sign is sure")
    angle = np.pi / 2 - 2 * np.pi * np.arange(K) / K
    where = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    largest = max((abs(mean[k, j]) for k, j in edges), default=1.0)
    for k, j in edges:
        raises = mean[k, j] > 0
        axis.annotate(
            "", where[k], where[j],
            arrowprops={
                "arrowstyle": "-|>", "color": COLOURS[1] if raises else COLOURS[0],
                "ls": "-" if raises else "--", "lw": 0.5 + 2.5 * abs(mean[k, j]) / largest,
                "shrinkA": 12, "shrinkB": 12, "connectionstyle": "arc3,rad=0.12",
            },
        )  # fmt: skip
    for k, (x, y) in enumerate(where):
        label = str(weights.program.values[k])
        axis.text(x, y, label.rpartition("_")[2], ha="center", va="center", fontsize=8,
                  bbox={"boxstyle": "circle", "fc": "white", "ec": "0.4", "lw": 0.8})  # fmt: skip
        if names and label in names:
            axis.text(1.22 * x, 1.18 * y, names[label], ha="center", va="center", fontsize=6, wrap=True)
    for colour, style, said in ((COLOURS[1], "-", "raises"), (COLOURS[0], "--", "lowers")):
        axis.plot([], [], color=colour, ls=style, label=said)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    axis.set(xlim=(-1.5, 1.5), ylim=(-1.35, 1.35), aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    bare(axis, f"{len(edges)} edges between programs, sign at least {probability:.0%} sure", "")
    axis.spines[:].set_visible(False)
    return made


def _heat(axis: Axes, values: np.ndarray, rows: list[str], columns: list[str], unit: str) -> None:
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    shown = axis.imshow(
        values, cmap=_DIVERGING, vmin=-largest, vmax=largest, aspect="auto", interpolation="none"
    )
    axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axis.set_yticks(range(len(rows)), rows, fontsize=7)
    axis.spines[:].set_visible(False)
    axis.figure.colorbar(shown, ax=axis, label=unit, shrink=0.8)
