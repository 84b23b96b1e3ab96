"""Networks' parameters: sites of the program for who traces it, and none where only gradients are taken."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.data.batch import Batch
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer.bounds import negative_bound
from pyro_citevae.models import CiteVAE
from pyro_citevae.nn.network_parameters import without_network_parameters


@pytest.fixture
def programs() -> tuple[CiteVAE, BackwardSmoother, Batch]:
    data: cv.Trajectories = simulated()
    torch.manual_seed(0)
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=8)
    return model, BackwardSmoother(model, hidden=8), data.batch()


def stated(program: torch.nn.Module, batch: Batch) -> int:
    return len(poutine.trace(program).get_trace(batch).param_nodes)


def test_who_traces_a_program_finds_every_parameter(
    programs: tuple[CiteVAE, BackwardSmoother, Batch],
) -> None:
    model, guide, batch = programs
    networks = sum(len(list(one.parameters())) for one in model.children())
    assert stated(model, batch) >= networks > 0
    with pytest.raises(ZeroDivisionError), without_network_parameters():
        assert stated(model, batch) < networks
        _ = 1 / 0
    assert stated(model, batch) >= networks
    assert stated(guide, batch) > 0


def test_a_bound_and_its_gradients_are_those_of_pyro(
    programs: tuple[CiteVAE, BackwardSmoother, Batch],
) -> None:
    """Pyro's own states every parameter, and ours none of a network."""
    model, guide, batch = programs
    bound = negative_bound(model, guide, "elbo", alpha=0.0, particles=1)
    found = []
    for one in (bound, Trace_ELBO(max_plate_nesting=2)(model, guide)):
        torch.manual_seed(1)
        loss = one(batch)
        learnt = dict(bound.named_parameters())
        gradients = torch.autograd.grad(loss, list(learnt.values()), allow_unused=True)
        assert any("linear.weight" in name for name in learnt)
        found.append((loss.detach(), gradients))
    (loss, gradients), (same, of_pyro) = found
    assert torch.isclose(loss, same, rtol=1e-5)  # terms are summed in another order
    for ours, theirs in zip(gradients, of_pyro, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()) + 1e-6)
