"""Each law is broken on purpose, and caught by its name; every shipped pair obeys them all."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from screens import simulated
from torch import nn
from typer.testing import CliRunner

import pyro_citevae as cv
from pyro_citevae import registry
from pyro_citevae.cli import app, main
from pyro_citevae.conformance import LAWS, Report
from pyro_citevae.data import Batch
from pyro_citevae.errors import ConformanceError, FitError, ModelError
from pyro_citevae.guides import MeanField
from pyro_citevae.models import LinearGaussian
from pyro_citevae.program import Rollout


class Correct(cv.LatentDynamics):
    """Poisson counts around shifted states: a small model that obeys every law."""

    def __init__(self, schema: cv.Schema, *, n_programs: int = 2) -> None:
        super().__init__(schema, n_programs=n_programs)
        self.loading = nn.Linear(n_programs, schema.n_genes)

    def mechanism(self) -> cv.Mechanism:
        shape = (self.schema.n_tokens, self.n_programs)
        return cv.Mechanism(a=pyro.sample("a", dist.Normal(0.0, 1.0).expand(shape).to_event(2)))

    def initial(self, mechanism: cv.Mechanism) -> Any:
        return dist.Normal(torch.zeros(self.n_programs), 1.0).to_event(1)

    def transition(self, mechanism: cv.Mechanism, history: Any, u: torch.Tensor) -> Any:
        return dist.Normal(0.8 * history[-1] + u @ mechanism.a, 0.5).to_event(1)

    def emission(self, mechanism: cv.Mechanism, z: Any, s: Any, library: torch.Tensor) -> Any:
        return dist.Poisson(library[..., None] * torch.softmax(self.loading(z), -1)).to_event(1)


class Stashing(Correct):
    """Keeps the batch, past the hooks."""

    batch: Batch

    def forward(self, batch: Batch) -> Rollout:
        self.batch = batch
        return super().forward(batch)


def small(model: cv.LatentDynamics) -> MeanField:
    return MeanField(model, hidden=4)


def broken(report: Report) -> list[str]:
    return [row.law for row in report.rows if row.passed is False and not row.advice]


def named(value: object) -> str | None:
    """A name for a row of a table by its class."""
    return getattr(value, "__name__", "")


def screen(values: str = "counts") -> cv.Trajectories:
    return simulated(values=values, n_cells=30, n_genes=6, n_programs=3, seed=0)


# Models that break a law


class NeedsAWidth(Correct):
    def __init__(self, schema: cv.Schema, *, width: int) -> None:
        super().__init__(schema)


class WithoutEmission(cv.LatentDynamics):
    mechanism = Correct.mechanism
    initial = Correct.initial
    transition = Correct.transition


class ForgetsToEvent(Correct):
    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        return dist.Normal(0.8 * history[-1] + u @ mechanism.a, 0.5)


class ThreeStates(Correct):
    def initial(self, mechanism: Any) -> Any:
        return dist.Normal(torch.zeros(3), 1.0).to_event(1)


class ThreeStatesLater(Correct):
    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        return dist.Normal(
            history[-1].mean(-1, keepdim=True).expand(*history[-1].shape[:-1], 3), 1.0
        ).to_event(1)


class AGeneTooMany(Correct):
    def emission(self, mechanism: Any, z: Any, s: Any, library: Any) -> Any:
        rate = torch.softmax(self.loading(z), -1)
        return dist.Poisson(torch.cat([rate, rate[..., :1]], -1) * library[..., None]).to_event(1)


class DropsACell(Correct):
    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        return dist.Normal(history[-1][..., 1:, :] + u[1:] @ mechanism.a, 0.5).to_event(1)


class ALawForEachLag(Correct):
    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        return dist.Normal(torch.stack([history[-1], history[-1]]) + u @ mechanism.a, 0.5).to_event(1)


class TurnsSlotsAndCells(Correct):
    def emission(self, mechanism: Any, z: Any, s: Any, library: Any) -> Any:
        rate = library[..., None] * torch.softmax(self.loading(z), -1)
        return dist.Poisson(rate.transpose(-3, -2)).to_event(1)


class MechanismIsADict(Correct):
    def mechanism(self) -> Any:
        return vars(super().mechanism())


class ForgetsToReturn(Correct):
    def observation(self, mechanism: Any, *given: Any) -> Any:
        mechanism.updated(offset=0.0)


class ReturnsATensor(Correct):
    def initial(self, mechanism: Any) -> Any:
        return torch.zeros(self.n_programs)


class TorchLaw(Correct):
    def initial(self, mechanism: Any) -> Any:
        return torch.distributions.Normal(torch.zeros(self.n_programs), 1.0)


class ContextsFromTheLeft(Correct):
    """Right for one draw: under a plate of draws the first axis is theirs."""

    def mechanism(self) -> cv.Mechanism:
        shape = (self.schema.n_contexts, self.n_programs)
        start = pyro.sample("start", dist.Normal(0.0, 1.0).expand(shape).to_event(2))
        return super().mechanism().updated(start=start)

    def initial(self, mechanism: Any) -> Any:
        if mechanism.context is None:
            return super().initial(mechanism)
        return dist.Normal(mechanism.start[mechanism.context], 1.0).to_event(1)


class ForgetsToEventASite(Correct):
    def mechanism(self) -> cv.Mechanism:
        shape = (self.schema.n_tokens, self.n_programs)
        return cv.Mechanism(a=pyro.sample("a", dist.Normal(0.0, 1.0).expand(shape)))


class ScaleBelowZero(Correct):
    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        return dist.Normal(history[-1] + u @ mechanism.a, torch.tensor(-1.0)).to_event(1)


class SamplesInItsTransition(Correct):
    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        pyro.sample("jump", dist.Normal(0.0, 1.0))
        return super().transition(mechanism, history, u)


class CallsAParameterAsASite(Correct):
    def __init__(self, schema: cv.Schema) -> None:
        super().__init__(schema)
        self.a = nn.Parameter(torch.zeros(2))

    def initial(self, mechanism: Any) -> Any:
        return dist.Normal(self.a, 1.0).to_event(1)


class SkipsItsParent(Correct):
    def __init__(self, schema: cv.Schema) -> None:
        self.loading = nn.Linear(2, schema.n_genes)


class MultipliesAskew(Correct):
    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        return dist.Normal(history[-1] + u @ mechanism.a.mT, 0.5).to_event(1)


class MissesASymbol(Correct):
    def emission(self, mechanism: Any, z: Any, s: Any, library: Any) -> Any:
        return dist.Poisson(mechanism.rate).to_event(1)


class DrawsInARegime(Correct):
    def regime(self, mechanism: Any, t: int, u: Any) -> Any:
        return mechanism.updated(speed=pyro.sample(f"speed_{t}", dist.LogNormal(0.0, 1.0)))


class MarksToEnumerate(Correct):
    def regime(self, mechanism: Any, t: int, u: Any) -> Any:
        law = dist.Bernoulli(0.5)
        return mechanism.updated(k=pyro.sample(f"k_{t}", law, infer={"enumerate": "parallel"}))


class SeesCounts(Stashing):
    def emission(self, mechanism: Any, z: Any, s: Any, library: Any) -> Any:
        seen = 0.0 if self.batch.x is None else self.batch.x.dense.mean(-1, keepdim=True)
        return dist.Poisson(library[..., None] * torch.softmax(self.loading(z), -1) + seen).to_event(1)


class StartsPerturbed(Stashing):
    def initial(self, mechanism: Any) -> Any:
        return dist.Normal(self.batch.u[1] @ mechanism.a, 1.0).to_event(1)


class SeesTheFuture(Stashing):
    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        return dist.Normal(0.8 * history[-1] + self.batch.u[-1] @ mechanism.a, 0.5).to_event(1)


class SeesALaterExposure(Stashing):
    def observation(self, mechanism: Any, *given: Any) -> Any:
        return mechanism.updated(late=self.batch.u.sum(0)[None])

    def emission(self, mechanism: Any, z: Any, s: Any, library: Any) -> Any:
        return dist.Poisson(
            library[..., None] * torch.softmax(self.loading(z + mechanism.late @ mechanism.a), -1)
        ).to_event(1)


class DrawsOnlyInPrediction(Correct):
    def forward(self, batch: Batch) -> Rollout:
        if batch.x is None:
            pyro.sample("extra", dist.Normal(0.0, 1.0))
        return super().forward(batch)


class RateOfEachStep(Correct):
    def __init__(self, schema: cv.Schema) -> None:
        super().__init__(schema)
        self.rate = nn.Parameter(torch.zeros(schema.n_steps + 1))

    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        return dist.Normal(0.8 * history[-1] + mechanism.rate * (u @ mechanism.a), 0.5).to_event(1)

    def regime(self, mechanism: Any, t: int, u: Any) -> Any:
        return mechanism.updated(rate=self.rate[t].exp())


class AveragesOverDraws(Correct):
    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        return dist.Normal(0.8 * history[-1] + u.sum(-1, keepdim=True) * mechanism.a.mean(), 0.5).to_event(1)


class CountsPlaces(Correct):
    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        place = 0.1 * torch.arange(u.shape[0])[:, None]
        return dist.Normal(0.8 * history[-1] + u @ mechanism.a + place, 0.5).to_event(1)


class CentresCells(Correct):
    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        centred = history[-1] - history[-1].mean(-2, keepdim=True)
        return dist.Normal(0.8 * centred + u @ mechanism.a, 0.5).to_event(1)


class Unused(Correct):
    def __init__(self, schema: cv.Schema) -> None:
        super().__init__(schema)
        self.spare = nn.Parameter(torch.zeros(3))


class RootOfZero(Correct):
    def __init__(self, schema: cv.Schema) -> None:
        super().__init__(schema)
        self.width = nn.Parameter(torch.zeros(()))

    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        return dist.Normal(0.8 * history[-1] + u @ mechanism.a, 0.5 + (0 * self.width).sqrt()).to_event(1)


class Remembers(Stashing):
    runs = 0

    def emission(self, mechanism: Any, z: Any, s: Any, library: Any) -> Any:
        self.runs += self.batch.x is None
        drift = 1.1**self.runs if self.batch.x is None else 1.0
        return dist.Poisson(drift * library[..., None] * torch.softmax(self.loading(z), -1)).to_event(1)


class DrawsByItself(Correct):
    def forward(self, batch: Batch) -> Rollout:
        torch.randn(int(batch.u.sum()))
        return super().forward(batch)


class HoldsAFile(Correct):
    def __init__(self, schema: cv.Schema) -> None:
        super().__init__(schema)
        self.log = Path(os.devnull).open()  # noqa: SIM115


class ForgetsItsOffset(Correct):
    def __init__(self, schema: cv.Schema) -> None:
        super().__init__(schema)
        self.offset = torch.rand(self.n_programs)

    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        return dist.Normal(0.8 * history[-1] + u @ mechanism.a + self.offset, 0.5).to_event(1)


class SettingIsAFunction(Correct):
    def __init__(self, schema: cv.Schema, *, link: Callable = torch.tanh) -> None:
        super().__init__(schema)


class HasASiteCalledTime(Correct):
    def mechanism(self) -> cv.Mechanism:
        return super().mechanism().updated(time=pyro.sample("time", dist.LogNormal(0.0, 1.0)))


class HasASiteCalledAsAState(Correct):
    def mechanism(self) -> cv.Mechanism:
        return super().mechanism().updated(z_7=pyro.sample("z_7", dist.LogNormal(0.0, 1.0)))


class TurnsItsAxes(Correct):
    dims = MappingProxyType({"a": ("program", "token")})


class NamesAnAxisTooMany(Correct):
    dims = MappingProxyType({"a": ("token", "program", "gene")})


class NamesAnAxisTwice(Correct):
    dims = MappingProxyType({"a": ("token", "token")})


class NamesNoSite(Correct):
    dims = MappingProxyType({"b": ("token", "program")})


class NamesAnAxisOfTheExport(Correct):
    dims = MappingProxyType({"a": ("token", "draw")})


class NamesTooFewEffects(Correct):
    dims = MappingProxyType({"a": ("token", "effect")})
    coords = MappingProxyType({"effect": ("weak",)})


class NamesAnAxisOfNoSite(Correct):
    coords = MappingProxyType({"effect": ("weak", "strong")})


class NamesTheGenesAnew(Correct):
    coords = MappingProxyType({"gene": tuple("abcdef")})


class LooksTwoStepsBack(Correct):
    def __init__(self, schema: cv.Schema) -> None:
        cv.LatentDynamics.__init__(self, schema, n_programs=2, n_lags=2)
        self.loading = nn.Linear(2, schema.n_genes)

    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        return dist.Normal(0.8 * history[-1] - 0.1 * history[-2] + u @ mechanism.a, 0.5).to_event(1)


class TakesTwoLagsApart(LooksTwoStepsBack):
    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        before, last = history
        return dist.Normal(0.8 * last - 0.1 * before + u @ mechanism.a, 0.5).to_event(1)


class AsksForAKey(Correct):
    def initial(self, mechanism: Any) -> Any:
        return {}["start"]


class FailsInItsMechanism(Correct):
    def mechanism(self) -> cv.Mechanism:
        return super().mechanism().updated(c=torch.zeros(2)[self.schema.n_tokens])


class OpensAPlate(Correct):
    def mechanism(self) -> cv.Mechanism:
        with pyro.plate("tokens", self.schema.n_tokens):
            return super().mechanism().updated(c=pyro.sample("c", dist.Normal(0.0, 1.0)))


class CountsItsPrograms(Correct):
    def mechanism(self) -> cv.Mechanism:
        return super().mechanism().updated(k=pyro.sample("k", dist.Poisson(3.0)))


class LearnsWhatNoCellMeets(Correct):
    prior_sites = ("k",)

    def mechanism(self) -> cv.Mechanism:
        return super().mechanism().updated(k=pyro.sample("k", dist.Normal(0.0, 1.0)))


class NamesNoPriorSite(Correct):
    prior_sites = ("k",)


class NotesTheTime(Correct):
    def mechanism(self) -> cv.Mechanism:
        return super().mechanism().updated(time=pyro.deterministic("time", torch.ones(())))


class NamesASiteByAPath(Correct):
    def mechanism(self) -> cv.Mechanism:
        return super().mechanism().updated(c=pyro.sample("c/d", dist.Normal(0.0, 1.0)))


class HasVectors(Correct):
    """Two global vectors more."""

    def mechanism(self) -> cv.Mechanism:
        b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        c = pyro.sample("c", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        return super().mechanism().updated(b=b, c=c)

    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        loc = 0.8 * history[-1] + u @ mechanism.a + mechanism.b + mechanism.c.mean(-1, keepdim=True)
        return dist.Normal(loc, 0.5).to_event(1)


class NamesAnAxisAsASite(HasVectors):
    dims = MappingProxyType({"b": ("c",)})
    coords = MappingProxyType({"c": ("early", "late")})


class NamesAnAxisAsItsSite(HasVectors):
    dims = MappingProxyType({"b": ("b",)})


class SharesAnAxisOfTwoSizes(HasVectors):
    dims = MappingProxyType({"b": ("rank",), "c": ("rank",)})


class NamesAnAxisByAPath(HasVectors):
    dims = MappingProxyType({"b": ("rank/of",)})


class NumbersAnAxis(HasVectors):
    dims = MappingProxyType({"b": (2,)})


class CountsItsCoords(HasVectors):
    dims = MappingProxyType({"b": ("rank",)})
    coords = MappingProxyType({"rank": 2})


class HasNoDims(HasVectors):
    dims = None  # type: ignore[assignment]


BROKEN_MODELS = [
    (TakesTwoLagsApart, "hooks", r"transition failed at .*: not enough values .*z_0 alone at step 1"),
    (AsksForAKey, "hooks", r"initial failed at test_laws.py, line \d+: 'start'; it was given a \(3, 2\)"),
    (FailsInItsMechanism, "made", r"mechanism failed at test_laws.py, line .*; ask for no position"),
    (OpensAPlate, "made", r"mechanism opens the plate 'tokens'; let each global site have event axes"),
    (CountsItsPrograms, "made", r"mechanism samples 'k' from a discrete law.*continuous law"),
    (LearnsWhatNoCellMeets, "made", r"mechanism samples 'k' in training.*sample it if not self.training"),
    (NamesNoPriorSite, "sites", r"prior_sites names 'k', which mechanism\(\) does not sample out of"),
    (NotesTheTime, "names", r"mechanism samples 'time', a name that"),
    (NamesASiteByAPath, "names", r"mechanism samples 'c/d'; give the site a name"),
    (NamesAnAxisAsASite, "dims", r"dims\['b'\] names axes \(c of 2\).*no other use"),
    (NamesAnAxisAsItsSite, "dims", r"dims\['b'\] names axes \(b\).*no other use"),
    (SharesAnAxisOfTwoSizes, "dims", r"dims\['c'\] names axes \(rank of 2\), and the site has shape \(3,\)"),
    (NamesAnAxisByAPath, "dims", r"dims\['b'\] names the axis 'rank/of'; give it a name without '/'"),
    (NumbersAnAxis, "dims", r"dims\['b'\] names the axis 2; give it a name"),
    (CountsItsCoords, "dims", r"coords\['rank'\] is 2; give a list"),
    (HasNoDims, "dims", r"dims is None; write"),
    (
        HasASiteCalledTime,
        "names",
        r"mechanism samples 'time', a name that inference or the export uses itself",
    ),
    (HasASiteCalledAsAState, "names", r"mechanism samples 'z_7'.*give the site another"),
    (TurnsItsAxes, "dims", r"dims\['a'\] names axes \(program of 2, token of 3\), .* shape \(3, 2\)"),
    (NamesAnAxisTooMany, "dims", r"dims\['a'\] names axes \(token of 3, program of 2, gene of 6\)"),
    (NamesAnAxisTwice, "dims", r"names axes \(token of 3, token of 3\).*name each once"),
    (NamesNoSite, "dims", r"dims names 'b', expected global sites, which are a.*leave the site out of dims"),
    (NamesAnAxisOfTheExport, "dims", r"names axes \(token of 3, draw\).*no other use in the export"),
    (NamesTooFewEffects, "dims", r"names axes \(token of 3, effect of 1\)"),
    (NamesAnAxisOfNoSite, "dims", r"coords names 'effect', an axis that no site has by dims"),
    (NamesTheGenesAnew, "dims", r"coords names the axis 'gene', which the schema or the export names"),
    (LooksTwoStepsBack, "hooks", r"transition failed at .*: list index out of range.*z_0 alone at step 1"),
    (NeedsAWidth, "made", r"TypeError.*'width'; .*give every further argument a default"),
    (WithoutEmission, "made", r"abstract.*WithoutEmission.*emission'?; write every hook"),
    (SkipsItsParent, "made", r"before Module.__init__\(\) call; .*begin with super\(\).__init__\(schema\)"),
    (
        ForgetsToEvent,
        "hooks",
        r"transition returned a law of event shape \(\), .*; end it with .to_event\(1\)",
    ),
    (DropsACell, "hooks", r"transition returned a law of batch shape \(23,\), expected \(cell,\) = \(24,\)"),
    (MechanismIsADict, "made", r"mechanism returned a builtins.dict, expected a Mechanism; end it with"),
    (MultipliesAskew, "hooks", r"transition failed at test_laws.py, line \d+: .*shapes"),
    (ForgetsToEventASite, "names", r"samples 'a' with batch shape \(3, 2\).*its law with .to_event\(2\)"),
    (ScaleBelowZero, "hooks", r"transition failed at test_laws.py, line \d+: .*make scales by"),
    (SamplesInItsTransition, "hooks", r"transition failed at .*'jump'.*sample global sites in mechanism"),
    (CallsAParameterAsASite, "hooks", r"initial failed at .*: a is already.*call parameters .* otherwise"),
    (ContextsFromTheLeft, "vectorised", r"initial returned .* batch .* \(in a time course of 2 contexts\)"),
    (DrawsInARegime, "sites", r"DrawsInARegime samples 'speed_1', and MeanField does not; draw it in"),
    (MarksToEnumerate, "sites", r"'k_1'.*set enumerated = True on MarksToEnumerate"),
    (SeesCounts, "counts", r"'x' \(SeesCounts.emission or observation\) .* 0, when the observed values"),
    (StartsPerturbed, "initial", r"'z_0' \(StartsPerturbed.initial\) .* the doses change.*see no dose"),
    (SeesTheFuture, "causality", r"'z_1' \(SeesTheFuture.transition\) .* doses after step 1 .* its own step"),
    (SeesALaterExposure, "causality", r"'x' \(SeesALaterExposure.emission or .* exposure so far"),
    (DrawsOnlyInPrediction, "prediction", r"'extra' in prediction and not in training.*sample every site"),
    (RateOfEachStep, "forecast", r"regime failed at test_laws.py, line \d+: index 4.*by the step"),
    (AveragesOverDraws, "vectorised", r"AveragesOverDraws.transition\) .* 3 draws .* from the right"),
    (CountsPlaces, "permutation", r"CountsPlaces.transition\) .* when the cells change places.*place in"),
    (CentresCells, "minibatch", r"CentresCells.transition\) .* cells are left out.*axis of cells"),
    (Unused, "gradients", r"does not depend on Unused.spare; drop the parameter, or use it"),
    (RootOfZero, "gradients", r"gradient of RootOfZero.width holds nan.*sqrt away from zero"),
    (Remembers, "control", r"Remembers under do\(\) and under do\('control'\) .* expected 0.*keep no state"),
    (
        DrawsByItself,
        "paired",
        r"DrawsByItself under do\(\) and .* up to time 2, expected 0.*pyro.sample alone",
    ),
    (HoldsAFile, "fitted", r"TypeError: cannot pickle.*TextIOWrapper.*cv.fit"),
    (ForgetsItsOffset, "saved", r"before and after is .* apart, expected 0.*parameter or a buffer"),
    (SettingIsAFunction, "saved", r"arguments cannot be saved as JSON.*arguments that JSON can hold"),
]


@pytest.mark.parametrize(("model", "law", "phrase"), BROKEN_MODELS, ids=named)
def test_a_broken_model_is_caught_by_its_law_alone(model: type, law: str, phrase: str) -> None:
    report = cv.check_model(model, small)
    assert broken(report) == [law], str(report)
    with pytest.raises(
        ConformanceError, match=f"^{model.__name__} with .* breaks the law '{law}': .*{phrase}"
    ):
        report.require()


# Guides that break a law


class DrawsTooMuch(MeanField):
    def states(self, batch: Batch, summary: Any, s: Any, drawn: Any) -> None:
        super().states(batch, summary, s, drawn)
        pyro.sample("more", dist.Normal(0.0, 1.0))


class ForgetsTheLastStep(MeanField):
    def states(self, batch: Batch, summary: Any, s: Any, drawn: Any) -> None:
        with poutine.block(hide=[f"z_{batch.n_steps}"]):
            super().states(batch, summary, s, drawn)


class OneNumber(MeanField):
    def state(self, t: int, law: Any, batch: Batch) -> Any:
        return super().state(t, dist.Normal(law.base_dist.loc[..., :1], 1.0).to_event(1), batch)


class OwnPlate(MeanField):
    def forward(self, batch: Batch) -> None:
        drawn = self.mechanism()
        summary = self.summary(batch)
        with pyro.plate("cell", batch.n_cells, dim=-1):
            self.states(batch, summary, summary.new_zeros(batch.n_cells, 0), drawn)


class WithoutAPlate(MeanField):
    def forward(self, batch: Batch) -> None:
        drawn = self.mechanism()
        summary = self.summary(batch)
        self.states(batch, summary, summary.new_zeros(batch.n_cells, 0), drawn)


class GlobalsInThePlate(MeanField):
    def forward(self, batch: Batch) -> None:
        summary = self.summary(batch)
        with pyro.plate("cell", batch.size, subsample=batch.index, dim=-1):
            drawn = self.mechanism()
            self.states(batch, summary, summary.new_zeros(batch.n_cells, 0), drawn)


class ForgetsTheMask(MeanField):
    def state(self, t: int, law: Any, batch: Batch) -> Any:
        return pyro.sample(f"z_{t}", law)


class HalfTheWeight(MeanField):
    def state(self, t: int, law: Any, batch: Batch) -> Any:
        with poutine.scale(scale=0.5):
            return super().state(t, law, batch)


class EncodesTheUnseen(MeanField):
    def summary(self, batch: Batch) -> Any:
        return super().summary(replace(batch, observed=torch.ones_like(batch.observed)))


class DividesByCounts(MeanField):
    def summary(self, batch: Batch) -> Any:
        total = batch.x.dense.sum((0, 2))
        return super().summary(batch) * (total / total)[:, None]


class MeanOfTheMinibatch(MeanField):
    def summary(self, batch: Batch) -> Any:
        summary = super().summary(batch)
        return summary - summary.mean(0)


class ForgetsToEventAState(MeanField):
    def state(self, t: int, law: Any, batch: Batch) -> torch.Tensor:
        return super().state(t, law.base_dist, batch)


class JoinsByConcatenation(MeanField):
    def states(self, batch: Batch, summary: Any, s: Any, drawn: Any) -> None:
        torch.cat([summary, drawn["a"][..., 0, :].expand(*drawn["a"].shape[:-2], batch.n_cells, 2)], -1)
        super().states(batch, summary, s, drawn)


class SpareHead(MeanField):
    def __init__(self, model: cv.LatentDynamics, *, hidden: int = 4) -> None:
        super().__init__(model, hidden=hidden)
        self.spare = nn.Linear(2, 2)


class AveragesStates(MeanField):
    def states(self, batch: Batch, summary: Any, s: Any, drawn: Any) -> None:
        for t in range(batch.n_steps + 1):
            loc = summary[..., :1].expand(-1, self.model.n_programs)
            if t:
                loc = loc + 0.1 * z.mean()  # noqa: F821
            z = self.state(t, dist.Normal(loc + 0 * self.sharpness(), 1.0).to_event(1), batch)  # noqa: F841

    def sharpness(self) -> torch.Tensor:
        """Uses every parameter that this guide does not."""
        return sum(parameter.sum() for parameter in self.head.parameters())


BROKEN_GUIDES = [
    (DrawsTooMuch, "sites", r"DrawsTooMuch samples 'more', and Correct does not; leave it out of"),
    (ForgetsTheLastStep, "sites", r"Correct samples 'z_3', and ForgetsTheLastStep does not; draw it in"),
    (OneNumber, "sites", r"OneNumber draws 'z_0' with event shape \(1,\), expected \(2,\)"),
    (ForgetsToEventAState, "sites", r"draws 'z_0' with event shape \(\), .*; end its law with .to_event"),
    (JoinsByConcatenation, "vectorised", r"states failed at test_laws.py, line \d+: .*; .*networks.joined"),
    (WithoutAPlate, "plates", r"draws 'z_0' in no plate, expected the plate 'cell' of 24.*; open pyro.plate"),
    (GlobalsInThePlate, "plates", r"draws 'a' in the plate 'cell' of 24, expected no plate"),
    (OwnPlate, "weights", r"OwnPlate scales 'z_0' by 1.0, expected 2.0 as in Correct.*batch.size"),
    (ForgetsTheMask, "weights", r"ForgetsTheMask masks 'z_2' by True, expected False and True.*by state\(\)"),
    (HalfTheWeight, "weights", r"HalfTheWeight scales 'z_0' by 1.0, expected 2.0 as in Correct"),
    (EncodesTheUnseen, "masked", r"the bound is .*, when values that nobody observed change.*set to zero"),
    (SpareHead, "gradients", r"does not depend on SpareHead.spare.bias, SpareHead.spare.weight; drop the"),
    (DividesByCounts, "empty", r"states failed at .*, with a gene and a cell without counts"),
    (MeanOfTheMinibatch, "minibatch", r"\(in MeanOfTheMinibatch\) moves by"),
    (AveragesStates, "vectorised", r"'z_1' \(in AveragesStates\) moves by"),
]


@pytest.mark.parametrize(("guide", "law", "phrase"), BROKEN_GUIDES, ids=named)
def test_a_broken_guide_is_caught_by_its_law(guide: type, law: str, phrase: str) -> None:
    report = cv.check_guide(lambda model: guide(model, hidden=4), Correct)
    assert broken(report)[0] == law, str(report)
    with pytest.raises(
        ConformanceError, match=f"^{guide.__name__} with .* breaks the law '{law}': .*{phrase}"
    ):
        report.require()


def test_every_law_is_broken_by_some_variant() -> None:
    required = {law.name for law in LAWS if not law.advice}
    assert {law for _, law, _ in (*BROKEN_MODELS, *BROKEN_GUIDES)} == required


def test_a_law_that_advises_is_told_and_breaks_nothing() -> None:
    """The variant asks for a number; on a GPU its steps are run one by one."""
    report = cv.check_model(DrawsByItself, small)
    (row,) = [one for one in report.rows if one.law == "capturable"]
    assert row.passed is False
    assert re.search(r"reads a number from a tensor, .*, at test_laws.py, line \d+", row.seen)
    assert f"advice    capturable{'':3}" in str(report)
    only = replace(report, rows=(row,))
    assert only.passed
    assert only.require() is only


# Every shipped pair obeys


def pairs() -> list[Any]:
    """Every model with every guide; most of them are left to the slow tests."""
    return [
        pytest.param(
            model,
            guide,
            marks=() if model == "StaticShift" or guide == "BackwardSmoother" else pytest.mark.slow,
        )
        for model in registry.MODELS
        for guide in registry.GUIDES
        if (model, guide) != ("Switching", "KalmanSmoother")  # refused: it sums over regimes
    ]


@pytest.mark.parametrize(("model", "guide"), pairs())
def test_every_shipped_pair_obeys_every_law(model: str, guide: str) -> None:
    report = cv.check_model(
        lambda schema: registry.MODELS[model](schema, n_programs=3), registry.GUIDES[guide]
    )
    assert report.require().passed
    assert (report.subject, report.partner) == (model, guide)


def test_a_small_correct_model_and_guide_obey_every_law() -> None:
    told: list[str] = []
    assert cv.check_model(Correct, small, progress=told.append).require().passed
    assert told == [law.name for law in LAWS]
    assert cv.check_guide(MeanField, Correct).require().subject == "MeanField"


def test_a_model_is_not_blamed_for_what_its_guide_does_not_use() -> None:
    assert cv.check_model(Correct, SpareHead).require().passed


def test_a_model_that_refuses_counts_is_tried_on_real_values() -> None:
    (made,) = (row for row in cv.check_model(LinearGaussian, small).rows if row.law == "made")
    assert made.seen == "made for real, in 3 study designs, one of them with contexts"


def test_a_check_leaves_random_state_and_parameters_alone() -> None:
    before = torch.random.get_rng_state()
    cv.check_model(ForgetsToEvent, small)
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_could_not_be_tried_says_why() -> None:
    report = cv.check_model(ForgetsToEvent, small)
    rows = {row.law: row for row in report.rows}
    assert not report.passed
    assert rows["made"].passed
    assert rows["causality"].passed is None
    assert rows["causality"].seen == "not tried, since 'hooks' does not hold"
    text = str(report)
    assert text.startswith("ForgetsToEvent with MeanField: 2 of 23 laws hold.")
    assert "BROKEN    hooks" in text
    assert "mend: end it with .to_event(1), and let the program be its parameters' last axis" in text


# The same mistakes in a fit and in a prediction

BAD_HOOKS = [
    (ForgetsToEvent, r"ForgetsToEvent.transition .* event shape \(\), expected \(program,\) = \(2,\)"),
    (ThreeStates, r"ThreeStates.initial .* event shape \(3,\), expected \(program,\) = \(2,\)"),
    (ThreeStatesLater, r"ThreeStatesLater.transition .* event shape \(3,\), expected \(program,\) = \(2,\)"),
    (AGeneTooMany, r"AGeneTooMany.emission .* event shape \(7,\), expected \(gene,\) = \(6,\); end it with"),
    (
        ALawForEachLag,
        r"transition .* batch shape \(2, \d+\), expected \(cell,\) = \(\d+,\) or what broadcasts",
    ),
    (TurnsSlotsAndCells, r"emission .* batch shape \(\d+, 1\), expected \(slot, cell\) = \(1, \d+\)"),
    (MechanismIsADict, r"mechanism returned a builtins.dict, expected a Mechanism; end it with return Mech"),
    (ForgetsToReturn, r"observation returned nothing, expected a Mechanism; end it with return mechanism"),
    (ReturnsATensor, r"initial returned a torch.Tensor, expected a law of pyro.distributions; end it with"),
    (TorchLaw, r"initial returned a torch.distributions.normal.Normal, expected a law of pyro.distrib"),
    (
        MultipliesAskew,
        r"transition failed at test_laws.py, line \d+: .*; it was given a \(3, 2\), hist",
    ),
    (MissesASymbol, r"emission failed at .*: the mechanism has no 'rate'; mechanism\(\) returned a; it was"),
]


@pytest.mark.parametrize(("model", "phrase"), BAD_HOOKS, ids=named)
def test_a_bad_hook_is_named_by_fit_predict_and_check(model: type, phrase: str) -> None:
    data = screen()
    made = model(data.schema)
    with pytest.raises(ModelError, match=phrase):
        cv.fit(made, MeanField(made, hidden=4), data, max_epochs=1, progress=False)
    guide = MeanField(Correct(data.schema), hidden=4)
    posterior = cv.Posterior(made, guide, pd.DataFrame(), {})
    with pytest.raises(ModelError, match=phrase.partition(" ")[0]):  # the shapes have an axis of draws more
        posterior.predict(cv.do("gene_0"), cells=data.controls(), draws=2)
    (row,) = (row for row in cv.check_model(model, small).rows if row.passed is False)
    assert row.law == ("made" if "mechanism returned" in phrase else "hooks")
    seen, _, mend = phrase.partition("; end it")
    assert re.search(seen, row.seen)
    assert not mend or re.search("end it" + mend, row.mend)


def test_the_cause_of_a_failing_hook_is_kept() -> None:
    model = MultipliesAskew(screen().schema)
    with pytest.raises(ModelError) as caught:
        model(screen().batch())
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_guide_of_another_size_is_refused() -> None:
    data = screen()
    guide = MeanField(Correct(data.schema, n_programs=3), hidden=4)
    with pytest.raises(FitError, match=r"n_programs=3, and this one has 2; make it by MeanField\(model\)"):
        cv.fit(Correct(data.schema), guide, data, max_epochs=1, progress=False)


BAD_SITES = [
    (DrawsInARegime, MeanField, r"DrawsInARegime samples 'speed_1', and MeanField does not; draw it in the"),
    (MarksToEnumerate, MeanField, r"MarksToEnumerate samples 'k_1', .* set enumerated = True on MarksToEnum"),
    (Correct, ForgetsTheLastStep, r"Correct samples 'z_3', and ForgetsTheLastStep does not; draw it in the"),
    (Correct, DrawsTooMuch, r"DrawsTooMuch samples 'more', and Correct does not; leave it out of the guide"),
]


@pytest.mark.parametrize(("model", "guide", "phrase"), BAD_SITES, ids=named)
def test_a_site_that_only_one_of_the_two_draws_is_named_by_fit(model: type, guide: type, phrase: str) -> None:
    made = model(screen().schema)
    with pytest.raises(ModelError, match=phrase):
        cv.fit(made, guide(made, hidden=4), screen(), max_epochs=1, progress=False)


class Switching(MarksToEnumerate):
    """Two speeds between which every step chooses; the choice is summed over."""

    enumerated = True

    def transition(self, mechanism: Any, history: Any, u: Any) -> Any:
        drift = (0.5 + mechanism.k[..., None]) * (u @ mechanism.a)
        return dist.Normal(0.8 * history[-1] + drift, 0.5).to_event(1)


def test_discrete_sites_that_are_summed_over_are_none_of_the_guides() -> None:
    assert cv.check_model(Switching, small).require().passed


# On the command line

FILE = """
import pyro
import pyro.distributions as dist
import torch

from pyro_citevae import LatentDynamics, Mechanism


class Askew(LatentDynamics):
    def __init__(self, schema, *, n_programs=2):
        super().__init__(schema, n_programs=n_programs)
        self.loading = torch.nn.Linear(n_programs, schema.n_genes)

    def mechanism(self):
        return Mechanism()

    def initial(self, mechanism):
        return dist.Normal(torch.zeros(self.n_programs), 1.0).to_event(1)

    def transition(self, mechanism, history, u):
        return dist.Normal(history[-1], 1.0)

    def emission(self, mechanism, z, s, library):
        return dist.Poisson(library[..., None] * torch.softmax(self.loading(z), -1)).to_event(1)


class Upright(Askew):
    def transition(self, mechanism, history, u):
        return dist.Normal(history[-1] + u.sum(-1, keepdim=True), 1.0).to_event(1)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def test_the_command_shows_a_table_and_what_comes_next(file: Path) -> None:
    made = CliRunner().invoke(
        app, ["check", f"{file}:Upright", "--with", "meanfield"], env={"COLUMNS": "200"}
    )
    assert made.exit_code == 0, made.output
    assert "Upright with MeanField" in made.output
    assert all(law.name in made.output for law in LAWS)
    assert f"citevae fit DATA.h5ad --model {file}:Upright" in made.output


def test_the_command_tells_a_guide_by_its_base_class(file: Path) -> None:
    line = ["check", "MeanField", "--with", f"{file}:Upright"]
    made = CliRunner().invoke(app, line, env={"COLUMNS": "200"})
    assert made.exit_code == 0, made.output
    assert "MeanField with Upright" in made.output


BAD_COMMANDS = [
    ("check {file}:Askew", "Askew.transition returned a law of event shape (), expected (program,) = (2,)"),
    ("check {file}:Nothing", "the file defines no class 'Nothing'; it defines Askew, Upright."),
    ("check {file}:torch", "the file defines no class 'torch'"),
    ("check NoSuch", "'NoSuch' is unknown; name one of CiteVAE"),
    (
        "check {file}:Upright --with CiteVAE",
        "--with names the model 'CiteVAE'; a model is checked with a guide",
    ),
    ("check MeanField --with BackwardSmoother", "--with names the guide"),
]


@pytest.mark.parametrize(("line", "phrase"), BAD_COMMANDS)
def test_a_broken_class_ends_the_command_with_2_and_a_sentence(
    line: str,
    phrase: str,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["citevae", *line.format(file=file).split()])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\.\n", printed), printed
    assert phrase in printed
