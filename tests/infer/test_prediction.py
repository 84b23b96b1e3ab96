"""Predictions stream: what they hold at once, and that their summaries are those of the draws."""

from __future__ import annotations

import io
import itertools
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from scipy import stats
from screens import unfitted
from torch.utils._python_dispatch import TorchDispatchMode

import pyro_citevae as cv
from pyro_citevae.data.anndata_io import layer_names
from pyro_citevae.errors import CiteVAEWarning
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer import counterfactuals, progress
from pyro_citevae.infer.counterfactuals import Counterfactuals
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.models import CiteVAE

DRAWS, GENES = 16, 300


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any operation returned in one tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.untyped_storage().nbytes() // one.element_size())
        return made


def untrained(
    n_cells: int = 300, n_genes: int = GENES, seed: int = 0, emission: str | None = None
) -> tuple[cv.Posterior, cv.Trajectories]:
    """A posterior as its guide starts, which predicts at the cost of a fitted one, and control cells."""
    data = cv.simulate(n_cells=n_cells, n_genes=n_genes, n_perturbations=2, n_steps=2, library=60.0).data
    torch.manual_seed(seed)
    model = CiteVAE(data.schema, n_programs=3, n_invariant=2, hidden=4, emission=emission)
    guide = BackwardSmoother(model, hidden=4)
    record = {"data": data.digest, "split": None}
    return cv.Posterior(model.eval(), guide.eval(), pd.DataFrame(), record), data.controls()


@pytest.fixture(scope="module")
def posterior() -> cv.Posterior:
    return untrained()[0]


@pytest.fixture(scope="module")
def controls() -> cv.Trajectories:
    return untrained()[1]


def most_values(posterior: cv.Posterior, cells: int) -> int:
    """Values of so many cells; the draws of all that moves a gene by itself are no more values."""
    most = DRAWS * GENES * cells
    schema = posterior.schema
    assert schema.n_batches + schema.n_tokens * (schema.n_steps + 3) <= cells
    return most


def test_no_tensor_of_draws_by_cells_by_genes_is_made(
    posterior: cv.Posterior, controls: cv.Trajectories
) -> None:
    """With room for twelve cells at once no tensor is larger, however many cells and schedules there are."""
    most = most_values(posterior, 12)
    schedules = [cv.do("gene_0"), cv.do("gene_1"), cv.do("gene_0+gene_1")]
    with LargestTensor() as largest:
        posterior.predict(schedules, cells=controls, draws=DRAWS, time=2, most_values=most)
    assert most // 2 < largest.elements <= most < DRAWS * GENES * controls.n_cells


def test_the_effect_in_a_population_is_made_in_parts(posterior: cv.Posterior) -> None:
    most = most_values(posterior, 12)
    with LargestTensor() as largest:
        posterior.effect(cv.do("gene_0"), draws=DRAWS, most_values=most * 2 // 3)
    assert most // 2 < largest.elements <= most


def test_an_array_of_the_results_size_is_kept_and_no_other(
    posterior: cv.Posterior, controls: cv.Trajectories
) -> None:
    """Four layers in single precision, a sparse draw, and the draws of one chunk with their sorted copy."""
    few = {"most_values": most_values(posterior, 12)}
    posterior.predict(cv.do(), cells=controls.thinned(2), draws=2)  # what the first call imports and compiles
    tracemalloc.start()
    made = posterior.predict(
        [cv.do("gene_0"), cv.do("gene_1")] * 4, cells=controls, draws=DRAWS, time=2, **few
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    layers = sum(made.layers[name].nbytes for name in layer_names(made))
    assert layers == 4 * 4 * made.n_obs * GENES
    dense = 4 * made.n_obs * GENES
    assert layers < peak < layers + 2 * dense


def rolled(controls: cv.Trajectories, n_members: int, emission: str) -> tuple[Counterfactuals, list[Any]]:
    """A roll-out of 30 draws, and each member's law of the values of the cells."""
    members = tuple(untrained(seed=seed, emission=emission)[0].members[0] for seed in range(n_members))
    roll = Counterfactuals(members, [cv.do("gene_0")], [1.0, 2.0], 30, 5)
    laws = []
    for chain, (model, _) in enumerate(members):
        (abduction,) = roll.abductions(chain, controls)
        laws.append(roll.run(model, abduction, roll.schedules[0], mean=True)[0].emission.base_dist)
    return roll, laws


@pytest.mark.parametrize("n_members", [1, 2])
@pytest.mark.parametrize("emission", ["negative_binomial", "poisson"])
def test_summaries_are_those_of_the_mixture_over_all_draws(
    controls: cv.Trajectories, n_members: int, emission: str
) -> None:
    """Mean and spread exactly; quantiles where the mixture has 5 and 95 %, within what 30 draws leave."""
    few = controls.thinned(7)
    roll, laws = rolled(few, n_members, emission)
    made = roll.cells(few)
    mu = torch.cat([law.mean for law in laws]).detach().double()
    variance = torch.cat([law.variance for law in laws]).detach().double()
    sd = (variance.mean(0) + mu.var(0, correction=0)).sqrt()
    np.testing.assert_allclose(made.layers["mean"], mu.mean(0).reshape(14, GENES), rtol=1e-5)
    np.testing.assert_allclose(made.layers["sd"], sd.reshape(14, GENES), rtol=1e-4)
    theta = (mu.square() / (variance - mu).clamp(min=1e-9)).numpy()
    for name, p in (("q05", 0.05), ("q95", 0.95)):
        q = made.layers[name].reshape(2, 7, GENES)
        below, reached = (
            stats.nbinom.cdf(q + shift, theta, theta / (theta + mu.numpy())).mean(0) for shift in (-1, 0)
        )
        assert ((below <= p + 0.02) & (reached >= p - 0.02)).mean() > 0.99
        assert np.array_equal(q, np.round(q))


@pytest.mark.parametrize("n_members", [1, 2])
def test_a_cell_is_drawn_with_its_own_draw(
    controls: cv.Trajectories, n_members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cell i has draw i, members by turns: where counts stand at their mean it is seen exactly."""
    few = controls.thinned(7)
    roll, laws = rolled(few, n_members, "negative_binomial")
    monkeypatch.setattr(cv.counts.NegativeBinomial, "sample", lambda law: law.mean)
    own = [laws[i % n_members].mean[i // n_members, :, i] for i in range(7)]
    assert np.array_equal(roll.cells(few).draw.toarray(), torch.stack(own, dim=1).reshape(14, GENES).numpy())


@pytest.mark.parametrize("n_members", [1, 2])
def test_of_another_law_every_draw_is_summarised(controls: cv.Trajectories, n_members: int) -> None:
    """A zero-inflated law has no such quantiles: its draws are those of the same seed, held together."""
    few = controls.thinned(7)
    roll, laws = rolled(few, n_members, "zero_inflated")
    made = roll.cells(few)
    with seeded(roll.seed + counterfactuals._COUNTS_APART):
        drawn = [law.sample().double() for law in laws]
    x = torch.cat(drawn).detach()
    wanted = {
        "mean": torch.stack([law.mean.mean(0).detach() for law in laws]).mean(0),
        "sd": x.std(0, correction=0),
        "q05": x.quantile(0.05, dim=0),
        "q95": x.quantile(0.95, dim=0),
    }
    own = [drawn[i % n_members][i // n_members, :, i] for i in range(7)]
    assert np.array_equal(made.draw.toarray(), torch.stack(own, dim=1).reshape(14, GENES).numpy())
    for name, value in wanted.items():
        np.testing.assert_allclose(made.layers[name], value.reshape(14, GENES).numpy(), rtol=1e-5, atol=1e-5)


def test_rows_stand_under_their_schedule_time_and_cell_however_they_are_chunked(
    posterior: cv.Posterior, controls: cv.Trajectories
) -> None:
    """A library of its own for each cell is told by the mean, which the draws only blur."""
    few = controls.thinned(23)
    asked = {"cells": few, "draws": DRAWS, "time": [1, 2]}
    whole = posterior.predict([cv.do(), cv.do("gene_0")], **asked)
    parts = posterior.predict([cv.do(), cv.do("gene_0")], **asked, most_values=2 * DRAWS * GENES * 4)
    assert whole.obs.equals(parts.obs)
    np.testing.assert_allclose(whole.layers["mean"].sum(1), np.tile(few.library, 4), rtol=1e-4)
    np.testing.assert_allclose(parts.layers["mean"].sum(1), np.tile(few.library, 4), rtol=1e-4)
    first = np.asarray(parts.obs["source_cell"][:23] == whole.obs["source_cell"][:23])
    assert first.all()


def test_a_population_in_parts_has_the_effect_of_the_whole(posterior: cv.Posterior) -> None:
    whole = posterior.effect(cv.do("gene_0"), draws=DRAWS).mean("draw")
    parts = posterior.effect(cv.do("gene_0"), draws=DRAWS, most_values=DRAWS * GENES * 40).mean("draw")
    assert 0 < float(abs(whole - parts).max()) < 0.1


class TestProgress:
    """A bar for what takes long."""

    @pytest.fixture
    def shown(self, monkeypatch: pytest.MonkeyPatch) -> Console:
        console = Console(record=True, file=io.StringIO(), force_terminal=True)
        monkeypatch.setattr(progress, "get_console", lambda: console)
        return console

    @pytest.fixture
    def slow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A clock by which every step takes three seconds."""
        monkeypatch.setattr(progress, "perf_counter", itertools.count(0.0, 3.0).__next__)

    def test_it_appears_once_it_takes_long(self, shown: Console) -> None:
        with progress.appearing("counting", 2, shown=True, after=0.0) as advance:
            advance()
            advance()
        assert "counting" in shown.export_text()

    def test_quick_work_shows_none(self, shown: Console) -> None:
        with progress.appearing("counting", 1, shown=True) as advance:
            advance()
        assert not shown.export_text()

    def test_one_that_is_not_wanted_does_not(
        self,
        posterior: cv.Posterior,
        controls: cv.Trajectories,
        shown: Console,
        slow: None,
    ) -> None:
        few = controls.thinned(2)
        posterior.predict(cv.do("gene_0"), cells=few, draws=2, progress=False)
        posterior.effect(cv.do("gene_0"), draws=2, progress=False)
        assert not shown.export_text()
        posterior.predict(cv.do("gene_0"), cells=few, draws=2)
        assert "predicting" in shown.export_text()

    def test_a_file_gets_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        console = Console(file=io.StringIO())
        monkeypatch.setattr(progress, "get_console", lambda: console)
        with progress.appearing("counting", 1, shown=True, after=0.0) as advance:
            advance()
        assert console.file.getvalue() == ""

    def test_another_bar_around_it_does_no_harm(self, shown: Console) -> None:
        with Progress(console=shown), progress.appearing("counting", 1, shown=True, after=0.0) as advance:
            advance()


def test_predicted_cells_together_are_draws_of_the_posterior_predictive() -> None:
    """The counts of n cells, each with its own draw, have the mean of all draws within n cells' error."""
    data = cv.simulate(n_cells=400, n_genes=12, n_perturbations=2, design="snapshot", seed=0).data
    model = CiteVAE(data.schema, n_programs=2, hidden=4)
    guide = BackwardSmoother(model, hidden=4)
    for name, parameter in guide.named_parameters():
        if "globals" in name and "scales" in name:
            parameter.data.fill_(0.0)  # a scale of 1 or so: a mechanism that is hardly known
    posterior = cv.Posterior(model.eval(), guide.eval(), pd.DataFrame(), {})
    controls = data.controls()
    predicted = posterior.predict(cv.do("gene_0"), cells=controls, draws=40, seed=1)
    drawn, mean, sd = predicted.X.toarray(), predicted.layers["mean"], predicted.layers["sd"]
    error = (drawn - mean).mean(0) / (np.sqrt((sd**2).sum(0)) / len(drawn))
    # one mechanism moves all cells together: were it that of one draw, the error would be many times one
    assert np.abs(error).max() < 5
    assert np.sqrt((error**2).mean()) < 2


def test_a_time_beyond_a_snapshot_is_told() -> None:
    data = cv.simulate(n_cells=40, n_genes=6, n_perturbations=2, n_steps=3, design="snapshot").data
    posterior = unfitted(cv.models.StaticShift(data.schema, n_programs=2, hidden=4))
    with pytest.warns(CiteVAEWarning, match="say nothing of time 5"):
        posterior.effect("gene_0", time=5, draws=5, progress=False)
