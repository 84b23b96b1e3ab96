"""The licence report: each check at a program that passes it and at one that fails it, by known numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.analysis import Licence, licence
from pyro_citevae.analysis.identifiability.dependence import auc, dependence
from pyro_citevae.errors import DataError, ModelError
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.models import (
    CiteVAE,
    ContinuousTime,
    Instantaneous,
    LinearGaussian,
    StaticShift,
    Switching,
    TargetedLag,
)

APART = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]]
MIXED = [[1.0, 0.5], [0.5, 1.0], [1.0, 1.0], [2.0, -1.0]]
SCALES = [[0.5, 0.0], [0.0, -0.5], [0.3, 0.4], [-0.2, 0.6]]


class Step(cv.LatentDynamics):
    """z_t ~ N(rho z_{t-1} + u a, 0.5 exp(u b + gamma z_{t-1}));  x_t ~ N(C [z_t, s], r)."""

    def __init__(
        self,
        schema: cv.Schema,
        *,
        a: Sequence[Sequence[float]] = APART,
        b: Sequence[Sequence[float]] | None = None,
        rho: float = 0.5,
        gamma: float = 0.0,
        C: torch.Tensor | None = None,
        n_invariant: int = 0,
    ) -> None:
        super().__init__(schema, n_programs=2, n_invariant=n_invariant)
        self.a = torch.nn.Parameter(torch.tensor(a))
        self.b = torch.zeros_like(self.a) if b is None else torch.tensor(b)
        self.rho, self.gamma = rho, gamma
        torch.manual_seed(0)
        self.C = torch.randn(schema.n_genes, 2 + n_invariant) if C is None else C

    def mechanism(self) -> cv.Mechanism:
        return cv.Mechanism(a=self.a)

    def initial(self, mechanism: cv.Mechanism) -> cv.program.Distribution:
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def transition(self, mechanism: cv.Mechanism, history: list, u: torch.Tensor) -> cv.program.Distribution:
        scale = 0.5 * torch.exp(u @ self.b + self.gamma * history[-1])
        return dist.Normal(self.rho * history[-1] + u @ mechanism.a, scale).to_event(1)

    def emission(
        self, mechanism: cv.Mechanism, z: torch.Tensor, s: torch.Tensor, library: torch.Tensor
    ) -> cv.program.Distribution:
        return dist.Normal(torch.cat([z, s], -1) @ self.C.T, 0.7).to_event(1)


class Told(MeanField):  # type: ignore[misc]
    """States from a standard normal, or drawn to s; the p-th token may move and widen s, p times as much."""

    leak, widening, tie = 0.0, 0.0, 0.0

    def forward(self, batch: cv.data.Batch) -> None:
        self.perturbed = batch.u[-1] @ torch.arange(1.0, 5.0)[:, None]
        super().forward(batch)

    def invariant(self, summary: torch.Tensor) -> cv.program.Distribution:
        return dist.Normal(self.leak * self.perturbed, 1 + self.widening * self.perturbed).to_event(1)

    def states(self, batch, summary, s, drawn) -> None:  # type: ignore[no-untyped-def]
        centre = self.tie * s[..., :1].expand(*s.shape[:-1], 2) if self.tie else torch.zeros(batch.n_cells, 2)
        for t in range(batch.n_steps + 1):
            self.state(t, dist.Normal(centre, 1.0).to_event(1), batch)


def screen(design: str = "time course", values: str = "real", **options: Any) -> cv.Trajectories:
    sizes = {"n_genes": 6, "n_perturbations": 4, "n_steps": 2, "seed": 1}
    return simulated(design, values, **{**sizes, **options})


DATA = screen()


def told(model: cv.LatentDynamics, **weights: float) -> cv.Posterior:
    guide = Told(model, hidden=4)
    for name, value in weights.items():
        setattr(guide, name, value)
    return cv.Posterior(model, guide, pd.DataFrame(), {})


def report(
    model: cv.LatentDynamics, data: cv.Trajectories = DATA, *, draws: int = 3, **weights: float
) -> Licence:
    return licence(told(model, **weights), data, draws=draws)


def check(found: Licence, name: str) -> Any:
    return found.table().loc[name]


def known(sites: dict[str, Any], scale: float = 1e-4, **switches: Any) -> cv.Posterior:
    """CiteVAE of two programs whose global sites are what they are told to be, on unconstrained scales."""
    data = screen(values="counts")
    off = dict.fromkeys(("own_transcript", "direct", "group", "onset"), False)
    options = {"n_programs": 2, "n_invariant": 0, "hidden": 0, **off, **switches}
    torch.manual_seed(0)
    model = CiteVAE(data.schema, **options)
    guide = Told(model, hidden=4)
    with torch.no_grad():
        for name, value in sites.items():
            getattr(guide.globals.independent.locs, name).copy_(torch.as_tensor(value))
        for name in guide.globals.event_dims:
            loc = getattr(guide.globals.independent.locs, name)
            setattr(guide.globals.independent.scales, name, torch.full_like(loc, scale))
    return cv.Posterior(model, guide, pd.DataFrame(), {})


def test_shifts_and_scales_together_span_2k_natural_parameters() -> None:
    found = check(report(Step(DATA.schema, b=SCALES)), "natural parameters")
    a, scale = np.array(APART) / 0.5, np.exp(np.array(SCALES))
    matrix = np.concatenate([a / scale**2, (1 - scale**-2) / 2], axis=1)
    singular = np.linalg.svd(matrix, compute_uv=False)
    assert found.passed
    assert found.number == found.threshold == 4
    assert ", ".join(f"{value:.3g}" for value in singular) in found.sentence
    assert f"condition number {singular[0] / singular[-1]:.3g}" in found.sentence


def test_shifts_alone_span_k_of_2k_natural_parameters() -> None:
    found = check(report(Step(DATA.schema)), "natural parameters")
    assert not found.passed
    assert (found.number, found.threshold, found.share) == (2, 4, 0)
    assert "condition number inf" in found.sentence


def test_too_few_environments_fail_at_full_rank_or_not() -> None:
    some = DATA.rows(np.isin(DATA.row_labels, ["control", "gene_0", "gene_1"]))
    found = check(report(Step(DATA.schema, b=SCALES), some), "natural parameters")
    assert not found.passed
    assert found.sentence.startswith("3 environments of the 5 that are needed")


def test_effects_left_at_their_prior_span_nothing() -> None:
    found = licence(known({}, scale=0.5), screen(values="counts"), draws=10)
    for name in ("natural parameters", "shift rank"):
        assert not check(found, name).passed
    assert check(found, "shift rank").number < 2
    assert "of which 2 are not zero" in check(found, "shift rank").sentence


@pytest.mark.parametrize(
    ("a", "share", "seen"),
    [
        (APART, 1.0, "hits 1.5 of 2 programs"),
        (MIXED, 0.0, "what hits program_0, program_1 always hits another program too"),
        ([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0]], 0.5, "what hits program_1 always hits another"),
        ([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 0.0]], 0.5, "no token hits program_1"),
    ],
)
def test_masks_tell_programs_apart(a: list, share: float, seen: str) -> None:
    found = check(report(Step(DATA.schema, a=a)), "mask support")
    assert found.number == share
    assert found.passed == (share == 1)
    assert seen in found.sentence


def test_a_closed_gate_is_no_target() -> None:
    open_and_closed = 6 * torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    dense = torch.ones(4, 2)
    data = screen(values="counts")
    gated = licence(known({"a": dense, "m": open_and_closed}, mask=True), data, draws=3)
    assert check(gated, "mask support").passed
    without = check(licence(known({"a": dense}, mask=False), data, draws=3), "mask support")
    assert not without.passed
    assert "with no mask that would close any" in without.sentence


def test_a_scale_that_follows_the_history_varies_in_time() -> None:
    found = check(report(Step(DATA.schema, gamma=0.4)), "temporal variability")
    assert found.passed
    assert found.number == found.threshold == 4


@pytest.mark.parametrize("b", [None, SCALES])
def test_additive_noise_of_one_scale_does_not_vary_in_time(b: list | None) -> None:
    found = check(report(Step(DATA.schema, b=b)), "temporal variability")
    assert not found.passed
    assert found.number == 2
    assert "all third derivatives are zero" in found.sentence


def test_a_condition_without_influence_of_the_past_is_a_reference() -> None:
    forgetful = check(report(Step(DATA.schema, rho=0.0)), "reference environment")
    assert forgetful.passed
    assert forgetful.number == 0
    lagged = check(report(Step(DATA.schema, rho=0.5)), "reference environment")
    assert not lagged.passed
    assert lagged.number == pytest.approx(0.5)


def test_the_influence_on_a_scale_counts() -> None:
    found = check(report(Step(DATA.schema, rho=0.0, gamma=0.4), draws=50), "reference environment")
    assert found.number == pytest.approx(0.4, rel=0.1)  # times a state's standard deviation, estimated as 1


def test_collinear_shifts_lack_rank() -> None:
    found = check(
        report(Step(DATA.schema, a=[[1.0, 2.0], [2.0, 4.0], [0.5, 1.0], [-1.0, -2.0]])), "shift rank"
    )
    assert not found.passed
    assert (found.number, found.threshold) == (1, 2)
    assert "a share of 0.00 lies outside the span of the others in the median" in found.sentence


def test_a_left_out_token_may_lie_outside_the_span_of_the_others() -> None:
    found = check(report(Step(DATA.schema, a=[[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])), "shift rank")
    assert found.passed
    assert found.sentence.endswith("1.00 for gene_0")


def test_the_decoder_has_its_loadings_singular_values() -> None:
    model = Step(DATA.schema)
    found = check(report(model), "decoder rank")
    singular = np.linalg.svd(model.C.numpy() / 0.7, compute_uv=False)
    assert found.passed
    assert found.number == pytest.approx(singular[-1] / singular[0], rel=1e-5)
    assert f"the smallest singular value is {singular[-1]:.3g}" in found.sentence


def test_a_singular_decoder_licenses_nothing() -> None:
    C = torch.randn(6, 1, generator=torch.Generator().manual_seed(0)) @ torch.tensor([[1.0, 2.0]])
    found = report(Step(DATA.schema, C=C, b=SCALES))
    assert not check(found, "decoder rank").passed
    assert check(found, "decoder rank").number < 1e-6
    assert found.equivalence == "none"
    assert "the decoder lacks full rank" in found.why


def test_the_invariant_state_counts_in_the_decoder() -> None:
    C = torch.cat([torch.eye(6)[:, :2], torch.eye(6)[:, :1]], dim=-1)
    found = report(Step(DATA.schema, C=C, n_invariant=1))
    assert not check(found, "decoder rank").passed


MANY = screen(n_cells=200)


def test_an_invariant_state_that_is_noise_is_invariant() -> None:
    found = check(report(Step(MANY.schema, n_invariant=1), MANY), "invariance of s")
    assert found.passed
    assert abs(found.number - 0.5) < 0.05


@pytest.mark.parametrize("weights", [{"leak": 1.0}, {"widening": 3.0}, {"tie": 1.0}])
def test_an_invariant_state_that_leaks_licenses_nothing(weights: dict[str, float]) -> None:
    found = report(Step(MANY.schema, n_invariant=1, b=SCALES), MANY, **weights)
    invariance = check(found, "invariance of s")
    assert not invariance.passed
    assert (invariance.number > invariance.threshold) == ("tie" not in weights)
    assert found.equivalence == "none"
    assert "the invariant state depends on" in found.why


def linear(layout: str, n_steps: int) -> tuple[LinearGaussian, cv.Trajectories]:
    data = screen(layout, n_steps=n_steps)
    model = LinearGaussian(data.schema, n_programs=2)
    with torch.no_grad():
        model.a.copy_(torch.tensor(APART))
    return model, data


def test_one_snapshot_leaves_the_graph_free_to_rotate() -> None:
    """After one step the covariance is F F^T + sigma^2, which F R leaves as it is for a rotation R."""
    model, data = linear("snapshot", 1)
    found = check(report(model, data), "lag graph")
    assert not found.passed
    assert (found.number, found.threshold) == (3, 4)
    # with F a multiple of the identity, the rotation moves both cross edges alike
    assert "program_0 -> program_1 at lag 1 (0.50)" in found.sentence
    assert "program_1 -> program_0 at lag 1 (0.50)" in found.sentence
    assert "program_0 -> program_0" not in found.sentence


@pytest.mark.parametrize(("layout", "n_steps"), [("sequences", 1), ("time course", 2)])
def test_steps_or_times_tell_the_graph(layout: str, n_steps: int) -> None:
    model, data = linear(layout, n_steps)
    assert check(licence(told(model), data, draws=3), "lag graph").passed


def test_the_classes_from_the_finest_to_none() -> None:
    schema, still = DATA.schema, [[0.0, 0.0]] * 4
    one_scale = [[0.5, 0.0], [0.5, 0.0], [0.5, 0.0], [0.5, 0.0]]
    classes = {
        "natural parameters": report(Step(schema, a=MIXED, b=SCALES)),
        "masks": report(Step(schema)),
        "time": report(Step(schema, a=still, gamma=0.4)),
        "shifts": report(Step(schema, a=MIXED)),
        "shifts and a scale": report(Step(schema, a=MIXED, b=one_scale)),
        "invariance": report(Step(MANY.schema, a=still, n_invariant=1), MANY),
        "nothing": report(Step(schema, a=still)),
    }
    assert {name: found.equivalence for name, found in classes.items()} == {
        "natural parameters": "component-wise",
        "masks": "component-wise",
        "time": "component-wise",
        "shifts": "orthogonal",
        "shifts and a scale": "affine",
        "invariance": "block",
        "nothing": "none",
    }


NOT_TRIED = {
    CiteVAE: set(),
    ContinuousTime: set(),
    Instantaneous: {"natural parameters", "mask support", "temporal variability"},
    StaticShift: {"invariance of s", "lag graph"},
    Switching: {"natural parameters", "mask support", "temporal variability", "shift rank", "lag graph"},
    TargetedLag: set(),
}


@pytest.mark.parametrize("kind", list(NOT_TRIED))
def test_every_model_is_asked_what_applies_to_it(kind: type[cv.LatentDynamics]) -> None:
    data = screen(values="counts", n_cells=30)
    options = {} if kind is StaticShift else {"n_invariant": 1}
    model = kind(data.schema, n_programs=2, hidden=4, **options)
    posterior = cv.Posterior(model, BackwardSmoother(model, hidden=4), pd.DataFrame(), {})
    found = licence(posterior, data, draws=2)
    table = found.table()
    assert len(table) == 8
    assert set(table.index[table.passed.isna()]) == NOT_TRIED[kind]
    tried = table[table.passed.notna()]
    assert tried.number.notna().all()
    assert tried.share.between(0, 1).all()
    assert table.sentence.str.len().min() > 0
    text = found.report()
    assert "no proof about the data" in text
    assert all(name in text for name in table.index)


def test_equal_calls_give_equal_reports() -> None:
    posterior = known({"a": torch.tensor(MIXED)}, scale=0.3)
    data = screen(values="counts")
    first = licence(posterior, data, draws=3)
    torch.manual_seed(7)
    again = licence(posterior, data, draws=3)
    assert first.report() == again.report()
    pd.testing.assert_frame_equal(first.table(), again.table())


def test_independent_sets_are_not_called_dependent() -> None:
    rng = np.random.default_rng(0)
    pvalues = [dependence(*rng.normal(size=(2, 60, 2)), seed=i).pvalue for i in range(40)]
    assert np.mean(np.array(pvalues) <= 0.1) < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 40)
    scores = [auc(rng.normal(size=(60, 2)), np.repeat(["a", "b", "c"], 20)) for _ in range(20)]
    assert abs(np.mean([one.value for one in scores]) - 0.5) < 0.05
    assert np.mean([one.value > 0.5 + 3 * one.chance_error for one in scores]) <= 0.05


def test_rare_labels_are_left_out_of_the_classifier() -> None:
    rows = np.random.default_rng(0).normal(size=(24, 1))
    assert auc(rows, np.array(["a"] * 20 + ["b"] * 4)) is None
    assert auc(rows, np.array(["a"] * 19 + ["b"] * 5)).n_labels == 2


def bad(**options: Any) -> Licence:
    return licence(told(Step(DATA.schema)), DATA, **options)


def test_an_ensemble_is_refused_since_its_members_order_programs_as_they_like() -> None:
    members = [told(Step(DATA.schema)) for _ in range(2)]
    for one in members:
        one.record["data"] = DATA.digest
    with pytest.raises(
        ModelError, match=r"licence\(posterior\) is an ensemble, whose programs have no common"
    ):
        licence(cv.Ensemble(members), DATA)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bad(draws=1), ModelError, r"licence\(draws=1, .*needs two draws and a cell at least"),
        (lambda: bad(most_cells=0), ModelError, r"most_cells=0.*needs two draws and a cell"),
        (lambda: bad(share=0.0), ModelError, r"share=0.0\) needs .* above 0 and up to 1"),
        (lambda: bad(share=1.5), ModelError, r"share=1.5\) needs"),
        (
            lambda: licence(told(Step(DATA.schema)), screen(n_genes=7)),
            DataError,
            r"another schema than the model; read it with schema=posterior.schema",
        ),
        (
            lambda: licence(told(Step(DATA.schema)), DATA.rows(DATA.row_step > 9)),
            DataError,
            r"licence\(data\) is empty; give the training cells",
        ),
    ],
)
def test_what_the_report_cannot_be_made_of_is_refused(call: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
