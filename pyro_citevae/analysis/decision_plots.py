"""Pictures for decisions: what to measure next, and what may be claimed."""

from __future__ import annotations

import numpy as np

from pyro_citevae.analysis.figure_style import COLOURS, bare, legend, shortened
from pyro_citevae.analysis.identifiability.licence import Licence
from pyro_citevae.infer.ranking import Ranking
from pyro_citevae.infer.volcano import effect_label
from pyro_citevae.picture import Drawn, Given, drawn_on
from pyro_citevae.placed_names import place_names

__all__ = ["licence", "ranking"]

_NAMED = 5  # candidates with a name beside their point
_SEEN = (("training cells", COLOURS[0], "o"), ("no training cells", COLOURS[1], "^"))


def ranking(found: Ranking, *, most: int = 20, ax: Given = None) -> Drawn:
    """Candidates in their order, beside the size of their effect and how well it is known.

    Args:
        found: What :meth:`~pyro_citevae.Posterior.rank` returned.
        most: Number of candidates shown, the first ones.
        ax: Where to draw, an axis for the order and one for the sizes; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Raises:
        DataError: There are not two axes.

    Example:
        >>> import pyro_citevae as cv
        >>> data = cv.simulate(n_cells=30).data
        >>> model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
        >>> guide = cv.guides.MeanField(model, hidden=4)
        >>> posterior = cv.fit(model, guide, data, max_epochs=1, progress=False)
        >>> found = posterior.rank(["gene_0", "gene_1"], draws=20)
        >>> ranking(found).axes[0].get_xlabel()
        'expected information from 100 cells (nats)'
    """
    table = found.table.head(most)
    place = np.arange(len(table))[::-1]
    said = f"{len(table)} candidates by {found.by}, and the size of their effects against its spread"
    names = [shortened(one) for one in table["candidate"]]
    size = (7.4 + 0.07 * max(map(len, names)), max(2.8, 1.7 + 0.26 * len(table)))
    made, (left, right) = drawn_on("ranking", ax, size, said, panels=2, width_ratios=(3, 2))
    values, unseen = table[found.by].to_numpy(), (table["unseen"] != "").to_numpy()
    left.hlines(place, 0, values, color="0.8", lw=1)
    if found.by == "information":
        width = 2 * table["standard_error"].to_numpy()
        left.hlines(place, values - width, values + width, color="0.3", lw=2, label="2 standard errors")
    where = table[["effect", "spread"]].to_numpy(dtype=float)
    for chosen, (said, colour, marker) in zip((~unseen, unseen), _SEEN, strict=True):
        if chosen.any():
            left.scatter(values[chosen], place[chosen], c=colour, marker=marker, s=22, zorder=3, label=said)
            right.scatter(where[chosen, 0], where[chosen, 1], c=colour, marker=marker, s=22)
    left.set_yticks(place, names, fontsize=8)
    left.set_xlim(left=0)
    unit = str(found.effects.attrs.get("unit", ""))
    expected = effect_label("size of the expected", unit)
    spread = effect_label("spread of the", unit)
    named = {"information": f"expected information from {found.n_cells} cells (nats)", "effect": expected}
    bare(left, "", named.get(found.by, spread))
    legend(made, left, "outside lower center", ncols=3)
    bare(right, "", expected.replace("expected ", "expected\n"))
    right.set_ylabel(spread.replace("of the ", "of the\n").replace(" (", "\n("))
    right.margins(0.15)
    candidates = [shortened(one, 20) for one in table["candidate"][:_NAMED]]
    place_names(right, where[:_NAMED], candidates, where)
    return made


def licence(found: Licence, *, ax: Given = None) -> Drawn:
    """The share of the draws that pass each check, with the number and what it is compared with.

    Args:
        found: What :func:`~pyro_citevae.analysis.licence` returned.
        ax: Where to draw; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Example:
        >>> from pyro_citevae.analysis import Check, Licence
        >>> check = Check("overlap", "smallest share", 0.4, 0.1, True, 1.0, True, "Groups overlap.")
        >>> licence(Licence("affine", "They overlap.", (check,), 50, 100)).axes[0].get_title()
        'licence: affine'
    """
    place = np.arange(len(found.checks))[::-1]
    passed = sum(bool(one.passed) for one in found.checks)
    said = (
        f"share of the draws that pass each check; {passed} of {len(found.checks)} pass: {found.equivalence}"
    )
    names = [f"{i}. {shortened(one.name, 40)}" for i, one in enumerate(found.checks, 1)]
    size = (5.4 + 0.07 * max(map(len, names)), 1.2 + 0.26 * len(names))
    made, (axis,) = drawn_on("licence", ax, size, said)
    for where, one in zip(place, found.checks, strict=True):
        share = 0.0 if one.passed is None else one.share
        filled = bool(one.passed)
        axis.barh(
            where, share, color=COLOURS[2] if filled else "white", ec=COLOURS[2 if filled else 1],
            hatch="" if filled else "///",
        )  # fmt: skip
        sign = "\N{GREATER-THAN OR EQUAL TO}" if one.at_least else "\N{LESS-THAN OR EQUAL TO}"
        text = "not tried" if one.passed is None else f"{one.number:.3g} ({sign} {one.threshold:.3g})"
        axis.text(1.02, where, text, va="center", fontsize=8)
    axis.set_yticks(place, names, fontsize=8)
    axis.set_xlim(0, 1.3)
    axis.set_xticks([0, 0.5, 1])
    bare(axis, f"licence: {found.equivalence}", "share of draws that pass (hatched: too few)")
    return made
