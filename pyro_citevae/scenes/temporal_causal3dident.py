"""The published layout of Temporal-Causal3DIdent: an archive a part, frames one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_citevae.errors import DataError
from pyro_citevae.kinds import PART
from pyro_citevae.scenes.array_cache import npz_arrays
from pyro_citevae.scenes.dynamics import FACTORS
from pyro_citevae.whole_files import aside

__all__ = ["SERIES", "TRIPLETS", "read", "save"]

SERIES = ("train", "val", "test", "val_indep", "test_indep")
TRIPLETS = ("val_triplets_coarse", "test_triplets_coarse", "val_triplets", "test_triplets")

_KEYS = ("imgs", "raw_latents", "shape_latents", "interventions")


def read(archive: Path, cache: Path, leading: int) -> dict[str, np.ndarray]:
    """The arrays of a part, memory-mapped and of fitting sizes.

    Args:
        archive: The part's ``.npz``.
        cache: Where it is unpacked.
        leading: Number of axes before those of an image: 1 for series, 2 for triplets.

    Raises:
        DataError: The archive is unreadable, lacks an array, or its lengths disagree.

    Source: P. Lippe et al., CITRIS: Causal Identifiability from Temporal Intervened Sequences (2022),
    Zenodo 6637749; the instantaneous version is 6570441.
    """
    arrays = npz_arrays(archive, _KEYS, cache)
    images, rest = arrays["imgs"], {"raw_latents": 10, "shape_latents": 2, "interventions": len(FACTORS)}
    if images.ndim != leading + 3 or images.dtype != np.uint8 or images.shape[-1] < 3:
        raise DataError(
            f"'{archive}' has imgs of {images.dtype} {images.shape}, not uint8 with {leading + 3} axes and "
            "at least three channels at the end; is it of Temporal-Causal3DIdent?"
        )
    for key, width in rest.items():
        if arrays[key].ndim < 2 or arrays[key].shape[-1] != width:
            raise DataError(
                f"'{archive}' has {key} of {arrays[key].shape}, not of {width} columns; is it of "
                "Temporal-Causal3DIdent?"
            )
    for key in ("raw_latents", "shape_latents"):
        if arrays[key].shape[:-1] != images.shape[:leading]:
            raise DataError(
                f"'{archive}' has imgs of {images.shape[:leading]} and {key} of {arrays[key].shape[:-1]} "
                "rows; fetch it anew."
            )
    n, rows = len(images), arrays["interventions"].shape[:-1]
    if rows not in ([(n,), (n - 1,)] if leading == 1 else [(n,)]):
        raise DataError(f"'{archive}' has {n} rows of imgs and {rows} of interventions; fetch it anew.")
    return arrays


def save(folder: Path, part: str, arrays: Mapping[str, np.ndarray], *, overwrite: bool) -> None:
    """Writes a part, whole or not at all."""
    with aside(folder / f"{part}.npz", overwrite=overwrite, kind=PART) as path:
        held: dict[str, Any] = dict(arrays)  # NumPy's stubs take every keyword for its newest option
        np.savez_compressed(path, **held)
