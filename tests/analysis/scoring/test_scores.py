"""Scores: a value by hand each, the optimum of a perfect prediction, and chance for a shuffled one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import integrate, stats

from pyro_citevae.analysis.scoring import cells as cell_scores
from pyro_citevae.analysis.scoring import scores
from pyro_citevae.data import Schema

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(size=200)
VARIANCE = np.full(200, 0.01)
WEIGHT = scores.differential_weights(TRUTH, VARIANCE)
OTHERS = RNG.normal(size=(30, 200))

Score = Callable[[np.ndarray, np.ndarray], float]
POINT: dict[str, tuple[Score, float, float, float]] = {  # score, optimum, chance, tolerance of the mean
    "pearson": (scores.pearson, 1.0, 0.0, 0.02),
    "cosine": (scores.cosine, 1.0, 0.0, 0.02),
    "relative_l2": (scores.relative_l2, 0.0, np.sqrt(2), 0.03),
    "weighted_mse": (
        lambda p, t: scores.weighted_mse(p, t, WEIGHT), 0.0, float(WEIGHT @ TRUTH**2 + TRUTH.var()), 0.2,
    ),
    "weighted_r2": (lambda p, t: scores.weighted_r2(p, t, np.full(200, 1 / 200)), 1.0, -1.0, 0.05),
    "sign_accuracy": (lambda p, t: scores.sign_accuracy(p, t, 20), 1.0, 0.5, 0.03),
}  # fmt: skip


@pytest.mark.parametrize("name", POINT)
def test_a_perfect_prediction_scores_the_optimum(name: str) -> None:
    score, optimum, *_ = POINT[name]
    assert score(TRUTH, TRUTH) == pytest.approx(optimum, abs=1e-9)


@pytest.mark.parametrize("name", POINT)
def test_a_shuffled_prediction_scores_chance(name: str) -> None:
    score, _, chance, tolerance = POINT[name]
    found = [score(RNG.permutation(TRUTH), TRUTH) for _ in range(400)]
    assert np.mean(found) == pytest.approx(chance, abs=tolerance)


def test_point_scores_by_hand() -> None:
    predicted, measured = np.array([1.0, -1.0, 0.0]), np.array([2.0, 2.0, -1.0])
    weight = np.array([0.5, 0.25, 0.25])
    assert scores.cosine(predicted, measured) == 0
    assert scores.relative_l2(predicted, measured) == pytest.approx(np.sqrt(11) / 3)
    assert scores.weighted_mse(predicted, measured, weight) == pytest.approx(0.5 + 9 / 4 + 0.25)
    assert scores.weighted_r2(predicted, measured, weight) == pytest.approx(1 - 3 / 1.6875)
    assert scores.sign_accuracy(predicted, measured, 3) == 0.5
    assert scores.sign_accuracy(predicted, measured, 1) == 1.0


def test_scores_of_constants_are_defined() -> None:
    assert scores.pearson(np.zeros(3), np.arange(3.0)) == 0
    assert scores.cosine(np.zeros(3), np.arange(3.0)) == 0
    assert np.isnan(scores.weighted_r2(np.zeros(3), np.ones(3), np.full(3, 1 / 3)))
    np.testing.assert_array_equal(scores.differential_weights(np.ones(2), np.ones(2)), [0.5, 0.5])
    assert np.isnan(scores.discrimination(TRUTH, TRUTH, np.zeros((0, 200))))


def test_discrimination_ranks_by_hand_with_ties_in_the_middle() -> None:
    predicted, truth = np.array([0.0]), np.array([2.0])
    assert scores.discrimination(predicted, truth, np.array([[1.0], [3.0], [4.0]])) == pytest.approx(2 / 3)
    assert scores.discrimination(predicted, truth, np.array([[1.0], [-2.0], [4.0]])) == pytest.approx(0.5)
    assert scores.discrimination(predicted, truth, np.array([[2.0], [-2.0]])) == pytest.approx(0.5)


def test_centroid_accuracy_is_the_share_of_the_others_that_lie_farther_by_hand() -> None:
    predicted, truth = np.array([1.0, 0.0]), np.array([1.0, 2.0])  # its distance is 2
    others = np.array([[1.0, 3.0], [4.0, 0.0], [2.0, 0.0], [1.0, 1.0]])  # 3, 3, 1, 1
    assert scores.centroid_accuracy(predicted, truth, others) == 0.5
    assert scores.centroid_accuracy(truth, truth, others) == 1
    assert scores.centroid_accuracy(np.array([2.0, 0.0]), truth, others[2:]) == 0
    assert np.isnan(scores.centroid_accuracy(predicted, truth, others[:0]))


def test_centroid_accuracy_is_discrimination_without_ties_and_counts_none_of_them() -> None:
    for i in range(len(OTHERS)):
        at = np.delete(OTHERS, i, 0)
        assert scores.centroid_accuracy(TRUTH, OTHERS[i], at) == pytest.approx(
            scores.discrimination(TRUTH, OTHERS[i], at)
        )
    predicted, truth, tied = np.zeros(1), np.array([2.0]), np.array([[-2.0], [3.0]])
    assert scores.centroid_accuracy(predicted, truth, tied) == 0.5
    assert scores.discrimination(predicted, truth, tied) == 0.75


def test_discrimination_is_perfect_for_the_truth_and_chance_for_another_one() -> None:
    def score(i: int, j: int) -> float:
        return scores.discrimination(OTHERS[j], OTHERS[i], np.delete(OTHERS, i, 0))

    assert all(score(i, i) == 1 for i in range(30))
    shuffled = [score(i, j) for _ in range(40) for i, j in enumerate(RNG.permutation(30))]
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.03)


def test_one_prediction_for_all_discriminates_at_chance() -> None:
    same = OTHERS.mean(0)
    found = [scores.discrimination(same, OTHERS[i], np.delete(OTHERS, i, 0)) for i in range(len(OTHERS))]
    assert np.mean(found) == pytest.approx(0.5)


# scores of draws


def test_crps_of_one_draw_is_its_absolute_error_and_with_noise_that_of_a_normal() -> None:
    measured, draw = np.array([0.3, -1.0]), np.array([[0.0, 0.5]])
    np.testing.assert_allclose(scores.crps(draw, measured, np.zeros(2)), [0.3, 1.5], atol=1e-9)
    sd = 0.7

    def closed(y: float) -> float:
        z = y / sd
        return sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))

    found = scores.crps(draw, measured, np.full(2, sd**2))
    np.testing.assert_allclose(found, [closed(0.3), closed(-1.5)], atol=0.02)


def test_crps_is_the_integral_of_the_squared_error_of_the_distribution() -> None:
    draws, y, sd = np.array([-1.0, 0.2, 2.0]), 0.5, 0.3

    def squared(x: float) -> float:
        return float((stats.norm.cdf((x - draws) / sd).mean() - (x >= y)) ** 2)

    exact = integrate.quad(squared, -8, y)[0] + integrate.quad(squared, y, 8)[0]
    found = scores.crps(draws[:, None], np.array([y]), np.array([sd**2]))[0]
    assert found == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("wrong", ["narrow", "wide", "shifted"])
def test_the_true_law_has_the_best_crps_and_energy_score(wrong: str) -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(300, 4))
    right = rng.normal(size=(300, 4))
    other = {"narrow": 0.2 * right, "wide": 4 * right, "shifted": right + 1}[wrong]
    none, space = np.zeros(4), np.eye(4)
    for score in (
        lambda draws, y: scores.crps(draws, y, none).mean(),
        lambda draws, y: scores.energy_score(draws, y, none, space),
    ):
        assert np.mean([score(right, y) for y in truth]) < np.mean([score(other, y) for y in truth])


def test_energy_score_in_one_program_is_the_crps_of_that_program() -> None:
    draws, space = RNG.normal(size=(300, 5)), RNG.normal(size=(1, 5))
    measured, none = RNG.normal(size=5), np.zeros(5)
    found = scores.energy_score(draws, measured, none, space)
    assert found == pytest.approx(scores.crps(draws @ space.T, space @ measured, np.zeros(1))[0], abs=0.01)


def test_risk_falls_with_coverage_where_the_uncertainty_knows_the_error() -> None:
    error = RNG.random(100)
    knowing = scores.area_under_risk_coverage(error, error)
    blind = np.mean([scores.area_under_risk_coverage(RNG.random(100), error) for _ in range(200)])
    assert knowing < 0.6 and blind == pytest.approx(1, abs=0.05)
    assert scores.area_under_risk_coverage(np.zeros(100), error) == pytest.approx(1)


def test_skill_and_scale_by_hand() -> None:
    assert scores.skill(0.5, 2.0) == 0.75
    assert np.isnan(scores.skill(0.0, 0.0))
    assert scores.scaled(0.6, 0.2, 1.0) == pytest.approx(0.5)
    assert np.isnan(scores.scaled(0.6, 1.0, 1.0))


# scores of cells


def test_energy_distance_by_hand() -> None:
    x, y = np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]])
    assert cell_scores.energy_distance(x, y) == pytest.approx(2 * 3 - 2 - 2)


def test_maximum_mean_discrepancy_by_hand() -> None:
    x, y = np.array([[0.0], [0.0]]), np.array([[1.0], [1.0]])  # all distances are 1, or 0 within
    k = np.mean([np.exp(-1 / (2 * c)) for c in (0.25, 1.0, 4.0)])
    assert cell_scores.maximum_mean_discrepancy(x, y) == pytest.approx(2 - 2 * k)


@pytest.mark.parametrize("distance", [cell_scores.energy_distance, cell_scores.maximum_mean_discrepancy])
def test_distances_are_zero_for_equal_laws_and_grow_with_the_shift(distance: Score) -> None:
    rng = np.random.default_rng(4)
    equal = np.mean([distance(rng.normal(size=(40, 3)), rng.normal(size=(60, 3))) for _ in range(100)])
    assert abs(equal) < 0.02
    x = rng.normal(size=(100, 3))
    found = [distance(x, rng.normal(size=(100, 3)) + shift) for shift in (0.0, 0.5, 1.0)]
    assert found == sorted(found) and found[2] > 0.05


def test_a_mean_without_spread_is_far_from_the_cells() -> None:
    cells = RNG.normal(size=(80, 5))
    mean = np.tile(cells.mean(0), (80, 1))
    again = RNG.normal(size=(80, 5))
    assert cell_scores.energy_distance(mean, cells) > 10 * abs(cell_scores.energy_distance(again, cells))


def test_differential_expression_finds_what_was_shifted_and_bounds_false_discoveries() -> None:
    rng = np.random.default_rng(5)
    control, group = rng.normal(size=(80, 100)), rng.normal(size=(60, 100))
    group[:, :20] += 1.5
    calls = cell_scores.differential_expression(group, control)
    assert calls.called[:20].all() and calls.called[20:].sum() <= 4
    assert (calls.change[:20] > 0.5).all()


def test_a_silent_gene_is_not_called() -> None:
    calls = cell_scores.differential_expression(np.zeros((5, 2)), np.zeros((6, 2)))
    assert not calls.called.any() and (calls.p_value == 1).all()


def test_wilcoxon_by_hand() -> None:
    group, control = np.array([[3.0], [4.0], [5.0]]), np.array([[1.0], [2.0]])
    u = 6  # every pair is won
    z = (u - 3 - 0.5) / np.sqrt(3 * 2 * 6 / 12)
    calls = cell_scores.differential_expression(group, control)
    assert calls.p_value[0] == pytest.approx(2 * stats.norm.sf(z))


def calls(called: list[bool], change: list[float]) -> cell_scores.Calls:
    return cell_scores.Calls(np.array(called), np.array(change), np.zeros(len(called)))


def test_overlap_and_direction_by_hand() -> None:
    true = calls([True, True, False, False], [2.0, -1.0, 0.1, 0.2])
    predicted = calls([True, False, True, True], [1.0, 0.5, 3.0, -0.1])
    assert cell_scores.overlap(predicted, true) == 0.5
    assert cell_scores.direction_agreement(predicted, true) == 0.5
    assert cell_scores.overlap(true, true) == cell_scores.direction_agreement(true, true) == 1
    nothing = calls([False] * 4, [0.0] * 4)
    assert cell_scores.overlap(nothing, true) == 0 and cell_scores.direction_agreement(nothing, true) == 0.5
    assert np.isnan(cell_scores.overlap(true, nothing)) and np.isnan(
        cell_scores.direction_agreement(true, nothing)
    )


def test_shuffled_calls_overlap_at_chance() -> None:
    rng = np.random.default_rng(6)
    called = np.arange(100) < 20
    true = cell_scores.Calls(called, np.where(called, 1.0, 0.0), np.zeros(100))
    found = []
    for _ in range(400):
        order = rng.permutation(100)
        shuffled = cell_scores.Calls(
            called[order], true.change[order] * rng.choice([-1, 1], 100), np.zeros(100)
        )
        found.append((cell_scores.overlap(shuffled, true), cell_scores.direction_agreement(shuffled, true)))
    np.testing.assert_allclose(np.mean(found, axis=0), [0.2, 0.5], atol=0.03)


def test_counts_are_normalised_and_real_values_are_not() -> None:
    x = np.array([[1.0, 3.0], [0.0, 0.0]])
    found = cell_scores.normalised(x, Schema(("a", "b"), ("a",), total=8.0))
    np.testing.assert_allclose(found, np.log1p([[2.0, 6.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(cell_scores.normalised(x, Schema(("a", "b"), ("a",), values="real")), x)
