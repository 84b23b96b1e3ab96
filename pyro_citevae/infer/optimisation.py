"""A model and a guide, trained in place on a bound."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.resident_screen import ResidentScreen
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DivergenceError
from pyro_citevae.infer import minibatches
from pyro_citevae.infer.checkpoints import Checkpoints
from pyro_citevae.infer.compiled_step import pays
from pyro_citevae.infer.convergence import Convergence
from pyro_citevae.infer.drawn_rows import has_large_tables
from pyro_citevae.infer.evidence_lower_bound import EvidenceLowerBound
from pyro_citevae.infer.fit_settings import FitSettings
from pyro_citevae.infer.interruption import interrupted
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.processes import World, world
from pyro_citevae.infer.training import course_of, train
from pyro_citevae.infer.watching import Watching
from pyro_citevae.nn.default_dtype import default_dtype
from pyro_citevae.program import LatentDynamics

__all__ = ["in_single_precision", "optimised"]

_SHARE_OF_MEMORY = 0.5  # of a GPU's, that a screen's counts may take


def optimised(
    model: LatentDynamics,
    guide: AmortizedGuide,
    bound: nn.Module,
    data: Trajectories,
    settings: FitSettings,
    progress: bool,
    loaders: minibatches.Loaders | None = None,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    course: Convergence | None = None,
    watching: Watching | None = None,
) -> Posterior:
    """Trains a model and a guide in place, in the precision of the settings; they come out in single.

    Args:
        model: The generative program.
        guide: Its guide.
        bound: What is minimised: the negative bound of the data that a minibatch stands for.
        data: Training cells.
        settings: How.
        progress: Whether to show a progress bar.
        loaders: The minibatches; those that the settings say if None.
        checkpoints: Where the state of the training is kept; None to keep none.
        resume: Whether to go on from the last of these states.
        course: How long the training lasts; None for what the settings say.
        watching: Loggers and callbacks.

    Raises:
        DivergenceError: As for :func:`fit`.
        InterruptedFit: As for :func:`fit`.
    """
    together = world(settings.devices)
    loaders = minibatches.loaders(data, settings, together) if loaders is None else loaders
    share = _shares(model, guide, data, loaders)
    course = course or course_of(settings, loaders)
    screen = _resident(model, data, settings, loaders, together, course.most_steps)
    if share is not None and settings.accelerator == "cpu":
        screen = None  # a compiled step has the gradients of whole tables
    module = EvidenceLowerBound(
        model,
        guide,
        bound,
        settings,
        loaders,
        data.names,
        together,
        checkpoints,
        course,
        share,
        screen,
        watching,
    )
    if together.rank:  # weights are equal by now; draws are each process's own
        torch.manual_seed(together.seed(settings.seed))
    try:
        with default_dtype(settings.dtype), torch.inference_mode(False):
            train(module.to(settings.dtype), progress, resume)
    except DivergenceError as error:
        module.fall_back()
        error.last_good = _posterior(module, data)
        raise
    except KeyboardInterrupt as error:
        module.fall_back()
        so_far = _posterior(module, data)
        if not module.history:
            raise
        raise interrupted(so_far, checkpoints is not None) from error
    return _posterior(module, data)


def _shares(
    model: LatentDynamics, guide: AmortizedGuide, data: Trajectories, loaders: minibatches.Loaders
) -> Tensor | None:
    """Share of the training cells that each token acts in, where its own rows are too many to take always."""
    schema = data.schema
    if not (has_large_tables(model, guide) and loaders.ours):
        return None
    trained = np.delete(data.condition, loaders.unseen)
    cells = np.bincount(trained, minlength=len(data.conditions))
    share = np.zeros(schema.n_tokens, dtype=np.float32)
    for n, condition in zip(cells, data.conditions, strict=True):
        share[[schema.token_index[token] for token in condition.tokens]] += n / len(trained)
    return torch.from_numpy(share)


def _resident(
    model: LatentDynamics,
    data: Trajectories,
    settings: FitSettings,
    loaders: minibatches.Loaders,
    together: World,
    n_steps: int,
) -> ResidentScreen | None:
    """The screen to lie where it is trained, for a step that is recorded (GPU) or compiled (CPU)."""
    # in mixed precision the casts of the weights would be recorded once and for all
    able = together.size == 1 and not model.enumerated and settings.precision != "bf16-mixed"
    if not able or loaders.places is None or not ResidentScreen.holds(data):
        return None
    size = settings.minibatch(data.n_cells - len(loaders.unseen))
    if settings.accelerator == "cpu" or not torch.cuda.is_available():
        long = pays(n_steps, size * data.schema.n_genes)
        wanted = settings.compile == "always" or (settings.compile == "auto" and long)
        return ResidentScreen(data, size) if wanted else None
    screen = ResidentScreen(data, size) if settings.capture == "auto" else None
    if screen is None:
        return None
    free, _ = torch.cuda.mem_get_info()
    return screen if screen.bytes_of() < _SHARE_OF_MEMORY * free else None


def in_single_precision(*parts: nn.Module) -> None:
    """Makes weights what they are by default, whatever the type of numbers they were made with."""
    for part in parts:
        part.float()


def _posterior(module: EvidenceLowerBound, data: Trajectories) -> Posterior:
    in_single_precision(module)
    return Posterior(
        model=module.model.eval(),
        guide=module.guide.eval(),
        history=pd.DataFrame(module.history),
        record={
            "settings": asdict(module.settings),
            "course": {
                "steps": int(module.history[-1]["step"]) if module.history else 0,
                "fixed": module.course.fixed,
                "rising": module.course.rising,
            },
            "data": data.digest,
            "n_cells": data.n_cells,
            "split": None if data.split is None else data.split.digest,
            "summary": data.summary().to_json(),
            "confounded": {} if data.reading is None else dict(data.reading.confounded),
            "columns": None if data.reading is None else asdict(data.reading.columns),
        },
        split=data.split,
    )
