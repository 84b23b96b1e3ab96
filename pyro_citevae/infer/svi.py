"""Stochastic variational inference on the Lightning Trainer."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import lightning
import numpy as np
import pandas as pd
import pyro
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, RichProgressBar
from pydantic import TypeAdapter, ValidationError
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.trajectories import Batch, Trajectories
from pyro_citevae.errors import DivergenceError, FitError
from pyro_citevae.infer.bounds import Objective, negative_bound
from pyro_citevae.infer.divergence import divergence
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.infer.sites import require_matching_sites
from pyro_citevae.program import LatentDynamics

__all__ = ["FitSettings", "fit", "optimised", "settings_of"]


@dataclass(frozen=True)
class FitSettings:
    """How a model is trained.

    Attributes:
        max_epochs: Passes over the cells.
        batch_size: Cells in a minibatch.
        learning_rate: Adam's step size, which falls to zero along a cosine.
        kl_start: Weight of the latent sites' Kullback-Leibler terms at the start.
        kl_warmup: Share of the training after which that weight is 1.
        gradient_clip: Largest norm of the gradient of the negative bound a cell.
        n_particles: Draws of the guide for each estimate of the bound.
        objective: ``"elbo"``, or a tighter bound from the cells' importance weights: ``"iwae"``, or
            ``"renyi"`` of order ``alpha``, both with ``n_particles`` draws of each cell's states.
        alpha: Order of the Renyi bound: 0 is the importance-weighted one, 1 would be the ELBO.
        validation: Share of the cells on which the held-out bound is measured; 0 for none.
        patience: Epochs without a better held-out bound, after the warm-up, before training stops.
        accelerator: ``"cpu"``, ``"gpu"``, or ``"auto"``.
        precision: Lightning's precision flag.
        seed: Seed of initial weights, minibatches and draws.
    """

    max_epochs: int = 60
    batch_size: int = 256
    learning_rate: float = 6e-3
    kl_start: float = 0.1
    kl_warmup: float = 0.3
    gradient_clip: float = 10.0
    n_particles: int = 1
    objective: Objective = "elbo"
    alpha: float = 0.5
    validation: float = 0.05
    patience: int = 15
    accelerator: Literal["cpu", "gpu", "auto"] = "cpu"
    precision: Literal["32-true", "64-true", "bf16-mixed"] = "32-true"
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("max_epochs", "batch_size", "learning_rate", "gradient_clip", "n_particles", "patience")
        for name in positive:
            if not getattr(self, name) > 0:
                raise FitError(f"fit({name}={getattr(self, name)}) must be positive.")
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
        if self.seed < 0:
            raise FitError(f"fit(seed={self.seed}) must be zero or more.")
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise FitError("fit(accelerator='gpu') finds no CUDA device; use accelerator='cpu'.")


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
        return TypeAdapter(FitSettings).validate_python(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        raise FitError(f"fit({first['loc'][0]}={first['input']!r}): {first['msg'].lower()}.") from None


def fit(
    model: LatentDynamics,
    guide: AmortizedGuide,
    data: Trajectories,
    *,
    progress: bool = True,
    validate: bool = False,
    warm_start: bool = False,
    learn_model: bool = True,
    **settings: Any,
) -> Posterior:
    """Maximises the evidence lower bound, and returns the fitted posterior.

    ``ELBO = E_q[log p(x, z, s, global) - log q(z, s, global)]``, with cell terms scaled by N / B.

    The model and the guide are copied first and their layers initialised from ``seed``, so that the ones
    handed in stay as they are, and the same call gives the same posterior again.

    Args:
        model: The generative program.
        guide: Its guide.
        data: Training cells.
        progress: Whether to show a progress bar.
        validate: Check every distribution's arguments and values while training; slower.
        warm_start: Keep the weights as handed in instead of initialising them.
        learn_model: Whether the model's parameters are learnt too; if not, they stay as handed in, and only
            the guide is fitted.
        **settings: Fields of :class:`FitSettings`, such as ``max_epochs=60`` or ``seed=0``.

    Returns:
        The posterior, with the history of the bound in nats a cell.

    Raises:
        FitError: A setting is unknown or out of range, or the data has another schema than the model.
        DivergenceError: The bound or its gradient is not a number; the error names the site, the parameter
            and the cells, and holds the posterior of the last good epoch as ``last_good``.
        ModelError: The guide does not draw the model's latent sites, or a hook returns no fit law.

    Source: M. D. Hoffman et al., Stochastic Variational Inference (2013).
    """
    chosen = settings_of(settings)
    if data.schema != model.schema:
        raise FitError("fit(data) has another schema than the model; build the model with data.schema.")
    require_matching_sites(model, guide, data.batch(data.row_cell[data.row_step.argsort()[-1:]]))
    model, guide = copy.deepcopy((model, guide))
    guide.attach(model)
    model.seen.copy_(torch.from_numpy(data.seen))
    model.train()
    guide.train()
    with seeded(chosen.seed), pyro.validation_enabled(validate):
        if learn_model and not warm_start:
            _initialise(model)
        if not warm_start:
            _initialise(guide)
        learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in learnt:
            parameter.requires_grad_(learn_model)
        bound = negative_bound(
            model, guide, chosen.objective, alpha=chosen.alpha, particles=chosen.n_particles
        )
        try:
            return optimised(model, guide, bound, data, chosen, progress)
        finally:
            for parameter in learnt:
                parameter.requires_grad_(True)


def optimised(
    model: LatentDynamics,
    guide: AmortizedGuide,
    bound: nn.Module,
    data: Trajectories,
    settings: FitSettings,
    progress: bool,
) -> Posterior:
    """Trains a model and a guide in place.

    Args:
        model: The generative program.
        guide: Its guide.
        bound: What is minimised: the negative bound of the data that a minibatch stands for.
        data: Training cells.
        settings: How.
        progress: Whether to show a progress bar.

    Raises:
        DivergenceError: As for :func:`fit`.
    """
    training, validation = _partition(data, settings)
    module = _EvidenceLowerBound(model, guide, bound, settings, len(training), data.names)
    try:
        _train(module, data, training, validation, progress)
    except DivergenceError as error:
        module.load_state_dict(module.good)
        error.last_good = _posterior(module, data)
        raise
    return _posterior(module, data)


def _posterior(module: _EvidenceLowerBound, data: Trajectories) -> Posterior:
    return Posterior(
        model=module.model.eval(),
        guide=module.guide.eval(),
        history=pd.DataFrame(module.history),
        record={
            "settings": asdict(module.settings),
            "data": data.digest,
            "n_cells": data.n_cells,
            "split": None if data.split is None else data.split.digest,
        },
        split=data.split,
    )


def _train(
    module: _EvidenceLowerBound,
    data: Trajectories,
    training: np.ndarray,
    validation: np.ndarray,
    progress: bool,
) -> None:
    settings = module.settings
    callbacks: list[Callback] = [RichProgressBar()] if progress else []
    if len(validation):
        callbacks.append(_EarlyStoppingAfterWarmup(settings))
    held_out = _loader(data, validation, settings, shuffle=False) if len(validation) else None
    with _quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=settings.max_epochs,
            accelerator=settings.accelerator,
            devices=1,
            precision=settings.precision,
            gradient_clip_val=settings.gradient_clip,
            enable_progress_bar=progress,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
            callbacks=callbacks,
            num_sanity_val_steps=0,
            inference_mode=False,
        )
        trainer.fit(module, _loader(data, training, settings, shuffle=True), held_out)


class _EvidenceLowerBound(lightning.LightningModule):
    """The negative bound in nats a cell, tempered during the warm-up."""

    def __init__(
        self,
        model: LatentDynamics,
        guide: AmortizedGuide,
        bound: nn.Module,
        settings: FitSettings,
        n_training: int,
        names: np.ndarray,
    ) -> None:
        super().__init__()
        self.model, self.guide = model, guide
        self.negative_bound = bound
        self.settings = settings
        self.names = names
        self.n_cells = len(names)
        self.n_batches = max(1, math.ceil(n_training / settings.batch_size))
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, list[float]] = {"training": [], "held_out": [], "gradient_norm": []}
        self.good: dict[str, Any] = copy.deepcopy(self.state_dict())
        self.batch: Batch | None = None

    @property
    def kl_weight(self) -> float:
        """The present weight of the latent sites' terms."""
        steps = self.settings.kl_warmup * self.settings.max_epochs * self.n_batches
        share = 1.0 if steps == 0 else min(1.0, self.global_step / steps)
        return self.settings.kl_start + (1 - self.settings.kl_start) * share

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """One estimate of the negative bound."""
        self.batch = batch
        with _Tempered(self.kl_weight):
            loss = self._loss(batch)
        self.sums["training"].append(-loss.item())
        return loss

    def _loss(self, batch: Batch) -> Tensor:
        state = torch.get_rng_state()
        try:
            loss: Tensor = self.negative_bound(batch) / self.n_cells
        except ValueError as error:  # with validation on, Pyro refuses parameters out of their range
            if self.global_step == 0:
                raise
            raise self._diverged("bound became not computable", batch, state) from error
        if not torch.isfinite(loss):
            raise self._diverged(f"bound became {loss.item()}", batch, state)
        return loss

    def _diverged(self, what: str, batch: Batch, state: Tensor | None = None) -> DivergenceError:
        with torch.random.fork_rng(devices=[]):
            if state is not None:
                torch.set_rng_state(state)  # the draws that the bound was made of
            when = f"at step {self.global_step} (epoch {self.current_epoch})"
            return divergence(what, when, self.model, self.guide, batch, self.names)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Notes the norm of the gradient before it is clipped."""
        norms = [p.grad.norm() for p in self.parameters() if p.grad is not None]
        norm = float(torch.stack(norms).norm())
        if not math.isfinite(norm) and self.batch is not None:
            raise self._diverged(f"gradient became {norm}", self.batch)
        self.sums["gradient_norm"].append(norm)

    def validation_step(self, batch: Batch, _: int) -> None:
        """The untempered bound on held-out cells, on the scale of the training bound."""
        loss = self._loss(replace(batch, size=self.n_cells))
        self.sums["held_out"].append(-loss.item())
        self.log("held_out", -loss, batch_size=batch.n_cells)

    def on_train_epoch_end(self) -> None:
        """Adds a row to the history."""
        row = {name: float(np.mean(values)) if values else float("nan") for name, values in self.sums.items()}
        self.history.append({"epoch": float(self.current_epoch), "kl_weight": self.kl_weight, **row})
        for values in self.sums.values():
            values.clear()
        self.good = copy.deepcopy(self.state_dict())

    def configure_optimizers(self) -> Any:
        """Adam with a step size that falls to zero along a cosine."""
        learnt = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(learnt, lr=self.settings.learning_rate)
        total = self.settings.max_epochs * self.n_batches
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Tempered(Messenger):
    """Scales the terms of every latent site, in the model and in the guide alike."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if not message["is_observed"]:
            message["scale"] = message["scale"] * self.weight


class _EarlyStoppingAfterWarmup(EarlyStopping):
    """Early stopping on the held-out bound, asleep while the bound is tempered."""

    def __init__(self, settings: FitSettings) -> None:
        super().__init__("held_out", mode="max", patience=settings.patience)
        self.wake = settings.kl_warmup * settings.max_epochs

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Checks the bound, once the warm-up is over."""
        if trainer.current_epoch >= self.wake:
            super().on_validation_end(trainer, module)


class _Cells(Dataset[Batch]):
    """Minibatches by their positions."""

    def __init__(self, data: Trajectories, chosen: np.ndarray) -> None:
        self.data, self.chosen = data, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: list[int]) -> Batch:
        return self.data.batch(self.chosen[index])


def _loader(
    data: Trajectories, chosen: np.ndarray, settings: FitSettings, *, shuffle: bool
) -> DataLoader[Batch]:
    dataset = _Cells(data, chosen)
    generator = torch.Generator().manual_seed(settings.seed)
    order: Sampler[int] = (
        RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    )
    batches = BatchSampler(order, settings.batch_size, drop_last=False)
    return DataLoader(dataset, sampler=batches, batch_size=None, num_workers=0)


def _partition(data: Trajectories, settings: FitSettings) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training and of the validation cells."""
    order = np.random.default_rng(settings.seed).permutation(data.n_cells)
    n_validation = int(settings.validation * data.n_cells)
    return np.sort(order[n_validation:]), np.sort(order[:n_validation])


def _initialise(module: nn.Module) -> None:
    """Draws every layer's initial weights, children before the parents that may overrule them."""
    for layer in reversed(list(module.modules())):
        if hasattr(layer, "reset_parameters"):
            cast(nn.Linear, layer).reset_parameters()


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keeps Lightning's advice about workers and devices out of a user's terminal."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        try:
            yield
        finally:
            logger.setLevel(level)
