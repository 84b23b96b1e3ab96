"""Every object in hand is pickled and copied, and behaves as before."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from known_programs import Counts
from screens import as_anndata, simulated

import pyro_citevae as cv
from pyro_citevae import analysis, config, errors, guides, models
from pyro_citevae.conformance import check_model
from pyro_citevae.data.backed import BackedCounts
from pyro_citevae.data.columns import Columns
from pyro_citevae.errors import CiteVAEError, DataError, DivergenceError, HookError
from pyro_citevae.infer import FitSettings
from pyro_citevae.recipe import Recipe
from pyro_citevae.registry import GUIDES, MODELS

QUICK: dict[str, Any] = {"max_epochs": 1, "progress": False}
WAYS: dict[str, Callable[[Any], Any]] = {
    "pickled": lambda one: pickle.loads(pickle.dumps(one)),
    "copied": copy.deepcopy,
}


@pytest.fixture(params=WAYS)
def again(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return WAYS[request.param]


@cache
def images() -> cv.Trajectories:
    data = simulated("sequences", "real", n_genes=12)
    return replace(data, schema=replace(data.schema, image=(2, 2, 3)))


def screen_for(kind: type) -> cv.Trajectories:
    if kind is models.ImageSequence:
        return images()
    real = kind in (models.LinearGaussian, guides.KalmanSmoother)
    return simulated("sequences", "real" if real else "counts")


@cache
def fitted() -> cv.Posterior:
    data, _ = simulated().hold_out(perturbations=["gene_2"])
    known = cv.GeneFeatures(data.schema.tokens, np.eye(3), ("x_0", "x_1", "x_2"))
    model = models.CiteVAE(data.schema, n_programs=2, hidden=4, features=known)
    return cv.fit(model, guides.MeanField(model, hidden=4), data, **QUICK)


def effect_of(posterior: cv.Posterior | cv.Ensemble) -> cv.infer.Effect:
    return posterior.effect(cv.do("gene_0"), draws=4, progress=False)


# Plain objects

PLAIN: dict[str, Callable[[], Any]] = {
    "schedule": lambda: cv.do("A", at=3.0) | cv.do("B", dose=0.5),
    "schema": lambda: simulated().schema,
    "split": lambda: simulated().hold_out(perturbations=["gene_0"])[0].split,
    "columns": Columns,
    "settings": lambda: config.Settings(fit={"max_epochs": 3}),
    "part": lambda: config.Part(name="CiteVAE", hidden=8),
    "recipe": lambda: Recipe(config.Part(name="CiteVAE"), config.Part(name="MeanField"), {"seed": 3}),
    "settings of a fit": lambda: FitSettings(max_epochs=3),
    "report": lambda: check_model(models.StaticShift, guides.MeanField),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_compared_by_value_comes_back_equal(name: str, again: Callable[[Any], Any]) -> None:
    one = PLAIN[name]()
    other = again(one)
    assert other == one
    assert type(other) is type(one)
    assert repr(other) == repr(one)


def test_cells_come_back_with_their_digest_and_minibatches(again: Callable[[Any], Any]) -> None:
    for data in (simulated(), simulated("sequences", "real"), *simulated().hold_out(times=[2])):
        other = again(data)
        assert other.digest == data.digest
        assert (other.split, other.perturbations(), repr(other)) == (
            data.split,
            data.perturbations(),
            repr(data),
        )
        one, two = again(data.batch()), other.batch()
        torch.testing.assert_close(one.x.dense, two.x.dense, rtol=0, atol=0)
        torch.testing.assert_close(one.u, two.u, rtol=0, atol=0)


def test_features_come_back(again: Callable[[Any], Any]) -> None:
    one = cv.features.gene_ontology(["JAK2", "STAT1", "no such gene"])
    other = again(one)
    assert (other.genes, other.names, other.missing) == (one.genes, one.names, one.missing)
    np.testing.assert_array_equal(other.values, one.values)


# Counts that stay in their file


@pytest.fixture(params=["sparse h5ad", "dense h5ad", "sparse zarr", "dense zarr"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    adata = as_anndata(simulated())
    if request.param.startswith("dense"):
        adata.X = adata.X.toarray()
    place = tmp_path / f"screen.{request.param.split()[1]}"
    (adata.write_h5ad if place.suffix == ".h5ad" else adata.write_zarr)(place)
    return place


def read(file: Path | str) -> cv.Trajectories:
    return cv.Trajectories.from_disk(file, time="time", progress=False)


def test_cells_whose_counts_lie_in_a_file_open_it_again(
    file: Path, again: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    data = read(file.name)
    there = data.values.toarray()
    other = again(data)
    monkeypatch.chdir("/")  # the path is whole, however it was given
    assert isinstance(other.values, BackedCounts)
    assert other.digest == data.digest
    np.testing.assert_array_equal(data.values.toarray(), there)
    np.testing.assert_array_equal(other.values.toarray(), data.values.toarray())
    for one, two in zip(data.hold_out(times=[2]), other.hold_out(times=[2]), strict=True):
        np.testing.assert_array_equal(again(two).values.toarray(), one.values.toarray())
    panel = np.array([4, 1])
    np.testing.assert_array_equal(
        again(other.values.of_columns(panel)).toarray(), data.values.toarray()[:, panel]
    )


def test_cells_whose_file_is_gone_say_so(file: Path, again: Callable[[Any], Any]) -> None:
    other = again(read(file))
    file.rename(file.with_name("elsewhere"))
    said = rf"^'{file}', which holds the counts of these cells, is no longer there; put it back, or read"
    with pytest.raises(DataError, match=said):
        other.batch()
    assert other.labels.shape == (60,)  # what is in memory is at hand
    file.with_name("elsewhere").rename(file)
    assert other.batch().n_cells == 60


def test_cells_whose_file_holds_another_screen_say_so(file: Path) -> None:
    other = pickle.loads(pickle.dumps(read(file)))
    adata = as_anndata(simulated(n_cells=30))
    if file.is_dir():
        file.rename(file.with_name("before"))
        adata.write_zarr(file)
    else:
        file.unlink()
        adata.write_h5ad(file)
    with pytest.raises(DataError, match="has changed since its cells were read: it held 60 x 7 counts; read"):
        other.batch()


def test_a_fit_to_cells_that_were_pickled_is_the_same(file: Path) -> None:
    data = read(file)
    model = models.StaticShift(data.schema, n_programs=2, hidden=4)
    guide = guides.MeanField(model, hidden=4)
    one, two = (cv.fit(model, guide, each, **QUICK) for each in (data, pickle.loads(pickle.dumps(data))))
    assert one.history.equals(two.history)
    assert one.record["data"] == two.record["data"]


def test_another_process_reads_what_was_pickled(tmp_path: Path) -> None:
    as_anndata(simulated()).write_h5ad(tmp_path / "screen.h5ad")
    data = read(tmp_path / "screen.h5ad")
    posterior = fitted()
    with (tmp_path / "held.pickle").open("wb") as held:
        pickle.dump((data, posterior, HookError("it failed", "mend it")), held)
    script = (
        "import pickle, sys, pyro_citevae as cv\n"
        "data, posterior, error = pickle.load(open(sys.argv[1], 'rb'))\n"
        "effect = posterior.effect(cv.do('gene_0'), draws=4, progress=False)\n"
        "print(data.digest, float(effect.sum()), data.values.toarray().sum(), error)\n"
    )
    call = [sys.executable, "-c", script, str(tmp_path / "held.pickle")]
    said = subprocess.run(call, capture_output=True, text=True, check=True, timeout=300).stdout.split()
    assert said[0] == data.digest
    assert float(said[1]) == pytest.approx(float(effect_of(posterior).sum()), abs=1e-6)
    assert float(said[2]) == data.values.toarray().sum()
    assert " ".join(said[3:]) == "it failed; mend it."


# Models, guides, posteriors


@pytest.mark.parametrize("name", MODELS)
def test_every_model_comes_back_with_its_guide(name: str, again: Callable[[Any], Any]) -> None:
    data = screen_for(MODELS[name])
    model = MODELS[name](data.schema, n_programs=2)
    guide = guides.BackwardSmoother(model, hidden=4)
    alone = again(model)
    assert alone.settings == model.settings
    assert require_same_state(alone, model)
    one = cv.fit(model, guide, data, **QUICK)
    other = again(one)
    assert other.guide.model is other.model
    np.testing.assert_array_equal(effect_of(other), effect_of(one))
    assert other.bound(data, particles=2) == one.bound(data, particles=2)
    assert (other.record, other.split, other.name) == (one.record, one.split, one.name)
    other.model.double()  # nothing is shared
    assert {value.dtype for value in one.model.parameters()} == {torch.float32}


def require_same_state(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("family", ["normal", "low_rank", "full_rank", "flow"])
@pytest.mark.parametrize("name", GUIDES)
def test_every_guide_comes_back_with_its_model(name: str, family: str, again: Callable[[Any], Any]) -> None:
    data = screen_for(GUIDES[name])
    kind = models.LinearGaussian if GUIDES[name] is guides.KalmanSmoother else models.StaticShift
    model = kind(data.schema, n_programs=2, hidden=4) if kind is models.StaticShift else kind(data.schema)
    guide = GUIDES[name](model, hidden=4, mechanism=family)
    other = again(guide)
    assert other.settings == guide.settings
    assert require_same_state(other, guide)
    assert require_same_state(other.model, model)
    batch = data.batch()
    drawn = []
    for one in (guide, other):
        torch.manual_seed(0)
        drawn.append(
            cv.infer.svi.negative_bound(one.model, one, "elbo", alpha=0.0, particles=1)(batch).item()
        )
    assert drawn[0] == drawn[1]
    fits = [cv.fit(one.model, one, data, **QUICK) for one in (guide, other)]
    assert fits[0].history.equals(fits[1].history)


def test_a_model_of_ones_own_comes_back(again: Callable[[Any], Any]) -> None:
    data = simulated()
    model = Counts(data.schema)
    posterior = cv.fit(model, guides.MeanField(model, hidden=4), data, **QUICK)
    np.testing.assert_array_equal(effect_of(again(posterior)), effect_of(posterior))


def test_an_ensemble_and_its_answers_come_back(again: Callable[[Any], Any]) -> None:
    posterior = fitted()
    ensemble = cv.Ensemble([posterior, posterior])
    np.testing.assert_array_equal(effect_of(again(ensemble)), effect_of(ensemble))
    effect = effect_of(ensemble)
    other = again(effect)
    assert type(other) is type(effect)
    xr.testing.assert_identical(xr.DataArray(other), xr.DataArray(effect))
    xr.testing.assert_identical(other.interval(), effect.interval())
    ranking = posterior.rank(["gene_0", "gene_2"], draws=4, progress=False)
    assert again(ranking).table.equals(ranking.table)
    assert (again(ranking).first, again(ranking).report()) == (ranking.first, ranking.report())


def test_what_an_analysis_finds_comes_back(again: Callable[[Any], Any]) -> None:
    data, posterior = simulated(), fitted()
    train, test = data.hold_out(perturbations=["gene_2"])
    licence = analysis.licence(posterior, train, draws=4)
    assert str(again(licence)) == str(licence)
    assert again(licence).table().equals(licence.table())
    one = analysis.measure(test, "gene_2", 3.0, train.controls())
    other = again(one)
    np.testing.assert_array_equal(other.delta, one.delta)
    assert other.reliability == one.reliability
    baseline = analysis.LatentAdditive(train, steps=2)
    np.testing.assert_array_equal(
        again(baseline).delta(cv.do("gene_0"), 3.0), baseline.delta(cv.do("gene_0"), 3.0)
    )


# Errors

FAMILY = [
    one
    for one in (getattr(errors, name) for name in errors.__all__)
    if issubclass(one, CiteVAEError) and not issubclass(one, HookError)
]


@pytest.mark.parametrize("kind", FAMILY)
def test_an_error_comes_back_with_its_sentence(kind: type[CiteVAEError], again: Callable[[Any], Any]) -> None:
    other = again(kind("it is wrong; mend it."))
    assert type(other) is kind
    assert str(other) == "it is wrong; mend it."


@pytest.mark.parametrize("kind", [HookError, errors.OutOfRangeError])
def test_a_hooks_error_comes_back_with_its_parts(kind: type[HookError], again: Callable[[Any], Any]) -> None:
    error = kind("Own.transition failed", "mend that line")
    error.add_note("seen in a test")
    other = again(error)
    assert type(other) is kind
    assert (str(other), other.said, other.mend) == (str(error), error.said, error.mend)
    assert other.__notes__ == ["seen in a test"]


def test_a_divergence_comes_back_with_the_last_good_posterior(again: Callable[[Any], Any]) -> None:
    error = DivergenceError("the bound became nan")
    error.last_good = fitted()
    np.testing.assert_array_equal(effect_of(again(error).last_good), effect_of(fitted()))
