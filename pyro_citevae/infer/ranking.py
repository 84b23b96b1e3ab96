"""What to measure next: candidates ranked by expected information, predictive spread or effect size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Bool, Float

from pyro_citevae.arguments import count, names, whole
from pyro_citevae.data.interventions import Schedule, do
from pyro_citevae.data.schema import Schema
from pyro_citevae.errors import DataError, ScheduleError, few
from pyro_citevae.infer.counterfactuals import Counterfactuals
from pyro_citevae.infer.effect import Effect
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.shown import Shown

__all__ = ["Ranking", "candidates_of", "expected_information", "rank"]

_CRITERIA = ("information", "spread", "effect")

_MOST_DRAWS_FOR_NOISE = 20
_REPEATS = 8
_NAMED = 3


@final
@dataclass(frozen=True, eq=False, repr=False)
class Ranking(Shown):
    """Candidates in the order in which to measure them.

    Attributes:
        table: A row a candidate, the first one first: ``candidate``, ``information`` and its Monte Carlo
            ``standard_error`` (nats), ``spread`` and ``effect`` (log), ``unseen`` (its tokens without
            training cells, joined by '+') and ``why``, one sentence.
        effects: Draws of every candidate's effect against the control.
        by: What the order is by.
        n_cells: Number of cells that a candidate would be measured in.
    """

    table: pd.DataFrame
    effects: Effect
    by: str
    n_cells: int

    @property
    def first(self) -> Schedule:
        """The candidate to measure first."""
        return Schedule.parse(str(self.table["candidate"].iloc[0]))

    def to_dataset(self) -> xr.Dataset:
        """The table with the dim ``candidate``, beside the effects' posterior mean and standard deviation."""
        made: xr.Dataset = xr.Dataset.from_dataframe(self.table.set_index("candidate"))
        drawn = xr.DataArray(self.effects).isel(time=0).rename(perturbation="candidate")
        made["mean"], made["sd"] = drawn.mean(("chain", "draw")), drawn.std(("chain", "draw"))
        return made.assign_attrs(by=self.by, n_cells=self.n_cells)

    def facts(self) -> dict[str, str]:
        """The first candidates, and why the first one is."""
        ordered = [str(one) for one in self.table["candidate"]]
        return {
            "candidates": f"{len(ordered)}: {few(ordered, 5)}",
            "by": self.by,
            "cells": str(self.n_cells),
            "first": str(self.table["why"].iloc[0]),
        }

    def report(self) -> str:
        """One sentence a candidate: what drives its rank."""
        return "\n".join(f"{i}. {why}" for i, why in enumerate(self.table["why"], start=1))


def candidates_of(given: Any, schema: Schema) -> list[Schedule]:
    """Candidates as schedules, each once; a text alone is one.

    Raises:
        DataError: There is none, or one is neither a schedule nor a text.
        ScheduleError: One cannot be read, is the control, or names an unknown perturbation.
    """
    said = "rank(candidates=...)"
    if isinstance(given, Schedule):
        given = [given]
    listed = names(given, said) if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    wanted = [one if isinstance(one, Schedule) else schema.schedule(*names([one], said)) for one in listed]
    if not wanted:
        raise DataError(
            "rank(candidates=[]) names no candidate; give the perturbations that could be measured."
        )
    for one in dict.fromkeys(wanted):
        if one.is_control:
            raise ScheduleError("rank(candidates=...) holds the control; name perturbations.")
        schema.require(one)
    return list(dict.fromkeys(wanted))


def expected_information(
    whitened: Float[np.ndarray, "draw gene"], *, directions: int = 3, seed: int = 0
) -> tuple[float, float]:
    r"""Expected information gain about the mechanism from one measured effect, and its standard error.

    Let delta_m be draws of the effect, in units of the measurement's noise, and P the ``directions`` leading
    principal components of these draws. The outcome is ``y = P delta + N(0, I)``, and the gain is estimated
    from the nested (contrastive) bound

    ::

        EIG >= mean_m [ log N(y_m | P delta_m) - log 1/M sum_m' N(y_m | P delta_m') ],   y_m ~ N(P delta_m, I)

    which is below the gain on two counts: the inner mean includes the draw that made y, so that the bound is
    never above log M and tight only well below it; and what lies outside the directions is left out. With all
    genes at once the bound would be log M for every candidate, which ranks nothing.

    Args:
        whitened: Draws of the effect over the standard deviation of its measurement.
        directions: Number of principal components.
        seed: Seed of the simulated outcomes.

    Returns:
        The bound and its Monte Carlo standard error, in nats.

    Source: A. Foster, M. Jankowiak, M. O'Meara, Y. W. Teh, T. Rainforth, A Unified Stochastic Gradient
    Approach to Designing Bayesian-Optimal Experiments (2020); for nested estimates, T. Rainforth et al., On
    Nesting Monte Carlo Estimators (2018).

    Example:
        >>> import numpy as np
        >>> known, open_ = np.zeros((200, 5)), np.random.default_rng(0).normal(0, 3, (200, 5))
        >>> expected_information(known)[0], expected_information(open_)[0] > 1
        (0.0, True)
    """
    centred = whitened - whitened.mean(0)
    _, _, components = np.linalg.svd(centred, full_matrices=False)
    P = torch.from_numpy(centred @ components[:directions].T)
    with seeded(seed):
        noise = torch.randn(_REPEATS, *P.shape, dtype=P.dtype)
    gain = torch.empty(_REPEATS, len(P), dtype=P.dtype)
    for r, drawn in enumerate(P + noise):
        # exact distances: by a matrix product they lose digits, and the bound would pass log M by that
        inner = -torch.cdist(drawn, P, compute_mode="donot_use_mm_for_euclid_dist").square() / 2
        gain[r] = -noise[r].square().sum(-1) / 2 - torch.logsumexp(inner, -1) + np.log(len(P))
    by_draw = gain.mean(0)
    return max(0.0, float(by_draw.mean())), float(by_draw.std() / len(P) ** 0.5)


def rank(
    roll: Counterfactuals,
    delta: Float[np.ndarray, "chain draw perturbation time gene"],
    by: str,
    n_cells: int,
    directions: int,
    informed: Bool[np.ndarray, " token"],
) -> Ranking:
    """Ranks the schedules of a roll-out, but for the last, by their effects; see :meth:`Predictive.rank`."""
    if by not in _CRITERIA:
        raise DataError(f"rank(by={by!r}) is not a criterion; name one of {', '.join(_CRITERIA)}.")
    n_cells, directions = whole(n_cells, "rank(n_cells=...)"), count(directions, "rank(directions=...)")
    if n_cells < 1:
        raise DataError(f"rank(n_cells={n_cells}) measures no cell; give a positive number.")
    wanted, schema = list(roll.schedules[:-1]), roll.schema
    effects = Effect.of(delta, wanted, roll.times, schema, do())
    noise = np.sqrt(_measurement_variance(roll) / n_cells)
    seen = roll.members[0][0].seen.numpy(force=True)
    rows = []
    for one in wanted:
        drawn = effects.sel(perturbation=one.label(schema.control)).isel(time=0).to_numpy()
        delta = drawn.reshape(-1, schema.n_genes)
        keep = ~np.isin(np.array(schema.genes), one.tokens)
        information, error = expected_information(
            (delta / noise)[:, keep], directions=directions, seed=roll.seed
        )
        mean, variance = np.where(keep, delta.mean(0), 0.0), np.where(keep, delta.var(0), 0.0)
        rows.append(
            {
                "candidate": one.label(schema.control),
                "information": information,
                "standard_error": error,
                "spread": float(np.sqrt(variance.sum())),
                "effect": float(np.linalg.norm(mean)),
                "unseen": "+".join(token for token in one.tokens if not seen[schema.token_index[token]]),
                "strongest": _strongest(mean, schema),
                "widest": _strongest(variance, schema),
            }
        )
    table = pd.DataFrame(rows).sort_values(by, ascending=False, kind="stable", ignore_index=True)
    known = {token: bool(informed[p]) for token, p in schema.token_index.items()}
    table["why"] = [_why(row, by, n_cells, known) for row in table.to_dict("records")]
    return Ranking(table.drop(columns=["strongest", "widest"]), effects, by, n_cells)


def _strongest(values: Float[np.ndarray, " gene"], schema: Schema) -> str:
    """Names of the genes that hold most of the values."""
    return ", ".join(schema.genes[g] for g in np.argsort(-np.abs(values), kind="stable")[:_NAMED])


def _why(row: Mapping[Any, Any], by: str, n_cells: int, known: dict[str, bool]) -> str:
    size = f"its effect is {row['effect']:.2f} in size and known to {row['spread']:.2f}"
    driver = {
        "information": f"{n_cells} cells are expected to tell {row['information']:.2f} nats, since {size}, "
        f"least in {row['widest']}",
        "spread": f"{size}, least in {row['widest']}",
        "effect": f"{size}, and is strongest in {row['strongest']}",
    }[by]
    unseen = [token for token in str(row["unseen"]).split("+") if token]
    blind = [token for token in unseen if not known[token]]
    if blind:
        driver += (
            f"; {', '.join(blind)} has neither training cells nor features, so that this is the population's"
        )
    elif unseen:
        driver += f"; {', '.join(unseen)} has no training cells and is predicted from its features"
    return f"{row['candidate']}: {driver}."


def _measurement_variance(roll: Counterfactuals) -> Float[np.ndarray, " gene"]:
    """Sampling variance of a profile measured in one cell, averaged over draws, from predicted control cells.

    By linearisation: ``b = log(1 + total sum_i x_ig / sum_ig x_ig)`` varies with cell i by
    ``total / (1 + total p_g) (x_ig - p_g sum_g x_ig) / mean_i sum_g x_ig``, p the share of a gene.
    """
    model, schema = roll.members[0][0], roll.schema
    few = Counterfactuals(
        roll.members[:1], [do()], roll.times[:1], min(roll.n_draws, _MOST_DRAWS_FOR_NOISE), roll.seed
    )
    found = []
    for abduction in few.abductions(0, None):
        _, drawn = few.run(model, abduction, do(), mean=False)
        x = drawn[:, 0].double()
        if schema.values == "real":
            found.append(x.var(1))
            continue
        depth = x.sum(-1, keepdim=True)
        share = x.sum(1, keepdim=True) / depth.sum(1, keepdim=True).clamp(min=1.0)
        slope = schema.panel_total / (1 + schema.panel_total * share)
        found.append((slope * (x - share * depth) / depth.mean(1, keepdim=True).clamp(min=1.0)).var(1))
    variance = torch.cat(found).mean(0).cpu().numpy()
    # a gene that no predicted cell shows is no reason for infinite certainty
    return np.maximum(variance, 1e-3 * variance.max() + 1e-12)
