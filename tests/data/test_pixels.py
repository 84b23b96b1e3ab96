"""Images as data: rows that are read when asked for, and the program that makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

import pyro_citevae as cv
from pyro_citevae.data.pixels import Pixels
from pyro_citevae.errors import CiteVAEError, DataError, ModelError
from pyro_citevae.guides import Framewise
from pyro_citevae.infer.unmixing import smoothed_states
from pyro_citevae.models import ImageSequence
from pyro_citevae.nn.networks import ImageDecoder, ImageEncoder
from pyro_citevae.scenes.dynamics import COARSE, FACTORS, SoftEffects, latent_dynamics
from pyro_citevae.scenes.sequences import ImageSequences

N, T, SIDE = 12, 3, 8


def drawn_images(n: int = N * T) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def sequences(images: np.ndarray | None = None) -> ImageSequences:
    latent = latent_dynamics(N, T, seed=0, interventions="soft", effects=SoftEffects.draw(3, seed=0))
    return ImageSequences(drawn_images() if images is None else images, *vars(latent).values())


def blobs(n: int = 300, seed: int = 0) -> tuple[cv.Trajectories, np.ndarray]:
    """Two patches whose brightness is a program each; each of two environments shifts one."""
    rng = np.random.default_rng(seed)
    environment = np.arange(n) % 3
    z = np.zeros((n, 4, 2))
    z[:, 0] = rng.normal(size=(n, 2))
    shift = np.array([[0, 0], [1.5, 0], [0, 1.5]])[environment]
    for t in range(1, 4):
        z[:, t] = 0.5 * z[:, t - 1] + shift + 0.5 * rng.normal(size=(n, 2))
    share = 1 / (1 + np.exp(-z))
    images = np.full((n, 4, SIDE, SIDE, 3), 30, dtype=np.uint8)
    for k, place in enumerate((slice(0, 4), slice(4, 8))):
        images[:, :, place, 2:6] = (255 * share[..., k]).astype(np.uint8)[..., None, None, None]
    latent = latent_dynamics(n, 4, seed=0, interventions="soft", effects=SoftEffects.draw(3, seed=0))
    shown = ImageSequences(images, latent.latents, latent.shapes, latent.interventions, environment)
    return shown.trajectories(), z


# Rows ---------------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_dense_array() -> None:
    images, frames = drawn_images(), np.array([5, 5, 0, 30])
    pixels = Pixels(images, frames)
    dense = images.reshape(len(images), -1)[frames] / np.float32(255)
    np.testing.assert_allclose(pixels.toarray(), dense, rtol=1e-6)
    np.testing.assert_allclose(pixels[np.array([3, 1])].toarray(), dense[[3, 1]], rtol=1e-6)
    np.testing.assert_allclose(pixels[1:3].toarray(), dense[1:3], rtol=1e-6)
    np.testing.assert_allclose(pixels.sum(0), dense.sum(0), rtol=1e-5)
    np.testing.assert_allclose(pixels.sum(), dense.sum(), rtol=1e-5)
    np.testing.assert_allclose(pixels.sum(1), dense.sum(1), rtol=1e-6)
    np.testing.assert_allclose(pixels.of_columns(np.array([3, 0])).toarray(), dense[:, [3, 0]], rtol=1e-6)
    np.testing.assert_allclose(pixels.tocsr().toarray(), dense, rtol=1e-6)


def test_blocks_hold_every_row_once_in_order() -> None:
    frames = np.arange(1000) % 7
    blocks = [block.frames for block in Pixels(drawn_images(7), frames).blocks()]
    assert max(map(len, blocks)) < 1000
    assert (np.concatenate(blocks) == frames).all()


def test_a_batch_holds_the_images_of_its_cells_in_slots() -> None:
    images = drawn_images()
    data = sequences(images).trajectories()
    batch = data.batch(np.array([7, 2]))
    assert batch.x is not None
    expected = images.reshape(N, T, -1)[[7, 2]].swapaxes(0, 1) / 255
    np.testing.assert_allclose(batch.x.dense, expected, rtol=1e-6)
    np.testing.assert_allclose(batch.x.to("cpu").dense, batch.x.dense)


def test_missing_images_are_zero_and_not_observed() -> None:
    data = sequences().trajectories()
    kept = data.rows((data.row_cell != 4) | (data.row_step != 1))
    batch = kept.batch(np.array([3, 4]))
    assert batch.x is not None
    assert batch.observed[1].tolist() == [True, False]
    assert not batch.x.dense[1, 1].any()


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    class Watched(np.ndarray):
        reads: list[int]

        def __getitem__(self, key):  # type: ignore[no-untyped-def]
            if isinstance(key, np.ndarray):
                self.reads.extend(key.tolist())
            return super().__getitem__(key)

    images = drawn_images().view(Watched)
    images.reads = []
    data = sequences(np.asarray(images)).trajectories()
    data = replace(data, values=Pixels(images, np.arange(N * T)))
    kept = data.select("environment_1").cells(np.array([0]))
    assert images.reads == []
    kept.batch()
    assert images.reads == [3, 4, 5]  # the three steps of the second sequence


def test_the_digest_follows_every_pixel() -> None:
    images = drawn_images()
    before = sequences(images).trajectories().digest
    assert sequences(images.copy()).trajectories().digest == before
    images[-1, -1, -1, -1] ^= 1
    assert sequences(images).trajectories().digest != before


def test_environments_are_perturbations_from_the_first_step_on() -> None:
    data = sequences().trajectories()
    assert data.schema.image == (SIDE, SIDE, 3)
    assert data.labels[:4].tolist() == ["control", "environment_1", "environment_2", "control"]
    u = data.batch(np.array([2])).u[:, 0]
    assert u.tolist() == [[0, 0], [0, 1], [0, 1]]
    assert data.row_step[:4].tolist() == [0, 1, 2, 0]


def pairs(n: int = 30) -> ImageSequences:
    """Overlapping pairs of one series under perfect interventions."""
    latent = latent_dynamics(1, n, seed=0)
    series = ImageSequences(drawn_images(n), latent.latents, latent.shapes, latent.interventions)
    return series.windows(2, stride=1)


def test_interventions_on_the_step_of_a_pair_are_its_perturbations() -> None:
    shown = pairs()
    data = shown.trajectories("interventions")
    assert set(data.schema.tokens) <= set(COARSE)
    for i, label in enumerate(data.labels):
        done = {FACTORS[f] for f in np.flatnonzero(shown.interventions[i, 1])}
        given = set() if label == "control" else set(label.split("+"))
        assert given == {group for group, members in COARSE.items() if done & set(members)}
    u = data.batch().u
    assert not u[0].any()
    assert u[1].sum(1).tolist() == [0 if one == "control" else one.count("+") + 1 for one in data.labels]


def test_overlapping_windows_share_their_images() -> None:
    shown = pairs(6)
    assert shown.frames.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]
    np.testing.assert_array_equal(shown.latents[1:, 0], shown.latents[:-1, 1])
    np.testing.assert_array_equal(shown.interventions[1:, 0], shown.interventions[:-1, 1])


def test_scenes_of_one_step_are_read_by_the_schema_of_others() -> None:
    data = pairs().trajectories("interventions")
    scenes = pairs().windows(1)
    found = scenes.trajectories("interventions", data.schema)
    assert found.schema == data.schema
    assert set(found.labels) == {"control"}
    batch = found.batch(np.array([3]))
    assert batch.observed[:, 0].tolist() == [True, False]
    assert batch.x is not None
    np.testing.assert_allclose(batch.x.dense[0, 0] * 255, scenes.read(np.array([3])).ravel(), rtol=1e-5)


def test_a_schema_of_images_survives_json_and_others_stay_as_they_were() -> None:
    schema = sequences().trajectories().schema
    assert cv.Schema.from_json(schema.to_json()) == schema
    assert "image" not in cv.simulate(n_cells=12).data.schema.to_json()


# Networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [(64, 64, 3), (16, 8, 1), (8, 8, 3), (5, 7, 2), (1, 2, 3)])
def test_networks_take_any_image_and_any_leading_axes(image: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    n = int(np.prod(image))
    encoder, decoder = ImageEncoder(image, 2, 5), ImageDecoder(4, image, 16)
    x, z = torch.rand(2, 3, n + 2), torch.randn(2, 3, 4)
    assert encoder(x).shape == (2, 3, 5)
    made = decoder(z)
    assert made.shape == (2, 3, n)
    assert bool(((made > 0) & (made < 1)).all())
    torch.testing.assert_close(encoder(x)[1, 2], encoder(x[1, 2]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made[1, 2], decoder(z[1, 2]), rtol=1e-4, atol=1e-5)


def test_an_encoder_sees_an_image_as_it_is_flattened() -> None:
    encoder = ImageEncoder((8, 8, 3), 0, 4)
    image = torch.rand(8, 8, 3)
    shown = encoder.convolutions(image.movedim(-1, 0)[None] - 0.5)  # from grey
    torch.testing.assert_close(encoder(image.flatten()), encoder.head(shown)[0])


def test_networks_see_small_objects_before_they_give_up() -> None:
    """One object on a plain ground is 3 % of the pixels: with plain channels, 300 steps see none."""
    torch.manual_seed(0)
    side, image = 32, (32, 32, 3)
    x = torch.full((256, *image), 0.35)
    for shown, (row, column) in zip(x, torch.randint(0, side - 6, (256, 2)), strict=True):
        shown[row : row + 6, column : column + 6] = torch.tensor([0.8, 0.2, 0.6])
    x = x.flatten(1)
    encoder, decoder = ImageEncoder(image, 0, 16), ImageDecoder(16, image, 64)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 2e-3)
    for _ in range(220):
        rows = torch.randint(0, len(x), (64,))
        loss = (decoder(encoder(x[rows])) - x[rows]).square().mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        missed = (decoder(encoder(x)) - x).square().mean()
    assert float(missed / (x - x.mean(0)).square().mean()) < 0.6  # 1 is the mean image for all


# The model ----------------------------------------------------------------------------------------------


def fitted(data: cv.Trajectories, epochs: int = 1, **settings: object) -> cv.Posterior:
    torch.manual_seed(0)
    model = ImageSequence(data.schema, **{"n_programs": 2, "n_invariant": 0, "hidden": 32, **settings})
    guide = Framewise(model, hidden=32)
    options = {"learning_rate": 0.003, "batch_size": 32, "validation": 0.0, "progress": False}
    return cv.fit(model, guide, data, max_epochs=epochs, **options)


@pytest.mark.slow
def test_states_and_effects_are_found_in_images() -> None:
    data, z = blobs(600)
    posterior = fitted(data, epochs=40)
    found = smoothed_states(posterior, data).reshape(-1, 2)
    true = z[:, 1:].swapaxes(0, 1).reshape(-1, 2)
    # the space of the states: which axes of it are programs takes infer.unmix
    assert LinearRegression().fit(found, true).score(found, true) > 0.9
    effect = (
        posterior.effect(cv.do("environment_1"), draws=20).mean(("chain", "draw")).to_numpy().reshape(8, 8, 3)
    )
    # the upper patch brightens: 1.5 / (1 - 0.5) at most, a third of the range and more
    assert effect[:4, 2:6].mean() > 0.2
    assert abs(effect[4:, 2:6].mean()) < 0.1
    assert abs(effect[:, :2].mean()) < 0.05


def test_a_run_saves_and_loads(tmp_path: Path) -> None:
    data, _ = blobs(24)
    targets = [[1, 0], [0, 1]]
    posterior = fitted(data, targets=targets)
    posterior.save(tmp_path / "run")
    loaded = cv.load(tmp_path / "run")
    assert loaded.bound(data) == posterior.bound(data)
    assert loaded.model.settings["targets"] == targets


def test_known_targets_leave_other_programs_alone() -> None:
    data, _ = blobs(24)
    model = ImageSequence(data.schema, n_programs=2, n_invariant=0, targets=[[1, 0], [0, 1]], hidden=16)
    mechanism = model.mechanism()
    assert mechanism.a[0, 1] == mechanism.a[1, 0] == mechanism.b[0, 1] == 0
    assert mechanism.a[0, 0] != 0


def test_a_perfect_intervention_cuts_its_targets_off_from_their_past() -> None:
    data, _ = blobs(24)
    options = {"n_programs": 2, "n_invariant": 0, "targets": [[1, 0], [0, 1]], "hidden": 16}
    model = ImageSequence(data.schema, perfect=True, **options)
    mechanism = model.mechanism()
    u = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])

    def means(past: float) -> torch.Tensor:
        return model.transition(mechanism, [torch.full((3, 2), past)], u).mean

    moved = means(3.0) != means(0.0)
    assert moved.tolist() == [[True, True], [False, True], [False, False]]
    soft = ImageSequence(data.schema, **options)
    z = [torch.ones(3, 2)]
    torch.testing.assert_close(soft.transition(mechanism, z, u).mean[0], means(1.0)[0])


def test_without_time_the_past_does_not_matter() -> None:
    data, _ = blobs(24)
    model = ImageSequence(data.schema, n_programs=2, n_invariant=0, time=False, hidden=16)
    mechanism, u = model.mechanism(), torch.ones(5, 2)
    one, other = (model.transition(mechanism, [torch.full((5, 2), x)], u).mean for x in (0.0, 3.0))
    torch.testing.assert_close(one, other)


# Bad input ----------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[type[CiteVAEError], str, Callable[[], object]]] = {
    "no images": (
        ModelError,
        r"ImageSequence\(schema\) needs images",
        lambda: ImageSequence(cv.simulate(n_cells=12).data.schema),
    ),
    "targets of other programs": (
        ModelError,
        r"targets=...\) has shape \(1, 3\), expected a row for each of 2 tokens and a column for each of 2",
        lambda: ImageSequence(sequences().trajectories().schema, n_programs=2, targets=[[1, 0, 0]]),
    ),
    "an image of other values": (
        DataError,
        r"Schema\(image=\(2, 2, 3\)\) does not have 1 values",
        lambda: cv.Schema(("g",), ("A",), image=(2, 2, 3)),
    ),
    "one step": (
        DataError,
        r"trajectories\(\) of one step show no dynamics",
        lambda: sequences().windows(1).trajectories(),
    ),
    "tokens of another kind": (
        DataError,
        r"trajectories\('genes'\) is neither 'environments' nor 'interventions'",
        lambda: sequences().trajectories("genes"),
    ),
    "interventions of more than a pair": (
        DataError,
        r"of 3 steps would keep up what a step does once; cut them into pairs by windows\(2, stride=1\)",
        lambda: sequences().trajectories("interventions"),
    ),
    "a schema of other images": (
        DataError,
        r"trajectories\(schema=...\) is of images of \(1, 2, 3\)",
        lambda: sequences().trajectories(
            schema=cv.Schema(tuple("abcdef"), ("environment_1", "environment_2"), image=(1, 2, 3))
        ),
    ),
    "a schema of other tokens": (
        DataError,
        r"and tokens \('environment_1', 'environment_2'\), these are of",
        lambda: pairs().trajectories("interventions", sequences().trajectories().schema),
    ),
    "windows that do not move on": (
        DataError,
        r"windows\(stride=0\) does not move on",
        lambda: sequences().windows(2, 0),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_named(case: str) -> None:
    error, phrase, call = WRONG[case]
    with pytest.raises(error, match=phrase):
        call()
