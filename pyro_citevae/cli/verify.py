"""``citevae verify``: whether a run is as it was written."""

from __future__ import annotations

from pyro_citevae.cli.as_json import Facts
from pyro_citevae.cli.options import Run
from pyro_citevae.cli.terminal import say
from pyro_citevae.infer.run_files import verify

__all__ = ["verify_command"]


def verify_command(run: Run) -> Facts:
    """Check that each file of a run is as it was written; nothing of the run is executed."""
    found = verify(run)
    say(f"{run} is whole: {len(found)} files are as they were written, and its weights are numbers.")
    return {"run": run, "files": found}
