"""Pictures of criticism: predictive checks, calibration, uniformity, Pareto k."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from pyro_citevae.analysis.criticism.coverage_plots import calibration, coverage
from pyro_citevae.analysis.criticism.uniformity import ecdf, ecdf_band, uniform
from pyro_citevae.analysis.figure_style import COLOURS, bare
from pyro_citevae.picture import Drawn, Given, drawn_on

__all__ = ["calibration", "coverage", "ecdf_differences", "pareto_k", "pit", "predictive_checks"]

_NAMED = tuple(COLOURS[i] for i in (1, 2, 3, 4, 6))
_STYLES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))


def predictive_checks(check: xr.DataTree, *, ax: Given = None) -> Drawn:
    """Replicated statistics, as medians with 90 % intervals, against the measured ones.

    Args:
        check: What :func:`~pyro_citevae.analysis.predictive_check` returned.
        ax: Where to draw, an axis a statistic and one more for mean and variance; None for a figure of
            its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Raises:
        DataError: The axes are not as many as the panels.

    Example:
        >>> import pyro_citevae as cv
        >>> data = cv.simulate(n_cells=60, n_steps=2).data
        >>> model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
        >>> guide = cv.guides.MeanField(model, hidden=4)
        >>> posterior = cv.fit(model, guide, data, max_epochs=1, progress=False)
        >>> predictive_checks(cv.analysis.predictive_check(posterior, data, draws=5)).axes[0].get_title()
        'share of zeros, by gene'
    """
    (name,) = set(check.children) & {"posterior_predictive", "prior_predictive"}
    observed, p = check["observed_data"].to_dataset(), check["p_value"].to_dataset()
    bounds = check[name].to_dataset().quantile([0.05, 0.5, 0.95], dim=("chain", "draw"))
    titles = {
        "zero_fraction": "share of zeros, by gene",
        "mean": "mean, by gene",
        "variance": "variance, by gene",
        "library_size": "library size, by quantile",
        "differentially_expressed": "differing genes, by group",
    }
    shown = [one for one in titles if one in observed]
    rows = -(-(len(shown) + 1) // 3)
    made, axes = drawn_on(
        "predictive_checks", ax, (9.6, 3.2 * rows),
        f"replicated against measured statistics: {', '.join(titles[one] for one in shown)}",
        panels=len(shown) + 1, columns=3,
    )  # fmt: skip
    for axis, one in zip(axes, shown, strict=False):
        truth = observed[one].to_numpy().ravel()
        lower, middle, upper = bounds[one].to_numpy().reshape(3, -1)
        _against(axis, truth, lower, middle, upper, extreme=p[one].to_numpy().ravel() < 0.05)
        bare(axis, titles[one], "measured")
    for axis in axes[: len(shown) : 3]:
        axis.set_ylabel("replicated")
    _mean_variance(axes[-1], observed, bounds)
    return made


def _against(
    axis: Axes,
    truth: np.ndarray,
    lower: np.ndarray,
    middle: np.ndarray,
    upper: np.ndarray,
    extreme: np.ndarray,
) -> None:
    known = np.isfinite(truth)
    both = np.concatenate([truth[known], lower[known], upper[known]])
    limits = float(both.min()), float(both.max())
    axis.plot(limits, limits, color="0.6", lw=0.8, zorder=0)
    kinds = ((~extreme, COLOURS[0], "o", "p ≥ 0.05"), (extreme, COLOURS[1], "^", "p < 0.05"))
    for chosen, colour, marker, label in kinds:
        chosen = chosen & known
        axis.errorbar(
            truth[chosen], middle[chosen],
            yerr=[(middle - lower)[chosen], (upper - middle)[chosen]],
            fmt=marker, ms=3, lw=0.7, color=colour, label=f"90 % interval, {label} ({chosen.sum()})",
        )  # fmt: skip
    if limits[0] > 0 and limits[1] > 30 * limits[0]:
        axis.set(xscale="log", yscale="log")
    axis.legend(frameon=False, fontsize=7, loc="upper left", handletextpad=0.2)


def _mean_variance(axis: Axes, observed: xr.Dataset, bounds: xr.Dataset) -> None:
    middle = bounds.sel(quantile=0.5)
    axis.plot(observed["mean"], observed["variance"], "o", ms=3.5, color="black", label="measured")
    axis.plot(
        middle["mean"], middle["variance"], "o", ms=3.5, mfc="none", color=COLOURS[0], label="replicated"
    )
    if (observed["mean"] > 0).all() and (middle["mean"] > 0).all():
        axis.set(xscale="log", yscale="log")
    axis.legend(frameon=False, fontsize=7, loc="upper left")
    axis.set_ylabel("variance")
    bare(axis, "mean and variance, by gene", "mean")


def pit(values: xr.DataArray, *, probability: float = 0.99, ax: Given = None) -> Drawn:
    """Histogram of all PIT values, and the ECDF over cells of each gene less the uniform one, with the band.

    Args:
        values: What :func:`~pyro_citevae.analysis.randomised_pit` returned.
        probability: Of the band, for one gene.
        ax: Where to draw, an axis for the histogram and one for the ECDF; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Raises:
        DataError: There are not two axes.

    Example:
        >>> values = xr.DataArray(np.random.default_rng(0).random((90, 2)), dims=("cell", "gene"))
        >>> pit(values.assign_coords(gene=["A", "B"])).axes[1].get_title()
        '2 of 2 inside the 99% band (n = 90)'
    """
    said = "histogram and distribution of the probability integral transform"
    made, (left, right) = drawn_on("pit", ax, (8.4, 3.3), said, panels=2, width_ratios=[1, 1.4])
    left.hist(
        values.to_numpy().ravel(), bins=20, range=(0, 1), density=True, color=COLOURS[5], ec="white", lw=0.5
    )
    left.axhline(1, color="0.3", lw=0.8)
    left.set(xlim=(0, 1), ylabel="density")
    bare(left, "all values", "PIT")
    _ecdf_differences(
        right, values.transpose("gene", "cell").rename(gene="quantity", cell="draw"), probability
    )
    right.set_xlabel("PIT")
    return made


def ecdf_differences(values: xr.DataArray, *, probability: float = 0.99, ax: Given = None) -> Drawn:
    """ECDF of each quantity less the uniform one, with the band in which a calibrated one lies.

    Args:
        values: Values between 0 and 1 with dims (quantity, draw), such as those of
            :func:`~pyro_citevae.analysis.quantities`.
        probability: Of the band, for one quantity.
        ax: Where to draw; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Example:
        >>> values = xr.DataArray(np.random.default_rng(0).random((3, 90)), dims=("quantity", "draw"))
        >>> ecdf_differences(values.assign_coords(quantity=list("abc"))).axes[0].get_ylabel()
        'ECDF less uniform'
    """
    said = "distribution of each quantity less the uniform one, with a band"
    made, (axis,) = drawn_on("ecdf_differences", ax, (5.6, 3.3), said)
    _ecdf_differences(axis, values, probability)
    return made


def _ecdf_differences(axis: Axes, values: xr.DataArray, probability: float) -> None:
    n = values.sizes["draw"]
    verdict = uniform(values, "draw", probability=probability)
    share = ecdf(values, "draw")
    band = ecdf_band(n, probability=probability)
    at, edge = share["value"].to_numpy(), band - band["value"]
    axis.fill_between(at, edge.sel(bound="lower"), edge.sel(bound="upper"), color="0.9", lw=0, step="mid")
    axis.axhline(0, color="0.6", lw=0.8)
    inside = verdict.inside.to_numpy()
    difference = (share - share["value"]).transpose("quantity", "value").to_numpy()
    for line in difference[inside]:
        axis.plot(at, line, color=COLOURS[0], lw=0.7, alpha=0.6)
    outside = np.flatnonzero(~inside)
    outside = outside[np.argsort(-verdict.distance.to_numpy()[outside], kind="stable")]
    for place, i in enumerate(outside):
        named = place < len(_NAMED)
        label = str(values["quantity"].to_numpy()[i]) if named else None
        colour, width, ls = (_NAMED[place], 1.4, _STYLES[place]) if named else ("0.55", 0.7, "-")
        axis.plot(at, difference[i], color=colour, lw=width, ls=ls, label=label, zorder=3 if named else 2)
    if len(outside):
        axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), title="furthest")
    axis.set(xlim=(0, 1), ylabel="ECDF less uniform")
    bare(axis, f"{inside.sum()} of {len(inside)} inside the {probability:.0%} band (n = {n})", "scaled rank")


def pareto_k(found: xr.Dataset, *, ax: Given = None) -> Drawn:
    """Pareto k of each cell's states, sorted, with the thresholds and the share of cells below each.

    Args:
        found: What :func:`~pyro_citevae.analysis.pareto_k` returned.
        ax: Where to draw; None for a figure of its own.

    Returns:
        The figure, or ``ax`` if it was given.

    Example:
        >>> below = {"good_below": 0.5, "usable_below": 0.7}
        >>> found = xr.Dataset({"states": ("cell", [0.1, 0.6])}, attrs=below)
        >>> pareto_k(found).axes[0].get_ylabel()
        'Pareto k'
    """
    k = np.sort(found.states.to_numpy())
    finite = k[np.isfinite(k)]
    good, usable = found.attrs["good_below"], found.attrs["usable_below"]
    said = f"Pareto k of {len(k)} cells, sorted; {np.mean(k < usable):.0%} are usable"
    made, (axis,) = drawn_on("pareto_k", ax, (5.6, 3.3), said)
    axis.plot(np.arange(len(k)), k, ".", ms=3, color=COLOURS[0])
    for threshold, colour, ls, name in (
        (good, COLOURS[2], "-.", "good"),
        (usable, COLOURS[1], "-", "usable"),
    ):
        label = f"{name} below {threshold:.2f}: {np.mean(k < threshold):.0%} of cells"
        axis.axhline(threshold, color=colour, ls=ls, lw=1, label=label)
    if "mechanism" in found:
        axis.axhline(
            found.mechanism, color=COLOURS[6], lw=1, ls="--", label=f"mechanism: {found.mechanism:.2f}"
        )
    if len(finite):
        axis.set_ylim(min(finite[0], 0) - 0.1, max(finite[-1], usable) + 0.1)
    axis.set_ylabel("Pareto k")
    axis.legend(frameon=False, fontsize=7, loc="upper left")
    bare(axis, "guide against posterior, cell by cell", "cells, sorted")
    return made
