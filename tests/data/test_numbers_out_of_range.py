"""Times, doses and library sizes that no model can hold are named where they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from named_cells import LABELS, TIMES, screen

import pyro_citevae as cv
from pyro_citevae.data import Dose, Trajectories, do
from pyro_citevae.errors import CiteVAEError, DataError, ScheduleError


def course(*times: float) -> AnnData:
    return screen(time=list(np.resize(times, len(LABELS))))


def labelled(label: str, **columns: Any) -> AnnData:
    return screen((label, *LABELS[1:]), **columns)


# Times


@pytest.mark.parametrize(
    ("times", "step", "n_steps"),
    [
        ((1e-5, 2e-5), 1e-5, 2),
        ((5e-5, 1e-4), 5e-5, 2),
        ((1e-20, 3e-20), 1e-20, 3),
        ((1e20, 3e20), 1e20, 3),
        ((1 / 3, 2 / 3, 1.0), 1 / 3, 3),
        ((0.333333, 0.666667, 1.0), 1 / 3, 3),
        ((0.166667, 0.5), 1 / 6, 3),
    ],
)
def test_times_of_any_size_lie_on_the_grid_of_their_divisor(
    times: tuple[float, ...], step: float, n_steps: int
) -> None:
    data = Trajectories.from_anndata(course(*times), time="time")
    assert data.schema.step == pytest.approx(step, rel=1e-5)
    assert data.schema.n_steps == n_steps
    assert sorted(set(data.row_times)) == pytest.approx(sorted(times), rel=1e-5)


def test_durations_of_nanoseconds_are_read() -> None:
    adata = screen(time=pd.to_timedelta([8, 16] * 6, unit="ns"))
    assert Trajectories.from_anndata(adata, time="time").schema.n_steps == 2


def test_a_step_may_be_a_fraction_written_as_a_text() -> None:
    data = Trajectories.from_anndata(course(1 / 3, 1.0), time="time", step="1/3")
    assert data.schema.n_steps == 3
    ends = Trajectories.from_anndata(course(1 / 3, 1.0), time="time", step="1/3,1").schema.grid
    assert ends == (1 / 3, 1.0)


@pytest.mark.parametrize("step", ["1/0", "1/", "inf", "nan", "1e400", "a third"])
def test_a_step_that_is_no_length_is_refused(step: str) -> None:
    with pytest.raises(DataError, match=r"^(step=|the grid).*\.$"):
        Trajectories.from_anndata(course(1.0, 2.0), time="time", step=step)


def test_the_way_out_of_a_long_grid_can_be_followed_in_a_shell() -> None:
    from pyro_citevae.cli.flags import in_flags

    with pytest.raises(DataError, match="667 latent steps") as error:
        Trajectories.from_anndata(course(0.333, 0.667), time="time")
    assert "--step 'observed'" in in_flags(str(error.value))
    assert "--step '1/3'" in in_flags(str(error.value))
    assert Trajectories.from_anndata(course(0.333, 0.667), time="time", step="observed").schema.n_steps == 2


@pytest.mark.parametrize("time", [1e30, 1e300])
def test_a_time_that_single_precision_does_not_hold_is_refused(time: float) -> None:
    with pytest.raises(DataError, match=r"obs\['time'\] holds '1e\+30"):
        Trajectories.from_anndata(course(1.0, time), time="time")


# Labels and doses


@pytest.mark.parametrize("label", ["+", "++", "+ +", "*", "@", '"', "@*"])
def test_a_label_of_signs_alone_names_nothing(label: str) -> None:
    with pytest.raises(DataError, match="which names nothing; leave those cells out with exclude="):
        Trajectories.from_anndata(labelled(label))
    kept = Trajectories.from_anndata(labelled(label), exclude=label)
    assert kept.n_cells == len(LABELS) - 1


@pytest.mark.parametrize("label", ["control@3", "control*2", "control @3", "control*x", "A+control@-3"])
def test_a_control_with_something_behind_it_is_no_perturbation(label: str) -> None:
    with pytest.raises(DataError, match="a control with a time or a dose; write 'control'"):
        Trajectories.from_anndata(labelled(label))


@pytest.mark.parametrize("label", ["A*-1", "A@-1", "A+B*-0.5", "A@-1*2"])
def test_a_label_with_a_dose_or_a_time_below_zero_is_refused(label: str) -> None:
    with pytest.raises(DataError, match="a time or a dose below zero"):
        Trajectories.from_anndata(labelled(label))
    quoted = Trajectories.from_anndata(labelled('"A*-1"'))
    assert "A*-1" in quoted.schema.tokens


def test_blanks_before_a_time_are_no_part_of_the_name() -> None:
    assert Trajectories.from_anndata(labelled("A @1")).schema.tokens == ("A", "B", "C")


@pytest.mark.parametrize("amount", ["1e39", "1e300", "1e-39", "1e-300"])
def test_a_dose_that_single_precision_does_not_hold_is_named(amount: str) -> None:
    with pytest.raises(DataError, match=rf"holds 'A\*{amount}': the dose of 'A' is"):
        Trajectories.from_anndata(labelled(f"A*{amount}"))
    dosed = screen(dose=["0", "0", amount, *["1"] * 9])
    with pytest.raises(DataError, match=rf"obs\['dose'\] holds '{amount}' for cells of 'A'"):
        Trajectories.from_anndata(dosed, dose="dose")


@pytest.mark.parametrize(
    ("make", "error", "phrase"),
    [
        (lambda: do("A", dose=-1), ScheduleError, "the dose of 'A' is -1"),
        (lambda: do("A*-1"), ScheduleError, "the dose of 'A' is -1"),
        (lambda: do("A", at=-1), ScheduleError, "begins at -1"),
        (lambda: do("A", dose=1e39), ScheduleError, "the dose of 'A' is 1e"),
        (lambda: Dose("A", amount=float("nan")), ScheduleError, "the dose of 'A' is nan"),
        (lambda: do("A", dose="much"), DataError, r"do\(dose=...\) is 'much'"),
        (lambda: do("A", at=None), DataError, r"do\(at=...\) is None"),
        (lambda: do(3), ScheduleError, r"do\(3\) is no name"),
    ],
)
def test_a_schedule_of_a_dose_that_is_none_is_refused(
    make: Callable[[], Any], error: type[CiteVAEError], phrase: str
) -> None:
    with pytest.raises(error, match=phrase):
        make()


def test_a_dose_far_beyond_those_of_the_cells_is_named_and_not_a_parameter_within() -> None:
    adata = screen(dose=["0", "0", "10", "100", *["1"] * 8])
    data = Trajectories.from_anndata(adata, dose="dose")
    assert data.schema.doses(do("A*1e4"), 3).max() == 100
    with pytest.raises(ScheduleError, match=r"more than 100 times the largest dose .* 100; give"):
        data.schema.require(do("A*1.1e4"))
    with pytest.raises(ScheduleError, match=r"do.'B'. at 1e.06 is more than 100 times"):
        data.schema.require(do("B*1e6"))
    more = screen(dose=["0", "0", "10", "1e9", *["1"] * 8])
    with pytest.raises(ScheduleError, match="more than 100 times the largest dose"):
        Trajectories.from_anndata(more, dose="dose", schema=data.schema)


@pytest.mark.parametrize("schema", [False, True], ids=["new", "for a schema"])
def test_a_dose_after_the_last_observation_is_refused(schema: bool) -> None:
    known = Trajectories.from_anndata(screen(time=TIMES), time="time").schema if schema else None
    with pytest.raises(DataError, match="the last observation is at 2, so that it acts on nothing"):
        Trajectories.from_anndata(labelled("A@2", time=TIMES), time="time", schema=known)


# Values and library sizes


@pytest.mark.parametrize("value", [1e-300, 16777216.5, 2.0**24 + 1, 2.0**31, 1e300])
def test_a_count_is_checked_before_it_is_cast(value: float) -> None:
    adata = screen()
    adata.X = adata.X.astype(np.float64)
    adata.X[0, 0] = value
    with pytest.raises(DataError, match=r"X holds (fractional|huge) values such as"):
        Trajectories.from_anndata(adata)


@pytest.mark.parametrize("kind", ["complex64", "bool", "object", "U5"])
def test_counts_of_another_type_than_numbers_are_refused(kind: str) -> None:
    adata = screen()
    adata.X = adata.X.astype(kind)
    with pytest.raises(DataError, match="X holds values of type"):
        Trajectories.from_anndata(adata)


@pytest.mark.parametrize("size", [-1.0, 1e13, 1e39, 1e300, np.inf])
def test_a_library_size_that_no_cell_has_is_refused(size: float) -> None:
    adata = screen(depth=[size] + [1000.0] * 11)
    with pytest.raises(DataError, match=r"obs\['depth'\] holds .* which is no library size"):
        Trajectories.from_anndata(adata, library="depth")


def test_controls_without_counts_cannot_say_which_genes_vary() -> None:
    adata = screen()
    adata.X[adata.obs["perturbation"] == "control"] = 0
    with pytest.raises(DataError, match="most_genes=3 needs control cells with counts"):
        Trajectories.from_anndata(adata, most_genes=3)
    adata.X[0, 0] = 3
    assert Trajectories.from_anndata(adata, most_genes=3).schema.n_genes == 3


def test_a_fit_to_doses_of_hundreds_trains_and_predicts() -> None:
    dosed = screen(dose=["0", "0", "100", "300", *["200"] * 8])
    data = Trajectories.from_anndata(dosed, dose="dose")
    model = cv.models.CiteVAE(data.schema, n_programs=2, hidden=4)
    posterior = cv.fit(model, cv.guides.MeanField(model, hidden=4), data, max_steps=3, progress=False)
    assert np.isfinite(posterior.effect(do("A*300"), draws=3).to_numpy()).all()
