"""What an adapter is handed: training cells, rows to predict, features of genes, and nothing of the truth."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse
from tasks import Task

import pyro_citevae as cv
from pyro_citevae.analysis import Measurement
from pyro_citevae.benchmark import Fold
from pyro_citevae.whole_files import aside

__all__ = ["Case", "N_CELLS"]

N_CELLS = 200  # that are asked of each perturbation


@dataclass(frozen=True)
class Case:
    """A fold of a task, with the folder that predictors read.

    Attributes:
        task: The task.
        fold: What may be seen, and what is scored.
        truth: True effects, where they are known.
        folder: Holds ``task``, for adapters, and ``fold.pickle``, for ours and the rules.
    """

    task: Task
    fold: Fold
    truth: tuple[Measurement, ...]
    folder: Path

    @classmethod
    def of(cls, task: Task, fold: Fold, folder: Path) -> Case:
        """Writes the folder if it is not there, or is of other cells."""
        made = cls(task, fold, tuple(task.truth(fold)), folder)
        noted = folder / "case.json"
        if not noted.is_file() or json.loads(noted.read_text()) != made.key:
            with aside(folder, overwrite=True) as written:
                written.mkdir(parents=True)
                made._write(written / "task")
                (written / "fold.pickle").write_bytes(pickle.dumps((fold, task.protocol, task.features)))
                (written / "case.json").write_text(json.dumps(made.key, indent=1) + "\n")
        return made

    @property
    def key(self) -> dict[str, Any]:
        """What tells it from other cases."""
        fold = self.fold
        scored = [list(one) for one in fold.scored]
        return {"data": fold.whole.digest, "split": fold.split.digest, "scored": scored}

    @property
    def given(self) -> Path:
        """The folder that an adapter reads."""
        return self.folder / "task"

    def _write(self, folder: Path) -> None:
        folder.mkdir()
        training_cells(self.fold.train).write_h5ad(folder / "train.h5ad")
        asked(self.fold).to_csv(folder / "ask.csv", index=False)
        features = self.task.table(self.fold)
        if features is not None:
            features.to_parquet(folder / "genes.parquet")
        schema = self.fold.train.schema
        said = {
            "task": self.task.protocol,
            "dataset": self.task.name,
            "fold": self.fold.number,
            "control": schema.control,
            "has_times": len(np.unique(self.fold.train.row_times)) > 1,
            "has_contexts": bool(schema.contexts),
        }
        (folder / "task.json").write_text(json.dumps(said, indent=1) + "\n")


def training_cells(train: cv.Trajectories) -> anndata.AnnData:
    """Training cells as any tool reads them: counts in ``X``, four columns in ``obs``."""
    schema = train.schema
    contexts = np.array(schema.contexts or ("all",), dtype=object)
    obs = pd.DataFrame(
        {
            "perturbation": train.row_labels.astype(str),
            "context": contexts[train.context[train.row_cell]].astype(str),
            "time": train.row_times,
            "batch": np.array(schema.batches, dtype=object)[train.technical[train.row_cell]].astype(str),
        },
        index=[f"cell_{i}" for i in range(train.n_observations)],
    )
    x = sparse.csr_matrix(train.stored.tocsr(), dtype=np.float32)
    return anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=list(schema.genes)))


def asked(fold: Fold) -> pd.DataFrame:
    """The rows to predict; the control too, at a time of which training has none of its cells."""
    context = fold.context or "all"
    rows = [(label, context, time, N_CELLS) for label, time in fold.scored]
    controls = fold.train.select(fold.train.schema.control, context=fold.context)
    unseen = [time for time in fold.times if time not in controls.row_times]
    rows += [(fold.train.schema.control, context, time, N_CELLS) for time in unseen]
    return pd.DataFrame(rows, columns=["perturbation", "context", "time", "n_cells"])
