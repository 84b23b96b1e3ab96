"""One picture with every object in several scenes, for a person to look at."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from pyro_citevae.scenes.render.renderer import Renderer

__all__ = ["contact_sheet"]


def contact_sheet(
    renderer: Renderer, *, columns: int = 8, seed: int = 0
) -> UInt8[np.ndarray, "row column 3"]:
    """A row an object: first upright in the middle, from its side, then in scenes drawn uniformly.

    Args:
        renderer: Whose objects to show.
        columns: Scenes of each.
        seed: Seed of the scenes, the same for each object.
    """
    rng = np.random.default_rng(seed)
    latents = rng.uniform(0, 2 * np.pi, (columns, 10))
    latents[:, :3] = rng.uniform(-2, 2, (columns, 3))
    latents[:, 5] = 0
    latents[0, :6] = 0, 0, 0, 0, 0, np.pi / 2
    rows = [renderer.render(latents, np.full(columns, shape)) for shape in range(len(renderer.meshes))]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
