"""Schedules: what a text says, and how schedules join."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyro_citevae.data import Dose, Schedule, do
from pyro_citevae.errors import ScheduleError

pytestmark = pytest.mark.filterwarnings("ignore:.*names are not unique")


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
