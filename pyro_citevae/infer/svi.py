"""Stochastic variational inference: a model and a guide in, a posterior out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyro
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import nn

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import CiteVAEWarning, FitError, InterruptedFit
from pyro_citevae.infer import minibatches
from pyro_citevae.infer.bounds import negative_bound
from pyro_citevae.infer.checkpoints import Checkpoints
from pyro_citevae.infer.contexts_read import warn_if_contexts_are_unread
from pyro_citevae.infer.convergence import Convergence, last_stretch
from pyro_citevae.infer.discrepancy import Discrepancy
from pyro_citevae.infer.fit_identity import identity
from pyro_citevae.infer.fit_settings import FitSettings, settings_of
from pyro_citevae.infer.interruption import interrupted
from pyro_citevae.infer.latent_sites import require_matching_sites
from pyro_citevae.infer.optimisation import in_single_precision, optimised
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.processes import world
from pyro_citevae.infer.progress import say
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.infer.training import most_steps
from pyro_citevae.infer.watching import Watching
from pyro_citevae.locks import locked
from pyro_citevae.program import LatentDynamics

__all__ = ["FitSettings", "fit", "settings_of"]


def fit(
    model: LatentDynamics,
    guide: AmortizedGuide,
    data: Trajectories,
    *,
    progress: bool = True,
    validate: bool = False,
    warm_start: bool = False,
    learn_model: bool = True,
    batches: Iterable[Batch] | None = None,
    checkpoints: str | Path | None = None,
    resume: bool = False,
    logger: Logger | Sequence[Logger] | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Posterior:
    """Maximises the evidence lower bound, and returns the fitted posterior.

    ``ELBO = E_q[log p(x, z, s, global) - log q(z, s, global)]``, with cell terms scaled by N / B.

    The model and the guide are copied first and their layers initialised from ``seed``, so that the ones
    handed in stay as they are, and the same call gives the same posterior again.

    Started by ``torchrun``, the processes train one model together: each takes its share of every minibatch
    and has draws of its own, their gradients are averaged, and all of them return the same posterior. Save it
    in the first one alone (environment variable ``RANK`` 0). ``citevae fit --devices`` does both.

    Args:
        model: The generative program.
        guide: Its guide.
        data: Training cells.
        progress: Whether to show a progress bar.
        validate: Check every distribution's arguments and values while training; slower.
        warm_start: Keep the weights as handed in instead of initialising them.
        learn_model: Whether the model's parameters are learnt too; if not, they stay as handed in, and only
            the guide is fitted.
        batches: Minibatches to train on in place of those that are drawn from ``data``: any iterable with a
            length that gives an epoch of ``data``'s minibatches each time, such as
            :func:`~pyro_citevae.data.collections.from_scdataset`. No cells are held out then.
        checkpoints: Folder in which each epoch leaves the state of the training; None to leave none.
        resume: Go on from the last whole state in that folder, to the same posterior as without the
            interruption; begin where there is none.
        logger: One or several of ``lightning.pytorch.loggers``, which get each row of the history.
        callbacks: Callbacks of Lightning.
        **settings: Fields of :class:`FitSettings`, such as ``max_steps=10_000`` or ``seed=0``.

    Returns:
        The posterior, with the history of the bound in nats a cell.

    Raises:
        FitError: A setting is unknown or out of range, the data has another schema than the model, or the
            checkpoint is of another fit.
        RunError: A checkpoint cannot be written or read, and the last whole one stays; or another process
            fits into the folder.
        DivergenceError: The bound or its gradient is not a number; the error names the site, the parameter
            and the cells, and holds the posterior of the last good epoch as ``last_good``.
        InterruptedFit: Ctrl-C, or a notebook's stop; the error holds the posterior of the last whole epoch
            as ``last_good``. It is a KeyboardInterrupt, and is a bare one before there is such an epoch.
        ModelError: The guide does not draw the model's latent sites, or a hook returns no fit law.

    Warns:
        CiteVAEWarning: The bound was still rising at the end, or the data name contexts and no hook of the
            model computes with ``mechanism.context``.

    Source: M. D. Hoffman et al., Stochastic Variational Inference (2013).
    """
    chosen, watching = settings_of(settings), Watching.of(logger, callbacks)
    _require_made(model=model, guide=guide)
    if data.schema != model.schema:
        raise FitError("fit(data) has another schema than the model; build the model with data.schema.")
    if resume and checkpoints is None:
        raise FitError("fit(resume=True) needs the folder of the state; name it with checkpoints=.")
    if chosen.sampler == "balanced" and model.enumerated:
        raise FitError(
            f"fit(sampler='balanced') weighs cells, and the sum over {type(model).__name__}'s discrete sites "
            "cannot; use sampler='uniform'."
        )
    together = world(chosen.devices)
    with torch.inference_mode(False):  # a copy that is made in inference mode could not be trained
        model, guide = copy.deepcopy((model, guide))
        in_single_precision(model, guide, guide.model)
    latest = data.batch(data.row_cell[data.row_step.argsort()[-1:]])
    require_matching_sites(model, guide, latest)
    warn_if_contexts_are_unread(model, guide, latest)
    guide.attach(model)
    model.note(data)
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
        called = {"warm_start": warm_start, "learn_model": learn_model}
        kept = (
            None
            if checkpoints is None
            else Checkpoints(Path(checkpoints), identity(model, guide, data, chosen, called))
        )
        alone = nullcontext() if kept is None or together.rank else locked(kept.folder)
        try:
            loaders = (
                minibatches.loaders(data, chosen, together)
                if batches is None
                else minibatches.given(batches, chosen, together)
            )
            with alone:
                fitted = optimised(
                    model, guide, bound, data, chosen, progress, loaders, kept, resume, watching=watching
                )
                before, ended = None, fitted
                steps = _steps_on_all_cells(chosen, loaders)
                if steps:
                    before = copy.deepcopy((fitted.model, fitted.guide))
                    say(f"the last {steps:,} steps see all cells.", shown=progress)
                    ended = _on_all_cells(
                        fitted, bound, data, chosen, steps, progress, kept, resume, watching
                    )
        finally:
            for parameter in learnt:
                parameter.requires_grad_(True)
    _say_if_rising(ended)
    try:
        learnt_from_unseen = _with_discrepancy(ended, before, data, loaders.unseen)
    except KeyboardInterrupt as error:
        raise interrupted(ended, kept is not None) from error
    say(learnt_from_unseen.adequacy.verdict, shown=progress)
    return learnt_from_unseen


def _steps_on_all_cells(settings: FitSettings, loaders: minibatches.Loaders) -> int:
    """Steps that a fit takes when the cells that were held back have said what they know."""
    if settings.max_epochs is not None or not len(loaders.unseen):
        return 0
    return last_stretch(most_steps(settings, loaders))


def _on_all_cells(
    fitted: Posterior,
    bound: nn.Module,
    data: Trajectories,
    settings: FitSettings,
    steps: int,
    progress: bool,
    kept: Checkpoints | None,
    resume: bool,
    watching: Watching,
) -> Posterior:
    """The last stretch of a fit, in which the cells that were held back count too."""
    fitted.model.train()
    fitted.guide.train()
    kept = None if kept is None else replace(kept, name="last_stretch.safetensors")
    chosen = replace(settings, validation=0.0, kl_start=1.0)
    passed = fitted.history[["epoch", "step"]].iloc[-1]
    try:
        with seeded(settings.seed + 1):  # the same draws, whether the fit was interrupted before or not
            ended = optimised(
                fitted.model,
                fitted.guide,
                bound,
                data,
                chosen,
                progress,
                checkpoints=kept,
                resume=resume,
                course=Convergence(steps, fixed=True),
                watching=replace(watching, passed=int(passed.step)),
            )
    except InterruptedFit as error:
        error.last_good = _joined(fitted, error.last_good)
        raise
    except KeyboardInterrupt as error:  # before its first epoch
        raise interrupted(fitted, kept is not None) from error
    return _joined(fitted, ended)


def _joined(before: Posterior, after: Posterior) -> Posterior:
    """The end of a fit, with the history of all of it."""
    passed = before.history[["epoch", "step"]].iloc[-1]
    own = after.history.assign(
        epoch=after.history.epoch + passed.epoch, step=after.history.step + passed.step
    )
    history = pd.concat([before.history, own], ignore_index=True)
    course = after.record["course"] | before.record["course"] | {"steps": int(history.step.iloc[-1])}
    return replace(after, history=history, record=before.record | {"course": course})


def _with_discrepancy(
    ended: Posterior,
    before: tuple[LatentDynamics, AmortizedGuide] | None,
    data: Trajectories,
    unseen: np.ndarray,
) -> Posterior:
    """The posterior with what the cells say that the program had not seen before its last stretch."""
    if not len(unseen):
        return ended
    held_out, seed = np.isin(data.row_cell, unseen), ended.record["settings"]["seed"]
    if before is None:
        found = Discrepancy.learnt(ended.members, data, held_out, seed)
    else:
        found = Discrepancy.learnt([before], data, held_out, seed, ended=ended.members)
    if found is None and Discrepancy.is_too_large(data):
        warnings.warn(
            "the groups and genes are too many to learn how far the program is off: intervals are the "
            "program's own, too narrow where it errs; fit fewer genes, or score held-out perturbations.",
            CiteVAEWarning,
            stacklevel=3,
        )
    return replace(ended, discrepancy=found)


def _say_if_rising(fitted: Posterior) -> None:
    """Warns of a fit that ended for lack of steps."""
    rising, steps = fitted.record["course"]["rising"], fitted.record["course"]["steps"]
    if rising is not None:
        warnings.warn(
            f"the bound was still rising, by {rising:.2g} nats a cell in 500 steps, when the {steps:,} steps "
            f"of this fit were used up; fit longer, with max_steps={2 * steps}.",
            CiteVAEWarning,
            stacklevel=3,
        )


def _require_made(**given: Any) -> None:
    for argument, value in given.items():
        if isinstance(value, type):
            raise FitError(
                f"fit({argument}={value.__name__}) is a class; make it first, as in "
                f"{value.__name__}({'model' if argument == 'guide' else 'data.schema'})."
            )
    model, guide = given["model"], given["guide"]
    for size in ("n_programs", "n_invariant"):
        if (has := getattr(model, size)) != (of_guide := getattr(guide.model, size)):
            raise FitError(
                f"fit(guide=...) was made for a model of {size}={of_guide}, and this one has {has}; make it "
                f"by {type(guide).__name__}(model)."
            )


def _initialise(module: nn.Module) -> None:
    """Draws every layer's initial weights, children before the parents that may overrule them."""
    for layer in reversed(list(module.modules())):
        if hasattr(layer, "reset_parameters"):
            cast(nn.Linear, layer).reset_parameters()
