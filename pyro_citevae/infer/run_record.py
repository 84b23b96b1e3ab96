"""What a run says of itself: the JSON in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyro_citevae.data.schema import Schema
from pyro_citevae.errors import DataError, RunError

__all__ = ["read_record"]


def read_record(folder: Path) -> dict[str, Any]:
    """The JSON record of a run.

    Raises:
        RunError: The folder is not a run.
    """
    try:
        record: dict[str, Any] = json.loads((folder / "run.json").read_text())
        Schema.from_json(record["schema"])
        parts = [record["model"], record["guide"]]
        whole = all(isinstance(one["class"], str) and isinstance(one["settings"], dict) for one in parts)
        whole = whole and {"settings", "data", "n_cells", "split"} <= record.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
        whole = False
    if not whole:
        raise RunError(f"'{folder}' is not a run; make one with citevae fit, or Posterior.save.")
    return record
