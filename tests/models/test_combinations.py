"""Two perturbations at once: doses at their own times, strata, and what a pair does beside its members."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

import pyro_citevae as cv
from pyro_citevae.analysis.scoring.scores import relative_l2
from pyro_citevae.conformance import check_model
from pyro_citevae.data import members_seen, pseudobulk
from pyro_citevae.errors import DataError
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

TOKENS = [f"gene_{i}" for i in range(6)]
PAIRS = [cv.do(a, b).label() for i, a in enumerate(TOKENS) for b in TOKENS[i + 1 :]]


def course(**options: object) -> cv.Trajectories:
    return cv.simulate(n_cells=60, n_genes=7, n_perturbations=3, n_steps=4, seed=3, **options).data


def fitted(**settings: object) -> cv.Posterior:
    data = course(combinations=("gene_0+gene_1",))
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=4, pairs=2)
    guide = BackwardSmoother(model, hidden=4)
    return cv.fit(model, guide, data, max_epochs=3, batch_size=20, progress=False, **settings)


@pytest.fixture(scope="module")
def posterior() -> cv.Posterior:
    """With a discrepancy, and so with effects that know of cells."""
    return fitted()


@pytest.fixture(scope="module")
def program() -> cv.Posterior:
    """The program alone."""
    return fitted(validation=0.0)


# doses at their own times


@pytest.mark.parametrize("of", ["posterior", "program"])
def test_each_member_acts_from_its_own_time_on(of: str, request: pytest.FixtureRequest) -> None:
    posterior = request.getfixturevalue(of)
    both = cv.do("gene_0", at=0) | cv.do("gene_1", at=2)
    options = {"draws": 6, "time": [1, 2, 3, 4], "seed": 1}
    effect = posterior.effect([both, cv.do("gene_0"), cv.do("gene_0+gene_1")], **options)
    late, first, together = (effect.isel(perturbation=i).to_numpy() for i in range(3))
    np.testing.assert_array_equal(late[:, :, :2], first[:, :, :2])
    assert (late[:, :, 2:] != first[:, :, 2:]).any()
    assert (late[:, :, 0] != together[:, :, 0]).any()


def test_the_order_of_the_members_does_not_matter(posterior: cv.Posterior) -> None:
    there = cv.do("gene_0", at=1) | cv.do("gene_2", at=3)
    back = cv.do("gene_2", at=3) | cv.do("gene_0", at=1)
    np.testing.assert_array_equal(*(posterior.effect(one, draws=5).to_numpy() for one in (there, back)))


@pytest.mark.parametrize("of", ["posterior", "program"])
def test_a_member_after_the_predicted_time_does_nothing(of: str, request: pytest.FixtureRequest) -> None:
    posterior = request.getfixturevalue(of)
    after = cv.do("gene_0") | cv.do("gene_1", at=3)
    one, other = (posterior.effect(each, draws=5, time=3).to_numpy() for each in (after, cv.do("gene_0")))
    np.testing.assert_array_equal(one, other)


def test_cells_are_predicted_under_schedules_at_their_own_times(posterior: cv.Posterior) -> None:
    both = cv.do("gene_0") | cv.do("gene_1", at=2)
    controls = course().controls()
    cells = posterior.predict([cv.do(), both], cells=controls, draws=4, time=[2, 4])
    assert set(cells.obs["perturbation"]) == {"control", "gene_0+gene_1@2"}
    assert cells.n_obs == 2 * 2 * controls.n_cells
    assert np.isfinite(cells.layers["sd"]).all()


def test_three_members_are_one_schedule(posterior: cv.Posterior) -> None:
    three = cv.do("gene_0") | cv.do("gene_1", at=1) | cv.do("gene_2", at=2, dose=0.5)
    assert np.isfinite(posterior.effect(three, draws=4)).all()


# strata


@pytest.mark.parametrize(
    ("training", "seen"),
    [
        (["control"], 0),
        (["control", "C", "A+C"], 0),
        (["control", "A", "B+C"], 1),
        (["A", "B", "A+B"], 2),
        (["A@1", "B*0.5"], 2),
    ],
)
def test_members_are_seen_where_training_has_them_alone(training: list[str], seen: int) -> None:
    schedules = [cv.Schedule.parse(text) for text in training]
    assert members_seen(cv.do("A+B"), schedules) == seen
    assert members_seen(cv.do("B+A@2"), schedules) == seen


def test_the_strata_of_the_activation_screen_are_those_of_its_file() -> None:
    data = cv.datasets.load("norman_subset")
    pairs = [one for one in data.conditions if len(one.tokens) == 2]
    found = [members_seen(one, data.conditions) for one in pairs]
    assert [found.count(stratum) for stratum in (0, 1, 2)] == [7, 3, 5]


@pytest.mark.parametrize("schedule", [cv.do(), cv.do("A")])
def test_a_stratum_is_that_of_a_combination(schedule: cv.Schedule) -> None:
    with pytest.raises(DataError, match="needs a combination of two tokens or more"):
        members_seen(schedule, [cv.do("A")])


# the simulator's interactions


def shifts(simulation: cv.data.Simulation, label: str) -> np.ndarray:
    """Mean of what a schedule adds to every program in one step, by an explicit sum over pairs."""
    truth, u = simulation.truth, simulation.data.schema.doses(cv.Schedule.parse(label), 1)[1]
    total = u @ truth.a
    for p in range(len(u)):
        for q in range(p + 1, len(u)):
            total = total + u[p] * u[q] * (truth.v[p] * truth.v[q]) @ truth.w
    return total


@pytest.mark.parametrize("label", ["gene_0", "gene_0+gene_1", "gene_0*0.5+gene_2", "gene_0+gene_1+gene_2"])
def test_simulated_pairs_shift_programs_as_stated(label: str) -> None:
    simulation = cv.simulate(
        n_cells=8000, n_steps=1, decay=1.0, edge_share=0.0, interaction=1.0, combinations=(label,), seed=2
    )
    chosen = simulation.data.labels == cv.Schedule.parse(label).label()
    mean = simulation.truth.z[1, chosen].mean(0)
    spread = 0.3 / np.sqrt(chosen.sum())
    np.testing.assert_allclose(mean, shifts(simulation, label), atol=4.5 * spread)


def test_without_interactions_a_screen_is_what_it_was() -> None:
    alone, with_pairs = (cv.simulate(n_cells=40, interaction=size, seed=1) for size in (0.0, 1.0))
    assert alone.data.digest == with_pairs.data.digest  # singles only
    assert not alone.truth.w.any()
    combined = [cv.simulate(n_cells=40, interaction=s, combinations=("gene_0+gene_1",)) for s in (0.0, 1.0)]
    assert combined[0].data.digest != combined[1].data.digest


# the pair terms of CiteVAE: low-rank, and each pair by itself


@pytest.fixture(scope="module", params=[{"pairs": 3}, {"epistasis": True}, {"pairs": 3, "epistasis": True}])
def paired(request: pytest.FixtureRequest) -> CiteVAE:
    torch.manual_seed(0)
    return CiteVAE(course().schema, n_programs=4, onset=False, **request.param)


def drift(model: CiteVAE, u: list[float], values: dict[str, torch.Tensor]) -> torch.Tensor:
    dose = torch.tensor([u])
    mechanism = model.regime(model.mechanism_at(values), 1, dose)
    return model.transition(mechanism, [torch.zeros(1, 4)], dose).mean[0]


def drawn(model: CiteVAE) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    trace = cv.program.poutine.trace(model.mechanism).get_trace()
    return {name: site["value"] for name, site in trace.iter_stochastic_nodes()}


@pytest.mark.parametrize("u", [[1.0, 1.0, 0.0], [0.5, 0.0, 2.0], [1.0, 0.7, 0.3]])
def test_the_pair_term_is_the_sum_over_pairs(paired: CiteVAE, u: list[float]) -> None:
    values = drawn(paired)
    zero = torch.zeros(3, 1)
    v, w, q = (
        values.get("v", zero),
        values.get("w", zero[:1].expand(1, 4)),
        values.get("q", zero.expand(3, 4)),
    )
    pairs = sum(
        u[i] * u[j] * (q[pair] + (v[i] * v[j]) @ w) for pair, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)])
    )
    expected = torch.tensor(u) @ values["a"] + pairs
    torch.testing.assert_close(drift(paired, u, values), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("amount", [0.3, 1.0, 2.0])
def test_the_pair_term_is_zero_for_a_single_token(paired: CiteVAE, amount: float) -> None:
    values = drawn(paired)
    alone = torch.tensor([0.0, amount, 0.0]) @ values["a"]
    torch.testing.assert_close(drift(paired, [0.0, amount, 0.0], values), alone, atol=1e-5, rtol=1e-5)


def test_the_pair_term_is_symmetric(paired: CiteVAE) -> None:
    values = drawn(paired)
    swapped = {**values, **{name: values[name][[1, 0, 2]] for name in ("a", "v") if name in values}}
    if "q" in values:
        swapped["q"] = values["q"][[0, 2, 1]]  # of (0, 1), (0, 2), (1, 2)
    there, back = drift(paired, [1.0, 0.4, 0.0], values), drift(paired, [0.4, 1.0, 0.0], swapped)
    torch.testing.assert_close(there, back, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("u", "times"),
    [
        ([1.0, 1.0, 1.0], 1.0),
        ([0.0, 2.0, 0.0], 2.0),
        ([0.5, 0.0, 1.0], 1.0),
        ([0.0, 0.3, 0.0], 0.3),
        ([0.0] * 3, 0.0),
    ],
)
def test_what_all_tokens_share_counts_once_in_a_combination(u: list[float], times: float) -> None:
    model = CiteVAE(course().schema, n_programs=4, onset=False)
    with torch.no_grad():
        model.mu_a.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
    values = drawn(model) | {"a": model.mu_a.detach().expand(3, 4)}
    torch.testing.assert_close(drift(model, u, values), times * model.mu_a.detach())


def test_the_terms_are_off_by_default() -> None:
    assert not {"v", "w", "q"} & set(drawn(CiteVAE(course().schema, n_programs=2)))


def test_an_unseen_pair_is_as_unsure_as_the_seen_ones_vary() -> None:
    """No pair like it was seen, so that its q keeps its prior and its interval is the wider for it."""
    data = course(combinations=("gene_0+gene_1",))
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=4, epistasis=True)
    with torch.no_grad():
        model.s_q.fill_(0.5)
    posterior = cv.fit(
        model,
        BackwardSmoother(model, hidden=4),
        data,
        max_epochs=1,
        batch_size=20,
        learning_rate=1e-6,
        progress=False,
    )
    q = posterior.to_datatree(draws=400)["posterior"]["q"]
    assert q.dims[2:] == ("pair", "program")
    pair = posterior.programs(cv.do("gene_0+gene_2"), draws=400)
    alone = posterior.programs(cv.do("gene_0"), draws=400)
    assert (pair.std("draw").isel(time=-1) > alone.std("draw").isel(time=-1)).all()


def test_a_screen_of_one_token_has_no_pairs() -> None:
    data = cv.simulate(n_cells=30, n_genes=7, n_perturbations=1, n_steps=2).data
    model = CiteVAE(data.schema, n_programs=2, hidden=4, epistasis=True)
    posterior = cv.fit(model, BackwardSmoother(model, hidden=4), data, max_epochs=1, progress=False)
    assert np.isfinite(posterior.effect(cv.do("gene_0"), draws=5)).all()


@pytest.mark.slow
@pytest.mark.parametrize("term", [{"pairs": 2}, {"epistasis": True}])
def test_a_model_with_pairs_obeys_every_law(term: dict[str, object]) -> None:
    check_model(partial(CiteVAE, n_programs=3, **term)).require()


@pytest.mark.slow
def test_an_unseen_pair_of_seen_tokens_is_learnt_from_other_pairs() -> None:
    options = {"n_genes": 20, "n_programs": 3, "n_perturbations": 6, "n_steps": 1, "design": "snapshot"}
    options |= {"values": "real", "combinations": tuple(PAIRS), "interaction": 1.0}
    data = cv.simulate(n_cells=40 * 22, **options).data
    exact = cv.simulate(n_cells=1000 * 22, **options).data
    measured = {label: exact.select(label).values.mean(0) for label in ("control", *TOKENS, *PAIRS)}
    effect = {label: np.asarray(x - measured["control"]).ravel() for label, x in measured.items()}
    held_out = PAIRS[::5]
    train = data.hold_out(combinations=held_out)[0]
    off = {"n_invariant": 0, "direct": False, "group": False, "own_transcript": False, "time": False}
    model = CiteVAE(train.schema, n_programs=4, hidden=0, pairs=2, **off)
    guide = BackwardSmoother(model, hidden=16)
    settings = {"max_epochs": 60, "batch_size": 64, "learning_rate": 0.02, "validation": 0.0}
    posterior = cv.fit(model, guide, train, progress=False, **settings)
    predicted = posterior.effect([cv.Schedule.parse(p) for p in held_out], draws=40).mean(("chain", "draw"))
    errors = [relative_l2(predicted.sel(perturbation=p)[0].values, effect[p]) for p in held_out]
    additive = [relative_l2(sum(effect[token] for token in p.split("+")), effect[p]) for p in held_out]
    assert np.mean(errors) < 0.6 * np.mean(additive), (errors, additive)  # the rule has no noise at all


# effects against measured controls


def test_controls_alone_show_no_error_of_their_own(program: cv.Posterior) -> None:
    schedules, options = [cv.do(), cv.do("gene_0+gene_1")], {"draws": 5, "time": [3, 4]}
    against = program.effect(schedules, versus=course().controls(), **options)
    np.testing.assert_array_equal(against, program.effect(schedules, **options))


def test_the_error_of_the_controls_is_what_all_groups_agree_on(program: cv.Posterior) -> None:
    """By hand: the mean over cells of measured less modelled effect, controls among them with zero."""
    data, options = course(), {"draws": 5, "time": 4}
    schedules = [cv.do("gene_0"), cv.do("gene_0+gene_1")]
    shift = program.effect(schedules, versus=data, **options) - program.effect(schedules, **options)
    controls, total = data.select("control", 4), data.select(time=4).n_observations
    misfit = 0.0
    for label in data.select(time=4).perturbations():
        group = data.select(label, 4)
        modelled = program.effect(cv.Schedule.parse(label), **options).mean(("chain", "draw"))[0, 0]
        misfit = misfit + group.n_observations * (pseudobulk.effect(group, controls) - modelled.to_numpy())
    # float32 sums; the same for every draw and schedule
    np.testing.assert_allclose(shift, np.broadcast_to(misfit / total, shift.shape), atol=1e-5)


def test_measured_controls_are_of_the_time_asked(program: cv.Posterior) -> None:
    with pytest.raises(DataError, match=r"effect\(versus=...\) has no control at time 4; give some of that"):
        program.effect(cv.do("gene_0"), versus=course().controls().select(time=2), time=4)
    with pytest.raises(DataError, match=r"effect\(versus=...\) has other genes or tokens than the model"):
        program.effect(cv.do("gene_0"), versus=cv.simulate(n_genes=9).data)
