"""Fits with draws that a cell's position fixes, and notes every step's gradient; run alone or by torchrun."""

import json
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from known_decoder import KnownDecoder, small_screen
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_post_hook

import pyro_citevae as cv
from pyro_citevae.data import Batch
from pyro_citevae.guides import MeanField
from pyro_citevae.infer import convergence

N_CELLS = 60


class FixedNoise(Messenger):
    """Every normal site is its mean plus its scale times a noise that depends on the cell alone."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if site_is_subsample(message):
            return
        law, local = message["fn"], any(frame.name == "cell" for frame in message["cond_indep_stack"])
        generator = torch.Generator().manual_seed(zlib.crc32(message["name"].encode()))
        noise = torch.randn((N_CELLS,) * local + law.event_shape, generator=generator)
        message["value"] = law.mean + law.stddev * (noise[self.batch.index] if local else noise)
        message["done"] = True


class FixedDraws(MeanField):
    """A guide whose draws are fixed, and that has a parameter which nothing uses."""

    def __init__(self, model: cv.LatentDynamics) -> None:
        super().__init__(model, hidden=8)
        self.unused = torch.nn.Parameter(torch.ones(3))

    def forward(self, batch: Batch) -> None:
        with FixedNoise(batch):
            super().forward(batch)


def run(batch_size: int) -> tuple[dict[str, torch.Tensor], cv.Posterior]:
    """The gradients of two epochs by step and parameter, and the posterior."""
    found: dict[str, torch.Tensor] = {}
    steps = iter(range(1_000_000))

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        step = next(steps)
        for i, parameter in enumerate(optimizer.param_groups[0]["params"]):
            if parameter.grad is not None:
                found[f"{step}.{i}"] = parameter.grad.clone()

    hook = register_optimizer_step_post_hook(note)
    data = small_screen(N_CELLS)
    model = KnownDecoder(data.schema)
    settings = {
        "max_epochs": 2,
        "batch_size": batch_size,
        "kl_start": 1.0,
        "validation": 0.0,
        "gradient_clip": 1e9,
    }
    try:
        return found, cv.fit(model, FixedDraws(model), data, progress=False, **settings)
    finally:
        hook.remove()


def until_the_bound_stops_rising() -> cv.Posterior:
    """A fit without a number of epochs, of few steps."""
    short = {"_LEAST_STEPS": 20, "_FALL": 10, "_LOOKED_AT": 20, "_LOOK_EVERY": 1, "_NOISE": 1.0}
    for name, value in short.items():
        setattr(convergence, name, value)
    data = small_screen(N_CELLS)
    model = KnownDecoder(data.schema)
    settings = {"max_steps": 400, "batch_size": 16, "learning_rate": 3e-3}
    return cv.fit(model, MeanField(model, hidden=8), data, progress=False, **settings)


if __name__ == "__main__":
    gradients, posterior = run(int(sys.argv[2]))
    folder = Path(sys.argv[1]) / os.environ.get("RANK", "0")
    folder.mkdir(parents=True)
    save_file(gradients, folder / "gradients.safetensors")
    posterior.history.to_parquet(folder / "history.parquet")
    weights = {**posterior.model.state_dict(prefix="m."), **posterior.guide.state_dict(prefix="g.")}
    save_file({name: value.clone() for name, value in weights.items()}, folder / "weights.safetensors")
    course = until_the_bound_stops_rising().record["course"]
    (folder / "course.json").write_text(json.dumps(course))
