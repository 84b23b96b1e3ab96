"""Criticism: predictive checks, Pareto k and held-out bounds, against what is known exactly."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import arviz
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from exact_posterior import exact
from known_programs import Counts, Mean, TooNarrow, drawn_from, known, screen, smoothed
from pyro.nn import PyroModule
from scipy import sparse, stats

import pyro_citevae as cv
from pyro_citevae.analysis import (
    held_out_bound,
    pareto_k,
    predictive_check,
)
from pyro_citevae.analysis.criticism import plots
from pyro_citevae.errors import DataError, ModelError
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.infer.importance import log_weights
from pyro_citevae.models import CiteVAE, LinearGaussian
from pyro_citevae.registry import GUIDES, MODELS

LARGE = 1e6  # an inverse dispersion at which the negative binomial is a Poisson


# Predictive checks --------------------------------------------------------------------------------------


def test_the_observed_statistics_by_hand() -> None:
    data = screen(n_cells=120)
    found = predictive_check(known(Counts(data.schema)), data, draws=2)["observed_data"]
    x = data.values.toarray().astype(float)
    np.testing.assert_allclose(found["zero_fraction"], (x == 0).mean(0))
    np.testing.assert_allclose(found["mean"], x.mean(0))
    np.testing.assert_allclose(found["variance"], x.var(0))
    np.testing.assert_allclose(
        found["library_size"], np.quantile(x.sum(1), found["library_size"].probability.to_numpy())
    )
    y = np.log1p(np.median(x.sum(1)) * x / np.maximum(x.sum(1), 1)[:, None])
    for label in data.perturbations():
        for time in (1.0, 2.0, 3.0):
            group, control = (
                y[(data.row_labels == one) & (data.row_times == time)] for one in (label, "control")
            )
            p = stats.ttest_ind(group, control, equal_var=False).pvalue
            expected = (stats.false_discovery_control(p) <= 0.05).sum()
            assert found["differentially_expressed"].sel(perturbation=label, time=time) == expected


@pytest.mark.parametrize("layout", ["snapshot", "time course", "sequences"])
def test_a_true_model_passes_its_checks(layout: str) -> None:
    data = drawn_from(Counts(screen(layout).schema), screen(layout))
    found = predictive_check(known(Counts(data.schema)), data, draws=200)["p_value"].to_dataset()
    p = np.concatenate([values.to_numpy().ravel() for values in found.data_vars.values()])
    assert (p > 2 / 201).mean() > 0.9
    assert 0.3 < np.mean(p) < 0.75


def test_a_poisson_is_caught_by_the_zeros_of_zero_inflated_counts() -> None:
    design = screen()
    model = Counts(design.schema, theta=LARGE)
    data = drawn_from(model, design)
    kept = np.random.default_rng(0).random(data.values.shape) > 0.15
    inflated = replace(data, values=sparse.csr_matrix(data.values.toarray() * kept))
    right, wrong = (predictive_check(known(model), one, draws=100)["p_value"] for one in (data, inflated))
    assert (wrong["zero_fraction"] == 2 / 101).all()
    assert (right["zero_fraction"] > 2 / 101).all()


def test_the_wrong_dispersion_is_caught_by_the_variance_but_not_by_the_mean() -> None:
    design = screen(n_cells=1000)
    data = drawn_from(Counts(design.schema, theta=1.0), design)
    found = predictive_check(known(Counts(design.schema, theta=LARGE)), data)["p_value"]
    assert float((found["variance"] < 0.02).mean()) > 0.8
    assert float((found["mean"] < 0.02).mean()) < 0.3


def test_a_model_without_effects_is_caught_by_the_number_of_differing_genes() -> None:
    design = screen()
    data = drawn_from(Counts(design.schema), design)
    silent = Counts(design.schema)
    with torch.no_grad():
        silent.a.zero_()
    right, wrong = (
        predictive_check(known(model), data, draws=100) for model in (Counts(design.schema), silent)
    )
    name = "differentially_expressed"
    assert float(wrong["posterior_predictive"][name].mean()) < 0.3
    assert float(wrong["observed_data"][name].mean()) > 2
    assert float((wrong["p_value"][name] < 0.05).mean()) > 0.7
    assert float((right["p_value"][name] < 0.05).mean()) < 0.2


def test_the_same_cells_fit_where_new_ones_do_not() -> None:
    """Cells whose states lie far from the prior: abducted, they explain the data; the population does not."""
    design = screen("sequences", "real", n_cells=100)
    posterior = smoothed(design)
    data = drawn_from(posterior.model, design, seed=3)
    shift = 4 * posterior.model.loading.weight.detach().numpy()[:, 0]
    moved = replace(data, values=sparse.csr_matrix(data.values.toarray() + shift))
    new, same = (
        predictive_check(posterior, moved, replicate=which, draws=50) for which in ("population", "cells")
    )
    strong = abs(shift) > 1
    assert (new["p_value"]["mean"][strong] < 0.05).all()
    off = [
        abs(one["posterior_predictive"]["mean"].mean(("chain", "draw")) - one["observed_data"]["mean"])
        for one in (new, same)
    ]
    assert (off[1] < off[0] / 3)[strong].all()


def test_the_prior_is_wider_than_the_posterior() -> None:
    design = screen("snapshot", "real")
    model = Mean(design.schema)
    posterior = cv.Posterior(model, exact_guide(model, design), pd.DataFrame(), {})
    wide, narrow = (
        predictive_check(posterior, design, prior=prior, draws=50)[name]["mean"].std("draw")
        for prior, name in ((True, "prior_predictive"), (False, "posterior_predictive"))
    )
    assert (wide > 5 * narrow).all()
    np.testing.assert_allclose(wide, 1.0, atol=0.4)


def test_real_values_have_no_zeros_and_no_library() -> None:
    data = screen("snapshot", "real", n_cells=60)
    found = predictive_check(known(LinearGaussian(data.schema, n_programs=2)), data, draws=3)
    assert set(found["observed_data"].data_vars) == {"mean", "variance", "differentially_expressed"}
    assert found["posterior_predictive"]["mean"].dims == ("chain", "draw", "gene")


def test_a_group_of_one_cell_has_no_number_of_differing_genes() -> None:
    data = screen("snapshot", n_cells=41)
    chosen = (data.labels != "gene_0") | (np.arange(41) == np.flatnonzero(data.labels == "gene_0")[0])
    few = data.cells(np.flatnonzero(chosen))
    found = predictive_check(known(Counts(data.schema)), few, draws=3)
    for group in ("observed_data", "p_value"):
        missing = found[group]["differentially_expressed"].isnull().isel(time=0)
        assert missing.to_numpy().tolist() == [True, False, False]


def test_an_ensemble_is_checked_chain_by_chain() -> None:
    data = screen(n_cells=40)
    record = {"data": data.digest}
    members = [replace(known(Counts(data.schema, theta=theta)), record=record) for theta in (1.0, LARGE)]
    drawn = predictive_check(cv.Ensemble(members), data, draws=20)["posterior_predictive"]
    assert drawn["variance"].sizes == {"chain": 2, "draw": 20, "gene": 8}
    wide, narrow = drawn["variance"].mean(("draw", "gene")).to_numpy()
    assert wide > 2 * narrow


def test_checks_do_not_depend_on_the_blocks() -> None:
    data = screen("sequences", n_cells=60)
    posterior = known(Counts(data.schema))
    whole = predictive_check(posterior, data, draws=60)
    parts = predictive_check(posterior, data, draws=60, most_values=8 * 12 * 25)  # 25 draws, 4 cells at once
    xr.testing.assert_allclose(whole["observed_data"].to_dataset(), parts["observed_data"].to_dataset())
    for name in ("mean", "zero_fraction", "differentially_expressed"):
        one, two = (tree["posterior_predictive"][name] for tree in (whole, parts))
        error = np.hypot(one.std("draw"), two.std("draw")) / np.sqrt(60)
        assert (abs(one.mean("draw") - two.mean("draw")) <= 5 * error + 1e-9).all()
        assert two.draw.to_numpy().tolist() == list(range(60))


# Pareto k -----------------------------------------------------------------------------------------------


class FromPrior(MeanField):
    """States as in the prior, or too narrow by a factor."""

    narrower = 1.0

    def forward(self, batch: cv.data.Batch) -> None:
        self.mechanism()
        with pyro.plate("cell", batch.size, subsample=batch.index, dim=-1):
            pyro.sample("s", dist.Normal(torch.zeros(1), self.narrower).to_event(1))
            law = dist.Normal(torch.zeros(self.model.n_programs), self.narrower).to_event(1)
            for t in range(batch.n_steps + 1):
                self.state(t, law, batch)


class Globals(PyroModule):
    """q(m) = N(loc, scale), independent over genes."""

    def __init__(self, loc: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.loc, self.scale = torch.nn.Parameter(loc), torch.nn.Parameter(scale)

    def forward(self) -> dict[str, torch.Tensor]:
        return {"m": pyro.sample("m", dist.Normal(self.loc, self.scale).to_event(1))}


def exact_guide(model: Mean, data: cv.Trajectories, narrower: float = 1.0) -> FromPrior:
    """The exact posterior of m and of the states, or one whose m is too narrow by a factor."""
    x = torch.from_numpy(data.values.toarray())
    guide = FromPrior(model, hidden=4)
    n = len(x) + 1
    guide.globals = Globals(x.sum(0) / n, torch.full((x.shape[1],), narrower / n**0.5))
    return guide


@pytest.fixture(scope="module")
def design() -> cv.Trajectories:
    return screen("sequences", "real", n_cells=100)


@pytest.fixture(scope="module")
def trained(design: cv.Trajectories) -> cv.Posterior:
    return smoothed(design)


@pytest.fixture(scope="module")
def unseen(trained: cv.Posterior, design: cv.Trajectories) -> cv.Trajectories:
    return drawn_from(trained.model, design, seed=11)


@pytest.fixture(scope="module")
def narrow(trained: cv.Posterior) -> cv.Posterior:
    guide = TooNarrow(trained.model, hidden=16, correction=0)
    guide.load_state_dict(trained.guide.state_dict())
    return replace(trained, guide=guide)


def test_k_of_each_cell_is_that_of_arviz(narrow: cv.Posterior, unseen: cv.Trajectories) -> None:
    found = pareto_k(narrow, unseen, draws=400).states
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        weights = log_weights(narrow.model, narrow.guide, unseen.batch(), 400, {}).cells.double().numpy()
    psislw = getattr(arviz, "psislw", None)
    if psislw is None:
        from arviz_stats.base import array_stats

        _, expected = array_stats.psislw(-weights, axis=0)  # which takes log likelihoods, their negatives
    else:
        _, expected = psislw(weights.T.copy())
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert list(found.trajectory.to_numpy()) == list(unseen.names)


def test_a_smoother_has_a_light_tail_and_one_too_narrow_a_heavy_one(
    trained: cv.Posterior, narrow: cv.Posterior, unseen: cv.Trajectories
) -> None:
    light, heavy = (pareto_k(one, unseen, draws=1000) for one in (trained, narrow))
    assert float(light.states.median()) < 0.5
    assert float((light.states < 2 / 3).mean()) > 0.9
    assert float((heavy.states > 0.7).mean()) > 0.9
    assert light.attrs["usable_below"] == pytest.approx(2 / 3)


def test_the_exact_posterior_of_the_states_has_equal_weights_and_one_too_narrow_a_heavy_tail() -> None:
    data = screen("snapshot", "real", n_cells=50)
    model = Mean(data.schema)
    guide = exact_guide(model, data)
    posterior = cv.Posterior(model, guide, pd.DataFrame(), {})
    assert (pareto_k(posterior, data, mechanism=False).states < 0.5).all()
    guide.narrower = 0.5
    heavy = pareto_k(posterior, data, mechanism=False, draws=4000).states
    assert (heavy > 0.5).all()
    # a normal of half the spread has k = 1 - 0.5^2 in the limit
    assert 0.7 < float(heavy.median()) < 1


@pytest.mark.parametrize(("narrower", "low", "high"), [(1.0, -np.inf, 0.5), (0.5, 0.7, np.inf)])
def test_k_of_the_mechanism_tells_the_exact_posterior_from_one_too_narrow(
    narrower: float, low: float, high: float
) -> None:
    data = screen("snapshot", "real", n_cells=50)
    model = Mean(data.schema)
    posterior = cv.Posterior(model, exact_guide(model, data, narrower), pd.DataFrame(), {})
    found = pareto_k(posterior, data, draws=300, particles=2)
    assert low <= float(found.mechanism) < high
    # the observed values do not depend on the states, so there is no noise, and equal weights if exact
    assert float(found.monte_carlo_sd) < 1e-3
    assert float(found.log_weight_sd) < 1e-3 if narrower == 1 else float(found.log_weight_sd) > 1


class Blurred(Mean):
    """m ~ N(0, 1);  z_t ~ N(0, I);  x ~ N(m + z, 1), so that x ~ N(m, 2): evidence that must be estimated."""

    def __init__(self, schema: cv.Schema) -> None:
        super().__init__(schema, n_programs=schema.n_genes)

    def emission(
        self, mechanism: cv.Mechanism, z: torch.Tensor, s: torch.Tensor, library: torch.Tensor
    ) -> cv.program.Distribution:
        return dist.Normal(mechanism.m + z, self.scale).to_event(1)


@pytest.mark.parametrize("particles", [8, 32])
def test_the_noise_of_the_evidence_is_the_spread_of_the_exact_posteriors_weights(particles: int) -> None:
    data = screen("snapshot", "real", n_cells=30)
    model = Blurred(data.schema)
    guide = FromPrior(model, hidden=4)
    x, precision = torch.from_numpy(data.values.toarray()), 1 + 30 / 2
    guide.globals = Globals(x.sum(0) / 2 / precision, torch.full((8,), precision**-0.5))
    posterior = cv.Posterior(model, guide, pd.DataFrame(), {})
    found = pareto_k(posterior, data, draws=100, particles=particles)
    # exact weights are equal: all of their spread is noise
    assert float(found.monte_carlo_sd) == pytest.approx(float(found.log_weight_sd), rel=0.4)
    # the draws share their random numbers: where they hardly differ, so does the noise
    guide.globals = Globals(x.mean(0), torch.full((8,), 1e-5))
    assert float(pareto_k(posterior, data, draws=25, particles=particles).monte_carlo_sd) < 0.01


def test_the_mechanism_is_weighed_on_demand() -> None:
    data = screen(n_cells=20)
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=4)
    posterior = cv.Posterior(model, BackwardSmoother(model, hidden=4), pd.DataFrame(), {})
    assert set(pareto_k(posterior, data, mechanism=False).data_vars) == {"states"}


def test_a_model_without_global_sites_has_states_alone(
    trained: cv.Posterior, unseen: cv.Trajectories
) -> None:
    assert set(pareto_k(trained, unseen, most_cells=7).data_vars) == {"states"}
    assert pareto_k(trained, unseen, most_cells=7).sizes == {"trajectory": 7}


# Held-out bound -----------------------------------------------------------------------------------------


def test_many_particles_reach_the_exact_evidence_and_one_the_elbo(
    trained: cv.Posterior, unseen: cv.Trajectories
) -> None:
    evidence = exact(trained, unseen).log_evidence / unseen.n_cells
    tight = held_out_bound(trained, unseen, particles=500).cell_bound
    assert float(tight.mean()) == pytest.approx(evidence, abs=0.01)
    loose = [float(held_out_bound(trained, unseen, particles=1, seed=s).cell_bound.mean()) for s in range(50)]
    elbo = np.mean([trained.bound(unseen, particles=20, seed=seed) for seed in range(5)])
    assert abs(np.mean(loose) - elbo) < 4 * np.std(loose) / np.sqrt(40)
    assert np.mean(loose) < float(tight.mean())


def test_bounds_are_means_over_the_cells_of_a_perturbation_and_time() -> None:
    data = screen(n_cells=60)
    found = held_out_bound(known(Counts(data.schema)), data, particles=4)
    assert found.bound.dims == ("perturbation", "time")
    assert int(found.n_cells.sum()) == 60
    chosen = (data.labels == "gene_1") & (data.row_times == 2.0)
    values = found.cell_bound.to_numpy()[chosen]
    one = found.sel(perturbation="gene_1", time=2.0)
    assert float(one.bound) == pytest.approx(values.mean())
    assert float(one.standard_error) == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)))
    assert int(one.n_cells) == len(values)


def test_a_missing_group_has_no_bound() -> None:
    data = screen(n_cells=60)
    some = data.rows(~((data.row_labels == "gene_1") & (data.row_times == 2.0)))
    found = held_out_bound(known(Counts(data.schema)), some, particles=2)
    assert np.isnan(found.bound.sel(perturbation="gene_1", time=2.0))
    assert int(found.n_cells.sel(perturbation="gene_1", time=2.0)) == 0


def test_the_bound_averages_over_the_global_sites() -> None:
    """int q(m) p(x_n | m) dm is a normal density, once m's exact posterior is known."""
    data = screen("snapshot", "real", n_cells=30)
    model = Mean(data.schema)
    guide = exact_guide(model, data)
    found = held_out_bound(cv.Posterior(model, guide, pd.DataFrame(), {}), data, particles=4000)
    loc, sd = guide.globals.loc.detach().numpy(), np.sqrt(1 + 1 / 31)
    expected = stats.norm(loc, sd).logpdf(data.values.toarray()).sum(1)
    np.testing.assert_allclose(found.cell_bound, expected, atol=0.15)
    assert abs(float(found.cell_bound.mean()) - expected.mean()) < 0.03


# Every model and every guide ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(GUIDES))
def test_every_guide_can_be_criticised(name: str) -> None:
    data = screen("sequences", n_cells=12)
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=4)
    posterior = cv.Posterior(model, GUIDES[name](model, hidden=4), pd.DataFrame(), {})
    weighed = pareto_k(posterior, data, draws=25, particles=2)
    assert float(weighed.log_weight_sd) > 0
    assert np.isfinite(held_out_bound(posterior, data, particles=3).cell_bound).all()
    checked = predictive_check(posterior, data, replicate="cells", draws=4)
    assert checked["posterior_predictive"]["mean"].notnull().all()


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("prior", [False, True])
def test_every_model_can_be_checked(name: str, prior: bool) -> None:
    real = name in ("LinearGaussian", "ImageSequence")
    data = screen("sequences", "real" if real else "counts", n_cells=12)
    if name == "ImageSequence":
        data = replace(data, schema=replace(data.schema, image=(2, 4, 1)))
    model = MODELS[name](data.schema, n_programs=2)
    found = predictive_check(known(model), data, prior=prior, draws=4)
    drawn = found["prior_predictive" if prior else "posterior_predictive"]
    assert drawn["mean"].sizes == {"chain": 1, "draw": 4, "gene": 8}
    assert drawn["mean"].notnull().all()
    assert float(drawn["mean"].std("draw").max()) > 0


# Bad input ----------------------------------------------------------------------------------------------


class Enumerated(Counts):
    """A model that says it has discrete sites."""

    enumerated = True


CALLS = {
    "check": predictive_check,
    "k": pareto_k,
    "bound": held_out_bound,
}


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        ("check", {"draws": 0}, "draws=0 must be one or more"),
        ("check", {"replicate": "cell"}, "replicate='cell' is not known; use 'population' or 'cells'"),
        ("k", {"draws": 20}, "fewer than 5 weights in the tail"),
        ("k", {"particles": 3}, "must be even"),
        ("k", {"particles": 0}, "must be even"),
        ("bound", {"particles": 0}, "must be one or more"),
    ],
)
def test_settings_out_of_range_are_refused(call: str, options: dict, message: str) -> None:
    data = screen(n_cells=20)
    with pytest.raises(DataError, match=message):
        CALLS[call](known(Counts(data.schema)), data, **options)


@pytest.mark.parametrize("call", list(CALLS))
def test_no_cells_and_cells_of_another_panel_are_refused(call: str) -> None:
    data = screen(n_cells=20)
    posterior = known(Counts(data.schema))
    with pytest.raises(DataError, match="the data is empty"):
        CALLS[call](posterior, data.rows(np.zeros(20, dtype=bool)))
    other = replace(data, schema=replace(data.schema, genes=tuple("abcdefgh"), tokens=("a", "b", "c")))
    with pytest.raises(DataError, match="other genes or tokens"):
        CALLS[call](posterior, other)


def test_the_same_cells_cannot_come_from_the_prior() -> None:
    data = screen(n_cells=20)
    with pytest.raises(ModelError, match="the prior has not seen the cells"):
        predictive_check(known(Counts(data.schema)), data, prior=True, replicate="cells")


@pytest.mark.parametrize("call", ["k", "bound"])
def test_weights_of_discrete_sites_are_refused(call: str) -> None:
    data = screen(n_cells=20)
    with pytest.raises(ModelError, match="have no importance weights"):
        CALLS[call](known(Enumerated(data.schema)), data)


# Pictures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "panels"), [("counts", 6), ("real", 4)])
def test_a_check_has_a_panel_a_statistic_and_one_of_mean_and_variance(values: str, panels: int) -> None:
    data = screen("time course", values, n_cells=60)
    model = Counts(data.schema) if values == "counts" else LinearGaussian(data.schema, n_programs=2)
    figure = plots.predictive_checks(predictive_check(known(model), data, draws=10))
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == panels
    assert shown[-1].get_title() == "mean and variance, by gene"
    figure.savefig(BytesIO())


def test_the_picture_of_k_counts_the_cells_below_each_threshold() -> None:
    found = xr.Dataset(
        {"states": ("cell", [-np.inf, 0.2, 0.6, np.inf]), "mechanism": 0.4},
        attrs={"good_below": 0.5, "usable_below": 0.7},
    )
    figure = plots.pareto_k(found)
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == [
        "good below 0.50: 50% of cells", "usable below 0.70: 75% of cells", "mechanism: 0.40",
    ]  # fmt: skip
    figure.savefig(BytesIO())
