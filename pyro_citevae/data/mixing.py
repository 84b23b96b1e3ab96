"""States shown through a random invertible network: sequences of vectors whose mixing is unknown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy import sparse

from pyro_citevae.data.simulate import Simulation
from pyro_citevae.errors import DataError

__all__ = ["mixed"]


def mixed(
    simulation: Simulation,
    *,
    n_features: int = 20,
    n_layers: int = 2,
    width: int | None = None,
    slope: float = 0.2,
    noise: float = 0.05,
    seed: int = 0,
) -> Simulation:
    r"""The same states, seen through a random injective network in place of counts.

    ::

        y = z,    y <- leaky(y Q_i)  for i = 1..n_layers,    x ~ N(standardised(y Q), noise)

    with Q of orthonormal rows, and ``leaky(y) = max(y, slope y)``, rescaled to unit spread before each. Every
    layer is invertible on its image, so that the states can be had from x but for the noise. Wide layers bend
    each state often and each time a little, so that x remains nearly linear in the states.

    Args:
        simulation: Where the states come from.
        n_features: Width of x, at least the number of programs.
        n_layers: Number of layers that bend.
        width: Width of these layers; None for the number of programs, and never less.
        slope: Slope of the rectifier below zero; 1 makes the network linear.
        noise: Standard deviation of the noise, where each feature has 1.
        seed: Seed of the network and of the noise.

    Returns:
        Real-valued data with features ``feature_0``, ..., and the truth of ``simulation``, whose loading and
        intercept have no meaning here.

    Raises:
        DataError: Features or layers are fewer than programs, or an argument is out of range.

    Example:
        >>> from pyro_citevae import simulate
        >>> seen = mixed(simulate(n_cells=60, design="sequences"), n_features=12)
        >>> seen.data.schema.values, seen.data.schema.n_genes
        ('real', 12)

    Source: A. Hyvärinen and H. Morioka, Unsupervised Feature Extraction by Time-Contrastive Learning and
    Nonlinear ICA (2016), for such mixtures.
    """
    data, z = simulation.data, simulation.truth.z
    K = z.shape[-1]
    width = K if width is None else width
    for name, size in {"n_features": n_features, "width": width}.items():
        if size < K:
            raise DataError(f"mixed({name}={size}) is below the {K} programs; give as many or more.")
    if n_features < width:
        raise DataError(f"mixed(n_features={n_features}) is below width={width}; give as many or more.")
    if n_layers < 0 or not 0 < slope <= 1 or noise < 0:
        raise DataError(
            f"mixed(n_layers={n_layers}, slope={slope:g}, noise={noise:g}) is out of range; give a number "
            "from 0, a slope above 0 and at most 1, and a spread from 0."
        )
    rng = np.random.default_rng(seed)
    walked = data.schema.ends(data.schema.n_steps).astype(int)[data.row_step]
    y = z[walked, data.row_cell]
    for _ in range(n_layers):
        y = y @ _rotation(y.shape[1], width, rng)
        y = y / y.std()
        y = np.where(y > 0, y, slope * y)
    y = y @ _rotation(y.shape[1], n_features, rng)
    x = (y - y.mean(0)) / y.std(0) + noise * rng.normal(size=y.shape)
    genes = tuple(f"feature_{g}" for g in range(n_features))
    schema = replace(data.schema, genes=genes, values="real", total=1.0)
    library = np.ones_like(data.library)
    seen = replace(data, schema=schema, values=sparse.csr_matrix(x.astype(np.float32)), library=library)
    return replace(simulation, data=seen)


def _rotation(n_in: int, n_out: int, rng: np.random.Generator) -> Float[np.ndarray, "in out"]:
    """A random matrix with orthonormal rows."""
    return np.linalg.qr(rng.normal(size=(n_out, n_in)))[0].T
