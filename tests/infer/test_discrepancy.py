"""What held-out cells say of a program's errors: found again where it is known, kept, and in every answer."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from known_programs import Counts
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.data import pseudobulk
from pyro_citevae.data.shared_genes import shared_panel
from pyro_citevae.errors import CiteVAEWarning, DataError, RunError
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.infer.counterfactuals import Counterfactuals
from pyro_citevae.infer.discrepancy import Discrepancy
from pyro_citevae.infer.discrepancy_scales import Scales, independent
from pyro_citevae.models import CiteVAE, LinearGaussian

# the hyperparameters, from residuals that are drawn as the model says

N_GROUPS, N_GENES = 60, 400


def residuals(kappa: float, size: float, growth: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """r and s, sampling variances of both halves, and the noise of each value, as the model has them."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 0.8, (N_GROUPS, N_GENES))
    noise -= noise.mean()
    v_a = 0.01 * np.exp(noise)
    v_b = 3 * v_a
    alpha = size * np.exp(np.log(v_a).mean()) * np.exp(growth * noise)
    of_a, of_b, structural = (np.sqrt(v) * rng.normal(size=v.shape) for v in (v_a, v_b, alpha))
    return structural + kappa * of_a - of_b, of_a - of_b, v_a, v_b, noise


@pytest.mark.parametrize(
    ("kappa", "size", "growth"), [(0.3, 1.0, 0.6), (0.7, 0.5, 0.2), (0.1, 4.0, 1.0), (0.5, 10.0, 0.0)]
)
def test_what_the_residuals_were_drawn_by_is_found_again(kappa: float, size: float, growth: float) -> None:
    """24,000 values tell a variance within sqrt(2 / 24,000) = 1 %, and a part of it within ten times that.

    The prior counts as much as it does beside a third of them.
    """
    found = Scales.learnt(*residuals(kappa, size, growth))
    assert found.carried == pytest.approx(kappa, abs=0.1)
    assert np.log(found.size) == pytest.approx(np.log(size), abs=0.15)
    assert found.growth == pytest.approx(growth, abs=0.1)


def test_without_structural_errors_next_to_none_are_found() -> None:
    found = Scales.learnt(*residuals(0.3, 1e-6, 0.5))
    assert found.size < 0.1  # of the sampling variance


def test_few_residuals_leave_the_hyperparameters_near_their_prior() -> None:
    few = [x[:3, :2] for x in residuals(0.9, 100.0, 0.0)]
    many = Scales.learnt(*residuals(0.9, 100.0, 0.0))
    found = Scales.learnt(*few)
    assert found.n_effective < 2 < 1000 < many.n_effective
    assert found.carried < 0.5 < many.carried


def test_genes_that_go_together_count_once() -> None:
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(30, 50))
    together = np.repeat(rng.normal(size=(30, 5)), 10, axis=1)
    assert independent(apart) == pytest.approx(30 * 50, rel=0.2)
    assert independent(together) == pytest.approx(30 * 5, rel=0.2)


# a fit


def made(values: str = "counts", seed: int = 3) -> cv.Trajectories:
    """Six tokens and two pairs over three steps."""
    pairs = ("gene_0+gene_1", "gene_2+gene_3")
    return cv.simulate(
        n_cells=900, n_genes=10, n_programs=2, n_perturbations=6, n_steps=3, values=values,
        combinations=pairs, seed=seed,
    ).data  # fmt: skip


def training(data: cv.Trajectories) -> cv.Trajectories:
    """Without any cell of gene_5, and without those of gene_4 at the last time."""
    kept, _ = data.hold_out(perturbations=["gene_5"])
    return kept.rows(~((kept.row_labels == "gene_4") & (kept.row_times == 3)))


def fitted(data: cv.Trajectories, **settings: Any) -> cv.Posterior:
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=8)
    settings = {"max_epochs": 8, "batch_size": 64, "progress": False} | settings
    return cv.fit(model, BackwardSmoother(model, hidden=8), data, **settings)


@pytest.fixture(scope="module")
def data() -> cv.Trajectories:
    return training(made())


@pytest.fixture(scope="module")
def posterior(data: cv.Trajectories) -> cv.Posterior:
    return fitted(data)


@pytest.fixture(scope="module")
def program(posterior: cv.Posterior) -> cv.Posterior:
    """The same program and guide, of whose errors nothing is known."""
    return replace(posterior, discrepancy=None)


@pytest.fixture(scope="module")
def real() -> cv.Posterior:
    return fitted(training(made("real")), max_epochs=3)


MEASURED, ELSEWHEN, PAIR, NEW, WEAKER = "gene_0", "gene_4", "gene_0+gene_2", "gene_5", "gene_1*0.5"
EVERY = (MEASURED, ELSEWHEN, PAIR, NEW, WEAKER, "gene_0+gene_1", "gene_0+gene_5")


def effect(posterior: Any, asked: Any, *given: Any, **options: Any) -> cv.infer.Effect:
    """Without the warnings that a token has no cells, and that a dose or a pair was not seen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CiteVAEWarning)
        return posterior.effect(asked, *given, **({"draws": 50} | options))


def known(posterior: cv.Posterior) -> Discrepancy:
    assert posterior.discrepancy is not None
    return posterior.discrepancy


def test_it_has_the_groups_of_the_screen(posterior: cv.Posterior, data: cv.Trajectories) -> None:
    found = known(posterior)
    groups = set(zip(data.row_labels.tolist(), data.row_times.tolist(), strict=True))
    assert set(zip(found.labels, found.times.tolist(), strict=True)) == groups
    assert found.shift.shape == found.sd.shape == (len(groups), 10)
    assert (found.sd > 0).all()
    assert np.isfinite(found.effect).all()
    assert found.position("gene_4", 3.0) is None
    assert found.times_of("gene_4") == [1.0, 2.0]


def test_a_group_with_many_cells_lies_where_they_are_and_one_with_few_where_the_program_is(
    posterior: cv.Posterior, data: cv.Trajectories
) -> None:
    """So much of the cells is believed as structural errors exceed sampling noise: more than half, here."""
    found = known(posterior)
    size = np.abs(found.shift).mean()
    for i, (label, time) in enumerate(zip(found.labels, found.times.tolist(), strict=True)):
        missed = np.abs(found.profile[i] - pseudobulk.level(data.select(label, time))).mean()
        assert missed < size


def test_the_controls_have_no_effect(posterior: cv.Posterior) -> None:
    found = known(posterior)
    rows = [i for i, label in enumerate(found.labels) if label == "control"]
    np.testing.assert_array_equal(found.effect[rows], 0.0)
    np.testing.assert_array_equal(effect(posterior, cv.do(), time=[1, 2, 3]), 0.0)


@pytest.mark.parametrize("label", [MEASURED, "gene_0+gene_1"])
@pytest.mark.parametrize("time", [1.0, 3.0])
def test_a_measured_group_has_the_stored_mean_and_variance(
    posterior: cv.Posterior, label: str, time: float
) -> None:
    found = known(posterior)
    i, c = found.position(label, time), found.position("control", time)
    assert i is not None and c is not None
    draws = effect(posterior, label, time=time).to_numpy()[0, :, 0, 0]
    np.testing.assert_allclose(draws.mean(0), found.effect[i], atol=1e-12)
    np.testing.assert_allclose(draws.var(0), found.sd[i] ** 2 + found.sd[c] ** 2, rtol=1e-9)


def test_draws_go_together_across_genes_as_the_programs_do(
    posterior: cv.Posterior, program: cv.Posterior
) -> None:
    one, raw = (effect(p, MEASURED).to_numpy()[0, :, 0, 0] for p in (posterior, program))
    np.testing.assert_allclose(np.corrcoef(one.T), np.corrcoef(raw.T), atol=1e-6)


@pytest.mark.parametrize("versus", ["gene_1", NEW, PAIR])
@pytest.mark.parametrize("asked", EVERY)
def test_an_effect_against_a_schedule_is_the_difference_of_both(
    posterior: cv.Posterior, asked: str, versus: str
) -> None:
    both = [effect(posterior, one, time=[2, 3]).to_numpy() for one in (asked, versus)]
    found = effect(posterior, asked, versus, time=[2, 3])
    np.testing.assert_allclose(found, both[0] - both[1], atol=1e-10)


def test_an_effect_does_not_depend_on_what_else_is_asked(posterior: cv.Posterior) -> None:
    together = effect(posterior, EVERY, time=[1, 2, 3])
    for label in EVERY:
        alone = effect(posterior, label, time=3).isel(time=0)
        np.testing.assert_allclose(together.sel(perturbation=[label], time=3), alone, atol=1e-10)


def test_the_spread_of_a_forecast_grows_the_less_is_known(posterior: cv.Posterior) -> None:
    spread = effect(posterior, EVERY, draws=200).std("draw").mean("gene").to_series().droplevel([0, 2])
    assert spread[MEASURED] < spread[ELSEWHEN]
    assert spread[MEASURED] < spread[PAIR]
    assert spread["gene_0+gene_1"] < spread[PAIR]
    assert spread[ELSEWHEN] < spread[NEW]


def test_another_dose_is_the_programs_with_a_wider_spread(
    posterior: cv.Posterior, program: cv.Posterior
) -> None:
    one, raw = (effect(p, WEAKER) for p in (posterior, program))
    np.testing.assert_allclose(one.mean("draw"), raw.mean("draw"), atol=1e-10)
    wanted = raw.var("draw").to_numpy()[0, 0, 0] + 2 * (0.5 * known(posterior).spread) ** 2
    np.testing.assert_allclose(one.var("draw")[0, 0, 0], wanted, rtol=1e-9)


def test_a_group_at_another_time_lies_between_the_program_and_what_was_measured(
    posterior: cv.Posterior, program: cv.Posterior
) -> None:
    found = known(posterior)
    i, c = found.position(ELSEWHEN, 2.0), found.position("control", 2.0)
    raw = effect(program, ELSEWHEN)
    forecast = raw.mean("draw")[0, 0, 0].to_numpy() + found.shift[i] - found.shift[c]
    made_of = (forecast + found.effect[i]) / 2
    one = effect(posterior, ELSEWHEN)
    np.testing.assert_allclose(one.mean("draw")[0, 0, 0], made_of, atol=1e-10)
    variance = found.sd[i] ** 2 + found.sd[c] ** 2 + 0.2 * (forecast - found.effect[i]) ** 2
    variance += raw.var("draw")[0, 0, 0].to_numpy() / 4
    np.testing.assert_allclose(one.var("draw")[0, 0, 0], variance, rtol=1e-9)


def test_a_pair_has_half_of_its_members_corrections(posterior: cv.Posterior, program: cv.Posterior) -> None:
    found = known(posterior)
    c = found.position("control", 3.0)
    members = [found.shift[found.position(one, 3.0)] - found.shift[c] for one in ("gene_0", "gene_2")]
    raw = effect(program, PAIR).mean("draw")[0, 0, 0].to_numpy()
    wanted = raw + sum(members) / 2
    np.testing.assert_allclose(effect(posterior, PAIR).mean("draw")[0, 0, 0], wanted, atol=1e-10)


def test_an_unseen_token_misses_its_forecast_as_seen_ones_do(posterior: cv.Posterior) -> None:
    """In either direction: without a share that is believed, draws have the tokens' mean squared effects."""
    left = known(posterior).left_out
    nothing = replace(known(posterior), left_out=replace(left, shares=np.zeros(2)))
    draws = effect(replace(posterior, discrepancy=nothing), NEW, draws=4000)[0, :, 0, 0].to_numpy()
    own = posterior.schema.genes.index(NEW)
    square = (left.residual[:, -1] ** 2 + left.residual_sd[:, -1] ** 2)[np.isfinite(left.residual[:, -1, 0])]
    expected = np.sqrt(np.delete(square.mean(0), own))
    found = np.delete(draws, own, axis=1)
    # signs are tossed 4,000 times: a mean errs by 1.6 % of the root mean square, five times allowed
    assert np.abs(found.mean(0) / expected).max() < 0.08
    np.testing.assert_allclose(np.sqrt((found**2).mean(0)), expected, rtol=0.08)


@pytest.mark.parametrize("n_genes", [None, 7], ids=["all genes", "a panel"])
def test_an_unseen_token_is_believed_by_the_size_of_its_forecast_over_all_genes(
    posterior: cv.Posterior, program: cv.Posterior, data: cv.Trajectories, n_genes: int | None
) -> None:
    """At the size of half belief, whichever genes are asked for, half is left of what is believed."""
    options = {} if n_genes is None else {"panel": shared_panel(data, data.schema.genes[-n_genes:])}
    left = replace(known(posterior).left_out, shares=np.array([0.0, 1.0]), half=0.0)
    forecast = effect(program, NEW).mean("draw")[0, 0, 0]
    size = float(np.linalg.norm(forecast.where(forecast.gene != NEW, 0.0)))
    by_size = replace(left, half=size)
    whole, half = (
        effect(replace(posterior, discrepancy=replace(known(posterior), left_out=one)), NEW, **options).mean(
            "draw"
        )[0, 0, 0]
        for one in (left, by_size)
    )
    asked = effect(program, NEW, **options).mean("draw")[0, 0, 0]
    others = (asked.gene != NEW).to_numpy()
    np.testing.assert_allclose((whole - half)[others], asked[others] / 2, atol=1e-10)


def test_an_unseen_token_keeps_its_own_transcript_from_the_program(
    posterior: cv.Posterior, program: cv.Posterior
) -> None:
    one, raw = (effect(p, NEW).sel(gene=NEW) for p in (posterior, program))
    np.testing.assert_array_equal(one, raw)


def test_a_time_at_which_controls_alone_were_measured_has_forecasts(data: cv.Trajectories) -> None:
    controls_alone = data.rows((data.row_labels == "control") | (data.row_times < 3))
    found = effect(fitted(controls_alone, max_epochs=2), EVERY, time=[2, 3])
    assert np.isfinite(found).all()


def test_a_ranking_is_by_the_effects_that_the_posterior_gives(posterior: cv.Posterior) -> None:
    """A perturbation that was measured is known as well as its cells tell, and ranks behind a new one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CiteVAEWarning)
        found = posterior.rank([MEASURED, NEW, PAIR], by="spread", draws=50)
    np.testing.assert_allclose(found.effects, effect(posterior, [MEASURED, NEW, PAIR]), atol=1e-10)
    assert found.table["candidate"].tolist()[-1] == MEASURED


def test_effects_follow_the_seed(posterior: cv.Posterior) -> None:
    one, same, other = (effect(posterior, [NEW, PAIR], seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (abs(one - other).mean(("chain", "draw", "gene")) > 0).all()


# measured controls, given controls, panels


def test_measured_controls_have_the_error_of_their_own_sampling(
    posterior: cv.Posterior, data: cv.Trajectories
) -> None:
    found = known(posterior)
    for time in (1.0, 3.0):
        plain = effect(posterior, [MEASURED, PAIR], time=time)
        against = effect(posterior, [MEASURED, PAIR], data, time=time)
        controls = data.select("control", time)
        error = pseudobulk.level(controls) - found.profile[found.position("control", time)]
        np.testing.assert_allclose(plain - against, np.broadcast_to(error, plain.shape), atol=1e-6)
        # and it is small beside the noise of a few cells
        assert np.abs(error).mean() < np.sqrt(pseudobulk.jackknife_variance(controls.thinned(10))).mean()


def test_measured_controls_of_a_time_that_the_fit_has_not_seen_are_refused(
    posterior: cv.Posterior, data: cv.Trajectories
) -> None:
    with pytest.raises(DataError, match=r"effect\(versus=...\) has no control at time 3 that the fit has"):
        effect(posterior, MEASURED, data.rows(data.row_times < 3), time=3)


def test_given_controls_move_the_program_and_not_its_correction(
    posterior: cv.Posterior, program: cv.Posterior, data: cv.Trajectories
) -> None:
    found = known(posterior)
    i, c = found.position(MEASURED, 3.0), found.position("control", 3.0)
    one, raw = (effect(p, MEASURED, cells=data.controls()).mean("draw") for p in (posterior, program))
    np.testing.assert_allclose((one - raw)[0, 0, 0], found.shift[i] - found.shift[c], atol=1e-10)


def test_an_effect_on_a_panel_is_corrected_as_it_is_on_all_genes(
    posterior: cv.Posterior, program: cv.Posterior, data: cv.Trajectories
) -> None:
    """A correction of all genes is that of some, but for a common shift: it moves their total too."""
    genes = data.schema.genes[:7]
    panel = shared_panel(data, genes)
    labels = [MEASURED, PAIR, ELSEWHEN]
    whole, raw = (effect(p, labels).sel(gene=list(genes)).mean("draw") for p in (posterior, program))
    of_panel, raw_panel = (effect(p, labels, panel=panel).mean("draw") for p in (posterior, program))
    apart = ((of_panel - raw_panel) - (whole - raw)).to_numpy()
    assert np.abs(apart - np.median(apart, -1, keepdims=True)).max() < 0.03 * abs(whole - raw).max()
    assert np.abs(apart).max() < 0.1 * abs(whole - raw).max()
    assert abs(whole - raw).max() > 2 * abs((of_panel - raw_panel) - (whole - raw)).max()
    of_all = [effect(posterior, labels, **options) for options in ({}, {"panel": data.schema})]
    np.testing.assert_allclose(*of_all, atol=1e-9)


# predicted cells


def of_cells(posterior: cv.Posterior, label: str, controls: cv.Trajectories) -> np.ndarray:
    """The effect in the profile of the cells' means."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CiteVAEWarning)
        cells = posterior.predict([cv.do(), label], cells=controls, draws=50, time=3)
    of = [cells.layers["mean"][cells.obs["perturbation"] == one].astype(float) for one in ("control", label)]
    if controls.schema.values == "real":
        return of[1].mean(0) - of[0].mean(0)
    return np.diff([pseudobulk.profile(one.sum(0), controls.schema.panel_total) for one in of], axis=0)[0]


@pytest.mark.parametrize("label", [MEASURED, ELSEWHEN])
def test_predicted_cells_have_the_corrected_effect(
    posterior: cv.Posterior, program: cv.Posterior, data: cv.Trajectories, label: str
) -> None:
    """By how much the program's cells are moved; the profile of mean draws is not quite the mean profile."""
    wanted, raw = (effect(p, label).mean("draw")[0, 0, 0].to_numpy() for p in (posterior, program))
    gained = of_cells(posterior, label, data.controls()) - of_cells(program, label, data.controls())
    np.testing.assert_allclose(gained, wanted - raw, atol=0.2 * np.abs(wanted - raw).max())
    assert np.corrcoef(gained, wanted - raw)[0, 1] > 0.98


@pytest.mark.parametrize("label", EVERY)
def test_predicted_real_values_have_exactly_the_corrected_effect(real: cv.Posterior, label: str) -> None:
    """A mean of means is no more than that; in single precision."""
    controls, program = training(made("real")).controls(), replace(real, discrepancy=None)
    wanted, raw = (effect(p, label).mean("draw")[0, 0, 0].to_numpy() for p in (real, program))
    gained = of_cells(real, label, controls) - of_cells(program, label, controls)
    np.testing.assert_allclose(gained, wanted - raw, atol=1e-4)


def test_the_summaries_of_cells_are_of_the_moved_law(posterior: cv.Posterior, data: cv.Trajectories) -> None:
    cells = posterior.predict(MEASURED, cells=data.controls(), draws=200, time=3)
    mean, sd, drawn = cells.layers["mean"], cells.layers["sd"], cells.X.toarray()
    assert (np.rint(drawn) == drawn).all()
    # 200 draws of each of so many cells: their means are known within a few of their standard errors
    error = (drawn - mean).mean(0) / np.sqrt((sd**2).sum(0)) * len(drawn)
    assert np.abs(error).max() < 6
    assert (cells.layers["q05"] <= cells.layers["q95"]).all()


def test_predicted_controls_are_the_programs(
    posterior: cv.Posterior, program: cv.Posterior, data: cv.Trajectories
) -> None:
    one, raw = (p.predict(cv.do(), cells=data.controls(), draws=5, time=3) for p in (posterior, program))
    np.testing.assert_allclose(one.layers["mean"], raw.layers["mean"], rtol=1e-5)


# none


def test_a_fit_that_sees_all_cells_has_none_and_the_programs_own_effects(data: cv.Trajectories) -> None:
    posterior = fitted(data, validation=0.0, max_epochs=2)
    assert posterior.discrepancy is None
    assert "discrepancy" not in posterior.to_datatree(draws=2).children
    schedules = [cv.do(MEASURED), cv.do("gene_1"), cv.do()]
    levels = Counterfactuals(posterior.members, schedules, [3.0], 50, 0).pseudobulk(None)
    np.testing.assert_array_equal(
        effect(posterior, [MEASURED, "gene_1"]), np.moveaxis(levels[:-1] - levels[-1:], 0, 2)
    )


def test_too_few_groups_give_none() -> None:
    data = simulated("snapshot", n_perturbations=1, n_cells=80)
    assert fitted(data, max_epochs=1).discrepancy is None
    more = simulated("snapshot", n_perturbations=2, n_cells=80)
    assert fitted(more, max_epochs=1).discrepancy is not None


@pytest.mark.parametrize("n_perturbations", [1, 2, 3])
def test_a_screen_of_few_tokens_has_no_forecast_of_others(n_perturbations: int) -> None:
    data = simulated(n_perturbations=n_perturbations, n_cells=80)
    posterior = fitted(data, max_epochs=1)
    assert np.isfinite(effect(posterior, "gene_0")).all()
    left = known(posterior).left_out
    # of three, each is left out in turn, and nothing is believed of its forecast
    assert len(left.tokens) == (3 if n_perturbations == 3 else 0)
    np.testing.assert_array_equal(left.shares, 0.0)


# storage


def same(one: Discrepancy, other: Discrepancy) -> None:
    xr.testing.assert_identical(one.to_dataset(), other.to_dataset())
    assert (one.labels, one.schema, one.scales) == (other.labels, other.schema, other.scales)


def test_a_dataset_gives_it_back(posterior: cv.Posterior) -> None:
    found = known(posterior)
    same(Discrepancy.from_dataset(found.to_dataset(), found.schema), found)


def test_a_run_gives_it_back_with_equal_effects(posterior: cv.Posterior, tmp_path: Path) -> None:
    posterior.save(tmp_path / "run")
    loaded = cv.load(tmp_path / "run")
    same(known(loaded), known(posterior))
    np.testing.assert_array_equal(effect(loaded, EVERY), effect(posterior, EVERY))
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again/run.json").read_bytes() == (tmp_path / "run/run.json").read_bytes()


@pytest.mark.parametrize("damage", ["missing", "cut", "another"])
def test_a_damaged_file_is_named(posterior: cv.Posterior, tmp_path: Path, damage: str) -> None:
    posterior.save(tmp_path / "run")
    file = tmp_path / "run/discrepancy.nc"
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:300])
    else:
        xr.Dataset({"x": 1.0}).to_netcdf(file, engine="h5netcdf")
    with pytest.raises(RunError, match=r"discrepancy.nc.*fit it again"):
        cv.load(tmp_path / "run")


def test_a_run_of_a_fit_that_held_nothing_back_has_no_file(data: cv.Trajectories, tmp_path: Path) -> None:
    fitted(data, validation=0.0, max_epochs=1).save(tmp_path / "run")
    assert not (tmp_path / "run/discrepancy.nc").exists()
    assert cv.load(tmp_path / "run").discrepancy is None


def test_the_export_has_a_group_of_it(posterior: cv.Posterior, tmp_path: Path) -> None:
    tree = posterior.to_datatree(draws=2)
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    stored = xr.open_datatree(tmp_path / "tree.nc", engine="h5netcdf")["discrepancy"].to_dataset().load()
    found = known(posterior)
    assert stored["shift"].dims == ("chain", "group", "gene")
    assert stored["perturbation"].values.tolist() == list(found.labels)
    assert stored["gene"].values.tolist() == list(found.schema.genes)
    np.testing.assert_array_equal(stored["effect"][0], found.effect)
    assert stored["carried"].item() == found.scales.carried


def test_some_genes_of_it_are_those_genes(posterior: cv.Posterior) -> None:
    genes = np.array([7, 1, 4])
    part, whole = known(posterior).on(genes), known(posterior)
    assert part.schema.genes == tuple(whole.schema.genes[g] for g in genes)
    np.testing.assert_array_equal(part.shift, whole.shift[:, genes])
    np.testing.assert_array_equal(part.left_out.residual, whole.left_out.residual[..., genes])
    assert whole.on(slice(None)) is whole


# whatever the program


def variants() -> dict[str, Any]:
    return {
        "own variant": ("counts", lambda schema: Counts(schema), MeanField),
        "linear Gaussian": ("real", lambda schema: LinearGaussian(schema, n_programs=2), MeanField),
        "real values": ("real", lambda schema: CiteVAE(schema, n_programs=2, hidden=4), BackwardSmoother),
    }


@pytest.mark.parametrize("name", sorted(variants()))
def test_every_program_is_corrected(name: str) -> None:
    values, make, guide = variants()[name]
    data = training(made(values))
    model = make(data.schema)
    options = {"max_epochs": 2, "batch_size": 64, "progress": False}
    posterior = cv.fit(model, guide(model, hidden=4), data, **options)
    found = known(posterior)
    draws = effect(posterior, EVERY)
    assert np.isfinite(draws).all()
    i, c = found.position(MEASURED, 3.0), found.position("control", 3.0)
    np.testing.assert_allclose(
        draws.sel(perturbation=MEASURED).mean("draw")[0, 0], found.effect[i], atol=1e-9
    )
    variance = found.sd[i] ** 2 + found.sd[c] ** 2
    # where the program has no spread of its own, draws of a normal stand in: 50 of them
    np.testing.assert_allclose(draws.sel(perturbation=MEASURED).var("draw")[0, 0], variance, rtol=0.8)
    cells = posterior.predict([cv.do(), MEASURED], cells=data.controls(), draws=20, time=3)
    raw = replace(posterior, discrepancy=None).predict(
        [cv.do(), MEASURED], cells=data.controls(), draws=20, time=3
    )
    perturbed = (cells.obs["perturbation"] == MEASURED).to_numpy()
    assert np.abs(cells.layers["mean"] - raw.layers["mean"])[perturbed].max() > 0.01


def test_members_of_an_ensemble_are_corrected_each_by_its_own(data: cv.Trajectories) -> None:
    members = [fitted(data, seed=seed, max_epochs=2) for seed in range(2)]
    together = cv.Ensemble(members)
    found = effect(together, [MEASURED, NEW])
    for chain, one in enumerate(members):
        i = known(one).position(MEASURED, 3.0)
        np.testing.assert_allclose(found[chain, :, 0, 0].mean("draw"), known(one).effect[i], atol=1e-10)
    np.testing.assert_array_equal(found[0], effect(members[0], [MEASURED, NEW])[0])
    assert np.isfinite(found).all()
    exported = together.to_datatree(draws=2)["discrepancy"]
    assert exported["carried"].to_numpy().tolist() == [known(one).scales.carried for one in members]
    for chain, one in enumerate(members):
        np.testing.assert_array_equal(exported["effect"][chain], known(one).effect)


def test_an_ensemble_of_which_one_member_held_nothing_back_corrects_the_other(data: cv.Trajectories) -> None:
    members = [
        fitted(data, seed=seed, max_epochs=2, validation=share) for seed, share in ((0, 0.25), (1, 0.0))
    ]
    together = cv.Ensemble(members)
    found, raw = (
        effect(together, MEASURED),
        effect(cv.Ensemble([replace(one, discrepancy=None) for one in members]), MEASURED),
    )
    np.testing.assert_array_equal(found[1], raw[1])
    assert (found[0].to_numpy() != raw[0].to_numpy()).all()
    cells = together.predict(MEASURED, cells=data.controls().thinned(20), draws=5, time=3)
    assert np.isfinite(cells.layers["mean"]).all()
    assert np.isfinite(effect(together, MEASURED, data)).all()
    assert together.to_datatree(draws=2)["posterior"].sizes["chain"] == 2


def test_controls_of_a_time_that_the_fit_has_not_seen_show_their_error_by_the_program(
    data: cv.Trajectories,
) -> None:
    """What is stored says nothing of such a time."""
    less = data.rows(~((data.row_labels == "control") & (data.row_times == 3)))
    one = fitted(less, max_epochs=1)
    assert known(one).position("control", 3.0) is None
    found = effect(one, MEASURED, data, time=3.0)
    raw = effect(replace(one, discrepancy=None), MEASURED, data, time=3.0)
    plain = effect(one, MEASURED, time=3.0), effect(replace(one, discrepancy=None), MEASURED, time=3.0)
    np.testing.assert_allclose(found - plain[0], raw - plain[1], atol=1e-10)


def test_a_dose_of_nearly_nothing_misses_nearly_nothing(posterior: cv.Posterior) -> None:
    spread = {one: float(effect(posterior, f"gene_1*{one}").std("draw").max()) for one in (0.001, 0.5)}
    assert spread[0.001] < 0.1 * spread[0.5]


def test_a_screen_that_is_too_large_for_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_citevae.infer.discrepancy._MOST_VALUES", 10)
    data = training(made("counts"))
    with pytest.warns(CiteVAEWarning, match="too many to learn how far the program is off"):
        assert fitted(data, max_epochs=2).discrepancy is None
