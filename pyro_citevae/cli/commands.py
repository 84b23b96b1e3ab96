"""The table of commands: where each is, what it does, and lines to paste."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

__all__ = ["COMMANDS", "GROUPS", "Command"]


@final
@dataclass(frozen=True)
class Command:
    """A command that is not imported yet.

    Attributes:
        where: Module of :mod:`pyro_citevae.cli` and function, such as ``"fit:fit_command"``.
        what: One sentence, that of the function.
        examples: Lines of a shell, the shortest first, each narrow enough for a terminal.
    """

    where: str
    what: str
    examples: tuple[str, ...]


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "demo": Command(
            "evaluate:demo",
            "Train on days 2-4 of 23 real knock-outs, forecast day 5, and score it beside the baselines.",
            ("citevae demo", "citevae demo --epochs 5 -o demo --overwrite"),
        ),
        "inspect": Command(
            "inspect:inspect_command",
            "Show what a file is read as, without a fit, and propose the arguments that would read it.",
            (
                "citevae inspect screen.h5ad",
                "citevae inspect screen.h5ad --perturbation guide --control NT",
            ),
        ),
        "settings": Command(
            "settings:settings_command",
            "Write every setting that a --config file takes as TOML: what it is, its type, its default.",
            (
                "citevae settings > settings.toml",
                "citevae settings --model Switching --guide MeanField",
                "citevae settings --benchmark > benchmark.toml",
            ),
        ),
        "fit": Command(
            "fit:fit_command",
            "Fit a model to a screen, and save the run; each epoch is kept in OUT.training until then.",
            (
                "citevae fit renge --hold-out time=5 -o runs/renge",
                "citevae fit screen.h5ad --time day --batch donor -o run",
                "citevae fit screen.h5ad --config settings.toml --dry-run -o run",
                "citevae fit screen.h5ad --seeds 3 --resume --json -o run",
            ),
        ),
        "predict": Command(
            "predict:predict",
            "Predict what control cells would show under other schedules, with intervals.",
            (
                "citevae predict runs/renge --do PRDM14 -o prdm14.h5ad",
                "citevae predict runs/renge --do PRDM14+SOX2 --time 5 -o pair.h5ad",
            ),
        ),
        "rank": Command(
            "predict:rank_command",
            "Say which perturbation to measure next, and why.",
            (
                "citevae rank runs/renge --by effect",
                "citevae rank runs/renge --do PRDM14+SOX2 --do PRDM14+NANOG -o ranking",
            ),
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "Score a run's forecast of its held-out time or context beside baselines and the ceiling.",
            (
                "citevae evaluate runs/renge -o scores",
                "citevae evaluate runs/renge --licence",
                "citevae evaluate runs/renge --json | jq .verdict",
            ),
        ),
        "report": Command(
            "report:report",
            "Write a page on a run (verdict, effects, programs, forecasts), with its notebook beside it.",
            ("citevae report runs/renge -o report.html",),
        ),
        "benchmark": Command(
            "benchmark:benchmark_command",
            "Score predictors and baselines by a protocol, over folds and seeds; a second start goes on.",
            (
                "citevae benchmark held-out-time --data renge --seeds 1",
                "citevae benchmark unseen-gene --data screen.h5ad --limit 2 -o results",
                "citevae benchmark unseen-context --data screen.h5ad --context cell_type",
            ),
        ),
        "challenge": Command(
            "challenge:challenge_command",
            "Write a submission to the Virtual Cell Challenge: predicted cells of each target, and controls.",
            ("citevae challenge run --targets targets.txt --controls B.h5ad -o B_pred.h5ad",),
        ),
        "export": Command(
            "predict:export",
            "Write the posterior as an xarray DataTree: netCDF (.nc) or zarr (.zarr), for ArviZ.",
            ("citevae export runs/renge -o posterior.nc",),
        ),
        "check": Command(
            "plugins:check",
            "Try the laws that fitting and predicting rely on, on a model or a guide of your own.",
            ("citevae check my_model.py:MyModel", "citevae check CiteVAE --with MeanField"),
        ),
        "verify": Command(
            "verify:verify_command",
            "Check that each file of a run is as it was written; nothing of the run is executed.",
            ("citevae verify runs/renge", "citevae verify runs/renge --json | jq .files"),
        ),
        "models": Command(
            "plugins:list_models",
            "List the models and guides, those of installed plug-ins among them.",
            ("citevae models", "citevae models --json | jq '.models[].name'"),
        ),
        "datasets": Command(
            "plugins:list_datasets",
            "List the shipped screens with their origin and licence.",
            ("citevae datasets",),
        ),
        "simulate c3d": Command(
            "simulate:simulate_c3d",
            "Render C3D-Render, an object that moves by a known process; a second start goes on.",
            ("citevae simulate c3d --frames 2000 --shapes one -o c3d",),
        ),
        "simulate c3d-sheet": Command(
            "simulate:simulate_c3d_sheet",
            "Draw one picture (.png) with every object in several scenes of C3D-Render.",
            ("citevae simulate c3d-sheet -o sheet.png",),
        ),
    }
)
"""All commands, by the names that call them."""

GROUPS: Mapping[str | None, str] = MappingProxyType({"simulate": "Make data whose truth is known."})
"""What each group of commands does."""
