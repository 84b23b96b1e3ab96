"""Reading a screen: an AnnData is checked part by part, before anything is assembled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Int

from pyro_citevae.arguments import Number, Numbers, whole
from pyro_citevae.data import stores
from pyro_citevae.data import values as matrices
from pyro_citevae.data.assembly import Screen
from pyro_citevae.data.columns import Columns
from pyro_citevae.data.confounding import doubts_of_contexts, doubts_of_design
from pyro_citevae.data.dose_columns import dose_ranges, dose_unit
from pyro_citevae.data.gene_names import doubts_of_genes, gene_names, require_unique
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.label_doubts import doubts_of_labels
from pyro_citevae.data.labels import MISSING, Labels, require_shown, texts
from pyro_citevae.data.library import at_share_of_training, library_sizes
from pyro_citevae.data.named_columns import (
    batches_in,
    cells_in,
    names_in,
    obs_column,
    times_of,
    unit_named,
)
from pyro_citevae.data.opening import RAW, in_hand, raw_as_anndata
from pyro_citevae.data.published_layouts import LAYOUTS, reason_of, resolve
from pyro_citevae.data.reading import Reading
from pyro_citevae.data.schema import Schema, StudyDesign
from pyro_citevae.data.schema_fitting import known_batches, on_panel, require_fitting, with_contexts
from pyro_citevae.data.screen_doubts import (
    ignored_doses,
    require_both,
    require_named,
    require_one_reading,
    require_some,
    without_effect,
)
from pyro_citevae.data.stored_rows import StoredRows
from pyro_citevae.data.times import check_grid, steps_of
from pyro_citevae.data.variable_genes import judged, most_variable
from pyro_citevae.data.whole_matrices import require_whole
from pyro_citevae.errors import DataError

__all__ = ["read", "read_from_disk"]


def read(
    adata: Any,
    columns: Columns,
    *,
    step: Numbers | None = None,
    n_steps: Number = 3,
    time_unit: str | None = None,
    values: str = "counts",
    schema: Schema | None = None,
    stored: stores.StoredScreen | None = None,
    new_batches: str = "refuse",
    expected: Mapping[str, float] | None = None,
) -> Screen:
    """Checks an AnnData and takes it apart; see :meth:`Trajectories.from_anndata`.

    Args:
        adata: The cells.
        columns: Where it keeps what a screen needs.
        step: Length of a latent step, or the steps' ends.
        n_steps: Number of latent steps of a snapshot.
        time_unit: Name of the unit of time.
        values: ``"counts"`` or ``"real"``.
        schema: An earlier data set's.
        stored: Where the values are if they stay in their file; the AnnData's own if None.
        new_batches: What becomes of batches that the schema does not have.
        expected: Share of the counts that each gene is expected to hold in these cells, to stand in for
            genes that are not there; None to refuse a file that lacks some.
    """
    if values not in ("counts", "real"):
        raise DataError(f"values='{values}' is neither 'counts' nor 'real'.")
    if new_batches not in ("refuse", "spread"):
        raise DataError(f"new_batches='{new_batches}' is neither 'refuse' nor 'spread'.")
    layer = columns.layer
    if stored is None:
        adata = in_hand(adata, "Trajectories.from_anndata")
        if layer in RAW and layer not in adata.layers:
            adata, columns = raw_as_anndata(adata), replace(columns, layer=None)
    reason, columns = reason_of(adata, columns), resolve(adata, columns)
    parts = _parts(adata, columns, values, schema, stored)
    if schema is None:
        parts, schema = _new(parts, columns, step, whole(n_steps, "n_steps"), time_unit, values)
    else:
        parts, schema = _more(parts, columns, schema, new_batches, expected)
    for one in parts.schedules:
        schema.require(one)
    reading = Reading(
        columns=columns if columns.layer == layer or layer is None else replace(columns, layer=layer),
        reason=reason,
        cells=adata.n_obs,
        genes=adata.n_vars,
        library=f"obs['{columns.library}']" if columns.library else "the sum over the genes of the file",
        left_out=parts.left_out,
        controls={name: n for name, n in _counted(parts.texts).items() if parts.labels.is_control(name)},
        confounded=parts.confounded,
        doubts=tuple(parts.doubts),
        notes=tuple(parts.notes),
    )
    var = (
        cast(pd.DataFrame, parts.cells.var)
        .set_axis(gene_names(adata, columns.genes))
        .reindex(list(schema.genes))
    )
    cells, obs = cells_in(parts.cells, columns.sequence), cast(pd.DataFrame, parts.cells.obs)
    return Screen(
        schema,
        parts.rows,
        parts.library,
        parts.schedules,
        parts.schedule,
        parts.times,
        parts.batches,
        parts.contexts,
        cells,
        obs,
        var,
        reading,
    )


@final
@dataclass(frozen=True)
class _Parts:
    """What a file says of the cells that are kept; see :class:`Screen` and :class:`Reading`."""

    cells: AnnData
    genes: pd.Index
    texts: pd.Series
    labels: Labels
    schedules: list[Schedule]
    schedule: np.ndarray
    rows: StoredRows
    times: np.ndarray | None
    unit: str | None
    library: np.ndarray
    share: float
    batches: np.ndarray
    contexts: np.ndarray | None
    left_out: Mapping[str, int]
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    confounded: Mapping[str, list[str]] = field(default_factory=dict)


def _parts(
    adata: AnnData, columns: Columns, values: str, schema: Schema | None, stored: stores.StoredScreen | None
) -> _Parts:
    """What the file says, checked."""
    genes = gene_names(adata, columns.genes)
    require_some(adata, genes)
    mend = "adata.var_names_make_unique()"
    if columns.genes is not None:
        column = f"adata.var['{columns.genes}']"
        mend = f"{column} = anndata.utils.make_index_unique(pd.Index({column}.astype(str)))"
    require_unique(genes, "gene", mend)
    require_unique(adata.obs_names, "cell", "adata.obs_names_make_unique()")
    require_shown(genes, "var", breaks_only=True)
    require_shown(adata.obs_names, "obs", breaks_only=True)
    stated = obs_column(adata, str(columns.perturbation), "perturbation")
    said, words = texts(stated), {one.strip() for one in columns.exclude}
    empty = stated.isna() | said.isin(MISSING)
    left_out = (said.isin(words) | (empty if words & set(MISSING) else False)).to_numpy()
    kept = np.flatnonzero(~left_out)
    if len(kept) == 0:
        raise DataError(f"exclude={list(columns.exclude)} names every label; no cell is left.")
    obs, var = (cast(pd.DataFrame, one) for one in (adata.obs, adata.var))
    cells = AnnData(obs=obs[~left_out], var=var, uns=adata.uns)
    written = said[~left_out]
    require_shown(written, f"obs['{columns.perturbation}']")
    labels = _labels(written, empty[~left_out], columns, schema)
    if columns.dose is not None:
        obs_column(adata, columns.dose, "dose")
    layout = LAYOUTS[str(columns.layout)]
    schedules, schedule = layout.schedules(obs[~left_out], written, columns, labels)
    if schema is None:
        require_both(schedules, labels, columns, written)
    require_named(labels, written)
    rows = (
        _rows(adata, kept, columns.layer, values)
        if stored is None
        else stored.rows(kept, columns.layer, partial(matrices.require_values, values=values))
    )
    times, unit = times_of(cells, columns.time, schema)
    named = None if columns.library is None else obs_column(cells, columns.library, "library")
    library, share = library_sizes(named, columns.library, rows.sum(1), values)
    batches = batches_in(cells, columns.batch)
    contexts = None if columns.context is None else names_in(cells, columns.context, "context")
    counted = _counted(said[left_out])
    return _Parts(
        cells,
        genes,
        written,
        labels,
        schedules,
        schedule,
        rows,
        times,
        unit,
        library,
        share,
        batches,
        contexts,
        counted,
    )


def _new(
    parts: _Parts, columns: Columns, step: Numbers | None, n_steps: int, time_unit: str | None, values: str
) -> tuple[_Parts, Schema]:
    """The schema of a new screen, and what is doubtful of it."""
    genes, rows, share, schedules = parts.genes, parts.rows, parts.share, parts.schedules
    if values == "counts" and rows.sum() == 0:
        raise DataError("every count is zero; name the layer that holds the counts with layer=.")
    tokens = _tokens(schedules, columns)
    doubts = _doubts(parts, columns, tokens)
    if columns.most_genes is not None:
        unperturbed = np.array([one.is_control for one in schedules])[parts.schedule]
        chosen = most_variable(judged(rows, unperturbed), genes.isin(tokens), columns.most_genes)
        rows, genes = rows.of_columns(chosen), genes[chosen]
        share = float(rows.sum() / parts.library.sum()) if values == "counts" else 1.0
    length, grid = steps_of(step, parts.times)
    schema = Schema(
        genes=tuple(map(str, genes)),
        tokens=tokens,
        control=parts.labels.control,
        times=_observed_times(parts.times, grid or (n_steps * length,)),
        step=length,
        time_unit=unit_named(parts.cells, time_unit, parts.unit, parts.times),
        batches=tuple(sorted(set(parts.batches.tolist()))),
        design=_study_design(parts.times, columns),
        values="real" if values == "real" else "counts",
        total=float(np.median(parts.library)),
        panel_share=share,
        grid=grid,
        dose_ranges=dose_ranges(schedules, tokens),
        dose_unit=dose_unit(cast(pd.DataFrame, parts.cells.obs), columns.dose) if columns.dose else "",
        contexts=() if parts.contexts is None else tuple(sorted(set(parts.contexts.tolist()))),
    )
    check_grid(schema)
    groups = pd.DataFrame({"schedule": parts.schedule, "batch": parts.batches})
    groups = groups.assign(context="" if parts.contexts is None else parts.contexts)
    groups = groups.assign(time=0.0 if parts.times is None else parts.times).drop_duplicates()
    found, notes, confounded = doubts_of_design(
        [schedules[i] for i in groups["schedule"]],
        groups["batch"].tolist(),
        None if parts.times is None else groups["time"].tolist(),
        same=columns.batch == columns.time,
    )
    if schema.contexts:
        schedules_of = [schedules[i] for i in groups["schedule"]]
        of_contexts = doubts_of_contexts(schedules_of, groups["batch"].tolist(), groups["context"].tolist())
        found, notes = [*found, *of_contexts[0]], [*notes, *of_contexts[1]]
    doubts += [*found, *without_effect(schedules, schema, parts.labels)]
    known: dict[str, Any] = {"doubts": tuple(doubts), "notes": tuple(notes), "confounded": confounded}
    return replace(parts, genes=genes, rows=rows, share=share, **known), schema


def _more(
    parts: _Parts, columns: Columns, schema: Schema, new_batches: str, expected: Mapping[str, float] | None
) -> tuple[_Parts, Schema]:
    """More cells for an earlier schema, and that with their contexts."""
    unit = dose_unit(cast(pd.DataFrame, parts.cells.obs), columns.dose) if columns.dose else ""
    require_fitting(columns, schema, parts.unit, unit)
    by_name = np.argsort(parts.cells.obs_names.to_numpy(dtype=str))
    rows, of_genes = on_panel(parts.rows, parts.genes, schema, expected, by_name)
    library, of_library = at_share_of_training(parts.library, rows.sum(1), schema, columns.library)
    order = np.lexsort((parts.cells.obs_names.to_numpy(dtype=str), parts.texts.to_numpy(dtype=str)))
    schema, new_contexts = with_contexts(parts.contexts, schema, columns)
    if (
        new_contexts
        and np.isin(np.array(parts.contexts)[~np.isin(parts.batches, schema.batches)], new_contexts).all()
    ):
        new_batches = "spread"  # what a batch adds is part of a new context's own baseline
    batches, of_batches = known_batches(parts.batches, schema, columns, new_batches, order)
    last = 0.0 if parts.times is None else float(parts.times.max())
    of_doses = without_effect(parts.schedules, schema, parts.labels, last)
    doubts = (*of_genes, *of_library, *of_batches, *of_doses)
    return replace(parts, rows=rows, library=library, batches=batches, doubts=doubts), schema


def _doubts(parts: _Parts, columns: Columns, tokens: Sequence[str]) -> list[str]:
    """What is doubtful of labels, genes and columns that are not read."""
    cells = _counted(parts.texts)
    read_as = pd.Series(parts.schedule, parts.texts.to_numpy()).groupby(level=0, sort=False).first()
    require_one_reading(
        {str(text): parts.schedules[i] for text, i in read_as.items()}, tokens, parts.labels.said
    )
    whole_names = [str(text) for text, i in read_as.items() if parts.schedules[i].tokens == (text,)]
    found = [one for one in columns.exclude if one.strip() not in {*parts.left_out, *MISSING}]
    return [
        *(f"{parts.labels.said} never says '{one}', which exclude= names; correct it." for one in found[:1]),
        *doubts_of_labels(parts.labels, cells, columns.control, parts.genes, whole_names),
        *doubts_of_genes(parts.cells, parts.genes, tokens),
        *ignored_doses(parts.cells, columns),
    ]


def read_from_disk(path: str | Path, columns: Columns, *, progress: bool, **options: Any) -> Screen:
    """Checks a file and takes it apart; the values stay there."""
    screen = stores.open_screen(path, progress, raw=columns.layer in RAW)
    return read(screen.labels, columns, stored=screen, **options)


def _rows(adata: AnnData, kept: Int[np.ndarray, " kept"], layer: str | None, values: str) -> StoredRows:
    """The values of the kept cells, checked."""
    matrix, where = matrices.matrix_of(adata, layer)
    require_whole(matrix, where)  # before rows are taken
    chosen = matrix if len(kept) == adata.n_obs else matrix[kept]
    return matrices.as_rows(chosen, where, values, partial(matrices.counts_elsewhere, adata, layer))


def _counted(labels: pd.Series) -> dict[str, int]:
    """Cells of each label, most first."""
    return {str(name): int(n) for name, n in labels.str.strip().value_counts().items()}


def _labels(written: pd.Series, empty: pd.Series, columns: Columns, schema: Schema | None) -> Labels:
    """How the labels of these cells are read."""
    layout = LAYOUTS[str(columns.layout)]
    if empty.any():
        word = written[empty].iloc[0]
        raise DataError(
            f"obs['{columns.perturbation}'] has empty labels ({int(empty.sum())} cells, such as '{word}'); "
            f"fill them, or leave those cells out with exclude='{word}'."
        )
    distinct = pd.unique(written).tolist()
    found = Labels.of(
        str(columns.perturbation),
        distinct,
        columns.control,
        separator=columns.separator,
        known=() if schema is None else schema.tokens,
        control=None if schema is None else schema.control,
    )
    return replace(found, controls=found.controls | set(layout.neutral))


def _tokens(schedules: Iterable[Schedule], columns: Columns) -> tuple[str, ...]:
    """The perturbations of the cells, and candidates that have none."""
    for name in columns.candidates:
        parsed = Schedule.parse(name, next(iter(columns.control), "control"))
        if parsed.label("") != name or len(parsed.doses) != 1:
            raise DataError(
                f"candidates= holds {name!r}, which names no single perturbation; give gene names."
            )
    named = {token for one in schedules for token in one.tokens}
    return tuple(sorted(named | set(columns.candidates)))


def _observed_times(times: np.ndarray | None, ends: tuple[float, ...]) -> tuple[float, ...]:
    """The times at which cells were observed; of a snapshot, the end of its last step."""
    return ends[-1:] if times is None else tuple(sorted(set(times.tolist())))


def _study_design(times: np.ndarray | None, columns: Columns) -> StudyDesign:
    if times is None:
        return "snapshot"
    return "time course" if columns.sequence is None else "sequences"
