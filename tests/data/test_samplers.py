"""Orders of cells: each sees what it should, and none changes the objective."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import pyro_citevae as cv
from pyro_citevae.data.samplers import Balanced, Blocks, Share, balance, in_order, uniform
from pyro_citevae.errors import FitError
from pyro_citevae.guides import MeanField
from pyro_citevae.infer.bounds import negative_bound
from pyro_citevae.models import CiteVAE, Switching


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("n", "size", "block", "buffer"), [(100, 10, 8, 40), (103, 10, 8, 40), (7, 20, 64, 10)]
)
@pytest.mark.parametrize("shares", [1, 2])
def test_blocks_give_every_cell_once_in_as_many_minibatches_as_they_say(
    n: int, size: int, block: int, buffer: int, shares: int
) -> None:
    place = np.random.default_rng(0).permutation(n)
    batches = Blocks(place, size, generator(), shares=shares, block=block, buffer=buffer)
    one, two = list(batches), list(batches)
    assert len(one) == len(batches)
    seen = [cell for batch in one for cell in batch]
    assert len(seen) == len(set(seen))
    assert n - len(seen) < shares
    assert all(len(batch) % shares == 0 for batch in one)
    assert one != two, "each epoch has an order of its own"


def test_blocks_read_neighbours_together() -> None:
    place = np.random.default_rng(0).permutation(1000)
    batches = Blocks(place, 50, generator(), block=20, buffer=100)
    for first in range(0, 20, 2):
        pair = list(batches)[first : first + 2]
        assert len(np.unique(place[np.concatenate(pair)] // 20)) <= 6  # five whole blocks, or one cut


def test_shares_of_blocks_come_from_blocks_of_their_own() -> None:
    def blocks_of(rank: int) -> set[int]:
        order = Blocks(np.arange(800), 40, generator(), shares=2, block=20, buffer=400)
        buffer = list(Share(order, rank, 2))[:10]  # the first buffer's minibatches
        return {cell // 20 for batch in buffer for cell in batch}

    assert len(blocks_of(0)) == len(blocks_of(1)) == 10
    assert not blocks_of(0) & blocks_of(1)


def test_shares_are_equally_large_and_make_up_the_minibatch() -> None:
    for size in (10, 9, 1):
        whole = list(uniform(47, size, generator()))
        shares = [list(Share(uniform(47, size, generator()), rank, 3)) for rank in range(3)]
        for batch, *parts in zip(whole, *shares, strict=True):
            assert len({len(part) for part in parts}) == 1
            assert {cell for part in parts for cell in part} == set(batch)


def test_a_balanced_minibatch_has_every_condition_equally_often() -> None:
    condition = np.repeat([0, 1, 2, 3], [5, 50, 500, 445])
    for batch in Balanced(condition, 100, generator()):
        counts = np.bincount(condition[batch], minlength=4)
        assert counts.max() - counts.min() <= 2


def test_within_a_condition_cells_come_equally_often() -> None:
    condition = np.repeat([0, 1], [10, 30])
    batches = Balanced(condition, 8, generator())
    seen = np.bincount([cell for _ in range(3) for batch in batches for cell in batch], minlength=40)
    assert seen[:10].tolist() == [6] * 10
    assert seen[10:].sum() == 60


def test_the_weights_make_a_balanced_sum_unbiased() -> None:
    """``E[N / B sum_b w f] = sum_n f_n``: a mean over minibatches within four standard errors."""
    condition = np.repeat([0, 1, 2], [10, 100, 290])
    f = np.random.default_rng(0).normal(size=400) + condition
    weighted = balance(condition) * f
    batches = Balanced(condition, 40, generator())
    estimates = np.array([400 / len(b) * weighted[b].sum() for _ in range(200) for b in batches])
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean() - f.sum()) < 4 * error
    unweighted = np.array([400 / len(b) * f[b].sum() for _ in range(200) for b in batches])
    assert abs(unweighted.mean() - f.sum()) > 20 * error, "without weights it is another objective"


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_a_weight_counts_a_cell_so_many_times(objective: str) -> None:
    """A cell of weight two is two equal cells: their bounds agree up to the noise of the draws."""
    data = cv.simulate(n_cells=40, n_genes=6, n_programs=2, n_perturbations=2, n_steps=2, seed=0).data
    model = CiteVAE(data.schema, n_programs=2, hidden=4)
    bound = negative_bound(model, MeanField(model, hidden=4), objective, alpha=0.0, particles=2)
    once = np.arange(20)
    weighted = replace(data.batch(once), weight=torch.where(torch.arange(20) < 10, 2.0, 1.0), size=30)
    twice = replace(data.batch(np.concatenate([once, once[:10]])), size=30)
    # N / B is 30 / 20 for the first: so that both sums are plain, the scale is undone
    weighted = replace(weighted, size=20)
    with torch.no_grad():
        torch.manual_seed(0)
        one, two, plain = (
            torch.stack([bound(batch) for _ in range(60)])
            for batch in (weighted, twice, replace(weighted, weight=None))
        )
    error = float((one.var() / 60 + two.var() / 60).sqrt())
    assert abs(float(one.mean() - two.mean())) < 4 * error
    assert abs(float(one.mean() - plain.mean())) > 10 * error


def test_weights_of_one_change_nothing() -> None:
    data = cv.simulate(n_cells=30, n_genes=6, n_programs=2, n_perturbations=2, n_steps=2, seed=0).data
    model = CiteVAE(data.schema, n_programs=2)
    bound = negative_bound(model, MeanField(model, hidden=4), "elbo", alpha=0.0, particles=1)
    values = []
    for weight in (None, torch.ones(30)):
        torch.manual_seed(1)
        values.append(float(bound(replace(data.batch(), weight=weight)).detach()))
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_a_sum_over_discrete_sites_refuses_weights() -> None:
    data = cv.simulate(n_cells=30, n_genes=6, n_programs=2, n_perturbations=2, n_steps=2, seed=0).data
    model = Switching(data.schema, n_programs=2)
    with pytest.raises(FitError, match=r"Switching's discrete sites .* use sampler='uniform'"):
        cv.fit(model, MeanField(model, hidden=4), data, sampler="balanced", progress=False)


def test_a_balanced_fit_reaches_a_bound_like_a_uniform_one() -> None:
    data = cv.simulate(n_cells=300, n_genes=10, n_programs=2, n_perturbations=3, n_steps=2, seed=0).data
    model = CiteVAE(data.schema, n_programs=2, hidden=8)
    uniform_, balanced = (
        cv.fit(
            model, MeanField(model, hidden=8), data, sampler=one, max_epochs=8, batch_size=50, progress=False
        )
        for one in ("uniform", "balanced")
    )
    bounds = [one.bound(data, particles=8) for one in (uniform_, balanced)]
    first = uniform_.history["training"].iloc[0]
    assert abs(bounds[0] - bounds[1]) < 0.1 * (bounds[0] - first)


def test_consecutive_minibatches_are_in_order() -> None:
    assert list(in_order(5, 2)) == [[0, 1], [2, 3], [4]]
