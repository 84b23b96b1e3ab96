"""Hostile screens are read to what they say, in memory as from disk, or refused in one sentence.

A case that fails is printed as ``Hostile(...)``, the smallest that fails; this runs it again::

    python tests/hostile_answers.py "Hostile(faults=(('label', 4),))"
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hostile_answers import answer
from hostile_screens import FAULTS, OPTIONS, Hostile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watched import Watched, watched

FAULT = st.sampled_from(sorted(FAULTS)).flatmap(
    lambda name: st.tuples(st.just(name), st.integers(0, len(FAULTS[name]) - 1))
)
SCREENS = st.builds(
    Hostile,
    seed=st.integers(0, 3),
    n_cells=st.sampled_from((16, 24)),
    faults=st.lists(FAULT, min_size=1, max_size=3, unique_by=lambda one: one[0]).map(tuple),
    options=st.lists(st.sampled_from(OPTIONS), max_size=3, unique=True).map(tuple),
    store=st.sampled_from(("csr", "dense", "csr", "zarr")),
    fit=st.sampled_from((False,) * 11 + (True,)),
)
STORM = settings(
    deadline=None, print_blob=True, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def ask() -> Iterator[Watched]:
    with watched(answer) as one:
        yield one


def require_an_answer(ask: Watched, case: Hostile) -> None:
    kind, said = ask(case)
    assert kind in ("read", "refused", "unheld"), f"{case}\n{said}"


@settings(STORM, max_examples=200)
@given(case=SCREENS)
def test_a_hostile_screen_is_read_right_or_refused(ask: Watched, case: Hostile) -> None:
    require_an_answer(ask, case)


@pytest.mark.slow
@settings(STORM, max_examples=2000, derandomize=False)
@given(case=SCREENS)
def test_two_thousand_hostile_screens_are_read_right_or_refused(ask: Watched, case: Hostile) -> None:
    require_an_answer(ask, case)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_every_fault_by_itself_is_read_right_or_refused(ask: Watched, name: str) -> None:
    for variant in range(len(FAULTS[name])):
        store = ("csr", "dense", "zarr")[variant % 3]
        require_an_answer(ask, Hostile(seed=variant, faults=((name, variant),), store=store))


def test_a_screen_without_a_fault_is_read_and_fitted(ask: Watched) -> None:
    kind, said = ask(Hostile(options=OPTIONS[1:6], fit=True))
    assert kind == "read", said
