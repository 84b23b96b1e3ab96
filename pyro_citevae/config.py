"""Settings of a fit from TOML, checked."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pyro_citevae.errors import ModelError, reason

__all__ = ["Part", "Settings", "make", "settings_as", "settings_from"]


class Part(BaseModel):
    """A model or a guide: its name, and the arguments it is made with."""

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments beside the name."""
        return dict(self.model_extra or {})


class Settings(BaseModel):
    """What ``citevae fit --config`` reads: tables ``[model]``, ``[guide]`` and ``[fit]``."""

    model_config = ConfigDict(extra="forbid")
    model: Part = Field(default_factory=lambda: Part(name="CiteVAE"))
    guide: Part = Field(default_factory=lambda: Part(name="BackwardSmoother"))
    fit: dict[str, Any] = Field(default_factory=dict)


S = TypeVar("S", bound=Settings)


def settings_from(path: str | Path | None) -> Settings:
    """Reads a fit's TOML file; the defaults if there is none.

    Raises:
        ModelError: The file is missing, is no TOML, or has a table that is unknown.
    """
    return settings_as(path, Settings)


def settings_as(path: str | Path | None, kind: type[S]) -> S:
    """Reads a TOML file of settings that add to a fit's; the defaults if there is none.

    Raises:
        ModelError: The file is missing, is no TOML, or has an entry that is unknown or unfit.
    """
    if path is None:
        return kind()
    try:
        return kind.model_validate(tomllib.loads(Path(path).read_text()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelError(f"the settings '{path}' cannot be used ({where}: {first['msg'].lower()}).") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"the settings '{path}' cannot be read as TOML ({error}).") from None


def make(found: type[Any], part: Part, first: Any) -> Any:
    """Makes a model (or guide) from its settings.

    Raises:
        ModelError: An argument is unknown or unfit.
    """
    try:
        return found(first, **part.arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{found.__name__} cannot be made from {part.arguments} ({reason(error)})."
        ) from None
