"""Names of sites: the program's own are told from a variant's, and refused where they would be two things."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from screens import simulated
from torch import nn

import pyro_citevae as cv
from pyro_citevae import sites
from pyro_citevae.analysis import predictive_check, simulation_based_calibration
from pyro_citevae.errors import ModelError
from pyro_citevae.guides import BackwardSmoother, MeanField


class Scaled(cv.LatentDynamics):
    """A program whose global sites are called almost as states are."""

    dims = MappingProxyType({"a": ("token", "program"), "z_scale": ("program",), "z_1_scale": ("phase",)})
    coords = MappingProxyType({"phase": ("early", "late")})
    also: str | None = None

    def __init__(self, schema: cv.Schema) -> None:
        super().__init__(schema, n_programs=2, n_invariant=1)
        self.loading = nn.Linear(3, schema.n_genes)

    def mechanism(self) -> cv.Mechanism:
        shape = (self.schema.n_tokens, 2)
        found = cv.Mechanism(
            a=pyro.sample("a", dist.Normal(0.0, 1.0).expand(shape).to_event(2)),
            z_scale=pyro.sample("z_scale", dist.LogNormal(torch.full((2,), -1.0), 0.1).to_event(1)),
            z_1_scale=pyro.sample("z_1_scale", dist.LogNormal(torch.zeros(2), 0.1).to_event(1)),
        )
        return (
            found if self.also is None else found.updated(own=pyro.sample(self.also, dist.Normal(0.0, 1.0)))
        )

    def initial(self, mechanism: cv.Mechanism) -> Any:
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def transition(self, mechanism: cv.Mechanism, history: Any, u: torch.Tensor) -> Any:
        return dist.Normal(0.8 * history[-1] + u @ mechanism.a, mechanism.z_scale).to_event(1)

    def emission(self, mechanism: cv.Mechanism, z: Any, s: Any, library: torch.Tensor) -> Any:
        share = torch.softmax(
            self.loading(torch.cat([z, s], -1)) * mechanism.z_1_scale.sum(-1, keepdim=True), -1
        )
        return dist.Poisson(library[..., None] * share).to_event(1)


def test_a_site_called_almost_as_a_state_obeys_every_law() -> None:
    report = cv.check_model(Scaled, lambda model: MeanField(model, hidden=4))
    assert report.passed, str(report)


def test_a_site_called_almost_as_a_state_works_from_fit_to_export(tmp_path: Any) -> None:
    data = simulated(n_cells=40)
    model = Scaled(data.schema)
    posterior = cv.fit(model, BackwardSmoother(model, hidden=4), data, max_epochs=1, progress=False)
    posterior.save(tmp_path / "run")
    loaded = cv.load(tmp_path / "run", model=Scaled)
    tree = loaded.to_datatree(data, draws=3)
    assert tree["posterior"]["z"].sizes["time"] == 4
    assert tree["posterior"]["z_scale"].dims == ("chain", "draw", "program")
    assert tree["posterior"]["z_1_scale"].coords["phase"].to_numpy().tolist() == ["early", "late"]
    made = loaded.predict(cv.do("gene_0"), cells=data.controls(), draws=3)
    assert np.isfinite(made.layers["mean"]).all()
    assert np.isfinite(predictive_check(loaded, data, replicate="cells", draws=3)["p_value"]["mean"]).all()


def test_simulation_based_calibration_tells_them_apart() -> None:
    design = simulated(n_cells=12)
    model = Scaled(design.schema)
    options = {"replicates": 2, "draws": 4, "max_epochs": 1, "progress": False}
    ranks = simulation_based_calibration(model, MeanField(model, hidden=4), design, **options)
    assert {"z_scale", "z_1_scale", "z", "s"} <= {name for group in ranks.children.values() for name in group}


@pytest.mark.parametrize(
    "name",
    ["s", "x", "z", "z_0", "z_17", "cell", "slot", "draw", "chain", "time", "program", "trajectory",
     "invariant", "gene", "token", "lag", "step", "source", "feature", "perturbation"],
)  # fmt: skip
def test_a_name_that_is_taken_is_refused_by_fit_and_by_a_law(name: str) -> None:
    class Taken(Scaled):
        also = name

    data = simulated(n_cells=20)
    model = Taken(data.schema)
    with pytest.raises(
        ModelError, match=f"Taken.mechanism samples '{name}', a name that inference or the export"
    ):
        cv.fit(model, MeanField(model, hidden=4), data, max_epochs=1, progress=False)
    report = cv.check_model(Taken, lambda made: MeanField(made, hidden=4))
    assert [row.law for row in report.rows if row.passed is False] == ["names"]


@pytest.mark.parametrize(
    "name", ["a", "W", "z_scale", "z_", "z_1_scale", "zeta", "s_0", "x_scale", "steps", "Z_1"]
)
def test_any_other_name_is_free(name: str) -> None:
    assert not sites.reserved(name)


@pytest.mark.parametrize(
    ("name", "step"), [("z_0", 0), ("z_12", 12), ("z_scale", None), ("z_1b", None), ("s", None)]
)
def test_a_states_step_is_read_from_its_name(name: str, step: int | None) -> None:
    assert sites.step_of_state(name) == step
    assert step is None or sites.state(step) == name


# History: a variant with two lags sees what the docs say


class Lagged(Scaled):
    """Notes how many states it was shown in each step."""

    def __init__(self, schema: cv.Schema, *, n_lags: int = 2) -> None:
        super().__init__(schema)
        self.n_lags = n_lags
        self.shown: list[int] = []

    def transition(self, mechanism: cv.Mechanism, history: Any, u: torch.Tensor) -> Any:
        self.shown.append(len(history))
        return super().transition(mechanism, history, u)


@pytest.mark.parametrize(
    ("n_lags", "shown"), [(1, [1, 1, 1]), (2, [1, 2, 2]), (3, [1, 2, 3]), (5, [1, 2, 3])]
)
def test_history_holds_no_more_states_than_there_are(n_lags: int, shown: list[int]) -> None:
    data = simulated("sequences", n_cells=8)
    model = Lagged(data.schema, n_lags=n_lags)
    model(data.batch())
    assert model.shown == shown
    model.shown.clear()
    guide = MeanField(model, hidden=4)
    cv.Posterior(model, guide, pd.DataFrame(), {}).programs(cv.do("gene_0"), draws=2)
    assert model.shown == shown
