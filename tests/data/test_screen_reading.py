"""Reading a screen: columns, values, times, library sizes; and every fault refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from named_cells import (
    EMPTY,
    GENES,
    LABELS,
    SEQUENCE_ROWS,
    TIMES,
    counts_by_name,
    dense,
    held_names,
    read_sequences,
    screen,
    sequences,
)
from scipy import sparse

from pyro_citevae.data import Trajectories, open_h5ad, simulate
from pyro_citevae.errors import DataError, ScheduleError

pytestmark = pytest.mark.filterwarnings("ignore:.*names are not unique")


# Reading


def test_a_snapshot_has_one_row_a_cell_at_the_last_step() -> None:
    data = Trajectories.from_anndata(screen(), n_steps=4)
    assert (data.schema.design, data.schema.times, data.schema.n_steps) == ("snapshot", (4.0,), 4)
    assert (data.n_cells, data.n_observations) == (12, 12)
    assert set(data.row_step) == {4}
    assert data.perturbations() == ("A", "A+B", "B", "C")
    assert data.schema.tokens == ("A", "B", "C")


def test_a_time_course_has_one_row_a_cell_at_its_own_time() -> None:
    adata = screen(time=TIMES)
    data = Trajectories.from_anndata(adata, time="time")
    assert (data.schema.design, data.schema.times, data.schema.step) == ("time course", (1.0, 2.0), 1.0)
    assert held_names(data) == set(zip(adata.obs_names, adata.obs["time"], strict=True))
    assert (data.n_cells, data.n_observations) == (12, 12)


def test_sequences_gather_the_rows_of_a_cell_in_order_of_time() -> None:
    data = read_sequences()
    assert (data.schema.design, data.schema.times, data.schema.n_slots) == ("sequences", (1.0, 2.0, 4.0), 3)
    assert data.names.tolist() == ["p", "q", "r"]
    assert data.row_cell.tolist() == [0, 0, 0, 1, 1, 2]
    assert data.row_times.tolist() == [1, 2, 4, 1, 4, 2]
    assert data.labels.tolist() == ["control", "A+B@2", "A"]


@pytest.mark.parametrize(
    ("times", "step"), [((2, 4), 2.0), ((24, 72), 24.0), ((0, 1.5), 1.5), ((0.1, 0.3), 0.1), ((6, 9), 3.0)]
)
def test_the_grid_is_the_common_divisor_of_the_times(times: tuple[float, float], step: float) -> None:
    data = Trajectories.from_anndata(screen(time=times * 6), time="time")
    assert data.schema.step == pytest.approx(step)
    assert sorted(set(data.row_times)) == pytest.approx(times)


def test_the_observed_times_can_be_the_grid() -> None:
    times = [0.0, 0.5, 6.0, 24.0] * 3
    data = Trajectories.from_anndata(screen(time=times), time="time", step="observed")
    assert (data.schema.grid, data.schema.step, data.schema.n_steps) == ((0.5, 6.0, 24.0), 0.5, 3)
    assert data.schema.times == (0.0, 0.5, 6.0, 24.0)
    assert data.row_step.tolist() == [0, 1, 2, 3] * 3
    assert data.row_times.tolist() == times
    assert set(data.select(time=6.0).row_times) == {6.0}
    train, held = data.hold_out(times=[24.0])
    assert set(train.row_times) == {0.0, 0.5, 6.0}
    assert set(held.row_times) == {24.0}
    assert train.batch().u.shape[0] == 3


def test_a_grid_can_be_given_and_hold_more_than_the_observed_times() -> None:
    data = Trajectories.from_anndata(screen(time=TIMES), time="time", step=[0.5, 1, 1.75, 2, 4])
    assert data.schema.grid == (0.5, 1.0, 1.75, 2.0, 4.0)
    assert data.schema.n_steps == 4
    assert set(data.row_step) == {2, 4}
    assert data.schema.step == pytest.approx(0.25)


def test_a_grid_of_a_snapshot_ends_with_its_only_time() -> None:
    data = Trajectories.from_anndata(screen(), step=[1.0, 3.0, 10.0])
    assert (data.schema.times, data.schema.n_steps) == ((10.0,), 3)


def test_new_data_are_read_onto_the_grid_of_the_old() -> None:
    old = Trajectories.from_anndata(screen(time=[0.5, 6.0, 24.0] * 4), time="time", step="observed").schema
    data = Trajectories.from_anndata(screen(time=[6.0, 24.5] * 6), time="time", schema=old)
    assert data.row_step.tolist() == [2, 4] * 6
    assert data.row_times.tolist() == [6.0, 24.5] * 6


def test_a_given_step_refines_the_grid() -> None:
    data = Trajectories.from_anndata(screen(time=TIMES), time="time", step=0.5)
    assert data.schema.n_steps == 4
    assert set(data.row_step) == {2, 4}


@pytest.mark.parametrize(
    ("uns", "given", "unit"),
    [({}, None, "time unit"), ({"time_unit": "day"}, None, "day"), ({"time_unit": "day"}, "hour", "hour")],
)
def test_the_unit_of_time_is_given_or_found(uns: dict[str, str], given: str | None, unit: str) -> None:
    adata = screen(time=TIMES)
    adata.uns.update(uns)
    assert Trajectories.from_anndata(adata, time="time", time_unit=given).schema.time_unit == unit


@pytest.mark.parametrize(
    "form",
    [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, lambda x: x.astype(np.int64), np.asfortranarray],
    ids=["csr", "csc", "csr array", "integers", "by column"],
)
def test_dense_and_sparse_counts_are_the_same_data(form: Callable[[np.ndarray], Any]) -> None:
    adata = screen()
    expected = Trajectories.from_anndata(adata)
    adata.X = form(adata.X)
    data = Trajectories.from_anndata(adata)
    assert data.digest == expected.digest
    assert torch.equal(data.batch().x.dense, expected.batch().x.dense)


def test_counts_come_from_the_named_layer() -> None:
    adata = screen()
    expected = Trajectories.from_anndata(adata)
    adata.layers["raw"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    assert Trajectories.from_anndata(adata, layer="raw").digest == expected.digest


def test_real_values_may_be_negative_and_fractional() -> None:
    adata = screen()
    adata.X = np.random.default_rng(2).normal(size=adata.shape).astype(np.float32)
    data = Trajectories.from_anndata(adata, values="real")
    assert data.schema.values == "real"
    np.testing.assert_array_equal(data.batch().x.dense[0].numpy(), adata.X)


def test_reading_leaves_the_anndata_as_it_was() -> None:
    adata = screen(time=TIMES)
    adata.X = sparse.csr_matrix(adata.X)
    adata.X.data[0] = 0.0
    before = adata.copy()
    Trajectories.from_anndata(adata, time="time", exclude=("C",))
    assert adata.X.nnz == before.X.nnz
    np.testing.assert_array_equal(dense(adata), dense(before))
    pd.testing.assert_frame_equal(adata.obs, before.obs)


def test_the_library_is_the_sum_over_the_panel_and_never_below_one() -> None:
    adata = screen()
    data = Trajectories.from_anndata(adata)
    np.testing.assert_array_equal(data.library, np.maximum(dense(adata).sum(1), 1))
    assert data.schema.total == np.median(data.library)
    assert data.schema.panel_share == 1.0


def test_the_library_is_read_from_a_column() -> None:
    depth = np.arange(100.0, 112.0)
    adata = screen(depth=depth)
    data = Trajectories.from_anndata(adata, library="depth")
    np.testing.assert_array_equal(data.library, depth)
    assert data.schema.total == np.median(depth)
    assert data.schema.panel_share == pytest.approx(dense(adata).sum() / depth.sum())


def test_silent_genes_and_empty_cells_have_a_finite_library() -> None:
    data = Trajectories.from_anndata(screen())
    x = data.batch().x.dense[0]
    assert data.schema.genes == GENES
    assert x[:, -1].eq(0).all()
    assert x[data.names.tolist().index(EMPTY)].eq(0).all()
    assert np.isfinite(np.log(data.library)).all()


def test_batches_are_numbered_in_the_order_of_their_names() -> None:
    adata = screen(run=list("zyxzzyxzyxyx"))[::-1].copy()
    data = Trajectories.from_anndata(adata, batch="run")
    assert data.schema.batches == ("x", "y", "z")
    assert [data.schema.batches[b] for b in data.technical] == adata.obs["run"].loc[data.names].tolist()
    assert Trajectories.from_anndata(screen()).schema.batches == ("all",)


def test_excluded_labels_leave_no_trace() -> None:
    data = Trajectories.from_anndata(screen(), exclude=("C", "A+B"))
    assert data.perturbations() == ("A", "B")
    assert data.schema.tokens == ("A", "B")
    assert data.n_cells == sum(label not in ("C", "A+B") for label in LABELS)


def test_a_combination_is_the_same_in_either_order() -> None:
    swapped = tuple("B+A" if label == "A+B" else label for label in LABELS)
    assert Trajectories.from_anndata(screen(swapped)).digest == Trajectories.from_anndata(screen()).digest


def test_the_order_of_the_rows_does_not_matter() -> None:
    adata = screen(time=TIMES)
    mixed = adata[np.random.default_rng(3).permutation(adata.n_obs)].copy()
    data, other = (Trajectories.from_anndata(one, time="time") for one in (adata, mixed))
    assert counts_by_name(data) == counts_by_name(other)
    assert data.digest == other.digest


def test_reading_with_the_schema_of_an_earlier_data_set_gives_the_same_data() -> None:
    adata = screen(time=TIMES)
    data = Trajectories.from_anndata(adata, time="time")
    again = Trajectories.from_anndata(adata[:, ::-1].copy(), time="time", schema=data.schema)
    assert again.digest == data.digest


def test_a_schema_drops_genes_that_it_does_not_name() -> None:
    adata = screen()
    narrow = Trajectories.from_anndata(adata[:, :3].copy())
    again = Trajectories.from_anndata(adata, schema=narrow.schema)
    assert again.digest == narrow.digest


# Bad input


def with_count(value: float) -> AnnData:
    adata = screen()
    adata.X[0, 0] = value
    return adata


def with_names(**names: list[str]) -> AnnData:
    adata = screen()
    for axis, given in names.items():
        setattr(adata, axis, given)
    return adata


def with_times(*first: Any) -> AnnData:
    return screen(time=[*first, *TIMES[len(first) :]])


@pytest.mark.parametrize(
    ("make", "options", "phrase"),
    [
        pytest.param(lambda: with_count(-1), {}, "negative values such as -1", id="negative count"),
        pytest.param(lambda: with_count(0.5), {}, "fractional values such as 0.5", id="fractional count"),
        pytest.param(lambda: with_count(np.nan), {}, "NaN or infinite", id="NaN count"),
        pytest.param(lambda: with_count(np.inf), {}, "NaN or infinite", id="infinite count"),
        pytest.param(lambda: with_count(np.nan), {"values": "real"}, "NaN or infinite", id="NaN value"),
        pytest.param(screen, {"values": "log"}, "neither 'counts' nor 'real'", id="kind of values"),
        pytest.param(
            lambda: AnnData(obs=screen().obs, var=screen().var), {}, "has no X; name the layer", id="no X"
        ),
        pytest.param(
            screen,
            {"perturbation": "guide"},
            "perturbation='guide' is not a column of obs; its columns are perturbation",
            id="perturbation column",
        ),
        pytest.param(screen, {"time": "day"}, "time='day' is not a column", id="time column"),
        pytest.param(screen, {"layer": "umi"}, "layer='umi' is not a layer", id="layer"),
        pytest.param(screen, {"layer": "raw"}, "neither a layer nor is there a .raw", id="no raw"),
        pytest.param(screen, {"library": "depth"}, "library='depth' is not a column", id="library column"),
        pytest.param(screen, {"batch": "run"}, "batch='run' is not a column", id="batch column"),
        pytest.param(screen, {"sequence": "cell"}, "sequence='cell' is not a column", id="sequence column"),
        pytest.param(screen, {"control": "NT"}, "no control cell: .* never says 'NT'", id="no control"),
        pytest.param(lambda: screen(("control",) * 12), {}, "no perturbed cell", id="no perturbed cell"),
        pytest.param(
            lambda: with_names(var_names=["A", "B", "D", "A", "F", "G"]),
            {},
            "gene 'A' appears twice",
            id="duplicate gene",
        ),
        pytest.param(
            lambda: with_names(obs_names=["c", "d", "e", "f"] * 3),
            {},
            "cell 'c' appears twice",
            id="duplicate cell",
        ),
        pytest.param(
            lambda: with_times("late"), {"time": "time"}, "holds 'late'; times are numbers", id="text as time"
        ),
        pytest.param(lambda: with_times(-1.0), {"time": "time"}, r"holds '-1\.0'", id="negative time"),
        pytest.param(lambda: with_times(np.nan), {"time": "time"}, "holds 'nan'", id="missing time"),
        pytest.param(lambda: with_times(np.inf), {"time": "time"}, "holds 'inf'", id="infinite time"),
        pytest.param(
            lambda: screen((None, *LABELS[1:])), {}, r"obs\['perturbation'\] has empty labels", id="no label"
        ),
        pytest.param(lambda: screen(("", *LABELS[1:])), {}, "empty labels", id="empty label"),
        pytest.param(lambda: screen((" ", *LABELS[1:])), {}, "empty labels", id="blank label"),
        pytest.param(lambda: with_times(1.01), {"time": "time"}, "makes 200 latent steps", id="long grid"),
        pytest.param(screen, {"n_steps": 65}, "makes 65 latent steps", id="too many steps"),
        pytest.param(screen, {"n_steps": 0}, "makes 0 latent steps", id="no step"),
        pytest.param(
            lambda: with_times(),
            {"time": "time", "step": 2.0},
            "time 1 is not on the grid of 2",
            id="off grid",
        ),
        pytest.param(lambda: with_times(), {"time": "time", "step": -1.0}, "is not positive", id="step"),
        pytest.param(lambda: with_times(), {"time": "time", "step": []}, "names no time", id="empty grid"),
        pytest.param(
            lambda: with_times(),
            {"time": "time", "step": [2, 1]},
            r"grid \(2, 1.*not increase",
            id="falling grid",
        ),
        pytest.param(
            lambda: with_times(),
            {"time": "time", "step": [1.0, np.nan]},
            "not increase",
            id="NaN in the grid",
        ),
        pytest.param(
            lambda: with_times(),
            {"time": "time", "step": [0.3, 2]},
            r"time 1 is not on the grid \(0.3, 2",
            id="gap",
        ),
        pytest.param(screen, {"step": "observed"}, "name their column with time=", id="observed nothing"),
        pytest.param(
            lambda: with_times(), {"time": "time", "step": "seen"}, "step='seen' is neither", id="word"
        ),
        pytest.param(
            lambda: with_times(70.0),
            {"time": "time", "step": list(range(1, 71))},
            "a grid of 70 times makes 70 latent steps",
            id="long given grid",
        ),
        pytest.param(
            lambda: screen(depth=[1000.0] * 11 + [1.0]),
            {"library": "depth"},
            r"obs\['depth'\] is smaller than the sum over the genes",
            id="library below the panel",
        ),
        pytest.param(
            lambda: screen(depth=["deep"] * 12), {"library": "depth"}, "no library size", id="text as library"
        ),
        pytest.param(
            lambda: screen(depth=[np.nan] * 12), {"library": "depth"}, "no library size", id="missing library"
        ),
        pytest.param(
            lambda: screen(run=[None] + ["x"] * 11), {"batch": "run"}, r"obs\['run'\]", id="missing batch"
        ),
        pytest.param(
            lambda: screen(time=range(12), cell=[None, None, *"abcdefghij"]),
            {"sequence": "cell", "time": "time"},
            r"obs\['cell'\]",
            id="missing sequence",
        ),
        pytest.param(
            lambda: screen(cell=["a"] * 2 + list("bcdefghijk"), time=[1.0] * 12),
            {"sequence": "cell", "time": "time"},
            "observed twice at one time",
            id="cell seen twice at one time",
        ),
        pytest.param(
            lambda: screen(cell=list("aabcdefghijk"), time=TIMES, run=list("xyxxxxxxxxxx")),
            {"sequence": "cell", "time": "time", "batch": "run"},
            "changes its batch; give each cell one, or leave batch= out",
            id="cell in two batches",
        ),
        pytest.param(
            lambda: screen(cell=list("abbcdefghijk"), time=TIMES),
            {"sequence": "cell", "time": "time"},
            "changes its perturbation",
            id="cell under two labels",
        ),
    ],
)
def test_a_screen_with_a_fault_is_refused(
    make: Callable[[], AnnData], options: dict[str, Any], phrase: str
) -> None:
    with pytest.raises(DataError, match=phrase):
        Trajectories.from_anndata(make(), **options)


@pytest.mark.parametrize(
    ("label", "phrase"),
    [
        ("A+A", r"holds 'A\+A': do\(...\) doses 'A' twice"),
        ("control@3", "holds 'control@3', a control with a time or a dose; write 'control'"),
        ("control*2", "holds 'control.2', a control with a time or a dose"),
        (
            "A@10",
            "says 'A@10': from 10 step on, and the last observation is at 3, so that it acts on nothing",
        ),
    ],
)
def test_a_label_that_is_no_schedule_is_refused(label: str, phrase: str) -> None:
    with pytest.raises(DataError, match=phrase):
        Trajectories.from_anndata(screen((label, *LABELS[1:])))


@pytest.mark.parametrize(
    ("change", "options", "error", "phrase"),
    [
        pytest.param(
            lambda adata: adata[:, 1:].copy(),
            {},
            DataError,
            "1 of the 6 genes are missing, such as 'A'",
            id="gene",
        ),
        pytest.param(
            lambda adata: screen(("X", *LABELS[1:]), time=TIMES), {}, ScheduleError, "do.'X'.", id="token"
        ),
        pytest.param(
            lambda adata: adata,
            {"batch": "perturbation"},
            DataError,
            "is not among those of training",
            id="batch",
        ),
        pytest.param(lambda adata: with_times(1.5), {}, DataError, "time 1.5 is not on the grid", id="time"),
    ],
)
def test_data_that_do_not_fit_a_schema_are_refused(
    change: Callable[[AnnData], AnnData], options: dict[str, Any], error: type[Exception], phrase: str
) -> None:
    adata = screen(time=TIMES)
    known = Trajectories.from_anndata(adata, time="time").schema
    with pytest.raises(error, match=phrase):
        Trajectories.from_anndata(change(adata), time="time", schema=known, **options)


@pytest.mark.parametrize("time", [3, 5], ids=["between", "after"])
def test_a_sequence_with_a_time_that_its_schema_lacks_is_refused(time: int) -> None:
    known = read_sequences().schema
    with pytest.raises(DataError, match=f"time {time}"):
        read_sequences(sequences(SEQUENCE_ROWS | {("r", "A"): (2, time)}), schema=known)


def test_sequences_do_not_fit_the_schema_of_a_snapshot() -> None:
    snapshot = Trajectories.from_anndata(screen(), n_steps=4).schema
    with pytest.raises(DataError, match="snapshot"):
        read_sequences(schema=snapshot)


# Files


def test_an_h5ad_survives_its_file(tmp_path: Path) -> None:
    adata = screen(time=TIMES)
    adata.write_h5ad(tmp_path / "screen.h5ad")
    back = Trajectories.from_anndata(open_h5ad(tmp_path / "screen.h5ad"), time="time")
    assert back.digest == Trajectories.from_anndata(adata, time="time").digest


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_a_truncated_h5ad_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "screen.h5ad"
    screen().write_h5ad(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"screen\.h5ad' cannot be read as h5ad .* may be truncated"):
        open_h5ad(path)


def test_a_file_that_is_no_h5ad_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "screen.h5ad"
    path.write_text("perturbation,count\n")
    with pytest.raises(DataError, match="cannot be read as h5ad"):
        open_h5ad(path)


@pytest.mark.parametrize("name", ["missing.h5ad", "."])
def test_a_path_without_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is not a file"):
        open_h5ad(str(tmp_path / name))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_minibatch_in_pinned_memory_is_copied_to_a_gpu_unchanged() -> None:
    batch = simulate(n_cells=30, n_genes=8, n_perturbations=2, design="sequences").data.batch()
    pinned = batch.pin_memory()
    assert pinned.u.is_pinned()
    assert pinned.x.value.is_pinned()
    back = pinned.to("cuda", non_blocking=True).to("cpu")
    assert torch.equal(back.x.dense, batch.x.dense)
    assert torch.equal(back.library, batch.library)
