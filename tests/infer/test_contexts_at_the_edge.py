"""Contexts at the edge: one alone, one without controls, one that a fit does not know, none that is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pyro_citevae as cv
from pyro_citevae.errors import CiteVAEWarning, DataError
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer.effect import Effect
from pyro_citevae.models import CiteVAE

DATA = cv.simulate(
    n_cells=300,
    n_genes=8,
    n_perturbations=3,
    n_contexts=3,
    n_steps=2,
    design="snapshot",
    context_baseline=0.5,
).data


def of(*contexts: int) -> cv.Trajectories:
    """The cells of the first contexts, of a schema with these alone."""
    names = tuple(DATA.schema.contexts[c] for c in contexts)
    return replace(DATA.cells(np.isin(DATA.context, contexts).nonzero()[0]), schema=with_contexts(names))


def with_contexts(names: tuple[str, ...]) -> cv.Schema:
    return replace(DATA.schema, contexts=names)


def controls(c: int) -> cv.Trajectories:
    """Controls of a context, read after those before it."""
    found = DATA.select("control", context=DATA.schema.contexts[c])
    return replace(found, schema=with_contexts(DATA.schema.contexts[: c + 1]))


def without_counts() -> cv.Trajectories:
    given = controls(2)
    return replace(given, values=given.values * 0)


def fitted(data: cv.Trajectories, **settings: object) -> cv.Posterior:
    model = CiteVAE(data.schema, n_programs=3, n_invariant=1, hidden=8)
    options = {"max_steps": 20, "validation": 0.3, "progress": False, **settings}
    return cv.fit(model, BackwardSmoother(model, hidden=8), data, **options)


def spread(effect: Effect) -> float:
    return float(effect.std("draw").mean())


@pytest.fixture(scope="module")
def one() -> cv.Posterior:
    """A fit of one context alone."""
    return fitted(of(0))


@pytest.fixture(scope="module")
def two() -> cv.Posterior:
    return fitted(of(0, 1))


def test_a_fit_of_one_context_takes_another_and_is_less_sure_there(one: cv.Posterior, tmp_path: Path) -> None:
    known = one.adapt(controls(1), progress=False)
    assert known.schema.contexts == DATA.schema.contexts[:2]
    options = {"draws": 100, "progress": False}
    here = known.effect("gene_0", context="context_0", **options)
    there = known.effect("gene_0", context="context_1", **options)
    assert spread(there) > spread(here)
    was = one.effect("gene_0", **options)
    np.testing.assert_allclose(here.mean("draw"), was.mean("draw"), atol=0.1)
    known.save(tmp_path / "run")
    again = cv.load(tmp_path / "run").effect("gene_0", context="context_1", **options)
    np.testing.assert_array_equal(again, there)


def test_a_fit_of_one_context_without_held_out_cells_takes_another() -> None:
    known = fitted(of(0), validation=0).adapt(controls(1), progress=False)
    options = {"draws": 100, "progress": False}
    here, there = (known.effect("gene_0", context=f"context_{c}", **options) for c in (0, 1))
    assert np.isfinite(there).all()
    assert spread(there) > spread(here)


def test_each_context_that_was_added_is_in_the_record(one: cv.Posterior) -> None:
    known = one.adapt(controls(1), progress=False).adapt(controls(2), progress=False)
    assert list(known.record["adapted"]) == ["context_1", "context_2"]


def test_an_effect_is_not_laid_against_controls_of_other_contexts() -> None:
    """Controls of another kind of cell would be taken for an error of those of this one."""
    away = (DATA.context == 2) & (DATA.labels == "control")
    data = DATA.cells(np.flatnonzero(~away))
    for posterior in (fitted(data), fitted(data, validation=0)):
        with pytest.raises(DataError, match="no control at time 2 in context context_2"):
            posterior.effect("gene_0", versus=data, context="context_2", draws=5, progress=False)
        posterior.effect("gene_0", versus=data, context="context_0", draws=5, progress=False)


def test_the_error_of_controls_is_that_of_their_context() -> None:
    """Other contexts' controls, whatever they are, change nothing."""
    posterior = fitted(DATA, validation=0)
    here = DATA.cells(np.flatnonzero(DATA.context == 1))
    options = {"context": "context_1", "draws": 5, "progress": False}
    alone, all_of_them = (posterior.effect("gene_0", versus=one, **options) for one in (here, DATA))
    np.testing.assert_array_equal(alone, all_of_them)


def test_controls_of_the_new_context_alone_are_counted(two: cv.Posterior) -> None:
    mixed = DATA.controls()
    n = int((mixed.context == 2).sum())
    with pytest.warns(CiteVAEWarning, match=f"fitted to the {n} controls of it"):
        two.effect("gene_0", cells=mixed, draws=2, progress=False)


def test_a_context_that_is_named_twice_is_asked_once(two: cv.Posterior) -> None:
    effect = two.effect("gene_0", context=["context_1", "context_1"], draws=2, progress=False)
    assert effect.context.to_numpy().tolist() == ["context_1"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: p.adapt(without_counts()), "no count in any of the .* controls of context context_2"),
        (lambda p: p.effect("gene_0", context=[]), r"effect\(context=\[\]\) names no context"),
        (lambda p: p.bound(controls(2)), "of context context_2, which training did not have"),
        (lambda p: p.latent(controls(2)), r"posterior.adapt\(controls\) first"),
    ],
)
def test_what_a_fit_does_not_know_is_said(
    call: Callable[[cv.Posterior], object], said: str, two: cv.Posterior
) -> None:
    with pytest.raises(DataError, match=said):
        call(two)
