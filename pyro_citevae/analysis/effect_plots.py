"""Pictures of effects: predicted beside measured, and how sure each gene's sign is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from pyro_citevae.analysis.figure_style import COLOURS, INTERVAL, bare, legend, shortened
from pyro_citevae.analysis.scoring.measurement import Measurement
from pyro_citevae.analysis.scoring.scores import pearson
from pyro_citevae.arguments import Names, Number
from pyro_citevae.errors import DataError, few
from pyro_citevae.infer.effect import Effect
from pyro_citevae.infer.volcano import effect_label
from pyro_citevae.picture import Drawn, Given, drawn_on, verbatim
from pyro_citevae.placed_names import place_names

__all__ = ["effects", "volcano"]


def effects(
    predicted: Effect, measurements: Sequence[Measurement], *, most_named: int = 4, ax: Given = None
) -> Drawn:
    """Predicted against measured effects, a panel a perturbation, with 80 % intervals of both.

    Args:
        predicted: Draws of the effects at the measurements' time.
        measurements: What was measured, in the order of the panels.
        most_named: How many genes of a panel are named at most: those with the largest measured effects. A
            name that finds no room is left out.
        ax: Where to draw, an axis a measurement; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Raises:
        DataError: The axes are not as many as the measurements, an effect was not predicted, or the effects
            are of several contexts.

    Example:
        >>> from pyro_citevae.data import Schema, do
        >>> schema = Schema(genes=("MYC", "TP53"), tokens=("A",))
        >>> delta, draws = np.array([0.5, -0.2]), np.random.default_rng(0).normal(0, 0.1, (1, 9, 1, 1, 2))
        >>> predicted = Effect.of(draws + delta, [do("A")], [1.0], schema, do())
        >>> measured = Measurement("A", 1.0, delta, np.full(2, 0.01), np.array([True, True]), 0.9)
        >>> effects(predicted, [measured]).axes[0].get_xlabel()
        'measured change of log(1 + count)'
    """
    predicted = _of_one_context(predicted)
    columns = min(3, max(1, len(measurements)))
    rows = -(-len(measurements) // columns)
    labels = ", ".join(one.perturbation for one in measurements)
    made, axes = drawn_on(
        "effects", ax, (3.4 * columns, 0.3 + 3.2 * rows),
        f"predicted against measured effects of {labels} on each gene, with 80 % intervals",
        panels=len(measurements), columns=columns,
    )  # fmt: skip
    genes, unit = predicted.gene.to_numpy(), str(predicted.attrs.get("unit", ""))
    points = []
    for axis, one in zip(axes, measurements, strict=True):
        drawn = predicted.sel(perturbation=one.perturbation, time=one.time)
        lower, middle, upper = (
            xr.DataArray(drawn).quantile([0.1, 0.5, 0.9], dim=("chain", "draw")).to_numpy()[:, one.keep]
        )
        truth, noise = one.delta[one.keep], 1.2816 * np.sqrt(one.variance[one.keep])
        both = np.concatenate([lower, upper, truth - noise, truth + noise])
        limits = float(both.min()), float(both.max())
        axis.plot(limits, limits, color="0.6", lw=0.8, ls="--", zorder=0, label="equal")
        axis.errorbar(
            truth, middle, yerr=[middle - lower, upper - middle], xerr=noise,
            fmt="o", ms=3, lw=0.6, color=COLOURS[0], ecolor="#9ecae1", label=f"median, {INTERVAL} of both",
        )  # fmt: skip
        points.append((np.stack([truth, middle], axis=1), genes[one.keep]))
        title = f"{shortened(one.perturbation, 24)}   r = {pearson(middle, truth):.2f}"
        bare(axis, title, effect_label("measured", unit))
    for axis in axes[::columns]:
        axis.set_ylabel(effect_label("predicted", unit))
    legend(made, axes[0], "outside lower center", ncols=2)
    for axis, (where, named) in zip(axes, points, strict=True):
        first = np.argsort(-np.abs(where[:, 0]), kind="stable")[:most_named]
        place_names(axis, where[first], [verbatim(gene) for gene in named[first]], where)
    return made


def _of_one_context(predicted: Effect) -> Effect:
    """Effects without the dim context, which measurements have not.

    Raises:
        DataError: There are several contexts.
    """
    if "context" not in predicted.dims:
        return predicted
    contexts = [str(one) for one in predicted["context"].to_numpy()]
    if len(contexts) > 1:
        raise DataError(
            f"plots.effects(predicted, ...) has the contexts {few(contexts)}, and shows one; choose it "
            f"first, as in effect.sel(context={contexts[0]!r})."
        )
    return predicted.isel(context=0)


def volcano(
    effect: Effect,
    *,
    perturbation: Names | None = None,
    time: Number | None = None,
    threshold: Number = 0.1,
    probability: Number = 0.9,
    most_named: Number = 8,
    ax: Given = None,
) -> Drawn:
    """Size of each gene's effect against how sure its sign is: :meth:`Effect.plot_volcano`.

    Args:
        effect: Draws of effects.
        perturbation: Labels to show; None for all, at most six.
        time: Time to show; None for the last one.
        threshold: Size of effects, in their own unit.
        probability: Mass inside the interval.
        most_named: How many genes are named at most.
        ax: Where to draw, an axis a perturbation; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Raises:
        DataError: As :meth:`Effect.plot_volcano` does.

    Example:
        >>> from pyro_citevae.data import Schema, do
        >>> schema = Schema(genes=("MYC", "TP53"), tokens=("A",), time_unit="day")
        >>> draws = np.random.default_rng(0).normal([1.0, 0.0], 0.1, (1, 50, 1, 1, 2))
        >>> volcano(Effect.of(draws, [do("A")], [1.0], schema, do())).axes[0].get_title()
        'A, day 1'
    """
    return effect.plot_volcano(perturbation, time, threshold, probability, most_named, ax)
