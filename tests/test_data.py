"""Reading a screen, and what schemas, schedules, trajectories, batches and splits promise."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from pyro_citevae.data import Criterion, Dose, Schedule, Schema, Split, Trajectories, do, open_h5ad, simulate
from pyro_citevae.data.datasets import load
from pyro_citevae.errors import CiteVAEError, DataError, ScheduleError

pytestmark = pytest.mark.filterwarnings("ignore:.*names are not unique")

LABELS = ("control", "control", "A", "A", "B", "B", "A+B", "A+B", "control", "A", "B", "C")
GENES = ("A", "B", "D", "E", "F", "silent")
TIMES = (1.0, 2.0) * 6
EMPTY = "cell_09"


def screen(labels: tuple[Any, ...] = LABELS, seed: int = 0, **obs: Any) -> AnnData:
    """Twelve cells x six genes; the last gene is zero everywhere, and one cell is empty."""
    names = [f"cell_{n:02d}" for n in range(len(labels))]
    counts = np.random.default_rng(seed).poisson(2.0, (len(labels), len(GENES))).astype(np.float32)
    counts[:, -1] = 0
    counts[[n for n, name in enumerate(names) if name == EMPTY]] = 0
    frame = pd.DataFrame({"perturbation": list(labels)} | obs, index=names)
    return AnnData(X=counts, obs=frame, var=pd.DataFrame(index=list(GENES)))


def course() -> Trajectories:
    return Trajectories.from_anndata(screen(time=TIMES), time="time", time_unit="day")


SEQUENCE_ROWS = {
    ("p", "control"): (1, 2, 4),
    ("q", "A+B@2"): (1, 4),
    ("r", "A"): (2,),
}


def sequences(times: dict[tuple[str, str], tuple[int, ...]] | None = None) -> AnnData:
    rows = [(*key, time) for key, seen in (times or SEQUENCE_ROWS).items() for time in seen]
    cell, label, time = zip(*np.random.default_rng(1).permutation(np.array(rows)).tolist(), strict=True)
    return screen(tuple(label), cell=list(cell), time=[float(t) for t in time])


def read_sequences(adata: AnnData | None = None, **options: Any) -> Trajectories:
    adata = sequences() if adata is None else adata
    return Trajectories.from_anndata(adata, time="time", sequence="cell", **options)


def dense(adata: AnnData) -> np.ndarray:
    return np.asarray(adata.to_df(), dtype=np.float32)


def counts_by_name(data: Trajectories) -> set[tuple[str, tuple[float, ...]]]:
    values = data.values.toarray().tolist()
    return {(str(data.names[n]), tuple(row)) for n, row in zip(data.row_cell, values, strict=True)}


def held_names(data: Trajectories) -> set[tuple[str, float]]:
    return set(zip(data.names[data.row_cell].tolist(), data.row_times.tolist(), strict=True))


# Schema


def schema(**fields: Any) -> Schema:
    given: dict[str, Any] = {"genes": GENES, "tokens": ("A", "B", "C"), "times": (24.0, 72.0), "step": 24.0}
    return Schema(**(given | {"time_unit": "hour", "design": "time course"} | fields))


def test_step_of_counts_grid_lengths() -> None:
    assert [schema().step_of(time) for time in (0.0, 24.0, 48.0, 240.0)] == [0, 1, 2, 10]


def test_step_of_survives_the_rounding_of_decimal_times() -> None:
    fine = schema(times=(0.3,), step=0.1)
    assert [fine.step_of(0.1 * t) for t in range(64)] == list(range(64))


@pytest.mark.parametrize("time", [12.0, 24.1, -24.0, float("nan"), float("inf")])
def test_a_time_off_the_grid_is_refused(time: float) -> None:
    with pytest.raises(DataError, match="not on the grid of 24 hour"):
        schema().step_of(time)


# Schema with steps of unequal length


def irregular(**fields: Any) -> Schema:
    return schema(**({"times": (0.5, 6.0, 24.0), "step": 0.5, "grid": (0.5, 6.0, 24.0)} | fields))


def test_without_a_grid_steps_end_at_multiples_of_their_length() -> None:
    np.testing.assert_array_equal(schema().ends(3), [0.0, 24.0, 48.0, 72.0])
    np.testing.assert_array_equal(schema().ends(0), [0.0])


def test_with_a_grid_steps_end_where_it_says_and_go_on_by_the_step() -> None:
    np.testing.assert_array_equal(irregular().ends(5), [0.0, 0.5, 6.0, 24.0, 24.5, 25.0])
    np.testing.assert_array_equal(irregular().ends(2), [0.0, 0.5, 6.0])
    assert (irregular().n_steps, irregular(times=(0.5, 6.0)).n_steps) == (3, 2)


@pytest.mark.parametrize("one", [schema(), irregular(), schema(step=0.1, grid=(0.3, 1.7))], ids=str)
def test_a_step_is_found_by_the_time_at_which_it_ends(one: Schema) -> None:
    assert [one.step_of(time) for time in one.ends(40)] == list(range(41))
    assert [one.step_of(time * (1 + 1e-9)) for time in one.ends(40)] == list(range(41))


@pytest.mark.parametrize("time", [-0.5, 0.4, 1.0, 23.9, 24.2, float("nan"), float("inf")])
def test_a_time_between_the_ends_is_refused(time: float) -> None:
    with pytest.raises(DataError, match=r"not on the grid \(0.5, 6, 24, then every 0.5\) hour; give one of"):
        irregular().step_of(time)


@pytest.mark.parametrize(
    ("schedule", "first"), [(do("A"), 1), (do("A", at=0.5), 2), (do("A", at=5.0), 2), (do("A", at=6.0), 3)]
)
def test_a_dose_on_a_grid_acts_in_the_steps_that_end_after_it(schedule: Schedule, first: int) -> None:
    np.testing.assert_array_equal(irregular().doses(schedule, 4)[:, 0], np.arange(5) >= first)


def test_a_grid_survives_json_and_changes_the_digest() -> None:
    back = Schema.from_json(json.loads(json.dumps(irregular().to_json())))
    assert back == irregular()
    assert back.digest == irregular().digest != irregular(grid=()).digest


def test_a_record_from_before_grids_reads_as_it_was_and_keeps_its_digest() -> None:
    assert "grid" not in schema().to_json()
    assert Schema.from_json(schema().to_json()).grid == ()
    assert schema().digest == "5652f07485121ada663fb7a69b8ed5d607f0bec5d6b4fc846a6efc820560c0c7"


@pytest.mark.parametrize("grid", [(0.0, 1.0), (2.0, 1.0), (1.0, 1.0), (-1.0,), (1.0, np.nan), (1.0, np.inf)])
def test_a_grid_that_does_not_increase_from_above_zero_is_refused(grid: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="does not increase from above 0"):
        schema(grid=grid)


def test_sizes_follow_the_names() -> None:
    one = schema(batches=("x", "y"))
    assert (one.n_genes, one.n_tokens, one.n_batches, one.n_steps, one.n_slots) == (6, 3, 2, 3, 1)
    assert schema(design="sequences").n_slots == 2


def test_own_gene_points_at_the_token_or_nowhere() -> None:
    assert schema().own_gene.tolist() == [0, 1, -1]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (do(), [[0, 0, 0]] * 4),
        (do("A"), [[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]]),
        (do("B", at=24.0), [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 1, 0]]),
        (do("B", at=23.0), [[0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]]),
        (do("A", dose=0.5) | do("C", at=48.0), [[0, 0, 0], [0.5, 0, 0], [0.5, 0, 0], [0.5, 0, 1]]),
        (do("A", at=72.0), [[0, 0, 0]] * 4),
    ],
    ids=str,
)
def test_a_dose_acts_in_the_steps_that_end_after_it(schedule: Schedule, expected: list[list[float]]) -> None:
    np.testing.assert_array_equal(schema().doses(schedule, 3), np.array(expected, dtype=np.float32))


def test_doses_of_joined_schedules_add() -> None:
    one = schema()
    left, right = do("A", dose=0.3), do("B", at=24.0)
    np.testing.assert_array_equal(one.doses(left | right, 4), one.doses(left, 4) + one.doses(right, 4))


def test_a_schema_survives_json() -> None:
    one = schema(batches=("x", "y"), total=123.25, panel_share=0.1)
    back = Schema.from_json(json.loads(json.dumps(one.to_json())))
    assert back == one
    assert back.digest == one.digest


@pytest.mark.parametrize("change", [{"genes": GENES[::-1]}, {"step": 12.0}, {"total": 2.0}], ids=str)
def test_a_schemas_digest_sees_every_change(change: dict[str, Any]) -> None:
    assert schema(**change).digest != schema().digest


def test_an_unknown_gene_is_answered_with_the_nearest_names() -> None:
    one = schema(tokens=("KLF1", "KLF2", "MAP2K6"))
    with pytest.raises(ScheduleError, match=r"do\('klf11'\) is not .* nearest are KLF\d, KLF\d"):
        one.require(do("klf11"))


def test_a_name_like_no_other_is_answered_with_some_names() -> None:
    with pytest.raises(ScheduleError, match="nearest are A, B, C"):
        schema().require(do("zzzzzzzz"))


# Schedules


@pytest.mark.parametrize(
    ("text", "doses"),
    [
        ("control", ()),
        ("A", (Dose("A"),)),
        ("B+A", (Dose("A"), Dose("B"))),
        ("A@0+B@24", (Dose("A"), Dose("B", 24.0))),
        ("A*0.5", (Dose("A", 0.0, 0.5),)),
        (" A@1.5*2 + control", (Dose("A", 1.5, 2.0),)),
    ],
)
def test_schedule_text_is_read(text: str, doses: tuple[Dose, ...]) -> None:
    assert Schedule.parse(text).doses == doses


@pytest.mark.parametrize("at", [0.0, 24.0, 0.5, 1 / 3, 1_036_800.0])
@pytest.mark.parametrize("dose", [1.0, 0.25])
def test_a_label_reads_back_as_its_schedule(at: float, dose: float) -> None:
    one = do("A") | do("B", at=at, dose=dose)
    assert Schedule.parse(one.label()) == one


def test_the_empty_schedule_is_labelled_as_the_control() -> None:
    assert do().is_control
    assert do().label("NT") == "NT"
    assert Schedule.parse("NT", control="NT") == do()


def test_joining_is_commutative_associative_and_has_the_control_as_unit() -> None:
    a, b, c = do("A"), do("B", at=24.0), do("C", dose=0.5)
    assert a | b == b | a
    assert (a | b) | c == a | (b | c)
    assert a | do() == a


def test_do_takes_names_one_by_one_or_joined() -> None:
    assert do("A", "B", at=3.0) == do("A+B", at=3.0) == do("A", at=3.0) | do("B", at=3.0)


def test_a_time_in_the_name_wins_over_the_argument() -> None:
    assert do("A@12+B", at=24.0) == do("A", at=12.0) | do("B", at=24.0)
    assert do("A@0+B", at=24.0) == do("A") | do("B", at=24.0)


@pytest.mark.parametrize("make", [lambda: do("A", "A"), lambda: do("A") | do("A", at=5.0)], ids=["do", "or"])
def test_a_name_is_dosed_once(make: Callable[[], Schedule]) -> None:
    with pytest.raises(ScheduleError, match="doses 'A' twice"):
        make()


@pytest.mark.parametrize("text", ["A@soon", "A*lots", "A@1@2", "B+A@x", "A@nan", "A@inf", "@24"])
def test_an_unreadable_schedule_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError, match="cannot be read at"):
        Schedule.parse(text)


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


# Hold-out


def expected_names(data: Trajectories, chosen: Callable[[set[str], float], bool]) -> set[tuple[str, float]]:
    rows = zip(data.names[data.row_cell], data.row_labels, data.row_times, strict=True)
    return {(name, time) for name, label, time in rows if chosen(set(label.split("+")), time)}


@pytest.mark.parametrize(
    ("what", "chosen"),
    [
        ({"perturbations": ("A",)}, lambda tokens, time: "A" in tokens),
        ({"perturbations": ("A", "C")}, lambda tokens, time: bool({"A", "C"} & tokens)),
        ({"combinations": ("A+B",)}, lambda tokens, time: tokens == {"A", "B"}),
        ({"combinations": ("B+A",)}, lambda tokens, time: tokens == {"A", "B"}),
        ({"times": (2.0,)}, lambda tokens, time: time == 2),
        ({"perturbations": ("A",), "times": (2.0,)}, lambda tokens, time: "A" in tokens and time == 2),
        (
            {"combinations": ("A+B",), "times": (1.0,)},
            lambda tokens, time: tokens == {"A", "B"} and time == 1,
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "cells",
)
def test_hold_out_takes_what_it_names_and_nothing_else(
    what: dict[str, Any], chosen: Callable[[set[str], float], bool]
) -> None:
    data = course()
    train, held_out = data.hold_out(**what)
    assert held_names(held_out) == expected_names(data, chosen)
    assert held_names(train) == held_names(data) - held_names(held_out)
    assert counts_by_name(train) | counts_by_name(held_out) == counts_by_name(data)
    assert train.split == held_out.split
    assert train.schema == held_out.schema == data.schema


def test_criteria_are_joined_by_or() -> None:
    data = course()
    _, held_out = data.divide(Split.parse(["perturbation=A;time=2", "perturbation=C"]))
    expected = expected_names(data, lambda tokens, time: ("A" in tokens and time == 2) or "C" in tokens)
    assert held_names(held_out) == expected


def test_a_time_held_out_of_sequences_divides_the_cells() -> None:
    train, held_out = read_sequences().hold_out(times=(4.0,))
    assert held_names(train) == {("p", 1), ("p", 2), ("q", 1), ("r", 2)}
    assert held_names(held_out) == {("p", 4), ("q", 4)}
    assert train.batch().last.tolist() == [2, 1, 2]
    assert train.batch().step.max() <= train.batch().n_steps


@pytest.mark.parametrize(
    ("text", "criterion"),
    [
        ("perturbation=A,B", Criterion(perturbations=("A", "B"))),
        ("time=5", Criterion(times=(5.0,))),
        ("time=2.5, 5", Criterion(times=(2.5, 5.0))),
        ("combination=A+B", Criterion(combinations=("A+B",))),
        ("perturbation=A;time=5", Criterion(perturbations=("A",), times=(5.0,))),
        ("time=5; combination=A+B,B+C", Criterion(combinations=("A+B", "B+C"), times=(5.0,))),
    ],
)
def test_hold_out_text_is_read_and_printed(text: str, criterion: Criterion) -> None:
    assert Criterion.parse(text) == criterion
    assert Criterion.parse(str(criterion)) == criterion
    assert Split.parse([text, text]).criteria == (criterion, criterion)


def test_a_split_survives_its_file(tmp_path: Path) -> None:
    data = course()
    train, _ = data.divide(Split.parse(["perturbation=A;time=2", "combination=A+B"]))
    train.split.save(tmp_path / "split.json")
    back = Split.load(tmp_path / "split.json")
    assert back == train.split
    again, _ = data.divide(back)
    assert again.split == back
    assert held_names(again) == held_names(train)


def test_the_hash_of_a_split_follows_the_held_out_cells_alone() -> None:
    adata = screen(time=TIMES)

    def digest(one: AnnData) -> str:
        return Trajectories.from_anndata(one, time="time").hold_out(perturbations=("A",))[0].split.digest

    whole = digest(adata)
    assert len(whole) == 64
    assert digest(adata[::-1].copy()) == whole
    assert digest(adata[adata.obs_names != "cell_04"].copy()) == whole
    assert digest(adata[adata.obs_names != "cell_02"].copy()) != whole


def test_the_hash_of_a_split_follows_its_criteria() -> None:
    data = course()
    one, other = data.hold_out(perturbations=("C",)), data.hold_out(combinations=("C",))
    assert held_names(one[1]) == held_names(other[1])
    assert one[0].split.digest != other[0].split.digest


def test_whole_numbers_are_times_too() -> None:
    data = course()
    assert schema().step_of(48) == schema().step_of(48.0)
    assert do("B", at=24) == do("B", at=24.0)
    assert data.hold_out(times=(2,))[0].split == data.hold_out(times=(2.0,))[0].split


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
        pytest.param(screen, {"layer": "raw"}, "layer='raw' is not a layer", id="layer"),
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
    [("A@soon", "the schedule 'A@soon' cannot be read"), ("A+A", "doses 'A' twice")],
)
def test_a_label_that_is_no_schedule_is_refused(label: str, phrase: str) -> None:
    with pytest.raises(ScheduleError, match=phrase):
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
            lambda adata: adata, {"batch": "perturbation"}, DataError, "is not among the known", id="batch"
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


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "gene=A",
        "perturbation=",
        "perturbation=A;5",
        "time=soon",
        "time=nan",
        "time=inf",
        "perturbation=A;perturbation=B",
        "",
    ],
)
def test_unreadable_hold_out_text_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"Split\.parse\('"):
        Split.parse([text])


@pytest.mark.parametrize(
    ("what", "error", "phrase"),
    [
        ({"times": (4.0,)}, DataError, "time 4 is not in the data; its times are"),
        ({"times": (1.5,)}, DataError, "time 1.5 is not on the grid"),
        ({"perturbations": ("X",)}, ScheduleError, r"do\('X'\) is not among the perturbations"),
        ({"perturbations": ("C", "A+B")}, CiteVAEError, r"A\+B"),
        ({"perturbations": ("C", "A@1")}, CiteVAEError, "A@1"),
        ({"combinations": ("A+C",)}, DataError, r"combination 'A\+C' is not in the data"),
        ({"times": (1.0, 2.0)}, DataError, "leaves no observation for training"),
        ({"perturbations": ("control",)}, CiteVAEError, "control"),
        ({}, DataError, "leaves every observation for training"),
    ],
    ids=str,
)
def test_a_hold_out_without_meaning_is_refused(
    what: dict[str, Any], error: type[Exception], phrase: str
) -> None:
    with pytest.raises(error, match=phrase):
        course().hold_out(**what)


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"criteria": [1], "digest": ""}', "not JSON"])
def test_a_file_that_is_no_split_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "split.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=r"split\.json' is not a split file"):
        Split.load(path)


def test_an_unknown_data_set_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'frog' is not .* are renge, papalexi, norman_subset"):
        load("frog")


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
