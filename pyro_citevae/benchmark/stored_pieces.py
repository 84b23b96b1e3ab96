"""The pieces of a benchmark on disk: each is whole and as it was written, or is made again."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow.lib import ArrowException
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from pyro_citevae.infer import Posterior
from pyro_citevae.whole_files import aside

__all__ = ["stored", "write_piece"]

_RECORD, _SCORES = "piece.json", "scores.parquet"


class _Noted(BaseModel):
    """What is read of the record of a piece; the checksum is of its scores, which older ones do not have."""

    model_config = ConfigDict(extra="ignore", strict=True)
    key: str
    seconds: FiniteFloat
    sha256: str | None = None


def stored(folder: Path, key: str) -> tuple[pd.DataFrame, float] | None:
    """The rows of a piece and the seconds that it took; None if it is not there, or is another or damaged.

    Args:
        folder: Where it would be.
        key: What it follows from, as a hash.
    """
    try:
        noted = _Noted.model_validate_json((folder / _RECORD).read_bytes())
        content = (folder / _SCORES).read_bytes()
        if noted.key != key or noted.sha256 not in (None, hashlib.sha256(content).hexdigest()):
            return None
        return pd.read_parquet(io.BytesIO(content)), noted.seconds
    except (OSError, ValidationError, ArrowException, ValueError):
        return None


def write_piece(
    folder: Path,
    key: str,
    frame: pd.DataFrame,
    seconds: float,
    said: Mapping[str, Any],
    posterior: Posterior | None,
) -> None:
    """Writes a piece, whole or not at all.

    Args:
        folder: Where.
        key: What it follows from, as a hash.
        frame: Its rows.
        seconds: How long it took.
        said: What it follows from.
        posterior: Its fit, where that is asked again.

    Raises:
        RunError: The disk refuses.
    """
    content = frame.to_parquet()
    record = {"key": key, "seconds": seconds, "sha256": hashlib.sha256(content).hexdigest(), **said}
    with aside(folder, overwrite=True) as made:
        made.mkdir()
        if posterior is not None:
            posterior.write(made / "run")
        (made / _SCORES).write_bytes(content)
        (made / _RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
