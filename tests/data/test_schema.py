"""Schemas: the grid of time, names and sizes, doses, and what their digest sees."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from named_cells import (
    GENES,
)

from pyro_citevae.data import Schedule, Schema, do
from pyro_citevae.errors import DataError, ScheduleError

pytestmark = pytest.mark.filterwarnings("ignore:.*names are not unique")


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
    with pytest.raises(ScheduleError, match="these are A, B, C"):
        schema().require(do("zzzzzzzz"))


def test_a_whole_number_is_a_time_too() -> None:
    assert schema().step_of(48) == schema().step_of(48.0)
