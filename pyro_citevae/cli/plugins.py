"""``citevae check``, ``models`` and ``datasets``: what there is, and whether it keeps the laws."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pyro_citevae import conformance, registry
from pyro_citevae.cli.as_json import Facts
from pyro_citevae.cli.completions import known_classes
from pyro_citevae.cli.terminal import console, in_flags, say, say_error
from pyro_citevae.data import datasets
from pyro_citevae.errors import ConformanceError, ModelError
from pyro_citevae.program import LatentDynamics

__all__ = ["check", "list_datasets", "list_models"]


def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="CLASS",
            help="A model or a guide: FILE.py:CLASS, or a name.",
            autocompletion=known_classes,
        ),
    ],
    partner: Annotated[
        str | None,
        typer.Option(
            "--with",
            help="The guide of the model, or the model of the guide.",
            autocompletion=known_classes,
        ),
    ] = None,
) -> Facts:
    """Try the laws that fitting and predicting rely on, on a model or a guide of your own."""
    found = registry.find(name)
    report = _checked(found, None if partner is None else registry.find(partner))
    table = Table("law", "holds", "what it says", "what was seen")
    table.title = f"{report.subject} with {report.partner}"
    for row in report.rows:
        broken = "[bold yellow]advice[/]" if row.advice else "[bold red]no[/]"
        word = {True: "yes", False: broken, None: "not tried"}[row.passed]
        mend = f"\nMend: {row.mend}." if row.passed is False else ""
        table.add_row(row.law, word, row.sentence, escape(row.seen + mend))
    console.print(table)
    facts = {
        "subject": report.subject,
        "partner": report.partner,
        "laws": [asdict(row) for row in report.rows],
    }
    try:
        report.require()
    except ConformanceError as error:
        say_error(error)
        return {**facts, "error": in_flags(error)}
    held = sum(row.passed is True for row in report.rows)
    then = f"citevae fit DATA.h5ad --{_kind(found)} {name} -o RUN"
    say(f"{held} laws hold.\nNext: {then}")
    return {**facts, "next": then}


def list_models() -> Facts:
    """List the models and guides, those of installed plug-ins among them."""
    table = Table("kind", "name", "what it is", "from")
    found = registry.listings()
    for one in found:
        table.add_row(one.kind, one.name, escape(one.what), escape(one.origin))
    console.print(table)
    then = "citevae settings --model NAME --guide NAME"
    say(f"Next: {then}")
    return {
        "models": [asdict(one) for one in found if one.kind == "model"],
        "guides": [asdict(one) for one in found if one.kind == "guide"],
        "next": then,
    }


def list_datasets() -> Facts:
    """List the shipped screens with their origin and licence."""
    shown = ("what", "values", "origin", "licence")
    found = [
        {"name": name, **{field: getattr(entry, field) for field in shown}}
        for name, entry in datasets.CATALOGUE.items()
    ]
    table = Table("name", *shown)
    for one in found:
        table.add_row(*map(escape, one.values()))
    console.print(table)
    then = "citevae fit renge --hold-out time=5 -o runs/renge"
    say(f"Next: {then}")
    return {"datasets": found, "next": then}


def _kind(found: type) -> str:
    return "model" if issubclass(found, LatentDynamics) else "guide"


def _checked(found: Any, partner: Any) -> conformance.Report:
    """The laws' report on a model or a guide, with a partner of the other kind."""
    if partner is not None and _kind(partner) == _kind(found):
        raise ModelError(
            f"--with names the {_kind(found)} '{partner.__name__}'; a {_kind(found)} is checked with a "
            f"{'guide' if _kind(found) == 'model' else 'model'}."
        )
    check = conformance.check_model if _kind(found) == "model" else conformance.check_guide
    given = () if partner is None else (partner,)
    with console.status("trying the laws ...") as status:
        return check(found, *given, progress=lambda law: status.update(f"trying '{law}' ..."))
