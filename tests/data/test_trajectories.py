"""Trajectories: minibatches, parts, and what their digest sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from anndata import AnnData
from named_cells import (
    GENES,
    LABELS,
    TIMES,
    course,
    dense,
    held_names,
    read_sequences,
    screen,
    sequences,
)

from pyro_citevae.data import Schedule, Trajectories
from pyro_citevae.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:.*names are not unique")


# Batches


def test_x_dense_is_the_matrix_that_was_read() -> None:
    adata = screen()
    data = Trajectories.from_anndata(adata[::-1].copy())
    np.testing.assert_array_equal(data.batch().x.dense[0].numpy(), dense(adata[list(data.names)]))


def test_x_dense_of_a_sequence_has_each_row_in_its_slot_and_zeros_elsewhere() -> None:
    adata = sequences()
    expected = np.zeros((3, 3, len(GENES)), dtype=np.float32)
    for row, (cell, time) in enumerate(zip(adata.obs["cell"], adata.obs["time"], strict=True)):
        expected[[1.0, 2.0, 4.0].index(time), "pqr".index(cell)] = dense(adata)[row]
    np.testing.assert_array_equal(read_sequences(adata).batch().x.dense.numpy(), expected)


def test_missing_slots_are_padded() -> None:
    batch = read_sequences().batch()
    assert batch.observed.tolist() == [[True, True, False], [True, False, True], [True, True, False]]
    assert batch.step.tolist() == [[1, 1, 1], [2, 2, 2], [4, 4, 4]]
    assert batch.library.gt(0).all()
    assert batch.step.le(batch.n_steps).all()


def test_last_is_the_step_of_the_last_observation() -> None:
    assert read_sequences().batch().last.tolist() == [4, 4, 2]
    assert course().batch().last.tolist() == [int(time) for time in TIMES]


def test_a_cell_reaches_the_steps_up_to_its_last() -> None:
    batch = read_sequences().batch()
    reached = [batch.reached(t).tolist() for t in (2, 3, 4, 5)]
    assert reached == [[True, True, True], [True, True, False], [True, True, False], [False, False, False]]


def test_the_dose_table_is_the_schemas() -> None:
    data = read_sequences()
    batch = data.batch()
    assert batch.u.shape == (5, 3, 2)
    for n, label in enumerate(data.labels):
        expected = data.schema.doses(Schedule.parse(label), batch.n_steps)
        np.testing.assert_array_equal(batch.u[:, n].numpy(), expected)


def test_exposure_is_the_dose_summed_up_to_each_observation() -> None:
    batch = read_sequences().batch()
    for slot in range(3):
        for n in range(3):
            expected = batch.u[: int(batch.step[slot, n]) + 1, n].sum(0)
            assert torch.equal(batch.exposure[slot, n], expected)
    assert batch.exposure[2, 1].tolist() == [4, 2]


def test_a_minibatch_is_a_part_of_the_whole_batch() -> None:
    data = read_sequences()
    whole, part = data.batch(), data.batch(np.array([2, 0]))
    assert (part.size, part.n_cells, part.index.tolist()) == (3, 2, [2, 0])
    assert torch.equal(part.x.dense, whole.x.dense[:, [2, 0]])
    assert torch.equal(part.u, whole.u[:, [2, 0]])
    for name in ("step", "observed", "library", "exposure"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[:, [2, 0]])


def test_chunks_are_all_cells_in_their_order() -> None:
    data = read_sequences()
    chunks = list(data.chunks(2))
    assert [chunk.n_cells for chunk in chunks] == [2, 1]
    whole = data.batch()
    assert torch.equal(torch.cat([chunk.index for chunk in chunks]), whole.index)
    assert torch.equal(torch.cat([chunk.x.dense for chunk in chunks], dim=1), whole.x.dense)


def test_an_unobserved_batch_keeps_the_cells_and_forgets_the_counts() -> None:
    batch = read_sequences().batch()
    blind = batch.unobserved()
    assert blind.x is None
    assert not blind.observed.any()
    assert blind.last.tolist() == [0, 0, 0]
    assert torch.equal(blind.u, batch.u)


# Parts


def test_controls_are_the_cells_under_no_dose() -> None:
    data = course()
    controls = data.controls()
    assert set(controls.labels) == {"control"}
    assert set(controls.names) == {
        n for n, label in zip(data.names, LABELS, strict=True) if label == "control"
    }


def test_controls_are_missed_where_there_are_none() -> None:
    with pytest.raises(DataError, match="no control cell"):
        course().select("A").controls()


def test_select_by_label_and_time_is_the_intersection() -> None:
    data = course()
    both = data.select("A", 2.0)
    assert held_names(both) == held_names(data.select("A")) & held_names(data.select(time=2.0))
    assert set(both.labels) == {"A"}


def test_cells_keep_all_their_observations() -> None:
    part = read_sequences().cells(np.array([0, 2]))
    assert part.names.tolist() == ["p", "r"]
    assert part.row_times.tolist() == [1, 2, 4, 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda adata: adata.X.__setitem__((0, 0), adata.X[0, 0] + 1),
        lambda adata: adata.obs.__setitem__("time", list(TIMES[::-1])),
        lambda adata: adata.obs.__setitem__("perturbation", ["A", *LABELS[1:]]),
    ],
    ids=["count", "time", "label"],
)
def test_the_digest_sees_a_change_of_the_data(change: Callable[[AnnData], None]) -> None:
    adata = screen(time=TIMES)
    data = Trajectories.from_anndata(adata, time="time", step=1.0)
    assert Trajectories.from_anndata(adata.copy(), time="time", step=1.0).digest == data.digest
    change(adata)
    assert Trajectories.from_anndata(adata, time="time", step=1.0).digest != data.digest
