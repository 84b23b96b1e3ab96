"""The ranges of a scene's factors, in the units of the published files."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from pyro_citevae.errors import DataError
from pyro_citevae.scenes.factors import FACTORS, SHAPES

__all__ = ["HIGH", "LOW", "extremes", "require_ranges"]

LOW = np.array([-2.0] * 3 + [0.0] * 9)
HIGH = np.array([2.0] * 3 + [2 * np.pi] * 7 + [len(SHAPES) - 1.0, 2.0])  # three materials
_TOLERANCE = 1e-4  # single precision


def extremes(
    latents: Float[np.ndarray, "*row 10"], shapes: Int[np.ndarray, "*row 2"]
) -> tuple[Float[np.ndarray, " 12"], Float[np.ndarray, " 12"]]:
    """The lowest and the highest value of each factor."""
    values = np.concatenate([latents, shapes], axis=-1).reshape(-1, len(FACTORS))
    return values.min(0), values.max(0)


def require_ranges(latents: Float[np.ndarray, "*row 10"], shapes: Int[np.ndarray, "*row 2"]) -> None:
    """Refuses factors out of their ranges.

    Raises:
        DataError: There is no image, or a factor is out of its range.
    """
    if not latents.size:
        raise DataError("There is no image; give one or more.")
    low, high = extremes(latents, shapes)
    for i in range(len(FACTORS)):
        if not (LOW[i] - _TOLERANCE <= low[i] and high[i] <= HIGH[i] + _TOLERANCE):
            raise DataError(
                f"{FACTORS[i]} goes from {low[i]:.4g} to {high[i]:.4g}, not in "
                f"[{LOW[i]:.4g}, {HIGH[i]:.4g}]; bring the latents to these units."
            )
