"""What a run says of itself: the JSON in its folder, and a few words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.schema import Schema
from pyro_citevae.errors import DataError, RunError, few
from pyro_citevae.program import LatentDynamics

__all__ = ["facts_of", "read_record"]


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
