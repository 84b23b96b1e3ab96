"""Several seeds as one posterior: a mixture of the members, chain by chain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.errors import FitError
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.models import CiteVAE

screen = simulated


def fitted(data: cv.Trajectories, seed: int, guide: type = BackwardSmoother) -> cv.Posterior:
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=8)
    return cv.fit(
        model, guide(model, hidden=8), data, seed=seed, max_epochs=3, validation=0.0, progress=False
    )


@pytest.fixture(scope="module")
def members() -> list[cv.Posterior]:
    data = screen()
    return [fitted(data, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def ensemble(members: list[cv.Posterior]) -> cv.Ensemble:
    return cv.Ensemble(members)


def test_each_member_is_a_chain(ensemble: cv.Ensemble, members: list[cv.Posterior]) -> None:
    """The first chain is the first member's own answer; the others differ in their seeds."""
    wanted = [cv.do("gene_0"), cv.do("gene_1")]
    together = ensemble.effect(wanted, draws=20)
    alone = members[0].effect(wanted, draws=20)
    assert together.sizes == {**alone.sizes, "chain": 3}
    np.testing.assert_allclose(together.isel(chain=[0]), alone)
    assert not np.allclose(together[0], together[1])


def test_the_mixture_is_wider_than_its_members(ensemble: cv.Ensemble, members: list[cv.Posterior]) -> None:
    """Law of total variance: the spread of the pooled draws is that within plus that between."""
    pooled = ensemble.effect(cv.do("gene_0"), draws=200)
    within = pooled.var(("draw",)).mean("chain")
    between = pooled.mean("draw").var("chain")
    np.testing.assert_allclose(pooled.var(("chain", "draw")), within + between, rtol=1e-6)
    assert float(between.sum()) > 0


def test_predicted_cells_pool_the_draws(ensemble: cv.Ensemble, members: list[cv.Posterior]) -> None:
    controls = screen().controls()
    one = {"cells": controls, "draws": 40}
    pooled = ensemble.predict(cv.do("gene_0"), **one)
    alone = [member.predict(cv.do("gene_0"), **one) for member in members]
    assert pooled.shape == alone[0].shape
    assert (pooled.obs["source_cell"] == alone[0].obs["source_cell"]).all()
    np.testing.assert_allclose(
        pooled.layers["mean"].mean(), np.mean([p.layers["mean"] for p in alone]), rtol=0.02
    )
    assert (pooled.layers["q05"] <= pooled.layers["q95"]).all()
    assert (np.asarray(pooled.X.todense()) % 1 == 0).all()


def test_the_same_seed_gives_the_same_draws_and_leaves_torch_alone(ensemble: cv.Ensemble) -> None:
    state = torch.get_rng_state()
    controls = screen().controls()
    first = ensemble.predict(cv.do("gene_0"), cells=controls, draws=5)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    second = ensemble.predict(cv.do("gene_0"), cells=controls, draws=5)
    assert (first.X != second.X).nnz == 0


def test_the_tree_has_a_chain_a_member(ensemble: cv.Ensemble) -> None:
    data = screen()
    tree = ensemble.to_datatree(data, draws=7)
    assert tree["posterior"].sizes["chain"] == 3
    assert tree["log_likelihood"]["x"].dims == ("chain", "draw", "cell", "gene")
    assert "chain" not in tree["observed_data"].dims
    assert tree["posterior"]["W"].shape[:2] == (3, 7)


def test_the_bound_is_the_members_mean(ensemble: cv.Ensemble, members: list[cv.Posterior]) -> None:
    data = screen()
    assert ensemble.bound(data) == pytest.approx(np.mean([member.bound(data) for member in members]))


def test_save_and_load_give_equal_draws(ensemble: cv.Ensemble, tmp_path: Path) -> None:
    ensemble.save(tmp_path / "run")
    again = cv.load(tmp_path / "run")
    assert isinstance(again, cv.Ensemble)
    wanted = {"schedules": cv.do("gene_1"), "draws": 5}
    np.testing.assert_array_equal(again.effect(**wanted), ensemble.effect(**wanted))


@pytest.mark.parametrize(
    ("make", "phrase"),
    [
        (lambda members: members[:1], "holds 1; fit two seeds"),
        (lambda members: [members[0], fitted(screen(), 0, MeanField)], "another model and guide"),
        (lambda members: [members[0], fitted(screen(seed=4), 0)], "another training data"),
    ],
)
def test_what_is_no_ensemble(members: list[cv.Posterior], make, phrase: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FitError, match=phrase):
        cv.Ensemble(make(members))
