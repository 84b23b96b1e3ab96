"""What a light reaches: its own depth image of the object, asked softly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import numpy as np
from jaxtyping import Float

from pyro_citevae.scenes.render.rasteriser import rasterise
from pyro_citevae.scenes.render.scene import Stage, View

__all__ = ["ShadowMap", "light_view"]

OFFSET = 0.1  # of a point along its normal, or a coarse map lets a surface shade itself


def light_view(light: Float[np.ndarray, " 3"], stage: Stage) -> View:
    """The view from a light that just holds the object: nothing else casts a shadow."""
    sine = min(stage.radius * 1.05 / float(np.linalg.norm(stage.centre - light)), 0.99)
    return View.towards(light, stage.centre, float(np.tan(np.arcsin(sine))))


@final
@dataclass(frozen=True)
class ShadowMap:
    """A light's depth image (Williams 1978), filtered after the comparison (Reeves et al. 1987).

    Attributes:
        view: From the light.
        nearness: One over the depth of what the light meets first, zero where nothing; with a border.
        softness: Cells to each side over which the comparison is averaged.
    """

    view: View
    nearness: Float[np.ndarray, "row column"]
    softness: int

    @classmethod
    def of(cls, light: Float[np.ndarray, " 3"], stage: Stage, *, size: int, softness: int) -> Self:
        """Draws the map of a light."""
        view = light_view(light, stage)
        seen = rasterise(view.project(stage.corners, size), size)
        nearness = np.zeros(size * size, dtype=np.float32)
        nearness[seen.sample] = seen.nearness
        return cls(view, np.pad(nearness.reshape(size, size), 2 * softness + 1), softness)

    def lit(
        self, points: Float[np.ndarray, "point 3"], normals: Float[np.ndarray, "point 3"]
    ) -> Float[np.ndarray, " point"]:
        """The share of the light, from 0 to 1, that reaches each point of a surface."""
        wide, soft = len(self.nearness), self.softness
        size = wide - 2 * (2 * soft + 1)
        column, row, nearness = self.view.project(points + np.float32(OFFSET) * normals, size).T
        lit = np.ones(len(points), dtype=np.float32)
        near = (nearness > 0) & (np.abs(column - size / 2) < size / 2 + soft)
        near = np.flatnonzero(near & (np.abs(row - size / 2) < size / 2 + soft))
        # the window reaches from `soft` cells before the point to as many behind it; the border is 2 soft + 1
        corner = np.stack([row[near], column[near]]) + soft + 1
        first = np.floor(corner).astype(np.int64)
        rest = (corner - first).astype(np.float32)
        share = np.ones((2 * soft + 1, 2, len(near)), dtype=np.float32)
        share[0], share[-1] = 1 - rest, rest
        flat, start = self.nearness.ravel(), first[0] * wide + first[1]
        reached = np.zeros(len(near), dtype=np.float32)
        for down in range(2 * soft + 1):
            across = np.zeros_like(reached)
            for right in range(2 * soft + 1):
                across += share[right, 1] * (flat[start + down * wide + right] <= nearness[near])
            reached += share[down, 0] * across
        lit[near] = reached / (2 * soft) ** 2
        return lit
