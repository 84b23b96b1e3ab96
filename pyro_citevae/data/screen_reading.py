"""Reading a screen: an AnnData is checked part by part, before anything is assembled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float, Int
from scipy import sparse

from pyro_citevae.data import stores
from pyro_citevae.data.anndata_io import layer_names, require_unique
from pyro_citevae.data.columns import Columns
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.published_layouts import LAYOUTS, resolve
from pyro_citevae.data.schema import Schema, StudyDesign
from pyro_citevae.data.sparse_rows import SparseRows
from pyro_citevae.data.stored_rows import StoredRows
from pyro_citevae.errors import DataError

__all__ = ["Screen", "read", "read_from_disk"]

_MOST_STEPS = 64
_MOST_JUDGED = 20_000  # controls in a file that say which genes vary


@final
@dataclass(frozen=True)
class Screen:
    """The parts of a screen, an entry an observation in the order of the file.

    Attributes:
        schema: Names and sizes of the axes.
        values: Observed values of the schema's genes.
        library: Library size of each observation.
        labels: Label of each observation, as a schedule is written.
        schedules: What each label says.
        times: Time of each observation; None for a snapshot.
        batches: Technical batch of each observation.
        cells: Name of the cell of each observation.
    """

    schema: Schema
    values: StoredRows
    library: Float[np.ndarray, " observation"]
    labels: pd.Series
    schedules: dict[str, Schedule]
    times: Float[np.ndarray, " observation"] | None
    batches: np.ndarray
    cells: np.ndarray

    @property
    def steps(self) -> Int[np.ndarray, " observation"]:
        """The latent step of each observation.

        Raises:
            DataError: A sequence was observed at a time that the schema does not have.
        """
        schema, times = self.schema, self.times
        if times is None:
            return np.full(self.values.shape[0], schema.n_steps)
        steps = np.array([schema.step_of(time) for time in times])
        absent = ~np.isin(steps, [schema.step_of(time) for time in schema.times])
        if schema.design == "sequences" and absent.any():
            raise DataError(
                f"time {times[absent][0]:g} is not among the known {schema.times}; drop those rows."
            )
        return steps


def read(
    adata: AnnData,
    columns: Columns,
    *,
    step: float | str | Sequence[float] | None = None,
    n_steps: int = 3,
    time_unit: str | None = None,
    values: str = "counts",
    schema: Schema | None = None,
    stored: stores.StoredScreen | None = None,
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
    """
    if values not in ("counts", "real"):
        raise DataError(f"values='{values}' is neither 'counts' nor 'real'.")
    columns = resolve(adata, columns)
    genes = LAYOUTS[str(columns.layout)].genes(adata)
    require_unique(genes, "gene", "adata.var_names_make_unique()")
    require_unique(adata.obs_names, "cell", "adata.obs_names_make_unique()")
    raw = _column(adata, str(columns.perturbation), "perturbation")
    kept = ~raw.astype(str).isin(columns.exclude).to_numpy()
    adata = adata[kept]
    labels = _labels(adata, columns)
    rows: StoredRows = (
        _rows(adata, columns.layer, values)
        if stored is None
        else stored.rows(np.flatnonzero(kept), columns.layer, partial(_require_values, values=values))
    )
    schedules = _schedules(labels, columns, known=schema is not None)
    times = _times(adata, columns.time)
    library, share = _library(adata, columns.library, rows, values)
    batches = _categories(adata, columns.batch)
    cells = _sequences(adata, columns.sequence)
    if schema is None:
        tokens = _tokens(schedules.values(), columns)
        if columns.most_genes is not None:
            unperturbed = np.array([schedules[label].is_control for label in labels])
            chosen = _most_variable(_judged(rows, unperturbed), genes.isin(tokens), columns.most_genes)
            rows, genes = rows.of_columns(chosen), genes[chosen]
            share = float(rows.sum() / library.sum()) if values == "counts" else 1.0
        length, grid = _steps(step, times)
        schema = Schema(
            genes=tuple(map(str, genes)),
            tokens=tokens,
            control=str(columns.control),
            times=_observed_times(times, grid or (n_steps * length,)),
            step=length,
            time_unit=_unit(adata, time_unit, times),
            batches=tuple(sorted(set(batches.tolist()))),
            design=_study_design(times, columns),
            values="real" if values == "real" else "counts",
            total=float(np.median(library)),
            panel_share=share,
            grid=grid,
        )
        _check_grid(schema)
    else:
        _require_fitting(columns, schema)
        rows = _on_panel(rows, genes, schema)
        if columns.library is None and values == "counts" and schema.panel_share == 1.0:
            library = _floor(rows.sum(1))
    for one in schedules.values():
        schema.require(one)
    return Screen(schema, rows, library, labels, schedules, times, batches, cells)


def read_from_disk(path: str | Path, columns: Columns, *, progress: bool, **options: Any) -> Screen:
    """Checks a file and takes it apart; the values stay there."""
    screen = stores.open_screen(path, progress)
    return read(screen.labels, columns, stored=screen, **options)


def _schedules(labels: pd.Series, columns: Columns, *, known: bool) -> dict[str, Schedule]:
    """What each label says; a new screen has controls and perturbed cells."""
    control = str(columns.control)
    found = {label: Schedule.parse(label, control) for label in pd.unique(labels)}
    if known:
        return found
    if not any(one.is_control for one in found.values()):
        raise DataError(
            f"no control cell: obs['{columns.perturbation}'] never says '{control}'; "
            "name the label of the unperturbed cells with control=."
        )
    if all(one.is_control for one in found.values()):
        raise DataError(f"obs['{columns.perturbation}'] has no perturbed cell; nothing can be learnt.")
    return found


def _tokens(schedules: Iterable[Schedule], columns: Columns) -> tuple[str, ...]:
    """The perturbations of the cells, and candidates that have none."""
    for name in columns.candidates:
        parsed = Schedule.parse(name, str(columns.control))
        if parsed.label("") != name or len(parsed.doses) != 1:
            raise DataError(
                f"candidates= holds {name!r}, which names no single perturbation; give gene names."
            )
    return tuple(sorted({token for one in schedules for token in one.tokens} | set(columns.candidates)))


def _observed_times(times: np.ndarray | None, ends: tuple[float, ...]) -> tuple[float, ...]:
    """The times at which cells were observed; of a snapshot, the end of its last step."""
    return ends[-1:] if times is None else tuple(sorted(set(times.tolist())))


def _study_design(times: np.ndarray | None, columns: Columns) -> StudyDesign:
    if times is None:
        return "snapshot"
    return "time course" if columns.sequence is None else "sequences"


def _require_fitting(columns: Columns, schema: Schema) -> None:
    """Refuses columns that say what an earlier data set's schema says already."""
    if columns.candidates:
        raise DataError("candidates= names new tokens, and schema= has its own; name them where it is made.")
    if columns.sequence is not None and schema.design != "sequences":
        raise DataError(
            f"sequence='{columns.sequence}' does not fit the schema of a {schema.design}; leave it out."
        )


def _judged(rows: StoredRows, unperturbed: np.ndarray) -> StoredRows:
    """The controls that say which genes vary: all of them, or of a file some, evenly spread."""
    judged = np.flatnonzero(unperturbed)
    if rows.in_file:
        judged = judged[:: max(1, -(-len(judged) // _MOST_JUDGED))]
    return rows[judged]


def _on_panel(rows: StoredRows, genes: pd.Index, schema: Schema) -> StoredRows:
    """The rows with the genes of a schema, in its order."""
    position = {str(gene): g for g, gene in enumerate(genes)}
    missing = [gene for gene in schema.genes if gene not in position]
    if missing:
        raise DataError(
            f"{len(missing)} of the {schema.n_genes} genes are missing, such as '{missing[0]}'; "
            "give data with the genes that the model was trained on."
        )
    return rows.of_columns(np.array([position[gene] for gene in schema.genes]))


def _column(adata: AnnData, name: str, argument: str) -> pd.Series:
    if name not in adata.obs:
        columns = ", ".join(map(str, adata.obs.columns)) or "none"
        way_out = f"; name the right one, or the file's layout= ({', '.join(LAYOUTS)})"
        raise DataError(
            f"{argument}='{name}' is not a column of obs; its columns are {columns}"
            f"{way_out if argument == 'perturbation' else ''}."
        )
    return pd.Series(adata.obs[name])


def _labels(adata: AnnData, columns: Columns) -> pd.Series:
    """The label of each cell, as a schedule is written."""
    labels = LAYOUTS[str(columns.layout)].labels(adata, columns)
    if (labels.isna() | labels.astype(str).str.strip().eq("")).any():
        raise DataError(f"obs['{columns.perturbation}'] has empty labels; fill them or drop those cells.")
    return labels.astype(str)


def _most_variable(rows: StoredRows, own: np.ndarray, most: int) -> Int[np.ndarray, " kept"]:
    """Positions of the perturbed genes, and of those that vary most beyond Poisson in these cells.

    ``(var - mean) / mean^2`` at a common depth, among genes seen in 1 % of these cells or more: a negative
    binomial's inverse dispersion by moments.
    """
    if most < 1:
        raise DataError(f"most_genes={most} keeps no gene; give a positive number.")
    cells = rows.tocsr().astype(float)
    if cells.shape[0] < 2:
        raise DataError(f"most_genes={most} needs two control cells at least; they say which genes vary.")
    depth = np.asarray(cells.sum(1)).ravel()
    scaled = sparse.diags_array(np.median(depth) / np.maximum(depth, 1.0)) @ cells
    mean = np.asarray(scaled.mean(0)).ravel()
    variance = np.asarray(scaled.multiply(scaled).mean(0)).ravel() - mean**2
    seen = np.asarray((cells > 0).mean(0)).ravel() >= 0.01
    score = np.where(seen, (variance - mean) / np.where(seen, mean, 1.0) ** 2, -np.inf)
    score[own] = np.inf
    return np.sort(np.argsort(-score, kind="stable")[:most])


def _rows(adata: AnnData, layer: str | None, values: str) -> SparseRows:
    if layer is not None and layer not in layer_names(adata):
        raise DataError(f"layer='{layer}' is not a layer; the layers are {layer_names(adata)}.")
    source = adata.X if layer is None else adata.layers[layer]
    if source is None:
        raise DataError("the AnnData has no X; name the layer that holds the counts with layer=.")
    matrix = sparse.csr_matrix(source, dtype=np.float32)
    matrix.sum_duplicates()
    _require_values(matrix, "X" if layer is None else f"layer '{layer}'", values=values)
    matrix.eliminate_zeros()
    return SparseRows(matrix)


def _require_values(matrix: sparse.csr_matrix, where: str, *, values: str) -> None:
    if not np.isfinite(matrix.data).all():
        raise DataError(f"{where} holds NaN or infinite values; give raw counts.")
    if values == "counts":
        _require_counts(matrix, where)


def _require_counts(matrix: sparse.csr_matrix, where: str) -> None:
    wrong = {"negative": matrix.data < 0, "fractional": matrix.data != np.rint(matrix.data)}
    for what, found in wrong.items():
        if found.any():
            value = matrix.data[np.flatnonzero(found)[0]]
            raise DataError(f"{where} holds {what} values such as {value:g}; name raw counts with layer=.")


def _times(adata: AnnData, name: str | None) -> np.ndarray | None:
    if name is None:
        return None
    column = _column(adata, name, "time")
    times = pd.to_numeric(column.astype(str), errors="coerce").to_numpy(dtype=float)
    wrong = ~np.isfinite(times) | (times < 0)
    if wrong.any():
        value = column.iloc[int(np.flatnonzero(wrong)[0])]
        raise DataError(f"obs['{name}'] holds '{value}'; times are numbers, zero or more, in one unit.")
    return times


def _steps(
    step: float | str | Sequence[float] | None, times: np.ndarray | None
) -> tuple[float, tuple[float, ...]]:
    """The length of a latent step, and the times at which steps end if they are not equally long."""
    if isinstance(step, str):
        if step != "observed":
            raise DataError(f"step='{step}' is neither a length, nor a list of times, nor 'observed'.")
        if times is None:
            raise DataError("step='observed' needs the times of observation; name their column with time=.")
        step = [time for time in np.unique(times).tolist() if time > 0]
    if step is None:
        return _divisor(times), ()
    if isinstance(step, (int, float)):
        if not step > 0:
            raise DataError(f"step={step:g} is not positive; give the length of a latent step.")
        return float(step), ()
    ends = tuple(map(float, step))
    if not ends:
        raise DataError("step=[] names no time; give the times at which the latent steps end.")
    return _divisor(np.array(ends)), ends


def _divisor(times: np.ndarray | None) -> float:
    """The greatest common divisor of the times, to four digits."""
    if times is None:
        return 1.0
    scaled = [round(float(time) * 1e4) for time in np.unique(times) if 0 < time < math.inf]
    return reduce(math.gcd, scaled) / 1e4 if scaled else 1.0


def _check_grid(schema: Schema) -> None:
    for time in schema.times:
        schema.step_of(time)
    if not 1 <= schema.n_steps <= _MOST_STEPS:
        length = f"{schema.step:g} {schema.time_unit}" if not schema.grid else f"{len(schema.grid)} times"
        raise DataError(
            f"a grid of {length} makes {schema.n_steps} latent steps, and 1 to {_MOST_STEPS} are practical; "
            "set step=, and round the times to it."
        )


def _unit(adata: AnnData, given: str | None, times: np.ndarray | None) -> str:
    if given is not None:
        return given
    return "step" if times is None else str(adata.uns.get("time_unit", "time unit"))


def _floor(library: np.ndarray) -> np.ndarray:
    """Library sizes with empty cells at one count, so that their logarithm is finite."""
    return np.maximum(library, 1.0)


def _library(adata: AnnData, name: str | None, rows: StoredRows, values: str) -> tuple[np.ndarray, float]:
    panel = rows.sum(1)
    if values == "real":
        return np.ones(len(panel)), 1.0
    if name is None:
        return _floor(panel), 1.0
    library = pd.to_numeric(_column(adata, name, "library"), errors="coerce").to_numpy(dtype=float)
    wrong = ~np.isfinite(library) | (library < 0)
    if wrong.any():
        raise DataError(f"obs['{name}'] holds values that are no library size, zero or more.")
    if (library + 0.5 < panel).any():
        raise DataError(f"obs['{name}'] is smaller than the sum over the genes; name the full library size.")
    library = _floor(library)
    return library, float(panel.sum() / library.sum())


def _categories(adata: AnnData, name: str | None) -> np.ndarray:
    if name is None:
        return np.full(adata.n_obs, "all")
    return _named(adata, name, "batch")


def _sequences(adata: AnnData, name: str | None) -> np.ndarray:
    if name is None:
        return adata.obs_names.to_numpy(dtype=str)
    return _named(adata, name, "sequence")


def _named(adata: AnnData, name: str, argument: str) -> np.ndarray:
    column = _column(adata, name, argument)
    if column.isna().any():
        raise DataError(f"obs['{name}'] has missing values; fill them or drop those cells.")
    return column.astype(str).to_numpy(dtype=str)
