"""A compiled step: draws, loss and gradients of the plain one, and a word where there is no compiler."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.data.resident_screen import ResidentScreen
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.infer import compiled_step, optimisation
from pyro_citevae.infer.bounds import negative_bound
from pyro_citevae.infer.captured_step import CapturedStep
from pyro_citevae.models import CiteVAE, StaticShift
from pyro_citevae.nn.rows_in_use import RowsInUse


def fitted(data: cv.Trajectories, **options: Any) -> cv.Posterior:
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    guide = MeanField(model, hidden=4)
    settings: dict[str, Any] = {"max_epochs": 3, "batch_size": 16, "validation": 0.0, "progress": False}
    return cv.fit(model, guide, data, **settings | options)


@pytest.fixture(scope="module")
def data() -> cv.Trajectories:
    return simulated(n_cells=60, n_genes=12, n_perturbations=4)


needs_a_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="there is no C++ compiler"
)


@needs_a_compiler
@pytest.mark.slow
@pytest.mark.parametrize("small", [True, False])
def test_loss_and_gradients_are_those_of_the_plain_step(data: cv.Trajectories, small: bool) -> None:
    """With the same draws, the random numbers after it too; sums round in another order."""
    torch.manual_seed(0)
    model = StaticShift(data.schema, n_programs=2) if small else CiteVAE(data.schema, hidden=8)
    guide = MeanField(model, hidden=4) if small else BackwardSmoother(model, hidden=8)
    module, screen = torch.nn.ModuleList([model, guide]), ResidentScreen(data, 16)
    bound = negative_bound(model, guide, "elbo", alpha=0.0, particles=1)
    model.in_use = RowsInUse.every(model.schema.n_tokens)

    def weighed(index: torch.Tensor, weight: torch.Tensor, kl_weight: torch.Tensor) -> torch.Tensor:
        return kl_weight * bound(screen(index, weight))

    given = (*screen.places(np.arange(16)), torch.tensor(0.5))
    with pyro.validation_enabled(False):
        ways = compiled_step.compiled(weighed, module, *given), compiled_step.differentiated(weighed)
        for seed in (0, 1):
            found = []
            for way in ways:
                module.zero_grad()
                torch.manual_seed(seed)
                loss = way(*given)
                found.append([loss, torch.rand(3), *(one.grad for one in module.parameters())])
            for one, other in zip(*found, strict=True):
                assert (one is None) == (other is None)
                if other is not None:
                    error = 1e-4 * float(other.abs().max()) + 1e-6
                    torch.testing.assert_close(one, other, rtol=1e-3, atol=error)


@needs_a_compiler
def test_a_fit_by_it_is_the_fit_by_plain_steps(
    data: cv.Trajectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam takes what is rounded otherwise for another direction where a gradient is next to nothing."""
    made = fitted(data, compile="always")
    monkeypatch.setattr(CapturedStep, "compile", lambda *_: None)
    plain = fitted(data, compile="always")
    columns = ["training", "gradient_norm", "step"]
    np.testing.assert_allclose(made.history[columns], plain.history[columns], rtol=5e-3)


def test_where_it_cannot_be_compiled_it_is_run_and_said(
    data: cv.Trajectories, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    module = "pyro_citevae.infer.evidence_lower_bound.say"
    monkeypatch.setattr(module, lambda line, *, shown: told.append(line))

    def missing(*_: Any) -> None:
        raise RuntimeError("no C++ compiler was found")

    monkeypatch.setattr(CapturedStep, "compile", missing)
    posterior = fitted(data, compile="always")
    assert np.isfinite(posterior.history["training"]).all()
    assert told[-1] == (
        "each step is run by itself, since it cannot be compiled (no C++ compiler was found)."
    )


@pytest.mark.parametrize(
    ("options", "is_long", "resident"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"compile": "never"}, True, False),
        ({"compile": "always"}, False, True),
        ({"compile": "always", "precision": "bf16-mixed"}, True, False),
    ],
    ids=str,
)
def test_only_a_long_fit_is_compiled(
    data: cv.Trajectories,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    is_long: bool,
    resident: bool,
) -> None:
    monkeypatch.setattr(optimisation, "pays", lambda *_: is_long)
    asked: list[bool] = []
    monkeypatch.setattr(CapturedStep, "compile", lambda *_: asked.append(True))
    fitted(data, max_epochs=1, **options)
    assert bool(asked) == resident


def test_it_pays_for_long_fits_of_large_minibatches() -> None:
    assert not compiled_step.pays(2_000, 256 * 2_000)
    assert compiled_step.pays(30_000, 256 * 2_000)
    assert compiled_step.pays(7_000, 256 * 8_000)
