"""Interactions: shares of known effects are found, and kinds follow from them."""

from __future__ import annotations

import numpy as np
import pytest
from screens import simulated, unfitted

import pyro_citevae as cv
from pyro_citevae.data import Schema, do
from pyro_citevae.errors import CiteVAEError, CiteVAEWarning
from pyro_citevae.infer.effect import Effect
from pyro_citevae.infer.interactions import interactions

SCHEMA = Schema(genes=tuple(f"g{i}" for i in range(30)), tokens=("A", "B"))


def effect(values: np.ndarray, label: str) -> Effect:
    return Effect.of(values[None, :, None, None], [do(label)], [1.0], SCHEMA, do())


def drawn(first: float, second: float, noise: float = 0.02) -> tuple[Effect, Effect, Effect]:
    """Effects of A and B, and of the pair as so much of each, in 100 draws."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 100, 30)) * 0.05 + rng.normal(size=(2, 1, 30))
    pair = first * a + second * b + noise * rng.normal(size=a.shape)
    return effect(pair, "A+B"), effect(a, "A"), effect(b, "B")


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (1.0, 1.0, "additive"),
        (1.6, 1.4, "synergy"),
        (0.4, 0.5, "buffering"),
        (1.2, 0.1, "dominance"),
        (0.1, 1.3, "dominance"),
    ],
)
def test_the_shares_of_a_pair_and_its_kind(first: float, second: float, kind: str) -> None:
    found = interactions(*drawn(first, second), probability=0.8)
    (row,) = found.table.to_dict("records")
    assert row["kind"] == kind
    assert row["first"] == pytest.approx(first, abs=0.02)
    assert row["second"] == pytest.approx(second, abs=0.02)
    assert row["lower"] <= row["strength"] <= row["upper"]


def test_a_pair_of_noise_has_no_kind() -> None:
    assert interactions(*drawn(1.0, 1.0, noise=8.0), probability=0.8).table["kind"].tolist() == ["unclear"]


def test_the_surplus_is_what_is_beyond_the_sum() -> None:
    pair, first, second = drawn(1.5, 1.0)
    found = interactions(pair, first, second, probability=0.8)
    np.testing.assert_allclose(found.surplus, pair.to_numpy() - first.to_numpy() - second.to_numpy())
    assert found.surplus.dims == pair.dims
    assert found.surplus.attrs["versus"] == "the sum of the members"


def test_a_posterior_answers_for_pairs_in_any_order() -> None:
    posterior = unfitted(cv.models.CiteVAE(simulated().schema, n_programs=2))
    one, other = (posterior.interactions([pair], draws=10) for pair in ("gene_0+gene_1", "gene_1+gene_0"))
    assert one.table.equals(other.table)
    both = posterior.interactions(["gene_0+gene_1", "gene_1+gene_2"], draws=10)
    assert len(both.table) == 2
    assert both.surplus.sizes["perturbation"] == 2


@pytest.mark.parametrize(
    ("pairs", "options", "said"),
    [
        ("gene_0", {}, "has 1 members; name two, as in 'A\\+B'"),
        ("gene_0+gene_1+gene_2", {}, "has 3 members"),
        ("gene_0+nobody", {}, "nobody"),
        ("gene_0+gene_1", {"probability": 0.2}, "must lie between 0.5 and 1"),
    ],
)
def test_what_is_no_pair_is_refused(pairs: str, options: dict, said: str) -> None:
    posterior = unfitted(cv.models.CiteVAE(simulated().schema, n_programs=2))
    with pytest.raises(CiteVAEError, match=said):
        posterior.interactions(pairs, draws=10, **options)


def test_without_measured_pairs_no_kind_is_claimed() -> None:
    """A program without a pair has members that add up by assumption."""
    data = cv.simulate(n_cells=200, n_genes=8, n_perturbations=3, n_steps=2).data
    model = cv.models.CiteVAE(data.schema, n_programs=2, hidden=4)
    posterior = cv.fit(model, cv.guides.MeanField(model, hidden=4), data, max_epochs=1, progress=False)
    assert posterior.discrepancy is not None
    with pytest.warns(CiteVAEWarning, match="no pair has cells"):
        found = posterior.interactions("gene_0+gene_1", draws=20, progress=False)
    assert found.table["kind"].tolist() == ["unclear"]
