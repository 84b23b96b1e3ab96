"""What is held out: criteria, their hash, and their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anndata import AnnData
from named_cells import (
    TIMES,
    counts_by_name,
    course,
    held_names,
    read_sequences,
    screen,
)

from pyro_citevae.data import Criterion, Split, Trajectories, do
from pyro_citevae.errors import CiteVAEError, DataError, ScheduleError

pytestmark = pytest.mark.filterwarnings("ignore:.*names are not unique")


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
    assert do("B", at=24) == do("B", at=24.0)
    assert data.hold_out(times=(2,))[0].split == data.hold_out(times=(2.0,))[0].split


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
