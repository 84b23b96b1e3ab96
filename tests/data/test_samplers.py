"""Orders of cells: each sees what it should, and none changes the objective."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.data.samplers import Balanced, Blocks, Passes, Share, balance, in_order, uniform
from pyro_citevae.errors import FitError
from pyro_citevae.guides import MeanField
from pyro_citevae.infer.bounds import negative_bound
from pyro_citevae.infer.fit_settings import FitSettings
from pyro_citevae.infer.minibatches import _partition
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


@pytest.mark.parametrize("n", [1, 3])
def test_passes_give_every_cell_so_often_and_a_new_order_each_time(n: int) -> None:
    passes = Passes(uniform(50, 8, generator()), n)
    found = list(passes)
    assert len(found) == len(passes) == n * 7
    for one in range(n):
        assert sorted(cell for batch in found[one * 7 : (one + 1) * 7] for cell in batch) == list(range(50))
    orders = [tuple(cell for batch in found[one * 7 : (one + 1) * 7] for cell in batch) for one in range(n)]
    assert len(set(orders)) == n
    plain = uniform(50, 8, generator())
    assert found == [batch for _ in range(n) for batch in plain], "the same order as so many epochs"


def test_passes_of_a_share_are_shares_of_the_passes() -> None:
    for rank in range(2):
        passes = list(Passes(Share(uniform(41, 6, generator()), rank, 2), 2))
        plain = Share(uniform(41, 6, generator()), rank, 2)
        assert passes == [*plain, *plain]


# what is held out


def parted(data: cv.Trajectories, **settings: object) -> tuple[np.ndarray, np.ndarray]:
    return _partition(data, FitSettings(**settings))


@pytest.mark.parametrize("design", ["snapshot", "time course", "sequences"])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_same_share_of_every_group_is_held_out(design: str, share: float) -> None:
    """To one cell, whatever the size of the group; a sequence is of the group of its last time."""
    data = simulated(design, n_cells=333, n_steps=4)
    seen, unseen = parted(data, validation=share, seed=5)
    assert sorted([*seen, *unseen]) == list(range(data.n_cells))
    last = np.zeros(data.n_cells, dtype=int)
    np.maximum.at(last, data.row_cell, data.row_step)
    for label in np.unique(data.labels):
        for step in np.unique(last):
            group = (data.labels == label) & (last == step)
            assert abs(group[unseen].sum() - share * group.sum()) <= 1
    assert abs(len(unseen) - share * data.n_cells) <= 1


def test_a_cell_that_has_its_group_to_itself_stays_in_training() -> None:
    data = simulated("snapshot", n_cells=100, n_perturbations=4)
    kept = np.ones(data.n_cells, dtype=bool)
    kept[np.flatnonzero(data.labels == "gene_1")[1:]] = False
    alone = data.cells(np.flatnonzero(kept))
    position = np.flatnonzero(alone.labels == "gene_1")
    for seed in range(20):
        seen, unseen = parted(alone, validation=0.9, seed=seed)
        assert position in seen
        assert len(unseen) > 0


def test_any_part_of_what_is_held_out_is_of_every_group() -> None:
    """Its order is random, so that the first cells stand for all."""
    data = simulated("snapshot", n_cells=2000, n_perturbations=3)
    _, unseen = parted(data, validation=0.5)
    labels = data.labels[unseen[:200]]
    # 50 of 200 each: a standard deviation of 6
    assert all(abs((labels == label).sum() - 50) < 30 for label in np.unique(data.labels))


def test_what_is_held_out_follows_the_seed() -> None:
    data = simulated(n_cells=200)
    one, same, other = (parted(data, seed=seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert set(one) != set(other)


def test_nothing_is_held_out_if_nothing_is_to_be() -> None:
    data = simulated()
    seen, unseen = parted(data, validation=0.0)
    assert seen.tolist() == list(range(data.n_cells))
    assert len(unseen) == 0
