"""Pictures of programs: how they move, their genes, what moves them, and which drives which."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from pyro_citevae.analysis.figure_style import COLOURS, INTERVAL, bare, legend, shortened, stroke, with_unit
from pyro_citevae.errors import DataError, few
from pyro_citevae.infer.program_genes import sign_probability
from pyro_citevae.picture import Drawn, Given, drawn_on

__all__ = ["lag_graph", "program_genes", "program_shifts", "trajectories"]

_DRAWN = ("chain", "draw")
_SHIFT = "shift against control (prior standard deviations)"
_DIVERGING = "RdBu_r"
_SURE = 0.9  # of a sign, for a cell of a heat map to have a colour


def trajectories(
    programs: xr.DataArray,
    *,
    control: str,
    observed_until: float | None = None,
    unit: str = "",
    most: int = 4,
    names: Mapping[str, str] | None = None,
    ax: Given = None,
) -> Drawn:
    """Median program states over time under each schedule, less the control's, with 80 % intervals.

    Args:
        programs: Draws with dims (chain, draw, perturbation, time, program), the control among them, as
            :meth:`~pyro_citevae.Posterior.programs` returns them.
        control: Label of the control schedule.
        observed_until: Last training time; what lies after it is shaded as forecast.
        unit: Unit of time; by default the attribute ``time_unit`` of the draws.
        most: Number of programs shown: those that the schedules move most.
        names: Names of programs by their labels; by default the coordinate ``top_genes`` of the draws.
        ax: Where to draw, an axis a program; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Raises:
        DataError: The axes are not as many as the programs that are shown, or the control is not among the
            schedules.

    Example:
        >>> walk = xr.DataArray(
        ...     np.arange(30.0).reshape(1, 5, 2, 3, 1),
        ...     dims=("chain", "draw", "perturbation", "time", "program"),
        ...     coords={"perturbation": ["control", "MYC"], "time": [0, 1, 2], "program": ["program_0"]},
        ... )
        >>> picture = trajectories(walk, control="control", unit="day", names={"program_0": "TP53, MDM2"})
        >>> picture.axes[0].get_title(), picture.axes[0].get_xlabel()
        ('program 0: TP53, MDM2', 'time (days)')
    """
    shift = programs - _control(programs, control)
    strength = xr.DataArray(abs(shift.mean(_DRAWN))).max(("perturbation", "time")).to_numpy()
    chosen = shift.isel(program=np.argsort(-strength, kind="stable")[:most])
    labels = [name for name in programs.perturbation.to_numpy() if name != control]
    titles = _headings(chosen, names)
    made, axes = drawn_on(
        "trajectories", ax, (3.1 * len(titles) + 0.4, max(3.4, 0.8 + 0.2 * len(labels))),
        f"{'; '.join(titles)}: shift against {control} over time under {', '.join(map(str, labels))}",
        panels=len(titles), sharey=True,
    )  # fmt: skip
    time = programs.time.to_numpy()
    when = with_unit("time", unit or str(programs.attrs.get("time_unit", "")))
    for k, axis in enumerate(axes):
        for i, label in enumerate(labels):
            drawn = chosen.isel(program=k).sel(perturbation=label)
            lower, middle, upper = drawn.quantile([0.1, 0.5, 0.9], dim=_DRAWN).to_numpy()
            axis.plot(time, middle, label=shortened(label, 20), lw=1.5, ms=4, **stroke(i))
            axis.fill_between(time, lower, upper, color=COLOURS[i % len(COLOURS)], alpha=0.15, lw=0)
        if observed_until is not None and observed_until < time[-1]:
            axis.axvspan(
                observed_until, time[-1], color="0.93", zorder=0, label="forecast" if k == 0 else None
            )
        bare(axis, textwrap.fill(titles[k], 30), when)
    axes[0].fill_between([], [], [], color="0.5", alpha=0.3, lw=0, label=INTERVAL)
    axes[0].set_ylabel(_SHIFT.replace(" (", "\n("))
    legend(made, axes[0])
    return made


def _control(programs: xr.DataArray, control: str) -> xr.DataArray:
    """Draws of the control schedule.

    Raises:
        DataError: It is not among the schedules.
    """
    labels = [str(one) for one in programs.perturbation.to_numpy()]
    if control not in labels:
        raise DataError(
            f"control={control!r} is not among the schedules, which are {few(labels)}; name that of the "
            "controls, which posterior.programs([do(), ...]) has."
        )
    return programs.sel(perturbation=control)


def program_genes(
    loadings: xr.DataArray, *, most: int = 3, names: Mapping[str, str] | None = None, ax: Given = None
) -> Drawn:
    """How far each program moves the genes that it moves most: a row a program, a column a gene.

    A loading whose sign is less than 90 % sure is left white; a dash marks a gene that the program lowers.

    Args:
        loadings: Those of :meth:`~pyro_citevae.Posterior.program_genes`.
        most: Genes of each program.
        names: Names of programs by their labels, such as those of the same; by default the strongest genes.
        ax: Where to draw; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Example:
        >>> found = xr.DataArray(
        ...     np.ones((4, 1, 2)), dims=("draw", "program", "gene"), attrs={"unit": "log mean count"},
        ...     coords={"program": ["program_0"], "gene": ["MYC", "TP53"], "top_genes": ("program", ["MYC"])},
        ... )
        >>> [label.get_text() for label in program_genes(found).axes[0].get_yticklabels()]
        ['program 0: MYC']
    """
    mean = loadings.mean("draw").transpose("program", "gene")
    strongest = np.argsort(-np.abs(mean.to_numpy()), axis=1, kind="stable")[:, :most]
    columns = list(dict.fromkeys(strongest.ravel().tolist()))
    sure = sign_probability(loadings, ("draw",)).transpose("program", "gene")
    values = np.where(sure.to_numpy() >= _SURE, mean.to_numpy(), 0.0)[:, columns]
    rows = _headings(loadings, names)
    genes = [shortened(one) for one in loadings.gene.values[columns]]
    size = (1.8 + 0.17 * len(columns) + 0.06 * max(map(len, rows)), 1.9 + 0.22 * len(rows))
    said = f"how far each of {len(rows)} programs moves the genes that it moves most"
    made, (axis,) = drawn_on("program_genes", ax, size, said)
    _heat(axis, values, rows, genes, str(loadings.attrs["unit"]))
    axis.set_xlabel("gene")
    return made


def program_shifts(
    programs: xr.DataArray, *, control: str, names: Mapping[str, str] | None = None, ax: Given = None
) -> Drawn:
    """Where each perturbation has moved each program by the last time: a row each, a column a program.

    A shift whose sign is less than 90 % sure is left white; a dash marks a program that is lowered.

    Args:
        programs: Draws with dims (chain, draw, perturbation, time, program), the control among them, as
            :meth:`~pyro_citevae.Posterior.programs` returns them.
        control: Label of the control schedule.
        names: Names of programs by their labels; by default the coordinate ``top_genes`` of the draws.
        ax: Where to draw; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Raises:
        DataError: The control is not among the schedules.

    Example:
        >>> walk = xr.DataArray(
        ...     np.arange(30.0).reshape(1, 5, 2, 3, 1),
        ...     dims=("chain", "draw", "perturbation", "time", "program"),
        ...     coords={"perturbation": ["control", "MYC"], "time": [0, 1, 2], "program": ["program_0"]},
        ... )
        >>> [label.get_text() for label in program_shifts(walk, control="control").axes[0].get_yticklabels()]
        ['MYC']
    """
    shift = (programs - _control(programs, control)).isel(time=-1)
    shift = shift.sel(perturbation=[one for one in programs.perturbation.values if one != control])
    sure = sign_probability(shift, _DRAWN)
    values = shift.mean(_DRAWN).where(sure >= _SURE, 0.0).transpose("perturbation", "program").to_numpy()
    columns = _headings(programs, names)
    rows = [shortened(one) for one in shift.perturbation.values]
    size = (2.6 + 0.25 * len(columns), max(2.4, 0.8 + 0.2 * len(rows)) + 0.4 + 0.06 * max(map(len, columns)))
    said = f"how far each of {len(rows)} perturbations moves each of {len(columns)} programs"
    made, (axis,) = drawn_on("program_shifts", ax, size, said)
    _heat(axis, values, rows, columns, _SHIFT)
    return made


def lag_graph(
    weights: xr.DataArray,
    *,
    probability: float = 0.9,
    names: Mapping[str, str] | None = None,
    ax: Given = None,
) -> Drawn:
    """Which program moves which a step later: an arrow an edge whose sign is sure.

    Solid arrows raise, dashed ones lower; the wider, the stronger. A legend says what each program is.

    Args:
        weights: Draws of W with dims (chain, draw, lag, program, source).
        probability: How sure the sign of an edge must be.
        names: Names of programs by their labels; by default the coordinate ``top_genes`` of the draws.
        ax: Where to draw; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Raises:
        DataError: There are several graphs, such as one a regime.

    Example:
        >>> programs = ["program_0", "program_1"]
        >>> W = xr.DataArray(
        ...     np.broadcast_to([[0, 1], [0, 0]], (1, 9, 1, 2, 2)), coords={"program": programs},
        ...     dims=("chain", "draw", "lag", "program", "source"),
        ... )
        >>> lag_graph(W).axes[0].get_title()
        'edges with a sign at least 90 % sure: 1'
    """
    summed = weights.sum("lag") if "lag" in weights.dims else weights
    more = [str(dim) for dim in summed.dims if dim not in (*_DRAWN, "program", "source")]
    if more:
        raise DataError(
            f"lag_graph(weights) has a graph for each {more[0]}; pick one, as in weights.isel({more[0]}=0)."
        )
    sure = sign_probability(summed, _DRAWN).transpose("program", "source").to_numpy()
    mean = summed.mean(_DRAWN).transpose("program", "source").to_numpy()
    K = len(mean)
    edges = [
        (k, j) for k in range(K) for j in range(K) if k != j and sure[k, j] >= probability and mean[k, j] != 0
    ]
    side = max(4.4, 0.2 * K + 1.0)
    said = f"a circle of {K} programs, and {len(edges)} arrows between them, for edges whose sign is sure"
    headings = _headings(weights, names)
    made, (axis,) = drawn_on("lag_graph", ax, (side + 0.8 + 0.06 * max(map(len, headings)), side), said)
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
    for label, (x, y) in zip(weights.program.values, where, strict=True):
        axis.text(x, y, str(label).rpartition("_")[2], ha="center", va="center", fontsize=8,
                  bbox={"boxstyle": "circle", "fc": "white", "ec": "0.4", "lw": 0.8})  # fmt: skip
    for colour, style, said in ((COLOURS[1], "-", "raises"), (COLOURS[0], "--", "lowers")):
        axis.plot([], [], color=colour, ls=style, label=said)
    for heading in headings:
        axis.plot([], [], ls="", label=heading)
    if ax is None:
        legend(made, axis, fontsize=7)
    else:
        axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", xticks=[], yticks=[])
    bare(axis, f"edges with a sign at least {100 * probability:g} % sure: {len(edges)}", "")
    axis.spines[:].set_visible(False)
    return made


def _headings(values: xr.DataArray, names: Mapping[str, str] | None) -> list[str]:
    """What each program is called: its number, and its name or else its strongest genes."""
    labels = [str(one) for one in values.program.values]
    if names is None and "top_genes" in values.coords and values.top_genes.dims == ("program",):
        names = dict(zip(labels, map(str, values.top_genes.values), strict=True))
    called = [(label.replace("_", " "), (names or {}).get(label)) for label in labels]
    return [shortened(f"{number}: {name}" if name else number, 48) for number, name in called]


def _heat(axis: Axes, values: np.ndarray, rows: list[str], columns: list[str], unit: str) -> None:
    """Colours of a matrix, white for zero, with a dash on what is negative for those who see no colour."""
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    shown = axis.imshow(
        values, cmap=_DIVERGING, vmin=-largest, vmax=largest, aspect="auto", interpolation="none"
    )
    row, column = np.nonzero(values < 0)
    dark = np.abs(values[row, column]) > largest / 2
    axis.scatter(column, row, marker="_", s=14, lw=0.8, c=np.where(dark, "white", "0.3"))
    axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axis.set_yticks(range(len(rows)), rows, fontsize=7)
    axis.spines[:].set_visible(False)
    axis.figure.colorbar(shown, ax=axis, label=unit.replace(" (", "\n("), shrink=0.8)
