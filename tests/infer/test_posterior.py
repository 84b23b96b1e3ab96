"""Fit, predict, save and export: the laws of a posterior."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from edited_runs import edited
from scipy import sparse

import pyro_citevae as cv
from pyro_citevae.data import Trajectories
from pyro_citevae.data.anndata_io import layer_names
from pyro_citevae.errors import DataError, FitError, ModelError, RunError, ScheduleError
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.models import CiteVAE, StaticShift

QUICK = {"max_epochs": 12, "batch_size": 64, "progress": False, "validate": True}


def simulated(seed: int = 0, **options: object) -> Trajectories:
    return cv.simulate(
        n_cells=400, n_genes=12, n_programs=2, n_perturbations=3, n_steps=3, seed=seed, **options
    ).data


def fitted(data: Trajectories, seed: int = 0, **options: object) -> cv.Posterior:
    model = CiteVAE(data.schema, n_programs=2, n_invariant=2, hidden=8, direct=True)
    return cv.fit(model, BackwardSmoother(model, hidden=16), data, seed=seed, **{**QUICK, **options})


@pytest.fixture(scope="module")
def data() -> Trajectories:
    return simulated()


@pytest.fixture(scope="module")
def split(data: Trajectories) -> tuple[Trajectories, Trajectories]:
    return data.hold_out(times=[3])


@pytest.fixture(scope="module")
def posterior(split: tuple[Trajectories, Trajectories]) -> cv.Posterior:
    return fitted(split[0])


def weights(posterior: cv.Posterior) -> dict[str, torch.Tensor]:
    return {**posterior.model.state_dict(prefix="m."), **posterior.guide.state_dict(prefix="g.")}


def test_training_raises_the_bound(posterior: cv.Posterior) -> None:
    assert posterior.history["training"].iloc[-1] > posterior.history["training"].iloc[0] + 1
    assert np.isfinite(posterior.history.to_numpy()).all()


def test_the_same_seed_gives_the_same_weights_whatever_ran_before(
    posterior: cv.Posterior, split: tuple[Trajectories, Trajectories]
) -> None:
    torch.manual_seed(99)
    torch.randn(7)
    again = fitted(split[0])
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(posterior).items())


def test_another_seed_gives_other_weights(
    posterior: cv.Posterior, split: tuple[Trajectories, Trajectories]
) -> None:
    other = fitted(split[0], seed=1, max_epochs=1)
    assert any(not torch.equal(value, weights(other)[name]) for name, value in weights(posterior).items())


def test_fit_leaves_the_model_the_guide_and_the_random_state_alone(split: tuple) -> None:
    model = CiteVAE(split[0].schema, n_programs=2, hidden=8)
    guide = BackwardSmoother(model, hidden=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    cv.fit(model, guide, split[0], **{**QUICK, "max_epochs": 1})
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_warm_start_goes_on_from_the_weights(posterior: cv.Posterior, split: tuple) -> None:
    on = cv.fit(
        posterior.model, posterior.guide, split[0], warm_start=True, kl_start=1.0, learning_rate=1e-4,
        **{**QUICK, "max_epochs": 1},
    )  # fmt: skip
    assert on.history["training"].iloc[0] > posterior.history["training"].iloc[0] + 1


def test_a_loaded_posterior_is_trained_on_like_the_one_that_was_saved(
    posterior: cv.Posterior, split: tuple, tmp_path: Path
) -> None:
    posterior.save(tmp_path / "run")
    one, two = (
        cv.fit(start.model, start.guide, split[0], warm_start=True, **{**QUICK, "max_epochs": 1})
        for start in (posterior, cv.load(tmp_path / "run"))
    )
    assert all(torch.equal(value, weights(two)[name]) for name, value in weights(one).items())


def test_early_stopping_ends_a_run_that_no_longer_improves(split: tuple) -> None:
    stopped = fitted(split[0], max_epochs=60, patience=1, validation=0.3, learning_rate=0.05)
    assert len(stopped.history) < 60


def test_saving_and_loading_gives_equal_predictions_and_equal_bytes(
    posterior: cv.Posterior, split: tuple, tmp_path: Path
) -> None:
    posterior.save(tmp_path / "run")
    loaded = cv.load(tmp_path / "run")
    loaded.save(tmp_path / "again")
    for name in ("model.safetensors", "run.json", "split.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    cells = split[0].controls()
    one, two = (p.predict(cv.do("gene_1"), cells=cells, draws=5, time=3) for p in (posterior, loaded))
    assert (one.X != two.X).nnz == 0
    assert all(np.array_equal(one.layers[name], two.layers[name]) for name in layer_names(one))
    assert np.array_equal(posterior.effect(cv.do("gene_1"), draws=5), loaded.effect(cv.do("gene_1"), draws=5))
    assert loaded.split == posterior.split


def test_a_run_holds_no_pickle_and_says_what_made_it(posterior: cv.Posterior, tmp_path: Path) -> None:
    posterior.save(tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "README.md",
        "model.safetensors",
        "run.json",
        "history.parquet",
        "split.json",
        "discrepancy.nc",
    }
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["model"]["class"] == "pyro_citevae.models.citevae:CiteVAE"
    assert record["model"]["settings"]["n_programs"] == 2
    assert record["settings"]["max_epochs"] == 12
    assert record["versions"]["torch"]


def test_predicted_cells_are_integer_counts_with_named_rows(posterior: cv.Posterior, split: tuple) -> None:
    cells = split[0].controls()
    made = posterior.predict([cv.do(), cv.do("gene_0")], cells=cells, draws=40, time=[2, 3])
    assert made.shape == (2 * 2 * cells.n_cells, 12)
    assert (made.X.data == np.rint(made.X.data)).all()
    assert (made.X.data >= 0).all()
    assert list(made.var_names) == list(split[0].schema.genes)
    assert set(made.obs["perturbation"]) == {"control", "gene_0"}
    assert set(made.obs["time"]) == {2.0, 3.0}
    assert set(made.obs["source_cell"]) == set(cells.names)
    assert (made.layers["q05"] <= made.layers["q95"]).all()
    assert (made.layers["sd"] > 0).all()


def test_summaries_agree_with_the_draws_spread(posterior: cv.Posterior, split: tuple) -> None:
    cells = split[0].controls()
    made = posterior.predict(cv.do("gene_0"), cells=cells, draws=200, time=3)
    # each entry of X is one draw of the law that mean and sd describe: pool the standardised values
    z = (made.X.toarray() - made.layers["mean"]) / made.layers["sd"]
    assert abs(z.mean()) < 5 / np.sqrt(cells.n_cells)
    assert 0.7 < z.std() < 1.3
    inside = (made.X.toarray() >= made.layers["q05"]) & (made.X.toarray() <= made.layers["q95"])
    assert 0.85 < inside.mean() <= 1


def test_prediction_does_not_depend_on_how_cells_are_chunked(posterior: cv.Posterior, split: tuple) -> None:
    cells = split[0].controls()
    whole = posterior.effect(cv.do("gene_0"), cells=cells, draws=30, time=3).mean("draw")
    few = {"most_values": 30 * 12 * 20}
    parts = posterior.effect(cv.do("gene_0"), cells=cells, draws=30, time=3, **few).mean("draw")
    assert float(abs(whole - parts).max()) < 0.1


def test_the_control_against_itself_has_no_effect(posterior: cv.Posterior) -> None:
    assert float(abs(posterior.effect(cv.do(), versus=cv.do(), draws=5)).max()) == 0


def test_an_effect_and_its_reverse_are_opposite_draw_by_draw(posterior: cv.Posterior) -> None:
    there = posterior.effect(cv.do("gene_0"), versus=cv.do("gene_1"), draws=5)
    back = posterior.effect(cv.do("gene_1"), versus=cv.do("gene_0"), draws=5)
    np.testing.assert_allclose(there.to_numpy(), -back.to_numpy(), atol=1e-6)


def test_pairing_makes_an_effect_less_variable_than_unpaired_draws(posterior: cv.Posterior) -> None:
    paired = posterior.effect(cv.do("gene_0"), draws=50).std("draw").mean()
    profiles = [posterior.effect(cv.do("gene_0"), versus=cv.do(), draws=50, seed=seed) for seed in (0, 1)]
    assert float(paired) < float((profiles[0] - profiles[1].assign_coords(draw=range(50))).std("draw").mean())


def test_an_effect_has_named_dims_and_an_interval(posterior: cv.Posterior) -> None:
    effect = posterior.effect([cv.do("gene_0"), cv.do("gene_0+gene_2")], draws=20, time=[1, 3])
    assert isinstance(effect, xr.DataArray)
    assert effect.dims == ("chain", "draw", "perturbation", "time", "gene")
    assert effect.shape == (1, 20, 2, 2, 12)
    assert list(effect.perturbation.to_numpy()) == ["gene_0", "gene_0+gene_2"]
    interval = effect.interval(0.8)
    assert (interval.sel(bound="lower") <= interval.sel(bound="upper")).all()


def test_a_later_time_than_any_seen_is_reached_by_rolling_on(posterior: cv.Posterior) -> None:
    effect = posterior.effect(cv.do("gene_0"), draws=5, time=[3, 6])
    assert np.isfinite(effect).all()
    assert float(abs(effect.sel(time=6) - effect.sel(time=3)).max()) > 0


def test_a_dose_that_starts_late_acts_late(posterior: cv.Posterior) -> None:
    late = posterior.effect(cv.do("gene_0", at=2), draws=5, time=[2, 3])
    assert float(abs(late.sel(time=2)).max()) < 1e-6
    assert float(abs(late.sel(time=3)).max()) > 1e-3


def test_a_fit_finds_the_direction_of_simulated_effects() -> None:
    data = simulated(effect=2.0)
    posterior = fitted(data, max_epochs=30)
    from pyro_citevae.analysis import measure

    found = [
        np.corrcoef(
            posterior.effect(cv.do(name), time=3, draws=50).mean(("chain", "draw")).to_numpy().ravel(),
            measure(data, name, 3.0).delta,
        )[0, 1]
        for name in data.perturbations()
    ]
    assert np.mean(found) > 0.8


def test_held_out_cells_cannot_reach_a_prediction(data: Trajectories, split: tuple) -> None:
    """Changing every held-out count leaves training, abduction and prediction bit for bit as they were."""
    from dataclasses import replace

    rows = data.row_step == 3
    values = data.values.toarray()
    values[rows] = values[rows][:, ::-1] + 5

    changed = replace(data, values=sparse.csr_matrix(values))
    other = fitted(changed.hold_out(times=[3])[0], max_epochs=1)
    same = fitted(split[0], max_epochs=1)
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(same).items())
    one, two = (p.predict(cv.do("gene_0"), cells=split[0].controls(), draws=3, time=3) for p in (same, other))
    assert np.array_equal(one.layers["mean"], two.layers["mean"])


def test_programs_start_together_and_part_under_a_dose(posterior: cv.Posterior) -> None:
    states = posterior.programs([cv.do(), cv.do("gene_0")], draws=10)
    assert states.dims == ("chain", "draw", "perturbation", "time", "program")
    apart = abs(states.sel(perturbation="gene_0") - states.sel(perturbation="control"))
    assert float(apart.sel(time=0).max()) == 0
    assert float(apart.sel(time=3).max()) > 0


class TestDataTree:
    """Groups, dims and storage."""

    def test_groups_dims_and_coords(self, posterior: cv.Posterior, split: tuple) -> None:
        tree = posterior.to_datatree(split[0], draws=6, most_cells=15)
        groups = {"posterior", "prior", "posterior_predictive", "prior_predictive", "log_likelihood"}
        assert set(tree.children) == groups | {"observed_data", "constant_data", "discrepancy"}
        globals_ = tree["posterior"]
        assert globals_["W"].dims == ("chain", "draw", "lag", "program", "source")
        assert globals_["a"].dims == ("chain", "draw", "token", "program")
        assert globals_["z"].dims == ("chain", "draw", "cell", "time", "program")
        assert list(globals_["d"].gene.to_numpy()) == list(split[0].schema.genes)
        assert np.issubdtype(tree["posterior_predictive"]["x"].dtype, np.integer)
        assert np.issubdtype(tree["observed_data"]["x"].dtype, np.integer)
        assert tree["log_likelihood"]["x"].dims == ("chain", "draw", "cell", "gene")

    def test_a_dimension_of_size_one_survives(self) -> None:
        data = cv.simulate(n_cells=30, n_genes=5, n_perturbations=1, n_programs=1, n_steps=2).data
        model = CiteVAE(data.schema, n_programs=1, n_invariant=1, hidden=4)
        tree = cv.fit(model, MeanField(model, hidden=4), data, **{**QUICK, "max_epochs": 1}).to_datatree(
            data, draws=2
        )
        assert tree["posterior"]["a"].shape == (1, 2, 1, 1)
        assert tree["posterior"]["s"].shape == (1, 2, 30, 1)

    def test_sequences_have_a_row_for_each_observation(self) -> None:
        data = cv.simulate(n_cells=20, n_genes=5, n_perturbations=2, design="sequences", n_steps=3).data
        model = StaticShift(data.schema, n_programs=2, hidden=4)
        tree = cv.fit(model, MeanField(model, hidden=4), data, **{**QUICK, "max_epochs": 1}).to_datatree(
            data, draws=2
        )
        assert tree["observed_data"]["x"].shape == (60, 5)
        assert tree["posterior_predictive"]["x"].shape == (1, 2, 60, 5)
        np.testing.assert_array_equal(tree["observed_data"]["x"], data.values.toarray())

    @pytest.mark.parametrize("kind", ["nc", "zarr"])
    def test_storage_gives_it_back(
        self, posterior: cv.Posterior, split: tuple, tmp_path: Path, kind: str
    ) -> None:
        tree = posterior.to_datatree(split[0], draws=3, most_cells=5)
        path = tmp_path / f"tree.{kind}"
        if kind == "nc":
            tree.to_netcdf(path, engine="h5netcdf")
        else:
            tree.to_zarr(path)
        stored = xr.open_datatree(path, engine="h5netcdf" if kind == "nc" else "zarr")
        for name, group in tree.children.items():
            xr.testing.assert_allclose(stored[name].to_dataset().load(), group.to_dataset())

    def test_arviz_summarises_it(self, posterior: cv.Posterior, split: tuple) -> None:
        import arviz

        idata = posterior.to_arviz(split[0], draws=20, most_cells=10)
        summary = arviz.summary(idata, var_names=["a"], kind="stats")
        assert len(summary) == 3 * 2

    def test_the_likelihood_is_that_of_the_bound(self, posterior: cv.Posterior, split: tuple) -> None:
        """A draw of the guide has log p(x | z) below zero and near the bound plus its divergence."""
        tree = posterior.to_datatree(split[0], draws=20, most_cells=400)
        mean = float(tree["log_likelihood"]["x"].sum("gene").mean())
        assert posterior.bound(split[0]) < mean < 0


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        ({"max_epochs": 0}, "fit\\(max_epochs=0\\) must be positive"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"kl_start": 2.0}, "between 0 and 1"),
        ({"validation": 1.0}, "below 1"),
        ({"epochs": 3}, "epochs=...\\) is not a setting"),
    ],
)
def test_a_setting_out_of_range_is_named(split: tuple, settings: dict, phrase: str) -> None:
    with pytest.raises(FitError, match=phrase):
        fitted(split[0], **settings)


def test_a_bound_that_is_no_number_stops_the_fit(split: tuple) -> None:
    with pytest.raises(FitError, match=r"the bound became .* at step"):
        fitted(split[0], learning_rate=1e6, gradient_clip=1e9, validate=False)


def test_data_of_another_schema_is_refused(split: tuple) -> None:
    model = CiteVAE(simulated(library=300.0).schema, n_programs=2, hidden=4)
    with pytest.raises(FitError, match="another schema"):
        cv.fit(model, BackwardSmoother(model), split[0], progress=False)


def test_perturbed_cells_are_no_source_of_a_prediction(posterior: cv.Posterior, split: tuple) -> None:
    with pytest.raises(DataError, match="holds cells of 'gene_0'; abduction takes control cells only"):
        posterior.predict(cv.do("gene_1"), cells=split[0].select("gene_0"))


def test_an_unknown_perturbation_is_answered_with_the_nearest(posterior: cv.Posterior) -> None:
    with pytest.raises(ScheduleError, match=r"do\('gene_9'\) is not among .* gene_0"):
        posterior.effect(cv.do("gene_9"))


@pytest.mark.parametrize(("time", "phrase"), [(2.5, "not on the grid"), (0, "not after the start")])
def test_a_time_off_the_grid_is_refused(posterior: cv.Posterior, time: float, phrase: str) -> None:
    with pytest.raises(DataError, match=phrase):
        posterior.effect(cv.do("gene_0"), time=time)


def test_a_run_that_exists_is_not_overwritten_by_accident(posterior: cv.Posterior, tmp_path: Path) -> None:
    posterior.save(tmp_path / "run")
    with pytest.raises(RunError, match="exists"):
        posterior.save(tmp_path / "run")
    posterior.save(tmp_path / "run", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("damage", ["missing", "cut weights", "cut json", "other schema"])
def test_a_damaged_run_is_refused(posterior: cv.Posterior, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    posterior.save(run)
    if damage == "missing":
        (run / "run.json").unlink()
    elif damage == "cut weights":
        (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:200])
    elif damage == "cut json":
        (run / "run.json").write_text((run / "run.json").read_text()[:50])
    else:
        edited(run, lambda record: record["schema"]["genes"].append("one more"))
    with pytest.raises(RunError):
        cv.load(run)


def test_a_run_of_your_own_class_asks_for_the_class(posterior: cv.Posterior, tmp_path: Path) -> None:
    posterior.save(tmp_path / "run")
    edited(tmp_path / "run", lambda record: record["model"].update({"class": "evil:CiteVAE"}))
    with pytest.raises(ModelError, match=r"your own class 'CiteVAE' of 'FILE\.py'; pass it"):
        cv.load(tmp_path / "run")
    assert cv.load(tmp_path / "run", model=CiteVAE).model.n_programs == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(split: tuple) -> None:
    with pytest.raises(FitError, match="no CUDA device"):
        fitted(split[0], accelerator="gpu")


def test_training_does_not_stop_within_the_warm_up(split: tuple) -> None:
    stopped = fitted(split[0], max_epochs=20, kl_warmup=0.8, patience=1, validation=0.2, learning_rate=0.5)
    assert len(stopped.history) > 16
    early = fitted(split[0], max_epochs=20, kl_warmup=0.0, patience=1, validation=0.2, learning_rate=0.5)
    assert len(early.history) < 16
