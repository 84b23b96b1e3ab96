"""Pictures of coverage: over nominal probabilities, by perturbation or gene, and by size of the effect."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from pyro_citevae.analysis.figure_style import MOST_STROKES, bare, legend, shortened, stroke
from pyro_citevae.errors import DataError
from pyro_citevae.picture import Drawn, Given, drawn_on

__all__ = ["calibration", "coverage"]

_MOST_INTERVALS = 4


def calibration(covered: xr.Dataset, *, unit: str = "", ax: Given = None) -> Drawn:
    """Actual against nominal coverage, and the intervals' mean width (sharpness).

    Args:
        covered: What :func:`~pyro_citevae.analysis.coverage` returned; a line for each value of a kept dim.
        unit: Unit of the width.
        ax: Where to draw, an axis for the coverage and one for the width; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given. Beyond 36 lines they are grey, and not named.

    Raises:
        DataError: There are not two axes.

    Example:
        >>> found = xr.Dataset(
        ...     {"coverage": ("probability", [0.4, 0.9]), "width": ("probability", [1.0, 3.0])},
        ...     coords={"probability": [0.5, 0.9]},
        ... )
        >>> calibration(found, unit="log fold change").axes[1].get_ylabel()
        'mean width (log fold change)'
    """
    others = [dim for dim in covered.coverage.dims if dim != "probability"]
    flat = covered.stack(line=others) if others else covered.expand_dims("line")
    n_lines = flat.sizes["line"]
    told = n_lines <= MOST_STROKES
    made, (left, right) = drawn_on(
        "calibration", ax, (7.4, max(3.3, 0.8 + 0.2 * (n_lines if told else 0))),
        "share of values inside intervals by nominal probability, and the width of the intervals", panels=2,
    )  # fmt: skip
    left.plot([0, 1], [0, 1], color="0.6", lw=0.8, zorder=0, label="calibrated")
    nominal = covered.probability.to_numpy()
    for i in range(n_lines):
        one = flat.isel(line=i)
        label = shortened(", ".join(f"{dim} {one[dim].item()}" for dim in others) or "measured")
        look = {**stroke(i), "ms": 3.5, "label": label} if told else {"color": "0.6"}
        left.plot(nominal, one.coverage, lw=1.2, **look)
        right.plot(nominal, one.width, lw=1.2, **look)
    left.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of values inside")
    right.set(xlim=(0, 1), ylim=(0, None), ylabel=f"mean width ({unit})" if unit else "mean width")
    bare(left, "coverage", "nominal probability")
    bare(right, "sharpness", "nominal probability")
    legend(made, left)
    return made


def coverage(
    covered: xr.Dataset, *, strength: xr.DataArray | None = None, bins: int = 8, ax: Given = None
) -> Drawn:
    """Share of values inside intervals, by perturbation or gene, or by the size of what was measured.

    With a strength, values are dealt into bins of about equal number, the weakest first; each bin is drawn at
    its median strength. A measured size is partly noise: of values that were measured large, fewer are
    covered than of all, even by calibrated intervals.

    Args:
        covered: What :func:`~pyro_citevae.analysis.coverage` returned for at most four probabilities:
            ``by=["perturbation"]`` for a row a perturbation, or with a strength
            ``by=["perturbation", "gene"]`` or the like.
        strength: Size of each value, such as ``abs(measured["effect"])``, with the dims that were kept.
        bins: Number of bins.
        ax: Where to draw; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Raises:
        DataError: There are more than four probabilities, or no dim was kept.

    Example:
        >>> found = xr.Dataset({"coverage": ("gene", [0.7, 0.9])}, {"gene": ["A", "B"], "probability": 0.8})
        >>> [label.get_text() for label in coverage(found).axes[0].get_yticklabels()]
        ['A', 'B']
        >>> coverage(found, strength=found.coverage, bins=2).axes[0].get_xlabel()
        'size of the measured effect, median of the bin'
    """
    share = covered.coverage
    if "probability" not in share.dims:
        share = share.expand_dims("probability")
    kept = [dim for dim in share.dims if dim != "probability"]
    if share.sizes["probability"] > _MOST_INTERVALS or not kept:
        raise DataError(
            f"plots.coverage(covered) has {share.sizes['probability']} probabilities and keeps {len(kept)} "
            f"dims; give 1 to {_MOST_INTERVALS} and a dim or more, as in coverage(..., probability=0.8, "
            "by=['perturbation'])."
        )
    flat = share.stack(value=kept)
    flat = flat.isel(value=np.flatnonzero(flat.notnull().all("probability")))
    if strength is None:
        return _by_value(flat, ax)
    size = strength.stack(value=kept).sel(value=flat["value"]).to_numpy()
    return _by_strength(flat, size, bins, ax)


def _by_value(share: xr.DataArray, ax: Given) -> Drawn:
    """A row for each value of the dims that were kept, the least covered below."""
    share = share.sortby(share.isel(probability=-1), ascending=True)
    kept = [name for name in share.indexes["value"].names if name != "value"]
    rows = [
        shortened(", ".join(str(one[name].item()) for name in kept)) for one in share.transpose("value", ...)
    ]
    said = f"share of values inside intervals, for each of {len(rows)} {' and '.join(map(str, kept))}s"
    made, (axis,) = drawn_on("coverage", ax, (6.4, 1.2 + 0.2 * len(rows)), said)
    place = np.arange(len(rows))
    for i, one in enumerate(share.transpose("probability", "value")):
        look, nominal = stroke(i), float(one.probability)
        axis.axvline(nominal, color=look["color"], ls=look["ls"], lw=0.8, zorder=0)
        axis.plot(one, place, ls="", ms=5, color=look["color"], marker=look["marker"], label=_named(nominal))
    axis.set_yticks(place, rows, fontsize=7)
    axis.set(xlim=(-0.02, 1.02))
    _finish(made, axis, "share of values inside (line: nominal)")
    return made


def _by_strength(share: xr.DataArray, size: np.ndarray, bins: int, ax: Given) -> Drawn:
    """A line for each probability over bins of about equal number."""
    said = f"share of values inside intervals, in {bins} bins by the size of the measured effect"
    made, (axis,) = drawn_on("coverage", ax, (6.0, 3.4), said)
    parts = [part for part in np.array_split(np.argsort(size, kind="stable"), bins) if len(part)]
    middle = [float(np.median(size[part])) for part in parts]
    for i, one in enumerate(share.transpose("probability", "value")):
        look, nominal = stroke(i), float(one.probability)
        axis.axhline(nominal, color=look["color"], ls=look["ls"], lw=0.8, zorder=0)
        inside = [float(one[part].mean()) for part in parts]
        axis.plot(middle, inside, ms=5, lw=1.2, label=_named(nominal), **look)
    axis.set(ylim=(-0.02, 1.02), ylabel="share of values inside\n(line: nominal)")
    _finish(made, axis, "size of the measured effect, median of the bin")
    return made


def _finish(made: Drawn, axis: Axes, label: str) -> None:
    bare(axis, "coverage", label)
    legend(made, axis)


def _named(nominal: float) -> str:
    return f"{100 * nominal:g} % interval"
