"""The training loop: Lightning's Trainer on the negative bound, in one process or several."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, cast

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping, RichProgressBar
from lightning.pytorch.strategies import DDPStrategy
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.doses import Doses
from pyro_citevae.errors import DivergenceError, FitError
from pyro_citevae.infer.checkpoints import Checkpoints, EachEpoch, StateFile
from pyro_citevae.infer.convergence import Convergence, last_stretch, steps_of_screen
from pyro_citevae.infer.divergence import divergence
from pyro_citevae.infer.fit_settings import FitSettings
from pyro_citevae.infer.minibatches import Loaders
from pyro_citevae.infer.processes import World
from pyro_citevae.infer.row_adam import moves_rows
from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.nn.taken_rows import TakenRows
from pyro_citevae.program import LatentDynamics

__all__ = ["EvidenceLowerBound", "most_steps", "train"]

_FEWEST_HELD_OUT = 50  # cells whose bound may end a fit


def train(module: EvidenceLowerBound, progress: bool, resume: bool) -> None:
    """Trains until the bound has stopped rising, or over the epochs that were asked for.

    Where epochs were asked for, training stops earlier if the held-out bound no longer improves.

    Args:
        module: What is trained, in place.
        progress: Whether to show a progress bar.
        resume: Whether to go on from the last state of the module's checkpoints.
    """
    settings, world, checkpoints = module.settings, module.world, module.checkpoints
    state = None if checkpoints is None else checkpoints.last(resume)
    if state is not None and state["citevae"]["finished"]:
        module.history = list(state["citevae"]["history"])
        module.course.resume(state["citevae"]["course"])
        module.load_state_dict(state["state_dict"])
        return
    callbacks: list[Callback] = [RichProgressBar()] if progress else []
    if settings.max_epochs is not None and len(module.loaders.unseen) >= _FEWEST_HELD_OUT:
        callbacks.append(_EarlyStoppingAfterWarmup(settings.patience, module.warm_up))
    if checkpoints is not None:
        callbacks.append(EachEpoch(checkpoints.file))
    together: dict[str, Any] = {"devices": 1, "plugins": [StateFile()]}
    if world.size > 1:
        together = {
            "devices": world.local_size,
            "num_nodes": world.size // world.local_size,
            # a program may have parameters that a minibatch says nothing of
            "strategy": DDPStrategy(find_unused_parameters=True),
            "plugins": [StateFile(), TorchElasticEnvironment()],
            "use_distributed_sampler": False,
        }
    # the module is double already, and Lightning would not know how to make a minibatch so
    precision = "32-true" if settings.precision == "64-true" else settings.precision
    with _quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=settings.max_epochs or math.ceil(module.course.most_steps / module.n_batches),
            accelerator=settings.accelerator,
            precision=precision,
            enable_progress_bar=progress,
            enable_model_summary=False,
            enable_checkpointing=checkpoints is not None,
            logger=False,
            callbacks=callbacks,
            num_sanity_val_steps=0,
            inference_mode=False,
            **together,
        )
        path = None if checkpoints is None or state is None else str(checkpoints.file)
        try:
            trainer.fit(module, module.loaders.training, module.loaders.held_out, ckpt_path=path)
        except RuntimeError as error:
            if world.lost_another(error):
                raise FitError(
                    f"process {world.rank} of {world.size} lost another one, which was killed or failed; go "
                    "on from the last whole epoch by the same call with resume=True."
                ) from error
            raise


class EvidenceLowerBound(lightning.LightningModule):
    """The negative bound in nats a cell, tempered during the warm-up.

    Args:
        model: The generative program.
        guide: Its guide.
        bound: What is minimised: the negative bound of the data that a minibatch stands for.
        settings: How.
        loaders: The minibatches.
        names: Name of each cell.
        world: The processes that train together.
        checkpoints: Where the state is kept; None to keep none.
        course: How long the training lasts; None for what the settings say.
        share: Share of the training cells that each token acts in, to take the terms of its own rows in
            minibatches with such cells; None to take all of them always.
    """

    share: Tensor | None

    def __init__(
        self,
        model: LatentDynamics,
        guide: AmortizedGuide,
        bound: nn.Module,
        settings: FitSettings,
        loaders: Loaders,
        names: np.ndarray,
        world: World,
        checkpoints: Checkpoints | None,
        course: Convergence | None = None,
        share: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model, self.guide = model, guide
        self.negative_bound = bound
        self.settings = settings
        self.loaders, self.world, self.checkpoints = loaders, world, checkpoints
        self.names = names
        self.register_buffer("share", share, persistent=False)
        self.n_cells = len(names)
        self.n_batches = loaders.n_batches
        self.course = course or _course(settings, loaders)
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, list[float]] = {"training": [], "held_out": [], "gradient_norm": []}
        self.good: dict[str, Any] = {}
        self.batch: Batch | None = None
        self.taken = TakenRows()

    @property
    def warm_up(self) -> float:
        """Steps until the latent sites' terms have their full weight."""
        course = self.course
        return self.settings.kl_warmup * (course.most_steps if course.fixed else course.least_steps)

    @property
    def kl_weight(self) -> float:
        """The present weight of the latent sites' terms."""
        share = 1.0 if self.warm_up == 0 else min(1.0, self.global_step / self.warm_up)
        return self.settings.kl_start + (1 - self.settings.kl_start) * share

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """One estimate of the negative bound."""
        self.batch = batch
        with _Tempered(self.kl_weight), self._rows_in_use(batch):
            loss = self._loss(batch)
        bound = -loss.item()
        self.sums["training"].append(bound)
        if self.course.start is None:
            (bound,) = self._over_processes([bound])  # which have to stop together
        self.course.note(self.global_step, bound)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Ends the training where it is done."""
        if self.settings.max_epochs is None and self.course.is_done(self.global_step):
            self.trainer.should_stop = True

    @contextmanager
    def _rows_in_use(self, batch: Batch) -> Iterator[None]:
        """Takes the rows of the tokens that act in a minibatch for all of them, where they are too many."""
        if self.share is None:
            self.model.in_use = RowsInUse.every(self.model.schema.n_tokens, batch.step.device)
            drawn = nullcontext()
        else:
            given, guide = Doses.of(batch.u), cast(Any, self.guide.globals)
            rows = RowsInUse.of_minibatch(given.token, given.amount, self.share, batch.weight)
            # processes average the gradients of parameters, and know of no other leaves
            taken = self.taken if self.world.size == 1 and torch.is_grad_enabled() else None
            self.model.in_use, drawn = rows, guide.using(rows, self.model.local_sites, taken)
        try:
            with drawn:
                yield
        finally:
            self.model.in_use = None

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

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Notes the norm of the gradient and clips by it: Lightning would take it a second time."""
        learnt = [*self.parameters(), *(leaf for _, _, leaf in self.taken.parts)]
        total = torch.nn.utils.get_total_norm([one.grad for one in learnt if one.grad is not None])
        norm = float(total)
        if not math.isfinite(norm) and self.batch is not None:
            raise self._diverged(f"gradient became {norm}", self.batch)
        self.sums["gradient_norm"].append(norm)
        torch.nn.utils.clip_grads_with_norm_(learnt, self.settings.gradient_clip, total)

    def validation_step(self, batch: Batch, _: int) -> None:
        """The untempered bound on held-out cells, on the scale of the training bound."""
        loss = self._loss(replace(batch, size=self.n_cells))
        self.sums["held_out"].append(-loss.item())
        self.log("held_out", -loss, batch_size=batch.n_cells, sync_dist=self.world.size > 1)

    def on_train_epoch_end(self) -> None:
        """Adds a row to the history."""
        row = {name: float(np.mean(values)) if values else float("nan") for name, values in self.sums.items()}
        row = dict(zip(row, self._over_processes(list(row.values())), strict=True))
        passes = float(self.current_epoch * self.loaders.passes)
        steps = float(self.global_step)
        self.history.append({"epoch": passes, "step": steps, "kl_weight": self.kl_weight, **row})
        for values in self.sums.values():
            values.clear()
        self.good = copy.deepcopy(self.state_dict())

    def _over_processes(self, values: list[float]) -> list[float]:
        """Means over all processes, whose shares of a minibatch are equally large."""
        if self.world.size == 1:
            return values
        means: list[float] = self.world.gathered(torch.tensor(values), self.device).mean(0).tolist()
        return means

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, _: int) -> Batch:
        """Copies a minibatch while the device computes, if it lies in pinned memory."""
        return batch.to(device, non_blocking=True, dtype=self.settings.dtype)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what Lightning does not know of: history, random states, and whose fit this is."""
        if self.checkpoints is None:
            return
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        order = self.loaders.generator
        checkpoint["citevae"] = {
            "fit": self.checkpoints.fit,
            "history": self.history,
            "finished": self.trainer.should_stop or len(self.history) == self.trainer.max_epochs,
            "course": self.course.state(),
            "random": {name: self.world.gathered(state, self.device) for name, state in random.items()},
            "order": None if order is None else order.get_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the history and the random states, before a loader draws from them."""
        saved = checkpoint["citevae"]
        self.history = list(saved["history"])
        self.course.resume(saved["course"])
        if self.loaders.generator is not None and saved["order"] is not None:
            self.loaders.generator.set_state(saved["order"])
        random, device = saved["random"], self.trainer.strategy.root_device
        if len(random["cpu"]) != self.world.size:  # other processes than before: new draws
            torch.manual_seed(self.world.seed(self.settings.seed + len(self.history)))
            return
        torch.set_rng_state(
            random["cpu"][self.world.rank].clone()
        )  # torch reads a row from its stack's start
        if "cuda" in random and device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"][self.world.rank].clone(), device)

    def on_train_start(self) -> None:
        """Notes the weights to fall back to."""
        self.good = copy.deepcopy(self.state_dict())

    def configure_optimizers(self) -> Any:
        """Adam with a step size that falls to zero in the end."""
        learnt = [parameter for parameter in self.parameters() if parameter.requires_grad]
        adam = torch.optim.Adam(learnt, lr=self.settings.learning_rate, fused=True)
        optimizer = moves_rows(adam, self.taken)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.course.factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def most_steps(settings: FitSettings, loaders: Loaders) -> int:
    """The most steps of a fit whose passes are not given."""
    return settings.max_steps or steps_of_screen(loaders.n_batches // loaders.passes)


def _course(settings: FitSettings, loaders: Loaders) -> Convergence:
    """How long the training lasts; where cells are held back, until it sees them too."""
    if settings.max_epochs is not None:
        return Convergence(settings.max_epochs * loaders.n_batches, fixed=True)
    most = most_steps(settings, loaders)
    return Convergence(most - last_stretch(most) if len(loaders.unseen) else most)


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

    def __init__(self, patience: int, warm_up: float) -> None:
        # else Lightning asks at the end of an epoch, and on_validation_end is never called
        super().__init__("held_out", mode="max", patience=patience, check_on_train_epoch_end=False)
        self.warm_up = warm_up

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Checks the bound, once the warm-up is over."""
        if trainer.global_step > self.warm_up:
            super().on_validation_end(trainer, module)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keeps Lightning's advice about workers and devices out of a user's terminal."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
