"""The posterior as labelled data: what its groups hold, against laws that are known."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import arviz
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy import stats
from screens import unfitted
from torch import Tensor

import pyro_citevae as cv
from pyro_citevae.infer import idata
from pyro_citevae.models import CiteVAE, LinearGaussian, StaticShift

SCREEN = {"n_cells": 30, "n_genes": 4, "n_programs": 2, "n_perturbations": 2, "n_steps": 2, "seed": 0}


def made(model_class: type[cv.LatentDynamics], data: cv.Trajectories, **settings: object) -> cv.Posterior:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return unfitted(model_class(data.schema, n_programs=2, **settings))


@pytest.fixture(scope="module")
def counts() -> xr.DataTree:
    data = cv.simulate(**SCREEN).data
    return made(CiteVAE, data, n_invariant=1, hidden=4).to_datatree(data, draws=6, most_cells=5)


class Correlated(cv.LatentDynamics):
    """Real values that depend on each other within a cell, so that no gene has a likelihood of its own."""

    def __init__(self, schema: cv.Schema, *, n_programs: int = 2) -> None:
        super().__init__(schema, n_programs=n_programs)
        self.loading = torch.nn.Linear(n_programs, schema.n_genes)

    def mechanism(self) -> cv.Mechanism:
        return cv.Mechanism()

    def initial(self, mechanism: cv.Mechanism) -> dist.Distribution:
        return dist.Normal(torch.zeros(self.n_programs), 1.0).to_event(1)

    def transition(self, mechanism: cv.Mechanism, history: Sequence[Tensor], u: Tensor) -> dist.Distribution:
        return dist.Normal(history[-1], 1.0).to_event(1)

    def emission(self, mechanism: cv.Mechanism, z: Tensor, s: Tensor, library: Tensor) -> dist.Distribution:
        return dist.MultivariateNormal(self.loading(z), self.covariance())

    def covariance(self) -> Tensor:
        return 0.5 + torch.eye(self.schema.n_genes)


class Hierarchical(Correlated):
    """A global vector whose scale is global too."""

    def mechanism(self) -> cv.Mechanism:
        tau = pyro.sample("tau", dist.LogNormal(torch.tensor(0.0), 1.0))
        v = pyro.sample("v", dist.Normal(torch.zeros(self.schema.n_genes), tau).to_event(1))
        return cv.Mechanism(tau=tau, v=v)


def at_observation(tree: xr.DataTree) -> np.ndarray:
    """The drawn state of each row's cell at the row's time: (draw, row, program)."""
    constant, z = tree["constant_data"], tree["posterior"]["z"]
    trajectory = [str(name).partition("@")[0] for name in constant.cell.to_numpy()]
    cell = z.dims[2]
    rows = [
        z.sel({cell: name, "time": time})[0].to_numpy()
        for name, time in zip(trajectory, constant["observed_time"].to_numpy(), strict=True)
    ]
    return np.stack(rows, axis=1)


@pytest.mark.parametrize("layout", ["time course", "sequences"])
def test_each_value_has_its_likelihood_given_the_drawn_state(layout: str) -> None:
    """log N(x_ng; (C z_n + e)_g, r_g)."""
    data = cv.simulate(**SCREEN, design=layout, values="real").data
    posterior = made(LinearGaussian, data)
    tree = posterior.to_datatree(data, draws=7, most_cells=11)
    C, e = (one.detach().numpy() for one in (posterior.model.loading.weight, posterior.model.loading.bias))
    x, r = tree["observed_data"]["x"].to_numpy(), posterior.model.r.detach().numpy()
    found = tree["log_likelihood"]["x"]
    assert found.dims == ("chain", "draw", *tree["observed_data"]["x"].dims)
    np.testing.assert_allclose(found[0], stats.norm.logpdf(x, at_observation(tree) @ C.T + e, r), rtol=1e-4)


def test_a_law_that_does_not_factorise_has_one_likelihood_a_cell() -> None:
    data = cv.simulate(**SCREEN, values="real").data
    posterior = made(Correlated, data)
    tree = posterior.to_datatree(data, draws=3, most_cells=11)
    found = tree["log_likelihood"]["x"]
    assert found.dims == ("chain", "draw", "cell")
    with torch.no_grad():
        mean = posterior.model.loading(torch.from_numpy(at_observation(tree))).numpy()
    x = tree["observed_data"]["x"].to_numpy()
    law = stats.multivariate_normal(np.zeros(x.shape[1]), posterior.model.covariance().numpy())
    np.testing.assert_allclose(found[0], law.logpdf(x - mean), rtol=1e-4)


@pytest.mark.parametrize(
    ("site", "law"),
    [
        ("W", stats.norm(0, 0.3)),
        ("b", stats.norm(0, 0.1)),
        ("d", stats.norm(0, 0.15)),
        ("c", stats.norm(0, 0.5)),
        ("kappa", stats.lognorm(0.5, scale=np.exp(-1.2))),
    ],
)
def test_the_prior_is_that_of_the_program(site: str, law: stats.rv_continuous) -> None:
    data = cv.simulate(**SCREEN).data
    prior = made(CiteVAE, data, n_invariant=1, hidden=4, direct=True).to_datatree(draws=1000)["prior"]
    assert stats.kstest(prior[site].to_numpy().ravel(), law.cdf).pvalue > 1e-3


def test_a_prior_with_a_scale_of_its_own_is_drawn_jointly() -> None:
    data = cv.simulate(**SCREEN, values="real").data
    prior = made(Hierarchical, data).to_datatree(draws=2000)["prior"]
    assert prior["tau"].dims == ("chain", "draw")
    assert prior["v"].shape == (1, 2000, 4)
    assert stats.kstest(np.log(prior["tau"].to_numpy().ravel()), stats.norm.cdf).pvalue > 1e-3
    assert stats.kstest((prior["v"] / prior["tau"]).to_numpy().ravel(), stats.norm.cdf).pvalue > 1e-3


def test_prior_and_posterior_have_the_same_sites(counts: xr.DataTree) -> None:
    prior, posterior = counts["prior"].to_dataset(), counts["posterior"].to_dataset()
    assert set(posterior.data_vars) - set(prior.data_vars) == {"s", "z"}
    for name in prior.data_vars:
        assert prior[name].dims == posterior[name].dims
        assert prior[name].shape == posterior[name].shape


def test_deviations_are_labelled_by_the_steps_that_take_them_on(counts: xr.DataTree) -> None:
    e = counts["posterior"]["e"]
    assert e.dims == ("chain", "draw", "step", "token", "gene")
    assert e.step.values.tolist() == [1, 2]
    assert counts["posterior"]["e_later"].dims == ("chain", "draw", "token", "gene")


def test_a_real_dim_of_size_one_survives_as_a_plate_axis_does_not() -> None:
    data = cv.simulate(**{**SCREEN, "n_perturbations": 1}).data
    tree = unfitted(StaticShift(data.schema, n_programs=1, hidden=4)).to_datatree(draws=3)
    for group in ("posterior", "prior"):
        assert dict(tree[group]["a"].sizes) == {"chain": 1, "draw": 3, "token": 1, "program": 1}


class TestStacked:
    def test_one_dim_holds_every_pair(self, counts: xr.DataTree) -> None:
        stacked = idata.stacked(counts)
        for group in ("posterior_predictive", "prior_predictive", "log_likelihood"):
            assert dict(stacked[group]["x"].sizes) == {"chain": 1, "draw": 6, "value": 20}
            np.testing.assert_array_equal(
                stacked[group]["x"], counts[group]["x"].to_numpy().reshape(1, 6, 20)
            )
        observed = stacked["observed_data"]["x"]
        pairs = zip(observed.cell.to_numpy(), observed.gene.to_numpy(), observed.to_numpy(), strict=True)
        assert all(counts["observed_data"]["x"].sel(cell=cell, gene=gene) == x for cell, gene, x in pairs)

    def test_other_groups_types_and_attributes_are_left_alone(self, counts: xr.DataTree) -> None:
        stacked = idata.stacked(counts)
        for group in ("posterior", "prior", "constant_data"):
            xr.testing.assert_identical(stacked[group].to_dataset(), counts[group].to_dataset())
        assert stacked["observed_data"]["x"].dtype == np.int32
        assert stacked.attrs == counts.attrs

    @pytest.mark.parametrize("kind", ["nc", "zarr"])
    def test_it_can_be_stored(self, kind: str, counts: xr.DataTree, tmp_path: Path) -> None:
        path, stacked = tmp_path / f"stacked.{kind}", idata.stacked(counts)
        if kind == "nc":
            stacked.to_netcdf(path, engine="h5netcdf")
        else:
            stacked.to_zarr(path, zarr_format=2)
        xr.testing.assert_equal(xr.open_datatree(path).load(), stacked)


@pytest.mark.skipif(int(arviz.__version__.partition(".")[0]) >= 1, reason="ArviZ 1.x takes the tree itself")
def test_arviz_before_1_gets_groups_and_attributes(counts: xr.DataTree) -> None:
    found = idata.as_arviz(counts)
    assert set(found.groups()) == set(counts.children)
    assert found.attrs == counts.attrs
    for name, group in counts.children.items():
        xr.testing.assert_identical(found[name], group.to_dataset())


def test_arviz_1_gets_the_tree(counts: xr.DataTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arviz, "__version__", "1.3.0")
    assert idata.as_arviz(counts) is counts


def test_each_group_says_what_made_it_and_when(counts: xr.DataTree) -> None:
    """The attributes that ArviZ's schema asks for."""
    for group in (counts, *counts.children.values()):
        assert group.attrs["inference_library"] == "pyro_citevae"
        assert group.attrs["inference_library_version"] == cv.__version__
        assert datetime.fromisoformat(group.attrs["created_at"]).tzinfo is not None
    assert counts.attrs["model"].endswith("CiteVAE")
