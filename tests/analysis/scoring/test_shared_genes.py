"""Held-out cells that lack genes, and held-out cells that were in training under whatever name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import sparse, stats
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.analysis import Persistence, TechnicalDuplicate, cell_rows, evaluate, forecast, measure
from pyro_citevae.analysis.scoring.measurement import Measurement, require_unseen
from pyro_citevae.data.backed import BackedCounts
from pyro_citevae.data.pseudobulk import level
from pyro_citevae.data.shared_genes import on_panel, shared_panel
from pyro_citevae.errors import DataError
from pyro_citevae.guides import MeanField
from pyro_citevae.infer.counterfactuals import Counterfactuals
from pyro_citevae.models import LinearGaussian, StaticShift

N, SHARED, OTHERS = 120, 12, 4
GENES = tuple(f"gene_{g}" for g in range(SHARED + OTHERS))
KEPT = GENES[:SHARED]
LABELS = ("control", "gene_0", "gene_1", "gene_2")


def trajectories(counts: np.ndarray, labels: list[str], times: list[float], **schema: Any) -> cv.Trajectories:
    """Cells with these counts (cell x gene), labels and times."""
    conditions = tuple(cv.data.Schedule.parse(label) for label in dict.fromkeys(labels))
    position = {one.label(): i for i, one in enumerate(conditions)}
    n, genes = len(counts), GENES[: counts.shape[1]]
    axes = {"genes": genes, "tokens": LABELS[1:], "times": (1.0, 2.0), "design": "time course", **schema}
    return cv.Trajectories(
        schema=cv.Schema(**axes),
        values=sparse.csr_matrix(counts.astype(np.float32)),
        library=np.maximum(counts.sum(1), 1).astype(np.float32),
        row_cell=np.arange(n),
        row_step=np.array(times, dtype=np.int64),
        conditions=conditions,
        condition=np.array([position[label] for label in labels]),
        technical=np.zeros(n, dtype=np.int64),
        names=np.array([f"cell_{i:05d}" for i in range(n)]),
    )


@pytest.fixture(scope="module")
def screen() -> cv.Trajectories:
    """Four genes hold most counts and fall under perturbation; the effects on the others stay over time."""
    rng = np.random.default_rng(0)
    parts, labels, times = [], [], []
    for time in (1.0, 2.0):
        for p, label in enumerate(LABELS):
            mean = np.r_[np.linspace(3, 9, SHARED), [40.0] * OTHERS]
            if p:
                mean[2 * p + 2 : 2 * p + 5] *= 3
                mean[SHARED:] /= 1 + p
            parts.append(rng.poisson(mean, (N, len(mean))))
            labels += [label] * N
            times += [time] * N
    return trajectories(np.vstack(parts), labels, times, total=190.0)


@pytest.fixture(scope="module")
def split(screen: cv.Trajectories) -> tuple[cv.Trajectories, cv.Trajectories]:
    return screen.hold_out(perturbations=["gene_1"], times=[2])


@pytest.fixture(scope="module")
def posterior(split: tuple[cv.Trajectories, cv.Trajectories]) -> cv.Posterior:
    model = StaticShift(split[0].schema, n_programs=2, hidden=4)
    options = {"max_epochs": 2, "validation": 0.0, "progress": False}  # the program's own effects
    return cv.fit(model, MeanField(model, hidden=4), split[0], **options)


def without_the_others(data: cv.Trajectories, share: float) -> cv.Trajectories:
    """The cells of a screen that never had the other genes."""
    schema = replace(data.schema, genes=KEPT, panel_share=share)
    return replace(data, schema=schema, values=data.values[:, :SHARED])


def with_zeros(data: cv.Trajectories) -> cv.Trajectories:
    """The cells of a file that lacks the other genes, as it is padded."""
    counts = data.values.toarray()
    counts[:, SHARED:] = 0
    return replace(data, values=sparse.csr_matrix(counts))


def share_of_controls(train: cv.Trajectories) -> float:
    counts = train.controls().values.toarray().astype(float).sum(0)
    return float(counts[:SHARED].sum() / counts.sum())


def same(one: Measurement, other: Measurement) -> None:
    for name in ("delta", "variance", "keep", "split_half"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


# Profiles


def test_profiles_on_shared_genes_by_hand() -> None:
    data = trajectories(np.array([[1, 3, 4], [3, 1, 0]]), ["control", "gene_2"], [1.0, 1.0], total=8.0)
    panel = shared_panel(data, GENES[:2])
    assert panel.panel_share == 0.5
    shared = on_panel(data, panel)
    np.testing.assert_allclose(level(shared.select("control")), np.log([2, 4]), rtol=1e-15)
    np.testing.assert_allclose(level(shared.select("gene_2")), np.log([4, 2]), rtol=1e-15)
    found = measure(data, "gene_2", 1.0, genes=GENES[:2])
    np.testing.assert_allclose(found.delta, [np.log(2), -np.log(2)], rtol=1e-15)


def test_all_genes_are_the_data_themselves(screen: cv.Trajectories) -> None:
    assert shared_panel(screen, GENES[::-1]) is screen.schema
    assert on_panel(screen, screen.schema) is screen
    same(measure(screen, "gene_1", 2.0, genes=GENES), measure(screen, "gene_1", 2.0))


def test_the_profile_of_the_controls_does_not_move(screen: cv.Trajectories) -> None:
    controls = screen.controls()
    shared = on_panel(controls, shared_panel(screen, KEPT))
    np.testing.assert_allclose(level(shared), level(controls)[:SHARED], rtol=1e-13)


def test_counts_that_stay_in_a_file_are_brought_to_a_panel(screen: cv.Trajectories) -> None:
    backed = replace(screen, values=BackedCounts(screen.values, np.arange(screen.n_observations)))
    panel = shared_panel(backed, KEPT)
    assert panel == shared_panel(screen, KEPT)
    assert isinstance(on_panel(backed, panel).values, BackedCounts)
    same(measure(backed, "gene_1", 2.0, genes=KEPT), measure(screen, "gene_1", 2.0, genes=KEPT))


def test_real_values_are_left_as_they_are() -> None:
    data = simulated(values="real")
    genes = data.schema.genes[2:]
    assert shared_panel(data, genes).panel_total == data.schema.panel_total
    whole, part = measure(data, "gene_1", 3.0), measure(data, "gene_1", 3.0, genes=genes)
    np.testing.assert_array_equal(part.delta, whole.delta[2:])


@pytest.mark.parametrize(
    ("genes", "said"), [(["foreign"], "genes= names none of the 16"), (["gene_9"], "no count of the 1 genes")]
)
def test_genes_that_cannot_be_compared_are_refused(
    screen: cv.Trajectories, genes: list[str], said: str
) -> None:
    silent = screen.values.tolil()
    silent[:, 9] = 0
    with pytest.raises(DataError, match=said):
        measure(replace(screen, values=silent.tocsr()), "gene_1", 2.0, genes=genes)


def test_a_panel_of_other_genes_is_refused(screen: cv.Trajectories) -> None:
    panel = replace(screen.schema, genes=("gene_1", "foreign"))
    with pytest.raises(DataError, match="a panel with the gene 'foreign'"):
        on_panel(screen, panel)


# Measured effects


@pytest.mark.parametrize("time", [1.0, 2.0])
@pytest.mark.parametrize("label", LABELS[1:])
def test_a_measurement_is_that_of_a_screen_that_never_had_the_other_genes(
    screen: cv.Trajectories, label: str, time: float
) -> None:
    never = without_the_others(screen, share_of_controls(screen))
    same(measure(screen, label, time, genes=KEPT), measure(never, label, time))


def test_what_the_truth_lacks_cannot_shift_it_against_controls_in_training(
    split: tuple[cv.Trajectories, cv.Trajectories],
) -> None:
    train, truth = split
    share = share_of_controls(train)
    never = (without_the_others(part, share) for part in (truth, train))
    wanted = measure(next(never), "gene_1", 2.0, next(never))
    same(measure(with_zeros(truth), "gene_1", 2.0, train, KEPT), wanted)
    same(measure(truth, "gene_1", 2.0, train, KEPT), wanted)
    shifted = measure(with_zeros(truth), "gene_1", 2.0, train).delta[:SHARED] - wanted.delta
    assert (shifted > 0.5).all()


# Forecasts


def scores(found: Any) -> dict[tuple[str, str], float]:
    rows = found.scores[found.scores.perturbation == "ALL"]
    return dict(zip(zip(rows.predictor, rows.score, strict=True), rows["value"], strict=True))


@pytest.mark.parametrize("held_out", [{"perturbations": ["gene_1"], "times": [2]}, {"times": [2]}])
def test_scores_of_the_shared_genes_do_not_move_when_the_truth_lacks_others(
    screen: cv.Trajectories, posterior: cv.Posterior, held_out: dict
) -> None:
    train, truth = screen.hold_out(**held_out)
    given = {"dataset": "made", "draws": 20, "genes": KEPT}
    whole, lacking = (forecast(posterior, train, one, **given) for one in (truth, with_zeros(truth)))
    assert whole.scores.equals(lacking.scores)
    assert tuple(lacking.effects.gene.to_numpy()) == KEPT
    assert scores(lacking)["persistence", "pearson_delta_control"] > 0.97
    assert scores(lacking)["persistence", "relative_l2"] < 0.25


def test_the_rules_are_those_of_a_screen_that_never_had_the_other_genes(
    posterior: cv.Posterior, split: tuple[cv.Trajectories, cv.Trajectories]
) -> None:
    train, truth = split
    found = scores(forecast(posterior, train, with_zeros(truth), dataset="made", draws=20, genes=KEPT))
    share = share_of_controls(train)
    known, held = (without_the_others(part, share) for part in split)
    rule = Persistence(known)
    effects = rule.effect(cv.do("gene_1"), time=2.0, draws=20)
    measured = [measure(held, "gene_1", 2.0, known)]
    frame = evaluate({rule.name: effects}, measured, headline=[], protocol="p", dataset="d")
    wanted = frame[(frame.perturbation == "ALL") & (frame.predictor == rule.name)]
    for score, value in zip(wanted.score, wanted["value"], strict=True):
        np.testing.assert_equal(found[rule.name, score], value)


def test_naming_all_genes_changes_nothing(
    posterior: cv.Posterior, split: tuple[cv.Trajectories, cv.Trajectories]
) -> None:
    one, other = (forecast(posterior, *split, dataset="made", draws=5, genes=g) for g in (None, GENES))
    assert one.scores.equals(other.scores)
    np.testing.assert_array_equal(one.effects, other.effects)


def test_the_effect_on_a_panel_is_that_of_its_renormalised_shares(
    posterior: cv.Posterior, split: tuple[cv.Trajectories, cv.Trajectories]
) -> None:
    train, _ = split
    panel = shared_panel(train, KEPT)
    schedules = [cv.do("gene_0"), cv.do("gene_1+gene_2")]
    found = posterior.effect(schedules, time=[1, 2], draws=7, panel=panel)
    levels = Counterfactuals(posterior.members, [*schedules, cv.do()], [1.0, 2.0], 7, 0).pseudobulk(None)
    shares = np.expm1(levels)[..., :SHARED]
    total = train.schema.total * share_of_controls(train)
    b = np.log1p(total * shares / shares.sum(-1, keepdims=True))
    np.testing.assert_allclose(found, np.moveaxis(b[:-1] - b[-1:], 0, 2), atol=1e-12)
    whole = posterior.effect(schedules, time=[1, 2], draws=7)
    assert abs(found.to_numpy() - whole.to_numpy()[..., :SHARED]).max() > 1e-4
    np.testing.assert_array_equal(
        posterior.effect(schedules, time=[1, 2], draws=7, panel=train.schema), whole
    )


def test_the_effect_on_a_panel_of_real_values_is_that_of_its_genes() -> None:
    data = simulated(values="real")
    model = LinearGaussian(data.schema, n_programs=2)
    posterior = cv.fit(model, MeanField(model, hidden=4), data, max_epochs=1, progress=False)
    genes = data.schema.genes[2:]
    part = posterior.effect(cv.do("gene_0"), draws=5, panel=shared_panel(data, genes))
    whole = posterior.effect(cv.do("gene_0"), draws=5)
    np.testing.assert_array_equal(part, whole.sel(gene=list(genes)))


def test_an_effect_against_measured_controls_is_on_the_panel_too(
    posterior: cv.Posterior, split: tuple[cv.Trajectories, cv.Trajectories]
) -> None:
    train, _ = split
    panel = shared_panel(train, KEPT)
    never = without_the_others(train, share_of_controls(train))
    one, other = (
        posterior.effect(cv.do("gene_1"), versus, time=2, draws=5, panel=panel) for versus in (train, never)
    )
    np.testing.assert_array_equal(one, other)
    plain = posterior.effect(cv.do("gene_1"), time=2, draws=5, panel=panel)
    assert abs(one.to_numpy() - plain.to_numpy()).max() > 1e-3


def test_effects_of_other_genes_than_the_measured_are_refused(
    posterior: cv.Posterior, screen: cv.Trajectories
) -> None:
    made = {"model": posterior.effect(cv.do("gene_1"), time=2, draws=2)}
    measured = [measure(screen, "gene_1", 2.0, genes=KEPT)]
    with pytest.raises(DataError, match=r"effects of 16 genes by 'model', and 'gene_1' was measured on 12"):
        evaluate(made, measured, headline=[], protocol="p", dataset="d")


def test_predicted_cells_are_brought_to_the_measured_genes(screen: cv.Trajectories) -> None:
    never = without_the_others(screen, share_of_controls(screen))
    one = measure(never, "gene_1", 2.0)
    groups = never.select("gene_1", 2.0), never.select("control", 2.0)
    made = TechnicalDuplicate(screen).predict(
        [cv.do(), cv.do("gene_1")], cells=screen.controls().thinned(60), draws=2, time=2
    )
    found = cell_rows("duplicate", made, one, *groups).set_index("score")["value"]
    alone = cell_rows("duplicate", made[:, list(KEPT)].copy(), one, *groups).set_index("score")["value"]
    assert found.equals(alone)
    assert abs(found["energy_distance"]) < 0.1  # cells of the same law
    assert found["de_direction"] > 0.9
    with pytest.raises(DataError, match="4 of the 12 measured genes were not predicted, such as 'gene_8'"):
        cell_rows("duplicate", made[:, list(KEPT[:8])], one, *groups)
    with pytest.raises(DataError, match="'gene_1' measured on 12 genes, a group of 16 and controls of 12"):
        cell_rows("duplicate", made, one, screen.select("gene_1", 2.0), groups[1])


# Cells that were in training


def renamed(data: cv.Trajectories, prefix: str = "copy of ") -> cv.Trajectories:
    return replace(data, names=np.array([f"{prefix}{name}" for name in data.names]))


def with_row(data: cv.Trajectories, row: int, other: cv.Trajectories, known: int) -> cv.Trajectories:
    """The cells, with one of another data set in the place of one of them."""
    counts = data.values.toarray()
    counts[row] = other.values[known].toarray()
    return replace(data, values=sparse.csr_matrix(counts))


def drawn(n: int, mean: np.ndarray, seed: int, label: str = "gene_0", time: float = 1.0) -> cv.Trajectories:
    counts = np.random.default_rng(seed).poisson(mean, (n, len(mean)))
    return trajectories(counts, [label] * n, [time] * n, genes=tuple(f"gene_{g}" for g in range(len(mean))))


WIDE = np.linspace(0.2, 3.0, 80)


def test_cells_of_another_lane_may_have_the_same_barcodes() -> None:
    one, other = drawn(200, WIDE, 1), drawn(200, WIDE, 2)
    assert list(one.names) == list(other.names)
    require_unseen(one, other)


def test_a_name_with_the_same_counts_is_a_training_cell() -> None:
    train = drawn(200, WIDE, 1)
    truth = with_row(drawn(200, WIDE, 2), 7, train, 7)
    with pytest.raises(DataError, match="cell 'cell_00007' was in training and cannot be scored"):
        require_unseen(train, truth)


def test_the_same_cell_at_another_time_is_another_observation() -> None:
    require_unseen(drawn(50, WIDE, 1), drawn(50, WIDE, 1, time=2.0))


@pytest.mark.parametrize("prefix", ["", "copy of "])
def test_counts_are_compared_on_the_genes_that_both_have(prefix: str) -> None:
    train = drawn(100, WIDE, 1)
    genes = train.schema.genes[10:][::-1]
    kept = replace(train, schema=replace(train.schema, genes=genes), values=train.values[:, 10:][:, ::-1])
    with pytest.raises(DataError, match="in training"):
        require_unseen(train, renamed(kept, prefix))
    with pytest.raises(DataError, match="in training"):
        require_unseen(kept, renamed(train, prefix))


def test_one_copy_under_another_name_is_found() -> None:
    train = drawn(300, WIDE, 1)
    truth = with_row(drawn(200, WIDE, 2), 7, train, 250)
    with pytest.raises(DataError, match="'copy of cell_00007' has every count of 'cell_00250', which was in"):
        require_unseen(train, renamed(truth))


def test_copies_in_a_file_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_citevae.analysis.scoring.copied_cells._MOST_VALUES", 80 * 7)
    train = drawn(60, WIDE, 1)
    truth = with_row(drawn(40, WIDE, 2), 33, train, 52)
    in_files = [
        replace(one, values=BackedCounts(one.values, np.arange(one.n_cells))) for one in (train, truth)
    ]
    with pytest.raises(DataError, match="'copy of cell_00033' has every count of 'cell_00052'"):
        require_unseen(in_files[0], renamed(in_files[1]))


def test_equal_rows_of_a_small_panel_are_no_copies() -> None:
    train, truth = drawn(3000, np.array([3.0, 5.0, 2.0]), 1), drawn(3000, np.array([3.0, 5.0, 2.0]), 2)
    seen = {tuple(row) for row in train.values.toarray()}
    assert np.mean([tuple(row) in seen for row in truth.values.toarray()]) > 0.9
    require_unseen(train, renamed(truth))


def test_a_count_above_zero_is_another_cells_with_probability_1_over_e_at_most() -> None:
    rate, count = np.geomspace(1e-3, 100, 2001)[:, None], np.arange(1, 200)
    assert 0.999 / np.e < stats.poisson.pmf(count, rate).max() <= 1 / np.e


def test_a_row_of_zeros_tells_nothing() -> None:
    train = drawn(20, 0.0 * WIDE, 1)
    require_unseen(train, train)


def test_real_values_are_told_by_their_names() -> None:
    train, _ = simulated(values="real").hold_out(times=[3])
    require_unseen(train, renamed(train))
    with pytest.raises(DataError, match="was in training"):
        require_unseen(train, train)
