"""Numbers and names that a user hands in: every usual kind is taken, anything else refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.arguments import count, names, number, numbers, plain, whole
from pyro_citevae.errors import DataError, FitError
from pyro_citevae.infer import FitSettings
from pyro_citevae.infer.asked import times_of
from pyro_citevae.infer.ranking import candidates_of
from pyro_citevae.infer.svi import settings_of

SCALARS: dict[str, Callable[[float], Any]] = {
    "float": float,
    "NumPy's float": np.float64,
    "NumPy's single": np.float32,
    "NumPy's long": np.longdouble,
    "0-d array": np.array,
    "0-d array of objects": lambda value: np.array(value, dtype=object),
    "tensor": torch.tensor,
    "0-d of xarray": xr.DataArray,
    "text": str,
    "NumPy's text": lambda value: np.str_(value),
    "text with blanks": lambda value: f" {value} ",
}
NO_NUMBERS = {
    "none": None,
    "true": True,
    "NumPy's true": np.True_,
    "a tensor that is true": torch.tensor(True),
    "NaN": float("nan"),
    "infinite": np.inf,
    "a text that is infinite": "inf",
    "text": "soon",
    "no text": "",
    "bytes": b"5",
    "complex": 1j,
    "a list": [5],
    "an array of one": np.array([5.0]),
    "a date": np.datetime64("2020-01-01", "ns"),
    "a duration": np.timedelta64(5, "ns"),
    "masked": np.ma.masked,
    "missing": pd.NA,
    "too large": 10**400,
    "an object": object(),
}


@pytest.mark.parametrize("kind", SCALARS)
@pytest.mark.parametrize("value", [5.0, -0.5])
def test_a_number_of_any_usual_kind_is_taken(kind: str, value: float) -> None:
    given = SCALARS[kind](value)
    found = number(given, "predict(time=...)")
    assert (found, type(found)) == (value, float)
    assert numbers(given, "predict(time=...)") == [value]


@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_is_no_finite_number_is_refused(kind: str) -> None:
    said = r"^predict\(time=...\) is .*, which is no finite number; give one, such as 24\.$"
    with pytest.raises(DataError, match=said):
        number(NO_NUMBERS[kind], "predict(time=...)")
    if kind != "too large":
        with pytest.raises(DataError, match=r"^predict\(draws=...\) is .*, which is no whole number; give"):
            whole(NO_NUMBERS[kind], "predict(draws=...)")
    with pytest.raises(DataError, match=r"^hold_out\(times=...\) holds .*, which is no finite number; give"):
        numbers([5, NO_NUMBERS[kind]], "hold_out(times=...)")


@pytest.mark.parametrize("kind", ["none", "true", "NaN", "text", "bytes", "complex", "a date", "an object"])
def test_what_is_neither_a_number_nor_a_list_is_refused(kind: str) -> None:
    with pytest.raises(DataError, match=r"^hold_out\(times=...\) is .*; give one or several, such as"):
        numbers(NO_NUMBERS[kind], "hold_out(times=...)")


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, pd.Index, pd.Series, torch.tensor, xr.DataArray, iter, range, "set"]
)
def test_numbers_come_in_any_list(kind: Any) -> None:
    if kind in (range, "set"):
        assert numbers(range(3) if kind is range else {2, 0, 1}, "times") == [0.0, 1.0, 2.0]
        return
    assert numbers(kind([4.0, 24.0, 8.0]), "times") == [4.0, 24.0, 8.0]


@pytest.mark.parametrize("value", [{4: 5}, pd.DataFrame({4: [5]}), np.ones((2, 2))])
def test_a_table_is_no_list(value: Any) -> None:
    for taken in (numbers, names):
        with pytest.raises(DataError, match=r"^said is .*; give one or several"):
            taken(value, "said")


@given(st.integers())
def test_a_whole_number_is_kept_to_its_last_digit(value: int) -> None:
    assert whole(value, "said") == whole(str(value), "said") == value or abs(value) > 2**53
    assert whole(value, "said") == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_fraction_is_no_whole_number(value: float) -> None:
    assert number(value, "said") == number(np.float64(value), "said") == number(repr(value), "said") == value
    if value.is_integer():
        assert whole(value, "said") == value
        return
    with pytest.raises(DataError, match="which is no whole number"):
        whole(value, "said")


@pytest.mark.parametrize(
    "value", [5, 5.0, np.int64(5), np.uint8(5), np.float32(5), torch.tensor(5), "5", "5.0"]
)
def test_a_whole_number_of_any_usual_kind_is_taken(value: Any) -> None:
    found = whole(value, "said")
    assert (found, type(found)) == (5, int)
    assert count(value, "said") == 5


@pytest.mark.parametrize("value", [0, -3, "0", np.int64(-1)])
def test_a_count_is_one_or_more(value: Any) -> None:
    with pytest.raises(DataError, match=rf"^predict\(draws={value}\) must be 1 or more\.$"):
        count(value, "predict(draws=...)")


TEXTS = st.lists(st.text())


@given(TEXTS)
def test_names_come_in_any_list_in_their_order(listed: list[str]) -> None:
    expected = tuple(listed)
    for kind in (
        list,
        tuple,
        iter,
        lambda one: np.array(one, dtype=object),
        lambda one: pd.Index(one, dtype=object),
    ):
        assert names(kind(listed), "said") == expected
    assert names(set(listed), "said") == tuple(sorted(set(listed)))


@pytest.mark.parametrize("value", ["A+B", np.str_("A+B"), np.array("A+B")])
def test_a_text_alone_is_one_name(value: Any) -> None:
    assert names(value, "said") == ("A+B",)
    assert [type(one) for one in names(value, "said")] == [str]


@pytest.mark.parametrize(
    "value", [pd.Series(["B", "A"], dtype="category"), pd.Series(["B", "A"]), xr.DataArray(["B", "A"])]
)
def test_columns_of_names_are_lists(value: Any) -> None:
    assert names(value, "said") == ("B", "A")


@pytest.mark.parametrize("value", [None, 5, b"A", float("nan"), object()])
def test_what_is_no_name_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match=r"^said is .*, which is no name; give one or several"):
        names(value, "said")
    with pytest.raises(DataError, match=r"^said holds .*, which is no name; give texts"):
        names(["A", value], "said")


def test_a_long_value_is_cut_in_the_sentence() -> None:
    with pytest.raises(DataError) as refused:
        number(list(range(1000)), "said")
    assert len(str(refused.value)) < 130
    assert "\n" not in str(refused.value)


def test_what_has_no_plain_form_is_left_alone() -> None:
    value = [1]
    assert plain(value) is value
    assert plain(np.True_) is True or plain(np.array(True)) is True


# Where they are used


def test_settings_of_a_fit_may_be_of_any_usual_kind() -> None:
    given = {
        "max_epochs": np.int64(3),
        "batch_size": torch.tensor(16),
        "learning_rate": np.float32(1e-3),
        "validation": np.array(0.25),
        "objective": np.str_("elbo"),
        "seed": "7",
    }
    found = settings_of(given)
    assert found == FitSettings(
        max_epochs=3, batch_size=16, learning_rate=float(np.float32(1e-3)), validation=0.25, seed=7
    )
    assert {type(found.batch_size), type(found.learning_rate), type(found.objective)} == {int, float, str}
    with pytest.raises(FitError, match=r"fit\(max_epochs=2.5\)"):
        settings_of({"max_epochs": np.float64(2.5)})


def test_a_run_of_settings_from_numpy_is_saved(tmp_path: Any) -> None:
    data = simulated()
    model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
    guide = cv.guides.MeanField(model, hidden=4)
    settings = {"max_epochs": np.int64(1), "learning_rate": np.float32(1e-3), "kl_warmup": torch.tensor(0.5)}
    posterior = cv.fit(model, guide, data, progress=False, **settings)
    posterior.save(tmp_path / "run")
    noted = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert (noted["max_epochs"], noted["kl_warmup"]) == (1, 0.5)
    plainly = {"max_epochs": 1, "learning_rate": float(np.float32(1e-3)), "kl_warmup": 0.5}
    again = cv.fit(model, guide, data, progress=False, **plainly)
    pd.testing.assert_frame_equal(posterior.history, again.history)


def test_no_draw_and_no_cell_are_refused() -> None:
    data = simulated()
    model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
    guide = cv.guides.MeanField(model, hidden=4)
    posterior = cv.fit(model, guide, data, max_epochs=1, progress=False)
    for asked in (posterior.effect, posterior.programs, posterior.rank):
        with pytest.raises(DataError, match=rf"{asked.__name__}\(draws=0\) must be 1 or more"):
            asked(["gene_0"], draws=0)
    for name in ("draws", "most_cells"):
        with pytest.raises(DataError, match=rf"to_datatree\({name}=0\) must be 1 or more"):
            posterior.to_datatree(data, **{name: 0})


@pytest.mark.parametrize("given", [3, "3", np.int64(3), np.array([3.0]), pd.Series([3]), {3}])
def test_times_of_any_usual_kind_are_asked_for(given: Any) -> None:
    assert times_of(given, simulated().schema) == [3.0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("late", r"predict\(time=...\) is 'late', which is no finite number"),
        ([1, None], r"predict\(time=...\) holds None, which is no finite number"),
        ([], r"predict\(time=\[\]\) names no time"),
        (0, "time 0 is not after the start"),
    ],
)
def test_what_is_no_time_is_refused(given: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        times_of(given, simulated().schema)


@pytest.mark.parametrize(
    "given", ["gene_0", np.str_("gene_0"), ["gene_0"], np.array(["gene_0"]), cv.do("gene_0")]
)
def test_a_text_alone_is_one_candidate(given: Any) -> None:
    assert candidates_of(given, simulated().schema) == [cv.do("gene_0")]


@pytest.mark.parametrize("given", [None, 5, [None], [cv.do("gene_0"), 5]])
def test_what_is_no_candidate_is_refused(given: Any) -> None:
    with pytest.raises(DataError, match=r"rank\(candidates=...\) (is|holds) .*, which is no name"):
        candidates_of(given, simulated().schema)
