"""Fits and predictions on a GPU; left out where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_citevae as cv
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

QUICK = {"max_epochs": 4, "batch_size": 50, "progress": False}


def fitted(data: cv.Trajectories, **options: object) -> cv.Posterior:
    model = CiteVAE(data.schema, n_programs=2, hidden=8)
    return cv.fit(model, BackwardSmoother(model, hidden=8), data, **{**QUICK, **options})


@pytest.fixture(scope="module")
def data() -> cv.Trajectories:
    sizes = {"n_cells": 200, "n_genes": 12, "n_programs": 2, "n_perturbations": 3, "n_steps": 2}
    return cv.simulate(**sizes, seed=0).data


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fit_on_a_gpu_reaches_the_bound_of_one_on_the_cpu(data: cv.Trajectories, precision: str) -> None:
    cpu, gpu = fitted(data), fitted(data, accelerator="gpu", precision=precision)
    climb = cpu.history["training"].iloc[-1] - cpu.history["training"].iloc[0]
    assert abs(cpu.history["training"].iloc[-1] - gpu.history["training"].iloc[-1]) < 0.2 * climb


@pytest.mark.gpu
def test_predictions_run_where_the_model_is(data: cv.Trajectories) -> None:
    posterior = fitted(data, accelerator="gpu")
    posterior.model.to("cuda")
    posterior.guide.to("cuda")
    predicted = posterior.predict(cv.do("gene_0"), cells=data.controls(), draws=4)
    assert np.isfinite(predicted.layers["mean"]).all()


@pytest.mark.gpu
def test_a_fit_on_a_gpu_goes_on(data: cv.Trajectories, tmp_path: Path) -> None:
    fitted(data, accelerator="gpu", checkpoints=tmp_path)
    again = fitted(data, accelerator="gpu", checkpoints=tmp_path, resume=True)
    assert len(again.history) == 4


def test_mixed_precision_trains_on_the_cpu(data: cv.Trajectories) -> None:
    full, mixed = fitted(data), fitted(data, precision="bf16-mixed")
    assert next(mixed.model.parameters()).dtype == torch.float32
    climb = full.history["training"].iloc[-1] - full.history["training"].iloc[0]
    assert abs(full.history["training"].iloc[-1] - mixed.history["training"].iloc[-1]) < 0.2 * climb
