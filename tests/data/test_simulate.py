"""Simulated screens: reproducible, laid out as asked, and true to the process that they state."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from pyro_citevae.data import Schedule, Simulation, simulate
from pyro_citevae.errors import DataError, ScheduleError


def small(**options: Any) -> Simulation:
    return simulate(**({"n_cells": 60, "n_genes": 12, "n_perturbations": 3, "seed": 1} | options))


def doses(simulation: Simulation) -> np.ndarray:
    """u[step, cell, token], from the labels of the cells."""
    schema, labels = simulation.data.schema, simulation.data.labels
    n_steps = len(simulation.truth.z) - 1
    return np.stack([schema.doses(Schedule.parse(label), n_steps) for label in labels], axis=1)


def drift(simulation: Simulation) -> np.ndarray:
    """The mean of z[1:] given the past, by an explicit loop."""
    truth, u = simulation.truth, doses(simulation)
    means = []
    for t in range(1, len(truth.z)):
        mean = (1 - truth.decay) * truth.z[t - 1] + u[t] @ truth.a
        for lag in range(1, min(t, len(truth.W)) + 1):
            mean = mean + np.einsum("kj,nj->nk", truth.W[lag - 1], truth.z[t - lag])
        means.append(mean)
    return np.array(means)


LAYOUTS = pytest.mark.parametrize("layout", ["snapshot", "time course", "sequences"])


@LAYOUTS
@pytest.mark.parametrize("values", ["counts", "real"])
def test_the_same_seed_gives_the_same_screen(layout: Any, values: Any) -> None:
    one, same = (small(layout=layout, values=values) for _ in range(2))
    assert one.data.digest == same.data.digest
    for found, expected in zip(asdict(one.truth).values(), asdict(same.truth).values(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_another_seed_gives_another_screen() -> None:
    assert small(seed=1).data.digest != small(seed=2).data.digest


@pytest.mark.parametrize(
    ("layout", "times", "rows", "steps"),
    [
        ("snapshot", (4.0,), 60, {4}),
        ("time course", (1.0, 2.0, 3.0, 4.0), 60, {1, 2, 3, 4}),
        ("sequences", (1.0, 2.0, 3.0, 4.0), 240, {1, 2, 3, 4}),
    ],
)
def test_layouts(layout: Any, times: tuple[float, ...], rows: int, steps: set[int]) -> None:
    data = small(layout=layout).data
    assert (data.schema.design, data.schema.times, data.schema.n_steps) == (layout, times, 4)
    assert (data.n_cells, data.n_observations, set(data.row_step)) == (60, rows, steps)
    assert (np.diff(data.row_cell) >= 0).all()


def test_sequences_show_every_cell_at_every_time() -> None:
    batch = small(layout="sequences").data.batch()
    assert batch.observed.all()
    assert batch.last.eq(4).all()


def test_sizes_are_those_asked_for() -> None:
    simulation = small(n_programs=4, n_lags=2, n_steps=5)
    truth, schema = simulation.truth, simulation.data.schema
    assert truth.A.shape == truth.W.shape == (2, 4, 4)
    assert truth.a.shape == truth.b.shape == (3, 4)
    assert truth.loading.shape == (4, 12)
    assert truth.z.shape == (6, 60, 4)
    assert schema.tokens == schema.genes[:3] == ("gene_0", "gene_1", "gene_2")
    assert schema.own_gene.tolist() == [0, 1, 2]


def test_every_label_has_its_share_of_the_cells() -> None:
    labels, sizes = np.unique(small(combinations=("gene_0+gene_1",)).data.labels, return_counts=True)
    assert labels.tolist() == ["control", "gene_0", "gene_0+gene_1", "gene_1", "gene_2"]
    assert set(sizes) == {12}


@pytest.mark.parametrize("n_lags", [1, 2, 3])
def test_without_noise_the_states_satisfy_the_transition(n_lags: int) -> None:
    simulation = small(sigma=0.0, n_lags=n_lags, combinations=("gene_0+gene_1",), edge_share=0.7)
    np.testing.assert_allclose(simulation.truth.z[1:], drift(simulation), rtol=0, atol=1e-5)


def test_the_noise_has_the_stated_scale() -> None:
    simulation = small(n_cells=4000, sigma=0.3, scale_change=0.4)
    truth, u = simulation.truth, doses(simulation)
    noise = (truth.z[1:] - drift(simulation)) / (truth.sigma * np.exp(u[1:] @ truth.b))
    assert abs(noise.mean()) < 5 / noise.size**0.5
    assert abs(noise.var() - 1) < 5 * (2 / noise.size) ** 0.5
    assert truth.b.std() > 0.1


def test_cells_start_from_the_standard_normal() -> None:
    start = small(n_cells=4000).truth.z[0]
    assert abs(start.mean()) < 5 / start.size**0.5
    assert abs(start.var() - 1) < 5 * (2 / start.size) ** 0.5


def test_weights_live_on_the_edges_of_the_graph() -> None:
    truth = small(n_programs=8, n_lags=2).truth
    assert truth.A.dtype == bool
    assert (truth.W[~truth.A] == 0).all()
    assert ((np.abs(truth.W[truth.A]) >= 0.2) & (np.abs(truth.W[truth.A]) <= 0.4)).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_graph_has_the_share_of_edges(share: float) -> None:
    truth = small(n_programs=20, n_lags=2, edge_share=share).truth
    assert abs(truth.A.mean() - share) <= 5 * (share * (1 - share) / truth.A.size) ** 0.5


def test_without_effect_no_token_moves_a_program() -> None:
    simulation = small(effect=0.0)
    assert (simulation.truth.a == 0).all()


@pytest.mark.parametrize("n_inert", [0, 1, 3])
def test_inert_tokens_change_nothing_and_nothing_else_changes(n_inert: int) -> None:
    options = {"combinations": ("gene_0+gene_2",), "interaction": 1.0, "scale_change": 0.3}
    plain, some = small(**options).truth, small(**options, n_inert=n_inert).truth
    acting = 3 - n_inert
    for name in ("a", "b", "v"):
        assert not getattr(some, name)[acting:].any()
        np.testing.assert_array_equal(getattr(some, name)[:acting], getattr(plain, name)[:acting])
        assert getattr(plain, name).any(), "there is something to be set to nothing"
    for name in ("A", "W", "w", "loading", "intercept"):
        np.testing.assert_array_equal(getattr(some, name), getattr(plain, name))
    np.testing.assert_array_equal(some.z[0], plain.z[0])


def test_cells_under_tokens_that_act_are_what_they_were() -> None:
    plain, some = small(), small(n_inert=1)
    acting = plain.data.labels != "gene_2"
    np.testing.assert_array_equal(some.truth.z[:, acting], plain.truth.z[:, acting])
    assert (some.truth.z[1:, ~acting] != plain.truth.z[1:, ~acting]).any()


def test_cells_under_an_inert_token_move_as_controls_do() -> None:
    simulation = small(n_cells=8000, n_inert=1, design="snapshot", values="real", noise=0.0)
    data = simulation.data
    inert, controls = (data.select(label).values.toarray() for label in ("gene_2", "control"))
    error = np.sqrt(inert.var(0) / len(inert) + controls.var(0) / len(controls))
    assert (np.abs(inert.mean(0) - controls.mean(0)) < 5 * error).all()


@pytest.mark.parametrize("n_inert", [-1, 4])
def test_more_inert_tokens_than_there_are_are_refused(n_inert: int) -> None:
    with pytest.raises(DataError, match=rf"n_inert={n_inert} must lie between 0 and n_perturbations=3"):
        small(n_inert=n_inert)


def test_a_combination_moves_by_the_sum_of_its_tokens() -> None:
    options = {"n_cells": 4000, "design": "snapshot", "n_steps": 1, "sigma": 0.0}
    simulation = small(combinations=("gene_0+gene_1",), **options)
    truth, labels = simulation.truth, simulation.data.labels
    at_rest = (1 - truth.decay) * truth.z[0] + truth.z[0] @ truth.W[0].T
    moved = (truth.z[1] - at_rest)[labels == "gene_0+gene_1"]
    np.testing.assert_allclose(moved, np.broadcast_to(truth.a[0] + truth.a[1], moved.shape), atol=1e-5)


def test_a_delayed_combination_acts_from_its_time_on() -> None:
    simulation = small(combinations=("gene_0+gene_1@2",), sigma=0.0)
    assert "gene_0+gene_1@2" in simulation.data.perturbations()
    np.testing.assert_allclose(simulation.truth.z[1:], drift(simulation), rtol=0, atol=1e-5)


@LAYOUTS
def test_without_noise_real_values_are_the_loaded_states(layout: Any) -> None:
    simulation = small(values="real", noise=0.0, layout=layout)
    data, truth = simulation.data, simulation.truth
    expected = truth.intercept + truth.z[data.row_step, data.row_cell] @ truth.loading
    np.testing.assert_allclose(data.values.toarray(), expected, atol=1e-5)
    assert (data.library == 1).all()


def test_counts_are_whole_and_their_libraries_are_the_depths_they_were_drawn_at() -> None:
    data = small().data
    counts = data.values.toarray()
    assert (counts >= 0).all()
    assert (counts == np.rint(counts)).all()
    # inverse dispersion 10: a sum spreads about its depth by at most 0.32, whatever the shares
    ratio = counts.sum(1) / data.library
    assert ratio.mean() == pytest.approx(1, abs=4 * 0.32 / np.sqrt(len(ratio)))
    assert (ratio != 1).all()
    assert np.median(data.library) == pytest.approx(500, rel=0.1)


def test_expected_counts_follow_the_loaded_states() -> None:
    simulation = small(n_cells=300, layout="snapshot", library=1e6, dispersion=1e6)
    data, truth = simulation.data, simulation.truth
    eta = truth.intercept + truth.z[data.row_step, data.row_cell] @ truth.loading
    share = np.exp(eta) / np.exp(eta).sum(1, keepdims=True)
    np.testing.assert_allclose(data.values.toarray() / data.library[:, None], share, rtol=0, atol=0.01)


def test_cells_can_be_observed_after_some_steps_only() -> None:
    simulation = small(times=(1, 2, 5, 12), layout="sequences", values="real", noise=0.0)
    data, truth = simulation.data, simulation.truth
    assert data.schema.times == data.schema.grid == (1.0, 2.0, 5.0, 12.0)
    assert (data.schema.n_steps, data.n_observations, len(truth.z)) == (4, 240, 13)
    expected = truth.intercept + truth.z[data.row_times.astype(int), data.row_cell] @ truth.loading
    np.testing.assert_allclose(data.values.toarray(), expected, atol=1e-5)


def test_observing_fewer_steps_leaves_the_process_as_it_is() -> None:
    every, some = small(n_steps=12), small(times=(3, 12))
    np.testing.assert_array_equal(every.truth.z, some.truth.z)
    snapshot = small(times=(3, 12), layout="snapshot").data
    assert (snapshot.schema.times, snapshot.schema.n_steps, set(snapshot.row_step)) == ((12.0,), 2, {2})


@pytest.mark.parametrize("times", [(2, 1), (0, 1), (1, 1)], ids=str)
def test_times_that_do_not_increase_are_refused(times: Any) -> None:
    with pytest.raises(DataError, match="do not increase from 1"):
        small(times=times)


def test_more_tokens_than_genes_are_refused() -> None:
    with pytest.raises(DataError, match="n_genes=2 is below n_perturbations=3"):
        small(n_genes=2)


def test_a_combination_of_unknown_genes_is_refused() -> None:
    with pytest.raises(ScheduleError, match="gene_9"):
        small(combinations=("gene_0+gene_9",))
