"""AnnData in and out: names its layers, fits its genes, and writes predicted cells."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from pyro_citevae.data.gene_names import gene_names, require_unique
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.whole_matrices import require_whole
from pyro_citevae.errors import CiteVAEWarning, DataError

__all__ = ["joined_cells", "layer_names", "padded", "predictions"]

_FEWEST_SHARED = 0.5


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers beside ``X``, which anndata lists among them as None from 0.13 on.

    Example:
        >>> layer_names(AnnData(np.zeros((1, 1)), layers={"counts": np.zeros((1, 1))}))
        ['counts']
    """
    return [name for name in adata.layers if name is not None]


def padded(
    adata: AnnData, schema: Schema, name: str, genes_column: str | None = None
) -> tuple[AnnData, tuple[str, ...]]:
    """A file with zeros for the genes of a schema that it lacks, to be scored on the genes that it has.

    Args:
        adata: Cells to score.
        schema: Genes that were predicted.
        name: The file's name, for the messages.
        genes_column: Column of ``var`` with the names of the genes; None for its index.

    Returns:
        The cells, and the genes that both have. A gene that is lacking is told by a warning.

    Raises:
        DataError: Fewer than half of the schema's genes are there.
    """
    genes = gene_names(adata, genes_column)
    require_unique(genes, "gene", "adata.var_names_make_unique()")
    there = set(map(str, genes))
    lacking = [gene for gene in schema.genes if gene not in there]
    shared = tuple(gene for gene in schema.genes if gene in there)
    if len(shared) < _FEWEST_SHARED * schema.n_genes:
        raise DataError(
            f"'{name}' has {len(shared)} of the {schema.n_genes} genes that were predicted, and half of them "
            "are needed; give held-out cells of the same panel."
        )
    if not lacking:
        return adata, shared
    warnings.warn(
        f"'{name}' lacks {len(lacking)} of the {schema.n_genes} genes that were predicted, such as "
        f"'{lacking[0]}'; scores are on the other {len(shared)}.",
        CiteVAEWarning,
        stacklevel=2,
    )
    require_whole(adata.X, "X")
    for one in layer_names(adata):
        require_whole(adata.layers[one], f"layer '{one}'")
    zero = sparse.csr_matrix((adata.n_obs, len(lacking)), dtype=np.float32)
    obs = cast(pd.DataFrame, adata.obs)
    layers = dict.fromkeys(layer_names(adata), zero)
    column = {} if genes_column is None else {genes_column: lacking}
    rest = AnnData(zero, obs=obs[[]], var=pd.DataFrame(column, index=lacking), layers=layers)
    made = anndata.concat([adata, rest], axis=1)
    made.obs = obs
    return made, shared


def predictions(
    draw: sparse.csr_matrix,
    layers: dict[str, np.ndarray],
    obs: dict[str, Any],
    genes: tuple[str, ...],
    uns: dict[str, Any],
) -> AnnData:
    """Predicted cells as AnnData: one draw of counts in ``X``, summaries in the layers."""
    frame = pd.DataFrame(obs, index=[str(i) for i in range(draw.shape[0])])
    return AnnData(X=draw, obs=frame, var=pd.DataFrame(index=list(genes)), layers=layers, uns=uns)


def joined_cells(parts: Sequence[AnnData]) -> AnnData:
    """Predicted cells of several contexts as one, context by context."""
    if len(parts) == 1:
        return parts[0]
    joined = anndata.concat(parts, merge="same", uns_merge="first", index_unique="-")
    joined.obs_names = [str(i) for i in range(joined.n_obs)]
    return joined
