"""The command line: ``citevae demo | fit | predict | rank | evaluate | benchmark | export | check | ...``.

Exit codes: 0 done, 2 the user's error with one clear sentence, 1 a defect.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from matplotlib.image import imsave
from rich import box, get_console
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from pyro_citevae import benchmark, config, conformance, registry
from pyro_citevae.analysis import Licence, licence, markdown, plots, summary
from pyro_citevae.analysis.held_out_time import Forecast, forecast
from pyro_citevae.benchmark.features import features_of, takes_features
from pyro_citevae.data import Schedule, Split, Trajectories, datasets, do, open_h5ad, render
from pyro_citevae.data.anndata_io import padded
from pyro_citevae.data.causal3dident_dynamics import SHAPES
from pyro_citevae.data.layouts import Columns, resolve
from pyro_citevae.data.rendered_sequences import c3d_parts, render_parts
from pyro_citevae.data.storage import aside, require_free
from pyro_citevae.data.stores import open_screen
from pyro_citevae.errors import (
    CiteVAEError,
    CiteVAEWarning,
    DataError,
    DivergenceError,
    ModelError,
    RunError,
)
from pyro_citevae.infer import Ensemble, Posterior, fit, processes
from pyro_citevae.infer.prediction import require_controls
from pyro_citevae.infer.svi import settings_of
from pyro_citevae.program import LatentDynamics

__all__ = ["app", "main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_simulate = typer.Typer(no_args_is_help=True, help="Make data whose truth is known.")
app.add_typer(_simulate, name="simulate")
_console = get_console()  # that of every bar, so that they stand below each other

_Out = Annotated[Path, typer.Option("-o", "--out", help="What to write.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
_Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
_Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
_Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a fitted run.")]
_OwnModel = Annotated[str | None, typer.Option("--model", help="The run's model, if it is FILE.py:CLASS.")]
_OwnGuide = Annotated[str | None, typer.Option("--guide", help="The run's guide, if it is FILE.py:CLASS.")]
_Accelerator = Annotated[str, typer.Option("--accelerator", help="cpu, gpu or auto.")]

_Layout = Annotated[
    str | None,
    typer.Option(help="plain, gears, scperturb, vcc or cpa; what the file surely is if not given."),
]
_MostGenes = Annotated[
    int | None, typer.Option(min=1, help="Keep the perturbed and the most variable genes; all if not given.")
]

_MeshDir = Annotated[
    Path | None, typer.Option(help="Folder of meshes in the places of shapes, such as cow.obj or hare.npz.")
]
_Backend = Annotated[str, typer.Option(help=f"{', '.join(render.BACKENDS)} or auto.")]

_DEMO_CELLS = 100
_ONLY_IN_FILES = ("damped extrapolation", "shrunken persistence")


def main() -> None:
    """Runs the command line, and turns a user's mistake into one sentence and exit code 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", CiteVAEWarning)
        warnings.showwarning = _in_one_line(warnings.showwarning)
        try:
            app()
        except CiteVAEError as error:
            if processes.tell(error):
                sys.exit(2)
            Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
            sys.exit(2)


@app.command()
def demo(
    out: _Out = Path("runs/demo"),
    overwrite: _Overwrite = False,
    seed: _Seed = 0,
    epochs: Annotated[int, typer.Option(help="Passes over the cells.")] = 60,
    quiet: _Quiet = False,
) -> None:
    """Train on days 2-4 of 23 real knock-outs, forecast day 5, and score it beside the baselines."""
    require_free(out, overwrite)
    data = datasets.load("renge")
    train, truth = data.hold_out(times=[5])
    _say(
        f"RENGE (Ishikawa et al. 2023): {train.n_cells} cells of days 2-4 to train on, "
        f"{truth.n_cells} of day 5 held out."
    )
    settings = config.Settings(fit={"seed": seed, "max_epochs": epochs})
    posterior = _fitted(settings, train, {"path": "renge", "columns": asdict(_columns_of("renge"))}, quiet)
    with _console.status("forecasting day 5 ..."):
        headline = datasets.CATALOGUE["renge"].headline
        found = forecast(posterior, train, truth, dataset="renge", headline=headline, seed=seed)
        cells = train.controls().thinned(_DEMO_CELLS)
        schedules = [do(), *(do(label) for label in data.perturbations())]
        predicted = posterior.predict(schedules, cells=cells, time=5, seed=seed)
    with aside(out, overwrite=overwrite) as folder:
        posterior.write(folder)
        predicted.write_h5ad(folder / "predictions.h5ad")
        _write_scores(folder, found)
        _write_pictures(folder, posterior, found)
        posterior.to_datatree(train, most_cells=_DEMO_CELLS, seed=seed).to_netcdf(
            folder / "posterior.nc", engine="h5netcdf"
        )
    _show_scores(found)
    _say(
        f"\nSaved in {out}/: scores.md, effects.png, trajectories.png, predictions.h5ad, effects.nc, and the "
        "posterior (posterior.nc opens in ArviZ).\n"
        f"Next: citevae predict {out} --do PRDM14+SOX2 -o prediction.h5ad"
    )


@app.command("fit")
def fit_command(
    data: Annotated[str, typer.Argument(metavar="DATA", help="An h5ad file, or a shipped data set's name.")],
    out: _Out,
    perturbation: Annotated[str | None, typer.Option(help="Column of obs with labels A, A+B.")] = None,
    control: Annotated[str | None, typer.Option(help="Label of unperturbed cells.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of obs with times.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with counts; X if not given.")] = None,
    library: Annotated[str | None, typer.Option(help="Column of obs with library sizes.")] = None,
    batch: Annotated[str | None, typer.Option(help="Column of obs with technical batches.")] = None,
    sequence: Annotated[str | None, typer.Option(help="Column of obs that joins a cell's rows.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Label to leave out; may be repeated.")] = None,
    layout: _Layout = None,
    most_genes: _MostGenes = None,
    candidates: Annotated[
        Path | None, typer.Option(help="File with a perturbation a line, without cells, to be predicted.")
    ] = None,
    features: Annotated[
        str, typer.Option(help="What is known of genes: gene-ontology, coexpression, or a table; or none.")
    ] = "none",
    model: Annotated[str | None, typer.Option(help="Model: a name, or FILE.py:CLASS.")] = None,
    guide: Annotated[str | None, typer.Option(help="Guide: a name, or FILE.py:CLASS.")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="TOML: [model] [guide] [fit].")] = None,
    hold_out: Annotated[
        list[str] | None, typer.Option(help="perturbation=A,B | time=5 | combination=A+B; joined by ';'.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the cells.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="cpu, gpu or auto.")] = None,
    devices: Annotated[
        int | None, typer.Option(help="Devices of this machine to train on, a process each.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="32-true, 64-true or bf16-mixed.")] = None,
    sampler: Annotated[str | None, typer.Option(help="auto, uniform, blocks or balanced.")] = None,
    from_disk: Annotated[
        bool, typer.Option("--from-disk", help="Leave the counts in their h5ad or zarr while training.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a fit that was interrupted; begin if there is none.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Fits from so many seeds, asked as one posterior.")] = 1,
    overwrite: _Overwrite = False,
    quiet: _Quiet = False,
) -> None:
    """Fit a model to a screen, and save the run; each epoch is kept in OUT.training until then."""
    if resume and out.exists() and not overwrite:
        _say(f"{out} is complete; there is nothing to go on with.\nNext: citevae evaluate {out}")
        return
    require_free(out, overwrite)
    training = out.with_name(f"{out.name}.training")
    settings = config.read(config_file)
    for name, part, given in (("model", settings.model, model), ("guide", settings.guide, guide)):
        if given is not None:
            setattr(settings, name, part.model_copy(update={"name": given}))
    options = {
        "max_epochs": epochs,
        "accelerator": accelerator,
        "devices": devices,
        "precision": precision,
        "sampler": sampler,
        "seed": seed,
    }
    settings.fit.update({name: value for name, value in options.items() if value is not None})
    checked = settings_of(settings.fit)
    if checked.devices > 1 and not processes.launched():
        with tempfile.TemporaryDirectory() as errors:
            processes.launch(checked.devices, ("-m", "pyro_citevae.cli", *sys.argv[1:]), Path(errors))
        return
    is_first = processes.world(checked.devices).rank == 0
    if overwrite and not resume:
        shutil.rmtree(training, ignore_errors=True)
    given_columns = {
        "perturbation": perturbation,
        "control": control,
        "time": time,
        "layer": layer,
        "library": library,
        "batch": batch,
        "sequence": sequence,
        "exclude": tuple(exclude) if exclude else None,
        "candidates": None if candidates is None else tuple(_candidates(candidates)),
        "layout": layout,
        "most_genes": most_genes,
    }
    named: dict[str, Any] = {key: value for key, value in given_columns.items() if value is not None}
    wanted = replace(_columns_of(data), **named)
    quiet = quiet or not is_first
    if from_disk:
        columns = asdict(resolve(open_screen(data).labels, wanted))
        screen = Trajectories.from_disk(data, progress=not quiet, **columns)
    else:
        adata = _opened(data)
        columns = asdict(resolve(adata, wanted))
        screen = Trajectories.from_anndata(adata, **columns)
    train = screen.divide(Split.parse(hold_out))[0] if hold_out else screen
    path = data if data in datasets.CATALOGUE else str(Path(data).resolve())
    source = {"path": path, "columns": columns, **({"from_disk": True} if from_disk else {})}
    fits = []
    for one in range(checked.seed, checked.seed + seeds):
        settings.fit["seed"] = one
        state: dict[str, Any] = {"checkpoints": training / f"seed_{one}", "resume": resume}
        with _keeping_the_last_good(out, training):
            fits.append(_fitted(settings, train, source, quiet, features, **state))
    if not is_first:
        return
    posterior = fits[0] if seeds == 1 else Ensemble(fits)
    posterior.save(out, overwrite=overwrite)
    shutil.rmtree(training, ignore_errors=True)
    bound = sum(one.history["training"].iloc[-1] for one in fits) / seeds
    _say(
        f"Fitted {posterior.name} to {train.n_cells} cells{f' from {seeds} seeds' if seeds > 1 else ''}; the "
        f"bound is {bound:.2f} nats a cell. Saved in {out}.\n"
        f"Next: citevae predict {out} --do {screen.perturbations()[0]} -o pred.h5ad"
    )


@app.command()
def predict(
    run: _Run,
    out: _Out,
    do_: Annotated[list[str], typer.Option("--do", help="Schedule A, A+B, A@0+B@24; may be repeated.")],
    cells: Annotated[
        Path | None, typer.Option(help="h5ad of control cells; the training ones if none.")
    ] = None,
    draws: Annotated[int, typer.Option(min=2, help="Number of draws.")] = 100,
    time: Annotated[float | None, typer.Option(help="Time to predict; the last one if not given.")] = None,
    most_cells: Annotated[int, typer.Option(min=1, help="Control cells to predict from, at most.")] = 500,
    seed: _Seed = 0,
    accelerator: _Accelerator = "cpu",
    model: _OwnModel = None,
    guide: _OwnGuide = None,
    overwrite: _Overwrite = False,
) -> None:
    """Predict what control cells would show under other schedules, with intervals."""
    require_free(out, overwrite)
    if out.name == "effects.nc":
        raise RunError("effects.nc is written beside the predicted cells; name the cells' file otherwise.")
    effects_path = require_free(out.with_name("effects.nc"), overwrite)
    posterior = _loaded(run, model, guide).to(accelerator)
    schedules = [posterior.schema.require(Schedule.parse(text, posterior.schema.control)) for text in do_]
    controls = _controls(posterior, cells).thinned(most_cells)
    acting = [one for one in dict.fromkeys(schedules) if not one.is_control]
    with _console.status(f"predicting {len(acting)} schedules ..."):
        options: dict[str, Any] = {"cells": controls, "draws": draws, "time": time, "seed": seed}
        predicted = posterior.predict([do(), *acting], **options)
        effects = posterior.effect(acting or [do()], **options)
    with aside(out, overwrite=overwrite) as file, aside(effects_path, overwrite=overwrite) as effects_file:
        predicted.write_h5ad(file)
        effects.to_dataset().to_netcdf(effects_file, engine="h5netcdf")
    _say(
        f"Predicted {predicted.n_obs} cells ({len(acting)} schedules and the control, "
        f"{controls.n_cells} cells each). Saved {out} and {effects_path}.\n"
        f"Next: anndata.read_h5ad('{out}').layers['mean']"
    )


@app.command("rank")
def rank_command(
    run: _Run,
    candidates: Annotated[
        Path | None, typer.Option(help="File with a candidate a line, A or A+B; all perturbations if none.")
    ] = None,
    do_: Annotated[list[str] | None, typer.Option("--do", help="A candidate; may be repeated.")] = None,
    by: Annotated[str, typer.Option(help="information, spread or effect.")] = "information",
    n_cells: Annotated[int, typer.Option("--cells", help="Cells to measure a candidate in.")] = 100,
    time: Annotated[float | None, typer.Option(help="Time to measure; the last one if not given.")] = None,
    draws: Annotated[int, typer.Option(min=2, help="Number of draws.")] = 200,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for the table and picture.")] = None,
    seed: _Seed = 0,
    accelerator: _Accelerator = "cpu",
    model: _OwnModel = None,
    guide: _OwnGuide = None,
    overwrite: _Overwrite = False,
) -> None:
    """Say which perturbation to measure next, and why."""
    if out is not None:
        require_free(out, overwrite)
    posterior = _loaded(run, model, guide).to(accelerator)
    named = [*(_candidates(candidates) if candidates else []), *(do_ or [])]
    wanted = named if candidates or do_ else list(posterior.schema.tokens)
    with _console.status("predicting the candidates ..."):
        found = posterior.rank(wanted, by=by, n_cells=n_cells, time=time, draws=draws, seed=seed)
    _say(found.report())
    if out is not None:
        with aside(out, overwrite=overwrite) as folder:
            folder.mkdir()
            found.table.to_csv(folder / "ranking.csv", index=False)
            found.to_dataset().to_netcdf(folder / "ranking.nc", engine="h5netcdf")
            plots.ranking(found).savefig(folder / "ranking.png", dpi=130)
        _say(f"Saved in {out}/: ranking.csv, ranking.nc, ranking.png.")


def _candidates(path: Path) -> list[str]:
    """The lines of a file, without those that are empty or begin with '#'."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--candidates '{path}' cannot be read as text; give a candidate a line.") from error
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise DataError(f"--candidates '{path}' holds no candidate; give one a line, such as KLF1+MAP2K6.")
    return found


@app.command()
def evaluate(
    run: _Run,
    truth: Annotated[
        str | None, typer.Option(help="h5ad with the held-out cells; the run's data if none.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for scores and pictures.")] = None,
    draws: Annotated[int, typer.Option(min=2, help="Number of draws.")] = 200,
    licence_: Annotated[
        bool,
        typer.Option("--licence", help="Say what the fit would license of its latent states; score nothing."),
    ] = False,
    accelerator: _Accelerator = "cpu",
    model: _OwnModel = None,
    guide: _OwnGuide = None,
    overwrite: _Overwrite = False,
) -> None:
    """Score a run's forecast of its held-out time beside baselines and the ceiling."""
    if out is not None:
        require_free(out, overwrite)
    posterior = _loaded(run, model, guide).to(accelerator)
    train, held_out = _divided(posterior)
    if licence_:
        _report_licences(posterior, train, out, overwrite)
        return
    if held_out is None:
        raise RunError(f"'{run}' held nothing out; fit it again with --hold-out, such as --hold-out time=5.")
    source = _source(posterior)
    genes = None
    if truth is not None:
        held_out, genes = _read_truth(truth, source["columns"], posterior)
    path = truth or source["path"]
    name = Path(path).stem
    headline = datasets.CATALOGUE[path].headline if path in datasets.CATALOGUE else ()
    with _console.status("scoring ..."):
        found = forecast(
            posterior, train, held_out, dataset=name, headline=headline, draws=draws, genes=genes
        )
    _show_scores(found)
    if out is not None:
        with aside(out, overwrite=overwrite) as folder:
            folder.mkdir()
            _write_scores(folder, found)
            _write_pictures(folder, posterior, found)
        _say(f"Saved in {out}/: scores.md, scores.json, effects.nc, effects.png, trajectories.png.")


@app.command("benchmark")
def benchmark_command(
    protocol: Annotated[
        str, typer.Argument(metavar="PROTOCOL", help=f"{', '.join(benchmark.PROTOCOLS)}, or ablation.")
    ],
    config_file: Annotated[
        Path | None, typer.Option("--config", help="TOML; experiments/<protocol>/config.toml if none.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder of the results; the config's own if none.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Fits of every predictor.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Folds to run, at most.")] = None,
    data: Annotated[
        str | None, typer.Option(help="An h5ad file or a shipped name, in place of the config's data.")
    ] = None,
    layout: _Layout = None,
    most_genes: _MostGenes = None,
    quiet: _Quiet = False,
) -> None:
    """Score predictors and baselines by a protocol, over folds and seeds; a second start goes on."""
    path = config_file or Path("experiments") / protocol.replace("-", "_") / "config.toml"
    known = path.is_file() or config_file is not None or data is None
    settings = benchmark.read(path) if known else benchmark.Settings()
    changed: dict[str, Any] = {"seeds": seeds, "limit": limit}
    settings = settings.model_copy(update={name: v for name, v in changed.items() if v is not None})
    folder = path.parent if out is None else out
    if data is not None:
        reading = {"layout": layout, "most_genes": most_genes}
        settings = settings.on(data, {name: v for name, v in reading.items() if v is not None})
        changed |= {"data": data, "layout": layout, "most-genes": most_genes}
        folder = Path("runs") / f"{protocol}-{settings.title}" if out is None else out
    elif layout is not None or most_genes is not None:
        raise DataError("--layout and --most-genes say how to read --data; name its file.")
    with _progress(quiet) as advance:
        results = benchmark.run(protocol, settings, folder / "folds", advance)
    options = [f" --{name} {value}" for name, value in changed.items() if value is not None]
    text = benchmark.report(results, f"citevae benchmark {protocol} --config {path}{''.join(options)}")
    with aside(folder / "results.parquet", overwrite=True) as file:
        results.scores.to_parquet(file)
    with aside(folder / "results.md", overwrite=True) as file:
        file.write_text(text)
    with aside(folder / "splits.json", overwrite=True) as file:
        file.write_text(json.dumps([asdict(split) for split in results.splits], indent=2) + "\n")
    _say(f"{text}\nSaved {folder}/results.parquet, results.md and splits.json.")


@app.command()
def export(
    run: _Run,
    out: _Out,
    draws: Annotated[int, typer.Option(min=1, help="Number of draws.")] = 100,
    most_cells: Annotated[int, typer.Option(min=1, help="Cells with draws of their own, at most.")] = 200,
    seed: _Seed = 0,
    model: _OwnModel = None,
    guide: _OwnGuide = None,
    overwrite: _Overwrite = False,
) -> None:
    """Write the posterior as an xarray DataTree: netCDF (.nc) or zarr (.zarr), for ArviZ."""
    require_free(out, overwrite)
    if out.suffix not in (".nc", ".zarr"):
        raise RunError(f"'{out}' ends in neither .nc (netCDF) nor .zarr; name one of the two.")
    posterior = _loaded(run, model, guide)
    data, _ = _divided(posterior)
    with _console.status("drawing ..."):
        tree = posterior.to_datatree(data, draws=draws, most_cells=most_cells, seed=seed)
    with aside(out, overwrite=overwrite) as file:
        if out.suffix == ".nc":
            tree.to_netcdf(file, engine="h5netcdf")
        else:
            tree.to_zarr(file, zarr_format=2)
    groups = ", ".join(tree.children)
    _say(f"Saved {out} with groups {groups}.\nNext: xarray.open_datatree('{out}')")


@app.command()
def check(
    name: Annotated[
        str, typer.Argument(metavar="CLASS", help="A model or a guide: FILE.py:CLASS, or a name.")
    ],
    partner: Annotated[
        str | None, typer.Option("--with", help="The guide of the model, or the model of the guide.")
    ] = None,
) -> None:
    """Try the laws that fitting and predicting rely on, on a model or a guide of your own."""
    found = registry.find(name)
    report = _checked(found, None if partner is None else registry.find(partner))
    table = Table("law", "holds", "what it says", "what was seen")
    table.title = f"{report.subject} with {report.partner}"
    for row in report.rows:
        word = {True: "yes", False: "[bold red]no[/]", None: "not tried"}[row.passed]
        mend = f"\nMend: {row.mend}." if row.passed is False else ""
        table.add_row(row.law, word, row.sentence, escape(row.seen + mend))
    _console.print(table)
    report.require()
    _say(f"{len(report.rows)} laws hold.\nNext: citevae fit DATA.h5ad --{_kind(found)} {name} -o RUN")


@app.command("models")
def list_models() -> None:
    """List the models and guides, those of installed plug-ins among them."""
    table = Table("kind", "name", "what it is", "from")
    for one in registry.listings():
        table.add_row(one.kind, one.name, escape(one.what), escape(one.origin))
    _console.print(table)


@app.command("datasets")
def list_datasets() -> None:
    """List the shipped screens with their origin and licence."""
    table = Table("name", "what", "values", "origin", "licence")
    for name, entry in datasets.CATALOGUE.items():
        table.add_row(name, entry.what, entry.values, entry.origin, entry.licence)
    _console.print(table)
    _say("Next: citevae fit renge --hold-out time=5 -o runs/renge")


@_simulate.command("c3d")
def simulate_c3d(
    out: _Out,
    frames: Annotated[
        int, typer.Option(help="Frames to train on; the six other parts have a tenth.")
    ] = 20_000,
    shapes: Annotated[str, typer.Option(help="one (the teapot) or all seven.")] = "all",
    mesh_dir: _MeshDir = None,
    backend: _Backend = "numpy",
    jobs: Annotated[int | None, typer.Option(help="Processes; one a core if not given.")] = None,
    seed: _Seed = 0,
    overwrite: _Overwrite = False,
    quiet: _Quiet = False,
) -> None:
    """Render C3D-Render, an object that moves by a known process; a second start goes on."""
    if shapes not in ("one", "all"):
        raise DataError(f"--shapes '{shapes}' is neither 'one' nor 'all'; give one of them.")
    require_free(out, overwrite)
    parts = c3d_parts(frames, SHAPES if shapes == "all" else SHAPES[:1], seed=seed)
    meshes = render.meshes(mesh_dir)
    with _progress(quiet) as advance:
        render_parts(
            out, parts, meshes, seed=seed, backend=backend, jobs=jobs, overwrite=overwrite, progress=advance
        )
    _say(
        f"Rendered {sum(part.latents[..., 0].size for part in parts.values())} frames. Saved in {out}/: "
        f"{', '.join(f'{name}.npz' for name in parts)}."
    )


@_simulate.command("c3d-sheet")
def simulate_c3d_sheet(
    out: _Out,
    mesh_dir: _MeshDir = None,
    backend: _Backend = "numpy",
    seed: _Seed = 0,
    overwrite: _Overwrite = False,
) -> None:
    """Draw one picture (.png) with every object in several scenes of C3D-Render."""
    require_free(out, overwrite)
    sheet = render.contact_sheet(render.open_renderer(backend, render.meshes(mesh_dir)), seed=seed)
    with aside(out, overwrite=overwrite) as file:
        imsave(file, sheet, format="png")
    _say(f"Saved {out}.")


def _in_one_line(otherwise: Callable[..., None]) -> Callable[..., None]:
    """Shows a warning of ours as one line, and any other as before."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, CiteVAEWarning):
            Console(stderr=True).print(f"[bold yellow]warning:[/] {escape(str(message))}", soft_wrap=True)
        else:
            otherwise(message, category, *where, **more)

    return show


def _say(text: str) -> None:
    """Prints text as it is, on lines that can be copied."""
    _console.print(text, markup=False, soft_wrap=True)


def _fitted(
    settings: config.Settings,
    train: Trajectories,
    source: dict[str, Any],
    quiet: bool,
    features: str = "none",
    **state: Any,
) -> Posterior:
    found, part = registry.find_model(settings.model.name), settings.model
    known = features_of(features, train, plain=False)
    if known is not None:
        if not takes_features(found):
            raise ModelError(f"--features {features}: {found.__name__} takes no features; fit CiteVAE.")
        part = config.Part(**{"name": part.name, **part.arguments, "features": known})
    model = config.make(found, part, train.schema)
    guide = config.make(registry.find_guide(settings.guide.name), settings.guide, model)
    posterior = fit(model, guide, train, progress=not quiet, **state, **asdict(settings_of(settings.fit)))
    posterior.record["source"] = source
    return posterior


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar that is told what is done, how much was done, and how much there is."""
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), disable=quiet) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda said, done, total: bar.update(task, description=said, completed=done, total=total)


@contextmanager
def _keeping_the_last_good(out: Path, training: Path) -> Iterator[None]:
    """Saves the last good epoch of a fit that diverges beside the run that it would have been."""
    try:
        yield
    except DivergenceError as error:
        kept = out.with_name(f"{out.name}.last_good")
        error.last_good.save(kept, overwrite=True)
        shutil.rmtree(training, ignore_errors=True)  # to go on from there would diverge again
        raise DivergenceError(f"{error} It is saved in {kept}.") from error


def _loaded(run: Path, model: str | None, guide: str | None) -> Posterior | Ensemble:
    """A run, with the classes that the command line names and no other code."""
    return registry.load(
        run,
        model=None if model is None else registry.find_model(model),
        guide=None if guide is None else registry.find_guide(guide),
    )


def _kind(found: type) -> str:
    return "model" if issubclass(found, LatentDynamics) else "guide"


def _checked(found: Any, partner: Any) -> conformance.Report:
    """The laws' report on a model or a guide, with a partner of the other kind."""
    if partner is not None and _kind(partner) == _kind(found):
        raise ModelError(
            f"--with names the {_kind(found)} '{partner.__name__}'; a {_kind(found)} is checked with a "
            f"{'guide' if _kind(found) == 'model' else 'model'}."
        )
    check = conformance.check_model if _kind(found) == "model" else conformance.check_guide
    given = () if partner is None else (partner,)
    with _console.status("trying the laws ...") as status:
        return check(found, *given, progress=lambda law: status.update(f"trying '{law}' ..."))


def _columns_of(name: str) -> Columns:
    return datasets.CATALOGUE[name].columns if name in datasets.CATALOGUE else Columns()


def _read(
    path: str, columns: dict[str, Any], posterior: Posterior | Ensemble, from_disk: bool = False
) -> Trajectories:
    """Reads an h5ad file or a shipped data set to a run's schema."""
    reading = {**columns, "values": posterior.schema.values, "schema": posterior.schema}
    if from_disk:
        return Trajectories.from_disk(path, **reading)
    return Trajectories.from_anndata(_opened(path), **reading)


def _opened(path: str) -> Any:
    """An h5ad file or a shipped data set."""
    return getattr(datasets, path)() if path in datasets.CATALOGUE else open_h5ad(path)


def _read_truth(
    path: str, columns: dict[str, Any], posterior: Posterior | Ensemble
) -> tuple[Trajectories, tuple[str, ...]]:
    """Held-out cells to a run's schema, and the genes that they were measured on."""
    whole, genes = padded(_opened(path), posterior.schema, path, columns.get("layout") or "plain")
    schema = posterior.schema
    return Trajectories.from_anndata(whole, **columns, values=schema.values, schema=schema), genes


def _source(posterior: Posterior | Ensemble) -> dict[str, Any]:
    source: dict[str, Any] | None = posterior.record.get("source")
    if source is None:
        raise RunError("the run does not say which file it was trained on; make it with citevae fit.")
    return source


def _divided(posterior: Posterior | Ensemble) -> tuple[Trajectories, Trajectories | None]:
    """The data that a run was trained on, if it is still what it was, and what the run held out."""
    source = _source(posterior)
    screen = _read(source["path"], source["columns"], posterior, source.get("from_disk", False))
    train, held_out = (screen, None) if posterior.split is None else screen.divide(posterior.split)
    if train.digest != posterior.record["data"]:
        raise DataError(f"'{source['path']}' has changed since the run was fitted; fit it again.")
    return train, held_out


def _controls(posterior: Posterior | Ensemble, cells: Path | None) -> Trajectories:
    """The control cells of a file, or those of the training data."""
    if cells is None:
        return _divided(posterior)[0].controls()
    given = _read(str(cells), _source(posterior)["columns"], posterior)
    return require_controls(given, posterior.schema)


def _report_licences(
    posterior: Posterior | Ensemble, train: Trajectories, out: Path | None, overwrite: bool
) -> None:
    """Prints the licence report, one for each fit of an ensemble, and writes it if there is a folder."""
    fits = posterior.posteriors if isinstance(posterior, Ensemble) else (posterior,)
    with _console.status("looking at the posterior ..."):
        found = [licence(one, train) for one in fits]
    text = "\n\n".join(one.report() for one in found)
    _say(text)
    if out is not None:
        with aside(out, overwrite=overwrite) as folder:
            folder.mkdir()
            (folder / "licence.txt").write_text(text + "\n")
            _write_licences(folder, found)
        _say(f"Saved in {out}/: licence.txt, licence.csv and a picture of each fit's checks.")


def _write_licences(folder: Path, found: list[Licence]) -> None:
    """A table of all fits, and a picture of each."""
    tables = pd.concat({member: one.table() for member, one in enumerate(found)}, names=["member"])
    tables.to_csv(folder / "licence.csv")
    for member, one in enumerate(found):
        name = "licence.png" if len(found) == 1 else f"licence_{member}.png"
        plots.licence(one).savefig(folder / name, dpi=130)


def _show_scores(found: Forecast) -> None:
    """Prints the scores: a row a perturbation, Pearson and relative L2 by predictor."""
    shown = ~found.scores.predictor.isin(_ONLY_IN_FILES)
    text = summary(found.scores[shown], found.headline)
    table = Table(
        title="Pearson and relative L2 of the effect against control, own gene left out",
        caption="The mean of others sees the scored time; no other row does.",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for name in text.columns:
        width = max(6, *(len(cell.replace(" / ", " ")) for cell in text[name]))
        table.add_column(name.partition("/")[0], justify="right", overflow="fold", width=width)
    for label, row in zip(text.index, text.to_numpy(), strict=True):
        table.add_row(label, *(cell.replace(" / ", " ") for cell in row))
    _console.print(table)


def _write_scores(folder: Path, found: Forecast) -> None:
    found.effects.to_dataset().to_netcdf(folder / "effects.nc", engine="h5netcdf")
    (folder / "scores.md").write_text(markdown(summary(found.scores, found.headline)) + "\n")
    records = json.loads(str(found.scores.to_json(orient="records")))
    (folder / "scores.json").write_text(json.dumps(records, indent=1) + "\n")


def _write_pictures(folder: Path, posterior: Posterior | Ensemble, found: Forecast) -> None:
    chosen = [one for one in found.measurements if one.perturbation in found.headline]
    shown = sorted(chosen or found.measurements, key=lambda one: -one.split_half)[:6]
    plots.effects(found.effects, shown).savefig(folder / "effects.png", dpi=130)
    control = posterior.schema.control
    schedules = [do(), *(Schedule.parse(one.perturbation, control) for one in shown)]
    before = posterior.split.criteria[0].times if posterior.split else ()
    earlier = [time for time in posterior.schema.times if not before or time < min(before)]
    figure = plots.trajectories(
        posterior.programs(schedules, time=shown[0].time),
        control=control,
        observed_until=max(earlier, default=None),
        unit=posterior.schema.time_unit,
    )
    figure.savefig(folder / "trajectories.png", dpi=130)


if __name__ == "__main__":
    main()
