"""A screen of twelve named cells and six genes, small enough to know every count of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from pyro_citevae.data import Trajectories

LABELS = ("control", "control", "A", "A", "B", "B", "A+B", "A+B", "control", "A", "B", "C")
GENES = ("A", "B", "D", "E", "F", "silent")
TIMES = (1.0, 2.0) * 6
EMPTY = "cell_09"


def screen(labels: tuple[Any, ...] = LABELS, seed: int = 0, **obs: Any) -> AnnData:
    """Twelve cells x six genes; the last gene is zero everywhere, and one cell is empty."""
    names = [f"cell_{n:02d}" for n in range(len(labels))]
    counts = np.random.default_rng(seed).poisson(2.0, (len(labels), len(GENES))).astype(np.float32)
    counts[:, -1] = 0
    counts[[n for n, name in enumerate(names) if name == EMPTY]] = 0
    frame = pd.DataFrame({"perturbation": list(labels)} | obs, index=names)
    return AnnData(X=counts, obs=frame, var=pd.DataFrame(index=list(GENES)))


def course() -> Trajectories:
    return Trajectories.from_anndata(screen(time=TIMES), time="time", time_unit="day")


SEQUENCE_ROWS = {
    ("p", "control"): (1, 2, 4),
    ("q", "A+B@2"): (1, 4),
    ("r", "A"): (2,),
}


def sequences(times: dict[tuple[str, str], tuple[int, ...]] | None = None) -> AnnData:
    rows = [(*key, time) for key, seen in (times or SEQUENCE_ROWS).items() for time in seen]
    cell, label, time = zip(*np.random.default_rng(1).permutation(np.array(rows)).tolist(), strict=True)
    return screen(tuple(label), cell=list(cell), time=[float(t) for t in time])


def read_sequences(adata: AnnData | None = None, **options: Any) -> Trajectories:
    adata = sequences() if adata is None else adata
    return Trajectories.from_anndata(adata, time="time", sequence="cell", **options)


def dense(adata: AnnData) -> np.ndarray:
    return np.asarray(adata.to_df(), dtype=np.float32)


def counts_by_name(data: Trajectories) -> set[tuple[str, tuple[float, ...]]]:
    values = data.values.toarray().tolist()
    return {(str(data.names[n]), tuple(row)) for n, row in zip(data.row_cell, values, strict=True)}


def held_names(data: Trajectories) -> set[tuple[str, float]]:
    return set(zip(data.names[data.row_cell].tolist(), data.row_times.tolist(), strict=True))
