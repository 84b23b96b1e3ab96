"""``citevae settings``: what a file of settings may hold, as such a file."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import Annotated

import typer

from pyro_citevae import config, registry
from pyro_citevae.cli.as_json import Facts
from pyro_citevae.cli.options import Guide, Model
from pyro_citevae.cli.setting_lists import Setting, arguments_of, entries_of, fit_settings
from pyro_citevae.cli.terminal import say

__all__ = ["settings_command"]

_INTRODUCTION = """\
# Every setting, at its default. Keep the lines that you change, and name the file:
# citevae {command} --config FILE.toml
# A line that begins with '# NAME =' has no default in TOML; its text says what is taken then."""


def settings_command(
    model: Model = None,
    guide: Guide = None,
    of_benchmark: Annotated[
        bool, typer.Option("--benchmark", help="With what a file for citevae benchmark may hold beside.")
    ] = False,
) -> Facts:
    """Write every setting that a --config file takes as TOML: what it is, its type, its default."""
    base = config.Settings()
    names = {"model": model or base.model.name, "guide": guide or base.guide.name}
    found = [
        *(_of_benchmark() if of_benchmark else []),
        *arguments_of("model", registry.find_model(names["model"])),
        *arguments_of("guide", registry.find_guide(names["guide"])),
        *fit_settings(),
    ]
    command = "benchmark PROTOCOL" if of_benchmark else "fit DATA.h5ad"
    parts = [_INTRODUCTION.format(command=command)]
    for table in ("", *names, "fit"):
        named = [f"name = {json.dumps(names[table])}"] if table in names else []
        heads = ["\n".join([f"[{table}]", *named])] if table else []
        parts += [*heads, *(_entry(one) for one in found if one.table == table)]
    say("\n\n".join(parts))
    return {**names, "settings": [asdict(one) for one in found]}


def _of_benchmark() -> list[Setting]:
    """What a benchmark's file may hold beside the tables of a fit."""
    from pyro_citevae.benchmark import Settings  # which takes seconds

    return entries_of(Settings)


def _entry(one: Setting) -> str:
    """A setting with its comment."""
    comment = textwrap.fill(one.what, 100, initial_indent="# ", subsequent_indent="# ")
    line = f"# {one.name} =" if one.default is None else f"{one.name} = {json.dumps(one.default)}"
    return "\n".join([*([comment] if comment else []), f"{line}  # {one.type}"])
