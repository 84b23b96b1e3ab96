"""Laws of the guides: every factorisation with every family of the mechanism's posterior."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from screens import simulated

import pyro_citevae as cv
from pyro_citevae import models
from pyro_citevae.amortization import normal
from pyro_citevae.data import Batch
from pyro_citevae.errors import ModelError
from pyro_citevae.guides import (
    BackwardSmoother,
    Flow,
    ForwardFilter,
    Framewise,
    KalmanSmoother,
    MeanField,
    MechanismPosterior,
)
from pyro_citevae.models import CiteVAE, ImageSequence, LinearGaussian
from pyro_citevae.nn.flow import InverseAutoregressiveFlow
from pyro_citevae.nn.networks import BackwardRecurrence

FAMILIES = ["normal", "low_rank", "full_rank", "flow"]
QUICK = {"max_epochs": 2, "batch_size": 64, "progress": False, "validate": True}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


screen = partial(simulated, n_cells=40, n_programs=3)


def citevae(data: cv.Trajectories) -> CiteVAE:
    torch.manual_seed(0)
    terms = {"mask": True, "edges": True, "direct": True}
    return CiteVAE(data.schema, n_programs=3, n_invariant=2, n_lags=2, hidden=8, **terms)


def stirred(module: torch.nn.Module, size: float = 0.3) -> torch.nn.Module:
    """The module away from its start, where every part of a flow is at work."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module


# the mechanism's posterior


def test_every_global_site_is_drawn_under_a_plate_of_draws(family: str) -> None:
    model = citevae(screen())
    posterior = MechanismPosterior(model, family, most=20)
    prior = poutine.trace(model.mechanism).get_trace()
    events = {name: node["value"].shape for name, node in prior.iter_stochastic_nodes()}
    assert {name: value.shape for name, value in posterior().items()} == events
    with pyro.plate("draw", 5, dim=-3):
        drawn = posterior()
    assert {name: value.shape for name, value in drawn.items()} == {
        name: (5, 1, 1, *event) for name, event in events.items()
    }


def test_large_sites_stay_independent() -> None:
    model = citevae(screen())  # e has 3 x 3 x 7 values, d 21, all others fewer
    sizes = {"e": 63, "d": 21}
    posterior = stirred(MechanismPosterior(model, "low_rank", most=20))
    with pyro.plate("draw", 4000, dim=-3):
        drawn = posterior()
    flat = {name: value.detach().flatten(1).numpy() for name, value in drawn.items()}

    def strongest(name: str) -> float:
        return np.abs(np.corrcoef(flat[name].T) - np.eye(flat[name].shape[1])).max()

    assert all(strongest(name) < 0.1 for name in sizes)
    assert strongest("a") > 0.1


def test_all_families_start_near_the_same_normal(family: str) -> None:
    model = citevae(screen())
    with pyro.plate("draw", 4000, dim=-3):
        drawn = {name: value.detach()[:, 0, 0] for name, value in MechanismPosterior(model, family)().items()}
    with pyro.plate("draw", 4000, dim=-3):
        prior = {name: node["value"][:, 0, 0] for name, node in
                 poutine.trace(model.mechanism).get_trace().iter_stochastic_nodes()}  # fmt: skip
    for name in ("W", "a", "b"):
        # the median of 15 draws of the prior has a third of its sd, and there are dozens of them
        assert ((drawn[name].mean(0) - prior[name].median(0).values).abs() < 1.5 * prior[name].std(0)).all()
        assert torch.allclose(
            drawn[name].std(0), torch.tensor(0.05), rtol=0.9 if family == "low_rank" else 0.1
        )


def test_independent_sites_are_normal_on_their_unconstrained_scale() -> None:
    """Densities of a real and of a positive site by hand, under draws whose sites are drawn as themselves."""
    posterior = stirred(MechanismPosterior(citevae(screen())))
    trace = poutine.trace(posterior).get_trace()
    trace.compute_log_prob()
    assert set(posterior.event_dims) == {name for name, _ in trace.iter_stochastic_nodes()}
    locs, scales = posterior.independent.locs, posterior.independent.scales
    for name, unconstrained in (("a", torch.clone), ("kappa", torch.log)):
        value = trace.nodes[name]["value"]
        law = torch.distributions.Normal(getattr(locs, name), getattr(scales, name))
        jacobian = value.log().sum() if name == "kappa" else 0.0
        expected = law.log_prob(unconstrained(value)).sum() - jacobian
        torch.testing.assert_close(trace.nodes[name]["log_prob"], expected)


def test_equal_constructions_are_equal(family: str) -> None:
    model = citevae(screen())
    one = MechanismPosterior(model, family).state_dict()
    torch.manual_seed(5)
    two = MechanismPosterior(model, family).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_model_without_global_sites_has_an_empty_posterior(family: str) -> None:
    assert MechanismPosterior(LinearGaussian(screen(values="real").schema), family)() == {}


def test_gradients_reach_every_parameter_of_the_mechanism(family: str) -> None:
    posterior = stirred(MechanismPosterior(citevae(screen()), family))
    trace = poutine.trace(posterior).get_trace()
    values = [node["value"].square().sum() for _, node in trace.iter_stochastic_nodes()]
    (trace.log_prob_sum() + torch.stack(values).sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in posterior.parameters())


def test_the_density_of_a_draw_is_that_of_the_same_values_scored_anew(family: str) -> None:
    posterior = stirred(MechanismPosterior(citevae(screen()), family), 0.1)
    trace = poutine.trace(posterior).get_trace()
    cached = trace.log_prob_sum()
    for node in trace.nodes.values():
        if node["type"] == "sample":
            node["value"] = node["value"].clone()  # a flow knows its own draws by their identity
            node.pop("log_prob_sum", None), node.pop("log_prob", None)
    assert torch.allclose(cached, trace.log_prob_sum(), rtol=1e-4)


def test_a_family_by_another_name_is_refused() -> None:
    with pytest.raises(
        ModelError, match="family='full'\\) is not a family; name one of normal, low_rank, full_rank, flow"
    ):
        MechanismPosterior(citevae(screen()), "full")


# the flow


def test_the_flow_starts_at_the_identity() -> None:
    law = InverseAutoregressiveFlow(3, 2)(torch.ones(5, 3), torch.full((5, 3), 2.0), torch.randn(5, 2))
    value = torch.randn(5, 3)
    expected = torch.distributions.Normal(1.0, 2.0).log_prob(value).sum(-1)
    assert torch.allclose(law.log_prob(value), expected, atol=1e-5)


@pytest.mark.parametrize("n_features", [1, 2])
def test_the_density_of_the_flow_integrates_to_one(n_features: int) -> None:
    flow = stirred(InverseAutoregressiveFlow(n_features, 1, hidden=16))
    grid = torch.linspace(-25, 25, 1001)
    points = torch.cartesian_prod(*[grid] * n_features).reshape(-1, n_features)
    context = torch.full((1, 1), 0.7)
    with torch.no_grad():
        law = flow(torch.zeros(n_features), torch.ones(n_features), context)
        mass = law.log_prob(points).exp().sum() * 0.05**n_features
    assert abs(float(mass) - 1) < 1e-3


def test_importing_the_library_leaves_validation_on() -> None:
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(0.0, -1.0)


# every guide


KINDS = {
    "MeanField": MeanField,
    "BackwardSmoother": BackwardSmoother,
    "BackwardSmoother, conditional": partial(BackwardSmoother, correlated=True, conditional=True),
    "ForwardFilter": ForwardFilter,
    "ForwardFilter, correlated": partial(ForwardFilter, correlated=True),
    "Flow": Flow,
    "Framewise": Framewise,
    "KalmanSmoother": KalmanSmoother,
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Callable[..., cv.AmortizedGuide]:
    return KINDS[request.param]


@pytest.fixture(params=["time course", "sequences", "snapshot"])
def pair(
    request: pytest.FixtureRequest, kind: Callable[..., cv.AmortizedGuide], family: str
) -> tuple[cv.LatentDynamics, cv.AmortizedGuide, Batch]:
    data = screen(request.param)
    model = citevae(data)
    return model, stirred(kind(model, hidden=8, mechanism=family), 0.15), data.batch()


def test_a_guide_has_the_sites_of_its_model(pair: tuple) -> None:
    model, guide, batch = pair
    own = poutine.trace(guide).get_trace(batch).iter_stochastic_nodes()
    own = {name for name, node in own if not node["infer"].get("is_auxiliary")}
    its = {name for name, _ in poutine.trace(model).get_trace(batch).iter_stochastic_nodes()}
    assert own - {"cell"} == its - {"cell", "slot"}  # the plates


def test_the_bound_has_a_gradient_in_every_parameter_of_the_guide(pair: tuple) -> None:
    model, guide, batch = pair
    Trace_ELBO(max_plate_nesting=2).differentiable_loss(model, guide, batch).backward()
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if name == "recurrence.cell.weight_hh" and len(batch.step) == 1:
            continue  # one observation a cell: nothing recurs
        assert parameter.grad.abs().sum() > 0, name


def test_many_draws_at_once_score_as_each_alone(pair: tuple) -> None:
    """Scored anew from the values alone, one draw at a time: no plate and no cache changes a density."""
    _, guide, batch = pair
    with pyro.plate("draw", 3, dim=-3), torch.no_grad():
        trace = poutine.trace(guide).get_trace(batch)
    trace.compute_log_prob()
    sites = {name: node for name, node in trace.iter_stochastic_nodes() if name != "cell"}
    together = sum(node["log_prob"].sum((1, 2)) for node in sites.values())
    local = [name for name in sites if name == "s" or name.startswith("z_")]
    free = [name for name, node in sites.items() if not isinstance(node["fn"], dist.Delta)]
    for draw in range(3):
        values = {name: sites[name]["value"][draw, 0] for name in free}
        values |= {name: value[0] for name, value in values.items() if name not in local}
        alone = poutine.trace(poutine.condition(guide, values)).get_trace(batch)
        assert torch.allclose(together[draw], alone.log_prob_sum(), rtol=1e-4, atol=1e-2)


def test_values_of_slots_without_observation_do_not_matter(kind: Callable[..., cv.AmortizedGuide]) -> None:
    data = gappy()
    model = citevae(data)
    guide, batch = stirred(kind(model, hidden=8), 0.1), data.batch()
    noisy = replace(batch, library=torch.where(batch.observed, batch.library, batch.library * 7))
    losses = []
    for one in (batch, noisy):
        torch.manual_seed(0)
        losses.append(Trace_ELBO(max_plate_nesting=2).loss(model, guide, one))
    assert losses[0] == losses[1]


def test_a_copy_works_without_the_original(kind: Callable[..., cv.AmortizedGuide], family: str) -> None:
    data = screen()
    model = citevae(data)
    guide = kind(model, hidden=8, mechanism=family)
    copied_model, copied = copy.deepcopy((model, guide))
    assert copied.model is copied_model
    torch.manual_seed(0)
    expected = poutine.trace(guide).get_trace(data.batch()).log_prob_sum()
    del model, guide
    gc.collect()
    torch.manual_seed(0)
    assert torch.equal(poutine.trace(copied).get_trace(data.batch()).log_prob_sum(), expected)


@pytest.mark.parametrize(
    ("guide", "family"),
    [*((name, "flow") for name in KINDS), ("MeanField", "normal"), ("MeanField", "low_rank")],
)
def test_a_run_saves_and_loads_with_equal_draws(guide: str, family: str, tmp_path: Path) -> None:
    data = screen()
    made = KINDS[guide](citevae(data), hidden=8, mechanism=family)
    posterior = cv.fit(citevae(data), made, data, **QUICK)
    posterior.save(tmp_path / "run")
    loaded = cv.load(tmp_path / "run")
    assert loaded.guide.settings["mechanism"] == family
    assert loaded.bound(data) == posterior.bound(data)
    one, two = (p.to_datatree(data, draws=3)["posterior"].to_dataset() for p in (posterior, loaded))
    for exported in (one, two):
        exported.attrs.pop("created_at")  # to the second
    assert one.identical(two)


@pytest.mark.parametrize("model", [getattr(models, name) for name in models.__all__])
def test_every_model_takes_every_guide(
    model: type[cv.LatentDynamics], kind: Callable[..., cv.AmortizedGuide]
) -> None:
    data = screen(values="real" if model in (LinearGaussian, ImageSequence) else "counts")
    if model is ImageSequence:
        data = replace(data, schema=replace(data.schema, image=(1, data.schema.n_genes, 1)))
    program = model(data.schema, n_programs=2)
    if kind is KalmanSmoother and program.enumerated:
        with pytest.raises(ModelError, match="sums over the regimes of a cell; use BackwardSmoother"):
            kind(program)
        return
    guide = kind(program, hidden=8, mechanism="flow")
    posterior = cv.fit(program, guide, data, **{**QUICK, "max_epochs": 1, "n_particles": 2})
    assert np.isfinite(posterior.bound(data))
    assert np.isfinite(posterior.effect(cv.do("gene_1"), cells=data.controls(), draws=3)).all()


def test_framewise_reads_a_state_from_its_own_observation_alone() -> None:
    """A cell seen at one step has the law that the same cell has there when all its steps are seen."""
    data = screen("sequences")
    guide = stirred(Framewise(citevae(data), hidden=8), 0.3)
    t = int(data.row_step.max())
    alone = data.rows(data.row_step == t)

    def law(of: cv.Trajectories) -> torch.Tensor:
        node = poutine.trace(guide).get_trace(of.batch()).nodes[f"z_{t}"]
        return torch.stack([node["fn"].mean, node["fn"].variance])

    assert torch.allclose(law(alone), law(data), atol=1e-5)


def test_a_guide_serves_the_model_that_it_is_fitted_with() -> None:
    data = screen()
    model, other = citevae(data), citevae(data)
    posterior = cv.fit(model, KalmanSmoother(other, hidden=8), data, **QUICK)
    assert posterior.guide.model is posterior.model


def test_a_kalman_smoother_needs_a_newton_step_and_normal_states() -> None:
    data = screen()
    with pytest.raises(ModelError, match=r"iterations=0\) needs one Newton step at least"):
        KalmanSmoother(citevae(data), iterations=0)

    class HeavyTails(cv.LatentDynamics):
        def mechanism(self):  # type: ignore[no-untyped-def]
            return cv.Mechanism()

        def initial(self, mechanism):  # type: ignore[no-untyped-def]
            return dist.StudentT(torch.full((self.n_programs,), 4.0)).to_event(1)

        def transition(self, mechanism, history, u):  # type: ignore[no-untyped-def]
            return dist.Normal(history[-1], 1.0).to_event(1)

        def emission(self, mechanism, z, s, library):  # type: ignore[no-untyped-def]
            return dist.Poisson(z.sum(-1, keepdim=True).exp().expand(*z.shape[:-1], 7)).to_event(1)

    with pytest.raises(ModelError, match=r"needs normal laws of the states, and HeavyTails gives .*StudentT"):
        KalmanSmoother(HeavyTails(data.schema, n_programs=2))(data.batch())


# the flow guide, the filter and their laws


def test_a_flow_starts_at_the_bound_of_the_smoother() -> None:
    data = screen("sequences", "real")
    model = LinearGaussian(data.schema, n_programs=2)
    smoother, flow = BackwardSmoother(model, hidden=8), Flow(model, hidden=8)
    flow.load_state_dict(smoother.state_dict(), strict=False)
    losses = []
    for guide in (smoother, flow):
        torch.manual_seed(0)
        losses.append(Trace_ELBO(max_plate_nesting=2).loss(model, guide, data.batch()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_fitting_starts_a_flow_at_the_identity() -> None:
    data = screen()
    guide = stirred(Flow(citevae(data), hidden=8))
    fitted = cv.fit(citevae(data), guide, data, **{**QUICK, "max_epochs": 1, "learning_rate": 1e-9})
    flows = [part for part in fitted.guide.modules() if isinstance(part, InverseAutoregressiveFlow)]
    assert len(flows) == 3
    for flow in flows:
        n, context = flow.transforms[0].hyper[-1].out_features // 2, flow.transforms[0].hyper[0].in_features
        c = torch.randn(context - n) if context > n else None
        value = torch.randn(n)
        assert torch.allclose(
            flow(torch.zeros(n), torch.ones(n), c).log_prob(value),
            torch.distributions.Normal(0.0, 1.0).log_prob(value).sum(),
            atol=1e-4,
        )


@pytest.mark.parametrize("guide", ["Flow", "BackwardSmoother, conditional"])
def test_states_depend_on_the_drawn_mechanism(guide: str) -> None:
    data = screen()
    made = stirred(KINDS[guide](citevae(data), hidden=8, mechanism="normal"), 0.1)
    a = torch.zeros(3, 3, requires_grad=True)
    trace = poutine.trace(poutine.condition(made, {"a": a})).get_trace(data.batch())
    for site in ("z_0", "z_3", "s"):
        (gradient,) = torch.autograd.grad(trace.nodes[site]["value"].sum(), a, retain_graph=True)
        assert (gradient.abs().sum(1) > 0).all()


def test_what_the_mechanism_foresees_moves_with_the_dose() -> None:
    """The shift of a token reaches what is foreseen for its own cells alone."""
    data = screen()
    model = citevae(data)
    guide, batch = Flow(model, hidden=8), data.batch()
    drawn = {name: value.detach() for name, value in guide.mechanism().items()}
    moved = drawn | {"a": drawn["a"] + torch.tensor([1.0, 0.0, 0.0])[:, None]}
    summary = guide.summary(batch)
    change = guide.foreseen(batch, summary, moved) - guide.foreseen(batch, summary, drawn)
    treated = batch.u[-1, :, 0] > 0
    assert (change[treated].abs() > 0).all()
    assert (change[~treated] == 0).all()


def gappy() -> cv.Trajectories:
    data = screen("sequences")
    return data.rows((data.row_step != 2) | (data.row_cell % 2 == 0))


@pytest.mark.parametrize("correction", [0, 8])
def test_a_filtered_state_sees_the_observations_from_its_step_on(correction: int) -> None:
    data = gappy()
    guide = stirred(ForwardFilter(citevae(data), hidden=8, correction=correction))
    batch = data.batch()
    batch.x.value.requires_grad_()
    fixed = {"s": torch.zeros(40, 2)} | {f"z_{t}": torch.zeros(40, 3) for t in range(4)}
    trace = poutine.trace(poutine.condition(guide, fixed)).get_trace(batch)
    for t in range(4):
        scale = trace.nodes[f"z_{t}"]["fn"].base_dist.scale
        (gradient,) = torch.autograd.grad(scale.sum(), batch.x.value, retain_graph=True)
        slots = (batch.x.row // batch.n_cells)[gradient != 0].unique()
        assert (slots + 1).tolist() == list(range(max(t, 1), 4))


def test_the_recurrence_skips_what_was_not_observed() -> None:
    torch.manual_seed(0)
    recurrence = BackwardRecurrence(3, 4)
    x, observed = torch.randn(3, 2, 3), torch.tensor([[True, True], [False, True], [True, True]])
    states = recurrence(x, observed)
    assert torch.equal(states[3], torch.zeros(2, 4))
    assert torch.equal(states[1, 0], states[2, 0])
    assert not torch.equal(states[1, 1], states[2, 1])
    without = recurrence(x[[0, 2]], torch.ones(2, 2, dtype=torch.bool))
    assert torch.allclose(states[0, 0], without[0, 0])


def test_a_correlated_state_is_a_normal_with_a_triangular_scale() -> None:
    output = torch.tensor([1.0, 2.0, 0.0, 0.0, 0.5])
    law = normal(output, 2)
    scale = np.log(2) + 1e-4
    assert torch.allclose(law.mean, output[:2])
    assert torch.allclose(law.scale_tril, scale * torch.tensor([[1.0, 0.0], [0.5, 1.0]]))
    diagonal = torch.cat([output[:4], torch.zeros(1)])
    value = torch.randn(2)
    assert torch.allclose(normal(diagonal, 2).log_prob(value), normal(output[:4], 2).log_prob(value))
