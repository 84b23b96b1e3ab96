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
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.trajectories import Batch, Trajectories
from pyro_citevae.errors import FitError
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.sites import require_matching_sites
from pyro_citevae.program import LatentDynamics

__all__ = ["FitSettings", "fit", "settings_of"]


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
        **settings: Fields of :class:`FitSettings`, such as ``max_epochs=60`` or ``seed=0``.

    Returns:
        The posterior, with the history of the bound in nats a cell.

    Raises:
        FitError: A setting is unknown or out of range, the data has another schema than the model, or
            the bound is not a number.
        ModelError: The guide does not draw the model's latent sites, or a hook returns no fit law.

    Source: M. D. Hoffman et al., Stochastic Variational Inference (2013).
    """
    chosen = settings_of(settings)
    if data.schema != model.schema:
        raise FitError("fit(data) has another schema than the model; build the model with data.schema.")
    require_matching_sites(model, guide, data.batch(data.row_cell[data.row_step.argsort()[-1:]]))
    model, guide = copy.deepcopy((model, guide))
    with _seeded(chosen.seed), pyro.validation_enabled(validate):
        if not warm_start:
            _initialise(model)
            _initialise(guide)
        history = _train(model, guide, data, chosen, progress)
    return Posterior(
        model=model.eval(),
        guide=guide.eval(),
        history=history,
        record={
            "settings": asdict(chosen),
            "data": data.digest,
            "n_cells": data.n_cells,
            "split": None if data.split is None else data.split.digest,
        },
        split=data.split,
    )


def _train(
    model: LatentDynamics, guide: AmortizedGuide, data: Trajectories, settings: FitSettings, progress: bool
) -> pd.DataFrame:
    training, validation = _partition(data, settings)
    module = _EvidenceLowerBound(model, guide, settings, len(training), data.n_cells)
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
    return pd.DataFrame(module.history)


class _EvidenceLowerBound(lightning.LightningModule):
    """The negative bound in nats a cell, tempered during the warm-up."""

    def __init__(
        self,
        model: LatentDynamics,
        guide: AmortizedGuide,
        settings: FitSettings,
        n_training: int,
        n_cells: int,
    ) -> None:
        super().__init__()
        elbo = Trace_ELBO(
            num_particles=settings.n_particles,
            vectorize_particles=settings.n_particles > 1,
            max_plate_nesting=2,
        )
        self.negative_bound: nn.Module = elbo(model, guide)
        self.settings = settings
        self.n_cells = n_cells
        self.n_batches = max(1, math.ceil(n_training / settings.batch_size))
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, list[float]] = {"training": [], "held_out": [], "gradient_norm": []}

    @property
    def kl_weight(self) -> float:
        """The present weight of the latent sites' terms."""
        steps = self.settings.kl_warmup * self.settings.max_epochs * self.n_batches
        share = 1.0 if steps == 0 else min(1.0, self.global_step / steps)
        return self.settings.kl_start + (1 - self.settings.kl_start) * share

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """One estimate of the negative bound."""
        with _Tempered(self.kl_weight):
            loss = self._loss(batch)
        self.sums["training"].append(-loss.item())
        return loss

    def _loss(self, batch: Batch) -> Tensor:
        try:
            loss: Tensor = self.negative_bound(batch) / self.n_cells
        except ValueError as error:  # with validation on, Pyro refuses parameters out of their range
            if self.global_step == 0:
                raise
            raise self._diverged("not computable", batch) from error
        if not torch.isfinite(loss):
            raise self._diverged(str(loss.item()), batch)
        return loss

    def _diverged(self, what: str, batch: Batch) -> FitError:
        return FitError(
            f"the bound became {what} at step {self.global_step}, on cells "
            f"{batch.index[:3].tolist()} and others; lower learning_rate or look at those cells."
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Notes the norm of the gradient before it is clipped."""
        norms = [p.grad.norm() for p in self.parameters() if p.grad is not None]
        self.sums["gradient_norm"].append(float(torch.stack(norms).norm()))

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

    def configure_optimizers(self) -> Any:
        """Adam with a step size that falls to zero along a cosine."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.settings.learning_rate)
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
def _seeded(seed: int) -> Iterator[None]:
    """Seeds torch within, and gives the caller's random state back after."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


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
