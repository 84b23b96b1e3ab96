"""What adapters share: a task's folder as they read it, and the predicted cells as they write them.

Runs in each peer's own environment, so it needs numpy, scipy, pandas and anndata alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NoReturn

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

CONTROL: Final = "control"
NOT_ITS_TASK: Final = 3


@dataclass(frozen=True)
class Given:
    """What a peer is given, and what it is asked.

    Attributes:
        train: Counts of the training cells; ``obs`` holds perturbation, context, time and batch.
        ask: A row for each group of cells to predict: perturbation, context, time, n_cells.
        genes: Features of genes, a row each; None where the task has none.
        facts: The fields of ``task.json``.
    """

    train: anndata.AnnData
    ask: pd.DataFrame
    genes: pd.DataFrame | None
    facts: dict[str, Any]

    @property
    def labels(self) -> list[str]:
        """All perturbations, seen and asked, the control among them."""
        return sorted(set(self.ask["perturbation"]) | set(self.train.obs["perturbation"]))

    @property
    def unseen(self) -> list[str]:
        """Perturbations that are asked, of which training has no cell."""
        return sorted(set(self.ask["perturbation"]) - set(self.train.obs["perturbation"]))

    @property
    def unseen_genes(self) -> list[str]:
        """Genes of asked perturbations that no training cell has perturbed, alone or in a pair."""
        seen = {gene for one in self.train.obs["perturbation"].unique() for gene in genes_of(one)}
        return sorted({gene for one in self.unseen for gene in genes_of(one)} - seen)

    @property
    def asks_new_times(self) -> bool:
        """Whether cells of a time are asked of which training has no control."""
        return bool(set(self.ask["time"]) - set(self.train.obs["time"].astype(float)))

    @property
    def target_sum(self) -> float:
        """The median total count of a training cell: to what cells are scaled."""
        return float(np.median(np.asarray(self.train.X.sum(1))))

    @cached_property
    def log1p(self) -> sparse.csr_matrix:
        """``log1p`` of the training counts scaled to ``target_sum``."""
        totals = np.asarray(self.train.X.sum(1)).ravel()
        scale = sparse.diags(self.target_sum / np.maximum(totals, 1.0))
        return (scale @ sparse.csr_matrix(self.train.X)).log1p().astype(np.float32)

    def embeddings(self) -> pd.DataFrame:
        """A row for each of ``labels``: the sum of its genes' features, zeros for the control."""
        if self.genes is None:
            refuse("an unseen gene is asked, and the task has no features of genes")
        rows = {one: self.genes.loc[genes_of(one)].sum() for one in self.labels}
        return pd.DataFrame(rows).T.astype(np.float32)

    def without_time(self) -> tuple[Given, str]:
        """What a peer without time is given, and words on it: where a new time is asked, the last alone."""
        if not self.asks_new_times:
            return self, ""
        time = self.train.obs["time"].astype(float)
        ask = self.ask[self.ask["perturbation"] != CONTROL].reset_index(drop=True)
        last = Given(self.train[(time == time.max()).to_numpy()].copy(), ask, self.genes, self.facts)
        return last, "; no time: cells of the last training day alone"

    def of_several_cells(self) -> np.ndarray:
        """Whether a training cell has others of its perturbation, without which some peers cannot read it."""
        labels = self.train.obs["perturbation"].astype(str)
        return (labels.map(labels.value_counts()) > 1).to_numpy()

    def controls(self, context: str, time: float) -> np.ndarray:
        """Rows of training's control cells: of this context and time, else of this context, else all."""
        obs = self.train.obs
        of_controls = (obs["perturbation"] == CONTROL).to_numpy()
        of_context = of_controls & (obs["context"] == context).to_numpy()
        here = of_context & np.isclose(obs["time"].to_numpy(float), time)
        return np.flatnonzero(next(rows for rows in (here, of_context, of_controls) if rows.any()))


def genes_of(perturbation: str) -> list[str]:
    """The genes that a perturbation's name joins by ``+``; none for the control."""
    return [] if perturbation == CONTROL else perturbation.split("+")


def condition(perturbation: str) -> str:
    """The name that GEARS and Scouter have for it: ``ctrl``, ``A+ctrl`` or ``A+B``."""
    genes = genes_of(perturbation)
    return "+".join([*genes, "ctrl"]) if len(genes) < 2 else perturbation


def read_given(folder: Path) -> Given:
    """What the folder of a task gives and asks."""
    genes = folder / "genes.parquet"
    kinds = {"perturbation": str, "context": str, "time": float, "n_cells": int}
    return Given(
        train=anndata.read_h5ad(folder / "train.h5ad"),
        ask=pd.read_csv(folder / "ask.csv", dtype=kinds, keep_default_na=False),
        genes=pd.read_parquet(genes) if genes.exists() else None,
        facts=json.loads((folder / "task.json").read_text()),
    )


def arguments(description: str | None, unit: str) -> argparse.Namespace:
    """The command line of an adapter: TASK_FOLDER OUT.h5ad --seed S [--steps N]."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("task", type=Path, help="folder of the task")
    parser.add_argument("out", type=Path, help="file of the predicted cells")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help=f"length of the training, in {unit}")
    return parser.parse_args()


def none_negative(cells: np.ndarray) -> np.ndarray:
    """Cells without values below zero: a gene's other values shrink, so that its mean stays (or is zero)."""
    kept = np.maximum(cells, 0.0)
    means, shortened = np.maximum(cells.mean(0), 0.0), kept.mean(0)
    return kept * np.divide(means, shortened, out=np.zeros_like(means), where=shortened > 0)


def refuse(reason: str) -> NoReturn:
    """Ends the adapter: the task is not the peer's, for this reason."""
    print(reason, file=sys.stderr)
    sys.exit(NOT_ITS_TASK)


def write_cells(
    out: Path,
    given: Given,
    groups: list[np.ndarray],
    *,
    package: str,
    steps: int,
    unit: str,
    settings: str,
    intervals: str = "none",
) -> None:
    """Writes the predicted cells whole: for each row of ``ask`` a group of them.

    Args:
        out: The file to write.
        given: What was given and asked.
        groups: Cells in the genes of training, ``log1p`` of counts scaled to ``given.target_sum``.
        package: Name of the peer's distribution; its version is looked up.
        steps: Length of the training.
        unit: Of ``steps``: ``"epochs"`` or ``"steps"``.
        settings: What was set, and why.
        intervals: How the peer gives an interval.
    """
    named = given.ask[["perturbation", "context", "time"]]
    obs = named.loc[named.index.repeat([len(cells) for cells in groups])].reset_index(drop=True)
    obs.index = obs.index.astype(str)
    peer = {"package": package, "version": version(package), "steps": steps, "unit": unit}
    predicted = anndata.AnnData(
        sparse.csr_matrix(np.vstack(groups).astype(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=list(given.train.var_names)),
        uns={
            "values": "log1p",
            "target_sum": given.target_sum,
            "peer": peer | {"settings": settings, "intervals": intervals},
        },
    )
    part = out.with_name(f".{out.name}.part")
    predicted.write_h5ad(part)
    part.replace(out)
