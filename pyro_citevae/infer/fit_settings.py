"""How a model is trained: the settings of a fit, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError

from pyro_citevae.arguments import plain
from pyro_citevae.errors import FitError
from pyro_citevae.infer.bounds import Objective
from pyro_citevae.infer.devices import n_gpus

__all__ = ["FitSettings", "settings_of"]

_BATCHES = (64, 256)
_MOST = 2**31 - 1  # of anything that is counted, or of a rate


@dataclass(frozen=True)
class FitSettings:
    """How a model is trained.

    Attributes:
        max_epochs: Passes over the cells; None to go on until the bound has stopped rising
            (:class:`~pyro_citevae.infer.convergence.Convergence`).
        max_steps: Steps after which a fit ends that has no number of passes; None for 7,000, or three passes
            where a screen is larger. The last 1,000 of them, or a quarter, see all cells.
        batch_size: Cells in a minibatch; None for a tenth of the cells, but 64 at least and 256 at most.
        learning_rate: Adam's step size, which falls to zero along a cosine at the end, or from the first step
            on where the passes are given.
        kl_start: Weight of the latent sites' Kullback-Leibler terms at the start.
        kl_warmup: Share of the training after which that weight is 1.
        gradient_clip: Largest norm of the gradient of the negative bound a cell.
        n_particles: Draws of the guide for each estimate of the bound.
        objective: ``"elbo"``, or a tighter bound from the cells' importance weights: ``"iwae"``, or
            ``"renyi"`` of order ``alpha``, both with ``n_particles`` draws of each cell's states.
        alpha: Order of the Renyi bound: 0 is the importance-weighted one, 1 would be the ELBO.
        validation: Share of each group's cells that the fit does not see, for the held-out bound and for the
            discrepancy between program and cells, until both are known; of counts on disk, that share of
            stretches of neighbours, whatever their groups. 0 for none.
        patience: Epochs without a better held-out bound, after the warm-up, before training stops. It counts
            where the passes are given and 50 cells or more are held out.
        sampler: How minibatches are drawn: ``"uniform"``, ``"blocks"``, ``"balanced"``, or ``"auto"``, which
            is blocks for counts on disk and uniform otherwise; see :mod:`pyro_citevae.data.samplers`.
        accelerator: ``"cpu"``, ``"gpu"``, or ``"auto"``.
        devices: Devices of this machine, each with a process and a share of every minibatch.
        capture: ``"auto"`` holds a screen's counts on a GPU where they fit, and records a step there once to
            replay it; ``"never"`` sends each minibatch, and runs each step by itself.
        compile: ``"auto"`` compiles a step on a CPU where the fit is long enough to pay for it, ``"always"``
            in any case, ``"never"`` not. It needs a C++ compiler, and takes a minute or two the first time.
        precision: ``"32-true"`` single, ``"64-true"`` double, or ``"bf16-mixed"``: single, with networks in
            16 bits. The posterior is in single precision after each of them.
        seed: Seed of initial weights, minibatches and draws.
    """

    max_epochs: int | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float = 6e-3
    kl_start: float = 0.1
    kl_warmup: float = 0.3
    gradient_clip: float = 10.0
    n_particles: int = 1
    objective: Objective = "elbo"
    alpha: float = 0.5
    validation: float = 0.25
    patience: int = 15
    sampler: Literal["auto", "uniform", "blocks", "balanced"] = "auto"
    accelerator: Literal["cpu", "gpu", "auto"] = "cpu"
    devices: int = 1
    capture: Literal["auto", "never"] = "auto"
    compile: Literal["auto", "always", "never"] = "auto"
    precision: Literal["32-true", "64-true", "bf16-mixed"] = "32-true"
    seed: int = 0

    def __post_init__(self) -> None:
        for one in fields(self):  # a run's record holds plain numbers
            object.__setattr__(self, one.name, plain(getattr(self, one.name)))
        positive = (
            "max_epochs",
            "max_steps",
            "batch_size",
            "learning_rate",
            "gradient_clip",
            "n_particles",
            "patience",
            "devices",
        )
        for name in positive:
            given = getattr(self, name)
            if given is not None and not given > 0:
                raise FitError(f"fit({name}={given}) must be positive.")
            if given is not None and given > _MOST:
                raise FitError(f"fit({name}={given}) must be at most {_MOST:,}.")
        if self.max_epochs is not None and self.max_steps is not None:
            raise FitError(
                f"fit(max_epochs={self.max_epochs}, max_steps={self.max_steps}) says twice how long to train;"
                " leave out one of them."
            )
        for name in ("kl_start", "kl_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise FitError(f"fit({name}={getattr(self, name)}) must lie between 0 and 1.")
        if not 0 <= self.validation < 1:
            raise FitError(f"fit(validation={self.validation}) must be a share of the cells below 1.")
        if not 0 <= self.alpha < 1:
            raise FitError(f"fit(alpha={self.alpha}) must be 0 or more and below 1, where the ELBO lies.")
        if self.objective != "elbo" and self.n_particles < 2:
            raise FitError(
                f"fit(objective='{self.objective}') needs n_particles=2 or more; with one it is the ELBO."
            )
        if not 0 <= self.seed < 2**63:
            raise FitError(f"fit(seed={self.seed}) must be zero or more, and below 2**63.")
        self._require_devices()

    def minibatch(self, n_cells: int) -> int:
        """Cells in a minibatch of a screen with so many cells; room for more than there are would be wasted.

        Example:
            >>> FitSettings().minibatch(1200), FitSettings(batch_size=100).minibatch(1200)
            (128, 100)
        """
        if self.batch_size is not None:
            all_of_them = -(-max(1, n_cells) // self.devices) * self.devices
            return min(self.batch_size, all_of_them)
        least, most = _BATCHES
        return int(min(most, max(least, 2 ** round(math.log2(max(1, n_cells) / 10)))))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the numbers that are trained."""
        return torch.float64 if self.precision == "64-true" else torch.float32

    def _require_devices(self) -> None:
        there = n_gpus()
        if self.accelerator == "gpu" and there == 0:
            raise FitError("fit(accelerator='gpu') finds no CUDA device; use accelerator='cpu'.")
        if self.accelerator != "cpu" and 0 < there < self.devices:
            raise FitError(
                f"fit(devices={self.devices}) finds {there} CUDA device{'s' * (there > 1)} on this machine;"
                " ask for no more than there are."
            )


def settings_of(given: Mapping[str, Any]) -> FitSettings:
    """Checks names, types and ranges of settings.

    Raises:
        FitError: A setting is unknown, of another type, or out of range.
    """
    unknown = set(given) - set(FitSettings.__dataclass_fields__)
    if unknown:
        names = ", ".join(FitSettings.__dataclass_fields__)
        raise FitError(f"fit({sorted(unknown)[0]}=...) is not a setting; the settings are {names}.")
    try:
        return TypeAdapter(FitSettings).validate_python({name: plain(one) for name, one in given.items()})
    except ValidationError as error:
        first = error.errors()[0]
        raise FitError(f"fit({first['loc'][0]}={first['input']!r}): {first['msg'].lower()}.") from None
