"""The volcano plot: how large the effect on each gene is, and how sure its sign."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox, BboxBase

from pyro_citevae.picture import Picture

__all__ = ["volcano"]

_HIGHER, _LOWER, _WITHIN = "#d55e00", "#0072b2", "0.75"  # told apart by the colour-blind
_DASHED: dict[str, Any] = {"color": "0.5", "lw": 0.7, "ls": "--", "zorder": 0}
_FONT = 7
_ROOM = 1.4  # for names above the points with the least rate
_GAP = 1.0  # pixels around a name
_RADIUS = 3.0  # pixels of a dot
_SHALLOW = (1.3, 1.0)  # a line to the side is as bad as one so much longer upwards
_NEAREST = 0.5  # of a name's size, between a point and the middle of its name
_ACROSS = tuple(np.linspace(-2.0, 2.0, 17))  # where names are tried, in their own width from the point
_ABOVE = tuple(np.linspace(-7.0, 7.0, 29))  # and in their own height
_COVERED = 40.0  # pixels that a name goes farther rather than cover a point


def volcano(
    table: pd.DataFrame,
    *,
    n_draws: int,
    threshold: float,
    tail: float,
    unit: str,
    when: str,
    most_named: int,
) -> Picture:
    """A panel a perturbation: mean effects against ``-log10`` of the local false sign rate.

    Args:
        table: Rows of one time, as :meth:`~pyro_citevae.infer.effect.Effect.table` has them.
        n_draws: Number of draws, whose inverse is the least rate that is shown.
        threshold: Size of effects at the vertical lines.
        tail: Rate at the horizontal line.
        unit: Unit of effects.
        when: The time, for the titles.
        most_named: How many genes are named at most.
    """
    panels = list(table.groupby("perturbation", sort=False))
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Picture(
        figsize=(1.0 + 3.6 * columns, 0.6 + 3.2 * rows),
        layout="constrained",
        alt="mean effect of each gene against its local false sign rate",
    )
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    points = []
    for axis, (label, genes) in zip(axes, panels, strict=False):
        points.append(_panel(axis, genes, n_draws, threshold, tail))
        axis.set_title(f"{label}, {when}", fontsize=10)
        axis.set_xlabel(f"mean effect ({unit})" if unit else "mean effect")
    for axis in axes[::columns]:
        axis.set_ylabel(f"-log$_{{10}}$ local false sign rate\n(floor: 1 / {n_draws} draws)")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for colour, said in ((_HIGHER, "higher"), (_LOWER, "lower"), (_WITHIN, "not beyond both lines")):
        axes[0].scatter([], [], c=colour, s=14, label=said)
    axes[0].plot([], [], **{**_DASHED, "label": f"|effect| = {threshold:g}, rate = {tail:.3g}"})
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2 if columns == 1 else 4,
        frameon=False,
        fontsize=8,
    )
    figure.draw_without_rendering()  # names are placed in pixels, which the layout settles
    for axis, shown in zip(axes, points, strict=False):
        _name(axis, shown, most_named)
    return figure


def _panel(axis: Axes, genes: pd.DataFrame, n_draws: int, threshold: float, tail: float) -> pd.DataFrame:
    """Draws the points and the lines of a panel; returns the points, and which lie beyond both lines."""
    rate = genes["lfsr"].clip(lower=1 / n_draws)
    beyond = (genes["mean"].abs() > threshold) & (rate <= tail)
    points = pd.DataFrame(
        {"gene": genes["gene"], "x": genes["mean"], "y": -np.log10(rate), "beyond": beyond}
    ).sort_values("beyond", kind="stable")  # so that the coloured ones are drawn on top
    colour = np.where(points["beyond"], np.where(points["x"] > 0, _HIGHER, _LOWER), _WITHIN)
    axis.scatter(points["x"], points["y"], c=colour, s=14, lw=0)
    for x in {-threshold, threshold}:
        axis.axvline(x, **_DASHED)
    axis.axhline(-np.log10(tail), **_DASHED)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.15)
    axis.set_ylim(-0.05, _ROOM * max(np.log10(n_draws), -np.log10(tail)))
    return points


def _name(axis: Axes, points: pd.DataFrame, most: int) -> None:
    """Names the genes with the largest means beyond both lines, one after the other."""
    dots = axis.transData.transform(points[["x", "y"]].to_numpy())
    order = np.argsort(-points["x"].abs().to_numpy(), kind="stable")
    taken: list[Bbox] = []
    for g in order[points["beyond"].to_numpy()[order]][:most]:
        gene = str(points["gene"].iloc[g])
        where = _place(dots[g], _size(axis, gene), axis.bbox, dots, taken)
        if where is None:
            continue
        taken.append(where)
        middle = where.get_points().mean(0)
        dots = np.concatenate([dots, _between(dots[g], middle)])  # which the next should not cover
        note = axis.annotate(
            gene, (points["x"].iloc[g], points["y"].iloc[g]),
            xytext=tuple((middle - dots[g]) * 72 / axis.figure.dpi), textcoords="offset points",
            fontsize=_FONT, ha="center", va="center",
            arrowprops={"arrowstyle": "-", "color": "0.5", "lw": 0.5, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip
        note.set_in_layout(False)


def _size(axis: Axes, name: str) -> Float[np.ndarray, " 2"]:
    """Width and height of a name in pixels, with the gap around it."""
    text = axis.text(0, 0, name, fontsize=_FONT)
    box = text.get_window_extent()
    text.remove()
    return np.array([box.width, box.height]) + 2 * _GAP


def _place(
    point: Float[np.ndarray, " 2"],
    size: Float[np.ndarray, " 2"],
    panel: BboxBase,
    dots: Float[np.ndarray, "dot 2"],
    taken: Sequence[Bbox],
) -> Bbox | None:
    """The nearest box of a size inside the panel that, with the line to it, touches no box and no dot.

    The first box may touch dots, but as few as can be: the largest effect is always named.
    """
    best, least = None, np.inf
    offsets = size * np.array([one for one in product(_ACROSS, _ABOVE) if max(map(abs, one)) >= _NEAREST])
    lengths = np.hypot(*(offsets * _SHALLOW).T)
    dots = dots[(np.abs(dots - point) < np.abs(offsets).max(0) + size).all(1)]
    others = dots[np.hypot(*(dots - point).T) > 2 * _RADIUS]  # a line cannot but touch what lies on its point
    for i in np.argsort(lengths, kind="stable"):
        if lengths[i] >= least:
            break
        middle = point + offsets[i]
        edge = middle - offsets[i] / (2 * np.abs(offsets[i] / size).max())
        box = Bbox([middle - size / 2, middle + size / 2])
        inside = panel.x0 <= box.x0 and box.x1 <= panel.x1 and panel.y0 <= box.y0 and box.y1 <= panel.y1
        if not inside or box.count_overlaps(taken):
            continue
        if any(_within(one, _between(point, edge)) for one in taken):
            continue
        touched = _within(box, dots) + _along(point, edge, others)
        if touched and taken:
            continue
        cost = float(lengths[i]) + _COVERED * touched
        if cost < least:
            best, least = box, cost
    return best


def _between(start: Float[np.ndarray, " 2"], end: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "dot 2"]:
    """Dots along the line that leads from a point to its name."""
    return start + np.linspace(0.1, 1.0, 10)[:, None] * (end - start)


def _within(box: Bbox, dots: Float[np.ndarray, "dot 2"]) -> int:
    """How many dots a box touches."""
    lower, upper = box.padded(_RADIUS).get_points()
    return int(((dots > lower) & (dots < upper)).all(1).sum())


def _along(
    start: Float[np.ndarray, " 2"], end: Float[np.ndarray, " 2"], dots: Float[np.ndarray, "dot 2"]
) -> int:
    """How many dots the line between two points touches."""
    line = end - start
    share = np.clip((dots - start) @ line / max(line @ line, 1e-9), 0.0, 1.0)
    return int((np.hypot(*(start + share[:, None] * line - dots).T) < _RADIUS).sum())
