"""The volcano plot: how large the effect on each gene is, and how sure its sign."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pyro_citevae.picture import Drawn, Given, drawn_on, verbatim
from pyro_citevae.placed_names import place_names

__all__ = ["effect_label", "volcano"]

_HIGHER, _LOWER, _WITHIN = "#d55e00", "#0072b2", "0.75"  # told apart by the colour-blind
_DASHED: dict[str, Any] = {"color": "0.5", "lw": 0.7, "ls": "--", "zorder": 0}
_ROOM = 1.4  # for names above the points with the least rate
_GROUPS = (("higher", _HIGHER, "^"), ("lower", _LOWER, "v"), ("not beyond both lines", _WITHIN, "o"))


def effect_label(which: str, unit: str) -> str:
    """What an axis of effects is labelled with.

    Args:
        which: ``"mean"``, ``"measured"``, ``"predicted"``.
        unit: Unit of the effect, as its attribute ``unit`` says.
    """
    if unit == "log(1 + count)":
        return f"{which} change of log(1 + count)"
    return f"{which} effect ({unit})" if unit else f"{which} effect"


def volcano(
    table: pd.DataFrame,
    *,
    n_draws: int,
    threshold: float,
    tail: float,
    unit: str,
    when: str,
    most_named: int,
    ax: Given = None,
) -> Drawn:
    """A panel a perturbation: mean effects against ``-log10`` of the local false sign rate.

    Args:
        table: Rows of one time, as :meth:`~pyro_citevae.infer.effect.Effect.table` has them.
        n_draws: Number of draws, whose inverse is the least rate that is shown.
        threshold: Size of effects at the vertical lines.
        tail: Rate at the horizontal line.
        unit: Unit of effects.
        when: The time, for the titles.
        most_named: How many genes are named at most.
        ax: Where to draw, an axis a panel; None for a figure of its own.
    """
    panels = list(table.groupby("perturbation", sort=False))
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    labels = ", ".join(str(label) for label, _ in panels)
    made, axes = drawn_on(
        "volcano", ax, (1.0 + 3.6 * columns, 0.6 + 3.2 * rows),
        f"mean effect of {labels} on each gene, against its local false sign rate",
        panels=len(panels), columns=columns, sharey=True,
    )  # fmt: skip
    points = []
    for axis, (label, genes) in zip(axes, panels, strict=True):
        points.append(_panel(axis, genes, n_draws, threshold, tail))
        axis.set_title(verbatim(textwrap.fill(f"{label}, {when}", 34)), fontsize=10)
        axis.set_xlabel(effect_label("mean", unit))
    for axis in axes[::columns]:
        axis.set_ylabel(f"-log$_{{10}}$ local false sign rate\n(floor: 1 / {n_draws} draws)")
    said = f"|effect| = {threshold:g}, rate = {tail:.3g}"
    axes[0].plot([], [], **{**_DASHED, "label": said})
    legend = {"handles": axes[0].get_legend_handles_labels()[0], "frameon": False, "fontsize": 8}
    if ax is None:
        made.legend(**legend, loc="outside lower center", ncols=2 if columns == 1 else 4)
    else:
        axes[0].legend(**legend)
    for axis, shown in zip(axes, points, strict=True):
        _name(axis, shown, most_named)
    return made


def _panel(axis: Axes, genes: pd.DataFrame, n_draws: int, threshold: float, tail: float) -> pd.DataFrame:
    """Draws the points and the lines of a panel; returns the points, and which lie beyond both lines."""
    rate = genes["lfsr"].clip(lower=1 / n_draws)
    beyond = (genes["mean"].abs() > threshold) & (rate <= tail)
    points = pd.DataFrame({"gene": genes["gene"], "x": genes["mean"], "y": -np.log10(rate), "beyond": beyond})
    kind = np.where(points["beyond"], np.where(points["x"] > 0, 0, 1), 2)
    for i, (said, colour, marker) in reversed(list(enumerate(_GROUPS))):  # the coloured ones on top
        shown = points[kind == i]
        axis.scatter(shown["x"], shown["y"], c=colour, marker=marker, s=14, lw=0, label=said)
    for x in {-threshold, threshold}:
        axis.axvline(x, **_DASHED)
    axis.axhline(-np.log10(tail), **_DASHED)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.15)
    axis.set_ylim(-0.05, _ROOM * max(np.log10(n_draws), -np.log10(tail)))
    return points


def _name(axis: Axes, points: pd.DataFrame, most: int) -> None:
    """Names the genes with the largest means beyond both lines."""
    order = np.argsort(-points["x"].abs().to_numpy(), kind="stable")
    named = points.iloc[order[points["beyond"].to_numpy()[order]][:most]]
    where = points[["x", "y"]].to_numpy(dtype=float)
    place_names(
        axis, named[["x", "y"]].to_numpy(dtype=float), [verbatim(gene) for gene in named["gene"]], where
    )
