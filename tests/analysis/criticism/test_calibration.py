"""Calibration: bands, coverage, probability integral transforms, and ranks under simulation."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from known_programs import (
    TRAINING,
    Counts,
    Mean,
    TooNarrow,
    drawn_from,
    known,
    linear_gaussian,
    screen,
    smoothed,
)
from scipy import stats

import pyro_citevae as cv
from pyro_citevae.analysis import (
    Measurement,
    coverage,
    ecdf_band,
    measured_effects,
    quantities,
    randomised_pit,
    simulation_based_calibration,
    uniform,
)
from pyro_citevae.analysis.criticism import plots, replication
from pyro_citevae.analysis.criticism.uniformity import ecdf
from pyro_citevae.errors import DataError, FitError
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.models import LinearGaussian

# Uniformity ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [20, 100, 1000])
@pytest.mark.parametrize("probability", [0.9, 0.99])
def test_the_band_holds_the_whole_ecdf_as_often_as_it_says(n: int, probability: float) -> None:
    drawn = xr.DataArray(np.random.default_rng(n).random((n, 2000)), dims=("draw", "which"))
    share, band = ecdf(drawn, "draw"), ecdf_band(n, probability=probability)
    inside = ((share >= band.sel(bound="lower")) & (share <= band.sel(bound="upper"))).all("value")
    error = np.sqrt(probability * (1 - probability) / 2000)
    # the count of values is discrete, so the band of few values may hold a little more often
    assert probability - 4 * error <= float(inside.mean()) <= probability + 4 * error + 0.03 / np.sqrt(n)
    assert (inside == uniform(drawn, "draw", probability=probability).inside).all()


def test_the_band_is_where_the_binomial_of_one_point_would_put_it_or_wider() -> None:
    band = ecdf_band(200).sel(value=0.3)
    lower, upper = stats.binom.interval(0.99, 200, 0.3)
    assert float(band.sel(bound="lower")) * 200 <= lower
    assert float(band.sel(bound="upper")) * 200 >= upper


def test_p_values_of_uniform_values_are_uniform_and_others_are_small() -> None:
    rng = np.random.default_rng(3)
    drawn = xr.DataArray(rng.random((150, 1000)), dims=("draw", "which"))
    p = uniform(drawn, "draw").p_value
    assert 0.07 < float((p < 0.1).mean()) < 0.13
    assert float(uniform(drawn**2, "draw").p_value.max()) < 0.01
    found = uniform(xr.DataArray([0.1, 0.1, 0.1, 0.9], dims="draw"), "draw")
    assert found.distance.item() == pytest.approx(0.75 - 0.11)


@pytest.mark.parametrize("values", [[0.2, 1.2], [0.2, -0.1], [0.2, np.nan], []])
def test_values_that_are_no_shares_are_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match="takes values between 0 and 1"):
        uniform(xr.DataArray(np.array(values), dims="draw"), "draw")


@pytest.mark.parametrize(("n", "probability"), [(0, 0.99), (10, 1.0), (10, 0.0)])
def test_a_band_of_nothing_is_refused(n: int, probability: float) -> None:
    with pytest.raises(DataError, match="ecdf_band"):
        ecdf_band(n, probability=probability)


# Coverage -----------------------------------------------------------------------------------------------

GENES = 20_000


def gaussian(sd: float = 1.0, n_draws: int = 100) -> tuple[xr.DataArray, xr.DataArray]:
    """Predictive draws of standard deviation sd, and true values of standard deviation 1."""
    rng = np.random.default_rng(1)
    draws = xr.DataArray(sd * rng.normal(size=(2, n_draws // 2, GENES)), dims=("chain", "draw", "gene"))
    return draws, xr.DataArray(rng.normal(size=GENES), dims="gene")


def test_exact_draws_cover_at_every_nominal_rate_with_the_exact_width() -> None:
    found = coverage(*gaussian())
    assert float(abs(found.coverage - found.probability).max()) < 4 * 0.5 / np.sqrt(GENES)
    width = 2 * stats.norm.ppf((1 + found.probability) / 2)
    np.testing.assert_allclose(found.width, width, rtol=0.05)  # 100 draws lie beyond by O(1 / 100)


def test_draws_that_are_too_narrow_cover_too_little_and_those_too_wide_too_much() -> None:
    narrow, wide = (coverage(*gaussian(sd), probability=[0.5, 0.8]).coverage for sd in (0.5, 2.0))
    assert (narrow < [0.3, 0.55]).all()
    assert (wide > [0.75, 0.95]).all()


@pytest.mark.parametrize("probability", [0.5, 0.8, 0.9])
def test_sampling_variance_is_added_to_the_draws(probability: float) -> None:
    draws, truth = gaussian()
    variance = xr.full_like(truth, 0.5)
    noisy = truth + np.sqrt(0.5) * np.random.default_rng(2).normal(size=GENES)
    found = coverage(draws, noisy, variance=variance, probability=probability).coverage
    assert float(found) == pytest.approx(probability, abs=0.015)
    assert float(coverage(draws, noisy, probability=probability).coverage) < probability - 0.05


def test_coverage_keeps_the_dims_it_is_asked_for_and_leaves_out_what_is_unknown() -> None:
    draws, truth = gaussian()
    draws = xr.concat([draws, 0.3 * draws], "perturbation")
    truth = truth.where(truth.gene < 10_000) if "gene" in truth.coords else truth.copy()
    truth[10_000:] = np.nan
    both = xr.concat([truth, truth], "perturbation")
    found = coverage(draws, both, probability=0.8, by=["perturbation"]).coverage
    assert found.dims == ("perturbation",)
    assert found.to_numpy() == pytest.approx([0.8, 0.3], abs=0.02)


def test_a_single_draw_claims_no_interval() -> None:
    draws = xr.DataArray(np.zeros((1, 1, 5)), dims=("chain", "draw", "gene"))
    found = coverage(draws, xr.DataArray(np.ones(5), dims="gene"), probability=0.8)
    assert np.isnan(found.coverage.item())
    assert np.isnan(found.width.item())


@pytest.mark.parametrize(
    ("draws", "truth", "probability", "message"),
    [
        (("chain", "draw", "gene"), np.ones(3), 1.0, "must lie between 0 and 1"),
        (("chain", "draw", "gene"), np.ones(3), [0.5, 0.0], "must lie between 0 and 1"),
        (("chain", "sample", "gene"), np.ones(3), 0.5, "needs draws with dims"),
        (("chain", "draw", "gene"), np.full(3, np.nan), 0.5, "a value that counts"),
    ],
)
def test_what_cannot_be_covered_is_refused(
    draws: tuple[str, ...], truth: np.ndarray, probability: float, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        coverage(
            xr.DataArray(np.zeros((1, 4, 3)), dims=draws),
            xr.DataArray(truth, dims="gene"),
            probability=probability,
        )


def test_measured_effects_stand_side_by_side_without_the_perturbed_gene() -> None:
    keep = np.array([False, True])
    one = Measurement("A", 1.0, np.array([5.0, 1.0]), np.array([0.1, 0.2]), keep, 0.5)
    two = Measurement("B", 2.0, np.array([2.0, 3.0]), np.array([0.3, 0.4]), ~keep, 0.5)
    found = measured_effects([one, two], ["A", "B"])
    assert found.effect.dims == ("perturbation", "time", "gene")
    assert found.effect.sel(perturbation="A", time=1.0, gene="B").item() == 1.0
    assert found.variance.sel(perturbation="B", time=2.0, gene="A").item() == pytest.approx(0.3)
    assert int(found.effect.notnull().sum()) == 2


# Probability integral transform -------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["snapshot", "time course", "sequences"])
@pytest.mark.parametrize("draws", [3, 100])
def test_transforms_are_uniform_under_the_true_model_for_few_draws_and_many(layout: str, draws: int) -> None:
    design = screen(layout)
    model = Counts(design.schema)
    pit = randomised_pit(known(model), drawn_from(model, design), draws=draws)
    assert pit.dims == ("cell", "gene")
    assert pit.sizes["cell"] == design.n_observations
    if layout == "sequences":  # the rows of a cell depend on each other
        pit = pit.isel(cell=design.row_step == 2)
    assert bool(uniform(pit, "cell", probability=0.999).inside.all())


@pytest.mark.parametrize("theta", [0.8, 30.0])
def test_transforms_are_not_uniform_when_the_dispersion_is_wrong(theta: float) -> None:
    design = screen()
    pit = randomised_pit(known(Counts(design.schema, theta=theta)), drawn_from(Counts(design.schema), design))
    verdict = uniform(pit, "cell")
    assert float(verdict.inside.mean()) < 0.3
    # too little dispersion piles the transforms up at the ends, too much in the middle
    ends = float(((pit < 0.1) | (pit > 0.9)).mean())
    assert ends > 0.25 if theta > 3 else ends < 0.17


def test_transforms_do_not_depend_on_the_blocks() -> None:
    design = screen()
    model = Counts(design.schema)
    data = drawn_from(model, design)
    few = {"most_values": 8 * 4 * 3 * 7}  # 7 draws of at most 12 cells at once
    blocks = list(replication.replicates(known(model), data, draws=20, **few))
    assert {block.draws.stop - block.draws.start for block in blocks} == {7, 6}
    assert max(len(block.x[0]) for block in blocks) == 12
    pit = randomised_pit(known(model), data, draws=10, **few)
    assert bool(uniform(pit, "cell", probability=0.999).inside.all())


def test_many_cells_are_thinned_and_rows_are_named() -> None:
    design = screen("sequences")
    model = Counts(design.schema)
    pit = randomised_pit(known(model), drawn_from(model, design), draws=5, most_cells=10)
    assert pit.sizes["cell"] == 30
    assert str(pit.cell.to_numpy()[1]).endswith("@2")
    assert set(pit.perturbation.to_numpy()) <= {"control", "gene_0", "gene_1", "gene_2"}


def test_the_same_seed_gives_the_same_transforms_and_leaves_the_random_state_alone() -> None:
    design = screen()
    posterior = known(Counts(design.schema))
    state = torch.random.get_rng_state()
    one, two, other = (randomised_pit(posterior, design, draws=5, seed=seed) for seed in (0, 0, 1))
    assert (one == two).all()
    assert not (one == other).all()
    assert torch.equal(state, torch.random.get_rng_state())


# Simulation-based calibration ---------------------------------------------------------------------------

REFRESH = {**TRAINING, "max_epochs": 1, "learning_rate": 1e-3}
TRAINED = {"max_epochs": 1, "warm_start": True}


class Blind(MeanField):
    """Draws from the prior, whatever was observed."""

    def states(
        self, batch: cv.data.Batch, summary: torch.Tensor, s: torch.Tensor, drawn: dict[str, torch.Tensor]
    ) -> None:
        model = self.model
        unread = dist.Normal(torch.zeros(2) + 0 * summary.sum(), 1.0).to_event(
            1
        )  # so that there is a gradient
        z = [self.state(0, unread, batch)]
        for t in range(1, batch.n_steps + 1):
            z.append(self.state(t, model.transition(model.mechanism(), z, batch.u[t]), batch))


@pytest.fixture(scope="module")
def design() -> cv.Trajectories:
    return screen("sequences", "real", n_cells=100)


@pytest.fixture(scope="module")
def trained(design: cv.Trajectories) -> cv.Posterior:
    return smoothed(design)


def test_an_exact_posterior_has_uniform_ranks(trained: cv.Posterior, design: cv.Trajectories) -> None:
    found = simulation_based_calibration(
        trained.model, trained.guide, design, replicates=100, first=TRAINED, **REFRESH
    )
    verdict = uniform(quantities(found), "draw")
    assert bool(verdict.inside.all()), verdict.to_dataframe()
    assert found["ranks"]["z"].sizes == {"replicate": 100, "time": 4, "program": 2}
    assert int(found["ranks"]["z"].min()) >= 0
    assert int(found["ranks"]["z"].max()) <= 99
    # ranks and their uniform scale say the same
    scaled = found["prior_sbc"]["z"].isel(chain=0).transpose("draw", ...).to_numpy()
    assert (np.floor(scaled * 100) == found["ranks"]["z"].transpose("replicate", ...).to_numpy()).all()


def test_a_posterior_that_is_too_narrow_is_caught(trained: cv.Posterior, design: cv.Trajectories) -> None:
    guide = TooNarrow(trained.model, hidden=16, correction=0)
    guide.load_state_dict(trained.guide.state_dict())
    found = simulation_based_calibration(
        trained.model, guide, design, replicates=60, first=TRAINED, **REFRESH
    )
    verdict = uniform(quantities(found), "draw")
    assert float(verdict.inside.mean()) < 0.2
    scaled = quantities(found)
    assert float(((scaled < 0.1) | (scaled > 0.9)).mean()) > 0.4


def test_a_guide_that_has_not_looked_is_caught_by_the_likelihood_alone(design: cv.Trajectories) -> None:
    model = linear_gaussian(design)
    found = simulation_based_calibration(
        model, Blind(model, hidden=4), design, replicates=30, first={"max_epochs": 1}, **REFRESH
    )
    verdict = uniform(quantities(found), "draw", probability=0.999)
    states = verdict.quantity.str.startswith("z[")
    assert bool(verdict.inside[states].all())
    assert not bool(verdict.inside.sel(quantity="log_likelihood"))


class Watched(LinearGaussian):
    """Notes the parameters that it ran with."""

    watched: ClassVar[set[float]] = set()

    def forward(self, batch: cv.data.Batch) -> cv.program.Rollout:
        self.watched.add(self.loading.weight.sum().item())
        return super().forward(batch)


def test_the_model_stays_as_it_is_through_all_fits(design: cv.Trajectories) -> None:
    model = Watched(design.schema, n_programs=2)
    settings = {**REFRESH, "learning_rate": 0.5}
    simulation_based_calibration(
        model, MeanField(model, hidden=4), design, replicates=2, first={"max_epochs": 3}, **settings
    )
    assert model.watched == {model.loading.weight.sum().item()}


def ranked_mean(replicates: int, epochs: int) -> xr.DataTree:
    design = cv.simulate(
        n_cells=5, n_genes=3, n_perturbations=1, n_steps=1, design="snapshot", values="real"
    ).data
    model = Mean(design.schema)
    return simulation_based_calibration(
        model,
        BackwardSmoother(model, hidden=4, correction=0),
        design,
        replicates=replicates,
        first={"max_epochs": epochs},
        **{**REFRESH, "max_epochs": epochs, "learning_rate": 0.1, "n_particles": 4},
    )


def test_global_sites_and_invariant_states_are_ranked_by_name() -> None:
    found = ranked_mean(replicates=2, epochs=1)
    assert found["ranks"]["m"].dims == ("replicate", "gene")
    assert list(quantities(found).quantity.to_numpy()) == [
        "m[gene_0]", "m[gene_1]", "m[gene_2]", "z[0.0, program_0]", "z[1.0, program_0]", "s[invariant_0]",
        "log_likelihood",
    ]  # fmt: skip


@pytest.mark.slow
def test_global_sites_have_uniform_ranks_when_each_data_set_is_fitted_anew() -> None:
    verdict = uniform(quantities(ranked_mean(replicates=50, epochs=60)), "draw")
    assert bool(verdict.inside.all()), verdict.p_value.to_series()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"replicates": 0}, DataError, "needs a replicate"),
        ({"draws": 0}, DataError, "needs a replicate, a draw"),
        ({"sites": ["W"]}, DataError, "names 'W', no global site"),
        ({"epochs": 3}, FitError, "is not a setting"),
    ],
)
def test_calibration_refuses_what_it_cannot_do(
    design: cv.Trajectories, options: dict, error: type[Exception], message: str
) -> None:
    model = linear_gaussian(design)
    with pytest.raises(error, match=message):
        simulation_based_calibration(model, MeanField(model, hidden=4), design, progress=False, **options)


# Pictures -----------------------------------------------------------------------------------------------


def test_the_pictures_say_what_was_found() -> None:
    rng = np.random.default_rng(0)
    pit = xr.DataArray(rng.random((300, 6)) ** [1, 1, 1, 1, 1, 2], dims=("cell", "gene"))
    figure = plots.pit(pit.assign_coords(gene=list("abcdef")))
    left, right = figure.axes
    assert right.get_title() == "5 of 6 inside the 99% band (n = 300)"
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["f"]
    assert len(left.patches) == 20
    scaled = xr.DataArray(rng.random((3, 90)), dims=("quantity", "draw"), coords={"quantity": list("abc")})
    (axis,) = plots.ecdf_differences(scaled).axes
    assert axis.get_title().startswith("3 of 3")
    draws, truth = gaussian()
    found = coverage(draws, truth)
    one, two = plots.calibration(found, unit="log").axes
    np.testing.assert_allclose(one.lines[1].get_ydata(), found.coverage)
    assert two.get_ylabel() == "mean width (log)"
