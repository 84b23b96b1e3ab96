"""The README of a run: what it is, how it was made, and what to do with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from pyro_citevae.infer.fit_settings import FitSettings

__all__ = ["readme"]


def readme(name: str, record: Mapping[str, Any], verdict: str, tokens: tuple[str, ...], folder: str) -> str:
    """The text, in Markdown.

    Args:
        name: Model and guide.
        record: What the run notes of itself.
        verdict: What the fit says of itself, for a run without a diagnosis.
        tokens: Perturbations of the screen.
        folder: Name of the folder.
    """
    path = (record.get("source") or {}).get("path")
    source = f"`{_plain(path)}`" if path else "an AnnData that has no path"
    unsaid = "" if path else ", with `--data FILE` after commands that read the data, since no file is noted"
    settings = record.get("settings") or {}
    place = _quoted(folder)
    some = _quoted(tokens[0]) if tokens else "NAME"
    summary = (record.get("summary") or {}).items()
    noted = ((key.replace("_", " "), value) for key, value in summary if value not in (None, "", [], (), {}))
    read = "\n".join(f"| {_plain(key)} | {_plain(value)} |" for key, value in noted)
    said = (record.get("diagnosis") or {}).get("verdict", verdict)
    return f"""# {folder}

{_plain(name)}, fitted to {record.get("n_cells", 0):,} cells of {source}. Written on \
{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, seed {settings.get("seed", "unknown")}, {_changed(settings)}.

{_plain(said)}

## What was read

| | |
|---|---|
{read}

## What to do with it

In the folder that it lies in{unsaid}:

```sh
citevae predict {place} --do {some} -o predicted.h5ad
citevae evaluate {place} --licence     # what it may be believed in
citevae evaluate {place}               # beside baselines, if something was held out
citevae report {place} -o report.html  # a page to send
citevae export {place} -o posterior.nc # for ArviZ
```

In Python: `posterior = pyro_citevae.load("{folder}")`.

## Files

* `run.json`: model, guide, settings, schema, hashes of data and split, versions.
* `model.safetensors`: the weights. `history.parquet`: the bound, epoch by epoch.
* `split.json`, `discrepancy.nc`: what was held out, and how far the program is off, if they are here.
"""


def _changed(settings: Mapping[str, Any]) -> str:
    """The settings of the fit that are not the defaults."""
    defaults = {one.name: one.default for one in fields(FitSettings) if one.name != "seed"}
    changed = [
        f"{name}={settings[name]!r}"
        for name in defaults
        if settings.get(name, defaults[name]) != defaults[name]
    ]
    return f"{', '.join(changed)} and otherwise default settings" if changed else "default settings"


def _plain(value: Any) -> str:
    """A value on one line of a table."""
    if isinstance(value, Mapping):
        value = [f"{name}: {_inside(one)}" for name, one in value.items()]
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= 200 else f"{text[:200].rpartition(', ')[0] or text[:200]} ..."


def _inside(value: Any) -> Any:
    """What a table has of one name: counts by what they count."""
    return " with ".join(f"{n} {name}" for name, n in value.items()) if isinstance(value, Mapping) else value


def _quoted(token: str) -> str:
    """A name as a shell takes it."""
    return token if token.replace("-", "").replace("_", "").replace(".", "").isalnum() else f"'{token}'"
