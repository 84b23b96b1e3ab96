"""Writing sequences and triplets in the published layout of Temporal-Causal3DIdent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pyro_citevae.errors import DataError
from pyro_citevae.scenes import temporal_causal3dident as temporal
from pyro_citevae.scenes.factors import FACTORS
from pyro_citevae.scenes.sequences import ImageSequences
from pyro_citevae.scenes.triplets import ImageTriplets

__all__ = ["write"]


def write(
    folder: str | Path, parts: Mapping[str, ImageSequences | ImageTriplets], *, overwrite: bool = False
) -> None:
    """Writes the layout of Temporal-Causal3DIdent: ``{part}.npz`` for each part.

    Sequences are written one after the other. ``n_steps`` and ``environments`` are added, which readers of
    the published layout pass over, since it knows one long sequence only.

    Args:
        folder: The folder, made if it is missing.
        parts: Sequences under ``"train"``, ``"val"`` or ``"test"``, of one step under ``"val_indep"`` or
            ``"test_indep"``, triplets under ``"val_triplets_coarse"`` or ``"test_triplets_coarse"``.
        overwrite: Whether files that are there may be replaced.

    Raises:
        DataError: A part's name does not fit what it holds.
        RunError: A file is there already, or cannot be written.
    """
    for name, part in parts.items():
        names = temporal.TRIPLETS if isinstance(part, ImageTriplets) else temporal.SERIES
        if name not in names:
            raise DataError(
                f"'{name}' is no part for {type(part).__name__}; call it one of {', '.join(names)}."
            )
        if isinstance(part, ImageSequences) and name.endswith("_indep") and part.n_steps != 1:
            raise DataError(f"'{name}' has sequences of {part.n_steps} steps; independent scenes have one.")
    for name, part in parts.items():
        arrays = _of_triplets(part) if isinstance(part, ImageTriplets) else _of_sequences(part)
        temporal.save(Path(folder), name, arrays, overwrite=overwrite)


def _of_sequences(part: ImageSequences) -> dict[str, np.ndarray]:
    frames = part.frames.ravel()
    in_order = np.array_equal(frames, np.arange(len(part.images)))  # then what lies on disk stays there
    return {
        "imgs": part.images if in_order else part.images[frames],
        "raw_latents": part.latents.reshape(-1, 10).astype(np.float32),
        "shape_latents": part.shapes.reshape(-1, 2).astype(np.uint8),
        # in the file, row t is the step t -> t + 1
        "interventions": part.interventions.reshape(-1, len(FACTORS))[1:].astype(np.int64),
        "environments": part.environments,
        "n_steps": np.array(part.n_steps),
    }


def _of_triplets(part: ImageTriplets) -> dict[str, np.ndarray]:
    return {
        "imgs": part.images,
        "raw_latents": part.truth.latents.astype(np.float32),
        "shape_latents": part.truth.shapes.astype(np.uint8),
        "interventions": part.truth.sources.astype(np.int64),
    }
