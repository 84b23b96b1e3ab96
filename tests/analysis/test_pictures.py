"""Pictures of programs, fits and pairs: what is drawn is what was found, on one's own axis too."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure
from screens import simulated, unfitted

import pyro_citevae as cv
from pyro_citevae.analysis import plots
from pyro_citevae.errors import DataError
from pyro_citevae.models import CiteVAE, Switching
from pyro_citevae.picture import Picture


@pytest.fixture(scope="module")
def posterior() -> cv.Posterior:
    return unfitted(CiteVAE(simulated().schema, n_programs=3))


def made(posterior: cv.Posterior) -> dict:
    """Each picture with what it takes."""
    programs = posterior.programs([cv.do(), cv.do("gene_0"), cv.do("gene_1")], draws=5)
    history = pd.DataFrame(
        {"step": [1, 2, 3], "training": [-9.0, -5.0, -4.0], "held_out": [-9.0, -6.0, np.nan]}
    )
    return {
        "program_genes": (plots.program_genes, (posterior.program_genes(3, draws=5).loadings,), {}),
        "program_shifts": (plots.program_shifts, (programs,), {"control": posterior.schema.control}),
        "lag_graph": (plots.lag_graph, (posterior.to_datatree(draws=5)["posterior"]["W"],), {}),
        "training": (plots.training, (history,), {}),
        "interactions": (plots.interactions, (posterior.interactions("gene_0+gene_1", draws=5),), {}),
    }


NAMES = ["program_genes", "program_shifts", "lag_graph", "training", "interactions"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_it_with_a_text(posterior: cv.Posterior, name: str) -> None:
    draw, given, options = made(posterior)[name]
    picture = draw(*given, **options)
    assert isinstance(picture, Picture)
    data, described = picture._repr_png_()
    assert data.startswith(b"\x89PNG")
    assert len(described["alt"]) > 10


@pytest.mark.parametrize("name", NAMES)
def test_it_draws_on_an_axis_of_ones_own(posterior: cv.Posterior, name: str) -> None:
    draw, given, options = made(posterior)[name]
    axis = Figure().subplots()
    assert draw(*given, **options, ax=axis) is axis
    assert axis.has_data() or axis.texts


def test_only_edges_of_a_sure_sign_are_arrows() -> None:
    """Program 1 raises 0 in all draws, and 2 moves 1 either way."""
    W = np.zeros((1, 10, 1, 3, 3))
    W[..., 0, 1], W[0, ::2, 0, 1, 2], W[0, 1::2, 0, 1, 2] = 0.5, 1.0, -1.0
    names = [f"program_{k}" for k in range(3)]
    weights = xr.DataArray(
        W, dims=("chain", "draw", "lag", "program", "source"), coords={"program": names, "source": names}
    )
    (axis,) = plots.lag_graph(weights).axes
    assert axis.get_title().startswith("1 edges")
    arrows = [text for text in axis.texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == 1


def test_a_graph_for_each_regime_is_asked_for_by_one() -> None:
    W = unfitted(Switching(simulated().schema, n_programs=2)).to_datatree(draws=5)["posterior"]["W"]
    with pytest.raises(DataError, match=re.escape("pick one, as in weights.isel(regime=0)")):
        plots.lag_graph(W)
    assert isinstance(plots.lag_graph(W.isel(regime=0)), Picture)
