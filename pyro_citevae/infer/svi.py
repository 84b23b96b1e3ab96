"""Stochastic variational inference: a model and a guide in, a posterior out."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyro
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.class_source import reference
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.resident_screen import ResidentScreen
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import CiteVAEWarning, DivergenceError, FitError
from pyro_citevae.infer import minibatches
from pyro_citevae.infer.bounds import negative_bound
from pyro_citevae.infer.checkpoints import Checkpoints
from pyro_citevae.infer.compiled_step import pays
from pyro_citevae.infer.contexts_read import warn_if_contexts_are_unread
from pyro_citevae.infer.convergence import Convergence, last_stretch
from pyro_citevae.infer.discrepancy import Discrepancy
from pyro_citevae.infer.drawn_rows import has_large_tables
from pyro_citevae.infer.evidence_lower_bound import EvidenceLowerBound
from pyro_citevae.infer.fit_settings import FitSettings, settings_of
from pyro_citevae.infer.latent_sites import require_matching_sites
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.processes import World, world
from pyro_citevae.infer.progress import say
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.infer.training import course_of, most_steps, train
from pyro_citevae.infer.watching import Watching
from pyro_citevae.nn.default_dtype import default_dtype
from pyro_citevae.program import LatentDynamics

__all__ = ["FitSettings", "fit", "optimised", "settings_of"]

_SHARE_OF_MEMORY = 0.5  # of a GPU's, that a screen's counts may take


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
        RunError: A checkpoint cannot be written or read; the last whole one stays.
        DivergenceError: The bound or its gradient is not a number; the error names the site, the parameter
            and the cells, and holds the posterior of the last good epoch as ``last_good``.
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
        _in_single_precision(model, guide, guide.model)
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
        try:
            called = {"warm_start": warm_start, "learn_model": learn_model}
            kept = (
                None
                if checkpoints is None
                else Checkpoints(Path(checkpoints), _identity(model, guide, data, chosen, called))
            )
            loaders = (
                minibatches.loaders(data, chosen, together)
                if batches is None
                else minibatches.given(batches, chosen, together)
            )
            fitted = optimised(
                model, guide, bound, data, chosen, progress, loaders, kept, resume, watching=watching
            )
            before, ended = None, fitted
            steps = _steps_on_all_cells(chosen, loaders)
            if steps:
                before = copy.deepcopy((fitted.model, fitted.guide))
                say(f"the last {steps:,} steps see all cells.", shown=progress)
                ended = _on_all_cells(fitted, bound, data, chosen, steps, progress, kept, resume, watching)
        finally:
            for parameter in learnt:
                parameter.requires_grad_(True)
    _say_if_rising(ended)
    learnt_from_unseen = _with_discrepancy(ended, before, data, loaders.unseen)
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
    after = ended.history.assign(
        epoch=ended.history.epoch + passed.epoch, step=ended.history.step + passed.step
    )
    history = pd.concat([fitted.history, after], ignore_index=True)
    course = fitted.record["course"] | {"steps": int(passed.step) + steps}
    return replace(ended, history=history, record=fitted.record | {"course": course})


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
        module.load_state_dict(module.good)
        error.last_good = _posterior(module, data)
        raise
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


def _in_single_precision(*parts: nn.Module) -> None:
    """Makes weights what they are by default, whatever the type of numbers they were made with."""
    for part in parts:
        part.float()


def _posterior(module: EvidenceLowerBound, data: Trajectories) -> Posterior:
    _in_single_precision(module)
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


def _identity(
    model: LatentDynamics,
    guide: AmortizedGuide,
    data: Trajectories,
    settings: FitSettings,
    called: dict[str, Any],
) -> dict[str, Any]:
    """What a state must agree in with the fit that goes on from it; the machine may be another."""
    machine = ("accelerator", "devices")
    parts = {"model": model, "guide": guide}
    return {
        **{name: reference(type(part)) for name, part in parts.items()},
        **{f"{name}'s": json.loads(json.dumps(part.settings, default=str)) for name, part in parts.items()},
        "schema": data.schema.digest,
        "data": data.digest,
        "fit's": {name: value for name, value in asdict(settings).items() if name not in machine} | called,
    }


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
