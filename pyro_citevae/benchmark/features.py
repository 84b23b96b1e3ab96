"""Features of the perturbed genes, as a benchmark's settings name them."""

from __future__ import annotations

import inspect

from pyro_citevae.data import Trajectories
from pyro_citevae.data.features import GeneFeatures, coexpression, from_table, gene_ontology
from pyro_citevae.program import LatentDynamics

__all__ = ["features_of", "takes_features"]


def features_of(source: str, train: Trajectories, *, plain: bool) -> GeneFeatures | None:
    """Features of every token, from nothing but the training cells and what is known of genes.

    Args:
        source: ``"none"``, ``"gene-ontology"``, ``"coexpression"``, or the path of a table.
        train: The training cells.
        plain: Whether the cosine of the terms itself is wanted, as by smoothers that sharpen it themselves,
            or what models take.

    Returns:
        A row a token; None for ``"none"``.

    Raises:
        DataError: The table cannot be read, or no gene is described.
    """
    tokens = train.schema.tokens
    if source == "none":
        return None
    if source == "gene-ontology":
        if not plain:
            return gene_ontology(tokens)
        return gene_ontology(tokens, specificity=1.0, sharpness=None, rank=len(tokens))
    if source == "coexpression":
        return coexpression(train, tokens)
    return from_table(source, tokens)


def takes_features(model: type[LatentDynamics]) -> bool:
    """Whether a model's class has an argument for features of genes."""
    return "features" in inspect.signature(model.__init__).parameters
