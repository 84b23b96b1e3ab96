"""A step on a screen that lies on the device: the step that a fit takes otherwise, and nothing is read of it.

The recording itself needs a GPU (tests/test_gpu.py); what is recorded runs here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from gradient_of_processes import FixedNoise
from screens import simulated
from torch import Tensor

import pyro_citevae as cv
from pyro_citevae import registry
from pyro_citevae.data import Batch
from pyro_citevae.data.resident_screen import ResidentScreen
from pyro_citevae.errors import DivergenceError
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.infer import drawn_rows, optimisation
from pyro_citevae.infer.bounds import negative_bound
from pyro_citevae.infer.captured_step import CapturedStep, reads
from pyro_citevae.infer.evidence_lower_bound import EvidenceLowerBound
from pyro_citevae.models import CiteVAE, StaticShift
from pyro_citevae.nn.fixed_shapes import fixed_shapes
from pyro_citevae.nn.rows_in_use import RowsInUse

SIZE = 8
NOT_CAPTURED = {
    "ContinuousTime": "solvers.py",  # torchdiffeq asks how long its steps are
    "Switching": "switching.py",  # Pyro's sum over regimes reads each site's term
}


@pytest.fixture(scope="module")
def data() -> cv.Trajectories:
    return simulated(n_cells=60, n_genes=12, n_perturbations=4, combinations=("gene_0+gene_1",))


def screen_for(kind: type[cv.LatentDynamics]) -> cv.Trajectories:
    values = "real" if kind.__name__ == "LinearGaussian" else "counts"
    return simulated("time course", values, n_cells=24, n_genes=9)


def read_by(model: cv.LatentDynamics, guide: Any, batch: Batch) -> list[str]:
    bound = negative_bound(model, guide, "elbo", alpha=0.0, particles=1)
    model.in_use = RowsInUse.every(model.schema.n_tokens)
    learnt = [*model.parameters(), *guide.parameters()]
    try:
        with pyro.validation_enabled(False):
            return reads(lambda: bound(batch), learnt)
    finally:
        model.in_use = None


@pytest.mark.parametrize("name", registry.MODELS)
def test_no_shipped_model_reads_the_device_but_those_that_say_why(name: str) -> None:
    kind = registry.MODELS[name]
    if name == "ImageSequence":
        pytest.skip("images are sent, and not held on the device")
    data = screen_for(kind)
    model = kind(data.schema)
    found = read_by(model, BackwardSmoother(model), data.batch())
    if name in NOT_CAPTURED:
        assert any(NOT_CAPTURED[name] in one for one in found)
    else:
        assert not found


@pytest.mark.parametrize("name", registry.GUIDES)
def test_no_shipped_guide_reads_the_device(data: cv.Trajectories, name: str) -> None:
    model = CiteVAE(data.schema, n_programs=3)
    assert not read_by(model, registry.GUIDES[name](model), data.batch())


def test_every_switch_of_the_model_can_be_recorded(data: cv.Trajectories) -> None:
    on = {"direct": True, "edges": True, "mask": True, "pairs": 2, "epistasis": True}
    model = CiteVAE(data.schema, n_programs=3, **on)
    guide = BackwardSmoother(model, correlated=True, conditional=True)
    assert not read_by(model, guide, data.batch())


def test_the_line_that_stands_in_the_way_is_named(data: cv.Trajectories) -> None:
    model = StaticShift(data.schema)
    original = StaticShift.transition

    def transition(self: StaticShift, mechanism: cv.Mechanism, history: Any, u: Tensor) -> Any:
        return dist.Normal(original(self, mechanism, history, u).mean, float(u.sum()) + 1.0).to_event(1)

    try:
        StaticShift.transition = transition  # type: ignore[method-assign]
        found = read_by(model, MeanField(model), data.batch())
    finally:
        StaticShift.transition = original  # type: ignore[method-assign]
    assert found
    assert "reads a number from a tensor" in found[0]
    assert "test_captured_step.py, line" in found[0]


class _Fixed(MeanField):
    """A guide whose draws depend on the cell alone."""

    def forward(self, batch: Batch) -> None:
        with FixedNoise(batch):
            super().forward(batch)


@pytest.mark.parametrize("cells", [np.arange(SIZE), np.array([5, 40, 2])], ids=["whole", "in part"])
def test_the_bound_and_its_gradient_are_those_of_the_cells(data: cv.Trajectories, cells: np.ndarray) -> None:
    """Places without a cell count nothing, whatever is drawn for them."""
    torch.manual_seed(0)
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=8, onset=False)
    guide = _Fixed(model, hidden=8)
    bound = negative_bound(model, guide, "elbo", alpha=0.0, particles=1)
    screen = ResidentScreen(data, SIZE)
    parameters = [*model.parameters(), *guide.parameters()]
    found = []
    for batch, fixed in ((data.batch(cells), False), (screen(*screen.places(cells)), True)):
        with fixed_shapes(fixed):
            loss = bound(batch)
        found.append((loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-3)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-4 * float(one.abs().max()) + 1e-4)


def fitted(data: cv.Trajectories, **options: Any) -> cv.Posterior:
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=8)
    guide = BackwardSmoother(model, hidden=8)
    settings: dict[str, Any] = {"max_epochs": 30, "batch_size": 16, "validation": 0.0, "progress": False}
    return cv.fit(model, guide, data, **settings | options)


@pytest.fixture
def resident(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the screen lie on the CPU as it would on a GPU."""

    def made(model: Any, data: Any, settings: Any, loaders: Any, *_: Any) -> ResidentScreen:
        return ResidentScreen(data, settings.minibatch(data.n_cells - len(loaders.unseen)))

    monkeypatch.setattr(optimisation, "_resident", made)
    monkeypatch.setattr(CapturedStep, "compile", lambda *_: None)


@pytest.mark.parametrize("options", [{}, {"sampler": "balanced"}, {"n_particles": 3}], ids=str)
def test_a_fit_ends_where_one_by_minibatches_does(
    data: cv.Trajectories, resident: None, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """Two seeds of the plain fit differ by as much."""
    found = fitted(data, **options)
    request.getfixturevalue("monkeypatch").undo()
    plain, other = fitted(data, **options), fitted(data, seed=1, **options)
    bounds = [one.bound(data, seed=0) for one in (found, plain, other)]
    assert abs(bounds[0] - bounds[1]) < 2 * max(abs(bounds[1] - bounds[2]), 0.02 * abs(bounds[1]))
    assert list(found.history.columns) == list(plain.history.columns)
    assert (found.history["step"] == plain.history["step"]).all()
    assert np.isfinite(found.history[["training", "gradient_norm"]]).all(axis=None)
    assert found.history["training"].iloc[-1] > found.history["training"].iloc[0]


def test_a_fit_without_epochs_ends_by_its_bound(data: cv.Trajectories, resident: None) -> None:
    found = fitted(data, max_epochs=None, max_steps=260, validation=0.25)
    assert found.record["course"]["steps"] == 260
    assert np.isfinite(found.history["held_out"]).any()


def test_it_goes_on_from_its_state(data: cv.Trajectories, resident: None, tmp_path: Any) -> None:
    """To the same posterior as without the interruption."""
    whole = fitted(data, max_epochs=6)
    calls = iter(range(1000))
    step = CapturedStep.__call__

    def cut_off(self: CapturedStep, *given: Any) -> None:
        if next(calls) == 14:
            raise KeyboardInterrupt
        step(self, *given)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CapturedStep, "__call__", cut_off)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fitted(data, max_epochs=6, checkpoints=tmp_path / "state")
    again = fitted(data, max_epochs=6, checkpoints=tmp_path / "state", resume=True)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, rtol=0, atol=0)


def test_rows_of_large_tables_are_taken_on_the_device_too(
    data: cv.Trajectories, resident: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fitted(data)
    monkeypatch.setattr(drawn_rows, "_MANY_OWN_VALUES", 0)
    some = fitted(data)
    bounds = [one.bound(data, seed=0) for one in (plain, some)]
    assert abs(bounds[0] - bounds[1]) < 0.05 * abs(bounds[0])


@pytest.mark.parametrize("what", ["bound", "gradient"])
def test_a_step_that_is_no_number_changes_nothing_and_is_told(
    data: cv.Trajectories, resident: None, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tempered: Callable[..., Tensor] = EvidenceLowerBound._tempered
    steps = iter(range(1000))

    def broken(self: EvidenceLowerBound, batch: Batch, weight: Tensor) -> Tensor:
        loss, step = tempered(self, batch, weight), next(steps)
        if step < 10:
            return loss
        return loss * torch.nan if what == "bound" else loss + (self.model.mu_a * 0).sqrt().sum()

    monkeypatch.setattr(EvidenceLowerBound, "_tempered", broken)
    with pytest.raises(DivergenceError, match=rf"{what} became .* at step 10 .*lower learning_rate") as told:
        fitted(data, learning_rate=1e-3)
    kept = told.value.last_good
    assert all(torch.isfinite(one).all() for one in kept.model.state_dict().values())
