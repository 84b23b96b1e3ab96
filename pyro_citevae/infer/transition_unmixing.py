"""The linear map under which a model's own transitions make given states likeliest."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.infer.autoguide.initialization import init_to_median
from torch import Tensor
from torch.distributions import biject_to

from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import FitError
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.program import LatentDynamics

__all__ = ["likeliest_states"]

_STEPS = 1000
_BATCH = 4096
_LEARNING_RATE = 0.02


def likeliest_states(
    model: LatentDynamics,
    data: Trajectories,
    z: Float[np.ndarray, "step cell program"],
    *,
    restarts: int = 3,
    seed: int = 0,
) -> Float[np.ndarray, "program program"]:
    r"""Finds the programs in states that are any linear map of theirs.

    ::

        M, theta = argmax  mean_n sum_t log p_theta(M z_t | M z_{t-1}, ..., u_t)
                           + T log |det M| + log p(theta) / N

    where theta are the mechanism and the parameters of the transition. Where a perturbation moves its own
    targets alone, and the others follow their past, a mixture makes programs jump that should not, which
    their transitions find unlikely. It takes seconds, so that restarts from random rotations are cheap; the
    likeliest is returned.

    Args:
        model: The program; a copy is fitted.
        data: The cells, by their doses.
        z: States over the steps 0..T, or over the last of them.
        restarts: Number of random rotations to start from.
        seed: Seed of the starts and of the minibatches.

    Returns:
        M; ``z @ M.T`` are the programs.

    Raises:
        FitError: There are fewer than two steps of states, or the model sums over regimes.

    Source: P. Lippe et al., CITRIS: Causal Identifiability from Temporal Intervened Sequences (2022), for
    interventions as what tells the factors of encoded images apart; D.-T. Pham and P. Garat, Blind Separation
    of Mixture of Independent Sources Through a Quasi-Maximum Likelihood Approach (1997).
    """
    if len(z) < 2:
        raise FitError("likeliest_states(z) has one step, and a transition needs two; give more.")
    if model.enumerated:
        raise FitError(
            f"likeliest_states(model) needs transitions without regimes, and {type(model).__name__} sums "
            "over them; unmix by noise."
        )
    flat = z.reshape(-1, z.shape[-1])
    centre = flat.mean(0)
    white = np.linalg.inv(np.linalg.cholesky(np.cov(flat.T)))
    states = torch.tensor((z - centre) @ white.T, dtype=torch.float32)
    u = data.doses(np.arange(data.n_cells))
    with seeded(seed):
        found = [_climbed(copy.deepcopy(model).cpu(), states, u[len(u) - len(z) :]) for _ in range(restarts)]
    return max(found, key=lambda one: one[0])[1] @ white


def _climbed(
    model: LatentDynamics, z: Float[Tensor, "step cell program"], u: Float[Tensor, "step cell token"]
) -> tuple[float, Float[np.ndarray, "program program"]]:
    """The log likelihood that is reached from one random rotation, and the map there."""
    K, n = z.shape[-1], z.shape[1]
    M = torch.linalg.qr(torch.randn(K, K))[0].requires_grad_()
    prior: Any = poutine.trace(model.mechanism).get_trace()
    laws = {name: node["fn"] for name, node in prior.iter_stochastic_nodes()}
    with torch.no_grad():
        free = {
            name: biject_to(prior.nodes[name]["fn"].support).inv(init_to_median(prior.nodes[name])).clone()
            for name in laws
        }
    for value in free.values():
        value.requires_grad_()
    optimiser = torch.optim.Adam([M, *free.values(), *model.parameters()], _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    recent: list[float] = []
    for _ in range(_STEPS):
        cells = torch.randint(0, n, (min(n, _BATCH),))
        values = {name: biject_to(laws[name].support)(value) for name, value in free.items()}
        made: Any = poutine.trace(poutine.condition(model.aligned_mechanism, data=values)).get_trace()
        likelihood = _log_likelihood(model, made.nodes["_RETURN"]["value"], z[:, cells] @ M.T, u[:, cells])
        reached = likelihood + (len(z) - 1) * torch.linalg.slogdet(M)[1] + made.log_prob_sum() / n
        optimiser.zero_grad()
        (-reached).backward()
        optimiser.step()
        schedule.step()
        recent.append(reached.item())
    return float(np.mean(recent[-50:])), M.detach().numpy()


def _log_likelihood(model: LatentDynamics, mechanism: Any, z: Tensor, u: Tensor) -> Float[Tensor, ""]:
    """Mean over cells of the log density of all steps but the first."""
    total: Any = 0.0
    for t in range(1, len(z)):
        with poutine.block():
            mechanism = model.regime(mechanism, t, u[t])
        law = model.transition(mechanism, list(z[max(0, t - model.n_lags) : t]), u[t])
        total = total + law.log_prob(z[t]).mean()
    return total
