"""What the posterior says of the mechanisms: edges of the lag graph and targets of the tokens."""

from __future__ import annotations

import xarray as xr

from pyro_citevae.errors import ModelError
from pyro_citevae.infer.posterior import Posterior

__all__ = ["edge_probabilities"]


def edge_probabilities(
    posterior: Posterior, *, threshold: float = 0.1, draws: int = 200, seed: int = 0
) -> xr.DataArray:
    """Posterior probability that an edge of the lag graph is strong, ``P(|A_lkj W_lkj| > threshold)``.

    On a snapshot or an unpaired time course the graph is weakly determined: read this as the model's
    description of its own dynamics, not as a discovery.

    Args:
        posterior: A fitted model with a lag graph.
        threshold: Smallest weight, in program units a step, that counts as an edge.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        Dims (lag, program, source): the edge from source to program.

    Raises:
        ModelError: The model has no lag weights W among its sites.
    """
    tree = posterior.to_datatree(draws=draws, seed=seed)
    values = tree["posterior"].to_dataset()
    if "W" not in values:
        raise ModelError("edge_probabilities(posterior) needs a model with a lag graph W, such as CiteVAE.")
    weight = values["W"] * values["A"] if "A" in values else values["W"]
    return (abs(weight) > threshold).mean(("chain", "draw")).rename("edge_probability")
