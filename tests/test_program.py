"""Laws of the program and the guides, for every shipped pair."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data import Batch
from pyro_citevae.errors import CiteVAEError, CiteVAEWarning
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.infer.bounds import negative_bound
from pyro_citevae.models import (
    CiteVAE,
    ContinuousTime,
    Instantaneous,
    LinearGaussian,
    StaticShift,
    Switching,
    TargetedLag,
)

MODELS = {
    "CiteVAE": lambda schema: CiteVAE(schema, n_programs=3, n_invariant=2, n_lags=2, hidden=8, mask=True),
    "ContinuousTime": lambda schema: ContinuousTime(schema, n_programs=3, n_invariant=1, hidden=8),
    "Instantaneous": lambda schema: Instantaneous(schema, n_programs=3, n_invariant=1, n_lags=2, hidden=8),
    "LinearGaussian": lambda schema: LinearGaussian(schema, n_programs=3, n_lags=2),
    "StaticShift": lambda schema: StaticShift(schema, n_programs=3, hidden=8),
    "Switching": lambda schema: Switching(schema, n_programs=3, n_invariant=1, n_lags=2, hidden=8),
    "TargetedLag": lambda schema: TargetedLag(schema, n_programs=3, n_invariant=1, n_lags=2, hidden=8),
}
GUIDES = {"MeanField": MeanField, "BackwardSmoother": BackwardSmoother}


@pytest.fixture(params=["time course", "sequences", "snapshot"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=list(MODELS))
def model_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=list(GUIDES))
def pair(
    request: pytest.FixtureRequest, model_name: str, layout: str
) -> tuple[cv.LatentDynamics, AmortizedGuide, cv.Trajectories]:
    data = screen(layout, "real" if model_name == "LinearGaussian" else "counts")
    torch.manual_seed(0)
    model = MODELS[model_name](data.schema)
    return model, GUIDES[request.param](model, hidden=8), data


screen = partial(simulated, n_cells=40, n_programs=3)


def loss(
    model: cv.LatentDynamics, guide: AmortizedGuide, batch: Batch, seed: int = 0, particles: int = 1
) -> torch.Tensor:
    torch.manual_seed(seed)
    return negative_bound(model, guide, "elbo", alpha=0.0, particles=particles)(batch)


def latent_sites(program: object, *arguments: Batch) -> set[str]:
    trace = poutine.trace(program).get_trace(*arguments)
    return {
        name
        for name, node in trace.nodes.items()
        if node["type"] == "sample"
        and not node["is_observed"]
        and not node["infer"].get("is_auxiliary")
        and not node["infer"].get("enumerate")
        and type(node["fn"]).__name__ != "_Subsample"
    }


def test_model_and_guide_have_the_same_latent_sites(pair: tuple) -> None:
    model, guide, data = pair
    batch = data.batch()
    assert latent_sites(model, batch) == latent_sites(guide, batch)


def test_training_and_prediction_share_their_sites(pair: tuple) -> None:
    model, _, data = pair
    batch = data.batch()
    assert latent_sites(model, batch) | {"x"} == latent_sites(model, batch.unobserved())


def test_the_loss_is_finite_and_reaches_every_parameter(pair: tuple) -> None:
    model, guide, data = pair
    loss(model, guide, data.batch()).backward()
    # the last layer of each correction starts at zero, which holds back the gradient of those before it
    held_back = {
        id(parameter)
        for part in (model, guide)
        for name, parameter in part.named_parameters()
        if "correction" in name and ".4." not in name
    }
    for part in (model, guide):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    alive = [p for part in (model, guide) for p in part.parameters() if id(p) not in held_back]
    assert np.mean([bool(p.grad.abs().sum() > 0) for p in alive]) > 0.85


def test_vectorised_particles_average_to_the_loop(pair: tuple) -> None:
    model, guide, data = pair
    batch = data.batch()
    with torch.no_grad():
        looped = np.array([float(loss(model, guide, batch, seed)) for seed in range(40)])
        vectorised = float(loss(model, guide, batch, particles=400))
    assert abs(vectorised - looped.mean()) < 5 * looped.std() / np.sqrt(36)


def test_a_dose_does_not_reach_earlier_states(pair: tuple) -> None:
    model, _, data = pair
    with torch.no_grad():
        for parameter in model.parameters():  # a shift that starts at zero would hide a leak
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = data.batch()
    u = batch.u.clone().requires_grad_()
    torch.manual_seed(0)
    early = poutine.trace(model).get_trace(with_doses(batch, u)).nodes["z_1"]["value"]
    (gradient,) = torch.autograd.grad(early.sum(), u, allow_unused=True)
    assert gradient is not None
    assert gradient[2:].abs().sum() == 0
    if "time" in data.schema.design:
        assert gradient[1].abs().sum() > 0


def with_doses(batch: Batch, u: torch.Tensor) -> Batch:
    return replace(batch, u=u)


def test_masked_slots_do_not_move_the_loss() -> None:
    full = screen("sequences")
    gappy = full.rows((full.row_step != 2) | (full.row_cell % 2 == 0))
    model = MODELS["CiteVAE"](full.schema)
    guide = BackwardSmoother(model, hidden=8)
    batch = gappy.batch()
    noisy_library = torch.where(batch.observed, batch.library, batch.library * 7)
    with torch.no_grad():
        assert loss(model, guide, batch) == loss(model, guide, replace(batch, library=noisy_library))


def test_a_minibatch_estimates_the_whole(layout: str) -> None:
    data = screen(layout)
    model = MODELS["CiteVAE"](data.schema)
    guide = BackwardSmoother(model, hidden=8)
    with torch.no_grad():
        whole = np.mean([float(loss(model, guide, data.batch(), s)) for s in range(100)])
        halves = [
            float(loss(model, guide, data.batch(part), s))
            for s in range(100)
            for part in (np.arange(0, 40, 2), np.arange(1, 40, 2))
        ]
    assert abs(np.mean(halves) - whole) < 5 * np.std(halves) / np.sqrt(70)


def test_permuting_cells_permutes_what_the_emission_says() -> None:
    data = screen("time course")
    model = MODELS["CiteVAE"](data.schema)
    order = np.random.default_rng(0).permutation(40)
    batch, permuted = data.batch(), data.batch(order)
    torch.manual_seed(0)
    trace = poutine.trace(model).get_trace(batch)
    values = {
        name: node["value"][order] if name == "s" or name.startswith("z_") else node["value"]
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not node["is_observed"]
    }
    with torch.no_grad():
        again = poutine.condition(model, data=values)(permuted).emission.mean
    assert torch.allclose(trace.nodes["x"]["fn"].mean[:, order], again, rtol=1e-5)


def test_genes_and_cells_without_counts_give_a_finite_loss(layout: str) -> None:
    data = screen(layout)
    values = data.values.tolil()
    values[:, 2] = 0
    values[5] = 0
    empty = replace(
        data, values=values.tocsr(), library=np.where(np.arange(data.n_observations) == 5, 1, data.library)
    )
    model = MODELS["CiteVAE"](data.schema)
    assert torch.isfinite(loss(model, BackwardSmoother(model, hidden=8), empty.batch()))


def test_the_step_after_the_last_observation_is_free() -> None:
    """Cells seen at step 1 have the same bound whether the program walks one step or three."""
    data = screen("time course")
    first = data.select(time=1)
    assert first.batch().n_steps == 1
    model = MODELS["CiteVAE"](data.schema)
    guide = MeanField(model, hidden=8)
    short, long = first.batch(), with_doses(first.batch(), data.batch(np.arange(first.n_cells)).u * 0)
    assert long.n_steps == 3
    with torch.no_grad():
        means = [
            np.mean([float(loss(model, guide, with_doses(one, one.u * 0), s)) for s in range(150)])
            for one in (short, long)
        ]
    spread = np.std([float(loss(model, guide, long, s).detach()) for s in range(100)])
    assert abs(means[0] - means[1]) < 5 * spread * np.sqrt(2 / 150)


def test_a_hook_cannot_see_counts() -> None:
    """Doses, exposures, steps, batches and library sizes are all that the program hands to a hook."""
    data = screen("time course")
    model = MODELS["CiteVAE"](data.schema)
    batch = data.batch()
    torch.manual_seed(0)
    with torch.no_grad():
        seen = model(batch).emission.mean
        torch.manual_seed(0)
        doubled = replace(batch.x, value=batch.x.value * 2)
        unseen = model(replace(batch, x=doubled)).emission.mean
    assert torch.equal(seen, unseen)


def test_only_the_perturbed_gene_has_an_own_transcript_term() -> None:
    data = screen("time course")
    model = CiteVAE(data.schema, n_programs=2, hidden=4, direct=False, group=False)
    batch = replace(
        data.batch(np.zeros(3, dtype=int)),
        u=torch.eye(3)[None].expand(2, -1, -1),
        step=torch.ones(1, 3).long(),
    )
    doses = batch.exposure * 1e6  # so much that a token's effect has set in
    change = model.observation(model.mechanism(), doses, batch.step, batch.technical).offset[0]
    assert change.shape == (3, 7)
    assert (change != 0).nonzero().tolist() == [[0, 0], [1, 1], [2, 2]]


def test_a_share_of_the_library_leaves_room_for_unmeasured_genes() -> None:
    data = cv.datasets.load("norman_subset")
    model = CiteVAE(data.schema, n_programs=2, n_invariant=0, hidden=4)
    batch = data.batch(np.arange(10))
    with torch.no_grad():
        mean = model(batch).emission.mean
    assert (mean.sum(-1) < batch.library).all()


def test_an_abstract_model_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        cv.LatentDynamics(screen("snapshot").schema)


def test_a_missing_symbol_of_the_mechanism_is_named() -> None:
    with pytest.raises(AttributeError, match="has no 'B'; mechanism\\(\\) returned A"):
        _ = cv.Mechanism(A=torch.zeros(())).B


def test_the_errors_are_one_family() -> None:
    from pyro_citevae import errors

    family = set(errors.__all__) - {"InterruptedFit"}  # which is an interrupt first of all
    assert all(issubclass(getattr(errors, name), CiteVAEError | CiteVAEWarning) for name in family)
    assert issubclass(errors.InterruptedFit, KeyboardInterrupt)
    assert pyro.settings.get("module_local_params")
