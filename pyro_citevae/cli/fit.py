"""``citevae fit``: a screen, a model and a guide in, a run out."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from pyro_citevae import config
from pyro_citevae.analysis import diagnose
from pyro_citevae.cli.as_json import Facts
from pyro_citevae.cli.completions import one_of
from pyro_citevae.cli.options import (
    Guide,
    Model,
    NSteps,
    Out,
    Overwrite,
    Quiet,
    Screen,
    Step,
    TimeUnit,
    Values,
    with_columns,
)
from pyro_citevae.cli.runs import file_of, path_of, records_of, require_complete, say_what_runs, screen_of
from pyro_citevae.cli.terminal import console, in_flags, say
from pyro_citevae.data import Split, Summary, Trajectories
from pyro_citevae.errors import DivergenceError
from pyro_citevae.infer import Ensemble, FitSettings, Posterior, processes
from pyro_citevae.infer.diagnosis import Diagnosis
from pyro_citevae.kinds import RUN
from pyro_citevae.locks import locked
from pyro_citevae.recipe import Recipe, described
from pyro_citevae.signals import keeping
from pyro_citevae.whole_files import require_free, sweep

__all__ = ["fit_command"]


def _one_of(setting: str) -> Callable[[str], list[str]]:
    """Completes a setting of a fit that has one of a few values."""
    return one_of(*get_args(get_type_hints(FitSettings)[setting]))


@with_columns
def fit_command(
    data: Screen,
    out: Out,
    features: Annotated[
        str,
        typer.Option(help="What is known of genes: gene-ontology (:mouse), coexpression, a table; or none."),
    ] = "none",
    model: Model = None,
    guide: Guide = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config", help="TOML with tables [model], [guide], [fit]; citevae settings writes one."
        ),
    ] = None,
    step: Step = None,
    n_steps: NSteps = 3,
    time_unit: TimeUnit = None,
    values: Values = "counts",
    hold_out: Annotated[
        list[str] | None, typer.Option(help="perturbation=A,B | time=5 | combination=A+B; joined by ';'.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the cells; none to go on until the bound stops rising.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps at most, where no passes are given.")] = None,
    accelerator: Annotated[
        str | None, typer.Option(help="cpu, gpu or auto.", autocompletion=_one_of("accelerator"))
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="Devices of this machine to train on, a process each.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="32-true, 64-true or bf16-mixed.", autocompletion=_one_of("precision")),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="auto, uniform, blocks or balanced.", autocompletion=_one_of("sampler")),
    ] = None,
    from_disk: Annotated[
        bool, typer.Option("--from-disk", help="Leave the counts in their h5ad or zarr while training.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a fit that was interrupted; begin if there is none.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Fits from so many seeds, asked as one posterior.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be read and fitted, and end.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    **columns: Any,
) -> Facts | None:
    """Fit a model to a screen, and save the run; each epoch is kept in OUT.training until then."""
    complete = records_of(out) if resume and out.exists() and not overwrite else []
    if not complete:
        inputs = [file_of(data), config_file, columns["candidates"], features, *map(_file_of, (model, guide))]
        require_free(out, overwrite, RUN, inputs)
    options = {
        "max_epochs": epochs,
        "max_steps": steps,
        "accelerator": accelerator,
        "devices": devices,
        "precision": precision,
        "sampler": sampler,
        "seed": seed,
    }
    recipe = _recipe(config_file, model, guide, options, features)
    chosen = recipe.fit_settings
    replace(chosen, seed=chosen.seed + seeds - 1)  # the last one is a seed too, or is refused now
    training = out.with_name(f"{out.name}.training")
    if chosen.devices > 1 and not processes.launched() and not complete:
        with keeping(lambda: _kept(training)), tempfile.TemporaryDirectory() as errors:
            processes.launch(chosen.devices, ("-m", "pyro_citevae", *sys.argv[1:]), Path(errors))
        return None  # the first process says what was found
    is_first = bool(complete) or processes.world(chosen.devices).rank == 0
    quiet = quiet or not is_first
    grid: dict[str, Any] = {"step": step, "n_steps": n_steps, "time_unit": time_unit, "values": values}
    with _alone(training) if is_first and not dry_run else nullcontext():
        if overwrite and not resume and not dry_run:
            _forget(training)
        screen = screen_of(data, columns, from_disk=from_disk, quiet=quiet, **grid)
        known = {} if features == "none" else {"features": described(features)}
        read = Summary({**screen.summary().content, **known})
        if not quiet:
            console.print(read)
        train = screen.divide(Split.parse(hold_out))[0] if hold_out else screen
        if complete:
            require_complete(out, complete, recipe, seeds, train)
            _forget(training)
            sweep(out.absolute().parent)  # it may have been killed between its name and its end
            return _said_complete(out)
        if dry_run:
            return {**_said_dry(out, recipe, train, screen.n_cells), "read": read.content}
        fits = []
        for one in range(chosen.seed, chosen.seed + seeds):
            seeded = replace(recipe, fit={**recipe.fit, "seed": one})
            kept: dict[str, Any] = {"checkpoints": training / f"seed_{one}", "resume": resume}
            with _keeping_the_last_good(out, training):
                fits.append(seeded.fitted(train, progress=not quiet, **kept))
            source = {"path": path_of(data), **({"from_disk": True} if from_disk else {})}
            fits[-1].record["source"] = source
        if not is_first:
            return None
        posterior = fits[0] if seeds == 1 else Ensemble(fits)
        found = _saved(posterior, fits, train, out, overwrite)
        _forget(training)
    then = f"citevae predict {out} --do {screen.perturbations()[0]} -o pred.h5ad"
    return {**_said_fitted(posterior, fits, train, found, out, then), "read": read.content, "next": then}


def _said_complete(out: Path) -> Facts:
    """Says that there is nothing to go on with."""
    then = f"citevae evaluate {out}"
    say(f"{out} is complete; there is nothing to go on with.\nNext: {then}")
    return {"saved": [], "complete": out, "next": then}


def _said_dry(out: Path, recipe: Recipe, train: Trajectories, n_cells: int) -> Facts:
    """Says what would be fitted."""
    recipe.made(train)  # what the file says of the model and the guide can be made, or is refused now
    named, chosen = (recipe.model.name, recipe.guide.name), asdict(recipe.fit_settings)
    said = ", ".join(f"{name}={value!r}" for name, value in chosen.items() if value is not None)
    say(
        f"Would fit {named[0]} with {named[1]} to {train.n_cells:,} of {n_cells:,} cells and save it in "
        f"{out}; {said}."
    )
    return {
        "saved": [],
        "would_save": [out],
        "name": "/".join(named),
        "cells": train.n_cells,
        "settings": chosen,
    }


def _saved(
    posterior: Posterior | Ensemble, fits: list[Posterior], train: Trajectories, out: Path, overwrite: bool
) -> Diagnosis:
    """Looks at the fits, notes what is found, and saves them."""
    with console.status("looking at the fit ..."):
        found = diagnose(posterior, train)
    for fitted in fits:
        fitted.record["diagnosis"] = found.record()
    posterior.save(out, overwrite=overwrite)
    return found


def _said_fitted(
    posterior: Posterior | Ensemble,
    fits: list[Posterior],
    train: Trajectories,
    found: Diagnosis,
    out: Path,
    then: str,
) -> Facts:
    """Says what was fitted."""
    bound = sum(one.history["training"].iloc[-1] for one in fits) / len(fits)
    several = f" from {len(fits)} seeds" if len(fits) > 1 else ""
    say(
        f"Fitted {posterior.name} to {train.n_cells} cells{several}; the bound is {bound:.2f} nats a cell. "
        f"Saved in {out}.\n{in_flags(found.verdict)}\nNext: {then}"
    )
    return {
        "saved": [out],
        "name": posterior.name,
        "cells": train.n_cells,
        "seeds": [one.record["settings"]["seed"] for one in fits],
        "bound": bound,
        "verdict": found.verdict,
        "diagnosis": found.record(),
    }


@contextmanager
def _alone(training: Path) -> Iterator[None]:
    """Keeps other fits off the folder of the state, which is said to be kept where a signal ends the fit."""
    with keeping(lambda: _kept(training)), locked(training):
        yield
    with suppress(OSError):  # where it is not empty, there is a state to go on from
        training.rmdir()


def _kept(training: Path) -> str:
    """What a fit that is stopped keeps."""
    if not any(training.glob("seed_*/*.safetensors")):
        return ""
    return f"each whole epoch is kept in {training}; go on by the same command with --resume"


def _forget(training: Path) -> None:
    """Deletes the state of a fit, but for the lock of who does so."""
    for kept in training.glob("seed_*"):
        shutil.rmtree(kept, ignore_errors=True)


def _file_of(name: str | None) -> str | None:
    """The file of a class that is named by one."""
    return (name or "").rpartition(":")[0] or None


def _recipe(
    file: Path | None, model: str | None, guide: str | None, options: dict[str, Any], features: str
) -> Recipe:
    """What the file of settings says, where the command line does not say otherwise."""
    settings = config.settings_from(file)
    if not processes.launched():
        taken = [None if model else settings.model, None if guide else settings.guide]
        say_what_runs(file, taken)
    given = {name: value for name, value in options.items() if value is not None}
    return Recipe(
        settings.model if model is None else settings.model.model_copy(update={"name": model}),
        settings.guide if guide is None else settings.guide.model_copy(update={"name": guide}),
        {**settings.fit, **given},
        features,
    )


@contextmanager
def _keeping_the_last_good(out: Path, training: Path) -> Iterator[None]:
    """Saves the last good epoch of a fit that diverges beside the run that it would have been."""
    try:
        yield
    except DivergenceError as error:
        kept = out.with_name(f"{out.name}.last_good")
        error.last_good.save(kept, overwrite=True)
        _forget(training)  # to go on from there would diverge again
        raise DivergenceError(f"{error} It is saved in {kept}.") from error
