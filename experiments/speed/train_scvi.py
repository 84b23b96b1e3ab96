"""Trains a model of scvi-tools on a screen, and prints throughput as JSON; runs in the peers' environment.

.venv-peers/bench/bin/python experiments/speed/train_scvi.py runs/speed/screen_5000x2000x20.h5ad --model SCVI
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata
import scvi
from lightning.pytorch.callbacks import Callback


class StepEnds(Callback):
    """The clock at the end of every training step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Notes it."""
        self.ends.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", choices=("SCVI", "Decipher"), default="SCVI")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3, help="Two at least: the first one is not counted.")
    parser.add_argument("--short", type=int, help="Time whole trainings, of so many epochs and of --epochs.")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--accelerator", default="cpu")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    adata = anndata.read_h5ad(chosen.file)
    scvi.settings.seed = 0
    n_cells = adata.n_obs
    if chosen.short is None:
        speed = n_cells * (chosen.epochs - 1) / after_the_first_epoch(adata, chosen)
    else:
        whole(adata, chosen, 1)  # the device's libraries start
        more = -whole(adata, chosen, chosen.short) + whole(adata, chosen, chosen.epochs)
        speed = n_cells * (chosen.epochs - chosen.short) / more
    found = {
        "cells_per_second": speed,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "versions": f"scvi-tools {version('scvi-tools')}, torch {version('torch')}",
    }
    print(json.dumps(found))


def trained(adata: anndata.AnnData, chosen: argparse.Namespace, epochs: int, clock: StepEnds) -> None:
    """Trains a new model, on all cells."""
    options = {
        "max_epochs": epochs,
        "batch_size": chosen.batch_size,
        "train_size": 1.0,
        "accelerator": chosen.accelerator,
        "enable_progress_bar": False,
        "datasplitter_kwargs": {"drop_last": False},
        "callbacks": [clock],
    }
    if chosen.model == "SCVI":
        scvi.model.SCVI.setup_anndata(adata)
        scvi.model.SCVI(adata, n_hidden=chosen.hidden, gene_likelihood="nb").train(**options)
    else:
        from scvi.external import Decipher

        Decipher.setup_anndata(adata)
        Decipher(adata).train(**options)
    if len(clock.ends) != math.ceil(adata.n_obs / chosen.batch_size) * epochs:
        raise SystemExit(f"{len(clock.ends)} steps were seen in {epochs} epochs of {adata.n_obs} cells")


def after_the_first_epoch(adata: anndata.AnnData, chosen: argparse.Namespace) -> float:
    """Seconds from the last step of the first epoch to that of the last one."""
    clock = StepEnds()
    trained(adata, chosen, chosen.epochs, clock)
    return clock.ends[-1] - clock.ends[len(clock.ends) // chosen.epochs - 1]


def whole(adata: anndata.AnnData, chosen: argparse.Namespace, epochs: int) -> float:
    """Seconds of a training, from the model on."""
    started = time.perf_counter()
    trained(adata, chosen, epochs, StepEnds())
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
