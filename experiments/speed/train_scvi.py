"""Trains a model of scvi-tools on a screen, and prints throughput as JSON; runs in the peers' environment.

.venv-peers/bin/python experiments/speed/train_scvi.py runs/speed/screen_5000x2000x20.h5ad --model SCVI
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
from scvi.external import Decipher


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
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--accelerator", default="cpu")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    adata = anndata.read_h5ad(chosen.file)
    scvi.settings.seed = 0
    clock = StepEnds()
    options = {
        "max_epochs": chosen.epochs,
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
        Decipher.setup_anndata(adata)
        Decipher(adata).train(**options)
    steps = math.ceil(adata.n_obs / chosen.batch_size)
    if len(clock.ends) != steps * chosen.epochs:
        raise SystemExit(f"{len(clock.ends)} steps were seen and {steps * chosen.epochs} expected")
    taken = clock.ends[-1] - clock.ends[steps - 1]
    found = {
        "cells_per_second": adata.n_obs * (chosen.epochs - 1) / taken,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "versions": f"scvi-tools {version('scvi-tools')}, torch {version('torch')}",
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
