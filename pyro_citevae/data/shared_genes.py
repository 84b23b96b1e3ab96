"""Shared genes: both sides of a difference on the genes that both have, at one common total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from pyro_citevae.arguments import Names, names
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

__all__ = ["at_panel", "on_panel", "positions", "shared_panel"]


def shared_panel(data: Trajectories, genes: Names) -> Schema:
    r"""The schema of some of the genes, whose part of the common total is what they hold of the controls.

    ::

        panel_share' = panel_share * sum_{g in S} c_g / sum_g c_g

    over the summed counts c of all control cells and the genes S. The profile of these controls,
    ``b = log(1 + total * panel_share' * c_g / sum_{g in S} c_g)``, is then on S what it was on all genes.
    Real values have no total, and keep their schema but for the genes.

    Args:
        data: Cells that have all the genes, controls among them, such as the training cells.
        genes: Genes that the other side has; those that the data lack do not count.

    Returns:
        The data's own schema with fewer genes, in its order.

    Raises:
        DataError: The data have none of the genes, no control, or no count of these genes in any control.

    Example:
        >>> from pyro_citevae import simulate
        >>> data = simulate(n_cells=100, n_genes=8).data
        >>> panel = shared_panel(data, ["gene_5", "gene_2", "of another panel"])
        >>> panel.genes, panel.panel_share < 1
        (('gene_2', 'gene_5'), True)
    """
    schema = data.schema
    shared = set(names(genes, "shared_panel(genes=...)"))
    kept = tuple(gene for gene in schema.genes if gene in shared)
    if kept == schema.genes:
        return schema
    if not kept:
        raise DataError(
            f"genes= names none of the {schema.n_genes} genes of the data, such as '{schema.genes[0]}'; give "
            "cells of the same panel."
        )
    if schema.values == "real":
        return replace(schema, genes=kept, image=())
    counts = data.controls().stored.sum(0, dtype=float)
    held = counts[positions(schema, kept)].sum()
    if held == 0:
        raise DataError(
            f"the controls have no count of the {len(kept)} genes of genes=, such as '{kept[0]}'; give more "
            "genes, or more controls."
        )
    share = schema.panel_share * float(held / counts.sum())
    return replace(schema, genes=kept, panel_share=share, image=())


def at_panel(schema: Schema, panel: Schema) -> Schema:
    """A schema with the genes and the common total of a panel; tokens, times and all else stay its own.

    Args:
        schema: The schema.
        panel: What :func:`shared_panel` returned.

    Raises:
        DataError: The schema lacks a gene of the panel.
    """
    positions(schema, panel.genes)
    return replace(
        schema, genes=panel.genes, total=panel.total, panel_share=panel.panel_share, image=panel.image
    )


def on_panel(data: Trajectories, panel: Schema) -> Trajectories:
    """The same cells, with the genes of a panel alone and scaled to its common total.

    Args:
        data: The cells.
        panel: What :func:`shared_panel` returned.

    Returns:
        The data themselves where they are on this panel already.

    Raises:
        DataError: The data lack a gene of the panel.

    Example:
        >>> import numpy as np
        >>> from pyro_citevae import simulate
        >>> from pyro_citevae.data.pseudobulk import level
        >>> data = simulate(n_cells=100, n_genes=8).data
        >>> panel = shared_panel(data, ["gene_2", "gene_5"])
        >>> controls = data.controls()
        >>> np.allclose(level(on_panel(controls, panel)), level(controls)[[2, 5]])
        True
    """
    schema = at_panel(data.schema, panel)
    if schema == data.schema:
        return data
    if schema.genes == data.schema.genes:
        return replace(data, schema=schema)
    kept = data.stored.of_columns(positions(data.schema, panel.genes))
    return replace(data, schema=schema, values=kept.plain())


def positions(schema: Schema, genes: Sequence[str]) -> Int[np.ndarray, " chosen"]:
    """Where some genes stand among those of a schema.

    Raises:
        DataError: The schema lacks one.
    """
    position = {gene: g for g, gene in enumerate(schema.genes)}
    lacking = [gene for gene in genes if gene not in position]
    if lacking:
        raise DataError(
            f"a panel with the gene '{lacking[0]}' is asked of data that lack it; make it by "
            "shared_panel(data, genes) from the genes that both have."
        )
    return np.array([position[gene] for gene in genes], dtype=np.int64)
