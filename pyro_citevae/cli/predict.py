"""``citevae predict``, ``rank`` and ``export``: what a run is asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_citevae.analysis import plots
from pyro_citevae.cli.as_json import Facts, rows
from pyro_citevae.cli.completions import one_of
from pyro_citevae.cli.options import (
    Accelerator,
    Data,
    NewBatches,
    Out,
    Overwrite,
    OwnGuide,
    OwnModel,
    Run,
    Seed,
)
from pyro_citevae.cli.runs import candidates_in, controls_of, divided, file_of, loaded_run
from pyro_citevae.cli.terminal import console, say
from pyro_citevae.data import do
from pyro_citevae.data.written_cells import write_cells
from pyro_citevae.errors import RunError, few
from pyro_citevae.hdf5_files import write_netcdf
from pyro_citevae.kinds import CELLS, EFFECTS, MARK, POSTERIOR, RANKING
from pyro_citevae.whole_files import aside, require_free, together

if TYPE_CHECKING:
    from anndata import AnnData

    from pyro_citevae.infer import Effect

__all__ = ["export", "predict", "rank_command"]

_OF_A_RANKING = ("ranking.csv", "ranking.nc", "ranking.png")
_ORDERS = ("information", "spread", "effect")


def predict(
    run: Run,
    out: Out,
    do_: Annotated[list[str], typer.Option("--do", help="Schedule A, A+B, A@0+B@24; may be repeated.")],
    cells: Annotated[
        Path | None, typer.Option(help="h5ad of control cells; the training ones if none.")
    ] = None,
    draws: Annotated[int, typer.Option(min=2, help="Number of draws.")] = 100,
    time: Annotated[str | None, typer.Option(help="Time to predict; the last one if not given.")] = None,
    most_cells: Annotated[int, typer.Option(min=1, help="Control cells to predict from, at most.")] = 500,
    seed: Seed = 0,
    accelerator: Accelerator = "cpu",
    data: Data = None,
    new_batches: NewBatches = "refuse",
    mask_missing: Annotated[
        bool,
        typer.Option("--mask-missing", help="Let expected counts stand in for missing genes."),
    ] = False,
    model: OwnModel = None,
    guide: OwnGuide = None,
    overwrite: Overwrite = False,
) -> Facts:
    """Predict what control cells would show under other schedules, with intervals."""
    require_free(out, overwrite, CELLS, [run, cells, file_of(data)])
    if out.suffix == ".nc":
        raise RunError(f"'{out}' ends in .nc, and predicted cells are written as h5ad; name a .h5ad.")
    effects_path = out.with_name(f"{out.name.removesuffix('.h5ad')}.effects.nc")
    require_free(effects_path, overwrite, EFFECTS, [cells, file_of(data)])
    posterior = loaded_run(run, model, guide).to(accelerator)
    schedules = [posterior.schema.require(posterior.schema.schedule(text)) for text in do_]
    reading = {"new_batches": new_batches, "missing": "mask" if mask_missing else "refuse"}
    controls = controls_of(posterior, cells, data, **reading).thinned(most_cells)
    if controls.schema.n_contexts > posterior.schema.n_contexts:
        new = few(controls.schema.contexts[posterior.schema.n_contexts :])
        posterior = posterior.adapt(controls)
        say(f"Training had no context {new}: its start and baseline were fitted to these controls.")
    acting = [one for one in dict.fromkeys(schedules) if not one.is_control]
    with console.status(f"predicting {len(acting)} schedules ..."):
        options: dict[str, Any] = {"cells": controls, "draws": draws, "time": time, "seed": seed}
        predicted = posterior.predict([do(), *acting], **options)
        effects = posterior.effect(acting or [do()], **options)
    effects.attrs["prediction"] = predicted.uns["prediction"] = _name_of(predicted, effects)
    with together((out, CELLS), (effects_path, EFFECTS), overwrite=overwrite) as (file, effects_file):
        write_cells(predicted, file, CELLS)
        write_netcdf(effects.to_dataset().assign_attrs({MARK: EFFECTS.said}), effects_file)
    say(
        f"Predicted {predicted.n_obs} cells ({len(acting)} "
        f"{'schedule' if len(acting) == 1 else 'schedules'} and the control, "
        f"{controls.n_cells} cells each). Saved {out} and {effects_path}.\n"
        f"Next: anndata.read_h5ad('{out}').layers['mean'], or xarray.open_dataarray('{effects_path}')"
    )
    return {
        "saved": [out, effects_path],
        "schedules": [str(one) for one in predicted.obs["perturbation"].unique()],
        "times": sorted(float(one) for one in predicted.obs["time"].unique()),
        "cells": predicted.n_obs,
        "cells_of_each": controls.n_cells,
        "draws": draws,
    }


def rank_command(
    run: Run,
    candidates: Annotated[
        Path | None, typer.Option(help="File with a candidate a line, A or A+B; all perturbations if none.")
    ] = None,
    do_: Annotated[list[str] | None, typer.Option("--do", help="A candidate; may be repeated.")] = None,
    by: Annotated[
        str, typer.Option(help="information, spread or effect.", autocompletion=one_of(*_ORDERS))
    ] = "information",
    n_cells: Annotated[int, typer.Option("--cells", help="Cells to measure a candidate in.")] = 100,
    time: Annotated[str | None, typer.Option(help="Time to measure; the last one if not given.")] = None,
    context: Annotated[str | None, typer.Option(help="Context to measure in, if there are several.")] = None,
    draws: Annotated[int, typer.Option(min=2, help="Number of draws.")] = 200,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for the table and picture.")] = None,
    seed: Seed = 0,
    accelerator: Accelerator = "cpu",
    model: OwnModel = None,
    guide: OwnGuide = None,
    overwrite: Overwrite = False,
) -> Facts:
    """Say which perturbation to measure next, and why."""
    if out is not None:
        require_free(out, overwrite, RANKING, [run, candidates])
    posterior = loaded_run(run, model, guide).to(accelerator)
    named = [*(candidates_in(candidates) if candidates else []), *(do_ or [])]
    wanted = named if candidates or do_ else list(posterior.schema.tokens)
    with console.status("predicting the candidates ..."):
        options: dict[str, Any] = {"time": time, "context": context, "draws": draws, "seed": seed}
        found = posterior.rank(wanted, by=by, n_cells=n_cells, **options)
    say(found.report())
    if out is not None:
        with aside(out, overwrite=overwrite, kind=RANKING) as folder:
            folder.mkdir()
            found.table.to_csv(folder / "ranking.csv", index=False)
            write_netcdf(found.to_dataset(), folder / "ranking.nc")
            plots.ranking(found).savefig(folder / "ranking.png", dpi=130)
        say(f"Saved in {out}/: {', '.join(_OF_A_RANKING)}.")
    return {
        "saved": [] if out is None else [out / name for name in _OF_A_RANKING],
        "by": found.by,
        "cells": found.n_cells,
        "ranking": rows(found.table),
    }


def export(
    run: Run,
    out: Out,
    draws: Annotated[int, typer.Option(min=1, help="Number of draws.")] = 100,
    most_cells: Annotated[int, typer.Option(min=1, help="Cells with draws of their own, at most.")] = 200,
    seed: Seed = 0,
    data: Data = None,
    model: OwnModel = None,
    guide: OwnGuide = None,
    overwrite: Overwrite = False,
) -> Facts:
    """Write the posterior as an xarray DataTree: netCDF (.nc) or zarr (.zarr), for ArviZ."""
    require_free(out, overwrite, POSTERIOR, [run, file_of(data)])
    if out.suffix not in (".nc", ".zarr"):
        raise RunError(f"'{out}' ends in neither .nc (netCDF) nor .zarr; name one of the two.")
    posterior = loaded_run(run, model, guide)
    train, _ = divided(posterior, data)
    with console.status("drawing ..."):
        tree = posterior.to_datatree(train, draws=draws, most_cells=most_cells, seed=seed)
    tree.attrs[MARK] = POSTERIOR.said
    with aside(out, overwrite=overwrite, kind=POSTERIOR) as file:
        if out.suffix == ".nc":
            write_netcdf(tree, file)
        else:
            tree.to_zarr(file, zarr_format=2)
    groups = ", ".join(tree.children)
    say(f"Saved {out} with groups {groups}.\nNext: xarray.open_datatree('{out}')")
    return {"saved": [out], "groups": list(tree.children)}


def _name_of(predicted: AnnData, effects: Effect) -> str:
    """What tells a prediction from any other: a hash of what both of its files hold."""
    cells = predicted.X.tocsr()  # type: ignore[union-attr]
    said = hashlib.sha256(effects.to_numpy().tobytes())
    for values in (cells.indptr, cells.indices, cells.data):
        said.update(values.tobytes())
    return said.hexdigest()[:16]
