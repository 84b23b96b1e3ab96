"""The posterior as labelled data: an xarray DataTree with the groups that ArviZ knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Independent

from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import FitError
from pyro_citevae.infer.site_axes import coordinates, site_axes
from pyro_citevae.program import Distribution, LatentDynamics

if TYPE_CHECKING:
    from pyro_citevae.infer.program_genes import ProgramGenes

__all__ = [
    "NAMES",
    "as_arviz",
    "as_counts",
    "attribute",
    "cell_dim",
    "discrepancy_dataset",
    "global_dataset",
    "observed_groups",
    "pointwise",
    "sampled",
    "stacked",
    "state_dims",
    "states_dataset",
    "with_names",
]

NAMES = ("program_name", "top_genes")  # what programs are called, along their dim


def sampled(draws: int) -> dict[str, Any]:
    """The coordinates of one chain of draws."""
    return {"chain": [0], "draw": np.arange(draws)}


def cell_dim(schema: Schema) -> str:
    """The dim of what there is one of for each cell: states, importance weights.

    It is ``cell``, the dim of observations too, unless a cell has several of them: of sequences, states have
    the dim ``trajectory`` and observations ``cell``.

    Args:
        schema: The design of the screen.
    """
    return "trajectory" if schema.design == "sequences" else "cell"


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
        **own: Further attributes, or others in place of those of this library.
    """
    made = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "inference_library": "pyro_citevae",
        "inference_library_version": version("pyro-citevae"),
    }
    for node in tree.subtree:
        node.attrs.update(made | own)


def global_dataset(model: LatentDynamics, values: Mapping[str, Tensor], draws: int) -> xr.Dataset:
    """Global sites as variables with dims (chain, draw, ...); plate axes go by the known event shape.

    Names along an axis are those that the schema or ``model.coords`` have, else numbers.

    Args:
        model: The model, whose ``dims`` name the sites' axes.
        values: Values of shape (draw, 1, 1) + event shape.
        draws: Number of draws.
    """
    known = coordinates(model)
    axes = site_axes(model, {name: tuple(value.shape[3:]) for name, value in values.items()})
    variables = {
        name: (("chain", "draw", *axes[name]), value.numpy(force=True).reshape(1, draws, *value.shape[3:]))
        for name, value in values.items()
    }
    made = xr.Dataset(variables).assign_coords(sampled(draws))
    return made.assign_coords({dim: known.get(str(dim), np.arange(n)) for dim, n in made.sizes.items()})


def states_dataset(
    model: LatentDynamics,
    data: Trajectories,
    z: Float[Tensor, "draw cell time program"],
    s: Float[Tensor, "draw cell invariant"] | None,
) -> xr.Dataset:
    """States of cells as variables ``z`` and ``s``.

    Args:
        model: The model.
        data: The cells.
        z: States of the programs, from step 0 on.
        s: Invariant states; None where the model has none.
    """
    draws, _, n_times, _ = z.shape
    cell = cell_dim(data.schema)
    names = state_dims(model, n_times - 1)
    coords = {**sampled(draws), cell: [str(name) for name in data.names]}
    coords |= {dim: names[dim] for dim in ("time", "program")}
    made = xr.Dataset(
        {"z": (("chain", "draw", cell, "time", "program"), z.numpy(force=True)[None])}, coords=coords
    )
    if s is not None:
        made["s"] = (("chain", "draw", cell, "invariant"), s.numpy(force=True)[None])
        made = made.assign_coords(invariant=names["invariant"])
    return made


def discrepancy_dataset(found: xr.Dataset, contexts: Sequence[str] = ()) -> xr.Dataset:
    """A discrepancy as a group of one chain: its numbers as variables, and a name for each group of cells.

    Args:
        found: What :meth:`~pyro_citevae.infer.discrepancy.Discrepancy.to_dataset` gives.
        contexts: Names of the contexts, where there are some.
    """
    of = zip(found.perturbation.to_numpy(), found.time.to_numpy(), strict=True)
    names = [f"{label} at {time:g}" for label, time in of]
    if contexts:
        where = found["context_of_group"].to_numpy()
        names = [f"{name} in {contexts[c]}" for name, c in zip(names, where, strict=True)]
        found = found.drop_vars("context_of_group").assign_coords(
            context_of_group=("group", np.array(contexts)[where])
        )
        if "control_distance" in found:
            found = found.assign_coords(context=list(contexts), other_context=list(contexts))
    held = found.drop_dims([dim for dim, size in found.sizes.items() if not size])
    known = {"group": names}
    numbers = {dim: np.arange(n) for dim, n in held.sizes.items() if dim not in held.coords}
    return held.assign(found.attrs).drop_attrs().assign_coords(numbers | known).expand_dims(chain=[0])


def with_names(group: xr.Dataset, genes: ProgramGenes | None) -> xr.Dataset:
    """A group with what its programs are called, and their strongest genes, beside their dim.

    Args:
        group: The group; one without programs is left as it is.
        genes: The programs; None where they have no names.
    """
    if genes is None or "program" not in group.dims:
        return group
    named = [genes.names[str(program)] for program in group.program.to_numpy()]
    return group.assign_coords(program_name=("program", named), top_genes=genes.loadings.top_genes.variable)


def _context_of_cells(data: Trajectories) -> dict[str, Any]:
    """The context of each observation, where there are contexts."""
    contexts = np.array(data.schema.contexts)
    return {"context": ("cell", contexts[data.context[data.row_cell]])} if len(contexts) else {}


def observed_groups(data: Trajectories) -> dict[str, xr.Dataset]:
    """``observed_data`` and ``constant_data``, with one row an observation (dim ``cell``)."""
    schema = data.schema
    names = [str(name) for name in data.names[data.row_cell]]
    if schema.design == "sequences":
        names = [f"{name}@{time:g}" for name, time in zip(names, data.row_times, strict=True)]
    dense = data.values.toarray()
    x = as_counts(dense) if schema.values == "counts" else dense
    coords = {"cell": names, "gene": list(schema.genes)}
    return {
        "observed_data": xr.Dataset({"x": (("cell", "gene"), x)}, coords=coords),
        "constant_data": xr.Dataset(
            {
                "library": ("cell", data.library),
                "observed_time": ("cell", data.row_times),
                "perturbation": ("cell", data.row_labels.astype(str)),
                **_context_of_cells(data),
                "batch": ("cell", np.array(schema.batches)[data.technical[data.row_cell]]),
            },
            coords={"cell": names},
        ),
    }


def as_counts(values: Float[np.ndarray, "*dims"]) -> Int[np.ndarray, "*dims"]:
    """Counts as whole numbers, of 32 bits where these hold them and of 64 otherwise.

    Args:
        values: Whole numbers, zero or more, as reals.

    Raises:
        FitError: A count is not finite, or no whole number of 64 bits holds it.

    Example:
        >>> as_counts(np.array([1.0, 2.0])).dtype, as_counts(np.array([3e9])).tolist()
        (dtype('int32'), [3000000000])
    """
    most = float(values.max(initial=0))
    if not most < 2.0**63:
        raise FitError(
            f"the posterior draws counts of {most:g}, which no whole number holds; diagnose(...) it."
        )
    return values.astype(np.int32 if most < 2.0**31 else np.int64)


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
    if not any({"cell", "gene"} <= set(one.dims) for one in group.data_vars.values()):
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
