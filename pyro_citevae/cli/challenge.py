"""``citevae challenge``: a submission to the Virtual Cell Challenge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_citevae.analysis import challenge_submission
from pyro_citevae.cli.as_json import Facts
from pyro_citevae.cli.options import (
    Accelerator,
    NewBatches,
    Out,
    Overwrite,
    OwnGuide,
    OwnModel,
    Quiet,
    Run,
    Seed,
)
from pyro_citevae.cli.runs import candidates_in, loaded_run, opened
from pyro_citevae.cli.terminal import progress_bar, say
from pyro_citevae.data.columns import Columns
from pyro_citevae.data.gene_names import gene_names
from pyro_citevae.data.published_layouts import resolve
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.data.written_cells import write_cells
from pyro_citevae.infer import Ensemble, Posterior
from pyro_citevae.kinds import SUBMISSION
from pyro_citevae.whole_files import aside, require_free

__all__ = ["challenge_command"]


def challenge_command(
    run: Run,
    out: Out,
    targets: Annotated[Path, typer.Option(help="File with a target a line.")],
    controls: Annotated[Path, typer.Option(help="h5ad of the context's control cells.")],
    perturbation: Annotated[
        str | None, typer.Option(help="Column of the labels there, if not that of the run's data.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="Label of the controls there, if not that of the run's data.")
    ] = None,
    most_cells: Annotated[int, typer.Option(min=1, help="Predicted cells of each target, at most.")] = 400,
    draws: Annotated[int, typer.Option(min=2, help="Draws that these cells take by turns.")] = 50,
    time: Annotated[str | None, typer.Option(help="Time to predict; the last one if not given.")] = None,
    new_batches: NewBatches = "refuse",
    mask_missing: Annotated[
        bool,
        typer.Option("--mask-missing", help="Let expected counts stand in for missing genes."),
    ] = False,
    seed: Seed = 0,
    accelerator: Accelerator = "cpu",
    model: OwnModel = None,
    guide: OwnGuide = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> Facts:
    """Write a submission to the Virtual Cell Challenge: predicted cells of each target, and controls."""
    require_free(out, overwrite, SUBMISSION, [run, controls, targets])
    wanted = candidates_in(targets, "target")
    posterior = loaded_run(run, model, guide).to(accelerator)
    given = {"perturbation": perturbation, "control": control}
    named = {name: value for name, value in given.items() if value is not None}
    reading = {"new_batches": new_batches, "missing": "mask" if mask_missing else "refuse"}
    cells, form = _context(posterior, controls, named, reading)
    with progress_bar(quiet) as advance:
        options: dict[str, Any] = {"most_cells": most_cells, "draws": draws, "time": time, "seed": seed}
        made = challenge_submission(posterior, wanted, cells, **form, **options, progress=advance)
    with aside(out, overwrite=overwrite, kind=SUBMISSION) as file:
        write_cells(made, file, SUBMISSION, compression="gzip")
    column, label = form["column"], form["control"]
    labels = made.obs[column]
    n_targets, n_each = labels.nunique() - 1, int((labels == labels.iloc[0]).sum())
    after = (
        f"cell-eval2 run -ap {out} -ar MEASURED.h5ad --preset vcc2026 --pert-col {column} --control {label}"
    )
    say(
        f"Predicted {n_targets} {'target' if n_targets == 1 else 'targets'}, {n_each} cells each, beside "
        f"{cells.n_cells} controls, on {made.n_vars} genes. Saved {out}.\nNext: {after} -o scores"
    )
    return {
        "saved": [out],
        "targets": [one for one in labels.unique() if one != label],
        "cells": made.n_obs,
        "cells_of_each": n_each,
        "controls": cells.n_cells,
        "genes": made.n_vars,
        "column": column,
        "control": label,
        "next": f"{after} -o scores",
    }


def _context(
    posterior: Posterior | Ensemble, path: Path, named: dict[str, str], reading: dict[str, str]
) -> tuple[Trajectories, dict[str, Any]]:
    """The controls of a file, and how that file calls its genes, the column of labels and the control."""
    given = opened(str(path))
    cells = posterior.read(given, **reading, **named).controls()
    columns = resolve(given, Columns.of("citevae challenge", {**posterior.columns, **named}))
    labels = given.obs[columns.perturbation].astype(str)
    label = labels[given.obs_names.isin(cells.names)].mode().iloc[0]
    genes = gene_names(given, columns.genes).tolist()
    return cells, {"genes": genes, "column": columns.perturbation, "control": label}
