"""Inspection: which arguments would read a file, guessed from its columns and from what they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from pyro_citevae.data.columns import Columns
from pyro_citevae.data.dose_columns import DOSES, varies_within_labels
from pyro_citevae.data.gene_names import gene_names
from pyro_citevae.data.label_doubts import joined_by, like_controls, like_no_call
from pyro_citevae.data.labels import Labels, controls_in, missing, texts
from pyro_citevae.data.published_layouts import resolve
from pyro_citevae.data.times import times_in
from pyro_citevae.data.values import holds_counts, layer_of_counts
from pyro_citevae.errors import CiteVAEError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["proposed"]

_PERTURBATION = (
    "perturbation", "condition", "target_gene", "gene_target", "guide_target", "perturbed_gene", "target",
    "gene", "treatment", "drug", "compound", "guide_identity", "guide_id", "guide", "sgrna", "label",
)  # fmt: skip
_TIME = ("time", "day", "days", "hour", "hours", "timepoint", "time_point", "timepoint_hr", "dpi")
_BATCH = ("batch", "donor", "donor_id", "lane", "replicate", "gemgroup", "gem_group", "channel", "sample")
_MOST_BATCHES = 100


def proposed(adata: AnnData, given: Columns) -> dict[str, Any]:
    """The columns that would read a file: those given, and guesses for the others.

    Args:
        adata: Cells x genes.
        given: What the user names.

    Returns:
        Arguments of :meth:`~pyro_citevae.Trajectories.from_anndata`, without those that it finds itself.

    Example:
        >>> from pyro_citevae import datasets
        >>> proposed(datasets.renge(), Columns())
        {'time': 'time'}
    """
    found = {one.name: getattr(given, one.name) for one in fields(Columns) if getattr(given, one.name)}
    if "layer" not in found and not (adata.X is not None and holds_counts(adata.X)):
        found |= {"layer": layer} if (layer := layer_of_counts(adata)) else {}
    if not _reads_labels(adata, given):
        found |= {name: one for name, one in _labelled(adata, given).items() if name not in found}
    columns = _resolved(adata, found)
    if columns is None or str(columns.perturbation) not in _once(adata.obs):
        return found
    labels = pd.Series(adata.obs[str(columns.perturbation)])
    labels = texts(labels[~missing(labels) & ~texts(labels).isin(columns.exclude)])
    found |= _more(adata, columns, labels, found)
    return found


def _reads_labels(adata: AnnData, given: Columns) -> bool:
    """Whether the file's layout, or what is given, names a column with a control."""
    columns = _resolved(adata, {one.name: getattr(given, one.name) for one in fields(Columns)})
    if columns is None or str(columns.perturbation) not in _once(adata.obs):
        return False
    labels = texts(adata.obs[str(columns.perturbation)])
    return bool(controls_in(pd.unique(labels).tolist(), columns.control))


def _resolved(adata: AnnData, named: Mapping[str, Any]) -> Columns | None:
    try:
        return resolve(adata, Columns.of("inspect", dict(named)))
    except CiteVAEError:
        return None


def _labelled(adata: AnnData, given: Columns) -> dict[str, Any]:
    """The column of perturbations and its controls: the first that has labels like controls."""
    obs = _once(adata.obs)
    words = [str(name) for name in obs if not pd.api.types.is_numeric_dtype(obs[name])]
    known = [name for name in words if name.casefold() in _PERTURBATION]
    ordered = sorted(known, key=lambda name: _PERTURBATION.index(name.casefold()))
    others = [name for name in words if name not in known]
    named = [given.perturbation] if given.perturbation in obs else [*ordered, *others]
    for name in named:
        cells = texts(obs[name]).value_counts()
        distinct = [str(one) for one in cells.index]
        if len(cells) > 1 and (controls := like_controls(distinct)):
            return {"perturbation": name, "control": _patterns(controls, distinct)}
    return {"perturbation": ordered[0]} if ordered and given.perturbation is None else {}


def _more(adata: AnnData, columns: Columns, labels: pd.Series, found: Mapping[str, Any]) -> dict[str, Any]:
    """What the labels and the other columns say."""
    obs, more = _once(adata.obs), dict[str, Any]()
    distinct = [str(one) for one in labels.value_counts().index]
    controls = controls_in(distinct, columns.control)
    alike = [one for one in like_controls(distinct) if one not in controls]
    if alike:
        more["control"] = (*columns.control, *_patterns(alike, distinct))
    no_call = [one for one in like_no_call(distinct) if one not in controls]
    if no_call:
        more["exclude"] = (*columns.exclude, *no_call)
    others = [one for one in distinct if one not in {*controls, *alike, *no_call}]
    if "separator" not in found and columns.layout == "plain":
        genes = set(map(str, gene_names(adata, columns.genes)))
        named = Labels("", "", frozenset(controls))
        whole = [one for one in others if named.members(one) == [one]]
        if separator := joined_by(whole, others, genes):
            more["separator"] = separator
    if "genes" not in found and columns.genes is None and (column := _genes(adata, others)):
        more["genes"] = column
    for argument, names, fits in (("time", _TIME, _is_time), ("batch", _BATCH, _is_batch)):
        taken = {columns.perturbation, *(getattr(columns, one) for one in ("time", "batch", "dose"))}
        fitting = [n for n in obs if str(n).casefold() in names and n not in taken and fits(obs[n])]
        if getattr(columns, argument) is None and fitting:
            more[argument] = str(fitting[0])
    dosed = [str(name) for name in obs if str(name).casefold() in DOSES]
    if columns.dose is None and dosed:
        amounts = obs[dosed[0]].reindex(labels.index)
        more |= {"dose": dosed[0]} if set(varies_within_labels(labels, amounts)) & set(others) else {}
    return more


def _once(obs: Any) -> pd.DataFrame:
    """The columns of which there is one of that name."""
    table = cast(pd.DataFrame, obs)
    return table.loc[:, ~table.columns.duplicated(keep=False)]


def _patterns(controls: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Names of controls, numbered ones as a pattern where no other label fits it."""
    stems: dict[str, list[str]] = {}
    for one in controls:
        stems.setdefault(re.sub(r"\d+$", "", one), []).append(one)
    found: list[str] = []
    for stem, named in stems.items():
        fits = set(controls_in(labels, [f"{stem}*"])) <= set(controls)
        found += [f"{stem}*"] if stem and len(named) > 1 and fits else named
    return tuple(found)


def _genes(adata: AnnData, tokens: list[str]) -> str | None:
    """The column of var that names perturbations, where the index does not."""
    if set(map(str, adata.var_names)) & set(tokens):
        return None
    hits = {str(name): len(set(tokens) & set(texts(adata.var[name]))) for name in adata.var}
    best = max(hits, key=lambda name: hits[name], default=None)
    return best if best is not None and hits[best] > 0 else None


def _is_time(column: pd.Series) -> bool:
    try:
        times, _ = times_in(column, "time")
    except CiteVAEError:
        return False
    return len(set(times.tolist())) > 1


def _is_batch(column: pd.Series) -> bool:
    return 1 < texts(column).nunique() <= _MOST_BATCHES and not bool(missing(column).any())
