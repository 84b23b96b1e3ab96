"""Unmixing: programs that a fit has mixed, told apart by what perturbations change in their noise."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import torch
from jaxtyping import Float, Int
from pyro import poutine
from torch import Tensor, nn

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import FitError
from pyro_citevae.infer.optimisation import optimised
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.infer.svi import FitSettings, fit, settings_of
from pyro_citevae.infer.transition_unmixing import likeliest_states
from pyro_citevae.program import LatentDynamics
from pyro_citevae.sites import state

__all__ = ["Unmixing", "smoothed_states", "unmix", "unmixing"]

_DRAWS = 8  # of the states, whose mean is taken
_APART = 3.0  # times what sampling noise alone would give


@dataclass(frozen=True)
class Unmixing:
    """The linear map that makes the noise of programs independent under every perturbation.

    Attributes:
        matrix: M; the states ``M z`` are the programs told apart, of unit noise on average.
        scales: Variance of each one's noise under each condition.
        distinctness: For each pair of programs, how much more the ratio of their noise differs between the
            conditions than sampling noise alone would let it: about 1 if the two cannot be told apart.
    """

    matrix: Float[np.ndarray, "program program"]
    scales: Float[np.ndarray, "condition program"]
    distinctness: Float[np.ndarray, "program program"]


def unmixing(z: Float[np.ndarray, "step cell program"], condition: Int[np.ndarray, " cell"]) -> Unmixing:
    r"""Finds programs whose noise is independent, from states that are any linear map of theirs.

    ::

        z_t = B [z_{t-1}, tanh z_{t-1}] + level_e + r_t            e the condition of the cell
        S_e = cov(r | e) = M^-1 D_e M^-T                           D_e diagonal

    Programs have independent noise, whose scale a perturbation may change. If no two programs have it changed
    alike everywhere, M is the only matrix that makes all S_e diagonal, up to order and scale: their
    approximate joint diagonaliser.

    Args:
        z: States over consecutive steps.
        condition: Which schedule each cell is under.

    Raises:
        FitError: There are fewer than two steps.

    Source: D.-T. Pham, Joint Approximate Diagonalization of Positive Definite Hermitian Matrices (2001); for
    noise whose scale varies as what identifies a mixture, A. Hyvärinen and H. Morioka, Unsupervised Feature
    Extraction by Time-Contrastive Learning and Nonlinear ICA (2016).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> condition = np.arange(3000) % 3
        >>> scale = np.array([[1, 1], [1, 3], [3, 1]])[condition]
        >>> z = rng.normal(size=(4, 3000, 2)) * scale
        >>> mixed = z @ np.array([[1.0, 0.8], [-0.5, 1.0]])
        >>> found = unmixing(mixed, condition)
        >>> unmixed = (mixed @ found.matrix.T).reshape(-1, 2)
        >>> abs(np.corrcoef(unmixed.T, z.reshape(-1, 2).T)[:2, 2:]).max(1).round(2)
        array([1., 1.])
    """
    if len(z) < 2:
        raise FitError(f"unmixing(z) has {len(z)} step, and a program's noise shows between two; give more.")
    from pyriemann.geometry.ajd import ajd_pham  # half a second, for those who need it

    _, label = np.unique(condition, return_inverse=True)
    before, after = z[:-1].reshape(-1, z.shape[-1]), z[1:].reshape(-1, z.shape[-1])
    e = np.tile(label, len(z) - 1)
    n = np.bincount(e)
    design = np.hstack([before, np.tanh(before), np.eye(len(n))[e]])
    r = after - design @ np.linalg.lstsq(design, after, rcond=None)[0]
    S = np.array([np.cov(r[e == one].T) for one in range(len(n))]).reshape(len(n), z.shape[-1], -1)
    M, _ = ajd_pham(S, n_iter_max=200, sample_weight=n.astype(float))
    scales = np.einsum("kj,eji,ki->ek", M, S, M)
    unit = np.average(scales, axis=0, weights=n)
    M, scales = M / np.sqrt(unit)[:, None], scales / unit
    ratio = np.log(scales)[:, :, None] - np.log(scales)[:, None]
    # the logarithm of a variance of n values of kurtosis c has the sampling variance (c - 1) / n
    excess = ((r @ M.T / np.sqrt(scales[e])) ** 4).mean(0) - 1
    noise = (excess[:, None] + excess) / n[:, None, None]
    distinct = (ratio - ratio.mean(0)) ** 2 / noise
    return Unmixing(M, scales, distinct.sum(0) / max(len(S) - 1, 1))


def smoothed_states(
    posterior: Posterior,
    data: Trajectories,
    *,
    first: int = 1,
    seed: int = 0,
    most_values: int = 5_000_000,
) -> Float[np.ndarray, "step cell program"]:
    """Posterior mean of the states up to step T, of cells that are observed there.

    Args:
        posterior: A fit.
        data: The cells.
        first: First step that is returned; 0 is before every perturbation.
        seed: Seed of the draws.
        most_values: Values of genes or pixels that are encoded at once.

    Raises:
        FitError: A cell was not observed at the last step.
    """
    size = max(1, most_values // (data.schema.n_slots * data.schema.n_genes))
    with seeded(seed), torch.no_grad():
        found = [_smoothed(posterior, batch, data.schema.design, first) for batch in data.chunks(size)]
    return np.concatenate(found, axis=1)


def _smoothed(
    posterior: Posterior, batch: Batch, design: str, first: int
) -> Float[np.ndarray, "step cell program"]:
    if design != "sequences" or bool((batch.last < batch.n_steps).any()):
        raise FitError(
            "smoothed_states(data) has cells that were not followed to the last step; give whole sequences."
        )
    batch = batch.to(posterior.model.device)
    total: Any = 0.0
    for _ in range(_DRAWS):
        nodes: Any = poutine.trace(posterior.guide).get_trace(batch).nodes
        total = total + torch.stack([nodes[state(t)]["value"] for t in range(first, batch.n_steps + 1)])
    mean: np.ndarray = (total / _DRAWS).cpu().double().numpy()
    return mean


def unmix(
    posterior: Posterior,
    data: Trajectories,
    *,
    by: str = "noise",
    rounds: int = 2,
    clamped: int = 8,
    progress: bool = True,
    **settings: Any,
) -> Posterior:
    """Fits on from programs that are told apart.

    A fit from a random start often ends with programs that are mixtures of the true ones: a local optimum,
    from which no gradient leads to the better one. Each round finds the linear map of the states that tells
    them apart, holds the states there while all networks and the mechanism learn to give them, and then fits
    on as usual.

    ============  ====================================================================================
    by            what tells programs apart
    ============  ====================================================================================
    noise         what perturbations change in the noise of single programs: :func:`unmixing`
    transitions   all that the model's transition says of them, such as known targets:
                  :func:`~pyro_citevae.infer.transition_unmixing.likeliest_states`
    ============  ====================================================================================

    Args:
        posterior: A fit.
        data: The cells that it was fitted to, each followed over all steps.
        by: What tells programs apart.
        rounds: How often.
        clamped: Epochs with the states held.
        progress: Whether to show progress bars.
        **settings: Fields of :class:`~pyro_citevae.infer.FitSettings` that differ from the fit's own.

    Returns:
        The posterior after the last round.

    Raises:
        FitError: Cells were not followed over all steps; or by noise, two programs' noise is changed alike by
            every perturbation, so that nothing tells them apart.
        DivergenceError: As for :func:`~pyro_citevae.fit`.
    """
    if by not in ("noise", "transitions"):
        raise FitError(f"unmix(by='{by}') is no way to tell programs apart; say 'noise' or 'transitions'.")
    chosen = settings_of({**posterior.record["settings"], **settings})
    first = int(data.row_step.min())  # a state that nothing was observed of says little
    for _ in range(rounds):
        z = smoothed_states(posterior, data, first=first, seed=chosen.seed)
        if by == "transitions":
            z = z @ likeliest_states(posterior.model, data, z, seed=chosen.seed).T
        else:
            found = unmixing(z, data.condition)
            _require_apart(found)
            z = z @ found.matrix.T
        z = (z - z[0].mean(0)) / z[0].std(0)
        states = {state(t): torch.tensor(value, dtype=torch.float32) for t, value in enumerate(z, first)}
        held = _held(posterior, data, states, replace(chosen, max_epochs=clamped), progress)
        posterior = fit(held.model, held.guide, data, warm_start=True, progress=progress, **vars(chosen))
    return posterior


def _require_apart(found: Unmixing) -> None:
    K = len(found.matrix)
    distinct = found.distinctness + np.diag(np.full(K, np.inf))
    j, k = np.unravel_index(distinct.argmin(), distinct.shape)
    if K > 1 and distinct[j, k] < _APART:
        raise FitError(
            f"unmix(posterior) cannot tell two of its programs apart: the perturbations change their noise "
            f"alike (distinctness {distinct[j, k]:.1f}, needed {_APART:g}); give more cells, or "
            "perturbations that change the scale of single programs."
        )


def _held(
    posterior: Posterior,
    data: Trajectories,
    states: Mapping[str, Float[Tensor, "cell program"]],
    settings: FitSettings,
    progress: bool,
) -> Posterior:
    """The posterior after training with the states held at given values."""
    model, guide = copy.deepcopy((posterior.model, posterior.guide))
    guide.attach(model)
    settings = replace(settings, kl_start=1.0, sampler="auto")  # the held bound has no weights of cells
    with seeded(settings.seed), pyro.validation_enabled(False):
        return optimised(model, guide, _HeldBound(model, guide, states), data, settings, progress)


class _HeldBound(nn.Module):
    """``-E_q[log p(x, z, s, mechanism) - log q(s, mechanism)] - log q(z | x)`` for given states z."""

    def __init__(self, model: LatentDynamics, guide: AmortizedGuide, states: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.model, self.guide, self.states = model, guide, states

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """The loss of the data set that the minibatch stands for."""
        given = {name: value.to(batch.u)[batch.index] for name, value in self.states.items()}
        drawn = poutine.trace(poutine.condition(self.guide, given)).get_trace(batch)
        for name in given:
            drawn.nodes[name]["is_observed"] = False  # so that the model takes it as drawn
        made = poutine.trace(poutine.replay(self.model, drawn)).get_trace(batch)
        drawn.compute_log_prob()
        learnt = torch.stack([drawn.nodes[name]["log_prob_sum"] for name in given]).sum()
        return -(torch.as_tensor(made.log_prob_sum()) - drawn.log_prob_sum() + 2 * learnt)
