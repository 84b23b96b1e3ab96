"""Groups of cells: sums that add up, profiles of their own cells, and variances that are found again."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.data import Schema, Trajectories, do
from pyro_citevae.data.groups import Groups
from pyro_citevae.data.pseudobulk import jackknife_variance, level

SUMS = ("n", "depth", "depth_squared", "sums", "squares", "products")


def same(one: Groups, other: Groups, rtol: float = 1e-12) -> None:
    assert one.labels == other.labels
    np.testing.assert_array_equal(one.times, other.times)
    for name in SUMS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, err_msg=name)


@pytest.mark.parametrize("values", ["counts", "real"])
@pytest.mark.parametrize("design", ["snapshot", "time course", "sequences"])
def test_the_sums_of_two_parts_are_those_of_the_whole(design: str, values: str) -> None:
    data = simulated(design, values)
    chosen = np.random.default_rng(0).random(data.n_observations) < 0.3
    parts = Groups.of(data, chosen) + Groups.of(data, ~chosen)
    same(parts, Groups.of(data), rtol=1e-9)
    assert {one.name for one in fields(Groups)} == {"schema", "labels", "times", "contexts", *SUMS}


@pytest.mark.parametrize("values", ["counts", "real"])
def test_every_group_has_the_profile_of_its_cells(values: str) -> None:
    data = simulated("time course", values)
    groups = Groups.of(data)
    present = set(zip(data.row_labels.tolist(), data.row_times.tolist(), strict=True))
    assert set(zip(groups.labels, groups.times.tolist(), strict=True)) == present
    for i, (label, time) in enumerate(zip(groups.labels, groups.times.tolist(), strict=True)):
        cells = data.select(label, time)
        assert groups.n[i] == cells.n_observations
        # counts are stored in single precision, and real values are summed up in it
        np.testing.assert_allclose(groups.level[i], level(cells), rtol=1e-5, atol=1e-5)


def test_the_controls_come_first_and_times_in_their_order() -> None:
    groups = Groups.of(simulated())
    assert groups.labels[:3] == ("control",) * 3
    assert groups.times[:3].tolist() == [1.0, 2.0, 3.0]
    assert list(groups.labels[3:]) == sorted(groups.labels[3:])


@pytest.mark.parametrize("values", ["counts", "real"])
def test_the_order_of_the_cells_does_not_matter(values: str) -> None:
    data = simulated("snapshot", values)
    order = np.random.default_rng(1).permutation(data.n_cells)
    kinds = np.random.default_rng(2).permutation(len(data.conditions))
    shuffled = replace(
        data,
        values=sparse.csr_matrix(data.values)[order],
        library=data.library[order],
        conditions=tuple(data.conditions[i] for i in kinds),
        condition=np.argsort(kinds)[data.condition[order]],
        technical=data.technical[order],
        names=data.names[order],
    )
    one, other = Groups.of(data), Groups.of(shuffled)
    same(one, other, rtol=1e-5)
    np.testing.assert_allclose(one.variance(one.level, one), other.variance(other.level, other), rtol=1e-4)


def test_cells_that_are_read_a_few_at_a_time_give_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    data = simulated()
    whole = Groups.of(data)
    monkeypatch.setattr("pyro_citevae.data.groups._CHUNK", 7)
    same(Groups.of(data), whole)


def test_a_group_without_cells_has_an_infinite_variance_and_a_profile_of_zero() -> None:
    data = simulated()
    gone = data.row_labels == "gene_1"
    part, whole = Groups.of(data, ~gone), Groups.of(data)
    empty = np.array(part.labels) == "gene_1"
    assert (part.n[empty] == 0).all()
    np.testing.assert_array_equal(part.level[empty], 0.0)
    variance = part.variance(whole.level, whole)
    assert np.isinf(variance[empty]).all()
    assert np.isfinite(variance[~empty]).all()
    assert (variance[~empty] > 0).all()


# the law of the variance: many groups of one law, each gene's scatter of profiles beside what is said of it

N_GROUPS, N_CELLS, N_GENES = 600, 25, 12
THETA = 2.0
MEAN = np.random.default_rng(0).uniform(2.0, 20.0, N_GENES)


def of_one_law(values: str, sizes: np.ndarray, seed: int = 0) -> Trajectories:
    """Groups of cells that are all drawn alike, each of its own size."""
    rng = np.random.default_rng(seed)
    n = int(sizes.sum())
    if values == "real":
        x = MEAN + np.linspace(0.5, 3.0, N_GENES) * rng.normal(size=(n, N_GENES))
    else:  # gamma-Poisson around a cell's own depth
        rate = MEAN * rng.uniform(0.5, 1.5, n)[:, None] * rng.gamma(THETA, 1 / THETA, (n, N_GENES))
        x = rng.poisson(rate).astype(float)
    genes = tuple(f"gene_{g}" for g in range(max(N_GENES, len(sizes))))[:N_GENES]
    tokens = tuple(f"token_{p}" for p in range(len(sizes) - 1))
    return Trajectories(
        schema=Schema(genes=genes, tokens=tokens, total=float(MEAN.sum()), values=values),
        values=sparse.csr_matrix(x),
        library=np.ones(n) if values == "real" else np.maximum(x.sum(1), 1.0),
        row_cell=np.arange(n),
        row_step=np.ones(n, dtype=np.int64),
        conditions=(do(), *(do(token) for token in tokens)),
        condition=np.repeat(np.arange(len(sizes)), sizes),
        technical=np.zeros(n, dtype=np.int64),
        names=np.arange(n).astype(str),
    )


@pytest.mark.parametrize("values", ["counts", "real"])
def test_the_variance_is_that_of_the_profiles_of_many_groups(values: str) -> None:
    groups = Groups.of(of_one_law(values, np.full(N_GROUPS, N_CELLS)))
    expected = np.broadcast_to(groups.level.mean(0), groups.level.shape)
    said, found = groups.variance(expected, groups), groups.level.var(0, ddof=1)
    # a variance of 600 normals errs by sqrt(2 / 600) = 6 %; and the counts of a profile compete for one total
    np.testing.assert_allclose(found, said.mean(0), rtol=0.25)
    assert np.mean(found / said.mean(0)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("values", ["counts", "real"])
def test_the_variance_falls_with_the_cells_of_a_group(values: str) -> None:
    sizes = np.repeat([10, 100], 200)
    data = of_one_law(values, sizes)
    groups = Groups.of(data)
    said = groups.variance(np.broadcast_to(groups.level.mean(0), groups.level.shape), groups).mean(1)
    small = groups.n == 10
    # the kappa of ten cells errs by tens of per cent, but its mean over 200 groups is known well
    assert said[small].mean() / said[~small].mean() == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("values", ["counts", "real"])
def test_the_variance_is_near_the_jackknife_of_many_cells(values: str) -> None:
    data = of_one_law(values, np.full(3, 2000))
    groups = Groups.of(data)
    said = groups.variance(groups.level, groups)
    for i, label in enumerate(groups.labels):
        found = jackknife_variance(data.select(label))
        # a variance of 2,000 skewed values errs by 5 % or so; competition for the total makes a gene surer
        np.testing.assert_allclose(said[i], found, rtol=0.35)
        assert np.mean(said[i] / found) == pytest.approx(1.0, abs=0.15)


def test_a_group_that_is_more_scattered_than_the_others_is_said_to_be() -> None:
    """One group is a mixture of two kinds of cells, with twice and with no counts of every second gene."""
    data = of_one_law("counts", np.full(20, 200))
    x = data.values.toarray()
    rows = np.flatnonzero(data.condition == 7)
    x[np.ix_(rows[::2], np.arange(0, N_GENES, 2))] *= 2
    x[np.ix_(rows[1::2], np.arange(0, N_GENES, 2))] = 0
    mixed = Groups.of(replace(data, values=sparse.csr_matrix(x)))
    expected = np.broadcast_to(mixed.level.mean(0), mixed.level.shape)
    said = mixed.variance(expected, mixed).mean(1)
    odd = np.array(mixed.labels) == "token_6"
    assert said[odd][0] > 1.3 * said[~odd].max()


def test_a_gene_with_few_counts_by_chance_is_not_thought_to_be_sure() -> None:
    """The variance follows the level that is expected, not what the group's own cells happen to show."""
    data = of_one_law("counts", np.full(20, 30))
    x = data.values.toarray()
    x[data.condition == 3, 5] = 0
    groups = Groups.of(replace(data, values=sparse.csr_matrix(x)))
    expected = np.broadcast_to(np.median(groups.level, 0), groups.level.shape)
    said = groups.variance(expected, groups)[:, 5]
    assert said[np.array(groups.labels) == "token_2"][0] > 0.5 * np.median(said)


def test_held_out_and_seen_cells_weigh_by_their_number() -> None:
    data = simulated("snapshot", n_cells=400)
    chosen = np.arange(data.n_observations) % 4 == 0
    whole, few, many = Groups.of(data), Groups.of(data, chosen), Groups.of(data, ~chosen)
    variance = [one.variance(whole.level, whole) for one in (few, many, whole)]
    # precisions add up, but for cells of unequal depth
    np.testing.assert_allclose(1 / variance[0] + 1 / variance[1], 1 / variance[2], rtol=0.1)


def test_groups_of_a_file_are_those_of_memory(tmp_path: Path) -> None:
    from screens import as_anndata

    as_anndata(simulated()).write_h5ad(tmp_path / "screen.h5ad")
    on_disk = cv.Trajectories.from_disk(tmp_path / "screen.h5ad", time="time", progress=False)
    in_memory = cv.Trajectories.from_anndata(as_anndata(simulated()), time="time")
    same(Groups.of(on_disk), Groups.of(in_memory))
