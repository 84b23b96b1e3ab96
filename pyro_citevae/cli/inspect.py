"""``citevae inspect``: what a file would be read as, and the arguments that would read it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pyro_citevae.cli.as_json import Facts
from pyro_citevae.cli.options import NSteps, Screen, Step, TimeUnit, Values, with_columns
from pyro_citevae.cli.runs import named_columns, opened
from pyro_citevae.cli.terminal import console, in_flags, say, say_error
from pyro_citevae.data import Trajectories
from pyro_citevae.data.inspection import proposed
from pyro_citevae.errors import CiteVAEError

__all__ = ["inspect_command"]


@with_columns
def inspect_command(
    data: Screen,
    step: Step = None,
    n_steps: NSteps = 3,
    time_unit: TimeUnit = None,
    values: Values = "counts",
    **columns: Any,
) -> Facts:
    """Show what a file is read as, without a fit, and propose the arguments that would read it."""
    adata, given = opened(data), named_columns(data, columns)
    grid: dict[str, Any] = {"step": step, "n_steps": n_steps, "time_unit": time_unit, "values": values}
    facts: dict[str, Any] = {}
    failure: CiteVAEError | None = None
    try:
        read = Trajectories.from_anndata(adata, **grid, **asdict(given)).summary()
    except CiteVAEError as error:
        failure = error
    else:
        console.print(read)
        facts["read"] = read.content
    found = proposed(adata, given) if values == "counts" else {}
    more = {name: one for name, one in found.items() if one != getattr(given, name)}
    options = {**found, **{name: one for name, one in grid.items() if one not in (None, 3, "counts")}}
    then = f"citevae fit {shlex.quote(data)}{_flags(options)} -o run"
    if failure is None and not more:
        say(f"Next: {then}")
        return {**facts, "next": then}
    if failure is not None:
        say_error(failure)
        facts["refused"] = in_flags(failure)
    if not more:
        return {**facts, "error": facts["refused"]}
    facts["proposed"] = more
    said = "would read it" if failure is not None else "would read more of it"
    if failure is None:
        say(f"The file may hold more than that:{_flags(more)}.\n")
    try:
        read = Trajectories.from_anndata(adata, **grid, **found).summary()
    except CiteVAEError as error:
        say(f"The file seems to want{_flags(more)}; then: {in_flags(error)}")
        return {**facts, "error": in_flags(error)}
    console.print(read)
    say(f"These arguments {said}; look whether they say what you mean:")
    say(f"  {then}\n  Trajectories.from_anndata(adata{_arguments(options)})")
    return {**facts, "would_read": read.content, "next": then}


def _flags(options: Mapping[str, Any]) -> str:
    """Arguments as they are typed in a shell."""
    words = []
    for name, value in options.items():
        for one in value if isinstance(value, tuple) else (value,):
            words += [f"--{name.replace('_', '-')}", shlex.quote(str(one))]
    return "".join(f" {word}" for word in words)


def _arguments(options: Mapping[str, Any]) -> str:
    """Arguments as they are written in Python."""
    return "".join(
        f", {name}={list(one) if isinstance(one, tuple) else one!r}" for name, one in options.items()
    )
