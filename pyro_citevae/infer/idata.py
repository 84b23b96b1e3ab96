"""The posterior as labelled data: an xarray DataTree with the groups that ArviZ knows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent

from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer.site_axes import coordinates, site_axes
from pyro_citevae.program import Distribution, LatentDynamics

__all__ = [
    "as_arviz",
    "attribute",
    "global_dataset",
    "observed_groups",
    "pointwise",
    "stacked",
    "state_dims",
]


def state_dims(model: LatentDynamics, n_steps: int) -> dict[str, list[Any]]:
    """The names along the dims of cell states."""
    return {
        "time": model.schema.ends(n_steps).tolist(),
        "program": coordinates(model)["program"],
        "invariant": [f"invariant_{i}" for i in range(model.n_invariant)],
    }


def attribute(tree: xr.DataTree, **own: str) -> None:
    """Says on the tree and on each of its groups what made it, by the attributes of ArviZ's schema.

    Args:
        tree: The tree, which is written to.
        **own: Further attributes of the tree itself.
    """
    made = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "inference_library": "pyro_citevae",
        "inference_library_version": version("pyro-citevae"),
    }
    tree.attrs.update(made | own)
    for group in tree.children.values():
        group.attrs.update(made)


def global_dataset(model: LatentDynamics, draws: Mapping[str, Tensor]) -> xr.Dataset:
    """Global sites as variables with dims (chain, draw, ...); plate axes go by the known event shape.

    Args:
        model: The model, whose ``dims`` name the sites' axes.
        draws: Values of shape (draw, 1, 1) + event shape.
    """
    known = coordinates(model)
    axes = site_axes(model, {name: tuple(value.shape[3:]) for name, value in draws.items()})
    variables: dict[str, xr.DataArray] = {}
    for name, value in draws.items():
        array = value.detach().cpu().numpy().reshape(1, value.shape[0], *value.shape[3:])
        variables[name] = xr.DataArray(
            array,
            dims=("chain", "draw", *axes[name]),
            coords={dim: known[dim] for dim in axes[name] if dim in known},
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
    import arviz  # here, since it takes two seconds

    # by version, since ArviZ 1.x keeps a stand-in under the name InferenceData
    if int(arviz.__version__.partition(".")[0]) >= 1:
        return tree
    return arviz.from_datatree(tree)
