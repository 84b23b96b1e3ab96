"""What a file of settings may hold, read from signatures, fields and docstrings."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Union, final, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from pyro_citevae.infer import FitSettings

__all__ = ["Setting", "arguments_of", "entries_of", "fit_settings"]


@final
@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        table: Table of the file that it stands in; empty for the top of the file.
        name: Its name.
        type: What it may be, such as ``"int"`` or ``'"never" | "auto"'``.
        default: What it is if the file leaves it out; None if its text says what is taken then.
        what: What it does.
    """

    table: str
    name: str
    type: str
    default: Any
    what: str


def arguments_of(table: str, found: type) -> list[Setting]:
    """The arguments of a model or a guide, without what it is made for.

    Args:
        table: ``"model"`` or ``"guide"``.
        found: The class.

    Example:
        >>> from pyro_citevae.guides import MeanField
        >>> [(one.name, one.type, one.default) for one in arguments_of("guide", MeanField)][:2]
        [('hidden', 'int', 64), ('correction', 'int', None)]
    """
    phrases = _phrases(found)
    try:
        signature = inspect.signature(found.__init__, eval_str=True)  # type: ignore[misc]
    except NameError:  # a class of one's own that names a type for checkers alone
        signature = inspect.signature(found.__init__)  # type: ignore[misc]
    return [
        Setting(table, one.name, _said(one.annotation), _default(one.default), phrases.get(one.name, ""))
        for one in list(signature.parameters.values())[2:]
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]


def fit_settings() -> list[Setting]:
    """The table ``fit``."""
    phrases, types_ = _phrases(FitSettings), get_type_hints(FitSettings)
    return [
        Setting("fit", one.name, _said(types_[one.name]), one.default, phrases.get(one.name, ""))
        for one in fields(FitSettings)
    ]


def entries_of(found: type[BaseModel]) -> list[Setting]:
    """The top of a file whose settings pydantic reads, without the tables of a fit."""
    phrases, types_ = _phrases(found), get_type_hints(found, include_extras=True)
    return [
        Setting(
            "", name, _said(types_[name]), one.get_default(call_default_factory=True), phrases.get(name, "")
        )
        for name, one in found.model_fields.items()
        if name not in ("model", "guide", "fit")
    ]


def _default(given: Any) -> Any:
    return None if given is inspect.Parameter.empty else given


def _said(annotation: Any) -> str:
    """A type as a reader of TOML takes it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _said(inner[0])
    if origin in (Union, types.UnionType):
        return " | ".join(_said(one) for one in inner if one is not type(None))
    if origin is Literal:
        return " | ".join(json.dumps(one) for one in inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "table"
    if origin is not None:
        return f"list of {_said(inner[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return (
        "any" if annotation is inspect.Parameter.empty else getattr(annotation, "__name__", str(annotation))
    )


def _phrases(found: type) -> dict[str, str]:
    """What a docstring says of each argument or attribute."""
    return dict(_entries(inspect.getdoc(found) or ""))


_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`|``(.+?)``")


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """The entries of the sections Args and Attributes, without marks for the site."""
    for section in re.findall(r"^(?:Args|Attributes):\n((?:(?: {4}.*)?\n?)*)", text, flags=re.MULTILINE):
        for name, said in re.findall(r"^ {4}(\w+): ((?:.*\n?)(?: {8}.*\n?)*)", section, flags=re.MULTILINE):
            plain = _ROLE.sub(lambda found: found[1] or found[2], " ".join(said.split()))
            yield name, plain
