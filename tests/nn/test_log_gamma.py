"""Log-gammas of counts: sums over the factors that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from pyro_citevae.nn.log_gamma import log_factorial, log_rising, rising_slope

COUNTS = torch.tensor([0, 1, 2, 3, 7, 30, 999, 20_000], dtype=torch.float64)


@pytest.mark.parametrize("log_theta", [-80.0, -20.0, -3.0, -0.5, 0.0, 1.0, 3.9, 4.1, 8.0, 20.0, 40.0])
def test_a_rising_factorial_and_its_slope_are_those_of_its_factors(log_theta: float) -> None:
    """``theta (theta + 1) ... (theta + x - 1) / theta^x`` is a product of ``1 + i / theta``."""
    theta, given = np.exp(log_theta), torch.full_like(COUNTS, log_theta)
    factors = [np.arange(int(x)) for x in COUNTS]
    wanted = [np.log1p(i / theta).sum() for i in factors]
    np.testing.assert_allclose(log_rising(COUNTS, given), wanted, rtol=1e-11, atol=2e-11)
    slope = [-(i / (theta + i)).sum() for i in factors]
    np.testing.assert_allclose(rising_slope(COUNTS, given), slope, rtol=1e-11, atol=2e-11)


def test_the_slope_is_the_derivative() -> None:
    log_theta = torch.linspace(-30.0, 30.0, 40, dtype=torch.float64).requires_grad_()
    x = torch.arange(40, dtype=torch.float64)
    (found,) = torch.autograd.grad(log_rising(x, log_theta).sum(), log_theta)
    torch.testing.assert_close(found, rising_slope(x, log_theta), rtol=1e-9, atol=1e-9)


def test_a_factorial_is_scipys() -> None:
    np.testing.assert_allclose(log_factorial(COUNTS), special.gammaln(COUNTS + 1), rtol=1e-13, atol=1e-11)
