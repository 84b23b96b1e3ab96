"""The axes of global sites: what a model calls them, checked before anything is exported."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from pyro_citevae.errors import ModelError
from pyro_citevae.program import LatentDynamics
from pyro_citevae.sites import reserved

__all__ = ["coordinates", "site_axes"]


def coordinates(model: LatentDynamics) -> dict[str, list[Any]]:
    """The names along each dim that global sites may have.

    Raises:
        ModelError: The model's ``coords`` name an axis that the schema names, or are no lists of names.
    """
    known = _of_schema(model)
    where = f"{type(model).__name__}.coords"
    if not isinstance(model.coords, Mapping):
        raise ModelError(f"{where} is {model.coords!r}; write {{'axis': ('name', ...)}}.")
    for axis, names in model.coords.items():
        if axis in known or reserved(axis):
            raise ModelError(
                f"{where} names the axis '{axis}', which the schema or the export names; call your own "
                "otherwise."
            )
        if isinstance(names, str) or np.ndim(names) != 1:
            raise ModelError(f"{where}['{axis}'] is {names!r}; give a list with a name for each position.")
    return known | {axis: list(names) for axis, names in model.coords.items()}


def site_axes(model: LatentDynamics, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, ...]]:
    """The names of the axes of global sites, by ``model.dims``; numbered where it does not name a site.

    Args:
        model: The model.
        shapes: Event shape of each site.

    Raises:
        ModelError: The axes of a site are of another number or of other sizes than ``dims`` says, one is
            named twice, or has a name that is another's.
    """
    sizes = {axis: len(names) for axis, names in coordinates(model).items()}
    axes: dict[str, tuple[str, ...]] = {}
    for name, shape in shapes.items():
        named = _named(model, name)
        axes[name] = tuple(f"{name}_dim_{i}" for i in range(len(shape))) if named is None else named
        if named is not None:
            _require_fit(model, name, named, shape, sizes, taken=shapes.keys())
            sizes |= dict(zip(named, shape, strict=True))
    return axes


def _of_schema(model: LatentDynamics) -> dict[str, list[Any]]:
    """The names along the axes that are the same for every model."""
    programs = [f"program_{k}" for k in range(model.n_programs)]
    features = model.settings.get("features")
    known: dict[str, list[Any]] = {
        "gene": list(model.schema.genes),
        "token": list(model.schema.tokens),
        "program": programs,
        "source": programs,
        "lag": list(range(1, model.n_lags + 1)),
        "step": list(range(1, model.schema.n_steps + 1)),
    }
    if model.schema.contexts:
        known["context"] = list(model.schema.contexts)
    return known if features is None else known | {"feature": ["population", *features]}


def _named(model: LatentDynamics, site: str) -> tuple[str, ...] | None:
    """What ``dims`` calls the axes of a site."""
    where = f"{type(model).__name__}.dims"
    if not isinstance(model.dims, Mapping):
        raise ModelError(f"{where} is {model.dims!r}; write {{'site': ('axis', ...)}}.")
    if not isinstance(model.dims.get(site, ()), str | Sequence):
        raise ModelError(f"{where}['{site}'] is {model.dims[site]!r}; write ('axis', ...).")
    return model.axes(site)


def _require_fit(
    model: LatentDynamics,
    site: str,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    sizes: Mapping[str, int],
    taken: Collection[str],
) -> None:
    ours = {dim for dim in dims if dim in taken or (reserved(dim) and dim not in _of_schema(model))}
    fits = len(dims) == len(shape) == len({*dims} - ours) and all(
        sizes.get(dim, size) == size for dim, size in zip(dims, shape, strict=True)
    )
    if not fits:
        named = ", ".join(f"{dim} of {sizes[dim]}" if dim in sizes else dim for dim in dims) or "none"
        raise ModelError(
            f"{type(model).__name__}.dims['{site}'] names axes ({named}), and the site has shape {shape}; "
            "name each once, by one that is as long and of no other use in the export."
        )
