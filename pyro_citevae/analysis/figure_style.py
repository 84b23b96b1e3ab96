"""How figures look: lines told apart with and without colour, axes without a frame, names of a length."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_citevae.picture import verbatim

__all__ = ["COLOURS", "INTERVAL", "MOST_STROKES", "bare", "legend", "shortened", "stroke", "with_unit"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
INTERVAL = "80 % interval"

_STYLES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

MOST_STROKES = len(_STYLES) * len(_MARKERS)  # that differ in grey: no factor is common to the two numbers


def stroke(i: int) -> dict[str, Any]:
    """Colour, line style and marker of the i-th line, which no other of 36 shares, even in grey.

    Args:
        i: Number of the line.

    Example:
        >>> len({(one["ls"], one["marker"]) for one in map(stroke, range(36))})
        36
    """
    return {
        "color": COLOURS[i % len(COLOURS)],
        "ls": _STYLES[i % len(_STYLES)],
        "marker": _MARKERS[i % len(_MARKERS)],
    }


def bare(axis: Axes, title: str, label: str) -> None:
    """Titles an axis, labels its abscissa, and leaves out the frame."""
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(label)
    axis.spines[["top", "right"]].set_visible(False)


def legend(made: Any, axis: Axes, place: str = "outside right center", **options: Any) -> None:
    """What the lines of an axis mean: beside the panels of a figure that was made, else on the axis.

    Args:
        made: The figure, or the axes that the caller gave.
        axis: The axis whose lines have labels.
        place: Where in the figure.
        **options: Of the legend.
    """
    look: dict[str, Any] = {"frameon": False, "fontsize": 8, **options}
    if isinstance(made, Figure):
        handles, labels = axis.get_legend_handles_labels()
        made.legend(handles, labels, **{"loc": place, **look})
    else:
        axis.legend(**look)


def shortened(name: object, most: int = 28) -> str:
    """A name of a length that leaves room for the picture; its middle gives way.

    Args:
        name: The name.
        most: Number of its letters.

    Example:
        >>> shortened("non-targeting control of the second library", 20)
        'non-target…d library'
    """
    text = str(name)
    kept = most - 1
    return verbatim(
        text if len(text) <= most else f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    )


def with_unit(label: str, unit: str) -> str:
    """A label with its unit in brackets, a word for one thing in the plural.

    Args:
        label: What the axis shows.
        unit: Its unit; empty for none.

    Example:
        >>> with_unit("time", "day"), with_unit("time", "h"), with_unit("time", "")
        ('time (days)', 'time (h)', 'time')
    """
    if not unit:
        return label
    return f"{label} ({unit}{'s' if len(unit) > 2 and not unit.endswith('s') else ''})"
