"""Images of two scenes and of their mixtures, in the published layout of Temporal-Causal3DIdent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import UInt8

from pyro_citevae.errors import DataError
from pyro_citevae.scenes import temporal_causal3dident as temporal
from pyro_citevae.scenes.factor_ranges import require_ranges
from pyro_citevae.scenes.factors import LatentTriplets
from pyro_citevae.scenes.published_folders import places, truth_of

__all__ = ["ImageTriplets"]


@final
@dataclass(frozen=True)
class ImageTriplets:
    """Images of two scenes, and of a third that takes each factor from one of them.

    Attributes:
        images: The frames, memory-mapped if they lie on disk.
        truth: What they show.
    """

    images: UInt8[np.ndarray, "triplet 3 height width 3"]
    truth: LatentTriplets

    def __post_init__(self) -> None:
        sizes = [len(self.images), *(len(x) for x in vars(self.truth).values())]
        if len(set(sizes)) > 1:
            raise DataError(
                f"images, latents, shapes and sources are of {sizes} triplets; give as many of each."
            )
        require_ranges(self.truth.latents, self.truth.shapes)

    @classmethod
    def open(
        cls, folder: str | Path, cache: str | Path | None = None, *, part: str = "val_triplets_coarse"
    ) -> ImageTriplets:
        """Opens the triplets of Temporal-Causal3DIdent.

        Args:
            folder: The folder that was unpacked.
            cache: As for :meth:`ImageSequences.open`.
            part: ``"val_triplets_coarse"`` or ``"test_triplets_coarse"``.

        Raises:
            DataError: The file is missing or unreadable, lengths disagree, or a factor is out of its range.
        """
        place, kept = places(folder, cache)
        archive = place / f"{part}.npz"
        if not archive.is_file():
            raise DataError(f"'{place}' has no '{archive.name}'; name the folder of Temporal-Causal3DIdent.")
        arrays = temporal.read(archive, kept, leading=2)
        truth = LatentTriplets(*truth_of(arrays), arrays["interventions"].astype(bool))
        return cls(arrays["imgs"][..., :3], truth)
