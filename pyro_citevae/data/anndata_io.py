"""The AnnData boundary: reads and checks a screen, writes predictions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any, cast

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Int
from scipy import sparse

from pyro_citevae.data import stores
from pyro_citevae.data.backed import BackedCounts
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.layouts import LAYOUTS, Columns, resolve
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import CiteVAEWarning, DataError, reason

__all__ = ["joined", "open_h5ad", "padded", "predictions", "read", "read_from_disk"]

_MOST_STEPS = 64
_FEWEST_SHARED = 0.5
_MOST_JUDGED = 20_000  # controls in a file that say which genes vary


def open_h5ad(path: str | Path) -> AnnData:
    """Reads an h5ad file.

    Raises:
        DataError: The file is missing, truncated, or not an h5ad.
    """
    if not Path(path).is_file():
        raise DataError(f"'{path}' is not a file; give the path of an h5ad.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*names are not unique")
            return anndata.read_h5ad(path)
    except Exception as error:
        raise DataError(f"'{path}' cannot be read as h5ad ({reason(error)}); it may be truncated.") from error


def read(
    adata: AnnData,
    columns: Columns,
    *,
    step: float | str | Sequence[float] | None,
    n_steps: int,
    time_unit: str | None,
    values: str,
    schema: Schema | None,
    stored: stores.StoredScreen | None = None,
) -> Trajectories:
    """Checks an AnnData and turns it into trajectories; see :meth:`Trajectories.from_anndata`.

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
    _require_unique(genes, "gene", "adata.var_names_make_unique()")
    _require_unique(adata.obs_names, "cell", "adata.obs_names_make_unique()")
    raw = _column(adata, str(columns.perturbation), "perturbation")
    kept_cells = ~raw.astype(str).isin(columns.exclude).to_numpy()
    adata = adata[kept_cells]
    labels = _labels(adata, columns)
    matrix: Any = (
        _matrix(adata, columns.layer, values)
        if stored is None
        else stored.rows(np.flatnonzero(kept_cells), columns.layer, partial(_require_values, values=values))
    )
    control = str(columns.control)
    schedules = {label: Schedule.parse(label, control) for label in pd.unique(labels)}
    if not any(one.is_control for one in schedules.values()) and schema is None:
        raise DataError(
            f"no control cell: obs['{columns.perturbation}'] never says '{control}'; "
            "name the label of the unperturbed cells with control=."
        )
    if all(one.is_control for one in schedules.values()) and schema is None:
        raise DataError(f"obs['{columns.perturbation}'] has no perturbed cell; nothing can be learnt.")
    times = _times(adata, columns.time)
    library, share = _library(adata, columns.library, matrix, values)
    batches = _categories(adata, columns.batch)
    cells = _sequences(adata, columns.sequence)
    if schema is None:
        length, grid = _steps(step, times)
        tokens = _tokens(schedules.values(), columns)
        if columns.most_genes is not None:
            unperturbed = np.array([schedules[label].is_control for label in labels])
            judged = np.flatnonzero(unperturbed)
            if stored is not None:
                judged = judged[:: max(1, -(-len(judged) // _MOST_JUDGED))]
            cells_judged = _in_memory(matrix[judged])
            kept = _most_variable(cells_judged, genes.isin(tokens), columns.most_genes)
            matrix, genes = _of_columns(matrix, kept), genes[kept]
            share = float(matrix.sum() / library.sum()) if values == "counts" else 1.0
        schema = Schema(
            genes=tuple(map(str, genes)),
            tokens=tokens,
            control=control,
            times=tuple(sorted(set(times.tolist())))
            if times is not None
            else (grid or (n_steps * length,))[-1:],
            step=length,
            time_unit=_unit(adata, time_unit, times),
            batches=tuple(sorted(set(batches.tolist()))),
            layout="snapshot"
            if times is None
            else "time course"
            if columns.sequence is None
            else "sequences",
            values="real" if values == "real" else "counts",
            total=float(np.median(library)),
            panel_share=share,
            grid=grid,
        )
        _check_grid(schema)
    else:
        if columns.candidates:
            raise DataError(
                "candidates= names new tokens, and schema= has its own; name them where it is made."
            )
        if columns.sequence is not None and schema.layout != "sequences":
            raise DataError(
                f"sequence='{columns.sequence}' does not fit the schema of a {schema.layout}; leave it out."
            )
        matrix = _conform(matrix, genes, schema)
        if columns.library is None and values == "counts" and schema.panel_share == 1.0:
            library = _floor(np.asarray(matrix.sum(1)).ravel())
    for one in schedules.values():
        schema.require(one)
    return _assemble(schema, matrix, library, labels, schedules, times, batches, cells)


def _tokens(schedules: Iterable[Schedule], columns: Columns) -> tuple[str, ...]:
    """The perturbations of the cells, and candidates that have none."""
    for name in columns.candidates:
        parsed = Schedule.parse(name, str(columns.control))
        if parsed.label("") != name or len(parsed.doses) != 1:
            raise DataError(
                f"candidates= holds {name!r}, which names no single perturbation; give gene names."
            )
    return tuple(sorted({token for one in schedules for token in one.tokens} | set(columns.candidates)))


def _assemble(
    schema: Schema,
    matrix: Any,
    library: np.ndarray,
    labels: pd.Series,
    schedules: dict[str, Schedule],
    times: np.ndarray | None,
    batches: np.ndarray,
    cells: np.ndarray,
) -> Trajectories:
    steps = np.array([schema.step_of(time) for time in times]) if times is not None else None
    if times is not None and steps is not None and schema.layout == "sequences":
        absent = ~np.isin(steps, [schema.step_of(time) for time in schema.times])
        if absent.any():
            raise DataError(
                f"time {times[absent][0]:g} is not among the known {schema.times}; drop those rows."
            )
    row_step = steps if steps is not None else np.full(matrix.shape[0], schema.n_steps)
    unknown = sorted(set(batches.tolist()) - set(schema.batches))
    if unknown:
        raise DataError(f"batch '{unknown[0]}' is not among the known {schema.batches}; drop those cells.")
    names, first, row_cell = np.unique(cells, return_index=True, return_inverse=True)
    order = np.lexsort((row_step, row_cell))
    pairs = np.stack([row_cell[order], row_step[order]])
    if (pairs[:, 1:] == pairs[:, :-1]).all(0).any():
        raise DataError("a cell of the sequence column is observed twice at one time; keep one of the rows.")
    conditions = tuple(sorted(set(schedules.values()), key=lambda one: one.doses))
    index = {one: i for i, one in enumerate(conditions)}
    row_condition = labels.map({label: index[one] for label, one in schedules.items()}).to_numpy()
    if (row_condition != row_condition[first][row_cell]).any():
        raise DataError("a cell of the sequence column changes its perturbation; write it as 'A@0+B@24'.")
    technical = np.searchsorted(np.array(schema.batches), batches)
    return Trajectories(
        schema=schema,
        values=matrix[order],
        library=library[order].astype(np.float32),
        row_cell=row_cell[order].astype(np.int64),
        row_step=row_step[order].astype(np.int64),
        conditions=conditions,
        condition=row_condition[first].astype(np.int64),
        technical=technical[first].astype(np.int64),
        names=names,
    )


def _require_unique(names: pd.Index, what: str, mend: str) -> None:
    if not names.is_unique:
        twice = names[names.duplicated()][0]
        raise DataError(f"{what} '{twice}' appears twice; make the names unique, for example with {mend}.")


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


def read_from_disk(path: str | Path, columns: Columns, *, progress: bool, **options: Any) -> Trajectories:
    """Checks a file and turns it into trajectories whose values stay there."""
    screen = stores.open_screen(path, progress)
    return read(screen.labels, columns, stored=screen, **options)


def _in_memory(matrix: Any) -> sparse.csr_matrix:
    return matrix.in_memory() if isinstance(matrix, BackedCounts) else matrix


def _of_columns(matrix: Any, chosen: Any) -> Any:
    return matrix.of_columns(chosen) if isinstance(matrix, BackedCounts) else matrix[:, chosen]


def _most_variable(matrix: sparse.csr_matrix, own: np.ndarray, most: int) -> Int[np.ndarray, " kept"]:
    """Positions of the perturbed genes, and of those that vary most beyond Poisson in these cells.

    ``(var - mean) / mean^2`` at a common depth, among genes seen in 1 % of these cells or more: a negative
    binomial's inverse dispersion by moments.
    """
    if most < 1:
        raise DataError(f"most_genes={most} keeps no gene; give a positive number.")
    cells = matrix.astype(float)
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


def _matrix(adata: AnnData, layer: str | None, values: str) -> sparse.csr_matrix:
    if layer is not None and layer not in adata.layers:
        raise DataError(f"layer='{layer}' is not a layer; the layers are {list(adata.layers)}.")
    source = adata.X if layer is None else adata.layers[layer]
    if source is None:
        raise DataError("the AnnData has no X; name the layer that holds the counts with layer=.")
    matrix = sparse.csr_matrix(source, dtype=np.float32)
    matrix.sum_duplicates()
    _require_values(matrix, "X" if layer is None else f"layer '{layer}'", values=values)
    matrix.eliminate_zeros()
    return matrix


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


def _library(adata: AnnData, name: str | None, matrix: Any, values: str) -> tuple[np.ndarray, float]:
    panel = np.asarray(matrix.sum(1)).ravel()
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


def _conform(matrix: Any, genes: pd.Index, schema: Schema) -> Any:
    position = {str(gene): g for g, gene in enumerate(genes)}
    missing = [gene for gene in schema.genes if gene not in position]
    if missing:
        raise DataError(
            f"{len(missing)} of the {schema.n_genes} genes are missing, such as '{missing[0]}'; "
            "give data with the genes that the model was trained on."
        )
    fitted = _of_columns(matrix, np.array([position[gene] for gene in schema.genes]))
    if not isinstance(fitted, BackedCounts):
        fitted.sort_indices()
    return fitted


def padded(
    adata: AnnData, schema: Schema, name: str, layout: str = "plain"
) -> tuple[AnnData, tuple[str, ...]]:
    """A file with zeros for the genes of a schema that it lacks, to be scored on the genes that it has.

    Args:
        adata: Cells to score.
        schema: Genes that were predicted.
        name: The file's name, for the messages.
        layout: Layout of the file, which says where gene names are.

    Returns:
        The cells, and the genes that both have. A gene that is lacking is told by a warning.

    Raises:
        DataError: Fewer than half of the schema's genes are there.
    """
    genes = LAYOUTS[layout].genes(adata)
    _require_unique(genes, "gene", "adata.var_names_make_unique()")
    there = set(map(str, genes))
    lacking = [gene for gene in schema.genes if gene not in there]
    shared = tuple(gene for gene in schema.genes if gene in there)
    if len(shared) < _FEWEST_SHARED * schema.n_genes:
        raise DataError(
            f"'{name}' has {len(shared)} of the {schema.n_genes} genes that were predicted, and half of them "
            "are needed; give held-out cells of the same panel."
        )
    if not lacking:
        return adata, shared
    warnings.warn(
        f"'{name}' lacks {len(lacking)} of the {schema.n_genes} genes that were predicted, such as "
        f"'{lacking[0]}'; scores are on the other {len(shared)}.",
        CiteVAEWarning,
        stacklevel=2,
    )
    zero = sparse.csr_matrix((adata.n_obs, len(lacking)), dtype=np.float32)
    obs = cast(pd.DataFrame, adata.obs)
    layers = dict.fromkeys(adata.layers, zero)
    rest = AnnData(zero, obs=obs[[]], var=pd.DataFrame({"gene_name": lacking}, index=lacking), layers=layers)
    made = anndata.concat([adata, rest], axis=1)
    made.obs = obs
    return made, shared


def predictions(
    draw: sparse.csr_matrix,
    layers: dict[str, np.ndarray],
    obs: dict[str, Any],
    genes: tuple[str, ...],
    uns: dict[str, Any],
) -> AnnData:
    """Predicted cells as AnnData: one draw of counts in ``X``, summaries in the layers."""
    frame = pd.DataFrame(obs, index=[str(i) for i in range(draw.shape[0])])
    return AnnData(X=draw, obs=frame, var=pd.DataFrame(index=list(genes)), layers=layers, uns=uns)


def joined(parts: Sequence[AnnData]) -> AnnData:
    """Predicted cells of several calls, one after the other."""
    return anndata.concat(parts, index_unique="-")
