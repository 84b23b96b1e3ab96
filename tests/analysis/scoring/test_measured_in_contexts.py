"""An effect in a context is measured against the controls of this context, and drawn beside its forecast."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

import pyro_citevae as cv
from pyro_citevae.analysis import measure, plots
from pyro_citevae.data import do
from pyro_citevae.errors import DataError
from pyro_citevae.infer import Effect

SCREEN = cv.datasets.load("kang")
TIME = 3.0


def test_controls_of_other_contexts_are_left_out() -> None:
    """Kinds of cells differ by more than a perturbation does, so those of another measure the kind."""
    train, held_out = SCREEN.hold_out(contexts="B cells")
    own = measure(SCREEN.select(context="B cells"), "IFNB1", TIME)
    given = measure(held_out, "IFNB1", TIME, controls=train.controls())
    np.testing.assert_allclose(given.delta, own.delta)
    np.testing.assert_allclose(given.variance, own.variance)


def test_a_context_without_controls_is_named() -> None:
    train, held_out = SCREEN.hold_out(contexts="B cells")
    with pytest.raises(DataError, match="no cells of 'control' at 3 in B cells to measure 'IFNB1'"):
        measure(held_out, "IFNB1", TIME, controls=train.select(context="CD4 T cells"))


def test_a_forecast_in_one_context_is_drawn_beside_what_was_measured_there() -> None:
    measured = measure(SCREEN.select(context="B cells"), "IFNB1", TIME)
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 9, 1, 1, len(measured.delta)))
    one = Effect.of(measured.delta + noise, [do("IFNB1")], [TIME], SCREEN.schema, do())
    several = Effect.in_contexts([one, one], ["B cells", "CD4 T cells"])
    drawn = plots.effects(several.sel(context=["B cells"]), [measured])
    assert isinstance(drawn, Figure)
    assert len(drawn.axes) == 1
    with pytest.raises(DataError, match=r"choose it first, as in effect.sel\(context='B cells'\)"):
        plots.effects(several, [measured])
