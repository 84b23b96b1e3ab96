"""What two fits must agree in to be the same, so that one may go on from the other's state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.class_source import reference
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import FitError
from pyro_citevae.infer.fit_settings import FitSettings
from pyro_citevae.program import LatentDynamics

__all__ = ["identity", "identity_of_run", "require_same"]

_MACHINE = ("accelerator", "devices")  # may be another


def identity(
    model: LatentDynamics,
    guide: AmortizedGuide,
    data: Trajectories,
    settings: FitSettings,
    called: dict[str, Any],
) -> dict[str, Any]:
    """What a state must agree in with the fit that goes on from it; the machine may be another."""
    parts = {"model": model, "guide": guide}
    return {
        **{name: reference(type(part)) for name, part in parts.items()},
        **{f"{name}'s": json.loads(json.dumps(part.settings, default=str)) for name, part in parts.items()},
        "schema": data.schema.digest,
        "data": data.digest,
        "fit's": {name: value for name, value in asdict(settings).items() if name not in _MACHINE} | called,
    }


def identity_of_run(record: Mapping[str, Any], called: Mapping[str, Any]) -> dict[str, Any]:
    """The :func:`identity` of a fit that was saved.

    Args:
        record: The run's record.
        called: How it was called, beside its settings.
    """
    parts, settings = ("model", "guide"), record["settings"]
    return {
        **{name: record[name]["class"] for name in parts},
        **{f"{name}'s": record[name]["settings"] for name in parts},
        "schema": Schema.from_json(record["schema"]).digest,
        "data": record["data"],
        "fit's": {name: value for name, value in settings.items() if name not in _MACHINE} | dict(called),
    }


def require_same(folder: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuses to go on with the fit of a folder where it is another one.

    Args:
        folder: The folder.
        theirs: The identity of its fit.
        ours: That of the present one.

    Raises:
        FitError: They differ; the sentence names the first difference.
    """
    saved, asked = _flat(theirs), _flat(json.loads(json.dumps(ours)))
    for name in (*asked, *saved):
        if asked.get(name) != saved.get(name):
            values = "" if name in ("data", "schema") else f" ({saved.get(name)}, and here {asked.get(name)})"
            raise FitError(
                f"'{folder}' holds a fit with another {name}{values}; repeat its call to go on with it, or "
                "start anew in another folder."
            )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with joined names."""
    found: dict[str, Any] = {}
    for name, one in value.items():
        found |= _flat(one, f"{prefix}{name} ") if isinstance(one, Mapping) else {f"{prefix}{name}": one}
    return found
