"""Figures that a notebook shows by themselves, with a text for those who cannot see them."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, TypeAlias, final

import numpy as np
from jaxtyping import Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_citevae.errors import DataError

__all__ = ["Drawn", "Given", "Picture", "drawn_on", "verbatim"]

Given: TypeAlias = Axes | Sequence[Axes] | Shaped[np.ndarray, "..."] | None
Drawn: TypeAlias = Any  # the Picture, or what was given as ax: which of them, a type checker cannot tell


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


def verbatim(name: object) -> str:
    r"""A name as a picture shows it letter by letter: what stands between two dollars is no formula.

    Args:
        name: Name of a gene or a perturbation.

    Example:
        >>> print(verbatim("a$b$"))
        a\$b\$
    """
    return str(name).replace("$", r"\$")


def drawn_on(
    said: str,
    ax: Given,
    size: tuple[float, float],
    alt: str,
    *,
    panels: int = 1,
    columns: int | None = None,
    **grid: Any,
) -> tuple[Drawn, list[Axes]]:
    """What a picture's function returns, and the axis of each of its panels.

    Args:
        said: Name of the picture's function, for the error.
        ax: An axis for each panel, or the axis of the only one, that the caller gave; it is returned as it
            is. None for a figure that is made.
        size: Width and height of that figure in inches.
        alt: What that figure shows, in a sentence.
        panels: Number of panels.
        columns: Panels side by side; None for all of them.
        **grid: Further arguments of :meth:`matplotlib.figure.Figure.subplots`.

    Raises:
        DataError: There are more axes than panels, or fewer.
    """
    if ax is not None:
        axes = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
        if len(axes) != panels:
            raise DataError(
                f"plots.{said}(ax=...) has {len(axes)} axes, and the picture has {panels} "
                f"panel{'s' * (panels != 1)}; give one a panel, as in figure.subplots(1, {panels})."
            )
        return ax, axes
    made = Picture(figsize=size, layout="constrained", alt=alt)
    columns = columns or panels
    places = made.subplots(-(-panels // columns), columns, squeeze=False, **grid).ravel()
    for axis in places[panels:]:
        axis.set_visible(False)
    return made, list(places[:panels])
