"""Kriging: exact against the normal law's conditional, with residuals of rows that are left out."""

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_citevae.nn.kriging import kriged

SEEN = torch.tensor([False, True, True, True, False, True])
TOLERANCE = 1e-5  # float32 rows and covariances, condition numbers below a hundred


def screen(n_draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n_draws, 6, 3, generator=generator)
    covariance = features @ features.mT + 0.5 * torch.eye(6)
    return torch.randn(n_draws, 6, 4, generator=generator), covariance


def conditional(K: np.ndarray, R: np.ndarray, u: int, given: list[int]) -> tuple[np.ndarray, float]:
    weight = np.linalg.solve(K[np.ix_(given, given)], K[given, u])
    return weight @ R[given], K[u, u] - weight @ K[given, u]


@pytest.mark.parametrize("donor", [1, 2, 3, 5])
def test_a_row_misses_its_forecast_as_the_donor_misses_its_own(donor: int) -> None:
    rows, covariance = screen(3)
    made = kriged(rows, covariance, SEEN, torch.full((3, 6), donor)).numpy()
    seen = SEEN.nonzero()[:, 0].tolist()
    for draw in range(3):
        K, R = covariance[draw].double().numpy(), rows[draw].double().numpy()
        without, v_q = conditional(K, R, donor, [q for q in seen if q != donor])
        for u in (0, 4):
            forecast, v_u = conditional(K, R, u, seen)
            expected = forecast + np.sqrt(v_u / v_q) * (R[donor] - without)
            np.testing.assert_allclose(made[draw, u], expected, atol=TOLERANCE)


def test_seen_rows_stay_and_unseen_ones_are_not_read() -> None:
    rows, covariance = screen(3)
    donor = torch.tensor([[2, 0, 0, 0, 5, 0]] * 3)
    made = kriged(rows, covariance, SEEN, donor)
    assert torch.equal(made[:, SEEN], rows[:, SEEN])
    others = torch.where(SEEN[:, None], rows, torch.inf)
    assert torch.equal(kriged(others, covariance, SEEN, donor), made)


def test_without_a_donor_a_row_follows_the_conditional_law() -> None:
    rows, covariance = screen(1)
    n = 4000
    torch.manual_seed(1)
    many = kriged(rows.expand(n, -1, -1), covariance.expand(n, -1, -1), SEEN, torch.full((n, 6), -1))
    seen = SEEN.nonzero()[:, 0].tolist()
    forecast, v = conditional(covariance[0].double().numpy(), rows[0].double().numpy(), 0, seen)
    standard = (many[:, 0].numpy() - forecast) / np.sqrt(v)
    assert min(stats.kstest(column, "norm").pvalue for column in standard.T) > 1e-3


def test_the_order_of_tokens_does_not_matter() -> None:
    rows, covariance = screen(2)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    made = kriged(rows, covariance, SEEN, torch.full((2, 6), 2))
    turned = kriged(rows[:, order], covariance[:, order][:, :, order], SEEN[order], torch.full((2, 6), 5))
    torch.testing.assert_close(turned, made[:, order], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("population", [0.1, 1.0, 10.0])
def test_where_features_say_nothing_the_expected_row_is_the_mean_of_the_seen(population: float) -> None:
    """Up to a share of order 1 / n, since one row less is left when a row is left out."""
    n = 20
    seen = torch.arange(n + 1) < n
    rows = 1 + torch.randn(1, n + 1, 2, generator=torch.Generator().manual_seed(2))
    covariance = (population + torch.eye(n + 1)).expand(n, -1, -1)
    each = torch.arange(n)[:, None].expand(n, n + 1)
    expected = kriged(rows.expand(n, -1, -1), covariance, seen, each)[:, n].mean(0)
    torch.testing.assert_close(expected, rows[0, :n].mean(0), rtol=1 / n, atol=0)
