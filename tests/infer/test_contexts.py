"""Contexts in a fit: terms of the program, predictions by name or cells, new ones from their controls."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import poutine

import pyro_citevae as cv
from pyro_citevae.errors import CiteVAEWarning, DataError, ModelError
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer.across_contexts import AcrossContexts
from pyro_citevae.models import CiteVAE, StaticShift, Switching

NAMES = ("context_0", "context_1", "context_2", "context_3")


@pytest.fixture(scope="module")
def simulated() -> cv.Simulation:
    return cv.simulate(
        n_cells=640,
        n_genes=12,
        n_perturbations=3,
        n_contexts=4,
        n_steps=2,
        design="snapshot",
        context_baseline=0.5,
        context_mechanism=0.5,
    )


@pytest.fixture(scope="module")
def train(simulated: cv.Simulation) -> cv.Trajectories:
    return simulated.data.hold_out(contexts="context_3")[0]


def fitted(data: cv.Trajectories, **settings: object) -> cv.Posterior:
    model = CiteVAE(data.schema, n_programs=3, n_invariant=1, hidden=8)
    options = {"max_steps": 200, "validation": 0.25, "progress": False, **settings}
    return cv.fit(model, BackwardSmoother(model, hidden=8), data, **options)


@pytest.fixture(scope="module")
def posterior(train: cv.Trajectories) -> cv.Posterior:
    return fitted(train)


def small(schema: cv.data.Schema, **options: object) -> CiteVAE:
    return CiteVAE(schema, n_programs=3, n_invariant=1, hidden=8, **options)


@pytest.mark.parametrize("part", ["start", "baseline", "mechanism"])
def test_each_part_is_a_switch(part: str, simulated: cv.Simulation) -> None:
    schema = simulated.data.schema
    names = {"start": "mu_z", "baseline": "context_effect", "mechanism": "s_g_unconstrained"}
    alone = {name for name, _ in small(schema, contexts=(part,)).named_parameters()}
    without = {name for name, _ in small(schema, contexts=()).named_parameters()}
    assert alone - without == {names[part]}


def test_a_part_that_is_none_is_refused(simulated: cv.Simulation) -> None:
    with pytest.raises(ModelError, match="names 'donor'"):
        small(simulated.data.schema, contexts=("donor",))


def test_a_model_of_one_context_is_what_it_was() -> None:
    data = cv.simulate(n_cells=40).data
    names = {name for name, _ in small(data.schema).named_parameters()}
    assert not names & {"mu_z", "context_effect", "s_g_unconstrained"}
    assert "batches_of" not in small(data.schema).state_dict()


def test_gradients_reach_every_parameter_of_contexts(simulated: cv.Simulation) -> None:
    data = simulated.data
    model = small(data.schema)
    model.note(data)
    guide = BackwardSmoother(model, hidden=8)
    pyro.set_rng_seed(0)
    loss = pyro.infer.Trace_ELBO().differentiable_loss(model, guide, data.batch(np.arange(0, 640, 8)))
    loss.backward()
    for name in ("mu_z", "context_effect", "s_g_unconstrained"):
        gradient = dict(model.named_parameters())[name].grad
        assert gradient is not None and bool((gradient != 0).any()), name


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (CiteVAE, False),
        (partial(CiteVAE, contexts=("baseline",)), False),
        (partial(CiteVAE, contexts=()), True),
        (Switching, False),
        (StaticShift, True),
    ],
)
def test_a_model_that_looks_at_no_context_is_told(
    make: Callable[[cv.Schema], cv.LatentDynamics], told: bool, simulated: cv.Simulation
) -> None:
    data = simulated.data.thinned(40)
    model = make(data.schema)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", CiteVAEWarning)
        cv.fit(model, BackwardSmoother(model, hidden=4), data, max_epochs=1, progress=False)
    assert told == any("looks at no context" in str(one.message) for one in seen)


def test_nothing_is_told_of_contexts_where_there_are_none() -> None:
    data = cv.simulate(n_cells=40, n_genes=8, n_perturbations=2).data
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "StaticShift looks at no context")
        cv.fit(model, BackwardSmoother(model, hidden=4), data, max_epochs=1, progress=False)


def test_the_laws_are_those_of_the_equations(simulated: cv.Simulation) -> None:
    """``z_0 ~ N(mu_z[c], I)`` and ``a_c = a + L g``, by hand."""
    data = simulated.data
    model = small(data.schema, pairs=0, onset=False, time=False)
    model.note(data)
    with torch.no_grad():
        model.mu_z.normal_()
    g, a = torch.randn(4, 3, 3), torch.randn(3, 3)
    batch = data.batch(np.flatnonzero(data.condition > 0)[:40])
    with poutine.condition(data={"g": g, "a": a}), torch.no_grad():
        trace = poutine.trace(model).get_trace(batch)
    assert batch.context is not None
    start = trace.nodes["z_0"]["fn"].base_dist.loc
    torch.testing.assert_close(start.expand(40, 3), model.mu_z[batch.context].detach())
    R = torch.exp(-model.context_distance / (2 * model.context_unit)) + 1e-4 * torch.eye(4)
    deviation = torch.einsum("cd,dpk->cpk", torch.linalg.cholesky(R), g)
    acting = batch.u[1].dense.argmax(-1)
    mean = trace.nodes["z_1"]["fn"].base_dist.loc
    torch.testing.assert_close(mean, a[acting] + deviation[batch.context, acting], rtol=1e-4, atol=1e-4)


def test_effects_have_the_contexts_that_are_asked_for(posterior: cv.Posterior) -> None:
    every = posterior.effect("gene_0", draws=20, progress=False)
    assert every.dims == ("chain", "draw", "context", "perturbation", "time", "gene")
    assert every.context.to_numpy().tolist() == list(NAMES)
    one = posterior.effect("gene_0", draws=20, progress=False, context="context_2")
    np.testing.assert_allclose(one.to_numpy()[:, :, 0], every.to_numpy()[:, :, 2])
    table = every.table()
    assert len(table) == 4 * 12
    assert table["context"].unique().tolist() == list(NAMES)
    with pytest.raises(DataError, match="shows one"):
        every.plot_volcano()
    assert every.sel(context="context_1").plot_volcano().axes


def test_programs_and_cells_have_contexts(posterior: cv.Posterior, train: cv.Trajectories) -> None:
    z = posterior.programs("gene_0", draws=5)
    assert z.sizes["context"] == 4
    controls = train.controls().thinned(40)
    cells = posterior.predict("gene_0", cells=controls, draws=5, progress=False)
    of = dict(zip(controls.names, np.array(NAMES)[controls.context], strict=True))
    assert [of[name] for name in cells.obs["source_cell"]] == cells.obs["context"].tolist()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: p.effect("gene_0", context="context_9"), "'context_9' is not in the data"),
        (lambda p: p.rank(["gene_0"]), "one context at a time"),
        (lambda p: p.interactions("gene_0+gene_1"), "one context at a time"),
        (lambda p: p.adapt(p_controls()), "no new context"),
    ],
)
def test_unclear_questions_are_refused(call: object, said: str, posterior: cv.Posterior) -> None:
    with pytest.raises(DataError, match=said):
        call(posterior)  # type: ignore[operator]


def p_controls() -> cv.Trajectories:
    options = {"n_cells": 640, "n_genes": 12, "n_perturbations": 3, "n_contexts": 4, "n_steps": 2}
    return cv.simulate(
        design="snapshot", context_baseline=0.5, context_mechanism=0.5, **options
    ).data.controls()


def test_a_context_is_refused_where_there_are_none() -> None:
    posterior = fitted(cv.simulate(n_cells=40, n_genes=8, n_perturbations=2).data, max_steps=4, validation=0)
    with pytest.raises(DataError, match="fitted without any"):
        posterior.effect("gene_0", context="T cells")


def test_contexts_survive_saving(tmp_path: Path, posterior: cv.Posterior) -> None:
    posterior.save(tmp_path / "run")
    again = cv.load(tmp_path / "run")
    options = {"draws": 10, "progress": False}
    one, other = (each.effect("gene_1", **options).to_numpy() for each in (posterior, again))
    np.testing.assert_array_equal(one, other)


def test_nothing_of_a_held_out_context_leaks(simulated: cv.Simulation, train: cv.Trajectories) -> None:
    """Another truth for the held-out cells changes nothing of the forecast."""
    data = simulated.data
    away = (data.context == 3) & (data.labels != "control")
    changed = data.values.copy()
    changed[np.flatnonzero(away[data.row_cell])] = 7
    other = cv.Trajectories(**{**vars_of(data), "values": changed.tocsr()}).hold_out(contexts="context_3")[0]
    assert other.digest == train.digest


def vars_of(data: cv.Trajectories) -> dict[str, object]:
    names = ("schema", "library", "row_cell", "row_step", "conditions", "condition", "technical", "names")
    return {name: getattr(data, name) for name in (*names, "context")}


@pytest.fixture(scope="module")
def without(simulated: cv.Simulation) -> tuple[cv.Trajectories, cv.Trajectories]:
    """Training cells of three contexts, and the controls of a fourth, of a schema with it."""
    from dataclasses import replace

    data = simulated.data
    three = data.cells(np.flatnonzero(data.context < 3))
    schema = replace(data.schema, contexts=NAMES[:3])
    controls = data.select("control", context="context_3")
    return replace(three, schema=schema), controls


@pytest.mark.slow
def test_a_new_context_is_known_from_its_controls(
    without: tuple[cv.Trajectories, cv.Trajectories], tmp_path: Path
) -> None:
    data, controls = without
    posterior = fitted(data)
    before = {name: value.clone() for name, value in posterior.model.state_dict().items()}
    adapted = posterior.adapt(controls, progress=False)
    assert adapted.schema.contexts == NAMES
    assert posterior.schema.contexts == NAMES[:3]
    after = adapted.model.state_dict()
    for name, value in before.items():  # what is not the new context's own stays
        same = after[name][tuple(slice(size) for size in value.shape)]
        torch.testing.assert_close(same, value, msg=name)
    known = adapted.effect("gene_0", draws=30, progress=False, context="context_0").to_numpy()
    was = posterior.effect("gene_0", draws=30, progress=False, context="context_0").to_numpy()
    np.testing.assert_allclose(known.mean(1), was.mean(1), atol=0.15)
    with pytest.warns(CiteVAEWarning, match="context_3"):
        asked = posterior.effect("gene_0", cells=controls, draws=30, progress=False)
    assert asked.context.to_numpy().tolist() == ["context_3"]
    adapted.save(tmp_path / "run")
    again = cv.load(tmp_path / "run")
    assert again.schema.contexts == NAMES


@pytest.mark.slow
def test_adapting_fits_the_controls(without: tuple[cv.Trajectories, cv.Trajectories]) -> None:
    """The program's profile of the new controls comes nearer to theirs than any known context's is."""
    from pyro_citevae.data.groups import Groups
    from pyro_citevae.data.pseudobulk import level
    from pyro_citevae.infer.program_levels import program_levels

    data, controls = without
    adapted = fitted(data).adapt(controls, progress=False)
    program = program_levels(adapted.members, controls, Groups.of(controls), 20, 0)[0][0]
    missed = np.abs(program - level(controls)).mean()
    others = [
        np.abs(level(data.select("control", context=name)) - level(controls)).mean() for name in NAMES[:3]
    ]
    assert missed < 0.7 * min(others)


@pytest.mark.parametrize("reach", [0.05, np.inf])
def test_effects_are_believed_by_likeness(reach: float) -> None:
    """Effects that go with the controls are forecast from the like contexts, others from all."""
    rng = np.random.default_rng(0)
    place = np.array([0.0, 0.02, 1.0, 1.02, 0.01])
    distance = np.abs(place[:, None] - place)
    distance /= distance[:4, :4].sum() / 12
    likeness = np.ones((5, 5)) if np.isinf(reach) else np.exp(-np.abs(place[:, None] - place) / reach)
    truth = np.linalg.cholesky(likeness + 1e-6 * np.eye(5)) @ rng.normal(size=(5, 1500))
    y = truth[:4] + 0.2 * rng.normal(size=(4, 1500))
    known = AcrossContexts.learnt(
        ("A",) * 4, np.ones(4), np.arange(4), y, np.full_like(y, 0.04), distance, np.zeros_like(y)
    )
    found = known.forecast("A", 1.0, 4, np.zeros(1500))
    assert found is not None
    mean, variance = found
    near, everywhere = y[:2].mean(0), y.mean(0)
    error = ((mean - truth[4]) ** 2).mean()
    assert error < ((everywhere - truth[4]) ** 2).mean() + 1e-3
    assert error < ((near - truth[4]) ** 2).mean() + 1e-3
    covered = (np.abs(mean - truth[4]) < 1.2816 * np.sqrt(variance)).mean()
    assert abs(covered - 0.8) < 0.06  # a standard error of 0.01


def test_what_is_noise_is_not_believed() -> None:
    rng = np.random.default_rng(1)
    y = 0.3 * rng.normal(size=(3, 800))
    known = AcrossContexts.learnt(
        ("A",) * 3, np.ones(3), np.arange(3), y, np.full_like(y, 0.09), 1 - np.eye(4), np.zeros_like(y)
    )
    found = known.forecast("A", 1.0, 3, np.zeros(800))
    assert found is not None
    assert np.abs(found[0]).mean() < 0.1 * np.abs(y.mean(0)).mean()


def test_shares_of_a_forecast_sum_to_one_and_none_is_negative() -> None:
    """One gene takes a third of all counts: all others lose alike, in a context that has other genes."""
    rng = np.random.default_rng(2)
    total, counts = 1000.0, rng.gamma(2.0, 4.0, (4, 100))
    counts[:, 0] = 0.5
    counts *= total / counts.sum(1, keepdims=True)
    after = counts.copy()
    after[:, 0] += 500.0
    after *= total / after.sum(1, keepdims=True)
    b = np.log1p(counts)
    effect = np.log1p(after) - b
    v = np.full_like(effect, 1e-4)
    known = AcrossContexts.learnt(
        ("A",) * 3, np.ones(3), np.arange(3), effect[:3], v[:3], 1 - np.eye(4), b[:3], total
    )
    found = known.forecast("A", 1.0, 3, b[3])
    assert found is not None
    forecast = np.expm1(b[3] + found[0])
    assert (forecast >= -1e-9).all()
    np.testing.assert_allclose(forecast.sum(), total, rtol=1e-6)
    np.testing.assert_allclose(found[0], effect[3], atol=0.05)
    mean_of_others = effect[:3].mean(0)
    assert np.abs(found[0] - effect[3]).max() < np.abs(mean_of_others - effect[3]).max()


def test_a_perturbation_of_no_other_context_has_no_forecast() -> None:
    y = np.ones((1, 5))
    known = AcrossContexts.learnt(("A",), np.ones(1), np.zeros(1, int), y, y, 1 - np.eye(2), y)
    assert known.forecast("A", 1.0, 0, np.zeros(5)) is None
    assert known.forecast("B", 1.0, 1, np.zeros(5)) is None


def test_shared_and_own_shifts_are_told_apart() -> None:
    """By hand: the first perturbation shifts alike everywhere, the second nowhere alike."""
    import xarray as xr

    from pyro_citevae.infer.context_shifts import ContextShifts

    a = np.zeros((1, 5, 2, 2, 2))  # chain, draw, context, token, program
    a[:, :, :, 0] = [3.0, 4.0]
    a[:, :, 0, 1], a[:, :, 1, 1] = [1.0, 0.0], [-1.0, 0.0]
    dims = ("chain", "draw", "context", "token", "program")
    found = ContextShifts.of(xr.DataArray(a, dims=dims, coords={"token": ["A", "B"], "context": ["T", "B"]}))
    table = found.table.set_index("perturbation")
    assert table.loc["A", ["shared", "apart", "share"]].tolist() == [5.0, 0.0, 0.0]
    assert table.loc["B", ["shared", "apart", "share"]].tolist() == [0.0, 1.0, 1.0]


def test_the_export_has_shifts_by_context(posterior: cv.Posterior) -> None:
    tree = posterior.to_datatree(draws=20)
    found = posterior.context_shifts(draws=20)
    assert tree["posterior"]["a_context"].dims == found.shifts.dims
    assert tree["posterior"].context.to_numpy().tolist() == list(NAMES)
    spread = found.shifts.std("draw").mean(("chain", "token", "program"))
    held_out = float(spread.sel(context="context_3"))
    assert held_out > float(spread.drop_sel(context="context_3").mean())
    alone = found.shifts.sel(context=list(NAMES[:3]))  # the fourth has controls alone
    pd.testing.assert_frame_equal(found.table, type(found).of(alone).table)


def test_models_without_deviations_say_so() -> None:
    data = cv.simulate(n_cells=40, n_genes=8, n_perturbations=2).data
    with pytest.raises(ModelError, match="needs deviations of contexts"):
        fitted(data, max_steps=4, validation=0).context_shifts()


@pytest.fixture(scope="module")
def course() -> cv.Trajectories:
    """Three contexts over two times, with a pair and a gene that only two of them have."""
    simulated = cv.simulate(
        n_cells=900, n_genes=10, n_perturbations=3, n_contexts=3, n_steps=2, combinations=("gene_0+gene_1",)
    )
    return simulated.data


@pytest.fixture(scope="module")
def of_course(course: cv.Trajectories) -> cv.Posterior:
    split = cv.data.Split.parse(["context=context_2", "perturbation=gene_2"])
    return fitted(course.divide(split)[0])


@pytest.mark.filterwarnings("ignore:do.'gene_2'.")
@pytest.mark.parametrize(
    ("label", "time"),
    [("gene_0", 1.0), ("gene_0", 2.0), ("gene_0+gene_1", 2.0), ("gene_1", 3.0), ("gene_2", 2.0)],
)
def test_contexts_go_with_times_pairs_and_unseen_genes(
    label: str, time: float, of_course: cv.Posterior
) -> None:
    effect = of_course.effect(label, time=time, draws=60, progress=False)
    values = effect.to_numpy()
    assert np.isfinite(values).all()
    spread = effect.std("draw").mean(("chain", "gene", "perturbation", "time"))
    assert float(spread.sel(context="context_2")) > 0.0
    if label == "gene_0" and time < 3:  # measured in the others, and forecast there
        assert float(spread.sel(context="context_2")) > float(spread.drop_sel(context="context_2").max())


def test_a_pair_without_cells_adds_up_in_a_new_context(of_course: cv.Posterior) -> None:
    """Its members are forecast there, and so is it."""
    effect = of_course.effect(
        ["gene_0", "gene_1", "gene_0+gene_1"], draws=60, progress=False, context=NAMES[2]
    )
    mean = effect.mean(("chain", "draw")).isel(context=0, time=0).to_numpy()
    assert np.corrcoef(mean[0] + mean[1], mean[2])[0, 1] > 0.5


def test_a_guide_that_cannot_grow_says_so(without: tuple[cv.Trajectories, cv.Trajectories]) -> None:
    data, controls = without
    model = small(data.schema)
    guide = BackwardSmoother(model, hidden=8, mechanism="low_rank")
    posterior = cv.fit(model, guide, data, max_steps=4, validation=0, progress=False)
    with pytest.raises(ModelError, match="use a guide whose mechanism is 'normal'"):
        posterior.adapt(controls, progress=False)
