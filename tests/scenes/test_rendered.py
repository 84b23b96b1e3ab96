"""C3D-Render on disk: the layout, going on after a stop, processes, and each mistake."""

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from typer.testing import CliRunner

from pyro_citevae.cli import app
from pyro_citevae.cli.flags import in_flags
from pyro_citevae.errors import CiteVAEError
from pyro_citevae.scenes import ImageSequences, ImageTriplets, render
from pyro_citevae.scenes.rendered import c3d_parts, render_parts

FILES = {
    *("train.npz", "val.npz", "test.npz", "val_indep.npz", "test_indep.npz"),
    *("val_triplets_coarse.npz", "test_triplets_coarse.npz"),
}


def made(folder: Path, **options: Any) -> Path:
    settings: dict[str, Any] = {"seed": 3, "jobs": 1, "chunk": 6} | options
    return render_parts(folder, c3d_parts(20, seed=3), render.meshes(), **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("c3d") / "whole")


def held(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    return {path.name: dict(np.load(path)) for path in sorted(folder.glob("*.npz"))}


def assert_same(one: Path, other: Path) -> None:
    left, right = held(one), held(other)
    assert left.keys() == right.keys()
    for name, arrays in left.items():
        for key, values in arrays.items():
            np.testing.assert_array_equal(values, right[name][key])


def test_the_folder_is_in_the_published_layout(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == FILES | {"c3d_render.json"}
    train = held(whole)["train.npz"]
    assert train["imgs"].shape == (20, 64, 64, 3)
    assert train["imgs"].dtype == np.uint8
    assert train["interventions"].shape == (19, 12)
    assert held(whole)["val_triplets_coarse.npz"]["imgs"].shape == (2, 3, 64, 64, 3)
    assert json.loads((whole / "c3d_render.json").read_text())["name"] == "C3D-Render"


def test_each_image_shows_its_latents(whole: Path, tmp_path: Path) -> None:
    parts, renderer = c3d_parts(20, seed=3), render.NumpyRenderer(render.meshes())
    for part in ("train", "val", "test_indep"):
        read = ImageSequences.open(whole, tmp_path / part, part=part)
        np.testing.assert_allclose(read.latents, parts[part].latents, atol=1e-6)
        frames = renderer.render(parts[part].latents.reshape(-1, 10), parts[part].shapes.reshape(-1, 2)[:, 0])
        np.testing.assert_array_equal(read.images, frames)
    mixed, truth = ImageTriplets.open(whole, tmp_path / "mixed"), parts["val_triplets_coarse"]
    frames = renderer.render(truth.latents[:, 2], truth.shapes[:, 2, 0])
    np.testing.assert_array_equal(mixed.images[:, 2], frames)


def test_processes_change_nothing(whole: Path, tmp_path: Path) -> None:
    assert_same(made(tmp_path / "other", jobs=2), whole)


def test_a_second_start_goes_on(whole: Path, tmp_path: Path) -> None:
    def stop(said: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "other", progress=stop)
    assert not (tmp_path / "other").exists()
    told: list[int] = []
    made(tmp_path / "other", progress=lambda said, done, total: told.append(done))
    assert told[0] == 3
    assert_same(tmp_path / "other", whole)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_other_meshes_use_no_old_chunk(tmp_path: Path) -> None:
    def stop(said: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "other", progress=stop)
    told: list[int] = []
    meshes = render.meshes()
    render_parts(
        tmp_path / "other",
        c3d_parts(20, seed=3),
        (meshes[1], meshes[0], *meshes[2:]),
        seed=3,
        jobs=1,
        progress=lambda said, done, total: told.append(done),
    )
    assert told[0] == 0


def test_one_shape_is_the_teapot() -> None:
    parts = c3d_parts(30, ("teapot",), seed=0)
    assert not any(part.shapes.any() for part in parts.values())
    assert len({part.latents.tobytes() for part in parts.values()}) == len(parts)


def ran(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_renders(tmp_path: Path) -> None:
    line = ("simulate", "c3d", "--frames", 7, "--shapes", "one", "--jobs", 1, "--quiet", "-o", tmp_path / "x")
    result = ran(*line)
    assert result.exit_code == 0, result.output
    assert "Rendered 17 frames" in result.output
    assert len(held(tmp_path / "x")["train.npz"]["imgs"]) == 7
    assert "exists" in str(ran(*line).exception)
    assert ran(*line, "--overwrite").exit_code == 0


def test_the_command_draws_a_contact_sheet(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    assert ran("simulate", "c3d-sheet", "-o", path).exit_code == 0
    assert matplotlib.image.imread(path).shape[:2] == (7 * 64, 8 * 64)


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("--frames 0", "--frames 0 renders nothing; ask for 1 or more"),
        ("--frames -5", "--frames -5 renders nothing"),
        ("--seed -1", "--seed -1 is negative"),
        ("--jobs 0", "--jobs 0 renders nothing; give 1 or more"),
        ("--backend vulkan", "'vulkan' is no backend"),
        ("--shapes some", "--shapes 'some' is neither 'one' nor 'all'"),
        ("--mesh-dir nowhere", "--mesh-dir 'nowhere' holds no mesh"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(line: str, phrase: str, tmp_path: Path) -> None:
    result = ran("simulate", "c3d", "--frames", 7, *line.split(), "-o", tmp_path / "x")
    assert isinstance(result.exception, CiteVAEError)
    assert phrase in in_flags(str(result.exception))
    assert not list(tmp_path.iterdir())
