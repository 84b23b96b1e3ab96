"""Pseudobulk effects: hand-computed values, invariances, and the laws of their sampling variance."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import sparse

from pyro_citevae.data import Schema, Trajectories, do, simulate
from pyro_citevae.data.pseudobulk import effect, jackknife_variance, profile, split_half


def group(counts: np.ndarray, total: float = 100.0) -> Trajectories:
    """Unperturbed cells with these counts (cell x gene)."""
    counts = np.asarray(counts, dtype=np.float32)
    n_cells, n_genes = counts.shape
    genes = tuple(f"gene_{g}" for g in range(n_genes))
    return Trajectories(
        schema=Schema(genes=genes, tokens=genes[:1], total=total),
        values=sparse.csr_matrix(counts),
        library=np.maximum(counts.sum(1), 1),
        row_cell=np.arange(n_cells),
        row_step=np.ones(n_cells, dtype=np.int64),
        conditions=(do(),),
        condition=np.zeros(n_cells, dtype=np.int64),
        technical=np.zeros(n_cells, dtype=np.int64),
        names=np.array([f"cell_{n}" for n in range(n_cells)]),
    )


def poisson(mean: np.ndarray, n_cells: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(mean, (n_cells, len(mean)))


MEAN = np.random.default_rng(0).uniform(0.5, 5.0, 200)
SHIFT = np.exp(np.random.default_rng(1).normal(0, 1, 200))
EVERY = np.ones(200, dtype=bool)


def test_profile_by_hand() -> None:
    found = profile(np.array([1.0, 3.0, 0.0]), total=4.0)
    np.testing.assert_allclose(found, [np.log(2), np.log(4), 0], rtol=1e-15)


def test_profile_of_a_group_without_counts_is_zero() -> None:
    np.testing.assert_array_equal(profile(np.zeros((2, 3)), total=10.0), np.zeros((2, 3)))


def test_profile_takes_each_group_by_itself() -> None:
    sums = np.random.default_rng(2).poisson(5.0, (4, 6)).astype(float)
    np.testing.assert_array_equal(profile(sums, 7.0), [profile(one, 7.0) for one in sums])


def test_a_profile_adds_up_to_the_total() -> None:
    assert np.expm1(profile(MEAN, 321.0)).sum() == pytest.approx(321.0)


def test_effect_by_hand() -> None:
    perturbed, control = group([[1, 0], [2, 1]], total=8.0), group([[1, 1], [0, 2]], total=8.0)
    np.testing.assert_allclose(effect(perturbed, control), [np.log(7 / 3), np.log(3 / 7)], rtol=1e-15)


def test_a_group_has_no_effect_against_itself() -> None:
    one = group(poisson(MEAN, 10, seed=3))
    np.testing.assert_array_equal(effect(one, one), np.zeros(200))


def test_effects_are_antisymmetric_and_add_along_a_path() -> None:
    a, b, c = (group(poisson(MEAN, 10, seed)) for seed in (4, 5, 6))
    np.testing.assert_allclose(effect(a, b), -effect(b, a))
    np.testing.assert_allclose(effect(a, c), effect(a, b) + effect(b, c), atol=1e-14)


@pytest.mark.parametrize("depth", [2, 17])
def test_a_common_depth_does_not_matter(depth: int) -> None:
    counts, reference = poisson(MEAN, 10, seed=7), group(poisson(MEAN, 12, seed=8))
    np.testing.assert_allclose(effect(group(depth * counts), reference), effect(group(counts), reference))
    np.testing.assert_allclose(jackknife_variance(group(depth * counts)), jackknife_variance(group(counts)))


def test_effects_follow_the_sums_alone() -> None:
    counts, reference = poisson(MEAN, 10, seed=9), group(poisson(MEAN, 5, seed=10))
    pooled = group(counts.sum(0, keepdims=True))
    np.testing.assert_allclose(effect(group(counts), reference), effect(pooled, reference))


def test_jackknife_is_the_delete_one_loop() -> None:
    counts = poisson(MEAN[:7], 9, seed=11).astype(float)
    n = len(counts)
    left_out = np.array([profile(np.delete(counts, i, 0).sum(0), 100.0) for i in range(n)])
    expected = (n - 1) / n * ((left_out - left_out.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(jackknife_variance(group(counts)), expected, rtol=1e-10)


def test_jackknife_of_poisson_counts_is_near_the_delta_method() -> None:
    mean, n, total = MEAN[:20], 2000, 50.0
    share, depth = mean / mean.sum(), n * mean.sum()
    expected = (total / (1 + total * share)) ** 2 * share * (1 - share) / depth
    found = jackknife_variance(group(poisson(mean, n, seed=12), total=total))
    np.testing.assert_allclose(found, expected, rtol=0.25)
    assert np.mean(found / expected) == pytest.approx(1, abs=0.05)


def test_jackknife_of_equal_cells_is_zero() -> None:
    np.testing.assert_allclose(jackknife_variance(group(np.tile([1, 2, 5], (4, 1)))), 0, atol=1e-28)


def test_jackknife_of_one_cell_is_infinite() -> None:
    np.testing.assert_array_equal(jackknife_variance(group([[1, 2, 3]])), np.full(3, np.inf))


def test_halves_agree_on_a_strong_effect() -> None:
    perturbed, control = group(poisson(MEAN * SHIFT, 300, seed=13)), group(poisson(MEAN, 300, seed=14))
    assert split_half(perturbed, control, EVERY) > 0.98


def test_halves_do_not_agree_where_there_is_no_effect() -> None:
    one, other = group(poisson(MEAN, 300, seed=15)), group(poisson(MEAN, 300, seed=16))
    assert abs(split_half(one, other, EVERY)) < 0.25


def test_halves_agree_more_with_more_cells() -> None:
    weak = SHIFT**0.1
    found = [
        split_half(group(poisson(MEAN * weak, n, seed=17)), group(poisson(MEAN, n, seed=18)), EVERY)
        for n in (20, 200, 2000)
    ]
    assert found == sorted(found)


def test_only_the_kept_genes_count() -> None:
    shift = np.ones(200)
    shift[0] = 100.0
    perturbed, control = group(poisson(MEAN * shift, 100, seed=19)), group(poisson(MEAN, 100, seed=20))
    kept = EVERY.copy()
    kept[0] = False
    assert split_half(perturbed, control, EVERY) > split_half(perturbed, control, kept) + 0.1
    assert split_half(perturbed, control, np.flatnonzero(kept)) == split_half(perturbed, control, kept)


def test_split_half_follows_its_seed() -> None:
    one, other = group(poisson(MEAN, 20, seed=21)), group(poisson(MEAN, 20, seed=22))
    first = split_half(one, other, EVERY, repeats=2, seed=5)
    assert split_half(one, other, EVERY, repeats=2, seed=5) == first
    assert split_half(one, other, EVERY, repeats=2, seed=6) != first


@pytest.mark.parametrize("pick", [lambda a, b: (a, b), lambda a, b: (b, a)], ids=["group", "reference"])
def test_one_cell_has_no_halves(pick: Callable[[Trajectories, Trajectories], tuple]) -> None:
    single, many = group(poisson(MEAN, 1, seed=23)), group(poisson(MEAN, 9, seed=24))
    assert np.isnan(split_half(*pick(single, many), EVERY))


def test_real_values_are_averaged() -> None:
    data = simulate(n_cells=60, n_genes=4, n_perturbations=2, design="snapshot", values="real").data
    one, control = data.select("gene_0"), data.controls()
    means = [part.values.toarray().mean(0) for part in (one, control)]
    np.testing.assert_allclose(effect(one, control), means[0] - means[1], rtol=1e-5)
    variance = one.values.toarray().var(0, ddof=1) / one.n_cells
    np.testing.assert_allclose(jackknife_variance(one), variance, rtol=1e-5)
