"""Effects with the discrepancy: recentred and rescaled draws of the program, for each kind of question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import numpy as np
from jaxtyping import Float, Int

from pyro_citevae.data.interventions import Schedule, do
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.shared_genes import positions
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer.control_error import control_error
from pyro_citevae.infer.counterfactuals import Counterfactuals
from pyro_citevae.infer.discrepancy import Discrepancy
from pyro_citevae.program import LatentDynamics

__all__ = ["corrected_effects", "corrected_laws", "error_of_controls"]

_FROM_TIME_TO_TIME = (
    0.2  # of (F - P)^2 in the variance; chosen on the development screens of experiments/calibration
)
_LEAST_SD = 1e-9
_LEAST_COUNT = 1e-3  # at the common total, that a gene is expected to have at least


Known: TypeAlias = Sequence[Discrepancy | None]
"""What was learnt of each member of a roll-out; None for nothing."""


def corrected_effects(
    roll: Counterfactuals, known: Known, controls: Trajectories | None
) -> Float[np.ndarray, "chain draw perturbation time gene"]:
    r"""Effects against a roll-out's last schedule, with what is known of the programs' errors.

    Let ``f`` be the mean effect against the control by the program, ``d = shift_p - shift_0`` the correction
    of a group against the control's, and ``var`` the variance of ``lambda_p - lambda_0``
    (:class:`~pyro_citevae.infer.discrepancy.Discrepancy`).

    =====================  ===============================  ============================================
    the schedule           mean                             variance
    =====================  ===============================  ============================================
    has cells then         f + d, or the stored effect      var
                           where it is of the population
    has cells at others    (F + P) / 2, F = f + d, P the    var + 0.2 (F - P)^2 + (var f) / 4
                           effect persisting, both of the
                           nearest times
    has cells in other     by adaptive shrinkage over           that of the mixture
    contexts               contexts, no level below zero
    combines known ones    f + sum_i d_i / 2                c_0 spread^2 + c_1 (F - A)^2 + c_2 h
                                                            + sum_i var_i / 4
    has a new token        rho_0 mu + rho_1(f) f            that of a seen token's residual
    has another dose       f                                var f + 2 (dose spread)^2, dose at most 1
    =====================  ===============================  ============================================

    The draws are those of the program, recentred and rescaled gene by gene, so that genes go together as the
    program has it. Where nothing is known of a member, its draws are the program's own.

    Args:
        roll: The schedules, the one that effects are taken against last.
        known: What was learnt of each member.
        controls: Control cells to act on; None for a population.
    """
    levels = roll.pseudobulk(controls)
    if all(one is None for one in known):
        return np.moveaxis(levels[:-1] - levels[-1:], 0, 2)
    origin = levels[-1:]
    if not roll.schedules[-1].is_control:
        origin = replace(roll, schedules=[do()], told=True).pseudobulk(controls)
    # what is stored of counts is of all genes' shares
    every = roll.schema.values == "real" or roll.schema.genes == roll.members[0][0].schema.genes
    stored = controls is None and every
    effects = np.moveaxis(levels - origin, 0, 2)
    sizes = _sizes(effects, roll, known, controls)
    effects = _corrected(effects, sizes, roll, known, of_population=stored)
    return np.asarray(effects[:, :, :-1] - effects[:, :, -1:])


def corrected_laws(
    roll: Counterfactuals, known: Known
) -> list[Float[np.ndarray, "draw schedule time gene"] | None]:
    """How far each member's laws of values are moved, so that their profiles have the corrected effects.

    Args:
        roll: The schedules.
        known: What was learnt of each member.
    """
    if all(one is None for one in known):
        return [None] * len(known)
    levels = _beside_the_control(roll, None)
    effects, before = levels[:, :, :-1] - levels[:, :, -1:], levels[:, :, :-1]
    sizes = _sizes(effects, roll, known, None)
    gained = _corrected(effects, sizes, roll, known, of_population=True) - effects
    if roll.schema.values == "counts":
        after, counts = (np.maximum(np.expm1(one), _LEAST_COUNT) for one in (before + gained, before))
        gained = np.log(after) - np.log(counts)
    return [None if one is None else gained[chain] for chain, one in enumerate(known)]


def error_of_controls(
    roll: Counterfactuals, known: Known, measured: Trajectories, controls: Trajectories | None
) -> Float[np.ndarray, "#chain 1 1 time gene"]:
    """How far measured controls lie from where they are by all that is known, in each member.

    Args:
        roll: The schedules, times and members of the effects that are forecast.
        known: What was learnt of each member.
        measured: Cells of the model's training, controls of these times among them.
        controls: Control cells to act on; None for a population.

    Raises:
        DataError: The cells are of another panel, or there is no control of a time.
    """
    learnt, control = [one for one in known if one is not None], roll.schema.control
    where = roll.context or 0
    answered = all(one.position(control, time, where) is not None for one in learnt for time in roll.times)
    if len(learnt) < len(known) or not answered:
        return np.asarray(control_error(roll, measured, controls))[None, None, None]
    errors = [one.on(_kept(roll)).error_of(measured, roll.times, roll.schema, where) for one in learnt]
    return np.stack(errors)[:, None, None]


def _kept(roll: Counterfactuals) -> Int[np.ndarray, " kept"] | slice:
    """The genes of the roll-out's panel among the model's."""
    model = roll.members[0][0]
    return slice(None) if roll.panel is None else positions(model.schema, roll.schema.genes)


def _beside_the_control(
    roll: Counterfactuals, controls: Trajectories | None
) -> Float[np.ndarray, "chain draw schedule time gene"]:
    """Levels of a roll-out's schedules, and last those of the control."""
    beside = replace(roll, schedules=[*roll.schedules, do()], told=True)
    return np.moveaxis(beside.pseudobulk(controls), 0, 2)


def _sizes(
    effects: Float[np.ndarray, "chain draw schedule time gene"],
    roll: Counterfactuals,
    known: Known,
    controls: Trajectories | None,
) -> Float[np.ndarray, "chain schedule time"]:
    """Norms of the programs' mean effects over all genes, whichever are asked for, less the tokens' own."""
    if not any(one is not None and one.left_out.half > 0 for one in known):  # then nobody asks
        return np.zeros((len(known), len(roll.schedules), len(roll.times)))
    if roll.panel is not None:
        levels = _beside_the_control(replace(roll, panel=None), controls)
        effects = levels[:, :, :-1] - levels[:, :, -1:]
    mean, schema = effects.mean(1), roll.members[0][0].schema
    for p, schedule in enumerate(roll.schedules):
        mean[:, p, :, _own_genes(schema, schedule)] = 0.0
    return np.asarray(np.linalg.norm(mean, axis=-1))


def _own_genes(schema: Schema, schedule: Schedule) -> list[int]:
    """The genes of a schedule's tokens, where they are measured."""
    genes = [schema.own_gene[schema.token_index[token]] for token in schedule.tokens]
    return [int(gene) for gene in genes if gene >= 0]


def _corrected(
    effects: Float[np.ndarray, "chain draw schedule time gene"],
    sizes: Float[np.ndarray, "chain schedule time"],
    roll: Counterfactuals,
    known: Known,
    *,
    of_population: bool,
) -> Float[np.ndarray, "chain draw schedule time gene"]:
    """Effects of the roll-out's schedules against the control, corrected one by one."""
    found = effects.copy()
    for chain, one in enumerate(known):
        if one is None:
            continue
        of, model, where = one.on(_kept(roll)), roll.members[chain][0], roll.context or 0
        for p, schedule in enumerate(roll.schedules):
            for k, time in enumerate(roll.times):
                acting = _acting(schedule, float(time), of, where)
                # the same draws of a schedule, whatever else is asked for
                rng = np.random.default_rng((roll.seed, chain, *acting.label().encode()))
                size = float(sizes[chain, p, k])
                asked = _Question(of, model, acting, float(time), of_population, where, size)
                found[chain, :, p, k] = asked.draws(effects[chain, :, p, k], rng)
    return found


def _acting(schedule: Schedule, time: float, known: Discrepancy, context: int) -> Schedule:
    """The schedule without doses that begin later and do nothing yet, unless it has cells of its own then."""
    if known.position(schedule.label(known.schema.control), time, context) is not None:
        return schedule
    return Schedule(tuple(dose for dose in schedule.doses if dose.at < time))


@final
@dataclass(frozen=True)
class _Forecast:
    """Mean and variance of an effect."""

    mean: Float[np.ndarray, " gene"]
    variance: Float[np.ndarray, " gene"]


@final
@dataclass(frozen=True)
class _Question:
    """One schedule at one time in one context, of the population or of given control cells.

    The size is that of the program's effect over all genes, whichever of them are asked for.
    """

    discrepancy: Discrepancy
    model: LatentDynamics
    schedule: Schedule
    time: float
    of_population: bool
    context: int = 0
    size: float = 0.0

    def draws(
        self, program: Float[np.ndarray, "draw gene"], rng: np.random.Generator
    ) -> Float[np.ndarray, "draw gene"]:
        """The program's draws, recentred and rescaled."""
        if self.schedule.is_control:
            return program
        mean = program.mean(0)
        deviation = _standardised(program, rng)
        new = self._new_tokens
        if new and len(self.schedule.tokens) == 1:
            return self._unseen(program, deviation, rng)
        found = self._forecast(mean, program.var(0))
        drawn = found.mean + np.sqrt(found.variance) * deviation
        return np.asarray(np.maximum(drawn, -self._least) if self._least is not None else drawn)

    @property
    def _least(self) -> Float[np.ndarray, " gene"] | None:
        """How far levels may fall in a context whose perturbed cells were not seen: to zero counts."""
        known, control = self.discrepancy, self.discrepancy.schema.control
        if known.across is None or known.schema.values == "real" or known.times_of(self._label, self.context):
            return None
        c = known.position(control, self.time, self.context)
        return None if c is None else np.maximum(known.profile[c], 0.0)

    @property
    def _new_tokens(self) -> bool:
        index, seen = self.discrepancy.schema.token_index, self.model.seen
        return any(not bool(seen[index[token]]) for token in self.schedule.tokens)

    def _forecast(self, mean: Float[np.ndarray, " gene"], own: Float[np.ndarray, " gene"]) -> _Forecast:
        """By what is known of the schedule."""
        known = self._measured(mean) or self._at_other_times(mean, own) or self._in_other_contexts()
        if known is not None:
            return known
        combined = self._combined(mean) if len(self.schedule.tokens) > 1 else None
        if combined is not None:
            return combined
        # a dose of nothing does nothing, and misses nothing
        amount = min(1.0, max(dose.amount for dose in self.schedule.doses))
        variance = own + 2 * (amount * self.discrepancy.spread) ** 2
        return _Forecast(mean, variance)

    @property
    def _label(self) -> str:
        return self.schedule.label(self.discrepancy.schema.control)

    def _group(self, time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Correction, variance and effect of the schedule's group at a time, against the control's."""
        found, control = self.discrepancy, self.discrepancy.schema.control
        i = found.position(self._label, time, self.context)
        c = found.position(control, time, self.context)
        if i is None:
            return None
        if c is None:  # the control's correction is unknown
            return found.shift[i], found.sd[i] ** 2 + found.spread**2, np.full(len(found.spread), np.nan)
        return found.shift[i] - found.shift[c], found.sd[i] ** 2 + found.sd[c] ** 2, found.effect[i]

    def _measured(self, mean: Float[np.ndarray, " gene"]) -> _Forecast | None:
        group = self._group(self.time)
        if group is None:
            return None
        shift, variance, effect = group
        # of the population it is known already, without the noise of these draws
        known = effect if self.of_population and np.isfinite(effect).all() else mean + shift
        return _Forecast(known, variance)

    def _at_other_times(
        self, mean: Float[np.ndarray, " gene"], own: Float[np.ndarray, " gene"]
    ) -> _Forecast | None:
        times = self.discrepancy.times_of(self._label, self.context)
        if not times:
            return None
        before = [one for one in times if one < self.time]
        after = [one for one in times if one > self.time]
        near = [*before[-1:], *after[:1]]
        reach = [1.0] if len(near) == 1 else [near[1] - self.time, self.time - near[0]]
        weight = np.array(reach) / sum(reach)
        groups = [group for one in near if (group := self._group(one)) is not None]
        shift, variance, persisting = (
            sum(w * group[part] for w, group in zip(weight, groups, strict=True)) for part in range(3)
        )
        program = mean + shift
        persisting = np.where(np.isfinite(persisting), persisting, program)
        variance = variance + _FROM_TIME_TO_TIME * (program - persisting) ** 2 + own / 4
        return _Forecast((program + persisting) / 2, variance)

    def _in_other_contexts(self) -> _Forecast | None:
        found = self.discrepancy.in_context(self._label, self.time, self.context)
        return None if found is None else _Forecast(*found)

    def _combined(self, mean: Float[np.ndarray, " gene"]) -> _Forecast | None:
        """A combination of schedules with cells; of a member without any, the program alone is asked."""
        members: list[tuple[np.ndarray, np.ndarray, np.ndarray] | None] = []
        for dose in self.schedule.doses:
            member = replace(self, schedule=Schedule((dose,)))
            nearest = member.discrepancy.times_of(member._label, self.context)
            elsewhere = None if nearest else member._in_other_contexts()
            if elsewhere is not None:  # nothing is known of the program's error there
                members.append((np.zeros_like(mean), elsewhere.variance, elsewhere.mean))
                continue
            if not nearest:
                return None
            members.append(member._group(min(nearest, key=lambda one: abs(one - self.time))))
        groups = [one for one in members if one is not None]
        found = self.discrepancy
        corrections = sum((one[0] for one in groups), np.zeros_like(mean))
        additive = sum((one[2] for one in groups), np.zeros_like(mean))
        apart = np.where(np.isfinite(additive), mean + corrections - additive, 0.0)
        c = found.left_out.pair
        variance = c[0] * found.spread**2 + c[1] * apart**2 + c[2] * found.left_out.size
        variance = variance + sum((one[1] for one in groups), np.zeros_like(mean)) / 4
        return _Forecast(mean + corrections / 2, variance)

    def _unseen(
        self,
        program: Float[np.ndarray, "draw gene"],
        deviation: Float[np.ndarray, "draw gene"],
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "draw gene"]:
        """A token without cells: what leaving out supports, and the residual of a seen token."""
        left = self.discrepancy.left_out
        mean = program.mean(0)
        if not len(left.tokens):
            return np.asarray(mean + np.sqrt(program.var(0) + 2 * self.discrepancy.spread**2) * deviation)
        measured = np.isfinite(left.residual).all(-1)
        there = measured.any(0)
        here = there & (left.contexts == self.context)
        k = int(np.where(here if here.any() else there, np.abs(left.times - self.time), np.inf).argmin())
        donors = np.flatnonzero(measured[:, k])
        drawn = donors[rng.integers(0, len(donors), len(program))]
        sign = rng.choice([-1.0, 1.0], len(program))[:, None]
        missed = left.residual[drawn, k] + left.residual_sd[drawn, k] * deviation
        made = left.expected(k, mean, self.size) + sign * missed
        own = _own_genes(self.discrepancy.schema, self.schedule)
        made[:, own] = program[:, own]  # other tokens say nothing of the token's own transcript
        return np.asarray(made)


def _standardised(
    draws: Float[np.ndarray, "draw gene"], rng: np.random.Generator
) -> Float[np.ndarray, "draw gene"]:
    """Draws with mean zero and variance one; of a gene without spread, draws of a normal."""
    sd = draws.std(0)
    moves = sd > _LEAST_SD
    normal = rng.normal(size=draws.shape)
    return np.asarray(np.where(moves, (draws - draws.mean(0)) / np.where(moves, sd, 1.0), normal))
