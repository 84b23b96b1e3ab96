"""Genetic interactions: what two perturbations do together beside what each does alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
from jaxtyping import Float

from pyro_citevae.data.interventions import Schedule
from pyro_citevae.errors import DataError, ScheduleError, few
from pyro_citevae.infer.effect import Effect
from pyro_citevae.shown import Shown

__all__ = ["ADDITIVE", "Interactions", "interactions", "members_of"]

ADDITIVE = (0.75, 1.25)  # strengths of a pair that is the sum of its members
_DOMINANCE = 3.0  # times that one member counts as much as the other


@final
@dataclass(frozen=True, eq=False, repr=False)
class Interactions(Shown):
    """What pairs do beside the sum of their members.

    Attributes:
        table: A row a pair and time: ``pair``, ``time``, ``first`` and ``second`` (the shares c of the
            members), ``strength`` with ``lower`` and ``upper``, ``surplus`` (norm over genes), the
            probabilities ``p_synergy``, ``p_buffering``, ``p_dominance``, and ``kind``.
        surplus: Draws of ``delta_AB - delta_A - delta_B``, gene by gene.
        probability: Mass of the intervals, and how probable a kind must be.
    """

    table: pd.DataFrame
    surplus: Effect
    probability: float

    def facts(self) -> dict[str, str]:
        """The pairs, and how many are of each kind."""
        pairs = list(dict.fromkeys(map(str, self.table["pair"])))
        kinds = self.table["kind"].value_counts()
        return {
            "pairs": f"{len(pairs)}: {few(pairs, 5)}",
            "times": few([f"{time:g}" for time in dict.fromkeys(self.table["time"])], 6),
            "kinds": ", ".join(f"{kind} {n}" for kind, n in kinds.items()),
        }


def members_of(pairs: list[Schedule]) -> list[tuple[Schedule, Schedule]]:
    """The two members of each pair, each with its own dose and time.

    Raises:
        ScheduleError: A schedule has not exactly two members.
    """
    made = []
    for pair in pairs:
        if len(pair.doses) != 2:
            raise ScheduleError(
                f"interactions(pairs=...) names {pair}, which has {len(pair.doses)} members; name two, as in "
                "'A+B'."
            )
        first, second = (Schedule((dose,)) for dose in pair.doses)
        made.append((first, second))
    return made


def interactions(pair: Effect, first: Effect, second: Effect, probability: float) -> Interactions:
    r"""Compares draws of the effects of pairs with those of their members.

    In each draw the pair's effect is laid out over those of its members, over all genes::

        (c_A, c_B) = argmin |delta_AB - c_A delta_A - c_B delta_B|^2
        strength = sqrt((c_A^2 + c_B^2) / 2)                    one where the pair is the sum

    =============  ==========================================================================
    kind           with at least this probability
    =============  ==========================================================================
    synergy        the strength is above 1.25
    buffering      the strength is below 0.75
    dominance      one member counts three times as much as the other
    additive       none of the three, and the strength lies between 0.75 and 1.25
    unclear        no kind is that probable, or no pair of the screen has cells
    =============  ==========================================================================

    Args:
        pair: Effects of the pairs.
        first: Effects of their first members, in the same draws and under the same labels.
        second: Effects of their second members.
        probability: How probable a kind must be.

    Raises:
        DataError: The probability is not between one half and one.

    Source: T. M. Norman et al., Exploring genetic interaction manifolds constructed from rich single-cell
    phenotypes (2019), for the two shares.
    """
    if not 0.5 <= probability < 1:
        raise DataError(f"interactions(probability={probability}) must lie between 0.5 and 1.")
    rows = []
    both, one, other = (np.asarray(effect, dtype=float) for effect in (pair, first, second))
    for p, label in enumerate(pair.perturbation.values):
        for t, time in enumerate(pair.time.values):
            c = _shares(*(_drawn(effect[:, :, p, t]) for effect in (both, one, other)))
            rest = _drawn((both - one - other)[:, :, p, t])
            rows.append({"pair": str(label), "time": float(time), **_described(c, rest, probability)})
    surplus = pair.copy(data=both - one - other)
    surplus.attrs["versus"] = "the sum of the members"
    return Interactions(pd.DataFrame(rows), surplus, probability)


def _drawn(values: Float[np.ndarray, "chain draw gene"]) -> Float[np.ndarray, "drawn gene"]:
    return values.reshape(-1, values.shape[-1])


def _shares(
    both: Float[np.ndarray, "drawn gene"],
    one: Float[np.ndarray, "drawn gene"],
    other: Float[np.ndarray, "drawn gene"],
) -> Float[np.ndarray, "drawn 2"]:
    """The two members' shares in each draw, by least squares; the smallest where they are not told apart."""
    members = np.stack([one, other], axis=-1)
    return np.asarray((np.linalg.pinv(members) @ both[..., None])[..., 0])


def _described(
    c: Float[np.ndarray, "drawn 2"], rest: Float[np.ndarray, "drawn gene"], probability: float
) -> dict[str, float | str]:
    strength = np.sqrt((c**2).mean(-1))
    tail = (1 - probability) / 2
    lower, upper = np.quantile(strength, [tail, 1 - tail])
    weaker, stronger = np.sort(np.abs(c), axis=-1).T
    p = {
        "synergy": float((strength > ADDITIVE[1]).mean()),
        "buffering": float((strength < ADDITIVE[0]).mean()),
        "dominance": float((stronger > _DOMINANCE * weaker).mean()),
    }
    additive = (strength >= ADDITIVE[0]) & (strength <= ADDITIVE[1]) & (stronger <= _DOMINANCE * weaker)
    found = [kind for kind, chance in p.items() if chance >= probability]
    kind = found[0] if found else "additive" if additive.mean() >= probability else "unclear"
    return {
        "first": float(c[:, 0].mean()),
        "second": float(c[:, 1].mean()),
        "strength": float(strength.mean()),
        "lower": float(lower),
        "upper": float(upper),
        "surplus": float(np.linalg.norm(rest.mean(0))),
        **{f"p_{kind}": chance for kind, chance in p.items()},
        "kind": kind,
    }
