"""The posterior as labelled data: an xarray DataTree with the groups that ArviZ knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import arviz
import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent

from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import ModelError
from pyro_citevae.program import Distribution, LatentDynamics
from pyro_citevae.sites import reserved

__all__ = [
    "as_arviz",
    "axes_of",
    "coordinates",
    "global_dataset",
    "observed_groups",
    "pointwise",
    "stacked",
    "state_dims",
]


def coordinates(model: LatentDynamics) -> dict[str, list[Any]]:
    """The names along each dim that global sites may have.

    Raises:
        ModelError: The model's ``coords`` name an axis that the schema names.
    """
    programs = [f"program_{k}" for k in range(model.n_programs)]
    features = model.settings.get("features")
    known: dict[str, list[Any]] = {
        "gene": list(model.schema.genes),
        "token": list(model.schema.tokens),
        "program": programs,
        "source": programs,
        "lag": list(range(1, model.n_lags + 1)),
        "step": list(range(1, model.schema.n_steps + 2)),  # the last stands for all that follow
    }
    if features is not None:
        known["feature"] = ["population", *features]
    taken = [axis for axis in model.coords if axis in known or reserved(axis)]
    if taken:
        raise ModelError(
            f"{type(model).__name__}.coords names the axis '{taken[0]}', which the schema or the export "
            "names; call your own otherwise."
        )
    return known | {axis: list(names) for axis, names in model.coords.items()}


def axes_of(model: LatentDynamics, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The names of the axes of a global site, by ``model.dims``; numbered where it does not name the site.

    Args:
        model: The model.
        name: Name of the site.
        shape: Its event shape.

    Raises:
        ModelError: The axes are of another number or of other sizes, or one is named twice or taken.
    """
    dims = model.axes(name)
    if dims is None:
        return tuple(f"{name}_dim_{i}" for i in range(len(shape)))
    known = coordinates(model)
    sizes = {dim: len(known[dim]) for dim in dims if dim in known}
    ours = {dim for dim in dims if reserved(dim) and dim not in known}
    fits = len(dims) == len(shape) == len({*dims} - ours) and all(
        sizes.get(dim, size) == size for dim, size in zip(dims, shape, strict=True)
    )
    if not fits:
        named = ", ".join(f"{dim} of {sizes[dim]}" if dim in sizes else dim for dim in dims) or "none"
        raise ModelError(
            f"{type(model).__name__}.dims['{name}'] names axes ({named}), and the site has shape {shape}; "
            "name each once, by one that is as long and of no other use in the export."
        )
    return dims


def state_dims(model: LatentDynamics, n_steps: int) -> dict[str, list[Any]]:
    """The names along the dims of cell states."""
    return {
        "time": model.schema.ends(n_steps).tolist(),
        "program": coordinates(model)["program"],
        "invariant": [f"invariant_{i}" for i in range(model.n_invariant)],
    }


def global_dataset(model: LatentDynamics, draws: Mapping[str, Tensor]) -> xr.Dataset:
    """Global sites as variables with dims (chain, draw, ...); plate axes go by the known event shape.

    Args:
        model: The model, whose ``dims`` name the sites' axes.
        draws: Values of shape (draw, 1, 1) + event shape.
    """
    known = coordinates(model)
    variables: dict[str, xr.DataArray] = {}
    for name, value in draws.items():
        event = tuple(value.shape[3:])
        dims = axes_of(model, name, event)
        array = value.detach().cpu().numpy().reshape(1, value.shape[0], *event)
        variables[name] = xr.DataArray(
            array,
            dims=("chain", "draw", *dims),
            coords={dim: known[dim] for dim in dims if dim in known},
        )
    coords = {"chain": [0], "draw": np.arange(len(next(iter(draws.values()))) if draws else 0)}
    return xr.Dataset(variables).assign_coords(coords)


def observed_groups(data: Trajectories) -> dict[str, xr.Dataset]:
    """``observed_data`` and ``constant_data``, with one row an observation (dim ``cell``)."""
    schema = data.schema
    names = [str(name) for name in data.names[data.row_cell]]
    if schema.design == "sequences":
        names = [f"{name}@{time:g}" for name, time in zip(names, data.row_times, strict=True)]
    dense = data.values.toarray()
    x = dense.astype(np.int32) if schema.values == "counts" else dense
    coords = {"cell": names, "gene": list(schema.genes)}
    return {
        "observed_data": xr.Dataset({"x": (("cell", "gene"), x)}, coords=coords),
        "constant_data": xr.Dataset(
            {
                "library": ("cell", data.library),
                "observed_time": ("cell", data.row_times),
                "perturbation": ("cell", data.row_labels.astype(str)),
                "batch": ("cell", np.array(schema.batches)[data.technical[data.row_cell]]),
            },
            coords={"cell": names},
        ),
    }


def pointwise(
    emission: Distribution, x: Float[Tensor, "slot cell gene"]
) -> Float[Tensor, "draw slot cell ..."]:
    """``log p(x_ng)`` of each value under the law of the observed values, in the values' own dims.

    Args:
        emission: Law with event dim (gene).
        x: Observed values.

    Returns:
        Dims (draw, slot, cell, gene); without gene if the law does not factorise over genes.
    """
    law = emission.base_dist if isinstance(emission, Independent) else emission
    value: Tensor = law.log_prob(x)
    return value


def stacked(tree: xr.DataTree) -> xr.DataTree:
    """The tree with one observed dim, ``value``, in place of (cell, gene).

    Plots of ArviZ 1.x that take one observed dim need it: ``plot_ppc_pit``, ``plot_ppc_rootogram``,
    ``plot_ppc_interval``. The names of cells and genes lie along the new dim.

    Args:
        tree: What :meth:`pyro_citevae.Posterior.to_datatree` gave, or a file of it as opened by xarray.

    Example:
        >>> import numpy as np
        >>> observed = xr.Dataset({"x": (("cell", "gene"), np.zeros((2, 3)))})
        >>> stacked(xr.DataTree.from_dict({"observed_data": observed}))["observed_data"]["x"].sizes
        Frozen({'value': 6})
    """
    return tree.map_over_datasets(_by_value)


def _by_value(group: xr.Dataset) -> xr.Dataset:
    if not {"cell", "gene"} <= set(group.dims):
        return group
    # without an index of pairs, which neither netCDF nor zarr can hold
    return group.stack(value=("cell", "gene"), create_index=False)


def as_arviz(tree: xr.DataTree) -> Any:
    """The tree as the installed ArviZ wants it: ``InferenceData`` before 1.0, the tree itself after."""
    # by version, since ArviZ 1.x keeps a stand-in under the name InferenceData
    if int(arviz.__version__.partition(".")[0]) >= 1:
        return tree
    return arviz.from_datatree(tree)
