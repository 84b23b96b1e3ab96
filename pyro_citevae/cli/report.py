"""``citevae report``: a run as a page that can be sent to a colleague."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyro_citevae.cli.as_json import Facts
from pyro_citevae.cli.options import Data, Out, Overwrite, Run, Seed
from pyro_citevae.cli.runs import file_of
from pyro_citevae.cli.terminal import console, say
from pyro_citevae.errors import RunError
from pyro_citevae.infer.run_record import read_record
from pyro_citevae.kinds import NOTEBOOK, PAGE
from pyro_citevae.report import write
from pyro_citevae.whole_files import require_free

__all__ = ["report"]


def report(
    run: Run,
    out: Out = Path("report.html"),
    draws: Annotated[int, typer.Option(min=10, help="Number of draws.")] = 200,
    data: Data = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Facts:
    """Write a page on a run (verdict, effects, programs, forecasts), with its notebook beside it."""
    if out.suffix != ".html":
        raise RunError(f"'{out}' does not end in .html; name a page, such as -o report.html.")
    for path, kind in ((out, PAGE), (out.with_suffix(".ipynb"), NOTEBOOK)):
        require_free(path, overwrite, kind, [run, file_of(data)])
    read_record(run)
    with console.status("writing the report, which takes a minute or two ..."):
        notebook = write(run, out, data=data, draws=draws, seed=seed)
    say(f"Saved {out}, and {notebook.name} beside it, which Jupyter opens.")
    return {"saved": [out, out.with_name(notebook.name)]}
