"""Columns: named once, and shown wherever they are taken."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
from screens import as_anndata, simulated
from typer.testing import CliRunner

import pyro_citevae as cv
from pyro_citevae.cli import app
from pyro_citevae.data.columns import Columns
from pyro_citevae.errors import DataError

NAMES = [one.name for one in fields(Columns)]


@pytest.mark.parametrize("reading", [cv.Trajectories.from_anndata, cv.Trajectories.from_disk])
def test_every_column_is_an_argument_of_reading(reading: object) -> None:
    parameters = inspect.signature(reading).parameters
    assert [name for name in parameters if name in NAMES] == NAMES
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in NAMES)
    assert "columns" not in parameters


@pytest.mark.parametrize("column", fields(Columns), ids=lambda one: one.name)
def test_every_column_is_an_option_of_the_command_line(column: object) -> None:
    shown = CliRunner().invoke(app, ["fit", "--help"], env={"COLUMNS": "300", "NO_COLOR": "1"}).output
    assert f"--{column.name.replace('_', '-')}" in shown


def test_a_name_like_a_column_is_answered_with_it() -> None:
    adata = as_anndata(simulated(n_cells=20))
    with pytest.raises(
        DataError, match=r"from_anndata\(pertubation=...\) is not .*; did you mean perturbation="
    ):
        cv.Trajectories.from_anndata(adata, pertubation="perturbation")
    with pytest.raises(
        DataError, match=r"from_anndata\(frog=...\) is not an argument; the columns are perturb"
    ):
        cv.Trajectories.from_anndata(adata, frog=1)


def test_a_text_where_names_are_listed_is_one_name() -> None:
    assert Columns.of("f", {"exclude": "unassigned"}) == Columns.of("f", {"exclude": ["unassigned"]})
    assert Columns.of("f", {"candidates": "KLF1"}).candidates == ("KLF1",)
