"""Names beside points: apart from each other, within the panel, and left out where there is no room."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox, BboxBase

__all__ = ["place_names"]

_FONT = 7
_GAP = 1.5  # pixels around a name
_RADIUS = 3.0  # pixels of a dot
_SHALLOW = (1.3, 1.0)  # a line to the side is as bad as one so much longer upwards
_NEAREST = 0.5  # of a name's size, between a point and the middle of its name
_ACROSS = tuple(np.linspace(-2.0, 2.0, 17))  # where names are tried, in their own width from the point
_ABOVE = tuple(np.linspace(-7.0, 7.0, 29))  # and in their own height
_COVERED = 40.0  # pixels that a name goes farther rather than cover a point


def place_names(
    axis: Axes,
    points: Float[np.ndarray, "named 2"],
    names: Sequence[str],
    others: Float[np.ndarray, "dot 2"],
) -> None:
    """Names points one after the other, each in the nearest place that is free.

    A line leads from a point to its name. No name touches another or the legend, leaves the panel, or covers
    a point, but for the first, which covers as few as can be. A name without such a place is left out.

    Call it when all else is drawn: places are in pixels, which the layout of the figure settles.

    Args:
        axis: The panel.
        points: Where the named points are, the most important first.
        names: Their names.
        others: Where all points are, the named ones among them.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axis = Figure().subplots()
        >>> place_names(axis, np.full((2, 2), 0.5), ["A", "B"], np.full((2, 2), 0.5))
        >>> [text.get_text() for text in axis.texts]
        ['A', 'B']
    """
    axis.figure.canvas.figure.draw_without_rendering()
    dots = axis.transData.transform(others)
    legend = axis.get_legend()
    taken: list[Bbox] = [] if legend is None else [Bbox(legend.get_window_extent().get_points())]
    for place, (point, name) in enumerate(zip(axis.transData.transform(points), names, strict=True)):
        where = _place(point, _size(axis, name), axis.bbox, dots, taken, bool(place))
        if where is None:
            continue
        taken.append(where)
        middle = where.get_points().mean(0)
        dots = np.concatenate([dots, _between(point, middle)])  # which the next should not cover
        note = axis.annotate(
            name, (points[place, 0], points[place, 1]),
            xytext=tuple((middle - point) * 72 / axis.figure.dpi), textcoords="offset points",
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
    may_not_cover: bool,
) -> Bbox | None:
    """The nearest box of a size inside the panel that, with the line to it, touches no box and no dot.

    Where it may cover dots, it touches as few as can be.
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
        if touched and may_not_cover:
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
