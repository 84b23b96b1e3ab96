"""``citevae benchmark``: predictors and baselines by a protocol."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_citevae import benchmark
from pyro_citevae.cli.as_json import Facts, rows
from pyro_citevae.cli.completions import one_of, screens
from pyro_citevae.cli.options import Context, Layout, MostGenes, Quiet
from pyro_citevae.cli.runs import file_of, say_what_runs
from pyro_citevae.cli.terminal import progress_bar, say
from pyro_citevae.errors import DataError
from pyro_citevae.kinds import RESULTS, RESULTS_PAGE, SPLITS
from pyro_citevae.signals import keeping
from pyro_citevae.whole_files import require_free, together

__all__ = ["benchmark_command"]

_FILES = {"results.parquet": RESULTS, "results.md": RESULTS_PAGE, "splits.json": SPLITS}


def benchmark_command(
    protocol: Annotated[
        str,
        typer.Argument(
            metavar="PROTOCOL",
            help=f"{', '.join(benchmark.PROTOCOLS)}, or ablation.",
            autocompletion=one_of(*benchmark.PROTOCOLS, "ablation"),
        ),
    ],
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="TOML, as by citevae settings --benchmark; experiments/<protocol>/config.toml if none.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder of the results; the config's own if none.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Fits of every predictor.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Folds to run, at most.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that fit at once, each in one thread.")] = 1,
    data: Annotated[
        str | None,
        typer.Option(
            help="An h5ad file or a shipped name, in place of the config's data.", autocompletion=screens
        ),
    ] = None,
    layout: Layout = None,
    context: Context = None,
    most_genes: MostGenes = None,
    quiet: Quiet = False,
) -> Facts:
    """Score predictors and baselines by a protocol, over folds and seeds; a second start goes on."""
    benchmark.require_protocol(protocol)
    path = config_file or Path("experiments") / protocol.replace("-", "_") / "config.toml"
    known = path.is_file() or config_file is not None or data is None
    settings = benchmark.settings_from(path) if known else benchmark.Settings()
    named = [settings.merged(one)[:2] for one in settings.variants]
    say_what_runs(path, [settings.model, settings.guide, *chain.from_iterable(named)])
    changed: dict[str, Any] = {"seeds": seeds, "limit": limit}
    settings = settings.model_copy(update={name: v for name, v in changed.items() if v is not None})
    folder = path.parent if out is None else out
    if data is not None:
        reading = {"layout": layout, "context": context, "most_genes": most_genes}
        settings = settings.on(data, {name: v for name, v in reading.items() if v is not None})
        changed |= {"data": data, "layout": layout, "context": context, "most-genes": most_genes}
        folder = Path("runs") / f"{protocol}-{settings.title}" if out is None else out
    elif (layout, context, most_genes) != (None, None, None):
        raise DataError("--layout, --context and --most-genes say how to read --data; name its file.")
    files = [(folder / name, kind) for name, kind in _FILES.items()]
    for file, kind in files:
        require_free(file, True, kind, [file_of(settings.dataset)])
    again = f"the pieces that are done are kept in {folder}; a second start of the same command goes on"
    with keeping(lambda: again), progress_bar(quiet) as advance:
        results = benchmark.run(protocol, settings, folder / "folds", advance, jobs)
    options = [f" --{name} {value}" for name, value in changed.items() if value is not None]
    text = benchmark.report(results, f"citevae benchmark {protocol} --config {path}{''.join(options)}")
    with together(*files, overwrite=True) as (table, page, splits):
        results.scores.to_parquet(table)
        page.write_text(text)
        splits.write_text(json.dumps([asdict(split) for split in results.splits], indent=2) + "\n")
    say(f"{text}\nSaved {folder}/{', '.join(_FILES)}.")
    return {
        "saved": [path for path, _ in files],
        "protocol": results.protocol,
        "headline": results.headline,
        "folds": len(results.splits),
        "seconds": results.seconds,
        "scores": rows(results.scores),
    }
