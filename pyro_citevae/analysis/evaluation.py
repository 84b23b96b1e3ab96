"""Predictors on measured effects: one tidy table, always with baselines and the ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float
from scipy import sparse

from pyro_citevae.analysis import cell_scores, scores
from pyro_citevae.analysis.calibration import coverage
from pyro_citevae.analysis.scores import pearson, relative_l2
from pyro_citevae.data import pseudobulk
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError
from pyro_citevae.infer.prediction import Effect

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "ALL",
    "CEILING",
    "COLUMNS",
    "REPRODUCIBLE",
    "Measurement",
    "cell_rows",
    "evaluate",
    "markdown",
    "means",
    "measure",
    "measured_effects",
    "pearson",
    "relative_l2",
    "reproducible",
    "require_unseen",
    "scaled_scores",
    "skills",
    "summary",
]

ALL, REPRODUCIBLE, CEILING = "ALL", "REPRODUCIBLE", "ceiling"
COLUMNS = ("protocol", "dataset", "predictor", "perturbation", "time", "fold", "seed", "score", "value")
_REPRODUCIBLE_ABOVE = 0.3
_SHOWN = ("pearson_delta_control", "relative_l2", "coverage_80")
_NOMINAL = (0.5, 0.8, 0.9, 0.95)
_STRONG = 20
_PROGRAMS = 10


@dataclass(frozen=True)
class Measurement:
    """A measured effect with what is known of its noise.

    Attributes:
        perturbation: Label of the perturbed group.
        time: Time of the group and of its controls.
        delta: The effect against the controls of the same time.
        variance: Sampling variance of the effect, by the jackknife of both groups.
        keep: Genes that count: all but the perturbed ones and those without a count in either group.
        split_half: Correlation of the effect between halves of the cells.
    """

    perturbation: str
    time: float
    delta: Float[np.ndarray, " gene"]
    variance: Float[np.ndarray, " gene"]
    keep: Bool[np.ndarray, " gene"]
    split_half: float

    @property
    def reliability(self) -> float:
        """Share of the effect's variance that is no noise, ``R = 2 r / (1 + r)`` (Spearman 1910, Brown)."""
        r = max(self.split_half, 0.0)
        return 2 * r / (1 + r)


def measure(
    data: Trajectories,
    perturbation: str,
    time: float,
    controls: Trajectories | None = None,
    genes: Sequence[str] | None = None,
) -> Measurement:
    """Measures one effect against the controls of the same time.

    Args:
        data: The perturbed cells.
        perturbation: Their label.
        time: Their time.
        controls: Where the controls are; None for ``data`` itself.
        genes: Genes that were measured; None for all of the schema.

    Raises:
        DataError: There are no such cells, or no controls at that time.
    """
    group = data.select(perturbation, time)
    reference = (data if controls is None else controls).select(data.schema.control, time)
    if min(group.n_cells, reference.n_cells) == 0:
        raise DataError(f"no cells of '{perturbation}' and '{data.schema.control}' at {time:g} to measure.")
    own = list(Schedule.parse(perturbation, data.schema.control).tokens)
    keep = ~np.isin(np.array(data.schema.genes), own)
    if genes is not None:
        keep &= np.isin(np.array(data.schema.genes), list(genes))
    # a gene without a count in either group has an effect of zero by definition, not by measurement
    keep &= np.asarray(abs(group.values).sum(0) + abs(reference.values).sum(0)).ravel() > 0
    variance = pseudobulk.jackknife_variance(group) + pseudobulk.jackknife_variance(reference)
    halves = pseudobulk.split_half(group, reference, keep)
    return Measurement(perturbation, time, pseudobulk.effect(group, reference), variance, keep, halves)


def measured_effects(measurements: Sequence[Measurement], genes: Sequence[str] | None = None) -> xr.Dataset:
    """Measured effects side by side, for :func:`~pyro_citevae.analysis.coverage` and the like.

    Args:
        measurements: What was measured, each perturbation once a time.
        genes: Names of the genes; None for their order alone.

    Returns:
        ``effect`` and ``variance`` with dims (perturbation, time, gene); NaN for the perturbed gene itself,
        and where nothing was measured.
    """
    rows = [
        xr.Dataset({"effect": ("gene", one.delta), "variance": ("gene", one.variance)})
        .where(xr.DataArray(one.keep, dims="gene"))
        .expand_dims(perturbation=[one.perturbation], time=[one.time])
        for one in measurements
    ]
    found: xr.Dataset = xr.combine_by_coords(rows, join="outer")  # type: ignore[assignment]
    return found if genes is None else found.assign_coords(gene=list(genes))


def evaluate(
    predicted: Mapping[str, Effect],
    measurements: Sequence[Measurement],
    *,
    headline: Sequence[str],
    protocol: str,
    dataset: str,
    fold: int = 0,
    seed: int = 0,
    others: Sequence[Measurement] = (),
    strata: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Scores predicted effects on measured ones.

    =========================  ==========================================================================
    score                      of an effect, own gene left out
    =========================  ==========================================================================
    pearson_delta_control      correlation of the effects against the control
    cosine_delta_control       cosine of the same
    pearson_delta_mean         correlation of what differs from the mean effect of all perturbations
    cosine_delta_mean          cosine of the same
    relative_l2                ``|predicted - measured| / |measured|``
    weighted_mse               squared error, weighted to differentially expressed genes
    weighted_r2_delta_control  the same weights, as share of explained variance
    weighted_r2_delta_mean     the same of what differs from the mean effect of all perturbations
    sign_accuracy_20, _100     directions of the strongest genes
    pds                        perturbation discrimination: 1 is perfect, 0.5 is chance
    crps                       mean over the genes
    energy_score               in the space of the ten leading directions of the others' effects
    coverage_50 to _95         share of genes in the interval of the effect plus the noise of measurement
    coverage_80_strong, _weak  the 20 genes with the largest measured ``|delta| / sd``, and the others
    sharpness_80               mean width of the 80 % interval
    risk_coverage_area         1 where the draws' spread does not tell which genes are wrong
    =========================  ==========================================================================

    Means over perturbations leave out what is not defined, as discrimination among one perturbation.

    Args:
        predicted: Effects by the name of what predicted them, with (chain, draw, perturbation, time, gene).
        measurements: Measured effects; each one's perturbation and time are among the predicted.
        headline: Reproducible perturbations, whose mean is ``REPRODUCIBLE``.
        protocol: Name of the protocol, for the table.
        dataset: Name of the data, for the table.
        fold: Fold of the protocol, for the table.
        seed: Seed of the fits, for the table.
        others: Measured effects of perturbations that are not scored, among which a prediction is to be told
            apart, and which count in the mean of all perturbations.
        strata: Further groups of perturbations, such as ``"BOTH SEEN"``, whose mean is quoted by their name.

    Returns:
        One row a number: ``protocol, dataset, predictor, perturbation, time, fold, seed, score, value``,
        with the predictor ``ceiling`` and, as perturbations, the means ``ALL`` and ``REPRODUCIBLE``.
    """
    rows = []
    for one in measurements:
        context = _Context.of(one, [*measurements, *others])
        found = {CEILING: _ceiling(one)}
        for name, effect in predicted.items():
            drawn = xr.DataArray(effect).sel(perturbation=one.perturbation, time=one.time)
            draws = drawn.transpose("chain", "draw", "gene").to_numpy()
            found[name] = _effect_scores(draws.reshape(-1, draws.shape[-1]), context)
        for name, values in found.items():
            rows += [(name, one.perturbation, one.time, score, value) for score, value in values.items()]
    frame = pd.DataFrame(rows, columns=["predictor", "perturbation", "time", "score", "value"])
    frame = frame.assign(protocol=protocol, dataset=dataset, fold=fold, seed=seed)
    return means(frame, {REPRODUCIBLE: headline} | dict(strata or {}))


@dataclass(frozen=True)
class _Context:
    """A measurement among the others of its time, on the genes that count."""

    truth: Float[np.ndarray, " gene"]
    variance: Float[np.ndarray, " gene"]
    keep: Bool[np.ndarray, " all"]
    others: Float[np.ndarray, "other gene"]
    mean: Float[np.ndarray, " gene"]
    weight: Float[np.ndarray, " gene"]
    programs: Float[np.ndarray, "program gene"]

    @classmethod
    def of(cls, one: Measurement, among: Sequence[Measurement]) -> _Context:
        truth, variance = one.delta[one.keep], one.variance[one.keep]
        now = {other.perturbation: other.delta[one.keep] for other in among if other.time == one.time}
        others = np.array([delta for name, delta in now.items() if name != one.perturbation])
        others = others.reshape(-1, len(truth))
        mean = np.vstack([others, truth]).mean(0)
        programs = np.linalg.svd(others, full_matrices=False)[2][:_PROGRAMS]
        weight = scores.differential_weights(truth, variance)
        return cls(truth, variance, one.keep, others, mean, weight, programs)


def _ceiling(one: Measurement) -> dict[str, float]:
    """What a perfect prediction of noisy truth would score."""
    r = one.reliability
    return {"pearson_delta_control": float(np.sqrt(r)), "relative_l2": float(np.sqrt(1 - r))}


def _effect_scores(draws: Float[np.ndarray, "draw all"], context: _Context) -> dict[str, float]:
    """All scores of the draws of one effect."""
    draws = draws[:, context.keep]
    mean, truth, weight = draws.mean(0), context.truth, context.weight
    beyond, beyond_truth = mean - context.mean, truth - context.mean
    alone = len(context.others) == 0
    found = {
        "pearson_delta_control": pearson(mean, truth),
        "cosine_delta_control": scores.cosine(mean, truth),
        "pearson_delta_mean": np.nan if alone else pearson(beyond, beyond_truth),
        "cosine_delta_mean": np.nan if alone else scores.cosine(beyond, beyond_truth),
        "relative_l2": relative_l2(mean, truth),
        "weighted_mse": scores.weighted_mse(mean, truth, weight),
        "weighted_r2_delta_control": scores.weighted_r2(mean, truth, weight),
        "weighted_r2_delta_mean": np.nan if alone else scores.weighted_r2(beyond, beyond_truth, weight),
        "sign_accuracy_20": scores.sign_accuracy(mean, truth, 20),
        "sign_accuracy_100": scores.sign_accuracy(mean, truth, 100),
        "pds": scores.discrimination(mean, truth, context.others),
        "crps": float(scores.crps(draws, truth, context.variance).mean()),
    }
    if not alone:
        found["energy_score"] = scores.energy_score(draws, truth, context.variance, context.programs)
    if len(draws) > 1:
        found["risk_coverage_area"] = scores.area_under_risk_coverage(draws.std(0), (mean - truth) ** 2)
    return found | _interval_scores(draws, context)


def _interval_scores(draws: Float[np.ndarray, "draw gene"], context: _Context) -> dict[str, float]:
    """Coverage and width of the intervals of the effect plus the measured groups' sampling noise."""
    truth, variance = (xr.DataArray(value, dims="gene") for value in (context.truth, context.variance))
    drawn = xr.DataArray(draws[None], dims=("chain", "draw", "gene"))
    by_gene = coverage(drawn, truth, variance=variance, probability=_NOMINAL, by=["gene"])
    covers = by_gene.coverage.mean("gene").to_numpy()
    found = {f"coverage_{round(100 * p)}": float(c) for p, c in zip(_NOMINAL, covers, strict=True)}
    at_80 = by_gene.sel(probability=0.8)
    t = np.abs(context.truth) / np.sqrt(np.maximum(context.variance, 1e-12))
    strong = np.isin(np.arange(len(t)), np.argsort(-t, kind="stable")[:_STRONG])
    inside = at_80.coverage.to_numpy()
    found["coverage_80_strong"] = float(inside[strong].mean())
    found["coverage_80_weak"] = float(inside[~strong].mean()) if (~strong).any() else np.nan
    return found | {"sharpness_80": float(at_80.width.mean())}


def cell_rows(
    name: str,
    predicted: AnnData,
    measurement: Measurement,
    group: Trajectories,
    controls: Trajectories,
    most_cells: int = 300,
) -> pd.DataFrame:
    """Scores predicted cells of one perturbation at one time on measured ones, own gene left out.

    Energy distance and maximum mean discrepancy of the normalised values, and the overlap and direction of
    the calls of differential expression. Predicted calls are against the predicted control, so ``do()`` must
    be among the predicted schedules.

    Args:
        name: Name of the predictor.
        predicted: What ``predict`` returned for the perturbation, ``do()`` and the time.
        measurement: What was measured: it says the perturbation, its time and the genes that count.
        group: The measured perturbed cells.
        controls: The measured control cells of the same time.
        most_cells: Cells beyond this number are thinned evenly, in each of the four groups.

    Returns:
        Columns ``predictor, perturbation, time, score, value``.

    Raises:
        DataError: The perturbation, or the control, was not predicted.
    """
    schema, one = group.schema, measurement
    now = predicted.obs["time"].to_numpy() == one.time
    labels = predicted.obs["perturbation"].to_numpy()
    cells = {}
    for label in (one.perturbation, schema.control):
        rows = np.flatnonzero(now & (labels == label))
        if not len(rows):
            raise DataError(
                f"'{name}' predicted no cell of '{label}' at {one.time:g}; name it in predict(...)."
            )
        rows = rows[:: -(-len(rows) // most_cells)]
        cells[label] = _compared(sparse.csr_matrix(predicted.X)[rows].toarray(), schema, one.keep)
    true, base = (
        _compared(part.thinned(most_cells).values.toarray(), schema, one.keep) for part in (group, controls)
    )
    made, start = cells[one.perturbation], cells[schema.control]
    calls = cell_scores.differential_expression(made, start), cell_scores.differential_expression(true, base)
    found = {
        "energy_distance": cell_scores.energy_distance(made, true),
        "mmd": cell_scores.maximum_mean_discrepancy(made, true),
        "de_overlap": cell_scores.overlap(*calls),
        "de_direction": cell_scores.direction_agreement(*calls),
    }
    frame = pd.DataFrame({"score": list(found), "value": list(found.values())})
    return frame.assign(predictor=name, perturbation=one.perturbation, time=one.time)


def _compared(
    x: np.ndarray, schema: Schema, keep: Bool[np.ndarray, " all"]
) -> Float[np.ndarray, "cell gene"]:
    return cell_scores.normalised(x.astype(float), schema)[:, keep]


def means(frame: pd.DataFrame, strata: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Adds the means over all perturbations (``ALL``) and over those of each stratum, fold by fold.

    Args:
        frame: Tidy rows of single perturbations.
        strata: Perturbations by the name of their mean; names that were not scored do not count.

    Returns:
        The rows, with those of the means after them.
    """
    keys = [name for name in COLUMNS if name not in ("perturbation", "value")]
    groups = {ALL: frame.perturbation.unique(), **strata}
    made = [
        frame[frame.perturbation.isin(list(names))]
        .groupby(keys, as_index=False, sort=False)["value"]
        .mean()
        .assign(perturbation=group)
        for group, names in groups.items()
    ]
    return pd.concat([frame, *(part for part in made if len(part))])[list(COLUMNS)].reset_index(drop=True)


def skills(frame: pd.DataFrame, baselines: Sequence[str], score: str = "crps") -> pd.DataFrame:
    """Rows ``crps_skill_over_<baseline>``: ``1 - score / baseline's score``, for every other predictor.

    Args:
        frame: Tidy rows, those of the baselines among them (one seed, or the same as the predictor's).
        baselines: Names of the predictors to compare with.
        score: A score that is better when smaller.
    """
    keys = ["perturbation", "time", "fold"]
    kept = frame[frame.score == score]
    made = []
    for name in baselines:
        base = kept[kept.predictor == name].groupby(keys)["value"].mean().rename("base").reset_index()
        joined = kept[~kept.predictor.isin([name, CEILING])].merge(base, on=keys)
        values = [
            scores.skill(value, base) for value, base in zip(joined["value"], joined["base"], strict=True)
        ]
        made.append(joined.assign(value=values, score=f"{score}_skill_over_{name.replace(' ', '_')}"))
    return pd.concat(made)[list(COLUMNS)] if made else frame.iloc[:0]


def scaled_scores(frame: pd.DataFrame, baseline: str, ceiling: str = CEILING) -> pd.DataFrame:
    """Rows ``scaled_<score>``: ``(model - baseline) / (ceiling - baseline)``, where the ceiling has it.

    Args:
        frame: Tidy rows, those of the baseline and of the ceiling among them.
        baseline: Predictor that scores 0.
        ceiling: Predictor that scores 1.
    """
    keys = ["perturbation", "time", "fold", "score"]
    base, top = (frame[frame.predictor == name].groupby(keys)["value"].mean() for name in (baseline, ceiling))
    both = pd.concat({"base": base, "top": top}, axis=1).dropna().reset_index()
    joined = frame[~frame.predictor.isin([baseline, ceiling])].merge(both, on=keys)
    values = [
        scores.scaled(value, base, top)
        for value, base, top in zip(joined["value"], joined["base"], joined["top"], strict=True)
    ]
    return joined.assign(value=values, score="scaled_" + joined.score)[list(COLUMNS)]


def require_unseen(train: Trajectories, truth: Trajectories) -> None:
    """Refuses to score observations that were in training.

    Raises:
        DataError: A held-out observation is among the training ones.
    """
    seen = set(zip(train.names[train.row_cell], train.row_step.tolist(), strict=True))
    for name, step in zip(truth.names[truth.row_cell], truth.row_step.tolist(), strict=True):
        if (name, step) in seen:
            raise DataError(f"cell '{name}' was in training and cannot be scored; hold it out and fit again.")


def reproducible(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """Perturbations whose halves agree (split-half above 0.3), the most reproducible first."""
    ordered = sorted(measurements, key=lambda one: -one.split_half)
    return tuple(one.perturbation for one in ordered if one.split_half > _REPRODUCIBLE_ABOVE)


def summary(frame: pd.DataFrame, headline: Sequence[str]) -> pd.DataFrame:
    """The scores for people: a row a perturbation and mean, "Pearson / relative L2" by predictor.

    Args:
        frame: What :func:`evaluate` returned.
        headline: Perturbations that get a row of their own.

    Returns:
        Text, with a column a predictor, and one with the 80 % coverage of the first that has intervals.
    """
    n_all = frame[~frame.perturbation.isin((ALL, REPRODUCIBLE))].perturbation.nunique()
    titles = {REPRODUCIBLE: f"mean of {len(headline)}", ALL: f"all {n_all}"}
    shown = [*headline, *([REPRODUCIBLE] if headline else []), ALL]
    values = frame.set_index(["predictor", "perturbation", "score"])["value"].sort_index()
    columns: dict[str, list[str]] = {}
    for predictor in frame.predictor.drop_duplicates():
        rows = [values[predictor, name] for name in shown]
        columns[predictor] = [f"{row[_SHOWN[0]]:.2f} / {row[_SHOWN[1]]:.2f}" for row in rows]
        if predictor != CEILING and "80 % covers" not in columns and np.isfinite(rows[-1][_SHOWN[2]]):
            columns["80 % covers"] = [f"{row[_SHOWN[2]]:.2f}" for row in rows]
    order = [name for name in columns if name != CEILING] + [CEILING]
    return pd.DataFrame(columns, index=[titles.get(name, name) for name in shown])[order]


def markdown(text: pd.DataFrame) -> str:
    """The table of :func:`summary` as markdown."""
    lines = ["Pearson / relative L2 of the effect against control, own gene left out.", ""]
    lines.append("| | " + " | ".join(text.columns) + " |")
    lines.append("|---" * (len(text.columns) + 1) + "|")
    lines += [
        "| " + " | ".join([str(name), *row]) + " |" for name, row in zip(text.index, text.values, strict=True)
    ]
    return "\n".join(lines)
