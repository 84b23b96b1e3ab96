"""Pictures: trajectories, effects, rankings, licences; programs, their graph, and fits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from pyro_citevae.analysis.figure_style import COLOURS, bare
from pyro_citevae.analysis.fit_plots import interactions, training
from pyro_citevae.analysis.identifiability.licence import Licence
from pyro_citevae.analysis.program_plots import lag_graph, program_genes, program_shifts
from pyro_citevae.analysis.scoring.measurement import Measurement
from pyro_citevae.analysis.scoring.scores import pearson
from pyro_citevae.infer.effect import Effect
from pyro_citevae.infer.ranking import Ranking
from pyro_citevae.picture import Picture

__all__ = [
    "effects",
    "interactions",
    "lag_graph",
    "licence",
    "program_genes",
    "program_shifts",
    "ranking",
    "training",
    "trajectories",
]


def trajectories(
    programs: xr.DataArray,
    *,
    control: str,
    observed_until: float | None = None,
    unit: str = "",
    most: int = 4,
) -> Picture:
    """Mean program states over time under each schedule, less the control's, with 80 % intervals.

    Args:
        programs: Draws with dims (chain, draw, perturbation, time, program), the control among them.
        control: Label of the control schedule.
        observed_until: Last training time; what lies after it is shaded as forecast.
        unit: Unit of time, for the axis.
        most: Number of programs shown: those that the schedules move most.
    """
    shift = programs - programs.sel(perturbation=control)
    mean = shift.mean(("chain", "draw"))
    strength = xr.DataArray(abs(mean)).max(("perturbation", "time")).to_numpy()
    strongest = programs.program.to_numpy()[np.argsort(-strength)[:most]]
    labels = [name for name in programs.perturbation.to_numpy() if name != control]
    figure = Picture(
        figsize=(3.1 * len(strongest), 3.4),
        layout="constrained",
        alt="programs over time under each schedule, less the control's, with 80 % intervals",
    )
    axes = figure.subplots(1, len(strongest), sharey=True, squeeze=False)[0]
    time = programs.time.to_numpy()
    for axis, program in zip(axes, strongest, strict=True):
        for colour, label in zip(_cycle(len(labels)), labels, strict=True):
            drawn = shift.sel(perturbation=label, program=program)
            lower, middle, upper = drawn.quantile([0.1, 0.5, 0.9], dim=("chain", "draw")).to_numpy()
            axis.plot(time, middle, color=colour, label=label, lw=1.6)
            axis.fill_between(time, lower, upper, color=colour, alpha=0.2, lw=0)
        if observed_until is not None and observed_until < time[-1]:
            axis.axvspan(observed_until, time[-1], color="0.93", zorder=0)
            middle_of_forecast = (observed_until + time[-1]) / 2
            axis.text(
                middle_of_forecast,
                0.98,
                "forecast",
                transform=axis.get_xaxis_transform(),
                ha="center",
                va="top",
            )
        bare(axis, str(program).replace("_", " "), f"time ({unit})" if unit else "time")
    axes[0].set_ylabel("shift against control")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def effects(predicted: Effect, measurements: Sequence[Measurement]) -> Picture:
    """Predicted against measured effects, a panel a perturbation, with 80 % intervals of both.

    Args:
        predicted: Draws of the effects at the measurements' time.
        measurements: What was measured, in the order of the panels.
    """
    columns = min(3, max(1, len(measurements)))
    rows = -(-len(measurements) // columns)
    figure = Picture(
        figsize=(3.4 * columns, 3.2 * rows),
        layout="constrained",
        alt="predicted against measured effects, a panel a perturbation, with 80 % intervals",
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    genes = predicted.gene.to_numpy()
    for axis, one in zip(axes, measurements, strict=False):
        drawn = predicted.sel(perturbation=one.perturbation, time=one.time)
        lower, middle, upper = (
            xr.DataArray(drawn).quantile([0.1, 0.5, 0.9], dim=("chain", "draw")).to_numpy()[:, one.keep]
        )
        truth, noise = one.delta[one.keep], 1.2816 * np.sqrt(one.variance[one.keep])
        both = np.concatenate([lower, upper, truth - noise, truth + noise])
        limits = float(both.min()), float(both.max())
        axis.plot(limits, limits, color="0.6", lw=0.8, zorder=0)
        axis.errorbar(
            truth, middle, yerr=[middle - lower, upper - middle], xerr=noise,
            fmt="o", ms=3, lw=0.6, color=COLOURS[0], ecolor="#9ecae1",
        )  # fmt: skip
        for g in np.argsort(-np.abs(truth))[:4]:
            axis.annotate(
                genes[one.keep][g],
                (truth[g], middle[g]),
                fontsize=7,
                xytext=(3, 3),
                textcoords="offset points",
            )
        bare(axis, f"{one.perturbation}   r = {pearson(middle, truth):.2f}", "measured effect (log)")
    for axis in axes[::columns]:
        axis.set_ylabel("predicted effect (log)")
    for axis in axes[len(measurements) :]:
        axis.set_visible(False)
    return figure


def ranking(found: Ranking, *, most: int = 20) -> Picture:
    """Candidates in their order, beside the size of their effect and how well it is known.

    Args:
        found: What :meth:`Predictive.rank` returned.
        most: Number of candidates shown, the first ones.
    """
    table = found.table.head(most)
    place = np.arange(len(table))[::-1]
    figure = Picture(
        figsize=(8, 1.2 + 0.26 * len(table)),
        layout="constrained",
        alt="candidates in their order, and their effect against its spread",
    )
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = np.where(table["unseen"] != "", COLOURS[1], COLOURS[0])
    values = table[found.by].to_numpy()
    left.hlines(place, 0, values, color="0.8", lw=1)
    left.scatter(values, place, c=colours, s=22, zorder=3)
    if found.by == "information":
        width = 2 * table["standard_error"].to_numpy()
        left.hlines(place, values - width, values + width, color="0.3", lw=2)
    left.set_yticks(place, table["candidate"], fontsize=8)
    left.set_xlim(left=0)
    named = {"information": f"expected information from {found.n_cells} cells (nats)"}
    bare(left, "", named.get(found.by, f"{found.by} (log)"))
    right.scatter(table["effect"], table["spread"], c=colours, s=22)
    for row in table.head(5).to_dict("records"):
        right.annotate(
            row["candidate"],
            (row["effect"], row["spread"]),
            fontsize=7,
            xytext=(3, 3),
            textcoords="offset points",
        )
    bare(right, "", "size of the expected effect (log)")
    right.set_ylabel("spread")
    if (table["unseen"] != "").any():
        right.scatter([], [], c=COLOURS[1], s=22, label="no training cells")
        right.legend(frameon=False, fontsize=8)
    return figure


def licence(found: Licence) -> Picture:
    """The share of the draws that pass each check, with the number and what it is compared with.

    Args:
        found: What :func:`~pyro_citevae.analysis.identifiability.licence` returned.
    """
    place = np.arange(len(found.checks))[::-1]
    figure = Picture(figsize=(7, 3.2), layout="constrained", alt="share of the draws that pass each check")
    axis = figure.subplots()
    colours = [COLOURS[2] if one.passed else COLOURS[1] for one in found.checks]
    axis.barh(place, [0.0 if one.passed is None else one.share for one in found.checks], color=colours)
    for where, one in zip(place, found.checks, strict=True):
        sign = "\N{GREATER-THAN OR EQUAL TO}" if one.at_least else "\N{LESS-THAN OR EQUAL TO}"
        text = "not tried" if one.passed is None else f"{one.number:.3g} ({sign} {one.threshold:.3g})"
        axis.text(1.02, where, text, va="center", fontsize=8)
    axis.set_yticks(place, [f"{i}. {one.name}" for i, one in enumerate(found.checks, 1)], fontsize=8)
    axis.set_xlim(0, 1.3)
    axis.set_xticks([0, 0.5, 1])
    bare(axis, f"licence: {found.equivalence}", "share of the draws that pass")
    return figure


def _cycle(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]
