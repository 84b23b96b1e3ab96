"""Runs and their data: what a command reads before it asks anything of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyro_citevae import registry
from pyro_citevae.data import Trajectories, datasets, open_h5ad
from pyro_citevae.data.anndata_io import padded
from pyro_citevae.data.columns import Columns
from pyro_citevae.errors import DataError, RunError
from pyro_citevae.infer import Ensemble, Posterior
from pyro_citevae.infer.asked import require_controls

__all__ = [
    "candidates_in",
    "columns_of",
    "controls_of",
    "divided",
    "held_out_cells",
    "loaded_run",
    "opened",
    "origin_of",
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
    """An h5ad file or a shipped data set."""
    return getattr(datasets, path)() if path in datasets.CATALOGUE else open_h5ad(path)


def _read_screen(
    path: str, columns: dict[str, Any], posterior: Posterior | Ensemble, from_disk: bool = False
) -> Trajectories:
    """Reads an h5ad file or a shipped data set to a run's schema."""
    reading = {**columns, "values": posterior.schema.values, "schema": posterior.schema}
    if from_disk:
        return Trajectories.from_disk(path, **reading)
    return Trajectories.from_anndata(opened(path), **reading)


def held_out_cells(
    path: str, columns: dict[str, Any], posterior: Posterior | Ensemble
) -> tuple[Trajectories, tuple[str, ...]]:
    """Held-out cells to a run's schema, and the genes that they were measured on."""
    whole, genes = padded(opened(path), posterior.schema, path, columns.get("layout") or "plain")
    schema = posterior.schema
    return Trajectories.from_anndata(whole, **columns, values=schema.values, schema=schema), genes


def origin_of(posterior: Posterior | Ensemble) -> dict[str, Any]:
    """What a run notes of the data that it was trained on."""
    origin: dict[str, Any] | None = posterior.record.get("source")
    if origin is None:
        raise RunError("the run does not say which file it was trained on; make it with citevae fit.")
    return origin


def divided(posterior: Posterior | Ensemble) -> tuple[Trajectories, Trajectories | None]:
    """The data that a run was trained on, if it is still what it was, and what the run held out."""
    origin = origin_of(posterior)
    screen = _read_screen(origin["path"], origin["columns"], posterior, origin.get("from_disk", False))
    train, held_out = (screen, None) if posterior.split is None else screen.divide(posterior.split)
    if train.digest != posterior.record["data"]:
        raise DataError(f"'{origin['path']}' has changed since the run was fitted; fit it again.")
    return train, held_out


def controls_of(posterior: Posterior | Ensemble, cells: Path | None) -> Trajectories:
    """The control cells of a file, or those of the training data."""
    if cells is None:
        return divided(posterior)[0].controls()
    given = _read_screen(str(cells), origin_of(posterior)["columns"], posterior)
    return require_controls(given, posterior.schema)


def candidates_in(path: Path) -> list[str]:
    """The lines of a file, without those that are empty or begin with '#'."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--candidates '{path}' cannot be read as text; give a candidate a line.") from error
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise DataError(f"--candidates '{path}' holds no candidate; give one a line, such as KLF1+MAP2K6.")
    return found
