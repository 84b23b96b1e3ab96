"""Settings and seeds that no machine holds get a sentence; counts beyond 32 bits are exported as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from named_cells import screen
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.data import Trajectories
from pyro_citevae.errors import CiteVAEError, DataError, FitError
from pyro_citevae.infer.fit_settings import FitSettings


@pytest.fixture(scope="module")
def data() -> Trajectories:
    return simulated()


def fitted(data: Trajectories, **settings: Any) -> cv.Posterior:
    model = cv.models.CiteVAE(data.schema, n_programs=2, hidden=4)
    chosen = {"max_steps": 2, "progress": False} | settings
    return cv.fit(model, cv.guides.MeanField(model, hidden=4), data, **chosen)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch_size", 10**20),
        ("batch_size", 2**31),
        ("max_epochs", 10**20),
        ("max_steps", 10**20),
        ("n_particles", 10**20),
        ("patience", 10**20),
        ("devices", 10**20),
        ("learning_rate", 1e39),
        ("learning_rate", float("nan")),
        ("gradient_clip", float("inf")),
        ("seed", 2**63),
        ("seed", 2**64),
        ("seed", -1),
        ("seed", 10**30),
    ],
)
def test_a_setting_that_no_machine_holds_is_refused(data: Trajectories, setting: str, value: Any) -> None:
    with pytest.raises(FitError, match=rf"^fit\({setting}=.*must be .*\.$"):
        fitted(data, **{"max_steps": None} if setting == "max_epochs" else {}, **{setting: value})


@pytest.mark.parametrize("sampler", ["uniform", "blocks", "balanced"])
def test_a_minibatch_of_more_cells_than_there_are_is_one_of_all(data: Trajectories, sampler: str) -> None:
    few, many = (
        fitted(data, batch_size=size, sampler=sampler, max_steps=None, max_epochs=2, validation=0.0).history
        for size in (data.n_cells, 2**31 - 1)
    )
    assert few["training"].tolist() == many["training"].tolist()


def test_a_minibatch_of_all_is_shared_evenly_by_several_processes() -> None:
    assert FitSettings(batch_size=10**9, devices=3).minibatch(100) == 102


@pytest.mark.parametrize("seed", [2**63, 2**64, -1, 1.5, "a"])
def test_what_is_no_seed_is_refused_wherever_it_is_given(data: Trajectories, seed: Any) -> None:
    posterior = fitted(data)
    for ask in (
        lambda: posterior.effect(cv.do("gene_0"), draws=2, seed=seed),
        lambda: posterior.predict(cv.do("gene_0"), cells=data.controls(), draws=2, seed=seed),
        lambda: posterior.to_datatree(draws=2, seed=seed),
        lambda: cv.simulate(n_cells=20, seed=seed),
    ):
        with pytest.raises(CiteVAEError, match=r"seed.*\.$"):
            ask()


def test_the_largest_seeds_work(data: Trajectories) -> None:
    assert np.isfinite(fitted(data, seed=2**63 - 1).effect(cv.do("gene_0"), draws=2, seed=2**63 - 1)).all()


def test_counts_beyond_32_bits_are_exported_as_they_are() -> None:
    data = Trajectories.from_anndata(screen(depth=[1e12] * 12), library="depth")
    tree = fitted(data).to_datatree(data, draws=3)
    drawn, observed = (tree[name]["x"] for name in ("prior_predictive", "observed_data"))
    assert drawn.dtype.kind == observed.dtype.kind == "i"
    assert int(drawn.max()) > 2**31
    assert int(drawn.min()) >= 0


def test_counts_that_no_whole_number_holds_are_refused() -> None:
    from pyro_citevae.infer.idata import as_counts

    for value in (1e19, np.inf, np.nan):
        with pytest.raises(FitError, match="which no whole number holds"):
            as_counts(np.array([1.0, value]))
    with pytest.raises(DataError, match="which is no seed"):
        cv.simulate(seed=2**63)
