"""The training loop: Lightning's Trainer on the negative bound, in one process or several."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping, RichProgressBar
from lightning.pytorch.strategies import DDPStrategy

from pyro_citevae.errors import FitError
from pyro_citevae.infer.checkpoints import EachEpoch, StateFile
from pyro_citevae.infer.convergence import Convergence, last_stretch, steps_of_screen
from pyro_citevae.infer.evidence_lower_bound import EvidenceLowerBound
from pyro_citevae.infer.fit_settings import FitSettings
from pyro_citevae.infer.freed_memory import keep_freed_memory
from pyro_citevae.infer.interruption import OwnSignals, interruptible
from pyro_citevae.infer.minibatches import Loaders

__all__ = ["course_of", "most_steps", "train"]

_FEWEST_HELD_OUT = 50  # cells whose bound may end a fit


def train(module: EvidenceLowerBound, progress: bool, resume: bool) -> None:
    """Trains until the bound has stopped rising, or over the epochs that were asked for.

    Where epochs were asked for, training stops earlier if the held-out bound no longer improves.

    Args:
        module: What is trained, in place.
        progress: Whether to show a progress bar.
        resume: Whether to go on from the last state of the module's checkpoints.

    Raises:
        KeyboardInterrupt: The user interrupts the training.
        FitError: Another process of it is lost.
    """
    settings, world, checkpoints = module.settings, module.world, module.checkpoints
    state = None if checkpoints is None else checkpoints.last(resume)
    if state is not None and state["citevae"]["finished"]:
        module.history = list(state["citevae"]["history"])
        module.course.resume(state["citevae"]["course"])
        module.load_state_dict(state["state_dict"])
        return
    keep_freed_memory()
    shown = [RichProgressBar()] if progress else []
    callbacks: list[Callback] = [OwnSignals(), *module.watching.callbacks, *shown]
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
            logger=list(module.watching.loggers) or False,
            callbacks=callbacks,
            num_sanity_val_steps=0,
            inference_mode=False,
            **together,
        )
        path = None if checkpoints is None or state is None else str(checkpoints.file)
        try:
            of_epoch = module.loaders.training if module.screen is None else module.loaders.places
            with interruptible():
                trainer.fit(module, of_epoch, module.loaders.held_out, ckpt_path=path)
        except RuntimeError as error:
            if world.lost_another(error):
                raise FitError(
                    f"process {world.rank} of {world.size} lost another one, which was killed or failed; go "
                    "on from the last whole epoch by the same call with resume=True."
                ) from error
            raise


def most_steps(settings: FitSettings, loaders: Loaders) -> int:
    """The most steps of a fit whose passes are not given."""
    return settings.max_steps or steps_of_screen(loaders.n_batches // loaders.passes)


def course_of(settings: FitSettings, loaders: Loaders) -> Convergence:
    """How long the training lasts; where cells are held back, until it sees them too."""
    if settings.max_epochs is not None:
        return Convergence(settings.max_epochs * loaders.n_batches, fixed=True)
    most = most_steps(settings, loaders)
    return Convergence(most - last_stretch(most) if len(loaders.unseen) else most)


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
