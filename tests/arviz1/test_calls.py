"""ArviZ 1.x on our files, without pyro_citevae or torch: every call that a user makes, with its numbers.

============================================  =====================================================
call                                          under test in
============================================  =====================================================
``from_netcdf``, ``from_zarr``                ``test_names_types_and_values_survive``, and all others
``summary`` (posterior and prior)             ``test_summary``
``loo``                                       ``test_loo``, ``test_loo_is_exact``
``summary``, ``loo`` of several chains        ``test_the_members_of_an_ensemble_are_chains``
``plot_ppc_dist`` (posterior and prior)       ``test_plot_ppc_dist``
``plot_forest``                               ``test_plot_forest``
``plot_prior_posterior``                      ``test_plot_prior_posterior``
``loo_pit``                                   ``test_loo_pit_is_exact``, ``test_loo_pit_of_counts``
``plot_loo_pit``                              ``test_plot_loo_pit``
``plot_ecdf_pit``                             ``test_plot_ecdf_pit``
``plot_ppc_pit``                              ``test_plot_ppc_pit``
``plot_ppc_rootogram``                        ``test_plot_ppc_rootogram``
``plot_ppc_interval``, ``plot_ppc_dist_pit``  ``test_one_observed_dim_is_enough``
============================================  =====================================================

The last four take one observed dim: ``test_two_observed_dims_are_too_many`` has the reason, and
``one_observed_dim`` the way out. ArviZ 0.23 has other names: see ``tests/test_arviz.py``. The files and the
expected numbers are from ``write.py``; ``make test-arviz1`` runs both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import arviz as az
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from arviz1.contents import CELLS, DRAWS, GENES, require_contents

mpl.use("Agg")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto"),
    pytest.mark.filterwarnings("ignore:.*[Dd]iscrete.*"),
]
FILES = Path(__file__).resolve().parents[2] / "build" / "arviz1"
OPENINGS = {
    "netCDF": lambda name: az.from_netcdf(FILES / f"{name}.nc"),
    "zarr": lambda name: az.from_zarr(FILES / f"{name}.zarr"),
    "netCDF by xarray": lambda name: xr.open_datatree(FILES / f"{name}.nc"),
    "zarr by xarray": lambda name: xr.open_datatree(FILES / f"{name}.zarr"),
}


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    return dict(np.load(FILES / "truth.npz"))


@pytest.fixture(scope="module", params=list(OPENINGS))
def counts(request: pytest.FixtureRequest) -> xr.DataTree:
    return OPENINGS[request.param]("counts")


@pytest.fixture(scope="module", params=list(OPENINGS))
def gaussian(request: pytest.FixtureRequest) -> xr.DataTree:
    return OPENINGS[request.param]("gaussian")


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


def one_observed_dim(tree: xr.DataTree) -> xr.DataTree:
    """What ``pyro_citevae.infer.idata.stacked`` does, for a reader without pyro_citevae."""

    def by_value(group: xr.Dataset) -> xr.Dataset:
        both = {"cell", "gene"} <= set(group.dims)
        return group.stack(value=("cell", "gene"), create_index=False) if both else group

    return tree.map_over_datasets(by_value)


def test_this_is_arviz_1_without_torch() -> None:
    assert int(az.__version__.partition(".")[0]) >= 1
    assert not {"torch", "pyro", "pyro_citevae"} & set(sys.modules)


def test_names_types_and_values_survive(counts: xr.DataTree, truth: dict[str, np.ndarray]) -> None:
    require_contents(counts, truth)


@pytest.mark.parametrize("group", ["posterior", "prior"])
@pytest.mark.parametrize("name", ["W", "a", "c"])
def test_summary(group: str, name: str, counts: xr.DataTree, truth: dict[str, np.ndarray]) -> None:
    table = az.summary(counts, var_names=[name], group=group, kind="stats", round_to="none")
    draws = truth[f"{group}_{name}"][0].reshape(DRAWS, -1)
    np.testing.assert_allclose(table["mean"], draws.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table["sd"], draws.std(0, ddof=1), rtol=1e-5)
    assert all(row.startswith(f"{name}[") for row in table.index)


def test_loo(counts: xr.DataTree, truth: dict[str, np.ndarray]) -> None:
    """The same number as in the ArviZ that wrote the files."""
    found = az.loo(counts, pointwise=True)
    assert found.n_data_points == CELLS * GENES
    assert found.elpd_i.dims == ("cell", "gene")
    assert found.elpd == pytest.approx(float(truth["elpd"]), rel=1e-5)
    assert float(found.elpd_i.sum()) == pytest.approx(found.elpd)


def test_loo_is_exact(gaussian: xr.DataTree, truth: dict[str, np.ndarray]) -> None:
    """Against the law of each value given the others: 4000 draws leave an error of 0.05 nats at most."""
    found = az.loo(gaussian, pointwise=True)
    assert (found.pareto_k < 0.7).all()
    np.testing.assert_allclose(found.elpd_i, truth["gaussian_elpd"], atol=0.1)
    assert found.elpd == pytest.approx(truth["gaussian_elpd"].sum(), abs=0.5)


@pytest.mark.parametrize("opening", list(OPENINGS))
def test_the_members_of_an_ensemble_are_chains(opening: str, truth: dict[str, np.ndarray]) -> None:
    """Members disagree by 100 nats about some values, which single precision would not survive."""
    ensemble = OPENINGS[opening]("ensemble")
    table = az.summary(ensemble, var_names=["a"], kind="diagnostics")
    assert len(table) == 4
    assert np.isfinite(table["r_hat"].astype(float)).all()
    found = az.loo(ensemble, pointwise=True)
    assert found.n_samples == 2 * DRAWS
    assert np.isfinite(found.pareto_k).all()
    # of several chains, each ArviZ counts the effective draws in its own way
    assert found.elpd == pytest.approx(float(truth["ensemble_elpd"]), rel=5e-3)


@pytest.mark.parametrize("group", ["posterior_predictive", "prior_predictive"])
def test_plot_ppc_dist(group: str, counts: xr.DataTree, truth: dict[str, np.ndarray]) -> None:
    observed = {"observed_dist": True}
    drawn = az.plot_ppc_dist(counts, group=group, kind="ecdf", num_samples=20, visuals=observed).viz
    assert drawn["predictive_dist"]["x"].sizes == {"sample": 20}
    line = drawn["observed_dist"]["x"].item()
    shares = (truth["x"].ravel() <= line.get_xdata()[:, None]).mean(-1)
    np.testing.assert_allclose(line.get_ydata()[1:-1], shares[1:-1], atol=1e-9)
    for draw, line in zip(
        drawn["predictive_dist"].draw.to_numpy(), drawn["predictive_dist"]["x"].to_numpy(), strict=True
    ):
        made = counts[group]["x"].sel(draw=draw).to_numpy().ravel()
        assert (line.get_xdata().min(), line.get_xdata().max()) == (made.min(), made.max())


def test_plot_ppc_dist_takes_its_default(counts: xr.DataTree) -> None:
    assert az.plot_ppc_dist(counts).viz["predictive_dist"]["x"].sizes == {"sample": 50}


def test_plot_forest(counts: xr.DataTree, truth: dict[str, np.ndarray]) -> None:
    drawn = az.plot_forest(counts, var_names=["a"], combined=True, point_estimate="mean").viz
    points = drawn["point_estimate"]["a"]
    assert points.dims == ("token", "program")
    assert points.token.to_numpy().tolist() == truth["tokens"].tolist()
    shown = [point.get_offsets()[0, 0] for point in points.to_numpy().ravel()]
    np.testing.assert_allclose(shown, truth["posterior_a"][0].mean(0).ravel(), rtol=1e-5, atol=1e-6)


def test_plot_prior_posterior(counts: xr.DataTree) -> None:
    drawn = az.plot_prior_posterior(counts, var_names=["a"]).viz
    assert drawn["dist"]["a"].sizes == {"group": 2, "token": 2, "program": 2}


def test_loo_pit_is_exact(gaussian: xr.DataTree, truth: dict[str, np.ndarray]) -> None:
    """4000 draws leave a standard error of 0.008 at a half, and importance weights a little more."""
    np.testing.assert_allclose(az.loo_pit(gaussian)["x"], truth["gaussian_pit"], atol=0.04)


def test_loo_pit_of_counts(counts: xr.DataTree) -> None:
    """It lies between P(y' < y) and P(y' <= y) under the weights."""
    sampled = {"__sample__": ("chain", "draw")}
    weights = np.exp(az.loo(counts, pointwise=True).log_weights.stack(sampled))
    drawn, y = counts["posterior_predictive"]["x"].stack(sampled), counts["observed_data"]["x"]
    lower, upper = ((weights * one).sum("__sample__") for one in (drawn < y, drawn <= y))
    found = az.loo_pit(counts)["x"]
    slack = 1e-5  # sums of weights in single precision
    assert (found >= lower - slack).all()
    assert (found <= upper + slack).all()


def curve(drawn: xr.DataTree) -> tuple[np.ndarray, np.ndarray]:
    """The difference between the ECDF of PIT values and the identity, as a plot of it shows it."""
    line = drawn["ecdf_lines"]["x"].item()
    return line.get_xdata(), line.get_ydata()


def difference(pit: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (pit.ravel() <= x[:, None]).mean(-1) - x


def test_plot_loo_pit(gaussian: xr.DataTree, truth: dict[str, np.ndarray]) -> None:
    x, y = curve(az.plot_loo_pit(gaussian).viz)
    pit = az.loo_pit(gaussian, pareto_pit=True)["x"].to_numpy()
    np.testing.assert_allclose(y, difference(pit, x), atol=1e-6)
    np.testing.assert_allclose(y, difference(truth["gaussian_pit"], x), atol=0.1)


def test_plot_loo_pit_of_counts(counts: xr.DataTree) -> None:
    x, y = curve(az.plot_loo_pit(counts).viz)
    np.testing.assert_allclose(
        y, difference(az.loo_pit(counts, pareto_pit=True)["x"].to_numpy(), x), atol=1e-6
    )


def test_plot_ecdf_pit(gaussian: xr.DataTree) -> None:
    """It takes PIT values, in a group that is named."""
    pit = az.loo_pit(gaussian)
    tree = xr.DataTree.from_dict({"loo_pit": pit})
    x, y = curve(az.plot_ecdf_pit(tree, group="loo_pit", sample_dims=["cell", "gene"]).viz)
    np.testing.assert_allclose(y, difference(pit["x"].to_numpy(), x), atol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(
            call,
            marks=pytest.mark.xfail(
                raises=(TypeError, ValueError),
                strict=True,
                reason=f"ArviZ 1.x's {call} knows one observed dim; stack (cell, gene) first, by "
                "pyro_citevae.infer.idata.stacked or one_observed_dim",
            ),
        )
        for call in ("plot_ppc_pit", "plot_ppc_rootogram", "plot_ppc_interval", "plot_ppc_dist_pit")
    ],
)
def test_two_observed_dims_are_too_many(call: str) -> None:
    getattr(az, call)(OPENINGS["netCDF"]("counts"))


def test_the_stacked_file_is_what_a_reader_stacks(counts: xr.DataTree) -> None:
    stored = xr.open_datatree(FILES / "stacked.nc")
    xr.testing.assert_equal(stored.load(), one_observed_dim(counts).load())
    assert stored["observed_data"]["x"].dtype == np.int32


@pytest.fixture(params=["stacked by idata", "stacked by the reader"])
def flat(request: pytest.FixtureRequest) -> xr.DataTree:
    if request.param == "stacked by idata":
        return xr.open_datatree(FILES / "stacked.nc")
    return one_observed_dim(OPENINGS["zarr"]("counts"))


def test_plot_ppc_pit(flat: xr.DataTree, truth: dict[str, np.ndarray]) -> None:
    """The PIT of a count lies between P(y' < y) and P(y' <= y); the default also smooths its tails."""
    x, y = (one[1:-1] for one in curve(az.plot_ppc_pit(flat, method="prit_c").viz))
    drawn = truth["posterior_predictive_x"][0]
    lower, upper = (one.mean(0) for one in (drawn < truth["x"], drawn <= truth["x"]))
    assert (y <= difference(lower, x) + 1e-6).all()
    assert (y >= difference(upper, x) - 1e-6).all()
    smoothed = curve(az.plot_ppc_pit(flat).viz)[1][1:-1]
    np.testing.assert_allclose(smoothed, y, atol=0.1)


def test_plot_ppc_rootogram(flat: xr.DataTree, truth: dict[str, np.ndarray]) -> None:
    markers = az.plot_ppc_rootogram(flat).viz["observed_markers"]["x"].item().get_offsets()
    values, often = np.unique(truth["x"], return_counts=True)
    shown = dict(np.asarray(markers).tolist())
    assert all(shown[value] == n for value, n in zip(values.tolist(), often.tolist(), strict=True))


@pytest.mark.parametrize("call", ["plot_ppc_interval", "plot_ppc_dist_pit"])
def test_one_observed_dim_is_enough(call: str, flat: xr.DataTree) -> None:
    assert "figure" in getattr(az, call)(flat).viz


@pytest.mark.parametrize("call", ["loo", "plot_ppc_dist", "plot_loo_pit"])
def test_what_takes_two_dims_takes_one_too(call: str, flat: xr.DataTree) -> None:
    assert getattr(az, call)(flat) is not None
