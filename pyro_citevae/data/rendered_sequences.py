"""C3D-Render images of given latents, on disk in the layout of Temporal-Causal3DIdent."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

import numpy as np
from jaxtyping import Bool, Float, Int

from pyro_citevae.data.render import PLACES, SCENE_VERSION, Mesh, Renderer, open_renderer
from pyro_citevae.data.storage import aside, require_free
from pyro_citevae.errors import DataError, RunError

__all__ = ["Frames", "render_parts"]

_CHUNK = 200  # frames that are rendered, or lost, together

_Chunk: TypeAlias = tuple[Path, Float[np.ndarray, "frame 10"], Int[np.ndarray, " frame"]]


@final
@dataclass(frozen=True, eq=False)
class Frames:
    """What a file of the layout holds beside its images.

    Attributes:
        latents: Of each frame, or of the three frames of each triplet.
        shapes: Shape and material.
        interventions: A row a step, or a row a triplet that names the source of each factor.
    """

    latents: Float[np.ndarray, "*frame 10"]
    shapes: Int[np.ndarray, "*frame 2"]
    interventions: Bool[np.ndarray, "row 12"]


def render_parts(
    folder: str | Path,
    parts: Mapping[str, Frames],
    meshes: tuple[Mesh, ...],
    *,
    seed: int,
    backend: str = "numpy",
    jobs: int | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda said, done, total: None,
) -> Path:
    """Renders every frame and writes a folder with one ``.npz`` a part.

    Finished chunks lie in ``.NAME-chunks`` beside the folder until the folder is whole, so that a second call goes on
    where a first one stopped. A chunk's name says seed, scene and backend, and a hash its latents and meshes.

    Args:
        folder: The folder to make.
        parts: What to render, by name of the file.
        meshes: The objects, by number of the shape.
        seed: Seed of the latents.
        backend: ``"numpy"``, ``"egl"`` or ``"auto"``.
        jobs: Processes; one a core if not given.
        overwrite: Whether what is there may be replaced.
        progress: Told what is done, how much was done, and how much there is.

    Returns:
        The folder.

    Raises:
        RunError: The folder exists or cannot be written, or a process died.
        DataError: There are no frames, no process, or the backend cannot be had.
    """
    target = require_free(folder, overwrite)
    jobs = os.cpu_count() or 1 if jobs is None else jobs
    if jobs < 1:
        raise DataError(f"jobs={jobs} renders nothing; give 1 or more.")
    if not any(part.latents.size for part in parts.values()):
        raise DataError("there is no frame to render; ask for 1 or more.")
    name = open_renderer(backend, meshes).name
    store = target.with_name(f".{target.name}-chunks")
    digests = {place: mesh.digest for place, mesh in zip(PLACES, meshes, strict=False)}
    chunks = {
        part: list(_chunks(store / f"seed{seed}-scene{SCENE_VERSION}-{name}", frames, digests))
        for part, frames in parts.items()
    }
    every = [one for some in chunks.values() for one in some]
    missing = [one for one in every if not one[0].exists()]
    with _renderers(name, meshes, min(jobs, len(missing))) as rendered:
        done = len(every) - len(missing)
        progress(f"rendering ({name})", done, len(every))
        for finished in rendered(missing):
            done += finished
            progress(f"rendering ({name})", done, len(every))
    about = {"name": "C3D-Render", "scene": SCENE_VERSION, "backend": name, "seed": seed, "meshes": digests}
    with aside(target, overwrite=overwrite) as made:
        made.mkdir()
        (made / "c3d_render.json").write_text(json.dumps(about, indent=1) + "\n")
        for part, frames in parts.items():
            _write(made / f"{part}.npz", frames, [path for path, _, _ in chunks[part]], store)
    shutil.rmtree(store, ignore_errors=True)
    return target


def _chunks(store: Path, frames: Frames, digests: Mapping[str, str]) -> Iterator[_Chunk]:
    """The frames of a part in order, with the file of each chunk."""
    latents, shapes = frames.latents.reshape(-1, 10), frames.shapes.reshape(-1, 2)[:, 0]
    for start in range(0, len(latents), _CHUNK):
        some, kinds = latents[start : start + _CHUNK], shapes[start : start + _CHUNK]
        key = hashlib.sha256(some.tobytes() + kinds.tobytes() + json.dumps(digests).encode())
        yield store / f"{key.hexdigest()[:24]}.npy", some, kinds


def _write(file: Path, frames: Frames, chunks: list[Path], store: Path) -> None:
    """Joins chunks to the file of a part, on disk and never in memory."""
    n = frames.latents[..., 0].size
    joined = np.lib.format.open_memmap(store / "joined.npy", mode="w+", dtype=np.uint8, shape=(n, 64, 64, 3))
    start = 0
    for path in chunks:
        images = np.load(path)
        joined[start : start + len(images)] = images
        start += len(images)
    np.savez(
        file,
        imgs=joined.reshape(*frames.latents.shape[:-1], 64, 64, 3),
        raw_latents=frames.latents,
        shape_latents=frames.shapes,
        interventions=frames.interventions,
    )


@contextmanager
def _renderers(
    backend: str, meshes: tuple[Mesh, ...], jobs: int
) -> Iterator[Callable[[list[_Chunk]], Iterator[int]]]:
    """A function that renders chunks in no order, in processes of its own if more than one, and counts them."""
    if jobs <= 1:
        renderer = open_renderer(backend, meshes)
        yield lambda chunks: (_save(renderer, *chunk) for chunk in chunks)
        return
    # a forked process shares the libraries that are loaded here, which are most of its memory
    context = multiprocessing.get_context(
        "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    )
    pool = ProcessPoolExecutor(jobs, context, initializer=_start, initargs=(backend, meshes))

    def rendered(chunks: list[_Chunk]) -> Iterator[int]:
        for one in as_completed([pool.submit(_work, chunk) for chunk in chunks]):
            yield one.result()

    try:
        yield rendered
    except BrokenProcessPool as error:
        raise RunError(
            "a process that renders died; run the same again, which goes on, with fewer jobs."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker: dict[str, Renderer] = {}  # of a process of the pool: a renderer cannot travel between processes


def _start(backend: str, meshes: tuple[Mesh, ...]) -> None:
    _worker["renderer"] = open_renderer(backend, meshes)


def _work(chunk: _Chunk) -> int:
    return _save(_worker["renderer"], *chunk)


def _save(
    renderer: Renderer, path: Path, latents: Float[np.ndarray, "frame 10"], shapes: Int[np.ndarray, " frame"]
) -> int:
    """Renders a chunk to its file, whole or not at all."""
    with aside(path, overwrite=True) as file, file.open("wb") as stream:
        np.save(stream, renderer.render(latents, shapes))
    return 1
