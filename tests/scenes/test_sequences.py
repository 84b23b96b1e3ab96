"""Image sequences: the two published layouts, written small; the writer; images found for wanted latents."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pyro_citevae.errors import DataError, RunError
from pyro_citevae.scenes import ImageSequences, ImageTriplets, write
from pyro_citevae.scenes.dynamics import FACTORS, latent_dynamics, latent_triplets

SIDE = 8


def pictures(*size: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, SIDE, SIDE, channels), dtype=np.uint8)


def drawn_sequences(n: int = 4, n_steps: int = 5, seed: int = 0, **options: Any) -> ImageSequences:
    drawn = latent_dynamics(n, n_steps, seed=seed, **options)
    return ImageSequences(
        pictures(n * n_steps), drawn.latents, drawn.shapes, drawn.interventions, drawn.environments
    )


def drawn_triplets(n: int = 6) -> ImageTriplets:
    return ImageTriplets(pictures(n, 3), latent_triplets(latent_dynamics(5, 4, seed=0), n, seed=1))


def temporal(
    folder: Path, part: str = "train", *, channels: int = 4, **changes: Any
) -> dict[str, np.ndarray]:
    """An archive as published: one long series, four channels, a row of interventions less than images."""
    drawn = latent_dynamics(1, 12, seed=0)
    arrays = {
        "imgs": pictures(12, channels=channels),
        "raw_latents": drawn.latents[0].astype(np.float32),
        "shape_latents": drawn.shapes[0].astype(np.uint8),
        "interventions": drawn.interventions[0, 1:].astype(np.int64),
    } | changes
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{part}.npz", **{key: value for key, value in arrays.items() if value is not None})
    return arrays


def still_set(
    folder: Path, *, name: str = "trainset", stem: str = "raw_latents", n: int = 12, classes: Any = range(7)
) -> tuple[np.ndarray, np.ndarray]:
    """Folders of png as published; returns colours and raw latents by class and row."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (7, n, 3), dtype=np.uint8)
    raw = rng.uniform(-1, 1, (7, n, 10))
    width = int(np.ceil(np.log10(n)))
    for c in classes:
        place = folder / name / f"images_{c}"
        place.mkdir(parents=True)
        for j in range(n):
            picture = np.broadcast_to(colours[c, j], (2 * SIDE, 2 * SIDE, 3))
            Image.fromarray(np.ascontiguousarray(picture)).save(place / f"{j:0{width}d}.png")
        np.save(folder / name / f"{stem}_{c}.npy", raw[c])
    return colours, raw


def equal(one: ImageSequences, other: ImageSequences) -> None:
    every = np.arange(one.n_sequences)
    np.testing.assert_array_equal(one.read(every), other.read(every))
    np.testing.assert_allclose(one.latents, other.latents, atol=1e-6)
    for name in ("shapes", "interventions", "environments"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def mapped(images: np.ndarray) -> bool:
    base: Any = images
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    return base is not None


# ---- Temporal-Causal3DIdent


def test_a_published_series_is_one_sequence(tmp_path: Path) -> None:
    arrays = temporal(tmp_path)
    found = ImageSequences.open(tmp_path)
    assert (found.n_sequences, found.n_steps) == (1, 12)
    np.testing.assert_array_equal(found.read(np.array([0]))[0], arrays["imgs"][..., :3])
    np.testing.assert_array_equal(found.latents[0].astype(np.float32), arrays["raw_latents"])
    np.testing.assert_array_equal(found.shapes[0], arrays["shape_latents"])
    np.testing.assert_array_equal(found.interventions[0, 1:], arrays["interventions"])
    assert not found.interventions[0, 0].any()
    assert found.environments.tolist() == [0]


def test_a_last_row_of_interventions_leads_nowhere(tmp_path: Path) -> None:
    arrays = temporal(tmp_path)
    rows = np.vstack([arrays["interventions"], np.ones((1, 12), dtype=int)])
    temporal(tmp_path / "longer", interventions=rows)
    equal(ImageSequences.open(tmp_path), ImageSequences.open(tmp_path / "longer"))


def test_independent_scenes_are_sequences_of_one_step(tmp_path: Path) -> None:
    temporal(tmp_path, "val_indep")
    found = ImageSequences.open(tmp_path, part="val_indep")
    assert (found.n_sequences, found.n_steps) == (12, 1)


def test_windows_cut_a_series_without_copying_its_images(tmp_path: Path) -> None:
    arrays = temporal(tmp_path)
    series = ImageSequences.open(tmp_path)
    cut = series.windows(5)
    assert (cut.n_sequences, cut.n_steps) == (2, 5)
    np.testing.assert_array_equal(cut.read(np.array([1]))[0], arrays["imgs"][5:10, ..., :3])
    np.testing.assert_array_equal(cut.latents[1], series.latents[0, 5:10])
    np.testing.assert_array_equal(cut.interventions[1], series.interventions[0, 5:10])
    assert np.shares_memory(cut.images, series.images)


def test_images_are_mapped_and_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporal(tmp_path)
    first = ImageSequences.open(tmp_path)
    assert mapped(first.images)
    made = (tmp_path / "npy" / "train" / "imgs.npy").stat()

    def never(*_: Any) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(shutil, "copyfileobj", never)
    equal(ImageSequences.open(tmp_path), first)
    assert (tmp_path / "npy" / "train" / "imgs.npy").stat().st_mtime_ns == made.st_mtime_ns


def test_another_archive_is_converted_anew(tmp_path: Path) -> None:
    temporal(tmp_path)
    ImageSequences.open(tmp_path)
    changed = temporal(tmp_path, imgs=pictures(12, channels=3, seed=1))
    np.testing.assert_array_equal(ImageSequences.open(tmp_path).images, changed["imgs"])


def test_the_cache_may_lie_elsewhere(tmp_path: Path) -> None:
    temporal(tmp_path / "set")
    ImageSequences.open(tmp_path / "set", tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["train.npz"]
    assert (tmp_path / "kept" / "train" / "imgs.npy").is_file()


# ---- the writer


@pytest.mark.parametrize(
    "options", [{}, {"interventions": "soft"}, {"n": 1}, {"n_steps": 1}, {"shapes": ("cow",)}], ids=str
)
def test_what_is_written_is_read_again(tmp_path: Path, options: dict[str, Any]) -> None:
    made = drawn_sequences(**options)
    write(tmp_path, {"train": made})
    equal(ImageSequences.open(tmp_path), made)


def test_selected_sequences_are_written_with_their_own_images(tmp_path: Path) -> None:
    made = drawn_sequences().select(np.array([3, 1]))
    write(tmp_path, {"test": made})
    found = ImageSequences.open(tmp_path, part="test")
    equal(found, made)
    assert len(found.images) == 10


def test_triplets_are_read_as_written(tmp_path: Path) -> None:
    made = drawn_triplets()
    write(tmp_path, {"val_triplets_coarse": made})
    found = ImageTriplets.open(tmp_path)
    np.testing.assert_array_equal(found.images, made.images)
    np.testing.assert_array_equal(found.truth.sources, made.truth.sources)
    np.testing.assert_array_equal(found.truth.shapes, made.truth.shapes)
    np.testing.assert_allclose(found.truth.latents, made.truth.latents, atol=1e-6)
    assert mapped(found.images)


def test_published_triplets_may_have_four_channels(tmp_path: Path) -> None:
    truth = drawn_triplets().truth
    np.savez(
        tmp_path / "test_triplets_coarse.npz",
        imgs=pictures(6, 3, channels=4),
        raw_latents=truth.latents,
        shape_latents=truth.shapes,
        interventions=truth.sources.astype(np.int32),
    )
    assert ImageTriplets.open(tmp_path, part="test_triplets_coarse").images.shape == (6, 3, SIDE, SIDE, 3)


def test_the_written_archive_has_the_published_layout(tmp_path: Path) -> None:
    made = drawn_sequences()
    write(tmp_path, {"train": made, "val_triplets_coarse": drawn_triplets()})
    with np.load(tmp_path / "train.npz") as series:
        assert series["imgs"].shape == (20, SIDE, SIDE, 3)
        assert series["imgs"].dtype == np.uint8
        assert series["raw_latents"].shape == (20, 10)
        assert series["shape_latents"].shape == (20, 2)
        assert series["interventions"].shape == (19, 12)
        # row t is the step t -> t + 1
        np.testing.assert_array_equal(series["interventions"][1], made.interventions[0, 2])
        np.testing.assert_array_equal(series["interventions"][4], np.zeros(12))
    with np.load(tmp_path / "val_triplets_coarse.npz") as triplets:
        assert triplets["imgs"].shape == (6, 3, SIDE, SIDE, 3)
        assert triplets["interventions"].shape == (6, 12)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write(tmp_path / name, {"train": drawn_sequences()})
    one, other = ((tmp_path / name / "train.npz").read_bytes() for name in ("one", "other"))
    assert one == other


def test_what_is_there_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    write(tmp_path, {"train": drawn_sequences()})
    with pytest.raises(RunError, match=r"train\.npz' exists"):
        write(tmp_path, {"train": drawn_sequences(seed=1)})
    write(tmp_path, {"train": drawn_sequences(seed=1)}, overwrite=True)
    equal(ImageSequences.open(tmp_path), drawn_sequences(seed=1))


def test_images_may_come_by_sequence_and_step() -> None:
    flat = drawn_sequences()
    nested = ImageSequences(
        flat.images.reshape(4, 5, SIDE, SIDE, 3), flat.latents, flat.shapes, flat.interventions
    )
    equal(nested, flat)


def test_ranges_are_reported() -> None:
    made = drawn_sequences()
    table = made.ranges()
    assert tuple(table.index) == FACTORS
    assert table.loc["pos-x"].tolist() == [made.latents[..., 0].min(), made.latents[..., 0].max()]
    assert table.loc["obj-shape", "high"] == made.shapes[..., 0].max()


# ---- Causal3DIdent


@pytest.mark.parametrize(
    ("name", "part", "stem", "n"),
    [
        ("trainset", "train", "raw_latents", 12),
        ("train", "train", "latents", 10),
        ("testset", "test", "raw_latents", 3),
        ("test", "test", "latents", 3),
    ],
)
def test_stills_are_read_class_by_class(tmp_path: Path, name: str, part: str, stem: str, n: int) -> None:
    colours, raw = still_set(tmp_path, name=name, stem=stem, n=n)
    found = ImageSequences.open(tmp_path, part=part, pixels=SIDE)
    assert (found.n_sequences, found.n_steps) == (7 * n, 1)
    assert mapped(found.images)
    expected = np.broadcast_to(colours.reshape(-1, 1, 1, 1, 3), (7 * n, 1, SIDE, SIDE, 3))
    np.testing.assert_array_equal(found.read(np.arange(7 * n)), expected)
    np.testing.assert_array_equal(found.shapes[:, 0, 0], np.repeat(np.arange(7), n))
    latents = raw.reshape(-1, 10)
    np.testing.assert_allclose(found.latents[:, 0, :3], 2 * latents[:, :3])
    np.testing.assert_allclose(found.latents[:, 0, 3:], np.pi * (latents[:, 3:] + 1))
    assert not found.interventions.any()


def test_stills_are_reduced_by_averaging(tmp_path: Path) -> None:
    still_set(tmp_path, n=2, classes=[3])
    chess = np.indices((2 * SIDE, 2 * SIDE)).sum(0)[..., None] % 2 * np.array([200, 100, 50])
    Image.fromarray(chess.astype(np.uint8)).save(tmp_path / "trainset" / "images_3" / "0.png")
    found = ImageSequences.open(tmp_path, pixels=SIDE).images[0]
    np.testing.assert_array_equal(found, np.broadcast_to([100, 50, 25], found.shape))


def test_stills_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still_set(tmp_path, classes=[0, 2])
    first = ImageSequences.open(tmp_path, pixels=SIDE)

    def never(*_: Any) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(Image, "open", never)
    equal(ImageSequences.open(tmp_path, pixels=SIDE), first)


def test_sequences_of_stills_show_the_nearest_and_say_what_they_show(tmp_path: Path) -> None:
    still_set(tmp_path, n=30)
    stills = ImageSequences.open(tmp_path, pixels=SIDE)
    wanted = latent_dynamics(5, 4, seed=1)
    found = stills.nearest(wanted)
    assert (found.n_sequences, found.n_steps) == (5, 4)
    assert found.images is stills.images or np.shares_memory(found.images, stills.images)
    np.testing.assert_array_equal(found.shapes[..., 0], wanted.shapes[..., 0])
    np.testing.assert_array_equal(found.interventions, wanted.interventions)
    # the truth is that of the image shown
    np.testing.assert_array_equal(found.latents, stills.latents[found.frames, 0])
    np.testing.assert_array_equal(found.read(np.array([2])), stills.images[found.frames[[2]]])
    # and no other image of the shape is nearer, gamma aside
    unit = np.array([4.0] * 3 + [2 * np.pi] * 7)
    used = [i for i in range(10) if FACTORS[i] != "rot-gamma"]
    for n, t in np.ndindex(5, 4):
        same = stills.shapes[:, 0, 0] == wanted.shapes[n, t, 0]
        distance = (((stills.latents[same, 0] - wanted.latents[n, t]) / unit)[:, used] ** 2).sum(1)
        got = (((found.latents[n, t] - wanted.latents[n, t]) / unit)[used] ** 2).sum()
        assert got == pytest.approx(distance.min())


def test_stored_latents_are_found_again(tmp_path: Path) -> None:
    made = drawn_sequences(6, 5)
    order = np.array([4, 2])
    wanted = latent_dynamics(6, 5, seed=0)
    wanted = type(wanted)(*(values[order] for values in vars(wanted).values()))
    np.testing.assert_array_equal(made.nearest(wanted).frames, made.frames[order])


# ---- bad input


def _no_files(folder: Path) -> None:
    folder.joinpath("notes.txt").write_text("nothing here")


def _broken_archive(folder: Path) -> None:
    folder.joinpath("train.npz").write_text("no zip")


def _temporal(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: temporal(folder, **changes) and None


def _out_of_range(column: int, value: float) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        latents = temporal(folder)["raw_latents"].copy()
        latents[3, column] = value
        temporal(folder, raw_latents=latents)

    return make


def _stills(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        still_set(folder, n=3, classes=[0, 1])
        change(folder / "trainset")

    return make


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no files": (
        _no_files,
        r"no part 'train': looked for 'train\.npz', 'trainset/images_0', 'train/images_0'",
    ),
    "no zip": (_broken_archive, r"train\.npz' is no readable \.npz archive"),
    "key missing": (_temporal(imgs=None), "has no array 'imgs', but interventions, raw_latents"),
    "floats": (_temporal(imgs=pictures(12) / 255), "has imgs of float64"),
    "grey": (_temporal(imgs=pictures(12, channels=1)), "at least three channels"),
    "no images axis": (_temporal(imgs=pictures(12)[0]), "not uint8 with 4 axes"),
    "fewer images": (_temporal(imgs=pictures(7)), r"imgs of \(7,\) and raw_latents of \(12,\) rows"),
    "fewer shapes": (
        _temporal(shape_latents=np.zeros((5, 2), np.uint8)),
        r"imgs of \(12,\) and shape_latents of \(5,\)",
    ),
    "fewer interventions": (
        _temporal(interventions=np.zeros((3, 12))),
        r"12 rows of imgs and \(3,\) of interv",
    ),
    "columns": (_temporal(raw_latents=np.zeros((12, 9))), r"raw_latents of \(12, 9\), not of 10 columns"),
    "steps": (_temporal(n_steps=np.array(5)), "12 images, which are no sequences of 5 steps"),
    "position": (_out_of_range(0, 2.5), r"pos-x goes from .* to 2\.5, not in \[-2, 2\]"),
    "angle": (_out_of_range(6, -0.5), r"rot-spot goes from -0\.5 to .*, not in \[0, 6\.283\]"),
    "not a number": (_out_of_range(9, np.nan), "hue-back goes from nan"),
    "shape": (_temporal(shape_latents=np.full((12, 2), 7, np.uint8)), "obj-shape goes from 7 to 7"),
    "latents missing": (
        _stills(lambda place: (place / "raw_latents_1.npy").unlink()),
        r"images_1, but neither raw_latents_1\.npy nor latents_1\.npy",
    ),
    "latents unreadable": (
        _stills(lambda place: (place / "raw_latents_1.npy").write_text("no array")),
        r"raw_latents_1\.npy' is no readable array",
    ),
    "latents of another width": (
        _stills(lambda place: np.save(place / "raw_latents_1.npy", np.zeros((3, 9)))),
        r"has shape \(3, 9\), not \(images, 10\)",
    ),
    "raw range": (
        _stills(lambda place: np.save(place / "raw_latents_1.npy", np.full((3, 10), 3.0))),
        r"latents from 3 to 3, not in \[-1, 1\]",
    ),
    "image missing": (
        _stills(lambda place: (place / "images_1" / "1.png").unlink()),
        r"2 images in images_1 and 3 rows of latents \(number 1 is missing\)",
    ),
    "more images": (
        _stills(lambda place: np.save(place / "raw_latents_1.npy", np.zeros((2, 10)))),
        r"3 images in images_1 and 2 rows of latents;",
    ),
    "image unreadable": (
        _stills(lambda place: (place / "images_1" / "1.png").write_text("no image") and None),
        r"1\.png' is no readable image",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_folders_are_refused(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        ImageSequences.open(tmp_path, pixels=SIDE)
    assert "\n" not in str(caught.value)
    left = [path.name for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert not left, "half a conversion was left behind"


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    still_set(tmp_path, n=2, classes=[0])
    path = tmp_path / "trainset" / "images_0" / "1.png"
    noise = pictures()
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"images_0/1\.png' is no readable image"):
        ImageSequences.open(tmp_path, pixels=SIDE)


def test_bad_openings_are_refused(tmp_path: Path) -> None:
    still_set(tmp_path, n=2, classes=[0])
    with pytest.raises(DataError, match=r"missing' is no folder"):
        ImageSequences.open(tmp_path / "missing")
    with pytest.raises(DataError, match=r"no part 'val': looked for 'val\.npz'; name"):
        ImageSequences.open(tmp_path, part="val")
    with pytest.raises(DataError, match="'val_triplets_coarse' holds triplets; open it by ImageTriplets"):
        ImageSequences.open(tmp_path, part="val_triplets_coarse")
    with pytest.raises(DataError, match=r"has no 'val_triplets_coarse\.npz'"):
        ImageTriplets.open(tmp_path)
    with pytest.raises(DataError, match="pixels=0 is below 1"):
        ImageSequences.open(tmp_path, pixels=0)
    with pytest.raises(DataError, match="No image shows a cow"):
        ImageSequences.open(tmp_path, pixels=SIDE).nearest(latent_dynamics(1, 2, seed=0, shapes=("cow",)))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    temporal(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written.* Name another place by cache=") as caught:
        ImageSequences.open(tmp_path, tmp_path / "file")
    assert "\n" not in str(caught.value)


PARTS: dict[str, tuple[str, Callable[[], Any], str]] = {
    "unknown": (
        "validation",
        drawn_sequences,
        "'validation' is no part for ImageSequences; call it one of train",
    ),
    "sequences as triplets": ("val_triplets_coarse", drawn_sequences, "no part for ImageSequences"),
    "triplets as sequences": (
        "val",
        drawn_triplets,
        "no part for ImageTriplets; call it one of val_triplets_c",
    ),
    "steps that are not independent": (
        "val_indep",
        drawn_sequences,
        "sequences of 5 steps; independent scenes",
    ),
}


@pytest.mark.parametrize(("name", "make", "message"), PARTS.values(), ids=PARTS)
def test_bad_parts_are_not_written(tmp_path: Path, name: str, make: Callable[[], Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path, {"train": drawn_sequences(), name: make()})
    assert not list(tmp_path.iterdir())


def test_arrays_that_do_not_fit_are_refused() -> None:
    made, drawn = drawn_sequences(), latent_dynamics(4, 5, seed=0)
    parts: list[Any] = [made.images, made.latents, made.shapes, made.interventions]
    with pytest.raises(DataError, match="There are 19 images for 4 sequences of 5 steps"):
        ImageSequences(parts[0][1:], *parts[1:])
    with pytest.raises(DataError, match="frames name image 20 of 20"):
        ImageSequences(*parts, frames=made.frames + 1)
    with pytest.raises(DataError, match=r"windows\(6\) is not in 1\.\.5"):
        made.windows(6)
    triplets = latent_triplets(drawn, 3, seed=0)
    with pytest.raises(DataError, match="images, latents, shapes and sources are of"):
        ImageTriplets(pictures(4, 3), triplets)
