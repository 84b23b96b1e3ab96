"""The folders of Causal3DIdent as they are unpacked, and the truth that their arrays hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from pyro_citevae.errors import DataError

__all__ = ["places", "truth_of"]


def places(folder: str | Path, cache: str | Path | None) -> tuple[Path, Path]:
    """The folder and its cache."""
    place = Path(folder)
    if not place.is_dir():
        raise DataError(f"'{place}' is no folder; name the one that was unpacked.")
    return place, place / "npy" if cache is None else Path(cache)


def truth_of(
    arrays: Mapping[str, np.ndarray],
) -> tuple[Float[np.ndarray, "*row 10"], Int[np.ndarray, "*row 2"]]:
    """Latents, and shape and material, of each row."""
    return arrays["raw_latents"].astype(np.float64), arrays["shape_latents"].astype(np.int64)
