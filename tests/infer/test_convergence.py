"""The course of a fit: when its step size falls, how, and what a fit that is taken up again knows of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.errors import CiteVAEWarning, FitError
from pyro_citevae.guides import MeanField
from pyro_citevae.infer.convergence import Convergence, last_stretch, steps_of_screen
from pyro_citevae.infer.evidence_lower_bound import EvidenceLowerBound
from pyro_citevae.infer.fit_settings import FitSettings
from pyro_citevae.models import StaticShift


def noted(course: Convergence, bound: np.ndarray, first: int = 0) -> Convergence:
    for step, value in enumerate(bound.tolist(), first):
        course.note(step, value)
    return course


def noise(n: int, seed: int, sd: float = 5.0) -> np.ndarray:
    return -100.0 + np.random.default_rng(seed).normal(0, sd, n)


def test_a_flat_noisy_bound_starts_the_fall_at_2000_steps() -> None:
    """A difference of means exceeds three of its standard errors by chance once in 740 looks."""
    starts = [noted(Convergence(6000), noise(3000, seed)).start for seed in range(30)]
    assert starts.count(2000) >= 29


def test_a_falling_bound_starts_it_too() -> None:
    course = noted(Convergence(6000), noise(2000, 0) - 0.01 * np.arange(2000))
    assert (course.start, course.rising) == (2000, None)


def test_a_bound_that_rises_does_not_until_it_stops() -> None:
    """A rise of 5 nats in 500 steps is 16 standard errors of 5 / sqrt(250) nats; from 3,000 on it is flat."""
    bound = noise(6000, 1) + 0.01 * np.minimum(np.arange(6000), 3000)
    course = noted(Convergence(9000), bound[:3000])
    assert course.start is None
    assert course.factor(2999) == 1.0
    noted(course, bound[3000:], first=3000)
    # both halves of the last 1,000 steps lie behind the rise from 4,000 on, give or take one look
    assert 3500 <= course.start <= 4300
    assert course.rising is None


def test_a_fit_without_steps_left_falls_although_it_rises_and_says_by_how_much() -> None:
    course = noted(Convergence(3000), noise(3000, 2, sd=0.1) + 0.01 * np.arange(3000))
    assert course.start == 2000
    assert course.rising == pytest.approx(5.0, abs=0.1)
    assert course.is_done(3000)
    assert not course.is_done(2999)


@pytest.mark.parametrize("most", [1, 2, 35, 3000, 6000])
def test_no_fit_takes_more_steps_than_it_may(most: int) -> None:
    course = Convergence(most)
    taken = 0
    while not course.is_done(taken):
        course.note(taken, -100.0 + 0.01 * taken)
        taken += 1
    assert taken == most


@pytest.mark.parametrize("most", [35, 4000])
def test_the_step_size_stays_and_then_falls_to_nothing_along_half_a_cosine(most: int) -> None:
    course = noted(Convergence(most), noise(most, 3))
    start, end = course.start, course.start + course.length
    assert [course.factor(step) for step in (0, start // 2, start - 1, start)] == [1.0] * 4
    for step in range(start, end):
        wanted = (1 + math.cos(math.pi * (step - start) / (end - start))) / 2
        assert course.factor(step) == pytest.approx(wanted, abs=1e-12)
    assert course.factor(end) == course.factor(end + 100) == 0.0
    factors = [course.factor(step) for step in range(end + 1)]
    assert factors == sorted(factors, reverse=True)


def test_with_a_number_of_epochs_it_falls_from_the_first_step_on() -> None:
    course = noted(Convergence(120, fixed=True), np.linspace(-100, 0, 120))
    assert [course.factor(step) for step in range(121)] == pytest.approx(
        [(1 + math.cos(math.pi * step / 120)) / 2 for step in range(121)], abs=1e-12
    )
    assert course.rising is None
    assert not course.losses


@pytest.mark.parametrize("broken_off", [10, 999, 1950, 2500, 3900])
def test_a_course_that_is_taken_up_goes_on_as_if_it_had_not_been_broken_off(broken_off: int) -> None:
    bound = noise(5000, 4) + 0.01 * np.minimum(np.arange(5000), 2500)
    whole = noted(Convergence(6000), bound)
    first = noted(Convergence(6000), bound[:broken_off])
    second = Convergence(6000)
    second.resume(first.state())
    noted(second, bound[broken_off:], first=broken_off)
    assert second.state() == whole.state()
    assert whole.start is not None


def test_a_state_is_a_copy() -> None:
    course = noted(Convergence(6000), noise(10, 0))
    state = course.state()
    course.note(10, 0.0)
    assert len(state["losses"]) == 10


@pytest.mark.parametrize(("n_batches", "steps"), [(1, 7000), (2333, 7000), (2334, 7002), (50_000, 150_000)])
def test_a_large_screen_is_gone_through_three_times(n_batches: int, steps: int) -> None:
    assert steps_of_screen(n_batches) == steps


# in a fit, whose rounds are of 20 steps here


def fitted(**settings: object) -> cv.Posterior:
    data = simulated()
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    options = {"batch_size": 16, "progress": False, "validation": 0.0}
    return cv.fit(model, MeanField(model, hidden=4), data, **{**options, **settings})


@pytest.fixture
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_citevae.infer.minibatches._STEPS_A_ROUND", 20)


@pytest.mark.filterwarnings("ignore:the bound was still rising")
@pytest.mark.parametrize("most", [1, 7, 50])
def test_a_fit_takes_the_steps_that_it_is_given(short_rounds: None, most: int) -> None:
    """Sixty cells in minibatches of 16 are four steps: a fit may end amid a pass."""
    posterior = fitted(max_steps=most)
    assert posterior.record["course"]["steps"] == most
    assert posterior.history["step"].iloc[-1] == most
    assert not posterior.record["course"]["fixed"]


@pytest.mark.filterwarnings("ignore:the bound was still rising")
def test_the_history_has_a_row_a_round_and_counts_passes(short_rounds: None) -> None:
    history = fitted(max_steps=50).history
    assert history["step"].tolist() == [20, 40, 50]
    # four steps are a pass, of which five are a row
    assert history["epoch"].tolist() == [0, 5, 10]
    assert np.isfinite(history[["training", "gradient_norm"]]).all(axis=None)


def test_epochs_are_passes_as_ever() -> None:
    posterior = fitted(max_epochs=3)
    assert posterior.history["epoch"].tolist() == [0, 1, 2]
    assert posterior.history["step"].tolist() == [4, 8, 12]
    assert posterior.record["course"] == {"steps": 12, "fixed": True, "rising": None}


def test_a_fit_that_ends_too_early_says_so_and_how_long_to_fit() -> None:
    with pytest.warns(CiteVAEWarning, match=r"still rising, .* when the 60 steps .* max_steps=120"):
        posterior = fitted(max_steps=60, kl_start=1.0)
    assert posterior.record["course"]["rising"] > 0


@pytest.mark.filterwarnings("ignore:the bound was still rising")
def test_warm_up_is_a_share_of_the_shortest_fit(short_rounds: None) -> None:
    """Of 3,000 steps, or of all where a fit is given fewer: the weight is 1 from there on."""
    history = fitted(max_steps=80, kl_warmup=0.5, kl_start=0.2).history
    np.testing.assert_allclose(history["kl_weight"], 0.2 + 0.8 * np.minimum(1.0, history["step"] / 40))


@pytest.mark.parametrize(("most", "steps"), [(7000, 1000), (4000, 1000), (400, 100), (7, 1), (3, 0)])
def test_the_last_stretch_is_a_quarter_of_a_short_fit(most: int, steps: int) -> None:
    assert last_stretch(most) == steps


@pytest.mark.filterwarnings("ignore:the bound was still rising")
def test_the_last_stretch_sees_all_cells_and_the_rest_of_the_fit_does_not(
    short_rounds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound of minibatches notes which cells it is of."""
    seen: list[set[int]] = []
    noted = EvidenceLowerBound.training_step

    def step(module: EvidenceLowerBound, batch: cv.data.Batch, i: int) -> object:
        seen.append(set(batch.index.tolist()))
        return noted(module, batch, i)

    monkeypatch.setattr(EvidenceLowerBound, "training_step", step)
    posterior = fitted(max_steps=80, validation=0.25)
    assert len(seen) == posterior.record["course"]["steps"] == 80
    before, after = set().union(*seen[:60]), set().union(*seen[60:])
    assert len(before) < 0.85 * 60
    assert len(after) == 60


@pytest.mark.filterwarnings("ignore:the bound was still rising")
@pytest.mark.parametrize("sampler", ["uniform", "balanced"])
@pytest.mark.parametrize("step", [45, 65], ids=["before the last stretch", "in the last stretch"])
def test_a_fit_that_was_broken_off_goes_on_to_the_same_end(
    short_rounds: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, step: int
) -> None:
    options = {"max_steps": 80, "sampler": sampler, "validation": 0.25}
    whole = fitted(**options)
    noted, calls = Convergence.note, iter(range(1000))

    def broken_off(course: Convergence, at: int, bound: float) -> None:
        if next(calls) == step:
            raise KeyboardInterrupt
        noted(course, at, bound)

    with monkeypatch.context() as patched, pytest.raises((KeyboardInterrupt, SystemExit)):
        patched.setattr(Convergence, "note", broken_off)
        fitted(**options, checkpoints=tmp_path)
    again = fitted(**options, checkpoints=tmp_path, resume=True)
    pd.testing.assert_frame_equal(again.history, whole.history)
    assert again.history["step"].is_monotonic_increasing
    assert again.record["course"] == whole.record["course"]
    for name, value in whole.model.state_dict().items():
        assert value.equal(again.model.state_dict()[name])
    assert again.discrepancy is not None
    assert whole.discrepancy is not None
    np.testing.assert_array_equal(again.discrepancy.effect, whole.discrepancy.effect)
    ended = fitted(**options, checkpoints=tmp_path, resume=True)
    assert ended.record["course"] == whole.record["course"]


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        ({"max_epochs": 3, "max_steps": 100}, r"fit\(max_epochs=3, max_steps=100\) says twice how long"),
        ({"max_steps": 0}, r"fit\(max_steps=0\) must be positive"),
        ({"batch_size": 0}, r"fit\(batch_size=0\) must be positive"),
        ({"validation": -0.1}, r"fit\(validation=-0.1\) must be a share"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, phrase: str) -> None:
    with pytest.raises(FitError, match=phrase):
        fitted(**settings)


@pytest.mark.parametrize(
    ("n_cells", "size"), [(1, 64), (60, 64), (640, 64), (1200, 128), (2560, 256), (10**7, 256)]
)
def test_a_minibatch_is_a_tenth_of_the_cells_within_limits(n_cells: int, size: int) -> None:
    assert FitSettings().minibatch(n_cells) == size
    assert FitSettings(batch_size=50).minibatch(n_cells) == min(50, n_cells)
