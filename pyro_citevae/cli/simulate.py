"""``citevae simulate``: data whose truth is known."""

from __future__ import annotations

from typing import Annotated

import typer
from matplotlib.image import imsave

from pyro_citevae.cli.as_json import Facts
from pyro_citevae.cli.completions import one_of
from pyro_citevae.cli.options import Backend, MeshDir, Out, Overwrite, Quiet, Seed
from pyro_citevae.cli.terminal import progress_bar, say
from pyro_citevae.errors import DataError
from pyro_citevae.kinds import SCENES, SHEET
from pyro_citevae.scenes import render
from pyro_citevae.scenes.dynamics import SHAPES
from pyro_citevae.scenes.rendered import c3d_parts, render_parts
from pyro_citevae.signals import keeping
from pyro_citevae.whole_files import aside, require_free

__all__ = ["simulate_c3d", "simulate_c3d_sheet"]


def simulate_c3d(
    out: Out,
    frames: Annotated[
        int, typer.Option(help="Frames to train on; the six other parts have a tenth.")
    ] = 20_000,
    shapes: Annotated[
        str, typer.Option(help="one (the teapot) or all seven.", autocompletion=one_of("one", "all"))
    ] = "all",
    mesh_dir: MeshDir = None,
    backend: Backend = "numpy",
    jobs: Annotated[int | None, typer.Option(help="Processes; one a core if not given.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> Facts:
    """Render C3D-Render, an object that moves by a known process; a second start goes on."""
    if shapes not in ("one", "all"):
        raise DataError(f"--shapes '{shapes}' is neither 'one' nor 'all'; give one of them.")
    require_free(out, overwrite, SCENES, [mesh_dir])
    parts = c3d_parts(frames, SHAPES if shapes == "all" else SHAPES[:1], seed=seed)
    meshes = render.meshes(mesh_dir)
    again = "the frames that are done are kept; a second start of the same command goes on"
    with keeping(lambda: again), progress_bar(quiet) as advance:
        render_parts(
            out, parts, meshes, seed=seed, backend=backend, jobs=jobs, overwrite=overwrite, progress=advance
        )
    rendered = sum(part.latents[..., 0].size for part in parts.values())
    say(f"Rendered {rendered} frames. Saved in {out}/: {', '.join(f'{name}.npz' for name in parts)}.")
    return {"saved": [out / f"{name}.npz" for name in parts], "frames": rendered}


def simulate_c3d_sheet(
    out: Out,
    mesh_dir: MeshDir = None,
    backend: Backend = "numpy",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Facts:
    """Draw one picture (.png) with every object in several scenes of C3D-Render."""
    require_free(out, overwrite, SHEET, [mesh_dir])
    sheet = render.contact_sheet(render.open_renderer(backend, render.meshes(mesh_dir)), seed=seed)
    with aside(out, overwrite=overwrite, kind=SHEET) as file:
        imsave(file, sheet, format="png", metadata={"Software": SHEET.words})
    say(f"Saved {out}.")
    return {"saved": [out]}
