"""``--json``: what a command found as one JSON object on stdout, and its sentences on stderr."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import wraps
from typing import Annotated, Any, TypeAlias

import typer

__all__ = ["Facts", "asked_for_json", "rows", "with_json", "write_json"]

Facts: TypeAlias = Mapping[str, Any]
"""What a command found. ``saved`` lists the paths that it wrote, ``next`` is a command to go on with, and
``error`` is what it has already said of a mistake of the user's: the exit code is 2 then."""

_FLAG = "--json"
_PARAMETER = inspect.Parameter(
    "json",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool, typer.Option(_FLAG, help="Write one JSON object to stdout, for scripts; the rest to stderr.")
    ],
)


def with_json(command: Callable[..., Facts | None]) -> Callable[..., None]:
    """Gives a command the option ``--json``.

    Args:
        command: Returns what it found; None where another process says it.
    """

    @wraps(command)
    def run(*given: Any, json: bool = False, **options: Any) -> None:
        if json:
            with redirect_stdout(sys.stderr):
                found = command(*given, **options)
        else:
            found = command(*given, **options)
        if json and found is not None:
            write_json(found)
        if found is not None and "error" in found:
            raise typer.Exit(2)

    signature = inspect.signature(command, eval_str=True)
    parameters = [*signature.parameters.values(), _PARAMETER]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def asked_for_json() -> bool:
    """Whether the command line asks for JSON, even if it cannot be read otherwise."""
    return _FLAG in sys.argv[1:]


def write_json(found: Facts) -> None:
    """Writes an object on one line of stdout; what is no number is null.

    Example:
        >>> write_json({"bound": float("nan"), "saved": ["run"]})
        {"bound":null,"saved":["run"]}
    """
    from pydantic_core import to_json  # which --help does not need

    sys.stdout.write(to_json(dict(found), inf_nan_mode="null", fallback=_plain).decode() + "\n")


def rows(table: Any) -> list[dict[str, Any]]:
    """A table of pandas, a row an object."""
    return [dict(row) for row in table.to_dict(orient="records")]


def _plain(value: Any) -> Any:
    """What JSON takes, of an array, a number of NumPy or a mapping."""
    return dict(value) if isinstance(value, Mapping) else value.tolist()
