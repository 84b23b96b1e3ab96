"""The command line: ``citevae demo | inspect | fit | predict | rank | evaluate | export | check | ...``.

Exit codes: 0 done, 2 the user's error with one clear sentence, 1 a defect.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import typer

from pyro_citevae.cli.benchmark import benchmark_command
from pyro_citevae.cli.evaluate import demo, evaluate
from pyro_citevae.cli.fit import fit_command
from pyro_citevae.cli.inspect import inspect_command
from pyro_citevae.cli.plugins import check, list_datasets, list_models
from pyro_citevae.cli.predict import export, predict, rank_command
from pyro_citevae.cli.simulate import simulate_c3d, simulate_c3d_sheet
from pyro_citevae.cli.terminal import in_one_line, say_error
from pyro_citevae.errors import CiteVAEError, CiteVAEWarning
from pyro_citevae.infer import processes

__all__ = ["app", "main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_simulate = typer.Typer(no_args_is_help=True, help="Make data whose truth is known.")

_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "inspect": inspect_command,
    "fit": fit_command,
    "predict": predict,
    "rank": rank_command,
    "evaluate": evaluate,
    "benchmark": benchmark_command,
    "export": export,
    "check": check,
    "models": list_models,
    "datasets": list_datasets,
}
_SIMULATIONS: dict[str, Callable[..., None]] = {"c3d": simulate_c3d, "c3d-sheet": simulate_c3d_sheet}

for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
for _name, _command in _SIMULATIONS.items():
    _simulate.command(_name)(_command)
app.add_typer(_simulate, name="simulate")


def main() -> None:
    """Runs the command line, and turns a user's mistake into one sentence and exit code 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", CiteVAEWarning)
        warnings.showwarning = in_one_line(warnings.showwarning)
        try:
            app()
        except CiteVAEError as error:
            if not processes.tell(error):
                say_error(error)
            sys.exit(2)
