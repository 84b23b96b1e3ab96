"""Latent states: where each observed cell is on the programs, as a table or beside its counts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyro
import torch
from jaxtyping import Bool, Float, Int
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_citevae import sites
from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.arguments import Number, whole
from pyro_citevae.class_source import reference
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import CiteVAEWarning, DataError
from pyro_citevae.infer import idata
from pyro_citevae.infer.contexts_asked import require_known_contexts
from pyro_citevae.infer.counterfactuals import MOST_VALUES
from pyro_citevae.infer.exchangeability import global_draws
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.infer.substitute import Substitute
from pyro_citevae.program import observed_states

if TYPE_CHECKING:
    from anndata import AnnData

    from pyro_citevae.infer.program_genes import ProgramGenes

__all__ = ["latent_states", "write_states"]

_PROGRAMS, _INVARIANT = "X_citevae", "X_citevae_invariant"
_PACKAGES = ("pyro-citevae", "pyro-ppl", "torch")


def latent_states(
    guide: AmortizedGuide, data: Trajectories, draws: Number, seed: int, most_cells: Number
) -> pd.DataFrame:
    """Posterior mean of each observation's states; see :meth:`pyro_citevae.Posterior.latent`.

    All cells share the draws of the mechanism, and only means over the draws are kept.

    Args:
        guide: The fitted guide, with its model.
        data: Observed cells.
        draws: Number of draws.
        seed: Seed of the draws.
        most_cells: Cells that are read at once.

    Raises:
        DataError: The cells were read with another schema, or a number is not positive.
    """
    n_draws, at_once = (
        whole(draws, "posterior.latent(draws=...)"),
        whole(most_cells, "posterior.latent(most_cells=...)"),
    )
    if min(n_draws, at_once) < 1:
        raise DataError(
            f"posterior.latent(draws={draws}, most_cells={most_cells}) needs one at least of each."
        )
    model = guide.model
    require_known_contexts(data, model.schema, "posterior.latent(data)")
    if data.schema.digest != model.schema.digest:
        raise DataError(
            "posterior.latent(data) was read with another schema than the model's; read the cells with "
            "schema=posterior.schema."
        )
    names = idata.state_dims(model, 0)
    columns = [*names["program"], *names["invariant"]]
    shape = (data.n_cells, data.schema.n_slots)
    means: Float[np.ndarray, "cell slot state"] = np.empty((*shape, len(columns)), dtype=np.float32)
    observed: Bool[np.ndarray, "cell slot"] = np.zeros(shape, dtype=bool)
    with seeded(seed), torch.no_grad():
        mechanism = global_draws(guide, n_draws)
        for cells, batch in _parts(data, at_once, n_draws):
            observed[cells] = batch.observed.T.numpy()
            states = _mean_states(guide, batch.to(model.device), mechanism, n_draws)
            means[cells] = states.transpose(0, 1).numpy(force=True)
    # rows of a data set lie by cell and time, as the observed slots do
    return pd.DataFrame(means[observed], index=_names(data), columns=columns)


def write_states(
    adata: AnnData, states: pd.DataFrame, guide: AmortizedGuide, genes: ProgramGenes | None, **settings: Any
) -> None:
    """Writes states into an AnnData by the names of its rows; NaN where a row has none.

    Args:
        adata: The cells; ``obsm`` and ``uns`` are written to.
        states: What :func:`latent_states` gave.
        guide: The guide that gave it, with its model.
        genes: The genes of the programs; None where these have no names.
        **settings: Numbers that are noted in ``uns``.
    """
    model = guide.model
    aligned = states.reindex(adata.obs_names).to_numpy()
    unread = int(np.isnan(aligned).all(1).sum())
    if unread:
        warnings.warn(
            f"{unread} cells were not read, and have NaN in obsm; leave them out before neighbours are "
            "sought, as in adata[~np.isnan(adata.obsm['X_citevae']).any(1)].",
            CiteVAEWarning,
            stacklevel=3,
        )
    adata.obsm[_PROGRAMS] = aligned[:, : model.n_programs]
    adata.obsm.pop(_INVARIANT, None)  # of a model before
    if model.n_invariant:
        adata.obsm[_INVARIANT] = aligned[:, model.n_programs :]
    adata.uns["citevae"] = {
        "model": reference(type(model)),
        "guide": reference(type(guide)),
        "programs": np.array(states.columns[: model.n_programs], dtype=str),
        **({} if genes is None else _in_h5ad(genes)),
        "versions": {package: version(package) for package in _PACKAGES},
        **settings,
    }


def _in_h5ad(genes: ProgramGenes) -> dict[str, Any]:
    """Names, strongest genes and terms of programs, as a file can hold them."""
    tables = {"program_genes": genes.table, "program_terms": genes.known_terms}
    # a file keeps no index of numbers
    written = {name: table.set_axis(table.index.astype(str)) for name, table in tables.items()}
    return {"program_names": np.array(list(genes.names.values()), dtype=str), **written}


def _parts(
    data: Trajectories, most_cells: int, draws: int
) -> Iterator[tuple[Int[np.ndarray, " cell"], Batch]]:
    """All cells in small minibatches, read in the order of their file and several minibatches together."""
    order = np.argsort(data.place, kind="stable")
    # no guide holds more than this for each draw of a cell, one that runs the emission included
    size = max(1, MOST_VALUES // (draws * data.schema.n_slots * data.schema.n_genes))
    for first in range(0, data.n_cells, most_cells):
        read = order[first : first + most_cells]
        batch_of = data.held(read)
        for start in range(0, len(read), size):
            cells = read[start : start + size]
            yield cells, batch_of(cells)


def _mean_states(
    guide: AmortizedGuide, batch: Batch, mechanism: dict[str, Tensor], draws: int
) -> Float[Tensor, "slot cell state"]:
    """Mean over draws of the programs and the invariant state at the step of each slot."""
    with _AtMeans(), Substitute(mechanism, mean=False), pyro.plate("draw", draws, dim=-3):
        nodes: dict[str, Any] = poutine.trace(guide).get_trace(batch).nodes
    z = [nodes[name]["value"] for name in sites.states_to(batch.n_steps)]
    s = (
        nodes[sites.INVARIANT]["value"]
        if guide.model.n_invariant
        else batch.library.new_zeros(batch.n_cells, 0)
    )
    return torch.cat(observed_states(batch.step, z, s), dim=-1).mean(0)


class _AtMeans(Messenger):
    """Sets each state of a cell to the mean of its law given the states drawn before, where it has one.

    So a cell's states do not depend on which other cells are asked for.
    """

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        name = message["name"]
        if message["done"] or not (name == sites.INVARIANT or sites.step_of_state(name) is not None):
            return
        try:
            message["value"], message["done"] = message["fn"].mean.detach(), True
        except NotImplementedError:  # a flow's law has no mean in closed form
            return


def _names(data: Trajectories) -> pd.Index:
    """The name of each observation in its file; of its cell where the data set does not keep it."""
    obs: pd.DataFrame | None = getattr(data, "obs", None)
    return pd.Index(data.names[data.row_cell]) if obs is None else obs.index
