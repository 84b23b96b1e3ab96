"""Scores, baselines and the held-out-time protocol."""

from __future__ import annotations

import numpy as np
import pytest

import pyro_citevae as cv
from pyro_citevae.analysis import (
    LinearExtrapolation,
    MeanOfOthers,
    NoChange,
    Persistence,
    evaluate,
    forecast,
    markdown,
    measure,
    summary,
)
from pyro_citevae.analysis.evaluation import Measurement, pearson, relative_l2, require_unseen
from pyro_citevae.errors import DataError
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer import Effect
from pyro_citevae.models import CiteVAE

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


def test_training_cells_cannot_be_scored(data: cv.Trajectories) -> None:
    train, held_out = data.hold_out(times=[3])
    require_unseen(train, held_out)
    with pytest.raises(DataError, match="was in training and cannot be scored"):
        require_unseen(data, held_out)


def test_a_group_that_was_not_measured_is_named(data: cv.Trajectories) -> None:
    with pytest.raises(DataError, match="no cells of 'gene_7'"):
        measure(data, "gene_7", 3.0)


@pytest.mark.parametrize("held_out", [{"times": [3]}, {"perturbations": ["gene_1"]}])
def test_a_forecast_is_scored_whether_a_time_or_a_perturbation_is_held_out(
    data: cv.Trajectories, held_out: dict
) -> None:
    train, truth = data.hold_out(**held_out)
    model = CiteVAE(data.schema, n_programs=2, n_invariant=0, hidden=4)
    posterior = cv.fit(model, BackwardSmoother(model, hidden=8), train, max_epochs=1, progress=False)
    found = forecast(posterior, train, truth, dataset="simulated", draws=10)
    scored = set(found.scores.perturbation) - {"ALL", "REPRODUCIBLE"}
    assert scored == set(truth.perturbations())
    assert np.isfinite(found.scores[found.scores.score == "relative_l2"]["value"]).all()
    assert {one.split("/")[0] for one in found.scores.predictor} == {
        "ceiling", "CiteVAE", "no change", "persistence", "linear extrapolation", "mean of others",
    }  # fmt: skip
    one = found.measurements[0]
    np.testing.assert_allclose(one.delta, measure(data, one.perturbation, 3.0).delta)
