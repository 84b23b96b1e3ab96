"""The diagnosis of a fit: each misfit that is planted is named, and a fit without it is left in peace."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from known_programs import Counts, Mean, drawn_from, known, screen
from scipy import sparse
from screens import as_anndata, simulated

import pyro_citevae as cv
from pyro_citevae.analysis import diagnose
from pyro_citevae.errors import DataError
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.infer.diagnosis import Diagnosis, Sign, adequacy_of
from pyro_citevae.infer.held_out import HeldOut
from pyro_citevae.models import StaticShift

LARGE = 1e6  # an inverse dispersion at which the negative binomial is a Poisson


def sign(found: Diagnosis, name: str) -> Sign:
    (one,) = (one for one in found.signs if one.name == name)
    return one


# what a fit says of itself

LONG = {"steps": 3000, "rising": None}
WELL = HeldOut(
    20.0, error=1.2, explained=0.9, coverage_50=0.5, coverage_80=0.8, coverage_95=0.95, directions=3.0
)


@pytest.fixture(scope="module")
def fitted() -> cv.Posterior:
    data = simulated(n_cells=300, n_genes=12)
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    return cv.fit(model, MeanField(model, hidden=4), data, max_epochs=3, progress=False)


@pytest.mark.parametrize(
    ("course", "held_out", "failing"),
    [
        ({}, {}, None),
        ({"steps": 100}, {}, "training"),
        ({"rising": 0.4}, {}, "training"),
        ({}, {"explained": 0.1, "error": 30.0}, "seen effects"),
        ({}, {"explained": 0.1, "error": 1.5}, None),  # there is next to nothing to explain
        ({}, {"coverage_80": 0.6}, "intervals"),
        ({}, {"coverage_80": 0.95}, "intervals"),
        ({}, {"directions": 5.0}, "programs"),
    ],
)
def test_a_fit_names_what_is_wrong_with_itself(
    fitted: cv.Posterior, course: dict[str, Any], held_out: dict[str, float], failing: str | None
) -> None:
    assert fitted.discrepancy is not None
    discrepancy = replace(fitted.discrepancy, held_out=replace(WELL, **held_out))
    found = adequacy_of(LONG | course, discrepancy, 4)
    assert [one.name for one in found.failed] == ([failing] if failing else [])
    assert all(one.remedy in str(one) for one in found.failed)


def test_a_fit_without_held_out_cells_cannot_say() -> None:
    found = adequacy_of(LONG, None, 4)
    assert [one.name for one in found.signs if one.passed is None] == [
        "seen effects",
        "intervals",
        "programs",
    ]
    assert found.verdict == "adequacy: passed, 1 of 4 signs looked at."


def test_the_verdict_is_one_line_with_the_first_remedy_and_the_record_is_json() -> None:
    found = adequacy_of({"steps": 10, "rising": 2.0}, None, 4)
    assert found.verdict.startswith("adequacy: failed by 1 of 1 signs (training). Fit longer")
    assert "\n" not in found.verdict
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["verdict"] == found.verdict
    assert found.table().loc["training", "number"] == 10
    assert found.report().startswith(found.verdict)


# held-out cells

N_GROUPS, N_GENES = 40, 200


def halves(rank: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """True profiles of some rank, and two measurements; the first group is the control."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(size=(N_GROUPS, rank)) @ rng.normal(size=(rank, N_GENES))
    effect[0] = 0.0
    v = np.full_like(effect, 0.04)
    v[0] = 0.0004  # many controls
    return effect, *(effect + np.sqrt(v) * rng.normal(size=v.shape) for _ in range(2)), v


def held_out(m: np.ndarray, a: np.ndarray, b: np.ndarray, v: np.ndarray) -> HeldOut:
    control, both = np.zeros(N_GROUPS, int), np.ones(N_GROUPS, bool)
    return HeldOut.of(m, a, b, v, v, v, control, both)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_perfect_program_misses_by_the_noise_and_explains_all(rank: int) -> None:
    """8,000 squares of a normal have a mean within 3 sqrt(2 / 8,000) = 0.05 of one."""
    truth, a, b, v = halves(rank)
    found = held_out(truth, a, b, v)
    assert found.error == pytest.approx(1, abs=0.05)
    assert found.explained == pytest.approx(1, abs=0.05)
    assert found.coverage_80 == pytest.approx(0.8, abs=0.02)
    assert found.directions == rank


def test_a_program_that_says_nothing_explains_nothing() -> None:
    _, a, b, v = halves(3)
    found = held_out(np.zeros_like(a), a, b, v)
    assert found.explained == pytest.approx(0, abs=0.01)
    assert found.error > 10


def test_an_effect_of_half_its_size_leaves_a_quarter_unexplained() -> None:
    truth, a, b, v = halves(3)
    assert held_out(truth / 2, a, b, v).explained == pytest.approx(0.75, abs=0.02)


def test_without_effects_no_direction_is_counted() -> None:
    assert held_out(*halves(0)).directions == 0


# planted misfits: programs whose truth is known


@pytest.mark.parametrize(
    ("true", "said", "failing"),
    [(1.0, 1.0, False), (1.0, LARGE, True), (LARGE, LARGE, False), (LARGE, 0.3, True)],
)
def test_counts_that_scatter_otherwise_than_the_emission_says(
    true: float, said: float, failing: bool
) -> None:
    design = screen(n_cells=600)
    data = drawn_from(Counts(design.schema, theta=true), design)
    found = sign(diagnose(known(Counts(design.schema, theta=said)), data), "single counts")
    assert found.passed is not failing
    assert ("negative_binomial" in found.remedy) is (found.number < 0.8)


@pytest.fixture(scope="module")
def abducting() -> dict[float, tuple[cv.Posterior, cv.Trajectories]]:
    """A Poisson program on cells of two dispersions, its guide trained."""
    found = {}
    for theta in (0.5, LARGE):
        design = screen(n_cells=400)
        data = drawn_from(Counts(design.schema, theta=theta), design)
        model = Counts(design.schema, theta=LARGE)
        guide = BackwardSmoother(model, hidden=16)
        options: dict[str, Any] = {"max_steps": 400, "batch_size": 100, "progress": False}
        found[theta] = cv.fit(model, guide, data, learn_model=False, **options), data
    return found


@pytest.mark.filterwarnings("ignore:the bound was still rising")
@pytest.mark.parametrize(("theta", "failing"), [(0.5, True), (LARGE, False)])
def test_half_of_a_cells_counts_against_states_by_the_other_half(
    abducting: dict[float, tuple[cv.Posterior, cv.Trajectories]], theta: float, failing: bool
) -> None:
    found = diagnose(*abducting[theta])
    assert sign(found, "emission").passed is not failing
    assert sign(found, "states").passed


def test_states_that_are_the_same_in_every_cell_have_collapsed(
    abducting: dict[float, tuple[cv.Posterior, cv.Trajectories]],
) -> None:
    posterior, data = abducting[LARGE]
    collapsed = copy.deepcopy(posterior)
    with torch.no_grad():
        for name, parameter in collapsed.guide.named_parameters():
            if not name.startswith(("model", "globals")):
                parameter.zero_()
    found = sign(diagnose(collapsed, data), "states")
    assert found.number == 0
    assert found.passed is False


@pytest.mark.parametrize(("true", "said", "failing"), [(1, 1, False), (1, 0, True), (0.2, 2, True)])
def test_genes_that_go_together_otherwise_than_in_the_cells(true: float, said: float, failing: bool) -> None:
    design = screen(n_cells=600)
    truth, fit = (Counts(design.schema, theta=LARGE) for _ in range(2))
    with torch.no_grad():
        truth.C.mul_(true)
        fit.C.mul_(said)
    found = sign(diagnose(known(fit), drawn_from(truth, design)), "gene pairs")
    assert found.passed is not failing
    assert ("n_programs" in found.remedy) is (found.number > 1)


@pytest.mark.filterwarnings("ignore:the bound was still rising")
def test_a_guide_that_was_narrowed() -> None:
    """m ~ N(0, 1), x ~ N(m, 1): a normal guide is the posterior itself, and no other is as good."""
    design = screen(values="real", n_cells=60)
    model = Mean(design.schema)
    data = drawn_from(model, design)
    options: dict[str, Any] = {"max_steps": 800, "learning_rate": 0.02, "kl_start": 1.0, "progress": False}
    posterior = cv.fit(model, MeanField(model, hidden=4), data, learn_model=False, **options)
    assert sign(diagnose(posterior, data), "guide").passed
    posterior.guide.globals.widen(0.3)
    assert sign(diagnose(posterior, data), "guide").passed is False


# columns


def with_column(moved: float) -> Any:
    """Counts of a screen in two lanes by turns, one of which loses some genes' counts."""
    cells = as_anndata(simulated("snapshot", n_cells=800, n_genes=20, library=400.0))
    rng = np.random.default_rng(0)
    lane = np.arange(cells.n_obs) % 2
    kept = np.exp(-np.abs(rng.normal(0, 1, cells.n_vars)) * moved)
    counts = rng.binomial(cells.X.toarray().astype(int), np.where(lane[:, None] == 1, kept, 1.0))
    cells.X = sparse.csr_matrix(counts.astype(np.float32))
    cells.obs["lane"] = np.where(lane == 1, "B", "A")
    cells.obs["depth"] = rng.normal(size=cells.n_obs)
    return cells


@pytest.mark.parametrize(
    ("moved", "batch", "passed"), [(0.0, None, True), (0.7, None, False), (0.7, "lane", None)]
)
def test_a_column_that_moves_genes_and_that_the_model_does_not_know(
    moved: float, batch: str | None, passed: bool | None
) -> None:
    read = {} if batch is None else {"batch": batch}
    data = cv.Trajectories.from_anndata(with_column(moved), perturbation="perturbation", **read)
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    posterior = cv.fit(model, MeanField(model, hidden=4), data, max_epochs=1, progress=False)
    found = sign(diagnose(posterior, data), "columns")
    assert found.passed is passed
    if passed is False:
        assert found.remedy == "Read the screen with batch='lane', so that the model knows of it."


# cells of their own, and members of an ensemble


def test_effects_in_further_cells_are_held_against_the_intervals() -> None:
    design = screen(n_cells=1500)
    model = Counts(design.schema)
    train, test = (drawn_from(model, design, seed) for seed in (0, 1))
    right = sign(diagnose(known(model), train, test), "measured effects")
    assert right.passed
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.a.neg_()
    wrong = sign(diagnose(known(other), train, test), "measured effects")
    assert wrong.passed is False
    assert wrong.number < 0.5 < right.number


def test_further_cells_without_controls_cannot_say() -> None:
    data = drawn_from(Counts(screen(n_cells=20).schema), screen(n_cells=20))
    alone = data.rows(data.row_labels == "gene_0")
    few = data.rows(np.arange(data.n_observations) < 5)
    assert sign(diagnose(known(Counts(data.schema)), few, alone), "measured effects").passed is None


def test_members_that_disagree_beyond_their_intervals(fitted: cv.Posterior) -> None:
    data = simulated(n_cells=300, n_genes=12)
    same = cv.Ensemble([fitted, copy.deepcopy(fitted)])
    assert sign(diagnose(same, data), "seeds").number == pytest.approx(0, abs=1e-6)
    known = fitted.discrepancy
    assert known is not None
    moved = replace(fitted, discrepancy=replace(known, effect=known.effect + 10 * known.sd.mean()))
    assert sign(diagnose(cv.Ensemble([fitted, moved]), data), "seeds").passed is False


def test_the_same_seed_finds_the_same(fitted: cv.Posterior) -> None:
    data = simulated(n_cells=300, n_genes=12)
    pd.testing.assert_frame_equal(diagnose(fitted, data).table(), diagnose(fitted, data).table())


def test_cells_of_another_panel_are_refused(fitted: cv.Posterior) -> None:
    with pytest.raises(DataError):
        diagnose(fitted, simulated(n_cells=60, n_genes=9))
