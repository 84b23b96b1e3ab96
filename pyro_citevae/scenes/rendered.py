"""C3D-Render images of given latents, on disk in the layout of Temporal-Causal3DIdent."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int, UInt8

from pyro_citevae.errors import DataError, RunError
from pyro_citevae.kinds import SCENES
from pyro_citevae.process_pools import process_pool
from pyro_citevae.scenes.array_cache import write_bytes_array
from pyro_citevae.scenes.dynamics import (
    SHAPES,
    LatentSequences,
    LatentTriplets,
    latent_dynamics,
    latent_triplets,
)
from pyro_citevae.scenes.render import SCENE_VERSION, Mesh, Renderer, open_renderer
from pyro_citevae.scenes.sequences import ImageSequences
from pyro_citevae.scenes.triplets import ImageTriplets
from pyro_citevae.scenes.writing import write
from pyro_citevae.whole_files import aside, require_free

__all__ = ["c3d_parts", "render_parts"]


_Chunk: TypeAlias = tuple[Path, Float[np.ndarray, "frame 10"], Int[np.ndarray, " frame"]]


_Part: TypeAlias = LatentSequences | LatentTriplets


def c3d_parts(n_frames: int, shapes: Sequence[str] = SHAPES, *, seed: int) -> dict[str, _Part]:
    """The latents of the seven parts of the published layout.

    Args:
        n_frames: Frames of ``train``, one long sequence. ``val`` and ``test`` are sequences of a tenth; the
            independent scenes are as many, and so are the triplets, which mix scenes of ``val`` or ``test``.
        shapes: Names of the shapes that occur.
        seed: Seed; each part has one of its own that follows from it.

    Raises:
        DataError: There is no frame, or the seed is negative.

    Example:
        >>> parts = c3d_parts(100, seed=0)
        >>> [part.latents.shape[:2] for part in parts.values()][:3]
        [(1, 100), (1, 10), (10, 1)]
    """
    if n_frames < 1:
        raise DataError(f"c3d_parts(n_frames={n_frames}) renders nothing; ask for 1 or more.")
    if seed < 0:
        raise DataError(f"c3d_parts(seed={seed}) is negative; give 0 or more.")
    few = max(n_frames // 10, 1)
    train, *seeds = (int(one) for one in np.random.SeedSequence(seed).generate_state(7))
    parts: dict[str, _Part] = {"train": latent_dynamics(1, n_frames, seed=train, shapes=shapes)}
    for name, own in zip(("val", "test"), (seeds[:3], seeds[3:]), strict=True):
        series = latent_dynamics(1, few, seed=own[0], shapes=shapes)
        parts[name] = series
        parts[f"{name}_indep"] = latent_dynamics(few, 1, seed=own[1], shapes=shapes)
        parts[f"{name}_triplets_coarse"] = latent_triplets(series, few, seed=own[2])
    return parts


def render_parts(
    folder: str | Path,
    parts: Mapping[str, _Part],
    meshes: tuple[Mesh, ...],
    *,
    seed: int,
    backend: str = "numpy",
    jobs: int | None = None,
    overwrite: bool = False,
    chunk: int = 200,
    progress: Callable[[str, int, int], None] = lambda said, done, total: None,
) -> Path:
    """Renders every frame and writes a folder with one ``.npz`` a part.

    Finished chunks lie in ``.NAME-chunks`` beside the folder until the folder is whole, so that a second call
    goes on where a first one stopped. A chunk is found by seed, scene, backend, latents and meshes.

    Args:
        folder: The folder to make.
        parts: What to render, by name of the file.
        meshes: The objects, by number of the shape.
        seed: Seed of the latents.
        backend: ``"numpy"``, ``"egl"`` or ``"auto"``.
        jobs: Processes; one a core if not given.
        overwrite: Whether what is there may be replaced.
        chunk: Frames that are rendered, or lost, together.
        progress: Told what is done, how much was done, and how much there is.

    Returns:
        The folder.

    Raises:
        RunError: The folder exists or cannot be written, or a process died.
        DataError: There are no frames, no process, or the backend cannot be had.
    """
    target = require_free(folder, overwrite, SCENES)
    jobs = os.cpu_count() or 1 if jobs is None else jobs
    if jobs < 1:
        raise DataError(f"render_parts(jobs={jobs}) renders nothing; give 1 or more.")
    if not any(part.latents.size for part in parts.values()):
        raise DataError("there is no frame to render; ask for 1 or more.")
    renderer = open_renderer(backend, meshes).name
    store = target.with_name(f".{target.name}-chunks")
    digests = {shape: mesh.digest for shape, mesh in zip(SHAPES, meshes, strict=True)}
    chunks = {
        name: list(_chunks(store / f"seed{seed}-scene{SCENE_VERSION}-{renderer}", part, digests, chunk))
        for name, part in parts.items()
    }
    every = [one for some in chunks.values() for one in some]
    missing = [one for one in every if not one[0].exists()]
    with _renderers(renderer, meshes, min(jobs, len(missing))) as rendered:
        done = len(every) - len(missing)
        progress(f"rendering ({renderer})", done, len(every))
        for finished in rendered(missing):
            done += finished
            progress(f"rendering ({renderer})", done, len(every))
    about = {
        "name": "C3D-Render",
        "scene": SCENE_VERSION,
        "backend": renderer,
        "seed": seed,
        "meshes": digests,
    }
    with aside(target, overwrite=overwrite, kind=SCENES) as made:
        made.mkdir()
        (made / "c3d_render.json").write_text(json.dumps(about, indent=1) + "\n")
        for name, part in parts.items():
            images = _joined([path for path, _, _ in chunks[name]], part.latents[..., 0].size, store)
            write(made, {name: _shown(images, part)})
    shutil.rmtree(store, ignore_errors=True)
    return target


def _chunks(store: Path, part: _Part, digests: Mapping[str, str], chunk: int) -> Iterator[_Chunk]:
    """The frames of a part in order, with the file of each chunk."""
    latents, shapes = part.latents.reshape(-1, 10), part.shapes.reshape(-1, 2)[:, 0]
    for start in range(0, len(latents), chunk):
        some, kinds = latents[start : start + chunk], shapes[start : start + chunk]
        key = hashlib.sha256(some.tobytes() + kinds.tobytes() + json.dumps(digests).encode())
        yield store / f"{key.hexdigest()[:24]}.npy", some, kinds


def _joined(chunks: list[Path], n_frames: int, store: Path) -> UInt8[np.ndarray, "frame 64 64 3"]:
    """The images of a part, which stay on disk."""
    write_bytes_array(store / "joined.npy", (n_frames, 64, 64, 3), map(np.load, chunks))
    joined: np.ndarray = np.load(store / "joined.npy", mmap_mode="r")
    return joined


def _shown(images: UInt8[np.ndarray, "frame 64 64 3"], part: _Part) -> ImageSequences | ImageTriplets:
    """The images with their truth."""
    if isinstance(part, LatentTriplets):
        return ImageTriplets(images.reshape(-1, 3, 64, 64, 3), part)
    return ImageSequences(images, part.latents, part.shapes, part.interventions, part.environments)


@contextmanager
def _renderers(
    backend: str, meshes: tuple[Mesh, ...], jobs: int
) -> Iterator[Callable[[list[_Chunk]], Iterator[int]]]:
    """A function that renders chunks, in no order and in ``jobs`` processes, and counts them."""
    if jobs <= 1:
        renderer = open_renderer(backend, meshes)
        yield lambda chunks: (_save(renderer, *chunk) for chunk in chunks)
        return
    # a forked process shares the libraries that are loaded here, which are most of its memory
    context = multiprocessing.get_context(
        "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    )
    try:
        with process_pool(jobs, context, _start, backend, meshes) as pool:

            def rendered(chunks: list[_Chunk]) -> Iterator[int]:
                for one in as_completed([pool.submit(_work, chunk) for chunk in chunks]):
                    yield one.result()

            yield rendered
    except BrokenProcessPool as error:
        raise RunError("a process that renders died; run the same with fewer jobs, which goes on.") from error


_worker: dict[str, Renderer] = {}  # of a process of the pool: a renderer cannot travel between processes


def _start(backend: str, meshes: tuple[Mesh, ...]) -> None:
    _worker["renderer"] = open_renderer(backend, meshes)


def _work(chunk: _Chunk) -> int:
    return _save(_worker["renderer"], *chunk)


def _save(
    renderer: Renderer, path: Path, latents: Float[np.ndarray, "frame 10"], shapes: Int[np.ndarray, " frame"]
) -> int:
    """Renders a chunk to its file, whole or not at all."""
    images = renderer.render(latents, shapes)
    with aside(path, overwrite=True) as file:
        write_bytes_array(file, images.shape, [images])
    return 1
