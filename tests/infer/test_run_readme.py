"""A run's folder tells a person what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.guides import MeanField
from pyro_citevae.infer.run_readme import readme
from pyro_citevae.models import StaticShift


def test_it_says_what_was_fitted_and_which_commands_come_next(tmp_path: Path) -> None:
    data = simulated()
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    posterior = cv.fit(model, MeanField(model, hidden=4), data, max_epochs=1, progress=False)
    posterior.record["source"] = {"path": "screen.h5ad"}
    posterior.save(tmp_path / "mine")
    said = (tmp_path / "mine" / "README.md").read_text()
    assert said.startswith("# mine\n\nStaticShift")
    assert "60 cells of `screen.h5ad`" in said
    assert posterior.adequacy.verdict in said
    assert "citevae predict mine --do gene_0 -o predicted.h5ad" in said
    assert "| cells | 60 |" in said
    assert "seed 0, max_epochs=1 and otherwise default settings" in said
    assert f"gene_0: {data.summary().content['perturbations']['gene_0']}" in said


@pytest.mark.parametrize(
    ("token", "asked"), [("GATA1", "--do GATA1"), ("A;rm -rf", "--do 'A;rm -rf'"), ("HLA-A", "--do HLA-A")]
)
def test_a_name_is_quoted_where_a_shell_would_read_more(token: str, asked: str) -> None:
    assert asked in readme("model", {}, "fine", (token,), "run")


def test_the_verdict_is_that_of_the_diagnosis_where_there_is_one() -> None:
    assert "far off" in readme("model", {"diagnosis": {"verdict": "far off"}}, "fine", (), "run")
    assert "fine" in readme("model", {}, "fine", (), "run")


def test_what_the_data_say_breaks_no_table() -> None:
    said = readme("model", {"summary": {"genes": "<b>|x|\nnext"}}, "fine", (), "run")
    assert "| genes | &lt;b>\\|x\\| next |" in said


def test_a_run_whose_file_is_not_noted_says_how_to_name_it() -> None:
    said = readme("model", {}, "fine", (), "run")
    assert "cells of an AnnData that has no path" in said
    assert "`--data FILE`" in said
    assert "--data" not in readme("model", {"source": {"path": "screen.h5ad"}}, "fine", (), "run")


def test_contexts_and_long_lists_are_said_in_whole_names() -> None:
    many = {f"gene_{i}": 10 for i in range(40)}
    contexts = {"B cells": {"cells": 9, "controls": 4}}
    said = readme("model", {"summary": {"contexts": contexts, "perturbations": many}}, "fine", (), "run")
    assert "| contexts | B cells: 9 cells with 4 controls |" in said
    assert re.search(r"\| perturbations \| gene_0: 10, .*gene_\d+: 10 \.\.\. \|", said)
