"""The published layout of Causal3DIdent: folders of single images, without a time axis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from pyro_citevae.errors import DataError, reason
from pyro_citevae.scenes.array_cache import cached, write_bytes_array
from pyro_citevae.scenes.dynamics import SHAPES

__all__ = ["FOLDERS", "find", "read"]

FOLDERS = {"train": ("trainset", "train"), "test": ("testset", "test")}

_LATENTS = ("raw_latents", "latents")
_TOLERANCE = 1e-4


def find(folder: Path, part: str) -> Path | None:
    """The folder of a part of the set, if it is there."""
    candidates = (folder / name for name in FOLDERS.get(part, ()))
    return next((one for one in candidates if any(one.glob("images_*"))), None)


def read(
    folder: Path, cache: Path, pixels: int
) -> tuple[
    UInt8[np.ndarray, "frame height width 3"],
    Float[np.ndarray, "frame 10"],
    Int[np.ndarray, " frame"],
]:
    """Images, latents and shapes of a part, class by class.

    ``images_{c}/{j}.png`` shows row j of ``raw_latents_{c}.npy`` (in some copies ``latents_{c}.npy``). The
    latents are brought from [-1, 1] to the units of ``causal3dident_dynamics``: positions in [-2, 2], angles
    and hues in [0, 2 pi].

    Args:
        folder: What :func:`find` found.
        cache: Where the decoded images are kept.
        pixels: Side to which they are reduced.

    Raises:
        DataError: A file is missing, is unreadable, or does not fit the others.

    Source: J. von Kügelgen et al., Self-Supervised Learning with Data Augmentations Provably Isolates Content
    from Style (2021), Zenodo 4784282.
    """
    if pixels < 1:
        raise DataError(f"pixels={pixels} is below 1; images of 64 pixels are usual.")
    classes = sorted(c for c in range(len(SHAPES)) if (folder / f"images_{c}").is_dir())
    if not classes:
        raise DataError(f"'{folder}' has none of images_0 to images_{len(SHAPES) - 1}; unpack the set there.")
    raw = [_raw_latents(folder, c) for c in classes]
    paths = [path for c, rows in zip(classes, raw, strict=True) for path in _pictures(folder, c, len(rows))]
    source = {
        "path": str(folder.resolve()),
        "images": {c: len(rows) for c, rows in zip(classes, raw, strict=True)},
        "mtime_ns": [(folder / f"images_{c}").stat().st_mtime_ns for c in classes],
    }

    def decode(target: Path) -> None:
        shape = (len(paths), pixels, pixels, 3)
        write_bytes_array(target / "images.npy", shape, (_picture(path, pixels) for path in paths))

    images = cached(cache / f"{folder.name}_{pixels}", source, decode)["images"]
    latents = np.concatenate(raw)
    latents = np.concatenate([2 * latents[:, :3], np.pi * (latents[:, 3:] + 1)], axis=1)
    return images, latents, np.repeat(classes, [len(rows) for rows in raw])


def _raw_latents(folder: Path, c: int) -> Float[np.ndarray, "image 10"]:
    names = [f"{stem}_{c}.npy" for stem in _LATENTS]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"'{folder}' has images_{c}, but neither {' nor '.join(names)}; fetch the set anew.")
    try:
        latents = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"'{path}' is no readable array ({reason(error)}); fetch it anew.") from error
    if latents.ndim != 2 or latents.shape[1] != 10:
        raise DataError(f"'{path}' has shape {latents.shape}, not (images, 10); is it of Causal3DIdent?")
    if not (abs(latents) <= 1 + _TOLERANCE).all():
        raise DataError(
            f"'{path}' has latents from {latents.min():.3g} to {latents.max():.3g}, not in [-1, 1]; "
            "bring its ten columns to that range."
        )
    return latents.astype(np.float64).clip(-1, 1)


def _pictures(folder: Path, c: int, n: int) -> list[Path]:
    """The images of a class in the order of their numbers, however many zeros pad them."""
    found = {int(path.stem): path for path in (folder / f"images_{c}").glob("*.png") if path.stem.isdigit()}
    if sorted(found) != list(range(n)):
        absent = next((j for j in range(n) if j not in found), None)
        raise DataError(
            f"'{folder}' has {len(found)} images in images_{c} and {n} rows of latents"
            + ("" if absent is None else f" (number {absent} is missing)")
            + "; fetch the set anew."
        )
    return [found[j] for j in range(n)]


def _picture(path: Path, pixels: int) -> UInt8[np.ndarray, "height width 3"]:
    try:
        with Image.open(path) as image:
            colours = image.convert("RGB")
            if colours.size != (pixels, pixels):
                colours = colours.resize((pixels, pixels), Image.Resampling.BOX)
            return np.asarray(colours)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"'{path}' is no readable image ({reason(error)}); fetch it anew.") from error
