"""Runs and their data: what a command reads before it asks anything of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pyro_citevae import registry
from pyro_citevae.cli.terminal import say
from pyro_citevae.config import Part
from pyro_citevae.data import Trajectories, datasets, open_anndata
from pyro_citevae.data.anndata_io import padded
from pyro_citevae.data.columns import Columns
from pyro_citevae.data.opening import RAW, raw_as_anndata
from pyro_citevae.data.published_layouts import resolve
from pyro_citevae.errors import CiteVAEWarning, DataError, FitError, RunError
from pyro_citevae.infer import Ensemble, Posterior
from pyro_citevae.infer.fit_identity import identity, identity_of_run, require_same
from pyro_citevae.infer.run_files import RunFiles, member_folders
from pyro_citevae.recipe import Recipe

__all__ = [
    "candidates_in",
    "columns_of",
    "controls_of",
    "divided",
    "file_of",
    "held_out_cells",
    "loaded_run",
    "named_columns",
    "opened",
    "origin_of",
    "path_of",
    "records_of",
    "require_complete",
    "say_what_runs",
    "screen_of",
]


def loaded_run(run: Path, model: str | None, guide: str | None) -> Posterior | Ensemble:
    """A run, with the classes that the command line names and no other code."""
    return registry.load(
        run,
        model=None if model is None else registry.find_model(model),
        guide=None if guide is None else registry.find_guide(guide),
    )


def columns_of(name: str) -> Columns:
    """The columns of a shipped screen; those of a file are not known beforehand."""
    return datasets.CATALOGUE[name].columns if name in datasets.CATALOGUE else Columns()


def opened(path: str) -> Any:
    """An h5ad file, a zarr folder, or a shipped data set."""
    return getattr(datasets, path)() if path in datasets.CATALOGUE else open_anndata(path)


def path_of(data: str) -> str:
    """What a run notes of where its data are."""
    return data if data in datasets.CATALOGUE else str(Path(data).resolve())


def file_of(data: str | None) -> str | None:
    """The file of a screen; None for a shipped one."""
    return None if data in datasets.CATALOGUE else data


def say_what_runs(file: Path | None, parts: Iterable[Part | None]) -> None:
    """Names each Python file that a file of settings names a class of, before it is run.

    Args:
        file: The file of settings.
        parts: The models and guides that it names.
    """
    for code in dict.fromkeys(one.name.rpartition(":")[0] for one in parts if one is not None):
        if code:
            say(f"Runs '{code}', which '{file}' names.")


def named_columns(data: str, given: dict[str, Any]) -> Columns:
    """The columns of a screen: those of a shipped one, and what the command line names."""
    if given["candidates"] is not None:
        given = {**given, "candidates": candidates_in(given["candidates"])}
    named = {name: value for name, value in given.items() if value not in (None, [])}
    return Columns.of("citevae fit", {**asdict(columns_of(data)), **named})


def screen_of(
    data: str, given: dict[str, Any], *, from_disk: bool = False, quiet: bool = False, **grid: Any
) -> Trajectories:
    """A screen as the command line names it.

    Args:
        data: A file, or a shipped data set's name.
        given: The columns of the command line.
        from_disk: Whether the counts stay there.
        quiet: Whether to show no bar.
        **grid: Arguments of :meth:`Trajectories.from_anndata` on time and values.
    """
    columns = asdict(named_columns(data, given))
    if from_disk:
        return Trajectories.from_disk(data, progress=not quiet, **grid, **columns)
    return Trajectories.from_anndata(opened(data), **grid, **columns)


def records_of(run: Path) -> list[dict[str, Any]]:
    """The record of a whole run, or of each member of an ensemble.

    Raises:
        RunError: It is no run, or is damaged.
    """
    return [RunFiles.read(folder).record for folder in member_folders(run) or [run]]


def require_complete(
    run: Path, records: list[dict[str, Any]], recipe: Recipe, seeds: int, train: Trajectories
) -> None:
    """Refuses a run that is not what a fit would make.

    Args:
        run: Its folder.
        records: What it says of itself.
        recipe: What the fit is made from.
        seeds: Number of fits.
        train: The training cells.

    Raises:
        FitError: It is of other data, or of another fit.
    """
    if len(records) != seeds:
        raise FitError(f"'{run}' holds fits from {len(records)} seeds, and not {seeds}; name another folder.")
    made, called = recipe.made(train), {"warm_start": False, "learn_model": True}
    for i, record in enumerate(records):
        settings = replace(recipe.fit_settings, seed=recipe.fit_settings.seed + i)
        ours = identity(*made, train, settings, called)
        require_same(run, identity_of_run(record, called), ours)


def held_out_cells(path: str, posterior: Posterior | Ensemble) -> tuple[Trajectories, tuple[str, ...]]:
    """Held-out cells to a run's schema, and the genes that they were measured on."""
    given = opened(path)
    columns = resolve(given, Columns.of("citevae evaluate", posterior.columns))
    is_raw = columns.layer in RAW and columns.layer not in given.layers
    cells = raw_as_anndata(given) if is_raw else given
    whole, genes = padded(cells, posterior.schema, path, columns.genes)
    return (posterior.read(whole, layer=None) if is_raw else posterior.read(whole)), genes


def origin_of(posterior: Posterior | Ensemble, data: str | None) -> dict[str, Any]:
    """Where the data of a run are, and its columns.

    Args:
        posterior: The run.
        data: Where the user says that the data are.
    """
    noted: dict[str, Any] = posterior.record.get("source") or {}
    path = data if data is not None else noted.get("path")
    if path is None:
        raise RunError("the run does not say which file it was trained on; name it with --data.")
    if data is None and path not in datasets.CATALOGUE and not Path(path).exists():
        raise RunError(f"'{path}', which the run was trained on, is not there; name it with --data.")
    return {"path": path, "from_disk": bool(noted.get("from_disk"))}


def divided(posterior: Posterior | Ensemble, data: str | None) -> tuple[Trajectories, Trajectories | None]:
    """The data that a run was trained on, if it is still what it was, and what the run held out."""
    origin = origin_of(posterior, data)
    path, schema = str(origin["path"]), posterior.schema
    if origin["from_disk"]:
        options: dict[str, Any] = {"values": schema.values, "schema": schema}
        screen = Trajectories.from_disk(path, **options, **posterior.columns)
    else:
        screen = posterior.read(opened(path))
    train, held_out = (screen, None) if posterior.split is None else screen.divide(posterior.split)
    if train.digest != posterior.record["data"]:
        what = "is not what the run was fitted to" if data else "has changed since the run was fitted"
        raise DataError(f"'{path}' {what}; {'name the file of then' if data else 'fit it again'}.")
    return train, held_out


def controls_of(
    posterior: Posterior | Ensemble, cells: Path | None, data: str | None, **options: str
) -> Trajectories:
    """The control cells of a file, or those of the training data."""
    if cells is None:
        return divided(posterior, data)[0].controls()
    given = posterior.read(opened(str(cells)), **options)
    controls = given.select(posterior.schema.control)
    if controls.n_cells == 0:
        raise DataError(f"--cells '{cells}' holds no control cell; give a file with some.")
    if controls.n_cells < given.n_cells:
        warnings.warn(
            f"--cells '{cells}' has {given.n_cells - controls.n_cells} perturbed cells, which were left out.",
            CiteVAEWarning,
            stacklevel=2,
        )
    return controls


def candidates_in(path: Path, what: str = "candidate") -> list[str]:
    """The lines of a file, without those that are empty or begin with '#'.

    Args:
        path: The file, which the command line names by the option of what it lists.
        what: What a line is.
    """
    said = f"--{what}s '{path}'"
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{said} cannot be read as text; give a {what} a line.") from error
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise DataError(f"{said} holds no {what}; give one a line, such as KLF1+MAP2K6.")
    return found
