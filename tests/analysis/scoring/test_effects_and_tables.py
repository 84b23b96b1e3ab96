"""Scores, baselines and the held-out-time protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest

import pyro_citevae as cv
from pyro_citevae.analysis import (
    LinearExtrapolation,
    MeanOfOthers,
    NoChange,
    Persistence,
    TechnicalDuplicate,
    cell_rows,
    challenge_scores,
    evaluate,
    forecast,
    markdown,
    measure,
    scaled_scores,
    skills,
    summary,
)
from pyro_citevae.analysis.scoring.measurement import Measurement, require_unseen
from pyro_citevae.analysis.scoring.scores import pearson, relative_l2
from pyro_citevae.data.cell_eval2_files import write_pair
from pyro_citevae.errors import DataError
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.infer import Effect
from pyro_citevae.models import CiteVAE, StaticShift

GENES = 12


@pytest.fixture(scope="module")
def data() -> cv.Trajectories:
    return cv.simulate(n_cells=1200, n_genes=GENES, n_perturbations=3, n_steps=3, effect=2.0, seed=2).data


def measurement(delta: np.ndarray, sd: float = 0.1, r: float = 0.8) -> Measurement:
    keep = np.ones(len(delta), dtype=bool)
    return Measurement("gene_0", 3.0, delta, np.full(len(delta), sd**2), keep, r)


def test_pearson_and_relative_l2_by_hand() -> None:
    one, two = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 5.0])
    assert pearson(one, two) == pytest.approx(3 / np.sqrt(2 * 6))
    assert relative_l2(one, two) == pytest.approx(np.sqrt(5 / 33))


def test_a_perfect_prediction_scores_the_optimum_and_no_change_scores_chance() -> None:
    truth = np.random.default_rng(0).normal(size=50)
    assert pearson(truth, truth) == pytest.approx(1)
    assert relative_l2(truth, truth) == 0
    assert pearson(np.zeros(50), truth) == 0
    assert relative_l2(np.zeros(50), truth) == 1


def test_shuffled_predictions_correlate_at_chance() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=100)
    found = [pearson(rng.permutation(truth), truth) for _ in range(400)]
    assert abs(np.mean(found)) < 4 * 0.1 / np.sqrt(400)


def test_reliability_follows_spearman_and_brown() -> None:
    assert measurement(np.ones(3), r=0.5).reliability == pytest.approx(2 / 3)
    assert measurement(np.ones(3), r=-0.2).reliability == 0


def test_a_gene_without_a_count_is_no_measurement(data: cv.Trajectories) -> None:
    silent = data.values.copy()
    silent.data[silent.indices == 7] = 0
    silent.eliminate_zeros()
    kept = measure(replace(data, values=silent), "gene_0", 3.0).keep
    assert kept.tolist() == [g not in (0, 7) for g in range(GENES)]


def test_a_measurement_leaves_out_the_perturbed_gene_and_is_reproducible(data: cv.Trajectories) -> None:
    one = measure(data, "gene_1", 3.0)
    assert np.flatnonzero(~one.keep).tolist() == [1]
    assert one.split_half > 0.5
    assert (one.variance > 0).all()


def test_the_baselines_by_hand(data: cv.Trajectories) -> None:
    from pyro_citevae.data.pseudobulk import effect

    train, held_out = data.hold_out(times=[3])
    d1, d2 = (effect(data.select("gene_0", t), data.select("control", t)) for t in (1.0, 2.0))
    schedule = cv.do("gene_0")

    def predicted(rule: object) -> np.ndarray:
        made = rule.effect(schedule, time=3)
        assert made.dims == ("chain", "draw", "perturbation", "time", "gene")
        return made.mean("draw").to_numpy().ravel()

    np.testing.assert_allclose(predicted(NoChange(train)), 0, atol=1e-12)
    np.testing.assert_allclose(predicted(Persistence(train)), d2, atol=1e-12)
    np.testing.assert_allclose(predicted(LinearExtrapolation(train)), 2 * d2 - d1, atol=1e-12)
    others = [measure(data, name, 3.0).delta for name in ("gene_1", "gene_2")]
    np.testing.assert_allclose(predicted(MeanOfOthers(held_out)), np.mean(others, axis=0), atol=1e-12)


def test_the_table_holds_every_score_the_ceiling_and_the_means(data: cv.Trajectories) -> None:
    measured = [measure(data, name, 3.0) for name in data.perturbations()]
    schedules = [cv.do(name) for name in data.perturbations()]
    perfect = Effect.of(
        np.array([[[[one.delta] for one in measured]] * 2]), schedules, [3.0], data.schema, cv.do()
    )
    frame = evaluate(
        {"perfect": perfect}, measured, headline=["gene_0", "gene_1"], protocol="p", dataset="d", seed=4
    )
    assert list(frame.columns) == [
        "protocol", "dataset", "predictor", "perturbation", "time", "fold", "seed", "score", "value",
    ]  # fmt: skip
    values = frame.set_index(["predictor", "perturbation", "score"])["value"]
    assert values["perfect", "ALL", "relative_l2"] == pytest.approx(0)
    assert values["perfect", "REPRODUCIBLE", "pearson_delta_control"] == pytest.approx(1)
    ceiling = values.xs("pearson_delta_control", level="score")["ceiling"]
    assert ceiling["REPRODUCIBLE"] == pytest.approx(ceiling[["gene_0", "gene_1"]].mean())
    text = markdown(summary(frame, ["gene_0", "gene_1"]))
    assert "| mean of 2 | 1.00 / 0.00 |" in text
    assert "| all 3 |" in text


@pytest.mark.parametrize(("sd", "expected"), [(0.3, 0.8), (0.1, 0.433)])
def test_the_80_percent_interval_is_that_of_the_effect_plus_the_noise_of_its_measurement(
    sd: float, expected: float
) -> None:
    """Draws of spread sd, true effects of spread 0.3, and a measurement whose noise has spread 0.1."""
    rng = np.random.default_rng(1)
    genes = 5000
    schema = cv.Schema(genes=tuple(f"gene_{g}" for g in range(genes)), tokens=("gene_0",), times=(3.0,))
    mean = rng.normal(size=genes)
    draws = Effect.of(
        (mean + sd * rng.normal(size=(1, 200, 1, 1, genes))), [cv.do("gene_0")], [3.0], schema, cv.do()
    )
    truth = mean + np.sqrt(0.3**2 + 0.1**2) * rng.normal(size=genes)
    frame = evaluate(
        {"drawn": draws}, [measurement(truth)], headline=[], protocol="p", dataset="d"
    ).set_index(["predictor", "perturbation", "score"])["value"]
    assert frame["drawn", "gene_0", "coverage_80"] == pytest.approx(expected, abs=0.02)


def test_a_perfect_prediction_has_every_score_at_its_best(data: cv.Trajectories) -> None:
    measured = [measure(data, name, 3.0) for name in data.perturbations()]
    schedules = [cv.do(name) for name in data.perturbations()]
    deltas = np.array([[[[one.delta] for one in measured]] * 3])
    perfect, wrong = (Effect.of(x, schedules, [3.0], data.schema, cv.do()) for x in (deltas, -deltas))
    frame = evaluate({"perfect": perfect, "wrong": wrong}, measured, headline=[], protocol="p", dataset="d")
    at = frame[frame.perturbation == "ALL"].set_index(["predictor", "score"])["value"]
    for score in (
        "pearson_delta_mean", "cosine_delta_control", "cosine_delta_mean", "pds", "sign_accuracy_20",
        "pearson_delta_perturbed", "centroid_accuracy",
        "weighted_r2_delta_control", "weighted_r2_delta_mean", "coverage_95",
    ):  # fmt: skip
        assert at["perfect", score] == pytest.approx(1)
        assert at["wrong", score] < 0.9
    for score in ("weighted_mse", "crps", "energy_score"):
        assert at["perfect", score] < 0.4 * at["wrong", score]


def test_a_single_perturbation_is_told_apart_among_those_that_are_not_scored(data: cv.Trajectories) -> None:
    one, *others = [measure(data, name, 3.0) for name in data.perturbations()]
    rule = Persistence(data.hold_out(times=[3])[0])
    made = {"persistence": rule.effect(cv.do("gene_0"), time=3)}

    def score(name: str, **more: object) -> float:
        frame = evaluate(made, [one], headline=[], protocol="p", dataset="d", **more)
        found = frame[(frame.predictor == "persistence") & (frame.score == name)]["value"]
        return float(found.iloc[0])

    compared = ("pds", "cosine_delta_mean", "centroid_accuracy", "pearson_delta_perturbed")
    assert all(np.isnan(score(name)) for name in compared)
    assert all(np.isfinite(score(name, others=others)) for name in compared)
    assert score("pds", others=others) in (0, 0.5, 1)
    assert np.isfinite(score("cosine_delta_mean", others=others))


def of_deltas(deltas: dict[str, np.ndarray]) -> list[Measurement]:
    keep, noise = np.ones(3, dtype=bool), np.full(3, 0.01)
    return [Measurement(name, 3.0, delta, noise, keep, 0.8) for name, delta in deltas.items()]


def test_systema_takes_effects_against_the_mean_of_the_perturbed_by_hand() -> None:
    """All share (4, 4, 0): what is left of the truth of A is (1, -1, 0), of its prediction (1, 0, -1)."""
    known = of_deltas({"B": np.array([3.0, 5, 1]), "C": np.array([5.0, 3, -1])})
    scored = of_deltas({"A": np.array([5.0, 3, 0]), "D": np.array([9.0, 9, 9])})
    schema = cv.Schema(genes=("x", "y", "z"), tokens=("A", "D"), times=(3.0,))
    schedules = [cv.do("A"), cv.do("D")]

    def found(first: list[float], **more: object) -> dict[str, float]:
        drawn = np.array([first, [0.0, 0, 0]]).reshape(1, 1, 2, 1, 3)
        made = {"model": Effect.of(drawn, schedules, [3.0], schema, cv.do())}
        frame = evaluate(made, scored, headline=[], protocol="p", dataset="d", **more)
        rows = frame[(frame.predictor == "model") & (frame.perturbation == "A")]
        return rows.set_index("score")["value"].to_dict()

    beside = found([5.0, 4, -1], others=known)
    assert beside["pearson_delta_perturbed"] == pytest.approx(0.5)
    # distances: sqrt 2 to A, 3 to B, 1 to C, sqrt 141 to D
    assert beside["centroid_accuracy"] == pytest.approx(2 / 3)
    mean_of_others = found([4.0, 4, 0], others=known)
    assert mean_of_others["pearson_delta_perturbed"] == 0
    assert mean_of_others["pearson_delta_control"] > 0.8
    # without others the reference is D alone: (-4, -6, -9) is left of A
    assert found([5.0, 3, 0])["pearson_delta_perturbed"] == pytest.approx(1)
    assert found([9.0, 9, 9])["pearson_delta_perturbed"] == 0


def test_means_of_strata_skills_and_scales_by_hand(data: cv.Trajectories) -> None:
    measured = [measure(data, name, 3.0) for name in data.perturbations()]
    train = data.hold_out(times=[3])[0]
    schedules = [cv.do(name) for name in data.perturbations()]
    made = {rule.name: rule.effect(schedules, time=3) for rule in (NoChange(train), Persistence(train))}
    frame = evaluate(
        made, measured, headline=["gene_0"], protocol="p", dataset="d", strata={"SOME": ["gene_0", "gene_2"]}
    )
    at = frame.set_index(["predictor", "perturbation", "score"])["value"].sort_index()
    some = at["persistence", "SOME"]
    np.testing.assert_allclose(
        some["crps"], (at["persistence", "gene_0", "crps"] + at["persistence", "gene_2", "crps"]) / 2
    )
    gained = skills(frame, ["no change"]).set_index(["predictor", "perturbation", "score"])["value"]
    ratio = at["persistence", "ALL", "crps"] / at["no change", "ALL", "crps"]
    assert gained["persistence", "ALL", "crps_skill_over_no_change"] == pytest.approx(1 - ratio)
    scaled = scaled_scores(frame, "no change").set_index(["predictor", "perturbation", "score"])["value"]
    r, top = at["persistence", "gene_1", "pearson_delta_control"], measured[1].reliability ** 0.5
    assert scaled["persistence", "gene_1", "scaled_pearson_delta_control"] == pytest.approx(r / top)


def test_predicted_cells_are_scored_on_measured_ones(data: cv.Trajectories) -> None:
    one = measure(data, "gene_0", 3.0)
    group, controls = data.select("gene_0", 3.0), data.select("control", 3.0)
    schedules = [cv.do(), cv.do("gene_0")]
    found = {}
    for rule in (NoChange(data), TechnicalDuplicate(data)):
        predicted = rule.predict(schedules, cells=data.controls(), draws=2, time=3)
        frame = cell_rows(rule.name, predicted, one, group, controls)
        found[rule.name] = frame.set_index("score")["value"]
    assert list(found["no change"].index) == ["energy_distance", "mmd", "de_overlap", "de_direction"]
    duplicate = found["technical duplicate"]
    assert abs(duplicate["energy_distance"]) < 0.1 * found["no change"]["energy_distance"]
    assert duplicate["de_overlap"] > 0.7 and duplicate["de_direction"] > 0.9
    with pytest.raises(DataError, match="predicted no cell of 'gene_0'"):
        cell_rows("x", predicted[predicted.obs["perturbation"] == "control"], one, group, controls)


def test_a_gene_that_the_truth_lacks_does_not_count(data: cv.Trajectories) -> None:
    one = measure(data, "gene_1", 3.0, genes=data.schema.genes[:9])
    assert np.flatnonzero(one.keep).tolist() == [0, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.slow
def test_the_challenge_scores_cells_by_its_own_package(data: cv.Trajectories) -> None:
    pytest.importorskip("cell_eval2")
    predicted = TechnicalDuplicate(data).predict(
        [cv.do(name) for name in data.perturbations()], cells=data.controls().thinned(60), draws=2, time=3
    )
    frame = challenge_scores(predicted, data, 3.0, "technical duplicate")
    assert frame.attrs["cell-eval2"]
    values = frame.set_index(["perturbation", "score"])["value"]
    assert values["gene_0", "cell_eval2_pds_cosine"] == 1
    assert set(frame.perturbation) == set(data.perturbations())


def test_the_challenge_needs_a_perturbation_on_both_sides(data: cv.Trajectories, tmp_path: Path) -> None:
    predicted = NoChange(data).predict(cv.do(), cells=data.controls(), draws=2, time=3)
    with pytest.raises(DataError, match="both predicted and measured at 3"):
        write_pair(predicted, data, 3.0, tmp_path)


def test_the_challenge_gets_counts_with_labels_and_measured_controls(
    data: cv.Trajectories, tmp_path: Path
) -> None:
    predicted = Persistence(data).predict(cv.do("gene_0"), cells=data.controls().thinned(20), draws=2, time=3)
    made, true = (anndata.read_h5ad(path) for path in write_pair(predicted, data, 3.0, tmp_path))
    controls = data.select("control", 3.0)
    for one in (made, true):
        np.testing.assert_array_equal(
            one[one.obs["target"] == "control"].X.toarray(), controls.values.toarray()
        )
    assert (made.obs["target"] == "gene_0").sum() == 20
    assert (true.obs["target"] == "gene_0").sum() == data.select("gene_0", 3.0).n_cells


def test_training_cells_cannot_be_scored(data: cv.Trajectories) -> None:
    train, held_out = data.hold_out(times=[3])
    require_unseen(train, held_out)
    with pytest.raises(DataError, match="was in training and cannot be scored"):
        require_unseen(data, held_out)


def test_a_group_that_was_not_measured_is_named(data: cv.Trajectories) -> None:
    with pytest.raises(DataError, match="no cells of 'gene_7'"):
        measure(data, "gene_7", 3.0)


IN_TIME = {"persistence", "linear extrapolation", "damped extrapolation", "shrunken persistence"}


@pytest.mark.parametrize(
    ("held_out", "rules"), [({"times": [3]}, IN_TIME), ({"perturbations": ["gene_1"]}, {"linear model"})]
)
def test_a_forecast_is_scored_beside_rules_that_fit_what_is_held_out(
    data: cv.Trajectories, held_out: dict, rules: set[str]
) -> None:
    train, truth = data.hold_out(**held_out)
    model = CiteVAE(data.schema, n_programs=2, n_invariant=0, hidden=4)
    posterior = cv.fit(model, BackwardSmoother(model, hidden=8), train, max_epochs=1, progress=False)
    found = forecast(posterior, train, truth, dataset="simulated", draws=10)
    scored = set(found.scores.perturbation) - {"ALL", "REPRODUCIBLE"}
    assert scored == set(truth.perturbations())
    assert np.isfinite(found.scores[found.scores.score == "relative_l2"]["value"]).all()
    named = {one.split("/")[0] for one in found.scores.predictor}
    assert named == {"ceiling", "CiteVAE", "no change", "mean of others"} | rules
    one = found.measurements[0]
    np.testing.assert_allclose(one.delta, measure(data, one.perturbation, 3.0).delta)


ACROSS_CONTEXTS = {"no change", "mean of other contexts", "shrunken mean of other contexts",
                   "nearest context", "pooled log ratio", "similar contexts"}  # fmt: skip


@pytest.fixture(scope="module")
def in_contexts() -> cv.Trajectories:
    return cv.simulate(
        n_cells=480, n_genes=10, n_perturbations=3, n_contexts=3, n_steps=1, design="snapshot"
    ).data


def fitted_briefly(train: cv.Trajectories) -> cv.Posterior:
    model = CiteVAE(train.schema, n_programs=2, n_invariant=0, hidden=4)
    return cv.fit(model, BackwardSmoother(model, hidden=8), train, max_epochs=1, progress=False)


@pytest.mark.parametrize(
    ("held_out", "rules"),
    [({"contexts": "context_1"}, ACROSS_CONTEXTS),
     ({"contexts": "context_1", "perturbations": "gene_0"},
      ACROSS_CONTEXTS | {"mean of others", "linear model"})],
)  # fmt: skip
def test_a_held_out_context_is_scored_beside_the_rules_from_other_contexts(
    held_out: dict, rules: set[str], in_contexts: cv.Trajectories
) -> None:
    train, truth = in_contexts.hold_out(**held_out)
    found = forecast(fitted_briefly(train), train, truth, dataset="simulated", draws=10)
    assert {one.split("/")[0] for one in found.scores.predictor} == {"ceiling", "CiteVAE"} | rules
    assert found.context == "context_1" and "context" not in found.effects.dims
    assert set(found.scores.perturbation) - {"ALL", "REPRODUCIBLE"} == set(truth.perturbations())
    expected = in_contexts.select(context="context_1")
    for one in found.measurements:
        np.testing.assert_allclose(one.delta, measure(expected, one.perturbation, 1.0).delta)
    assert np.isfinite(found.scores[found.scores.score == "relative_l2"]["value"]).all()


def test_of_several_held_out_contexts_one_is_named(in_contexts: cv.Trajectories) -> None:
    train, truth = in_contexts.hold_out(contexts=["context_0", "context_2"])
    posterior = fitted_briefly(train)
    with pytest.raises(DataError, match=r"held out of context_0, context_2; name one with context=\."):
        forecast(posterior, train, truth, dataset="simulated", draws=10)
    found = forecast(posterior, train, truth, dataset="simulated", draws=10, context="context_2")
    assert found.context == "context_2"
    with pytest.raises(DataError, match="'context_9' is not in the data"):
        forecast(posterior, train, truth, dataset="simulated", draws=10, context="context_9")


def test_a_held_out_pair_is_scored_beside_the_rules_of_its_members() -> None:
    data = cv.simulate(
        n_cells=400, n_perturbations=3, combinations=("gene_0+gene_1",), design="snapshot"
    ).data
    train, truth = data.hold_out(combinations=["gene_0+gene_1"])
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    posterior = cv.fit(model, MeanField(model, hidden=4), train, max_epochs=1, progress=False)
    found = forecast(posterior, train, truth, dataset="simulated", draws=10)
    named = {one.split("/")[0] for one in found.scores.predictor}
    assert {"additive", "stronger single", "mean of singles"} < named
    assert not named & IN_TIME
