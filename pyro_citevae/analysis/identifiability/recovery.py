"""Recovery of a known truth: programs matched, then the lag graph and the shifts scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from pyro import poutine
from scipy import optimize
from sklearn.metrics import roc_auc_score

from pyro_citevae.data.simulate import Simulation
from pyro_citevae.errors import ModelError
from pyro_citevae.infer.exchangeability import global_draws
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.sites import state

__all__ = ["Matching", "match", "recovery"]


@dataclass(frozen=True)
class Matching:
    """Which fitted program stands for which true one: programs are recovered up to order, sign and scale.

    Attributes:
        order: Fitted program of each true one.
        scale: Change of the fitted state for one unit of the true one; negative where the sign is turned.
        correlation: Correlation of each true program with its match; their mean absolute value is the MCC.
    """

    order: Int[np.ndarray, " program"]
    scale: Float[np.ndarray, " program"]
    correlation: Float[np.ndarray, " program"]

    def lag_graph(
        self, W: Float[np.ndarray, "... program source"]
    ) -> Float[np.ndarray, "... program source"]:
        """Weights between fitted programs, in the order and the units of the true ones.

        Args:
            W: Weight of each fitted program on each.
        """
        ordered = W[..., self.order, :][..., self.order]
        return np.asarray(ordered * self.scale / self.scale[:, None])


def match(fitted: Float[np.ndarray, "state program"], true: Float[np.ndarray, "state program"]) -> Matching:
    """The matching of programs with the largest sum of absolute correlations (Hungarian method).

    Args:
        fitted: Fitted states, a row for each cell and step.
        true: True states, in the same rows.

    Example:
        >>> true = np.random.default_rng(0).normal(size=(100, 2))
        >>> found = match(true[:, ::-1] * [2.0, -1.0], true)
        >>> found.order, found.scale.round(3)
        (array([1, 0]), array([-1.,  2.]))

    Source: A. Hyvärinen and H. Morioka, Unsupervised Feature Extraction by Time-Contrastive Learning and
    Nonlinear ICA (2016), for the mean correlation coefficient.
    """
    n = true.shape[1]
    correlation = np.corrcoef(true.T, fitted.T)[:n, n:]
    _, order = optimize.linear_sum_assignment(-abs(correlation))  # type: ignore[attr-defined]
    centred = true - true.mean(0)
    scale = (centred * fitted[:, order]).sum(0) / (centred**2).sum(0)
    return Matching(order, scale, correlation[np.arange(n), order])


def recovery(
    posterior: Posterior,
    simulation: Simulation,
    *,
    draws: int = 200,
    probability: float = 0.8,
    seed: int = 0,
) -> xr.Dataset:
    """Scores a fit to simulated data against the truth, after matching programs by their states.

    Args:
        posterior: A fit of a model with sites W (with or without a gate A) and a, to ``simulation.data``.
        simulation: The data with their truth, of as many programs and lags.
        draws: Number of draws.
        probability: Nominal coverage of the intervals.
        seed: Seed of the draws.

    Returns:
        ``correlation`` of each program; ``edge_auroc``, of the mean absolute weight of each edge against
        whether it exists; ``shift_correlation``; ``coverage`` of shifts and of edges by equal-tailed
        intervals, in units of the true programs; and ``contraction``, the share of the prior variance of
        shifts and of weights that the data removed. ``attrs["report"]`` says what that licenses.

    Raises:
        ModelError: The model has no sites W and a, or other numbers of programs or lags.

    Source: as for :func:`match`.
    """
    truth, data = simulation.truth, simulation.data
    with seeded(seed), torch.no_grad():
        sites = {
            name: value[:, 0, 0].cpu().numpy() for name, value in global_draws(posterior.guide, draws).items()
        }
        batch = data.batch().to(posterior.model.device)
        states: Any = poutine.trace(posterior.guide).get_trace(batch).nodes
        prior: Any = poutine.trace(posterior.model.mechanism).get_trace().nodes
    if not {"W", "a"} <= sites.keys() or sites["W"].shape[1:] != truth.W.shape:
        raise ModelError(
            f"recovery(posterior) needs sites a, and W of shape {truth.W.shape}; fit CiteVAE with "
            f"n_programs={truth.W.shape[-1]} and n_lags={len(truth.W)}."
        )
    ends = data.schema.ends(data.schema.n_steps).astype(int)
    # observed steps alone: elsewhere a state is drawn towards its prior, which would pass for a smaller unit
    steps = np.unique(data.row_step)
    z = np.stack([states[state(t)]["value"].cpu().numpy() for t in steps])
    K = z.shape[-1]
    found = match(z.reshape(-1, K), truth.z[ends[steps]].reshape(-1, K))
    W = found.lag_graph(sites["W"] * sites.get("A", 1.0))
    a = (sites["a"] * sites.get("m", 1.0))[..., found.order] / found.scale
    parameters = {"shift": (a, truth.a), "edge": (W, truth.W)}
    laws = {"shift": ("a", sites["a"]), "edge": ("W", sites["W"])}
    scores = xr.Dataset(
        {
            "correlation": ("program", abs(found.correlation)),
            "edge_auroc": roc_auc_score(truth.A.ravel(), abs(W).mean(0).ravel()),
            "shift_correlation": np.corrcoef(a.mean(0).ravel(), truth.a.ravel())[0, 1],
            "coverage": (
                "parameter",
                [_covered(drawn, true, probability) for drawn, true in parameters.values()],
            ),
            "contraction": (
                "parameter",
                [_contraction(drawn, prior[name]["fn"]) for name, drawn in laws.values()],
            ),
        },
        {"parameter": list(parameters), "program": [f"program_{k}" for k in range(K)]},
    )
    return scores.assign_attrs(report=_report(scores, data.schema.design), probability=probability)


def _covered(drawn: Float[np.ndarray, "draw ..."], true: Float[np.ndarray, ...], probability: float) -> float:
    tail = (1 - probability) / 2
    lower, upper = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return float(((lower <= true) & (true <= upper)).mean())


def _contraction(drawn: Float[np.ndarray, "draw ..."], prior: Any) -> float:
    """1 - posterior variance / prior variance, averaged over values."""
    variance = prior.variance.detach().cpu().expand(drawn.shape[1:]).numpy()
    return float(np.mean(1 - drawn.var(0) / variance))


def _report(scores: xr.Dataset, layout: str) -> str:
    auroc = float(scores["edge_auroc"])
    kept = 1 - float(scores["contraction"].sel(parameter="edge"))
    if auroc >= 0.95:
        return f"The lag graph is recovered (AUROC {auroc:.2f}); {kept:.0%} of prior variance is left."
    why = {
        "snapshot": "every cell is seen once, at one step: A and W reach the data only through the law of "
        "the last state under each schedule, to which many lag graphs lead",
        "time course": "no cell is seen twice: A and W reach the data only through the law of each step's "
        "state, not through the dependence of one step on the one before",
        "sequences": "cells are seen at every step, so the transitions reach the data; compare the bound "
        "with that of other starting points, and the programs' correlations",
    }[layout]
    return f"The lag graph is not recovered (AUROC {auroc:.2f}; {kept:.0%} of prior variance is left): {why}."
