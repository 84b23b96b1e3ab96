"""Options that several commands have, each said once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pyro_citevae.cli.completions import known_guides, known_models, one_of, screens
from pyro_citevae.data.columns import Columns
from pyro_citevae.data.published_layouts import LAYOUTS
from pyro_citevae.scenes import render

__all__ = [
    "Accelerator",
    "Backend",
    "Candidates",
    "Data",
    "Guide",
    "Layout",
    "MeshDir",
    "Model",
    "MostGenes",
    "NSteps",
    "NewBatches",
    "Out",
    "Overwrite",
    "OwnGuide",
    "OwnModel",
    "Quiet",
    "Run",
    "Screen",
    "Seed",
    "Step",
    "TimeUnit",
    "Values",
    "with_columns",
]

Out = Annotated[Path, typer.Option("-o", "--out", help="What to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a fitted run.")]
OwnModel = Annotated[str | None, typer.Option("--model", help="The run's model, if it is FILE.py:CLASS.")]
OwnGuide = Annotated[str | None, typer.Option("--guide", help="The run's guide, if it is FILE.py:CLASS.")]
Data = Annotated[
    str | None, typer.Option("--data", help="The run's training data, if they are not where they were.")
]
Step = Annotated[
    str | None, typer.Option(help="Length of a latent step, the ends of the steps (6,24,72), or observed.")
]
NSteps = Annotated[int, typer.Option(min=1, help="Latent steps of a snapshot.")]
TimeUnit = Annotated[str | None, typer.Option(help="Name of the unit of time.")]
Values = Annotated[
    str,
    typer.Option(help="counts, or real for a Gaussian emission.", autocompletion=one_of("counts", "real")),
]
NewBatches = Annotated[
    str,
    typer.Option(
        help="Batches that training did not have: refuse, or spread over the known ones.",
        autocompletion=one_of("refuse", "spread"),
    ),
]
Screen = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="An h5ad file, or a shipped data set's name.", autocompletion=screens
    ),
]
Model = Annotated[
    str | None, typer.Option(help="Model: a name, or FILE.py:CLASS.", autocompletion=known_models)
]
Guide = Annotated[
    str | None, typer.Option(help="Guide: a name, or FILE.py:CLASS.", autocompletion=known_guides)
]
Accelerator = Annotated[
    str, typer.Option("--accelerator", help="cpu, gpu or auto.", autocompletion=one_of("cpu", "gpu", "auto"))
]
MeshDir = Annotated[
    Path | None, typer.Option(help="Folder of meshes in the places of shapes, such as cow.obj or hare.npz.")
]
Backend = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(render.BACKENDS)} or auto.", autocompletion=one_of(*render.BACKENDS, "auto")
    ),
]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_HELP = {one.name: one.metadata["help"] for one in fields(Columns)}

Layout = Annotated[str | None, typer.Option(help=_HELP["layout"], autocompletion=one_of(*LAYOUTS))]
Context = Annotated[str | None, typer.Option(help=_HELP["context"])]
MostGenes = Annotated[int | None, typer.Option(min=1, help=_HELP["most_genes"])]
Candidates = Annotated[
    Path | None, typer.Option(help="File with a perturbation a line, without cells, to be predicted.")
]

# how the command line takes a column that is no plain text
_KINDS: dict[str, Any] = {
    "control": Annotated[list[str] | None, typer.Option(help=_HELP["control"])],
    "exclude": Annotated[list[str] | None, typer.Option(help=_HELP["exclude"])],
    "candidates": Candidates,
    "layout": Layout,
    "most_genes": MostGenes,
}


def with_columns(command: _Command) -> _Command:
    """Gives a command an option for each column of a screen, handed on as ``**columns``."""
    signature = inspect.signature(command, eval_str=True)
    kept = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=_KINDS.get(one.name, Annotated[str | None, typer.Option(help=_HELP[one.name])]),
        )
        for one in fields(Columns)
    ]
    first = [one for one in kept if one.default is inspect.Parameter.empty]
    rest = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in kept if one not in first]
    parameters = [*first, *options, *rest]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command
