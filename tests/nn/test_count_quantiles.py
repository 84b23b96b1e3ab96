"""Quantiles of counts with an uncertain mean, held against the distribution function itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pyro_citevae.nn.count_quantiles import count_quantiles


def mixture(m: np.ndarray, b: np.ndarray, phi: np.ndarray) -> stats.rv_discrete:
    """The distribution function of counts whose log mean is normal, by 200 nodes."""
    x = np.linspace(-6, 6, 201)
    w = stats.norm.pdf(x)
    w /= w.sum()
    mu = np.exp(np.log(m)[:, None] - b[:, None] ** 2 / 2 + b[:, None] * x)
    law = stats.nbinom(1 / phi[:, None], 1 / (1 + phi[:, None] * mu))
    return lambda k: np.where(k >= 0, law.cdf(k[:, None]) @ w, 0.0)


@pytest.mark.parametrize("probability", [0.05, 0.95])
def test_the_count_is_where_the_distribution_function_passes_the_probability(probability: float) -> None:
    rng = np.random.default_rng(0)
    m, b = np.exp(rng.uniform(-7, 7, 2000)), rng.uniform(0, 1.5, 2000)
    phi = np.exp(rng.uniform(-8, 1.5, 2000))
    (q,) = count_quantiles(m, m**2 * np.expm1(b**2), phi, [probability])
    F = mixture(m, b, phi)
    missed = np.maximum(F(q - 1) - probability, 0) + np.maximum(probability - F(q), 0)
    assert missed.max() < 0.01
    assert missed.mean() < 2e-4


@pytest.mark.parametrize("mean", [0.01, 0.5, 3.0, 40.0, 2000.0])
def test_with_a_certain_mean_and_no_dispersion_they_are_those_of_a_poisson(mean: float) -> None:
    zero = np.zeros(1)
    found = count_quantiles(np.full(1, mean), zero, zero, [0.05, 0.95])
    F = stats.poisson(mean).cdf
    for q, p in zip(found, (0.05, 0.95), strict=True):
        assert F(q - 1) <= p + 0.01
        assert F(q) >= p - 0.01


def test_far_beyond_the_table_they_grow_as_the_mean_does() -> None:
    m = np.array([1e6, 1e8])
    q = count_quantiles(m, 0.04 * m**2, np.full(2, 0.1), [0.95])[0] / m
    assert q[0] == pytest.approx(q[1], rel=1e-3)


def test_nothing_is_expected_of_a_gene_without_counts() -> None:
    assert [one.tolist() for one in count_quantiles(np.zeros(2), np.zeros(2), np.ones(2), [0.05, 0.95])] == [
        [0.0, 0.0],
        [0.0, 0.0],
    ]
