"""Programs told apart by the noise that perturbations change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import pyro_citevae as cv
from pyro_citevae.analysis.identifiability.recovery import match
from pyro_citevae.data.mixing import mixed
from pyro_citevae.errors import DataError, FitError
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer import unmix
from pyro_citevae.infer.transition_unmixing import likeliest_states
from pyro_citevae.infer.unmixing import smoothed_states, unmixing
from pyro_citevae.models import CiteVAE, ImageSequence, Switching
from pyro_citevae.scenes.dynamics import FACTORS, latent_dynamics
from pyro_citevae.scenes.sequences import ImageSequences

K = 3


def sequences(scale_change: float = 0.6, n_cells: int = 2000, seed: int = 0) -> cv.data.Simulation:
    return cv.simulate(
        n_cells=n_cells,
        n_genes=12,
        n_programs=K,
        n_perturbations=8,
        n_steps=5,
        design="sequences",
        values="real",
        saturating=True,
        edge_weight=(0.4, 0.8),
        scale_change=scale_change,
        decay=0.5,
        sigma=0.4,
        noise=0.1,
        seed=seed,
    )


def test_any_linear_mixture_of_true_states_is_undone() -> None:
    """Innovations of 2000 cells x 4 steps: correlations err by less than 1 / sqrt(8000 / 9 conditions)."""
    simulation = sequences()
    z = simulation.truth.z[1:]
    mixture = np.random.default_rng(1).normal(size=(K, K))
    found = unmixing(z @ mixture.T, simulation.data.condition)
    unmixed = (z @ mixture.T @ found.matrix.T).reshape(-1, K)
    assert (abs(match(unmixed, z.reshape(-1, K)).correlation) > 0.99).all()


def test_the_unmixing_does_not_depend_on_how_programs_were_mixed() -> None:
    simulation = sequences()
    z, rng = simulation.truth.z[1:], np.random.default_rng(2)
    condition = simulation.data.condition
    # the regression sees tanh of other mixtures, so the states agree but for what that leaves
    made = [z @ m.T @ unmixing(z @ m.T, condition).matrix.T for m in rng.normal(size=(2, K, K))]
    found = match(made[0].reshape(-1, K), made[1].reshape(-1, K))
    assert (abs(found.correlation) > 0.99).all()


def test_noise_has_unit_variance_on_average_and_the_scales_of_the_truth() -> None:
    simulation = sequences()
    found = unmixing(simulation.truth.z[1:], simulation.data.condition)
    np.testing.assert_allclose(found.scales.mean(0), 1.0, rtol=0.05)  # groups are of nearly equal size
    true = np.vstack([np.zeros(K), 2 * simulation.truth.b])  # log variance, the control first
    order = abs(np.corrcoef(true.T, np.log(found.scales).T)[:K, K:]).argmax(1)
    assert sorted(order) == list(range(K))
    for k in range(K):
        assert np.corrcoef(true[:, k], np.log(found.scales)[:, order[k]])[0, 1] > 0.98


def test_programs_with_the_same_noise_everywhere_are_not_distinct() -> None:
    """The statistic is a chi-square over its degrees of freedom, 8 here: 3 is far in its tail."""
    same, apart = sequences(scale_change=0.0), sequences()
    off = ~np.eye(K, dtype=bool)
    assert unmixing(same.truth.z[1:], same.data.condition).distinctness[off].max() < 4
    assert unmixing(apart.truth.z[1:], apart.data.condition).distinctness[off].min() > 10


def intervened(n: int = 4000, seed: int = 0) -> tuple[cv.Trajectories, np.ndarray]:
    """Pairs of states of two blocks that drive each other; each of two tokens sets one of them anew."""
    rng = np.random.default_rng(seed)
    hit = rng.random((n, 2)) < 0.3
    W = np.array([[0.2, 0.3, 0.5, 0.0], [-0.3, 0.2, 0.0, 0.5], [0.4, 0.0, 0.3, 0.0], [0.0, 0.4, 0.0, 0.3]])
    z = np.zeros((2, n, 4))
    z[0] = rng.normal(size=(n, 4))
    for _ in range(5):  # towards the stationary law, where the blocks depend on each other
        z[0] = 0.3 * z[0] + np.tanh(z[0]) @ W.T + 0.5 * rng.normal(size=(n, 4))
    moved = 0.3 * z[0] + np.tanh(z[0]) @ W.T + 0.5 * rng.normal(size=(n, 4))
    z[1] = np.where(hit.repeat(2, axis=1), 1.2 * rng.normal(size=(n, 4)), moved)
    grey = np.zeros((n, 2, 1, 1, 3), dtype=np.uint8)
    latent = latent_dynamics(n, 2, seed=0)
    done = np.zeros((n, 2, len(FACTORS)), dtype=bool)
    done[:, 1, [FACTORS.index("pos-x"), FACTORS.index("hue-back")]] = hit
    shown = ImageSequences(grey, latent.latents, latent.shapes, done)
    return shown.trajectories("interventions"), z


def test_known_targets_tell_blocks_apart_in_any_linear_mixture() -> None:
    """A block is what its token sets: the other block's share of it is estimated from 1200 jumps."""
    data, z = intervened()
    targets = [[1, 1, 0, 0], [0, 0, 1, 1]]
    model = ImageSequence(data.schema, n_programs=4, n_invariant=0, targets=targets, perfect=True, hidden=8)
    mixture = np.random.default_rng(1).normal(size=(4, 4))
    M = likeliest_states(model, data, z @ mixture.T, restarts=2)
    share = abs(M @ mixture)
    share /= share.max(1, keepdims=True)
    assert share[:2, 2:].max() < 0.1
    assert share[2:, :2].max() < 0.1
    assert np.linalg.cond((M @ mixture)[:2, :2]) < 20  # both programs of a block are there


def test_unmixing_by_transitions_refuses_what_it_cannot_use() -> None:
    data, z = intervened(40)
    model = ImageSequence(data.schema, n_programs=4, hidden=8)
    with pytest.raises(FitError, match="has one step, and a transition needs two"):
        likeliest_states(model, data, z[1:])
    simulation = cv.simulate(n_cells=60, n_steps=3, design="sequences", seed=1)
    with pytest.raises(FitError, match="Switching sums over them; unmix by noise"):
        likeliest_states(Switching(simulation.data.schema, n_programs=2), simulation.data, simulation.truth.z)
    posterior = fitted(sequences(n_cells=60), epochs=1)
    with pytest.raises(FitError, match=r"unmix\(by='luck'\) is no way to tell programs apart"):
        unmix(posterior, sequences(n_cells=60).data, by="luck")


def fitted(simulation: cv.data.Simulation, epochs: int, seed: int = 0) -> cv.Posterior:
    plain = {"onset": False, "own_transcript": False, "direct": False, "group": False, "edges": False}
    schema = simulation.data.schema
    model = CiteVAE(schema, n_programs=K, n_invariant=0, hidden=16, decay=0.5, shift_scale=1.0, **plain)
    guide = BackwardSmoother(model, hidden=32)
    settings = {"learning_rate": 0.01, "kl_start": 1.0, "validation": 0.0, "seed": seed}
    return cv.fit(model, guide, simulation.data, progress=False, max_epochs=epochs, **settings)


def correlation(posterior: cv.Posterior, simulation: cv.data.Simulation) -> np.ndarray:
    z = smoothed_states(posterior, simulation.data)
    return abs(match(z.reshape(-1, K), simulation.truth.z[1:].reshape(-1, K)).correlation)


def test_a_fit_goes_on_from_programs_that_are_told_apart() -> None:
    simulation = sequences()
    first = fitted(simulation, epochs=8)
    second = unmix(first, simulation.data, rounds=3, clamped=6, progress=False)
    before, after = correlation(first, simulation), correlation(second, simulation)
    assert before.min() < 0.9, "the fixture is to start from programs that are mixed"
    assert after.min() > 0.95
    assert second.bound(simulation.data, particles=3) > first.bound(simulation.data, particles=3)
    assert second.record["settings"] == first.record["settings"]


def test_states_are_the_same_in_chunks_but_for_the_draws() -> None:
    simulation = sequences()
    posterior = fitted(simulation, epochs=1)
    whole = smoothed_states(posterior, simulation.data)
    chunked = smoothed_states(posterior, simulation.data, most_values=10_000)
    again = smoothed_states(posterior, simulation.data, seed=1, most_values=10_000)
    assert chunked.shape == whole.shape
    # two means of eight draws: as far apart as means from two seeds are
    assert (chunked - whole).std() == pytest.approx((again - chunked).std(), rel=0.05)


def test_cells_have_to_be_followed_over_all_steps() -> None:
    simulation = cv.simulate(n_cells=60, seed=1)  # a time course: each cell is seen once
    model = CiteVAE(simulation.data.schema, n_programs=2, hidden=0)
    posterior = cv.fit(
        model, BackwardSmoother(model, hidden=8), simulation.data, max_epochs=1, progress=False
    )
    with pytest.raises(FitError, match="cells that were not followed to the last step; give whole sequences"):
        unmix(posterior, simulation.data)


def test_perturbations_that_change_no_noise_are_named() -> None:
    simulation = sequences(scale_change=0.0, n_cells=600)
    posterior = fitted(simulation, epochs=60)
    with pytest.raises(FitError, match="cannot tell two of its programs apart: the perturbations change"):
        unmix(posterior, simulation.data, progress=False)


def test_one_step_shows_no_noise() -> None:
    with pytest.raises(FitError, match="has 1 step, and a program's noise shows between two"):
        unmixing(np.zeros((1, 10, 2)), np.zeros(10, dtype=int))


# mixing


def test_a_linear_mixture_keeps_the_states_to_be_read_off() -> None:
    simulation = sequences(n_cells=300)
    seen = mixed(simulation, n_features=9, slope=1.0, noise=0.0).data
    z = simulation.truth.z[seen.row_step, seen.row_cell]
    x = seen.values.toarray()
    design = np.c_[x, np.ones(len(x))]
    fit = design @ np.linalg.lstsq(design, z, rcond=None)[0]
    np.testing.assert_allclose(fit, z, atol=1e-4)  # single precision


def test_a_mixture_is_standardised_and_noisy_as_asked() -> None:
    simulation = sequences(n_cells=2000)
    clean, noisy = (mixed(simulation, noise=noise).data.values.toarray() for noise in (0.0, 0.3))
    np.testing.assert_allclose(clean.std(0), 1.0, rtol=1e-4)
    assert abs((noisy - clean).std() - 0.3) < 0.005  # of 200,000 values


def test_no_two_states_look_the_same() -> None:
    """Distances between mixed states are at least slope^layers of those between layers' inputs."""
    simulation = sequences(n_cells=200)
    seen = mixed(simulation, noise=0.0).data
    z, x = simulation.truth.z[seen.row_step, seen.row_cell], seen.values.toarray()
    rng = np.random.default_rng(0)
    i, j = rng.integers(len(z), size=(2, 500))
    apart = i != j
    ratio = np.linalg.norm(x[i] - x[j], axis=1)[apart] / np.linalg.norm(z[i] - z[j], axis=1)[apart]
    assert ratio.min() > 0.2**2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_features": 2}, r"mixed\(n_features=2\) is below the 3 programs"),
        ({"width": 2}, r"mixed\(width=2\) is below the 3 programs"),
        ({"width": 25}, r"mixed\(n_features=20\) is below width=25"),
        ({"n_layers": -1}, r"mixed\(n_layers=-1, slope=0.2, noise=0.05\) is out of range"),
        ({"slope": 0.0}, r"slope=0, noise=0.05\) is out of range"),
        ({"slope": 1.5}, "is out of range"),
        ({"noise": -0.1}, "is out of range"),
    ],
)
def test_a_mixture_that_cannot_be_made_is_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        mixed(sequences(n_cells=60), **wrong)


def test_narrow_layers_bend_more_than_wide_ones() -> None:
    simulation = sequences()

    def linear_share(width: int | None) -> float:
        seen = mixed(simulation, width=width, noise=0.0).data
        z = simulation.truth.z[seen.row_step, seen.row_cell]
        x = np.c_[seen.values.toarray(), np.ones(seen.n_observations)]
        rest = z - x @ np.linalg.lstsq(x, z, rcond=None)[0]
        return float(1 - rest.var() / z.var())

    assert linear_share(20) > 0.95 > linear_share(None) + 0.05


def test_what_was_done_to_the_cells_is_kept() -> None:
    simulation = sequences(n_cells=60)
    seen = mixed(simulation)
    assert seen.truth is simulation.truth
    assert (seen.data.condition == simulation.data.condition).all()
    assert replace(seen.data.schema, genes=(), values="counts").tokens == simulation.data.schema.tokens
