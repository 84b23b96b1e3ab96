"""A screen on a device gathers the minibatches that the data themselves give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.data import Batch
from pyro_citevae.data.resident_screen import ResidentScreen

SIZE = 7


@pytest.fixture(params=["snapshot", "time course", "sequences"])
def data(request: pytest.FixtureRequest) -> cv.Trajectories:
    return simulated(request.param, n_cells=40, n_genes=9, combinations=("gene_0+gene_1",))


def same(found: Batch, wanted: Batch, n: int) -> None:
    for name in ("index", "technical"):
        assert torch.equal(getattr(found, name)[:n], getattr(wanted, name)), name
    for name in ("step", "observed", "library"):
        assert torch.equal(getattr(found, name)[:, :n], getattr(wanted, name)), name
    assert torch.equal(found.u.dense[:, :n], wanted.u.dense)
    assert torch.equal(found.x.dense[:, :n], wanted.x.dense)


@pytest.mark.parametrize("cells", [[3, 0, 39, 7, 8, 9, 21], [5], []], ids=["whole", "one cell", "none"])
def test_its_minibatches_are_those_of_the_data(data: cv.Trajectories, cells: list[int]) -> None:
    screen, chosen = ResidentScreen(data, SIZE), np.array(cells, dtype=np.int64)
    found = screen(*screen.places(chosen))
    same(found, data.batch(chosen), len(cells))
    assert found.size == data.n_cells
    # nothing stands where no cell does
    assert not found.observed[:, len(cells) :].any()
    assert (found.weight[len(cells) :] == 0).all()
    assert found.x.dense[:, len(cells) :].sum() == 0
    torch.testing.assert_close(found.weight.sum(), torch.tensor((SIZE + 1.0) * (len(cells) > 0)))


def test_every_minibatch_has_the_same_shapes(data: cv.Trajectories) -> None:
    screen = ResidentScreen(data, SIZE)
    shapes = set()
    for cells in (np.arange(7), np.arange(3), np.array([30])):
        batch = screen(*screen.places(cells))
        x = batch.x
        shapes.add((batch.u.shape, batch.step.shape, x.row.shape, x.gene.shape, x.value.shape, x.shape))
    assert len(shapes) == 1


def test_there_is_room_for_the_cells_that_take_most(data: cv.Trajectories) -> None:
    screen = ResidentScreen(data, SIZE)
    of_cell = np.bincount(data.row_cell, weights=np.diff(data.stored.tocsr().indptr))
    heaviest = np.argsort(-of_cell)[:SIZE]
    batch = screen(*screen.places(heaviest))
    same(batch, data.batch(heaviest), SIZE)


def test_weights_of_cells_are_kept(data: cv.Trajectories) -> None:
    screen = ResidentScreen(data, SIZE)
    weight = np.array([0.5, 2.0], dtype=np.float32)
    _, counted = screen.places(np.array([1, 2]), weight)
    torch.testing.assert_close(counted[:2] * 2 / (SIZE + 1), torch.from_numpy(weight))


def test_large_counts_keep_their_values() -> None:
    data = simulated("snapshot", n_cells=20, n_genes=5)
    data.stored.matrix.data[0] = 40_000
    screen = ResidentScreen(data, 20)
    same(screen(*screen.places(np.arange(20))), data.batch(np.arange(20)), 20)
