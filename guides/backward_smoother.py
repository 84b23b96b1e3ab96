"""A smoother that runs backwards from each cell's last observation: the default guide."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor

from pyro_citevae.amortization import normal
from pyro_citevae.guides.mechanism_posterior import Family, MechanismPosterior
from pyro_citevae.guides.smoother import Smoother
from pyro_citevae.program import Distribution, LatentDynamics


@final
class BackwardSmoother(Smoother):
    """q(s | x) q(z_tau | x, s, u) prod_{t < tau} q(z_t | z_{t+1}, ..., z_{t+L}, x, s, u, t), all normal.

    tau is a cell's last observed step; later steps follow the model's own transition. Each factor is a normal
    whose mean and scale a network gives. With ``correlated=True`` and ``correction=0`` the family contains
    the exact posterior of a linear Gaussian process whose cells are observed at every time under constant
    doses; with diagonal scales it does not, since programs that share a gene are correlated given it.

    Args:
        model: The model whose posterior is approximated.
        hidden: Width of the encoder and of every network.
        correction: Width of the networks' nonlinear part; 0 leaves linear maps, None means ``hidden``.
        correlated: Let the programs of one step depend on each other (lower-triangular scale).
        conditional: Let the states depend on the drawn mechanism; without, q(mechanism) is too narrow.
        mechanism: Family of :class:`MechanismPosterior`.

    Source: H. E. Rauch, F. Tung, C. T. Striebel, Maximum Likelihood Estimates of Linear Dynamic Systems
    (1965), for the backward factorisation.
    """

    def __init__(
        self,
        model: LatentDynamics,
        *,
        hidden: int = 64,
        correction: int | None = None,
        correlated: bool = False,
        conditional: bool = False,
        mechanism: Family = "normal",
    ) -> None:
        posterior = MechanismPosterior(model, mechanism)
        super().__init__(
            model,
            posterior,
            hidden=hidden,
            correction=correction,
            correlated=correlated,
            conditional=conditional,
        )

    def law(
        self,
        output: Float[Tensor, "... cell output"],
        seen: Float[Tensor, "... cell seen"],
        moving: Float[Tensor, "... cell moving"],
    ) -> Distribution:
        """A normal."""
        return normal(output, self.model.n_programs)
