"""``citevae benchmark``: predictors and baselines by a protocol."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_citevae import benchmark
from pyro_citevae.cli.as_json import Facts, rows
from pyro_citevae.cli.completions import one_of, screens
from pyro_citevae.cli.options import Context, Layout, MostGenes, Quiet
from pyro_citevae.cli.terminal import progress_bar, say
from pyro_citevae.errors import DataError
from pyro_citevae.whole_files import aside

__all__ = ["benchmark_command"]


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
    with progress_bar(quiet) as advance:
        results = benchmark.run(protocol, settings, folder / "folds", advance, jobs)
    options = [f" --{name} {value}" for name, value in changed.items() if value is not None]
    text = benchmark.report(results, f"citevae benchmark {protocol} --config {path}{''.join(options)}")
    with aside(folder / "results.parquet", overwrite=True) as file:
        results.scores.to_parquet(file)
    with aside(folder / "results.md", overwrite=True) as file:
        file.write_text(text)
    with aside(folder / "splits.json", overwrite=True) as file:
        file.write_text(json.dumps([asdict(split) for split in results.splits], indent=2) + "\n")
    say(f"{text}\nSaved {folder}/results.parquet, results.md and splits.json.")
    return {
        "saved": [folder / name for name in ("results.parquet", "results.md", "splits.json")],
        "protocol": results.protocol,
        "headline": results.headline,
        "folds": len(results.splits),
        "seconds": results.seconds,
        "scores": rows(results.scores),
    }
