"""Pictures of a fit and of pairs: the bound as it rose, and what pairs do beside the sum."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pyro_citevae.analysis.figure_style import COLOURS, bare, shortened
from pyro_citevae.infer.interactions import ADDITIVE, Interactions
from pyro_citevae.picture import Drawn, Given, drawn_on

__all__ = ["interactions", "training"]

_MARKERS = {"synergy": "^", "buffering": "v", "dominance": "D", "additive": "o", "unclear": "x"}


def training(history: pd.DataFrame, *, ax: Given = None) -> Drawn:
    """The bound by step, of the cells that trained and of those that were held back.

    Args:
        history: ``posterior.history``.
        ax: Where to draw; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Example:
        >>> history = pd.DataFrame({"step": [1, 2, 3], "training": [-9.0, -5.0, -4.0]})
        >>> training(history).axes[0].get_ylabel()
        'bound (nats a cell)'
    """
    made, (axis,) = drawn_on("training", ax, (5.6, 3.2), "the bound by step, training and held out")
    axis.plot(history["step"], history["training"], color=COLOURS[0], lw=1.4, label="training")
    if "held_out" in history and history["held_out"].notna().any():
        shown = history[history["held_out"].notna()]
        axis.plot(shown["step"], shown["held_out"], color=COLOURS[1], lw=1.4, ls="--", label="held out")
    late = history["training"].iloc[len(history) // 10 :]
    low, high = float(late.min()), float(history["training"].max())
    axis.set_ylim(
        low - 0.1 * (high - low) - 1e-9, high + 0.1 * (high - low) + 1e-9
    )  # the first steps are far below
    axis.set_ylabel("bound (nats a cell)")
    axis.legend(frameon=False, fontsize=8)
    bare(axis, "", "step")
    return made


def interactions(found: Interactions, *, ax: Given = None) -> Drawn:
    """The strength of each pair, with its interval: one where the pair is the sum of its members.

    Args:
        found: What :meth:`~pyro_citevae.Posterior.interactions` returned.
        ax: Where to draw; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Example:
        >>> import pyro_citevae as cv
        >>> data = cv.simulate(n_cells=30).data
        >>> model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
        >>> guide = cv.guides.MeanField(model, hidden=4)
        >>> posterior = cv.fit(model, guide, data, max_epochs=1, progress=False)
        >>> picture = interactions(posterior.interactions(["gene_0+gene_1"], draws=10))
        >>> [label.get_text() for label in picture.axes[0].get_yticklabels()]
        ['gene_0+gene_1']
    """
    table = found.table.sort_values("strength", ignore_index=True)
    made, (axis,) = drawn_on(
        "interactions", ax, (6.6, 1.4 + 0.26 * len(table)),
        f"strength of {len(table)} pairs beside the sum of their members, with intervals",
    )  # fmt: skip
    place = np.arange(len(table))
    axis.axvspan(*ADDITIVE, color="0.93", lw=0, zorder=0)
    axis.axvline(1, color="0.6", lw=0.8)
    mass = f"{100 * found.probability:g} % interval"
    axis.hlines(place, table["lower"], table["upper"], color="0.5", lw=1, label=mass)
    for i, (kind, marker) in enumerate(_MARKERS.items()):
        chosen = table["kind"] == kind
        if chosen.any():
            axis.plot(table["strength"][chosen], place[chosen], marker, color=COLOURS[i], ms=5, label=kind)
    one_time = table["time"].nunique() == 1
    pairs = table["pair"].map(shortened)
    labels = pairs if one_time else pairs + ", " + table["time"].map("{:g}".format)
    axis.set_yticks(place, labels, fontsize=8)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    bare(axis, "", "strength (1 is the sum of the members)")
    return made
