"""Effects that a design cannot tell from those of batches: every draw lays them on one or on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.pseudobulk import profile
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer.counterfactuals import Counterfactuals

__all__ = ["undecided"]

_TINY = 1e-6  # of a count at the common total, so that a gene without counts has a logarithm


def undecided(
    delta: Float[np.ndarray, "chain draw perturbation time gene"],
    roll: Counterfactuals,
    controls: Trajectories | None,
    confounded: Mapping[str, Sequence[str]],
) -> Float[np.ndarray, "chain draw perturbation time gene"]:
    """Effects whose draws say that a batch may as well have made them.

    Where all cells of a perturbation p lie in batches B_p without controls, the data tell both effects
    together alone: of gene g ``l_g = log x_g(p in B_p) / x_g(rest elsewhere)`` less its median over genes,
    where x is a share of the counts, and rest is the schedule without p. Each draw lays what a gene shows on
    the perturbation or on the batch, with equal odds ``c_g``, and brings the shares to a sum of one:
    ``x_g = x_g(rest) exp(c_g l_g) / sum_h x_h(rest) exp(c_h l_h)``. An interval then reaches from none of it
    to all of it. Of real values, ``c_g`` times the difference is taken.

    Args:
        delta: Draws of effects as the fit has them.
        roll: The schedules, the reference last.
        controls: Control cells to act on; None for a population.
        confounded: The batches B_p of each perturbation p that cannot be told from batches.

    Returns:
        The draws, changed for schedules with such a perturbation.
    """
    *acting, reference = roll.schedules
    position = {name: b for b, name in enumerate(roll.schema.batches)}
    changed = delta.copy()
    for p, schedule in enumerate(acting):
        tokens = set(schedule.tokens) & confounded.keys()
        if not tokens:
            continue
        lanes = sorted({position[batch] for token in tokens for batch in confounded[token]})
        others = [b for b in position.values() if b not in lanes] or lanes
        rest = Schedule(tuple(dose for dose in schedule.doses if dose.token not in tokens))
        asked = replace(
            roll, schedules=(schedule, rest, reference), batches=(lanes, others, others), told=True
        )
        together, without, before = asked.pseudobulk(controls)
        shape = (*changed.shape[:2], 1, changed.shape[-1])
        coin = np.random.default_rng(roll.seed + p).integers(0, 2, shape)
        if roll.schema.values == "real":
            changed[:, :, p] = without + coin * (together - without) - before
            continue
        shown = np.log(np.expm1(together) + _TINY) - np.log(np.expm1(without) + _TINY)
        laid = coin * (shown - np.median(shown, -1, keepdims=True))
        changed[:, :, p] = profile(np.expm1(without) * np.exp(laid), roll.schema.panel_total) - before
    return changed
