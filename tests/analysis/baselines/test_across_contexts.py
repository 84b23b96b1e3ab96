"""Baselines across contexts: exact by hand, blind to the context they predict in, as good as said on Kang."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import pyro_citevae as cv
from pyro_citevae.analysis import (
    ContextTable,
    EffectTable,
    LatentAdditive,
    MeanOfContexts,
    NearestContext,
    NoChangeInContext,
    PooledLogRatio,
    ShrunkenMeanOfContexts,
    SimilarContexts,
    evaluate,
    measure,
)
from pyro_citevae.analysis.baselines.across_contexts import ContextRule
from pyro_citevae.errors import DataError

KINDS = (
    NoChangeInContext,
    MeanOfContexts,
    ShrunkenMeanOfContexts,
    NearestContext,
    PooledLogRatio,
    SimilarContexts,
)
SIZES = {"n_cells": 480, "n_genes": 10, "n_perturbations": 3, "n_contexts": 4, "n_steps": 1, "effect": 1.5}
HERE = "context_3"


@pytest.fixture(scope="module")
def data() -> cv.Trajectories:
    return cv.simulate(design="snapshot", context_baseline=0.5, context_mechanism=0.3, **SIZES).data


@pytest.fixture(scope="module")
def train(data: cv.Trajectories) -> cv.Trajectories:
    return data.hold_out(contexts=HERE)[0]


def on(
    kind: type[ContextRule],
    deltas: dict[tuple[str, str], list[float]],
    controls: dict[str, list[float]],
    variance: float = 0.0,
) -> ContextRule:
    """A rule on given effects by context and perturbation; the last of the controls is where to predict."""
    values, profiles = (
        np.array(list(deltas.values()), dtype=float),
        {c: np.array(b) for c, b in controls.items()},
    )
    target, n = list(controls)[-1], values.shape[1]
    made = kind(cv.simulate(**SIZES).data, HERE)
    tokens = tuple(dict.fromkeys(label for _, label in deltas))
    schema = cv.Schema(tuple(f"other_{g}" for g in range(n)), (*tokens, "new"), total=100.0)
    schedules = tuple(cv.do(label) for _, label in deltas)
    reference = np.array([profiles[context] for context, _ in deltas])
    effects = EffectTable(
        schema, schedules, np.ones(len(values)), values, np.full_like(values, variance), reference
    )
    made.data = replace(made.data, schema=schema)
    contexts = np.array([context for context, _ in deltas], dtype=object)
    made.table = ContextTable(effects, contexts, target, {1.0: profiles[target]})
    return made


def profile_of(counts: list[float]) -> list[float]:
    return np.log1p(counts).tolist()


# by hand


THREE = {("a", "A"): [1.0, 0.0, 2.0], ("b", "A"): [3.0, 2.0, 0.0], ("c", "A"): [2.0, 1.0, 1.0]}
ALIKE_B = {"a": [3.0, 0.0, 0.0], "b": [0.0, 3.0, 0.1], "c": [0.0, 0.0, 3.0], "here": [0.0, 2.0, 0.0]}


def test_the_mean_is_that_over_contexts() -> None:
    np.testing.assert_allclose(on(MeanOfContexts, THREE, ALIKE_B).delta(cv.do("A"), 1.0), [2, 1, 1])


def test_the_nearest_context_is_that_whose_controls_correlate_most() -> None:
    np.testing.assert_allclose(on(NearestContext, THREE, ALIKE_B).delta(cv.do("A"), 1.0), [3, 2, 0])


def test_the_mean_is_shrunken_by_the_factor_that_leaving_contexts_out_supports() -> None:
    rule = on(ShrunkenMeanOfContexts, THREE, ALIKE_B)
    y = np.array(list(THREE.values()))
    m = (y.sum(0) - y) / 2
    size = (y**2).sum(1)
    factor = ((y * m).sum(1) / size).sum() / ((m**2).sum(1) / size).sum()
    assert 0 < factor < 1
    np.testing.assert_allclose(rule.delta(cv.do("A"), 1.0), factor * y.mean(0))


def test_effects_of_equal_size_are_not_shrunken_and_opposite_ones_are_taken_for_nothing() -> None:
    same = {(context, "A"): [1.0, 2.0, 0.5] for context in "abc"}
    np.testing.assert_allclose(on(ShrunkenMeanOfContexts, same, ALIKE_B).delta(cv.do("A"), 1.0), [1, 2, 0.5])
    apart = {("a", "A"): [1.0, 2.0, 0.5], ("b", "A"): [-1.0, -2.0, -0.5]}
    controls = {name: ALIKE_B[name] for name in ("a", "b", "here")}
    assert (on(ShrunkenMeanOfContexts, apart, controls).delta(cv.do("A"), 1.0) == 0).all()


def test_a_ratio_that_is_alike_everywhere_is_carried_to_other_counts() -> None:
    """Genes doubled in every context are doubled on the own counts, up to the least count and the total."""
    before = {"a": [20.0, 30.0, 50.0], "b": [10.0, 40.0, 50.0], "here": [20.0, 20.0, 60.0]}
    doubled = {c: [2 * m[0], m[1] - m[0] / 2, m[2] - m[0] / 2] for c, m in before.items()}
    deltas = {(c, "A"): np.subtract(profile_of(doubled[c]), profile_of(before[c])).tolist() for c in "ab"}
    rule = on(PooledLogRatio, deltas, {c: profile_of(m) for c, m in before.items()})
    old, new = (np.array([one[c] for c in "ab"]).mean(0) + 0.1 for one in (before, doubled))
    counts = np.array(before["here"]) * new / old
    expected = np.log1p(100 * counts / counts.sum()) - np.log1p(before["here"])
    np.testing.assert_allclose(rule.delta(cv.do("A"), 1.0), expected)
    assert expected[0] == pytest.approx(np.log(2), abs=0.1)


def test_similar_contexts_choose_whom_to_believe_and_how_much() -> None:
    """Two pairs of like contexts, and effects that each pair shares."""
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 40))
    b, d = rng.normal(3, 1, size=(2, 40))
    controls = {"a": b, "b": b + 0.01 * rng.normal(size=40), "c": d, "d": d + 0.01 * rng.normal(size=40)}
    controls |= {"here": b + 0.01 * rng.normal(size=40)}
    deltas = {("a", "A"): one, ("b", "A"): one, ("c", "A"): two, ("d", "A"): two}
    rule = on(SimilarContexts, deltas, controls)
    sharpness, *others = rule.chosen(rule.table, 1.0)
    assert sharpness >= 20 and others == [1.0, False]
    np.testing.assert_allclose(rule.delta(cv.do("A"), 1.0), one, atol=1e-8)


def test_without_likeness_similar_contexts_are_their_mean() -> None:
    flat = {name: [1.0, 1.0, 1.0] for name in ("a", "b", "c", "here")}
    found = on(SimilarContexts, THREE, flat)
    _, shrinking, ratio = found.chosen(found.table, 1.0)
    assert not ratio
    np.testing.assert_allclose(found.delta(cv.do("A"), 1.0), shrinking * np.array([2.0, 1.0, 1.0]))


def test_a_perturbation_that_no_context_has_is_the_mean_of_the_others() -> None:
    more = THREE | {("a", "B"): [0.0, 4.0, 0.0]}
    rule = on(MeanOfContexts, more, ALIKE_B)
    np.testing.assert_allclose(rule.delta(cv.do("new"), 1.0), np.mean([[0.5, 2, 1], [3, 2, 0], [2, 1, 1]], 0))
    np.testing.assert_allclose(rule.delta(cv.do("B"), 1.0), [0, 4, 0])


def test_one_other_context_is_taken_as_it_is() -> None:
    alone, controls = {("a", "A"): [1.0, 2.0, 3.0]}, {"a": ALIKE_B["a"], "here": ALIKE_B["here"]}
    for kind in (MeanOfContexts, ShrunkenMeanOfContexts, NearestContext, SimilarContexts):
        np.testing.assert_allclose(on(kind, alone, controls).delta(cv.do("A"), 1.0), [1, 2, 3])


# trials and intervals


@pytest.mark.parametrize("seen", [True, False])
def test_a_trial_does_not_see_the_context_that_it_predicts_in(seen: bool, train: cv.Trajectories) -> None:
    rule = MeanOfContexts(train, HERE)
    trials = list(rule.trials(1.0, seen=seen))
    assert {rule.table.contexts[i] for i, _ in trials} == {"context_0", "context_1", "context_2"}
    assert len(trials) == 9
    for i, smaller in trials:
        assert smaller.target == rule.table.contexts[i] not in smaller.contexts
        assert smaller.has(rule.table.effects.labels[i]) == seen


def test_intervals_over_exchangeable_contexts_cover_at_their_rate() -> None:
    rng = np.random.default_rng(1)
    n, genes, noise = 40, 300, 0.5
    truth = 2 + rng.normal(size=(n, genes))
    measured = truth + noise * rng.normal(size=truth.shape)
    names = [f"c{i}" for i in range(n)]
    controls = {name: rng.normal(size=genes) for name in (*names, "here")}
    deltas = {(name, "A"): measured[i] for i, name in enumerate(names)}
    rule = on(MeanOfContexts, deltas, controls, variance=noise**2)
    draws = rule.effect(cv.do("A"), draws=400).to_numpy()[0, :, 0, 0]
    new = 2 + rng.normal(size=(20, genes))
    for probability in (0.5, 0.8, 0.95):
        lower, upper = np.quantile(draws, [(1 - probability) / 2, (1 + probability) / 2], axis=0)
        assert ((lower <= new) & (new <= upper)).mean() == pytest.approx(probability, abs=0.03)


# what every rule does


@pytest.mark.parametrize("kind", KINDS)
def test_effects_are_draws_around_the_rule_in_its_context(kind: type, train: cv.Trajectories) -> None:
    rule, asked = kind(train, HERE), [cv.do("gene_0"), cv.do("gene_1")]
    made = rule.effect(asked, draws=30, seed=1)
    assert made.dims == ("chain", "draw", "perturbation", "time", "gene")
    named = rule.effect(asked, draws=30, seed=1, context=HERE)
    assert named.dims == ("chain", "draw", "context", "perturbation", "time", "gene")
    np.testing.assert_array_equal(named.isel(context=0).to_numpy(), made.to_numpy())
    for one in asked:
        drawn = made.sel(perturbation=one.label(), time=1.0)
        np.testing.assert_allclose(drawn.mean(("chain", "draw")), rule.delta(one, 1.0), atol=1e-8)
    assert (made.std("draw") > 0).any()
    cells = rule.predict(asked, cells=train.select("control", context=HERE).thinned(20), draws=4)
    counts = cells.X.toarray()
    assert set(cells.obs["context"]) == {HERE} and (counts == np.rint(counts)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_perturbed_cells_of_the_context_are_not_looked_at(
    kind: type, data: cv.Trajectories, train: cv.Trajectories
) -> None:
    for label in ("gene_0", "gene_1"):
        both = [kind(one, HERE).effect(cv.do(label), draws=5).to_numpy() for one in (data, train)]
        np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("kind", KINDS)
def test_real_values_have_the_rules_too(kind: type) -> None:
    real = cv.simulate(design="snapshot", values="real", **SIZES).data
    assert np.isfinite(kind(real, HERE).effect(cv.do("gene_0"), draws=5)).all()


def test_the_network_predicts_on_the_controls_of_its_context(train: cv.Trajectories) -> None:
    here, there = (LatentAdditive(train, steps=20, context=name) for name in (HERE, "context_0"))
    assert (here.delta(cv.do("gene_0"), 1.0) != there.delta(cv.do("gene_0"), 1.0)).any()
    assert len(here.residuals(cv.do("gene_0"), 1.0)) == 9
    made = here.effect(cv.do("gene_0"), draws=5, context=HERE)
    assert made.sizes["context"] == 1 and np.isfinite(made).all()


# refusals


def test_what_cannot_be_asked_is_refused(data: cv.Trajectories, train: cv.Trajectories) -> None:
    rule = MeanOfContexts(train, HERE)
    with pytest.raises(DataError, match="is asked of context_0; make one by MeanOfContexts"):
        rule.effect(cv.do("gene_0"), context="context_0")
    with pytest.raises(DataError, match="is asked of context_1"):
        rule.predict(cv.do("gene_0"), cells=train.select("control", context="context_1"))
    with pytest.raises(DataError, match="'context_9' is not in the data"):
        MeanOfContexts(train, "context_9")
    with pytest.raises(DataError, match="none has two perturbed cells"):
        MeanOfContexts(data.select("control"), HERE)
    uncontrolled = data.rows((data.labels != "control") | (data.context != 3))
    with pytest.raises(DataError, match="from its controls, and there is none"):
        MeanOfContexts(uncontrolled, HERE)


# real cells


def test_on_kang_the_rules_score_what_was_measured() -> None:
    """The mean of others and the nearest context, measured elsewhere with the total of all cells."""
    data, found = cv.datasets.load("kang"), {}
    for name in data.schema.contexts:
        train, truth = data.hold_out(contexts=name)
        measured = measure(truth, "IFNB1", data.schema.times[0], train.select(context=name))
        effects = {
            rule.name: rule.effect(cv.do("IFNB1"), draws=20) for rule in (k(train, name) for k in KINDS)
        }
        scores = evaluate(effects, [measured], headline=(), protocol="", dataset="kang")
        for rule in effects:
            rows = scores[(scores.predictor == rule) & (scores.perturbation == "IFNB1")].set_index("score")
            found.setdefault(rule, []).append(rows["value"][["pearson_delta_control", "relative_l2"]])
    means = {rule: np.mean(values, axis=0) for rule, values in found.items()}
    np.testing.assert_allclose(means["mean of other contexts"], [0.809, 0.688], atol=0.01)
    np.testing.assert_allclose(means["nearest context"], [0.827, 0.601], atol=0.01)
    best = min(means, key=lambda rule: means[rule][1])
    assert best == "similar contexts"
    np.testing.assert_allclose(means[best], [0.849, 0.564], atol=0.01)
