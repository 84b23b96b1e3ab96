"""Pictures show what was found, on one's own axes too, and tell it to those who see no colour or nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import xarray as xr
from long_names import calls
from matplotlib.figure import Figure
from screens import simulated, unfitted

import pyro_citevae as cv
from pyro_citevae.analysis import coverage, plots, predictive_check
from pyro_citevae.errors import DataError
from pyro_citevae.models import CiteVAE, Switching
from pyro_citevae.picture import Picture

CALLS = calls()
NAMES = sorted(plots.__all__)
PANELS = {"trajectories": 4, "effects": 2, "volcano": 2, "calibration": 2, "ranking": 2, "pit": 2,
          "predictive_checks": 6}  # fmt: skip


@pytest.fixture(scope="module")
def posterior() -> cv.Posterior:
    return unfitted(CiteVAE(simulated().schema, n_programs=3))


@pytest.fixture(scope="module")
def picture(posterior: cv.Posterior) -> Callable[..., Any]:
    """Draws the picture of a name."""
    check = predictive_check(posterior, simulated(), draws=3)

    def drawn(name: str, **options: Any) -> Any:
        draw, given, own = (
            (plots.predictive_checks, (check,), {}) if name == "predictive_checks" else CALLS[name]
        )
        return draw(*given, **own, **options)

    return drawn


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_it_with_a_text(picture: Callable[..., Any], name: str) -> None:
    made = picture(name)
    assert isinstance(made, Picture)
    data, described = made._repr_png_()
    assert data.startswith(b"\x89PNG")
    assert len(described["alt"]) > 20


@pytest.mark.parametrize("name", NAMES)
def test_it_draws_on_axes_of_ones_own(picture: Callable[..., Any], name: str) -> None:
    axes = Figure(figsize=(20, 4)).subplots(1, PANELS.get(name, 1), squeeze=False)[0]
    given = axes if name in PANELS else axes[0]
    assert picture(name, ax=given) is given
    assert all(axis.has_data() or axis.texts for axis in axes)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_number_of_axes_is_told(picture: Callable[..., Any], name: str) -> None:
    n = PANELS.get(name, 1)
    said = f"plots.{name}(ax=...) has {n + 1} axes, and the picture has {n} panel"
    with pytest.raises(DataError, match=re.escape(said)):
        picture(name, ax=list(Figure().subplots(1, n + 1)))


def test_one_panel_takes_one_axis() -> None:
    draw, (predicted, measured), options = CALLS["effects"]
    axis = Figure().subplots()
    assert draw(predicted, measured[:1], **options, ax=axis) is axis


@pytest.mark.parametrize("name", ["trajectories", "calibration", "coverage", "training"])
def test_lines_are_told_apart_without_colour(picture: Callable[..., Any], name: str) -> None:
    labelled = [line for line in picture(name).axes[0].lines if not line.get_label().startswith("_")]
    looks = [(line.get_linestyle(), line.get_marker()) for line in labelled]
    assert len(looks) > 1
    assert all(one != other for one, other in combinations(looks, 2))


def test_thirty_lines_are_told_apart_without_colour() -> None:
    rng = np.random.default_rng(0)
    draws = xr.DataArray(rng.normal(size=(1, 50, 30, 20)), dims=("chain", "draw", "perturbation", "gene"))
    draws = draws.assign_coords(perturbation=[f"P{i}" for i in range(30)])
    truth = draws[0, 0].drop_vars(["chain", "draw"], errors="ignore") * 0.9
    axis = plots.calibration(coverage(draws, truth, by=["perturbation"])).axes[0]
    assert len({(line.get_linestyle(), line.get_marker()) for line in axis.lines}) == 31  # and the diagonal


@pytest.mark.parametrize("name", ["trajectories", "effects", "interactions", "coverage", "predictive_checks"])
def test_intervals_are_named_in_the_legend(picture: Callable[..., Any], name: str) -> None:
    made = picture(name)
    legends = [*made.legends, *(axis.get_legend() for axis in made.axes if axis.get_legend())]
    assert any("% interval" in text.get_text() for legend in legends for text in legend.get_texts())


def test_axes_have_units(picture: Callable[..., Any]) -> None:
    assert picture("training").axes[0].get_ylabel() == "bound (nats a cell)"
    assert picture("effects").axes[0].get_xlabel() == "measured change of log(1 + count)"
    assert picture("trajectories").axes[0].get_xlabel() == "time (hours)"
    assert picture("trajectories", unit="day").axes[0].get_xlabel() == "time (days)"
    assert picture("ranking").axes[0].get_xlabel() == "expected information from 100 cells (nats)"


def test_programs_are_named_by_their_strongest_genes(posterior: cv.Posterior) -> None:
    """Of the states, of the graph and of the loadings; by names of one's own where there are some."""
    loadings = posterior.program_genes(3, draws=20).loadings
    genes = dict(zip(loadings.program.values, loadings.top_genes.values, strict=True))
    programs = posterior.programs([cv.do(), cv.do("gene_0")], draws=5)
    expected = {f"{label.replace('_', ' ')}: {named}" for label, named in genes.items()}
    drawn = plots.trajectories(programs, control=posterior.schema.control)
    assert {axis.get_title().replace("\n", " ") for axis in drawn.axes} == expected
    W = posterior.to_datatree(draws=5)["posterior"]["W"]
    texts = {text.get_text() for text in plots.lag_graph(W).legends[0].get_texts()}
    assert len([text for text in texts if re.match(r"program \d: gene_", text)]) == 3
    own = plots.program_shifts(programs, control=posterior.schema.control, names={"program_1": "stress"})
    shown = [label.get_text() for label in own.axes[0].get_xticklabels()]
    assert shown == ["program 0", "program 1: stress", "program 2"]


def test_programs_of_several_fits_have_no_common_name(posterior: cv.Posterior) -> None:
    one = replace(posterior, record={"data": "the same"})
    programs = cv.Ensemble([one, one]).programs([cv.do(), cv.do("gene_0")], draws=5)
    titles = {
        axis.get_title() for axis in plots.trajectories(programs, control=posterior.schema.control).axes
    }
    assert titles == {"program 0", "program 1", "program 2"}


def test_only_edges_of_a_sure_sign_are_arrows() -> None:
    """Program 1 raises 0 in all draws, and 2 moves 1 either way."""
    W = np.zeros((1, 10, 1, 3, 3))
    W[..., 0, 1], W[0, ::2, 0, 1, 2], W[0, 1::2, 0, 1, 2] = 0.5, 1.0, -1.0
    names = [f"program_{k}" for k in range(3)]
    weights = xr.DataArray(
        W, dims=("chain", "draw", "lag", "program", "source"), coords={"program": names, "source": names}
    )
    (axis,) = plots.lag_graph(weights).axes
    assert axis.get_title() == "edges with a sign at least 90 % sure: 1"
    arrows = [text for text in axis.texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == 1


def test_a_graph_for_each_regime_is_asked_for_by_one() -> None:
    W = unfitted(Switching(simulated().schema, n_programs=2)).to_datatree(draws=5)["posterior"]["W"]
    with pytest.raises(DataError, match=re.escape("pick one, as in weights.isel(regime=0)")):
        plots.lag_graph(W)
    assert isinstance(plots.lag_graph(W.isel(regime=0)), Picture)


def test_coverage_is_that_of_each_row_and_bin() -> None:
    """By perturbation as it was counted; by size, a bin of weak and one of strong values."""
    rng = np.random.default_rng(0)
    truth = xr.DataArray(
        np.concatenate([np.full((2, 50), 0.1), np.full((2, 50), 9.0)], axis=1), dims=("perturbation", "gene")
    ).assign_coords(perturbation=["A", "B"], gene=np.arange(100))
    draws = truth.where(truth < 1, 0) + xr.DataArray(rng.normal(size=(1, 200)), dims=("chain", "draw"))
    found = coverage(draws.transpose("chain", "draw", ...), truth, by=["perturbation"], probability=0.8)
    (line,) = [line for line in plots.coverage(found).axes[0].lines if line.get_label() == "80 % interval"]
    np.testing.assert_allclose(sorted(line.get_xdata()), sorted(found.coverage.values))
    each = coverage(draws, truth, by=["perturbation", "gene"], probability=0.8)
    axis = plots.coverage(each, strength=abs(truth), bins=2).axes[0]
    (line,) = [line for line in axis.lines if line.get_label() == "80 % interval"]
    np.testing.assert_allclose(line.get_xydata(), [[0.1, 1.0], [9.0, 0.0]])


@pytest.mark.parametrize(
    ("asked", "said"),
    [({}, "has 19 probabilities and keeps 1 dims"), ({"by": [], "probability": 0.8}, "keeps 0")],
)
def test_coverage_of_too_much_or_of_nothing_is_told(asked: dict, said: str) -> None:
    draws = xr.DataArray(np.random.default_rng(0).normal(size=(1, 9, 3)), dims=("chain", "draw", "gene"))
    found = coverage(draws, draws[0, 0], **{"by": ["gene"], **asked})
    with pytest.raises(DataError, match=said):
        plots.coverage(found)
