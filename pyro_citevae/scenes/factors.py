"""The factors of a scene: their names, what a scene shows of them, and mixtures of two scenes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float, Int

from pyro_citevae.errors import DataError

__all__ = [
    "COARSE",
    "FACTORS",
    "MEMBERS",
    "NOISE",
    "N_LATENTS",
    "SHAPES",
    "LatentSequences",
    "LatentTriplets",
    "latent_triplets",
]

FACTORS = (
    *("pos-x", "pos-y", "pos-z", "rot-alpha", "rot-beta", "rot-gamma"),
    *("rot-spot", "hue-object", "hue-spot", "hue-back", "obj-shape", "obj-material"),
)
SHAPES = ("teapot", "armadillo", "hare", "cow", "dragon", "head", "horse")
COARSE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "pos": FACTORS[:3],
        "rot": FACTORS[3:6],
        **{name: (name,) for name in FACTORS[6:11]},
    }
)
NOISE: Mapping[str, float] = MappingProxyType(
    {name: 0.10 if name in FACTORS[:3] else 0.15 for name in FACTORS[:10]}
)
N_LATENTS = 10  # factors that are numbers; shape and material are kinds
MEMBERS = np.array([[factor in group for factor in FACTORS] for group in COARSE.values()])


@dataclass(frozen=True)
class LatentSequences:
    """Factors of a scene over time, and what was done to them.

    Attributes:
        latents: The first ten of ``FACTORS``: positions in [-2, 2], angles and hues in [0, 2 pi).
        shapes: Index into ``SHAPES``, and the material (always 0).
        interventions: Whether the step *into* [sequence, step] intervened on each of ``FACTORS``; nothing
            leads into the first step.
        environments: Token of each sequence: 0 for the control, e for the e-th of :class:`SoftEffects`.
    """

    latents: Float[np.ndarray, "sequence step 10"]
    shapes: Int[np.ndarray, "sequence step 2"]
    interventions: Bool[np.ndarray, "sequence step 12"]
    environments: Int[np.ndarray, " sequence"]


@dataclass(frozen=True)
class LatentTriplets:
    """Two scenes, and a third that takes each factor from one of them.

    Attributes:
        latents: The first ten of ``FACTORS`` in the two sources and in the mixture.
        shapes: Shape and material of the three.
        sources: Whether the mixture takes each of ``FACTORS`` from the second source.
    """

    latents: Float[np.ndarray, "triplet 3 10"]
    shapes: Int[np.ndarray, "triplet 3 2"]
    sources: Bool[np.ndarray, "triplet 12"]


def latent_triplets(sequences: LatentSequences, n_triplets: int, *, seed: int) -> LatentTriplets:
    """Draws pairs of scenes, and mixes the coarse factors of each pair.

    Args:
        sequences: Where the scenes come from.
        n_triplets: Number of triplets.
        seed: Seed.

    Returns:
        Triplets whose mixture has at least one coarse factor from either source.

    Raises:
        DataError: ``n_triplets`` is below 1.

    Example:
        >>> from pyro_citevae.scenes.dynamics import latent_dynamics
        >>> mixed = latent_triplets(latent_dynamics(10, 6, seed=0), 4, seed=1)
        >>> mixed.latents.shape, mixed.sources.shape
        ((4, 3, 10), (4, 12))

    Source: P. Lippe et al., CITRIS (2022), for the score that they serve.
    """
    if n_triplets < 1:
        raise DataError(f"n_triplets={n_triplets} is below 1; ask for one triplet or more.")
    rng = np.random.default_rng(seed)
    latents = sequences.latents.reshape(-1, N_LATENTS)
    shapes = sequences.shapes.reshape(-1, 2)
    pair = rng.integers(len(latents), size=(2, n_triplets))
    # the binary digits of 1 .. 2^n - 2: neither none nor all; one shape only leaves its factor out
    n_groups = len(COARSE) - (len(np.unique(shapes[:, 0])) == 1)
    digits = rng.integers(1, 2**n_groups - 1, size=(n_triplets, 1)) >> np.arange(len(COARSE)) & 1
    sources = digits @ MEMBERS > 0

    def mix(values: np.ndarray, second: np.ndarray) -> np.ndarray:
        one, other = values[pair]
        return np.stack([one, other, np.where(second, other, one)], axis=1)

    return LatentTriplets(mix(latents, sources[:, :N_LATENTS]), mix(shapes, sources[:, N_LATENTS:]), sources)
