"""The axes of what is exported: one name and one length each, and names along each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import arviz
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from screens import simulated, unfitted

import pyro_citevae as cv
from pyro_citevae import models
from pyro_citevae.guides import MeanField
from pyro_citevae.infer import idata
from pyro_citevae.models import CiteVAE, Instantaneous, LinearGaussian, StaticShift, Switching
from pyro_citevae.scenes import ImageSequences
from pyro_citevae.scenes.dynamics import latent_dynamics

mpl.use("Agg")

MADE = {"created_at", "inference_library", "inference_library_version", "model"}
OF_SCREENS = [name for name in models.__all__ if name != "ImageSequence"]
SIZES = {"n_cells": 24, "n_genes": 5}


def images() -> cv.Trajectories:
    """Four sequences of three images of eight by eight pixels, half of them of a perturbation."""
    drawn = latent_dynamics(4, 3, seed=0)
    frames = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)
    environments = np.array([0, 0, 1, 1])
    sequences = ImageSequences(frames, drawn.latents, drawn.shapes, drawn.interventions, environments)
    return sequences.trajectories()


def exported(name: str, design: str = "time course") -> xr.DataTree:
    values = "real" if name == "LinearGaussian" else "counts"
    data = simulated(design, values, **SIZES)
    return unfitted(getattr(models, name)(data.schema, n_programs=2)).to_datatree(data, draws=4, most_cells=6)


def with_terms() -> xr.DataTree:
    """Every term that CiteVAE has."""
    data = simulated(**SIZES)
    model = CiteVAE(
        data.schema, n_programs=2, hidden=4, edges=True, mask=True, direct=True, pairs=2, epistasis=True
    )
    return unfitted(model).to_datatree(data, draws=4, most_cells=6)


def fitted() -> xr.DataTree:
    """With what held-out cells say."""
    data = simulated(n_cells=200)
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    found = cv.fit(model, MeanField(model, hidden=4), data, max_epochs=2, progress=False)
    tree = found.to_datatree(data, draws=4, most_cells=6)
    assert "discrepancy" in tree.children
    return tree


def of_contexts() -> xr.DataTree:
    """Of several contexts, with what held-out cells say."""
    data = cv.simulate(n_cells=240, n_genes=6, n_perturbations=2, n_contexts=3, design="snapshot").data
    model = CiteVAE(data.schema, n_programs=2, hidden=4)
    found = cv.fit(model, MeanField(model, hidden=4), data, max_epochs=2, progress=False)
    tree = found.to_datatree(data, draws=4, most_cells=6)
    assert tree["posterior"]["a_context"].sizes["context"] == 3
    assert set(tree["constant_data"]["context"].to_numpy()) <= set(data.schema.contexts)
    return tree


def together() -> xr.DataTree:
    data = simulated(**SIZES)
    members = [unfitted(StaticShift(data.schema, n_programs=2, hidden=4)) for _ in range(2)]
    for one in members:
        one.record["data"] = "the same"
    return cv.Ensemble(members).to_datatree(data, draws=4, most_cells=6)


def sampled() -> xr.DataTree:
    data = simulated(n_cells=4, n_genes=3)
    model = Instantaneous(data.schema, n_programs=2, n_invariant=1, hidden=2)
    return cv.nuts(model, data, draws=4, warmup=2, max_tree_depth=2, progress=False, long=1e9)


def of_images() -> xr.DataTree:
    data = images()
    return unfitted(models.ImageSequence(data.schema, n_programs=2, hidden=4)).to_datatree(data, draws=4)


TREES = {
    **{name: lambda name=name: exported(name) for name in OF_SCREENS},
    **{f"{name} of sequences": lambda name=name: exported(name, "sequences") for name in OF_SCREENS},
    "ImageSequence": of_images,
    "CiteVAE with every term": with_terms,
    "a fit": fitted,
    "an ensemble": together,
    "a fit of contexts": of_contexts,
    "nuts": sampled,
}


@pytest.fixture(scope="module", params=list(TREES))
def tree(request: pytest.FixtureRequest) -> xr.DataTree:
    return TREES[request.param]()


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


def test_each_dim_of_each_group_has_names(tree: xr.DataTree) -> None:
    for name, group in tree.children.items():
        for dim, size in group.sizes.items():
            assert dim in group.coords, (name, dim)
            assert group[dim].size == size > 0, (name, dim)
            assert group.indexes[dim].is_unique, (name, dim)


def test_no_dim_is_a_number(tree: xr.DataTree) -> None:
    dims = {str(dim) for group in tree.children.values() for dim in group.dims}
    assert not [dim for dim in dims if re.match(r".*_dim_\d+", dim)]


def test_a_dim_has_one_length_and_one_set_of_names(tree: xr.DataTree) -> None:
    for dim in {dim for group in tree.children.values() for dim in group.dims}:
        of = [group[dim] for name, group in tree.children.items() if dim in group.dims]
        if dim in ("chain", "draw"):  # a discrepancy has one draw
            of = [one for one in of if one.size > 1]
        assert all(one.to_numpy().tolist() == of[0].to_numpy().tolist() for one in of), dim


def test_each_group_says_what_made_it(tree: xr.DataTree) -> None:
    for group in tree.subtree:
        assert group.attrs.keys() >= MADE
        assert group.attrs == tree.attrs
    assert "guide" in tree.attrs or tree.attrs["sampler"] == "NUTS"


@pytest.mark.parametrize("kind", ["nc", "zarr"])
def test_it_is_stored_and_read(tree: xr.DataTree, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"tree.{kind}"
    if kind == "nc":
        tree.to_netcdf(path, engine="h5netcdf")
    else:
        tree.to_zarr(path, zarr_format=2)
    with xr.open_datatree(path) as opened:
        xr.testing.assert_equal(opened.load(), tree)
        for name, group in tree.children.items():
            assert opened[name].attrs == group.attrs
            assert set(opened[name].coords) == set(group.coords)


def test_arviz_summarises_and_draws_it(tree: xr.DataTree) -> None:
    opened = idata.as_arviz(tree)
    sites = set(tree["posterior"].data_vars)
    site = next(iter(sorted(sites - {"z", "s"}) or sorted(sites)))
    table = arviz.summary(opened, var_names=[site], kind="stats")
    one = tree["posterior"][site]
    assert len(table) == one.size / (one.sizes["chain"] * one.sizes["draw"])
    assert arviz.plot_forest(opened, var_names=[site], combined=True) is not None


def test_a_cell_is_one_axis_where_it_is_read_once() -> None:
    tree = exported("StaticShift")
    assert tree["posterior"]["z"].dims == ("chain", "draw", "cell", "time", "program")
    assert tree["posterior"].cell.equals(tree["observed_data"].cell)


def test_a_trajectory_has_several_cells() -> None:
    tree = exported("StaticShift", "sequences")
    assert tree["posterior"]["z"].dims == ("chain", "draw", "trajectory", "time", "program")
    owners = {str(name).partition("@")[0] for name in tree["observed_data"].cell.to_numpy()}
    assert owners <= set(tree["posterior"].trajectory.to_numpy().tolist())
    assert tree["observed_data"].sizes["cell"] > tree["posterior"].sizes["trajectory"]


def test_names_of_a_variants_own_axes_are_used() -> None:
    class Named(Switching):
        coords = MappingProxyType({"regime": ("early", "late"), "previous": ("early", "late")})

    tree = unfitted(Named(simulated().schema, n_programs=2)).to_datatree(draws=3)
    for group in ("posterior", "prior"):
        assert tree[group].regime.to_numpy().tolist() == ["early", "late"]
        assert tree[group]["Q"].sel(previous="early", regime="late").sizes == {"chain": 1, "draw": 3}


def test_a_site_of_a_variant_without_names_is_numbered() -> None:
    class Unnamed(StaticShift):
        dims = MappingProxyType({"m": ("token", "program")})

    tree = unfitted(Unnamed(simulated().schema, n_programs=2)).to_datatree(draws=3)
    assert tree["posterior"]["a_dim_1"].to_numpy().tolist() == [0, 1]


def test_edges_and_pairs_are_named() -> None:
    edges = exported("Instantaneous")["posterior"].edge.to_numpy().tolist()
    assert edges == ["program_0 -> program_1"]
    pairs = with_terms()["posterior"].pair.to_numpy().tolist()
    assert pairs == ["gene_0+gene_1", "gene_0+gene_2", "gene_1+gene_2"]


def test_the_prior_has_as_many_draws_where_no_site_is_global() -> None:
    data = simulated(values="real")
    tree = unfitted(LinearGaussian(data.schema, n_programs=2)).to_datatree(draws=3)
    assert tree["prior"].sizes["draw"] == tree["posterior"].sizes["draw"] == 3


# what programs are called


def test_programs_have_names_beside_their_dim() -> None:
    data = simulated(**SIZES)
    posterior = unfitted(CiteVAE(data.schema, n_programs=2))
    tree, names = posterior.to_datatree(data, draws=3), posterior.program_genes().names
    for group in ("posterior", "prior"):
        found = tree[group]["W"].program_name
        assert found.dims == ("program",)
        assert found.to_numpy().tolist() == [names[str(one)] for one in found.program.to_numpy()]
    assert "program_name" not in tree["posterior"].indexes


def test_members_of_an_ensemble_name_their_own_programs() -> None:
    assert together()["posterior"].program_name.dims == ("chain", "program")


def test_images_have_no_names_of_programs() -> None:
    assert "program_name" not in of_images()["posterior"].coords
