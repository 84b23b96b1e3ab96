"""The exact posterior of a linear Gaussian program, twice: solved densely, and by a Kalman smoother."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.tsa.statespace import kalman_smoother

import pyro_citevae as cv
from pyro_citevae.models import LinearGaussian

__all__ = ["Exact", "exact", "kalman", "named_values"]


@dataclass(frozen=True)
class Exact:
    """Log evidence of all cells, and the posterior mean and sd of z_0..z_T, each (cell, step, program)."""

    log_evidence: float
    mean: np.ndarray
    sd: np.ndarray


def exact(posterior: cv.Posterior, data: cv.Trajectories) -> Exact:
    """Stacks z_0..z_T into one Gaussian vector per cell, and conditions it on the observations."""
    values = {
        name: tensor.detach().double().numpy() for name, tensor in named_values(posterior.model).items()
    }
    batch = data.batch()
    T, K = batch.n_steps, posterior.model.n_programs
    F = np.diag(1 - values["decay"]) + values["W"][0]
    # z = drive + M noise, with noise = (z_0, eps_1, ..., eps_T): z_t = F z_{t-1} + u_t a + sigma eps_t
    M = np.zeros(((T + 1) * K, (T + 1) * K))
    M[:K, :K] = np.eye(K)
    for t in range(1, T + 1):
        here, before = slice(t * K, (t + 1) * K), slice((t - 1) * K, t * K)
        M[here] = F @ M[before]
        M[here, here] = np.diag(values["sigma"])
    prior = M @ M.T
    drive = np.zeros((T + 1, data.n_cells, K))
    for t in range(1, T + 1):
        drive[t] = drive[t - 1] @ F.T + batch.u[t].double().numpy() @ values["a"]
    steps = batch.step[:, 0].numpy()
    G = data.schema.n_genes
    H = np.zeros((len(steps) * G, (T + 1) * K))
    for i, t in enumerate(steps):
        H[i * G : (i + 1) * G, t * K : (t + 1) * K] = values["C"]
    noise = np.tile(values["r"] ** 2, len(steps))
    evidence = H @ prior @ H.T + np.diag(noise)
    drive = drive.swapaxes(0, 1).reshape(data.n_cells, -1)
    x = batch.x.dense.double().numpy().swapaxes(0, 1).reshape(data.n_cells, -1)
    residual = x - drive @ H.T - np.tile(values["e"], len(steps))
    log_evidence = stats.multivariate_normal(cov=evidence).logpdf(residual).sum()
    gain = np.linalg.solve(evidence, H @ prior).T
    covariance = prior - gain @ H @ prior
    shape = (data.n_cells, T + 1, K)
    mean = (drive + residual @ gain.T).reshape(shape)
    sd = np.broadcast_to(np.sqrt(np.diag(covariance)).reshape(1, T + 1, K), shape)
    return Exact(float(log_evidence), mean, sd)


def kalman(posterior: cv.Posterior, data: cv.Trajectories) -> Exact:
    """The same by a recursion that shares no line with the dense solution."""
    values = {
        name: tensor.detach().double().numpy() for name, tensor in named_values(posterior.model).items()
    }
    batch = data.batch()
    T, K, G = batch.n_steps, posterior.model.n_programs, data.schema.n_genes
    x = np.full((data.n_cells, T + 1, G), np.nan)  # nothing is observed at step 0
    x[:, batch.step[:, 0].numpy()] = batch.x.dense.double().numpy().swapaxes(0, 1)
    drive = batch.u.double().numpy() @ values["a"]
    results = []
    for n in range(data.n_cells):
        smoother = kalman_smoother.KalmanSmoother(
            k_endog=G,
            k_states=K,
            transition=np.diag(1 - values["decay"]) + values["W"][0],
            selection=np.eye(K),
            state_cov=np.diag(values["sigma"] ** 2),
            design=values["C"],
            obs_cov=np.diag(values["r"] ** 2),
            obs_intercept=values["e"][:, None],
        )
        smoother.bind(x[n])
        smoother["state_intercept"] = np.vstack([drive[1:, n], np.zeros(K)]).T
        smoother.initialize_known(np.zeros(K), np.eye(K))
        results.append(smoother.smooth())
    return Exact(
        sum(result.llf for result in results),
        np.stack([result.smoothed_state.T for result in results]),
        np.stack([np.sqrt(np.diagonal(result.smoothed_state_cov).copy()) for result in results]),
    )


def named_values(model: LinearGaussian) -> dict:
    return {
        "W": model.W, "a": model.a, "C": model.loading.weight, "e": model.loading.bias,
        "decay": model.decay, "sigma": model.sigma, "r": model.r,
    }  # fmt: skip
