"""What a run says of itself: the JSON in its folder, its form, and a few words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.schema import Schema
from pyro_citevae.errors import DataError, RunError, few, reason
from pyro_citevae.program import LatentDynamics

__all__ = [
    "ENSEMBLE",
    "FORMAT",
    "RECORD",
    "damaged",
    "facts_of",
    "read_ensemble",
    "read_record",
    "sealed",
    "sha256",
]

FORMAT = 1
"""The version of the form of a run's folder; one without it is of a version before checksums."""

RECORD, ENSEMBLE = "run.json", "ensemble.json"

_Sum = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_File = Annotated[str, Field(pattern=r"^(member_\d+/)?[\w-][\w.-]*$")]


class _Sealed(BaseModel):
    """What any record says of the files beside it."""

    model_config = ConfigDict(extra="allow", strict=True)
    format: PositiveInt | None = None
    files: dict[_File, _Sum] | None = None


class _Class(BaseModel):
    """A model or a guide."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: str = Field(alias="class")
    sha256: str | None = None
    settings: dict[str, Any]


class _Course(BaseModel):
    """How long a fit lasted."""

    model_config = ConfigDict(extra="allow", strict=True)
    steps: NonNegativeInt = 0
    rising: float | None = None


class _Diagnosis(BaseModel):
    """What was said of a fit."""

    model_config = ConfigDict(extra="allow", strict=True)
    verdict: str


class _Source(BaseModel):
    """Where the data were."""

    model_config = ConfigDict(extra="allow", strict=True)
    path: str | None = None
    from_disk: bool = False
    columns: dict[str, Any] | None = None


class _Run(_Sealed):
    """The record of a run, as far as it is read."""

    program: _Class = Field(alias="model")
    guide: _Class
    axes: dict[str, Any] = Field(alias="schema")
    settings: dict[str, Any]
    data: str
    n_cells: NonNegativeInt
    split: str | None
    discrepancy: bool = False
    course: _Course = Field(default_factory=_Course)
    diagnosis: _Diagnosis | None = None
    source: _Source | None = None
    summary: dict[str, Any] = Field(default_factory=dict)
    columns: dict[str, Any] | None = None
    confounded: dict[str, list[str]] = Field(default_factory=dict)
    adapted: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)


class _Ensemble(_Sealed):
    """The record of an ensemble."""

    members: PositiveInt


def facts_of(model: LatentDynamics, guide: AmortizedGuide, record: Mapping[str, Any]) -> dict[str, str]:
    """Model, guide and sizes of a fit.

    Args:
        model: The fitted program.
        guide: Its guide.
        record: The record of the fit.
    """
    schema = model.schema
    return {
        "model": type(model).__name__,
        "guide": type(guide).__name__,
        "cells": f"{record['n_cells']:,}" if "n_cells" in record else "not fitted",
        "genes": f"{schema.n_genes:,}",
        "perturbations": f"{schema.n_tokens:,}: {few(schema.tokens) or 'none'}",
        "programs": str(model.n_programs),
    }


def sha256(content: bytes) -> str:
    """The checksum of a file."""
    return hashlib.sha256(content).hexdigest()


def sealed(record: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """The content of a record that tells whether it, and the files beside it, are as they were written.

    Args:
        record: What is said.
        files: The content of each file.
    """
    said = {**record, "format": FORMAT, "files": {name: sha256(files[name]) for name in sorted(files)}}
    return (json.dumps({**said, "digest": _digest(said)}, indent=2, sort_keys=True) + "\n").encode()


def read_record(folder: Path) -> dict[str, Any]:
    """The JSON record of a run.

    Raises:
        RunError: The folder is not a run, or its record is not as it was written.
    """
    record = _read(folder / RECORD, _Run)
    try:
        axes = Schema.from_json(record["schema"])
        TypeAdapter(Schema).validate_json(json.dumps(asdict(axes)), strict=True)
    except ValidationError as error:
        raise damaged(folder, f"the schema has {_first(error)}") from None
    except (DataError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder, f"the schema cannot be read: {reason(error).rstrip('.')}") from error
    return record


def read_ensemble(folder: Path) -> dict[str, Any] | None:
    """The JSON record of an ensemble; None if the folder is not an ensemble's.

    Raises:
        RunError: The record is not as it was written.
    """
    if not (folder / ENSEMBLE).is_file():
        return None
    record = _read(folder / ENSEMBLE, _Ensemble)
    there = sum(1 for one in folder.glob("member_*") if (one / RECORD).is_file())
    if record["members"] != there:
        raise damaged(folder, f"it has {there} of {record['members']} members")
    return record


def _read(file: Path, form: type[_Sealed]) -> dict[str, Any]:
    """A record in its form."""
    folder = file.parent
    try:
        if not file.is_file():  # a pipe would wait
            raise FileNotFoundError
        record = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise RunError(f"'{folder}' is not a run; make one with citevae fit, or Posterior.save.")
    written = record.get("format")
    if isinstance(written, int) and written > FORMAT:
        raise RunError(
            f"'{folder}' is of format {written}, and this version reads formats up to {FORMAT}; install a "
            "newer pyro-citevae."
        )
    if {"format", "files", "digest"} & record.keys():
        said = {name: value for name, value in record.items() if name != "digest"}
        if record.get("digest") != _digest(said) or not {"format", "files"} <= record.keys():
            raise damaged(folder, f"'{file.name}' is not as it was written")
    try:
        form.model_validate(record)
    except ValidationError as error:
        raise damaged(folder, f"'{file.name}' has {_first(error)}") from None
    return record


def _first(error: ValidationError) -> str:
    """The first thing that is amiss."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"


def _digest(record: Mapping[str, Any]) -> str:
    return sha256(json.dumps(record, sort_keys=True).encode())


def damaged(folder: Path, how: str) -> RunError:
    """The error of a run that is not as it was written."""
    return RunError(f"'{folder}' is damaged ({how}); fit it again, or restore it from a copy.")
