"""LinearGaussian against the joint Gaussian of states and observations, solved densely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

import pyro_citevae as cv
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.models import LinearGaussian

SETTINGS = {
    "max_epochs": 250,
    "batch_size": 400,
    "learning_rate": 0.05,
    "kl_start": 1.0,
    "n_particles": 10,
    "validation": 0.0,
    "progress": False,
}


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


def named_values(model: LinearGaussian) -> dict:
    return {
        "W": model.W, "a": model.a, "C": model.loading.weight, "e": model.loading.bias,
        "decay": model.decay, "sigma": model.sigma, "r": model.r,
    }  # fmt: skip


@pytest.fixture(scope="module")
def data() -> cv.Trajectories:
    simulation = cv.simulate(
        n_cells=400, n_genes=6, n_programs=2, n_perturbations=3, n_steps=4, layout="sequences", values="real"
    )
    return simulation.data


@pytest.fixture(scope="module")
def smoothed(data: cv.Trajectories) -> cv.Posterior:
    model = LinearGaussian(data.schema, n_programs=2)
    return cv.fit(model, BackwardSmoother(model, hidden=16, correction=0), data, seed=0, **SETTINGS)


def test_the_bound_stays_below_the_exact_evidence_and_comes_within_one_percent(
    smoothed: cv.Posterior, data: cv.Trajectories
) -> None:
    evidence = exact(smoothed, data).log_evidence / data.n_cells
    bounds = np.array([smoothed.bound(data, particles=20, seed=seed) for seed in range(10)])
    standard_error = bounds.std(ddof=1) / np.sqrt(len(bounds))
    assert bounds.mean() <= evidence + 3 * standard_error
    assert evidence - bounds.mean() < 0.01 * abs(evidence)


def test_smoothed_means_are_within_a_twentieth_of_a_posterior_sd(
    smoothed: cv.Posterior, data: cv.Trajectories
) -> None:
    truth = exact(smoothed, data)
    draws = smoothed.to_datatree(data, draws=2000, most_cells=40)["posterior"]["z"]
    cells = [list(data.names).index(name) for name in draws.trajectory.to_numpy()]
    mean, sd = draws.mean(("chain", "draw")).to_numpy(), draws.std(("chain", "draw")).to_numpy()
    off = (mean - truth.mean[cells]) / truth.sd[cells]
    # 2000 draws leave a Monte Carlo error of 0.022 sd in each mean, so judge the root mean square
    assert np.sqrt((off**2).mean()) < 0.05
    assert np.allclose(sd / truth.sd[cells], 1, atol=0.1)


def test_mean_field_is_bounded_too_and_looser(smoothed: cv.Posterior, data: cv.Trajectories) -> None:
    model = LinearGaussian(data.schema, n_programs=2)
    loose = cv.fit(
        model, MeanField(model, hidden=16, correction=0), data, seed=0, **{**SETTINGS, "max_epochs": 100}
    )
    gap = exact(loose, data).log_evidence / data.n_cells - loose.bound(data, particles=50)
    tight = exact(smoothed, data).log_evidence / data.n_cells - smoothed.bound(data, particles=50)
    assert gap > tight
