"""Baselines: exact by hand, blind to what they are tried on, honest in their intervals, real as cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

import pyro_citevae as cv
from pyro_citevae.analysis import (
    Additive,
    Baseline,
    DampedExtrapolation,
    EffectTable,
    InterpolatedDuplicate,
    LatentAdditive,
    LinearExtrapolation,
    LinearModel,
    MatchingMean,
    MeanOfOthers,
    MeanOfSingles,
    NearestNeighbours,
    NoChange,
    Persistence,
    RidgeOnFeatures,
    ShrunkenPersistence,
    SoftmaxKernel,
    StrongerSingle,
    TechnicalDuplicate,
)
from pyro_citevae.analysis.baselines.rules import EffectRule, without_noise
from pyro_citevae.data.anndata_io import layer_names
from pyro_citevae.data.pseudobulk import effect, profile
from pyro_citevae.errors import DataError, ScheduleError

PAIRS = ("gene_0+gene_1", "gene_1+gene_2", "gene_0+gene_3")


@dataclass
class Described:
    """Features of genes, as a plain table."""

    genes: tuple[str, ...]
    values: np.ndarray


@pytest.fixture(scope="module")
def data() -> cv.Trajectories:
    return cv.simulate(
        n_cells=900, n_genes=12, n_perturbations=4, n_steps=3, effect=1.5, combinations=PAIRS, seed=2
    ).data


@pytest.fixture(scope="module")
def features(data: cv.Trajectories) -> Described:
    values = np.random.default_rng(0).normal(size=(4, 5))
    return Described(data.schema.tokens, values)


RULES: dict[str, Callable[[cv.Trajectories, Described], Baseline]] = {
    "no change": lambda data, _: NoChange(data),
    "mean of others": lambda data, _: MeanOfOthers(data),
    "matching mean": lambda data, _: MatchingMean(data),
    "additive": lambda data, _: Additive(data),
    "stronger single": lambda data, _: StrongerSingle(data),
    "mean of singles": lambda data, _: MeanOfSingles(data),
    "persistence": lambda data, _: Persistence(data),
    "linear extrapolation": lambda data, _: LinearExtrapolation(data),
    "damped extrapolation": lambda data, _: DampedExtrapolation(data),
    "shrunken persistence": lambda data, _: ShrunkenPersistence(data),
    "linear model": lambda data, _: LinearModel(data),
    "linear model on features": LinearModel,
    "ridge": RidgeOnFeatures,
    "nearest": NearestNeighbours,
    "softmax": SoftmaxKernel,
    "latent additive": lambda data, f: LatentAdditive(data, f, steps=30, folds=2),
    "technical duplicate": lambda data, _: TechnicalDuplicate(data),
    "interpolated duplicate": lambda data, _: InterpolatedDuplicate(data, data),
}


@pytest.fixture(scope="module", params=RULES)
def rule(request: pytest.FixtureRequest, data: cv.Trajectories, features: Described) -> Baseline:
    return RULES[request.param](data, features)


def at_last(data: cv.Trajectories, label: str, time: float = 3.0) -> np.ndarray:
    return effect(data.select(label, time), data.select("control", time))


def table(
    deltas: dict[tuple[str, float], np.ndarray], tokens: tuple[str, ...], variance: float = 0.0
) -> EffectTable:
    """A table of given effects."""
    values = np.array(list(deltas.values()), dtype=float)
    genes = tuple(f"other_{g}" for g in range(values.shape[1]))
    schema = cv.Schema(genes, tokens, times=tuple(sorted({time for _, time in deltas})), total=100.0)
    schedules = tuple(cv.Schedule.parse(label) for label, _ in deltas)
    times = np.array([time for _, time in deltas])
    return EffectTable(schema, schedules, times, values, np.full_like(values, variance), 0 * values)


def on(kind: type[EffectRule], found: EffectTable, *arguments: object) -> EffectRule:
    """A rule on a given table."""
    data = cv.simulate(n_cells=40, n_genes=found.delta.shape[1], n_perturbations=1, n_steps=1).data
    made = kind(replace(data, schema=found.schema), *arguments)
    made.table = found
    return made


# what every rule does


def test_effects_are_draws_around_the_rule(rule: Baseline) -> None:
    schedules = [cv.do("gene_0"), cv.do("gene_0", "gene_1")]
    made = rule.effect(schedules, time=3, draws=40, seed=1)
    assert made.dims == ("chain", "draw", "perturbation", "time", "gene")
    assert made.sizes["draw"] == 40
    for one in schedules:
        drawn = made.sel(perturbation=one.label(), time=3.0)
        np.testing.assert_allclose(drawn.mean(("chain", "draw")), rule.delta(one, 3.0), atol=1e-8)
    assert np.isfinite(made).all()


def test_equal_seeds_give_equal_draws(rule: Baseline) -> None:
    first, again, other = (rule.effect(cv.do("gene_1"), draws=5, seed=s).to_numpy() for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_an_effect_against_itself_or_of_the_control_is_zero_on_average(rule: Baseline) -> None:
    assert (rule.effect(cv.do(), draws=3).to_numpy() == 0).all()
    made = rule.effect(cv.do("gene_1"), versus=cv.do("gene_1"), draws=20)
    np.testing.assert_allclose(made.mean("draw"), 0, atol=1e-8)
    turned = rule.effect(cv.do(), versus=cv.do("gene_1"), draws=20).mean("draw")
    np.testing.assert_allclose(turned, -rule.effect(cv.do("gene_1"), draws=20).mean("draw"), atol=1e-8)


def test_predicted_cells_look_like_those_of_a_posterior(rule: Baseline, data: cv.Trajectories) -> None:
    controls = data.controls().thinned(30)
    made = rule.predict([cv.do("gene_0"), cv.do("gene_1")], cells=controls, draws=8, time=[2, 3], seed=1)
    assert made.shape == (2 * 2 * 30, 12)
    assert set(layer_names(made)) == {"mean", "sd", "q05", "q95"}
    assert list(made.obs.columns) == ["perturbation", "time", "source_cell"]
    assert made.obs["perturbation"].iloc[0] == "gene_0" and made.obs["time"].iloc[30] == 3.0
    counts = made.X.toarray()
    assert (counts == np.rint(counts)).all() and (counts >= 0).all()
    assert (made.layers["q05"] <= made.layers["q95"]).all()
    assert made.uns == {"draws": 8, "seed": 1, "time_unit": "step"}


def test_an_unknown_token_and_perturbed_cells_are_refused(rule: Baseline, data: cv.Trajectories) -> None:
    with pytest.raises(ScheduleError, match="not among the perturbations"):
        rule.effect(cv.do("gene_9"))
    with pytest.raises(DataError, match="abduction takes control cells only"):
        rule.predict(cv.do("gene_0"), cells=data)


def test_data_without_controls_have_no_effects(data: cv.Trajectories) -> None:
    with pytest.raises(DataError, match="no perturbation has two cells and two controls"):
        Persistence(data.select("gene_0"))


# cells


def test_the_pseudobulk_of_predicted_cells_has_the_effect(data: cv.Trajectories) -> None:
    controls = data.select("control", 3.0)
    rule = MeanOfOthers(data)
    made = rule.predict(cv.do("gene_0"), cells=controls, draws=2, seed=0)
    delta = rule.effect(cv.do("gene_0"), draws=2, seed=0).to_numpy()[0, :, 0, 0]
    level = np.asarray(controls.values.sum(0)).ravel()
    wanted = np.expm1(profile(level, data.schema.total) + delta).clip(min=0)
    wanted = (wanted / wanted.sum(-1, keepdims=True)).mean(0)
    found = made.layers["mean"].sum(0) / made.layers["mean"].sum()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_no_effect_leaves_the_cells_as_they_are(data: cv.Trajectories) -> None:
    controls = data.controls()
    made = MeanOfOthers(data).predict(cv.do(), cells=controls, draws=2)
    np.testing.assert_array_equal(made.X.toarray(), controls.values.toarray())
    assert (made.layers["sd"] == 0).all()


def test_predicted_cells_keep_their_depth_in_expectation(data: cv.Trajectories) -> None:
    controls = data.controls()
    made = Additive(data).predict(cv.do("gene_0", "gene_3"), cells=controls, draws=4)
    assert made.layers["mean"].sum() == pytest.approx(controls.values.sum(), rel=1e-4)


def test_real_values_are_shifted() -> None:
    real = cv.simulate(n_cells=60, n_genes=6, n_perturbations=2, n_steps=1, values="real").data
    rule = NoChange(real)
    made = rule.predict(cv.do("gene_0"), cells=real.controls(), draws=3, seed=2)
    delta = rule.effect(cv.do("gene_0"), draws=3, seed=2).to_numpy()[0, :, 0, 0]
    x = real.controls().values.toarray()
    np.testing.assert_allclose(made.X.toarray(), x, atol=1e-5)
    np.testing.assert_allclose(made.layers["sd"], np.tile(delta.std(0), (20, 1)), atol=1e-5)


# rules by hand


def test_combinations_by_hand(data: cv.Trajectories) -> None:
    a, b = at_last(data, "gene_0"), at_last(data, "gene_1")
    pair = cv.do("gene_0", "gene_1")
    np.testing.assert_allclose(Additive(data).delta(pair, 3.0), a + b)
    np.testing.assert_allclose(MeanOfSingles(data).delta(pair, 3.0), (a + b) / 2)
    stronger = a if np.linalg.norm(a) > np.linalg.norm(b) else b
    np.testing.assert_allclose(StrongerSingle(data).delta(pair, 3.0), stronger)
    sharing = ("gene_0", "gene_1", "gene_1+gene_2", "gene_0+gene_3")
    matching = np.mean([at_last(data, one) for one in sharing], axis=0)
    np.testing.assert_allclose(MatchingMean(data).delta(pair, 3.0), matching)


def test_a_member_without_cells_stands_at_the_mean_of_the_singles() -> None:
    found = table({("A", 1.0): [1.0, 0.0], ("B", 1.0): [3.0, 4.0]}, ("A", "B", "C"))
    pair = cv.do("A", "C")
    np.testing.assert_allclose(on(Additive, found).delta(pair, 1.0), [3, 2])
    np.testing.assert_allclose(on(StrongerSingle, found).delta(pair, 1.0), [1, 0])
    np.testing.assert_allclose(on(MatchingMean, found).delta(cv.do("C"), 1.0), [2, 2])


def test_damping_is_found_and_its_forecast_exact() -> None:
    start, change = np.array([1.0, -2.0]), np.array([0.5, 1.0])
    series = {("A", t): start + change * sum(0.6**i for i in range(int(t))) for t in (1.0, 2.0, 3.0, 4.0)}
    known = {key: value for key, value in series.items() if key[1] < 4}
    rule = on(DampedExtrapolation, table(known, ("A",)))
    assert rule.phi == pytest.approx(0.6)
    np.testing.assert_allclose(rule.delta(cv.do("A"), 4.0), series["A", 4.0])


def test_without_three_times_damping_is_a_half() -> None:
    rule = on(DampedExtrapolation, table({("A", 1.0): [1.0], ("A", 2.0): [3.0]}, ("A",)))
    np.testing.assert_allclose(rule.delta(cv.do("A"), 3.0), [4.0])


def test_shrunken_persistence_finds_the_mix_of_own_past_and_others() -> None:
    rng = np.random.default_rng(0)
    names = [f"P{i}" for i in range(10)]
    first = {name: rng.normal(size=40) for name in names}

    def mixed(name: str) -> np.ndarray:
        return 0.7 * first[name] + 0.4 * np.mean([first[one] for one in names if one != name], axis=0)

    found = table(
        {(name, 1.0): first[name] for name in names} | {(name, 2.0): mixed(name) for name in names},
        tuple(names),
    )
    assert on(ShrunkenPersistence, found).weights(False) == pytest.approx((0.7, 0.4), abs=0.03)


def test_the_linear_model_is_its_formula(data: cv.Trajectories) -> None:
    rule = LinearModel(data, components=4)
    at = rule.table.at(3.0)
    Y = (at.delta - at.delta.mean(0)).T
    profiles = (at.reference + at.delta).T
    U, d, _ = np.linalg.svd(profiles - profiles.mean(0), full_matrices=False)
    G = (U * d)[:, :4]
    P = np.array([sum(G[data.schema.genes.index(token)] for token in one.tokens) for one in at.schedules])
    W = np.linalg.inv(G.T @ G + 0.1 * np.eye(4)) @ G.T @ Y @ P @ np.linalg.inv(P.T @ P + 0.1 * np.eye(4))
    expected = at.delta.mean(0) + G @ W @ G[2]
    np.testing.assert_allclose(rule.delta(cv.do("gene_2"), 3.0), expected)


def test_smoothers_on_features_by_hand() -> None:
    found = table({("A", 1.0): [1.0, 0.0], ("B", 1.0): [0.0, 2.0]}, ("A", "B", "C", "D"))
    features = Described(("A", "B", "C"), np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]))
    mean, root = np.array([0.5, 1.0]), np.sqrt(0.5)
    asked = cv.do("C")
    np.testing.assert_allclose(on(SoftmaxKernel, found, features).delta(asked, 1.0), mean)
    np.testing.assert_allclose(
        on(SoftmaxKernel, found, features, 500.0).delta(cv.do("A"), 1.0), [1, 0], atol=1e-9
    )
    np.testing.assert_allclose(on(NearestNeighbours, found, features, 1).delta(cv.do("B"), 1.0), [0, 2])
    np.testing.assert_allclose(on(RidgeOnFeatures, found, features, 0.5).delta(asked, 1.0), mean + 0 * root)
    np.testing.assert_allclose(
        on(RidgeOnFeatures, found, features, 0.5).delta(cv.do("A"), 1.0), mean + ([0.5, -1.0]) / np.array(1.5)
    )
    for kind in (SoftmaxKernel, RidgeOnFeatures, NearestNeighbours):
        np.testing.assert_allclose(on(kind, found, features).delta(cv.do("D"), 1.0), mean)


# residuals


def test_noise_is_taken_from_the_residuals_by_hand() -> None:
    residuals = np.array([[2.0, 1.0], [-2.0, 1.0], [9.0, 1.0]])
    counts = np.array([[True, True], [True, True], [False, True]])
    found = without_noise(residuals, np.full((3, 2), 3.0), counts)
    np.testing.assert_allclose((found**2).mean(0), [4 - 3, 0])


@pytest.mark.parametrize("kind", [NoChange, MeanOfOthers, MatchingMean, LinearModel])
def test_a_trial_does_not_see_the_perturbation_that_it_predicts(kind: type, data: cv.Trajectories) -> None:
    rule, asked = kind(data), cv.do("gene_0")
    trials = list(rule.trials(asked, 3.0))
    assert {rule.table.labels[i] for i, _ in trials} == set(data.schema.tokens)
    for i, smaller in trials:
        assert rule.table.labels[i] not in smaller.labels


@pytest.mark.parametrize("time", [3.0, 4.0])
def test_a_trial_in_time_sees_the_past_and_the_others_present_only_where_it_is_known(
    time: float, data: cv.Trajectories
) -> None:
    rule = Persistence(data)
    trials = list(rule.trials(cv.do("gene_0"), time))
    assert len(trials) == 2 * 7
    for i, smaller in trials:
        own = smaller.named(rule.table.labels[i])
        assert (smaller.times[own] < rule.table.times[i]).all()
        assert (smaller.times >= rule.table.times[i]).any() == (time == 3.0)


def test_intervals_of_exchangeable_perturbations_cover_at_their_rate() -> None:
    rng = np.random.default_rng(1)
    n, genes, noise = 40, 300, 0.5
    truth = 2 + rng.normal(size=(n, genes))
    measured = truth + noise * rng.normal(size=truth.shape)
    names = tuple(f"P{i}" for i in range(n))
    seen = {(name, 1.0): measured[i] for i, name in enumerate(names[:-8])}
    rule = on(MeanOfOthers, table(seen, names, variance=noise**2))
    made = rule.effect([cv.do(name) for name in names[-8:]], time=1, draws=300)
    for probability in (0.5, 0.8, 0.95):
        lower, upper = np.quantile(made, [(1 - probability) / 2, (1 + probability) / 2], axis=1)[:, 0, :, 0]
        inside = (lower <= truth[-8:]) & (truth[-8:] <= upper)
        assert inside.mean() == pytest.approx(probability, abs=0.04)


def test_draws_have_the_covariance_of_the_residuals(data: cv.Trajectories) -> None:
    rule = NoChange(data)
    rho = rule.residuals(cv.do("gene_0"), 3.0)
    drawn = rule.effect(cv.do("gene_0"), draws=20000).to_numpy()[0, :, 0, 0]
    wanted = rho.T @ rho / len(rho)
    np.testing.assert_allclose(np.cov(drawn.T), wanted, atol=0.05 * wanted.max())


# duplicates and the network


def test_a_duplicate_predicts_from_one_half_and_is_scored_on_the_other(data: cv.Trajectories) -> None:
    rule = TechnicalDuplicate(data, seed=3)
    assert not set(rule.half.names) & set(rule.scored.names)
    assert rule.half.n_cells + rule.scored.n_cells == data.n_cells
    np.testing.assert_allclose(rule.delta(cv.do("gene_1"), 3.0), at_last(rule.half, "gene_1"))


def test_an_interpolated_duplicate_lies_between_the_mean_and_the_duplicate(data: cv.Trajectories) -> None:
    plain, mixed = TechnicalDuplicate(data, seed=3), InterpolatedDuplicate(data, data, seed=3)
    mean = mixed.table.at(3.0).delta.mean(0)
    far, near = (rule.delta(cv.do("gene_1"), 3.0) - mean for rule in (plain, mixed))
    alpha = float(near @ far / (far @ far))
    assert 0 < alpha < 1
    np.testing.assert_allclose(near, alpha * far)


def test_the_network_is_deterministic_and_learns(data: cv.Trajectories) -> None:
    first, again = (
        LatentAdditive(data, steps=150, folds=2, seed=4).delta(cv.do("gene_0"), 3.0) for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.corrcoef(first, at_last(data, "gene_0"))[0, 1] > 0.6


def test_the_network_gives_an_unseen_token_no_effect_without_features(
    data: cv.Trajectories, features: Described
) -> None:
    train, _ = data.hold_out(perturbations=["gene_3"])
    assert (LatentAdditive(train, steps=20, folds=2).delta(cv.do("gene_3"), 3.0) == 0).all()
    assert (LatentAdditive(train, features, steps=20, folds=2).delta(cv.do("gene_3"), 3.0) != 0).any()


def test_training_the_network_leaves_the_random_state_alone(data: cv.Trajectories) -> None:
    import torch

    before = torch.get_rng_state()
    LatentAdditive(data, steps=2, folds=2)
    assert torch.equal(before, torch.get_rng_state())
