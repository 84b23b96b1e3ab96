"""How objects show themselves: shortly in a terminal, as a small table in a notebook, names as text."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from screens import simulated, unfitted

import pyro_citevae as cv
from pyro_citevae.analysis.identifiability.licence import Licence
from pyro_citevae.data import Schema, Split
from pyro_citevae.infer import Effect
from pyro_citevae.shown import Shown, as_html, as_text

HOSTILE = '<script>alert(1)</script> & "co"'


class Cells(HTMLParser):
    """The texts of a table's cells, and whether each tag that opens is closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.well_formed = True
        self.feed(html)
        self.close()
        self.well_formed &= not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.open.append(tag)
        if tag in ("td", "th", "caption"):
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.well_formed &= bool(self.open) and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data


def hostile_schema() -> Schema:
    """Names that are markup, and enough of them."""
    genes = (HOSTILE, *(f"a_gene_with_a_long_name_{g}" for g in range(300)))
    return Schema(genes, (HOSTILE, "B"), control="<b>none</b>", batches=("<i>",), times=(1.0, 2.0))


def posterior() -> cv.Posterior:
    return unfitted(cv.models.CiteVAE(simulated().schema, n_programs=2, hidden=4))


def ensemble() -> cv.Ensemble:
    one = posterior()
    one.record["data"] = "the same"
    return cv.Ensemble([one, one])


def held_out() -> cv.Trajectories:
    return simulated().hold_out(perturbations=["gene_0"])[0]


OBJECTS: dict[str, Callable[[], Any]] = {
    "posterior": posterior,
    "ensemble": ensemble,
    "model": lambda: posterior().model,
    "guide": lambda: posterior().guide,
    "diagnosis": lambda: posterior().adequacy,
    "program genes": lambda: posterior().program_genes(draws=3),
    "effect": lambda: posterior().effect(["gene_0", "gene_1"], draws=3),
    "interactions": lambda: posterior().interactions(["gene_0+gene_1"], draws=5),
    "ranking": lambda: posterior().rank(["gene_0", "gene_1"], draws=5),
    "screen": simulated,
    "part of a screen": held_out,
    "simulation": lambda: cv.simulate(n_cells=20),
    "schema": lambda: simulated().schema,
    "schema of hostile names": hostile_schema,
    "model of hostile names": lambda: cv.models.StaticShift(hostile_schema()),
    "split": lambda: held_out().split,
    "split without use": lambda: Split.parse([f"perturbation={HOSTILE.replace('=', '')}"]),
    "licence": lambda: Licence(
        "affine", f"because of {HOSTILE} " * 30, (), 20, 400, "adequacy: failed.", False
    ),
}


@pytest.fixture(params=list(OBJECTS))
def shown(request: pytest.FixtureRequest) -> Any:
    return OBJECTS[request.param]()


def test_three_lines_are_enough(shown: Any) -> None:
    lines = repr(shown).splitlines()
    assert 1 <= len(lines) <= 3
    assert max(map(len, lines)) <= 110
    assert lines[0].startswith(type(shown).__name__)


def test_a_notebook_gets_a_well_formed_table_of_the_same_facts(shown: Any) -> None:
    cells = Cells(shown._repr_html_())
    assert cells.well_formed
    assert cells.tags == {"table", "caption", "tr", "th", "td"}
    assert cells.texts[0] == type(shown).__name__
    facts = dict(shown.facts())
    assert dict(zip(cells.texts[1::2], cells.texts[2::2], strict=True)) == facts
    said = " ".join(repr(shown).split())
    whole = [name for name, fact in facts.items() if f"{name}: {' '.join(fact.split())}" in said]
    assert whole, "a fact at least is said in full"


def test_a_short_object_says_every_fact_in_its_repr() -> None:
    schema = simulated().schema
    said = " ".join(repr(schema).split())
    assert all(f"{name}: {fact}" in said for name, fact in schema.facts().items())


def test_the_longest_facts_are_cut_first() -> None:
    said = as_text("Thing", {"short": "kept as it is", "long": "word " * 500, "last": "seen"})
    assert len(said.splitlines()) <= 3
    assert "short: kept as it is" in said and "last: seen" in said and " ..." in said


def test_however_many_facts_there_are_three_lines_are_not_passed() -> None:
    said = as_text("Thing", {f"fact {i}": "x" * 200 for i in range(100)})
    assert len(said.splitlines()) == 3 and said.endswith(" ...")
    assert all(len(line) <= 110 for line in said.splitlines())


def test_names_are_text() -> None:
    html = as_html(HOSTILE, {HOSTILE: HOSTILE})
    assert "<script" not in html
    assert Cells(html).texts == [HOSTILE, HOSTILE, HOSTILE]


def test_an_effect_without_draws_shows_its_values_as_xarray_does() -> None:
    schema = Schema(genes=("g",), tokens=("A",))
    effect = Effect.of(np.full((1, 2, 1, 1, 1), 0.25), [cv.do("A")], [1.0], schema, cv.do())
    assert repr(effect).startswith("Effect(")
    assert "0.25" in repr(effect.mean(("chain", "draw")))


def test_a_summary_is_shown_whole() -> None:
    summary = simulated().summary()
    assert repr(summary) == str(summary)
    assert len(str(summary).splitlines()) > 3
    assert Cells(summary._repr_html_()).well_formed


def test_a_report_is_printed_whole() -> None:
    assert len(str(posterior().adequacy).splitlines()) > 3


def test_a_subclass_says_its_facts() -> None:
    with pytest.raises(NotImplementedError):
        Shown().facts()
