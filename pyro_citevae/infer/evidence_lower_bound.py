"""What a training loop trains: the negative bound as a Lightning module, with all that a fit notes of it."""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import lightning
import numpy as np
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.doses import Doses
from pyro_citevae.data.loading import Places
from pyro_citevae.data.resident_screen import ResidentScreen
from pyro_citevae.errors import DivergenceError, OutOfRangeError, reason
from pyro_citevae.infer.captured_step import CapturedStep, reads
from pyro_citevae.infer.checkpoints import Checkpoints
from pyro_citevae.infer.convergence import Convergence
from pyro_citevae.infer.divergence import divergence
from pyro_citevae.infer.drawn_rows import drawn_rows
from pyro_citevae.infer.fit_settings import FitSettings
from pyro_citevae.infer.minibatches import Loaders
from pyro_citevae.infer.processes import World
from pyro_citevae.infer.progress import say
from pyro_citevae.infer.row_adam import moves_rows
from pyro_citevae.infer.watching import Watching
from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.nn.taken_rows import TakenRows
from pyro_citevae.program import LatentDynamics

__all__ = ["EvidenceLowerBound"]


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
        course: How long the training lasts.
        share: Share of the training cells that each token acts in, to take the terms of its own rows in
            minibatches with such cells; None to take all of them always.
        screen: The cells, where they are to lie on the device and a step to be recorded; None where not.
        watching: Loggers and callbacks.
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
        course: Convergence,
        share: Tensor | None = None,
        screen: ResidentScreen | None = None,
        watching: Watching | None = None,
    ) -> None:
        super().__init__()
        self.model, self.guide = model, guide
        self.negative_bound = bound
        self.settings = settings
        self.loaders, self.world, self.checkpoints = loaders, world, checkpoints
        self.names = names
        self.register_buffer("share", share, persistent=False)
        self.screen, self.watching = screen, watching or Watching()
        self.captured: CapturedStep | None = None
        self.n_cells = len(names)
        self.n_batches = loaders.n_batches
        self.course = course
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, list[float]] = {"training": [], "held_out": [], "gradient_norm": []}
        self.good: dict[str, Any] = {}
        self.good_is_whole = False
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

    def training_step(self, batch: Batch | Places, _: int) -> Tensor | None:
        """One estimate of the negative bound, and where the screen lies on the device the whole step."""
        if isinstance(batch, Places):
            self._captured_step(batch)
            return None
        self.batch = batch
        with _Tempered(self.kl_weight), self._rows_in_use(batch):
            loss = self._loss(batch)
        self._note(self.global_step, -loss.item())
        return loss

    def _note(self, step: int, bound: float) -> None:
        """Keeps the bound of a step, and lets the course see it."""
        self.sums["training"].append(bound)
        if self.course.start is None:
            (bound,) = self._over_processes([bound])  # which have to stop together
        self.course.note(step, bound)

    def _captured_step(self, places: Places) -> None:
        captured = cast(CapturedStep, self.captured)
        captured(places, self.kl_weight)
        if captured.is_full or self.course.asks(self.global_step):
            self._read(self.global_step + 1)

    def _read(self, taken: int) -> None:
        """Reads what the steps since the last reading left on the device.

        Args:
            taken: Steps that have been taken in all.

        Raises:
            DivergenceError: The loss of one of them, or its gradient, is not a number.
        """
        if self.captured is None:
            return
        told = self.captured.told()
        for step, (places, loss, norm) in enumerate(told, taken - len(told)):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"bound became {loss}" if not math.isfinite(loss) else f"gradient became {norm}"
                raise self._diverged(what, self.captured.batch(places), step=step)
            self._note(step, -loss)
            self.sums["gradient_norm"].append(norm)

    def _tempered(self, batch: Batch, kl_weight: Tensor) -> Tensor:
        """The loss of a minibatch, whose latent sites' terms count so much."""
        with _Tempered(kl_weight), self._rows_in_use(batch):
            loss: Tensor = self.negative_bound(batch) / self.n_cells
        return loss

    def _learnt(self) -> list[Tensor]:
        """What has gradients after a step: parameters, and the rows that it took."""
        return [*self.parameters(), *(leaf for _, _, leaf in self.taken.parts)]

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Adam's step, which a step on the device has taken already."""
        if self.captured is None:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        else:
            optimizer_closure()

    def on_train_batch_end(self, *_: Any) -> None:
        """Ends the training where it is done."""
        if self.settings.max_epochs is None and self.course.is_done(self.global_step):
            self.trainer.should_stop = True

    def _rows_in_use(self, batch: Batch) -> AbstractContextManager[None]:
        """Takes the rows of the tokens that act in a minibatch for all of them, where they are too many."""
        if self.share is None:
            every = RowsInUse.every(self.model.schema.n_tokens, batch.step.device)
            return drawn_rows(self.model, self.guide, every)
        given = Doses.of(batch.u)
        rows = RowsInUse.of_minibatch(given.token, given.amount, self.share, batch.weight)
        # processes average the gradients of parameters, and know of no other leaves
        taken = self.taken if self.world.size == 1 and torch.is_grad_enabled() else None
        return drawn_rows(self.model, self.guide, rows, taken)

    def _loss(self, batch: Batch) -> Tensor:
        state = torch.get_rng_state()
        try:
            loss: Tensor = self.negative_bound(batch) / self.n_cells
        except (ValueError, OutOfRangeError) as error:  # which Pyro's validation finds
            if self.global_step == 0:
                raise
            raise self._diverged("bound became not computable", batch, state) from error
        if not torch.isfinite(loss):
            raise self._diverged(f"bound became {loss.item()}", batch, state)
        return loss

    def _diverged(
        self, what: str, batch: Batch, state: Tensor | None = None, step: int | None = None
    ) -> DivergenceError:
        with torch.random.fork_rng(devices=[]):
            if state is not None:
                torch.set_rng_state(state)  # the draws that the bound was made of
            when = f"at step {self.global_step if step is None else step} (epoch {self.current_epoch})"
            return divergence(what, when, self.model, self.guide, batch, self.names)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Notes the norm of the gradient and clips by it: Lightning would take it a second time."""
        learnt = self._learnt()
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
        self.log("held_out", -loss, batch_size=batch.n_cells, sync_dist=self.world.size > 1, logger=False)

    def on_train_epoch_end(self) -> None:
        """Adds a row to the history."""
        self._read(self.global_step)
        row = {name: float(np.mean(values)) if values else float("nan") for name, values in self.sums.items()}
        row = dict(zip(row, self._over_processes(list(row.values())), strict=True))
        passes = float(self.current_epoch * self.loaders.passes)
        steps = float(self.global_step)
        self.history.append({"epoch": passes, "step": steps, "kl_weight": self.kl_weight, **row})
        if self.world.rank == 0:
            self.watching.note(self.history[-1])
        for values in self.sums.values():
            values.clear()
        self._keep()

    def _keep(self) -> None:
        """Notes the weights to fall back to; over those of before, since tables of rows may be large."""
        present = self.state_dict()
        self.good_is_whole = False
        if self.good.keys() != present.keys():
            self.good = copy.deepcopy(present)
        for name, value in present.items():
            self.good[name].copy_(value)
        self.good_is_whole = True

    def fall_back(self) -> None:
        """Takes up the weights that were noted; the present ones are the same while they are being noted."""
        if self.good_is_whole:
            self.load_state_dict(self.good)

    def _over_processes(self, values: list[float]) -> list[float]:
        """Means over all processes, whose shares of a minibatch are equally large."""
        if self.world.size == 1:
            return values
        means: list[float] = self.world.gathered(torch.tensor(values), self.device).mean(0).tolist()
        return means

    def transfer_batch_to_device(self, batch: Batch | Places, device: torch.device, _: int) -> Batch | Places:
        """Copies a minibatch while the device computes, if it lies in pinned memory."""
        if isinstance(batch, Places):
            return batch
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
        """Notes the weights to fall back to, and prepares the step where the screen lies on the device."""
        self._keep()
        for group in cast(Any, self.optimizers()).param_groups:  # a state may come from another device
            group["lr"], group["capturable"] = self._step_size(float(group["lr"])), self._is_recorded
        if self.screen is not None:
            self.captured = self._prepared(self.screen)

    def _prepared(self, screen: ResidentScreen) -> CapturedStep:
        """The step on the device: recorded on a GPU, compiled on a CPU, or with a sentence why not."""
        adam = cast(torch.optim.Adam, cast(Any, self.optimizers()).optimizer)
        shown = self.trainer.progress_bar_callback is not None
        made = partial(CapturedStep, screen, self._tempered, self._learnt, adam)
        step = made(clip=self.settings.gradient_clip, record=False)
        if self.device.type == "cpu":
            self._compile(step, shown)
            return step
        batch = step.batch(Places(np.arange(min(screen.size, self.n_cells))))
        found = reads(lambda: self._tempered(batch, step.kl_weight), self._learnt())
        self.taken.parts.clear()
        if found:
            say(f"each step is run by itself, since it {found[0]}.", shown=shown)
            return step
        return made(clip=self.settings.gradient_clip, record=True)

    def _compile(self, step: CapturedStep, shown: bool) -> None:
        say("compiling the step, which takes a minute or two the first time.", shown=shown)
        try:
            step.compile(self)
        except Exception as error:  # whatever the compiler or the lack of one says
            say(f"each step is run by itself, since it cannot be compiled ({reason(error)}).", shown=shown)

    @property
    def _is_recorded(self) -> bool:
        """Whether steps are replayed on a GPU."""
        return self.screen is not None and self.device.type == "cuda"

    def _step_size(self, rate: float) -> float | Tensor:
        """The step size where the update reads it: a recorded one, on the device."""
        return torch.tensor(rate, device=self.device) if self._is_recorded else rate

    def configure_optimizers(self) -> Any:
        """Adam with a step size that falls to zero in the end."""
        learnt = [parameter for parameter in self.parameters() if parameter.requires_grad]
        size = self._step_size(self.settings.learning_rate)
        adam = torch.optim.Adam(learnt, lr=size, fused=True, capturable=self._is_recorded)
        optimizer = moves_rows(adam, self.taken)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.course.factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Tempered(Messenger):
    """Scales the terms of every latent site, in the model and in the guide alike."""

    def __init__(self, weight: float | Tensor) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if not message["is_observed"]:
            message["scale"] = message["scale"] * self.weight
