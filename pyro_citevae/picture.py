"""Figures that a notebook shows by themselves, with a text for those who cannot see them."""

from __future__ import annotations

from io import BytesIO
from typing import Any, final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["Picture", "drawn_on"]


@final
class Picture(Figure):
    r"""A figure that a notebook shows without a magic command, and without pyplot.

    Args:
        *given: As of :class:`matplotlib.figure.Figure`.
        alt: What the picture shows, in a sentence, for readers who cannot see it.
        **options: As of :class:`matplotlib.figure.Figure`.

    Example:
        >>> picture = Picture(figsize=(2, 1), alt="a point")
        >>> _ = picture.subplots().plot([0], [0], "o")
        >>> data, described = picture._repr_png_()
        >>> data[:4], described["alt"]
        (b'\x89PNG', 'a point')
    """

    def __init__(self, *given: Any, alt: str = "", **options: Any) -> None:
        super().__init__(*given, **options)
        self.alt = alt

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        """What a notebook asks for."""
        kept = BytesIO()
        self.savefig(kept, format="png", dpi=110)
        return kept.getvalue(), {"alt": self.alt}


def drawn_on(ax: Axes | None, size: tuple[float, float], alt: str) -> tuple[Picture | Axes, Axes]:
    """What a picture's function returns, and the axis that it draws on.

    Args:
        ax: The axis that the caller gave, if any; then it is returned as well.
        size: Width and height in inches of a figure that is made otherwise.
        alt: What that figure shows, in a sentence.
    """
    if ax is not None:
        return ax, ax
    made = Picture(figsize=size, layout="constrained", alt=alt)
    return made, made.subplots()
