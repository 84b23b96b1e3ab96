"""How figures look: colours that the colour-blind tell apart, and axes without a frame."""

from __future__ import annotations

from matplotlib.axes import Axes

__all__ = ["COLOURS", "bare"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def bare(axis: Axes, title: str, label: str) -> None:
    """Titles an axis, labels its abscissa, and leaves out the frame."""
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(label)
    axis.spines[["top", "right"]].set_visible(False)
