"""The README of a run: what it is, how it was made, and what to do with it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["readme"]


def readme(name: str, record: Mapping[str, Any], verdict: str, tokens: tuple[str, ...], folder: str) -> str:
    """The text, in Markdown.

    Args:
        name: Model and guide.
        record: What the run notes of itself.
        verdict: What its diagnosis says.
        tokens: Perturbations of the screen.
        folder: Name of the folder.
    """
    source = (record.get("source") or {}).get("path", "data that are not noted")
    settings = record.get("settings") or {}
    some = _quoted(tokens[0]) if tokens else "NAME"
    summary = (record.get("summary") or {}).items()
    read = "\n".join(f"| {_plain(key)} | {_plain(value)} |" for key, value in summary)
    return f"""# {folder}

{_plain(name)}, fitted to {record.get("n_cells", 0):,} cells of `{_plain(source)}`. Written on \
{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, seed {settings.get("seed", "unknown")}.

{_plain(verdict)}

## What was read

| | |
|---|---|
{read}

## What to do with it

```sh
citevae predict {folder} --do {some} -o predicted.h5ad
citevae evaluate {folder}
citevae report {folder} -o report.html
citevae export {folder} -o posterior.nc
```

In Python: `posterior = pyro_citevae.load("{folder}")`.

## Files

* `run.json`: model, guide, settings, schema, hashes of data and split, versions.
* `model.safetensors`: the weights. `history.parquet`: the bound, epoch by epoch.
* `split.json`, `discrepancy.nc`: what was held out, and how far the program is off, if they are here.
"""


def _plain(value: Any) -> str:
    """A value on one line of a table."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _quoted(token: str) -> str:
    """A name as a shell takes it."""
    return token if token.replace("-", "").replace("_", "").replace(".", "").isalnum() else f"'{token}'"
