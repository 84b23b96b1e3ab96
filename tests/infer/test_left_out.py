"""Tokens that are left out in turn: what of their forecast is believed; and the model is left as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.data.groups import Groups
from pyro_citevae.guides import MeanField
from pyro_citevae.infer.counterfactuals import Counterfactuals
from pyro_citevae.infer.left_out import CorrectedGroups, LeftOut, _mean_of_others, _shares, _unseen
from pyro_citevae.models import StaticShift

N_TOKENS, N_TIMES, N_GENES = 20, 2, 50


def effects(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N_TOKENS, N_TIMES, N_GENES))


def shares_of(delta: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    return _shares(delta, _mean_of_others(delta), forecast, np.zeros_like(delta))[0]


@pytest.mark.parametrize("seed", range(5))
def test_of_tokens_that_have_nothing_in_common_next_to_nothing_is_forecast(seed: int) -> None:
    """100 values a token and 20 of them: a share by chance has a standard error of 1 / sqrt(2000) = 0.02."""
    delta, forecast = effects(seed), effects(seed + 100)
    others = _mean_of_others(delta)
    found, _ = _shares(delta, others, forecast, np.zeros_like(delta))
    assert np.linalg.norm(found[0] * others + found[1] * forecast) < 0.1 * np.linalg.norm(delta)


def test_tokens_that_share_one_effect_are_forecast_by_their_mean() -> None:
    shared = effects()[:1]
    found = shares_of(shared + 0.1 * effects(1), effects(2))
    assert found[0] > 0.9
    assert found[1] == pytest.approx(0, abs=0.05)


def test_a_program_that_forecasts_right_is_believed() -> None:
    delta = effects()
    found = shares_of(delta, delta + 0.1 * effects(1))
    assert found[1] > 0.9
    assert found[0] == pytest.approx(0, abs=0.05)


def test_a_forecast_of_twice_the_size_is_believed_by_half() -> None:
    delta = effects()
    assert shares_of(delta, 2 * delta)[1] == pytest.approx(0.5, abs=0.03)


def test_a_forecast_in_the_wrong_direction_is_not_believed() -> None:
    delta = effects()
    assert shares_of(delta, -delta)[1] == 0.0


def test_one_token_that_is_forecast_right_does_not_outvote_the_others() -> None:
    """However large it is; by the sum of squares it would."""
    delta, forecast = effects(), effects(1)
    delta[3] *= 30
    forecast[3] = delta[3]
    assert shares_of(delta, forecast).max() <= 0.1


def test_every_token_counts_the_same_however_large_its_effect_is() -> None:
    delta, forecast = effects(), effects() + 0.5 * effects(1)
    size = np.exp(np.random.default_rng(2).normal(0, 3, (N_TOKENS, 1, 1)))
    zero = np.zeros_like(delta)
    np.testing.assert_allclose(
        _shares(size * delta, zero, size * forecast, np.zeros_like(size * delta))[0],
        _shares(delta, zero, forecast, np.zeros_like(delta))[0],
    )


def test_times_at_which_a_token_was_not_measured_do_not_count() -> None:
    shared = np.broadcast_to(effects()[:1], (N_TOKENS, N_TIMES, N_GENES)).copy()
    shared[::3, 1] = np.nan
    others = _mean_of_others(shared)
    known = np.isfinite(shared)
    np.testing.assert_allclose(others[known], shared[known])
    found, _ = _shares(shared, others, np.where(known, effects(1), np.nan), np.zeros_like(others))
    assert found[0] > 0.9


def test_fewer_than_five_tokens_say_nothing() -> None:
    delta = effects()[:4]
    np.testing.assert_array_equal(shares_of(delta, delta), 0.0)


# a model


def fitted(data: cv.Trajectories, **settings: Any) -> cv.Posterior:
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    options = {"max_epochs": 2, "progress": False} | settings
    return cv.fit(model, MeanField(model, hidden=4), data, **options)


@pytest.fixture(scope="module")
def data() -> cv.Trajectories:
    return simulated(n_cells=200, n_perturbations=5, combinations=("gene_0+gene_1",))


@pytest.fixture(scope="module")
def posterior(data: cv.Trajectories) -> cv.Posterior:
    return fitted(data, validation=0.0)


def groups_of(data: cv.Trajectories, posterior: cv.Posterior) -> CorrectedGroups:
    """Groups with their effects, of a discrepancy that is nothing."""
    groups = Groups.of(data)
    control = np.array([groups.labels.index("control") + int(t) - 1 for t in groups.times])
    zero = np.zeros_like(groups.level)
    return CorrectedGroups(
        groups=groups,
        schedules={one.label("control"): one for one in data.conditions},
        control_label="control",
        control=control,
        population=groups.level,
        shift=zero,
        sd=zero + 0.1,
        sampled=zero + 0.01,
        effect=groups.level - groups.level[control],
        spread=zero[0] + 0.1,
    )


def test_the_model_is_left_as_it_was(posterior: cv.Posterior, data: cv.Trajectories) -> None:
    before = posterior.model.seen.clone()
    found = LeftOut.learnt(posterior.members, data, groups_of(data, posterior), 0)
    assert found.tokens == tuple(f"gene_{i}" for i in range(5))
    assert posterior.model.seen.equal(before)
    assert fitted(data).model.seen.all()


def test_the_model_is_left_as_it_was_although_a_forecast_fails(
    posterior: cv.Posterior, data: cv.Trajectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = []

    def fails(roll: Counterfactuals, _: object) -> np.ndarray:
        unseen.append(posterior.model.seen.tolist())
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Counterfactuals, "pseudobulk", fails)
    before = posterior.model.seen.clone()
    with pytest.raises(RuntimeError, match="out of memory"):
        LeftOut.learnt(posterior.members, data, groups_of(data, posterior), 0)
    assert unseen == [[False, True, True, True, True]]
    assert posterior.model.seen.equal(before)


def test_a_token_is_unseen_within_and_seen_again_behind(posterior: cv.Posterior) -> None:
    model = posterior.model
    with _unseen(model, ("gene_1", "gene_3")):
        assert model.seen.tolist() == [True, False, True, False, True]
    assert model.seen.all()


def test_what_a_left_out_token_misses_is_its_effect_less_its_forecast(
    posterior: cv.Posterior, data: cv.Trajectories
) -> None:
    """Where nothing is believed, that is its effect; and never its own transcript."""
    found = groups_of(data, posterior)
    left = LeftOut.learnt(posterior.members, data, found, 0)
    assert left.residual.shape == (5, 3, data.schema.n_genes)
    for q, token in enumerate(left.tokens):
        own = data.schema.genes.index(token)
        np.testing.assert_array_equal(left.residual[q, :, own], 0.0)
        np.testing.assert_array_equal(left.residual_sd[q, :, own], 0.0)
        if not left.shares.any():
            effect = np.stack([found.effect[found.at[token, time]] for time in left.times.tolist()])
            np.testing.assert_allclose(np.delete(left.residual[q], own, 1), np.delete(effect, own, 1))


def test_the_draws_of_a_forecast_follow_the_seed(posterior: cv.Posterior, data: cv.Trajectories) -> None:
    found = groups_of(data, posterior)
    one, same = (LeftOut.learnt(posterior.members, data, found, 1) for _ in range(2))
    np.testing.assert_array_equal(one.residual, same.residual)
    np.testing.assert_array_equal(one.pair, same.pair)


def test_pairs_that_miss_more_are_forecast_more_widely(
    posterior: cv.Posterior, data: cv.Trajectories
) -> None:
    """The forecast here is the measured effect itself; then the pair's effect is moved, and no other."""
    found = groups_of(data, posterior)
    moved = found.effect.copy()
    for (label, *_), i in found.at.items():
        if label == "gene_0+gene_1":
            moved[i] += 3.0
    missing = replace(found, effect=moved)
    right, wrong = (LeftOut.learnt(posterior.members, data, one, 0) for one in (found, missing))
    parts = np.array([found.spread.mean() ** 2, 1.0, right.size.mean()])
    assert wrong.pair @ parts > 2 * right.pair @ parts
    assert (right.pair >= 0).all()


def test_without_pairs_their_variance_is_the_prior(data: cv.Trajectories) -> None:
    alone = data.rows(data.row_labels != "gene_0+gene_1")
    posterior = fitted(alone)
    assert posterior.discrepancy is not None
    np.testing.assert_array_equal(posterior.discrepancy.left_out.pair, [1.0, 0.25, 0.05])


def test_a_token_counts_by_what_can_be_seen_of_it() -> None:
    """Where noise is all that a measurement shows, an effect of another direction forbids no mean."""
    delta = np.concatenate([np.repeat(effects()[:1], 10, axis=0), 1e-3 * effects(1)[:10]])
    noise = np.full_like(delta, 4.0)
    found, _ = _shares(delta, _mean_of_others(delta), effects(2), noise)
    assert found[0] > shares_of(delta, effects(2))[0]


def sized(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Effects, and forecasts of five sizes, each right by its share of the forecast and noise beside it."""
    forecast = effects() * np.repeat([0.1, 0.3, 1.0, 3.0, 10.0], N_TOKENS // 5)[:, None, None]
    return share[:, None, None] * forecast + effects(1), forecast


def test_where_large_forecasts_hold_and_small_ones_do_not_they_are_believed_by_their_size() -> None:
    size = np.repeat([0.1, 0.3, 1.0, 3.0, 10.0], N_TOKENS // 5)
    delta, forecast = sized(np.where(size < 3.0, -1.0, 1.2))
    shares, half = _shares(delta, _mean_of_others(delta), forecast, np.zeros_like(delta))
    small, large = np.sqrt(N_GENES) * np.array([0.3, 10.0])
    assert half > 0
    assert shares[1] * small**2 / (small**2 + half**2) < 0.1
    assert shares[1] * large**2 / (large**2 + half**2) == pytest.approx(1.2, abs=0.15)


def test_where_size_says_nothing_it_is_not_asked() -> None:
    delta, forecast = sized(np.full(N_TOKENS, 0.5))
    shares, half = _shares(delta, _mean_of_others(delta), forecast, np.zeros_like(delta))
    assert half == 0.0
    assert shares[1] == pytest.approx(0.5, abs=0.05)
