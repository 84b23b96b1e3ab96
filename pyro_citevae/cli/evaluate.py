"""``citevae demo`` and ``evaluate``: forecasts scored beside baselines, and what a fit would license."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich import box
from rich.table import Table

from pyro_citevae import config
from pyro_citevae.analysis import Licence, MeanOfOthers, diagnose, licence, markdown, plots, summary
from pyro_citevae.benchmark.held_out_time import Forecast, forecast
from pyro_citevae.cli.as_json import Facts, rows
from pyro_citevae.cli.options import Accelerator, Data, Out, Overwrite, OwnGuide, OwnModel, Quiet, Run, Seed
from pyro_citevae.cli.runs import divided, file_of, held_out_cells, loaded_run, origin_of
from pyro_citevae.cli.terminal import console, say
from pyro_citevae.data import Schedule, Trajectories, datasets, do
from pyro_citevae.data.written_cells import write_cells
from pyro_citevae.errors import RunError
from pyro_citevae.hdf5_files import write_netcdf
from pyro_citevae.infer import Ensemble, Posterior
from pyro_citevae.kinds import CELLS, DEMO, LICENCE, SCORES
from pyro_citevae.recipe import Recipe, features_of_run
from pyro_citevae.whole_files import aside, require_free

__all__ = ["demo", "evaluate"]

_DEMO_CELLS = 100
_SAVED = ("scores.md", "scores.json", "diagnosis.txt", "effects.nc", "effects.png", "trajectories.png")
_SEES = "The mean of others sees the scored time; no other row does."
_ONLY_IN_FILES = (
    "damped extrapolation",
    "shrunken persistence",
    "shrunken mean of other contexts",
    "pooled log ratio",
)


def demo(
    out: Out = Path("runs/demo"),
    overwrite: Overwrite = False,
    seed: Seed = 0,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the cells; none to go on until the bound stops rising.")
    ] = None,
    quiet: Quiet = False,
) -> Facts:
    """Train on days 2-4 of 23 real knock-outs, forecast day 5, and score it beside the baselines."""
    require_free(out, overwrite, DEMO)
    data = datasets.load("renge")
    train, truth = data.hold_out(times=[5])
    say(
        f"RENGE (Ishikawa et al. 2023): {train.n_cells} cells of days 2-4 to train on, "
        f"{truth.n_cells} of day 5 held out."
    )
    passes = {} if epochs is None else {"max_epochs": epochs}
    posterior = Recipe.of(config.Settings(fit={"seed": seed, **passes})).fitted(train, progress=not quiet)
    posterior.record["source"] = {"path": "renge"}
    with console.status("looking at the fit ..."):
        diagnosis = diagnose(posterior, train)
    posterior.record["diagnosis"] = diagnosis.record()
    with console.status("forecasting day 5 ..."):
        headline = datasets.CATALOGUE["renge"].headline
        found = forecast(posterior, train, truth, dataset="renge", headline=headline, seed=seed)
        cells = train.controls().thinned(_DEMO_CELLS)
        schedules = [do(), *(do(label) for label in data.perturbations())]
        predicted = posterior.predict(schedules, cells=cells, time=5, seed=seed)
    with aside(out, overwrite=overwrite, kind=DEMO) as folder:
        posterior.write(folder, out.name)
        write_cells(predicted, folder / "predictions.h5ad", CELLS)
        _write_scores(folder, found)
        _write_pictures(folder, posterior, found)
        write_netcdf(posterior.to_datatree(train, most_cells=_DEMO_CELLS, seed=seed), folder / "posterior.nc")
    _show_scores(found)
    then = f"citevae predict {out} --do PRDM14+SOX2 -o prediction.h5ad"
    say(
        f"\n{diagnosis.verdict}\n"
        f"Saved in {out}/: scores.md, effects.png, trajectories.png, predictions.h5ad, effects.nc, and the "
        "posterior (posterior.nc opens in ArviZ).\n"
        f"Next: {then}"
    )
    return {
        "saved": sorted(out.iterdir()),
        "name": found.name,
        "verdict": diagnosis.verdict,
        "forecast": found.verdict,
        "scores": rows(found.scores),
        "next": then,
    }


def evaluate(
    run: Run,
    truth: Annotated[
        str | None, typer.Option(help="h5ad with the held-out cells; the run's data if none.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for scores and pictures.")] = None,
    draws: Annotated[int, typer.Option(min=2, help="Number of draws.")] = 200,
    context: Annotated[
        str | None, typer.Option(help="Context to score; the one that the run held out if none.")
    ] = None,
    licence_: Annotated[
        bool,
        typer.Option("--licence", help="Say what the fit would license of its latent states; score nothing."),
    ] = False,
    data: Data = None,
    accelerator: Accelerator = "cpu",
    model: OwnModel = None,
    guide: OwnGuide = None,
    overwrite: Overwrite = False,
) -> Facts:
    """Score a run's forecast of its held-out time or context beside baselines and the ceiling."""
    if out is not None:
        require_free(out, overwrite, LICENCE if licence_ else SCORES, [run, file_of(truth), file_of(data)])
    posterior = loaded_run(run, model, guide).to(accelerator)
    train, held_out = divided(posterior, data)
    if licence_:
        return _report_licences(posterior, train, out, overwrite)
    if held_out is None:
        raise RunError(f"'{run}' held nothing out; fit it again with --hold-out, such as --hold-out time=5.")
    origin = origin_of(posterior, data)
    genes = None
    if truth is not None:
        held_out, genes = held_out_cells(truth, posterior)
    path = truth or origin["path"]
    name = Path(path).stem
    headline = datasets.CATALOGUE[path].headline if path in datasets.CATALOGUE else ()
    with console.status("scoring ..."):
        asked: dict[str, Any] = {"dataset": name, "headline": headline, "draws": draws, "genes": genes}
        asked["context"] = context
        features = features_of_run(posterior.record, train)
        found = forecast(posterior, train, held_out, features=features, **asked)
        diagnosis = diagnose(posterior, train)
    _show_scores(found)
    say(f"{diagnosis.verdict}\n{found.verdict}")
    if out is not None:
        with aside(out, overwrite=overwrite, kind=SCORES) as folder:
            folder.mkdir()
            _write_scores(folder, found)
            (folder / "diagnosis.txt").write_text(f"{diagnosis.report()}\n\n{found.verdict}\n")
            _write_pictures(folder, posterior, found)
        say(f"Saved in {out}/: {', '.join(_SAVED)}.")
    return {
        "saved": [] if out is None else [out / name for name in _SAVED],
        "name": found.name,
        "cells": train.n_cells,
        "verdict": diagnosis.verdict,
        "diagnosis": diagnosis.record(),
        "forecast": found.verdict,
        "headline": found.headline,
        "scores": rows(found.scores),
    }


def _report_licences(
    posterior: Posterior | Ensemble, train: Trajectories, out: Path | None, overwrite: bool
) -> Facts:
    """Prints the licence report, one for each fit of an ensemble, and writes it if there is a folder."""
    fits = posterior.posteriors if isinstance(posterior, Ensemble) else (posterior,)
    with console.status("looking at the posterior ..."):
        adequacy = diagnose(posterior, train)
        found = [licence(one, train) for one in fits]
    text = "\n\n".join([adequacy.report(), *(one.report() for one in found)])
    say(text)
    if out is not None:
        with aside(out, overwrite=overwrite, kind=LICENCE) as folder:
            folder.mkdir()
            (folder / "licence.txt").write_text(text + "\n")
            _write_licences(folder, found)
        say(f"Saved in {out}/: licence.txt, licence.csv and a picture of each fit's checks.")
    return {
        "saved": [] if out is None else sorted(out.iterdir()),
        "verdict": adequacy.verdict,
        "licences": [asdict(one) for one in found],
    }


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
        title="Pearson (best 1) and relative L2 (best 0) of the effect against control, own gene left out",
        caption=_SEES if MeanOfOthers.name in set(found.scores.predictor) else None,
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
    console.print(table)


def _write_scores(folder: Path, found: Forecast) -> None:
    write_netcdf(found.effects.to_dataset(), folder / "effects.nc")
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
    states = posterior.programs(schedules, time=shown[0].time, context=found.context)
    figure = plots.trajectories(
        states if found.context is None else states.isel(context=0),
        control=control,
        observed_until=max(earlier, default=None),
        unit=posterior.schema.time_unit,
    )
    figure.savefig(folder / "trajectories.png", dpi=130)
