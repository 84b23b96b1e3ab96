"""MrVI (Boyeau et al. 2025), of scvi-tools: what cells would be, had their sample been another.

.venv-peers/mrvi/bin/python experiments/peers/mrvi/adapter.py TASK OUT.h5ad --seed S [--steps EPOCHS]

A sample is a perturbation, and a batch a batch. Control cells of the asked context keep their ``u``, are
given the ``z`` of the asked perturbation, and each gene changes by the ratio of the two decoded rates: its
own counterfactual, of which ``differential_expression`` shows the logarithm. All is by its defaults. A
perturbation has to be a sample of training, so that an unseen one is not its task.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import anndata
import numpy as np
import pandas as pd
import scvi
import torch
from exchange import Given, arguments, read_given, refuse, write_cells
from scipy import sparse
from scvi.external.mrvi_torch import TorchMRVI

EPOCHS, BATCH = 400, 128
MOST_STEPS = 3300  # of two minutes on a processor
SETTINGS = "defaults; samples are perturbations; controls change by the ratio of counterfactual rates"


def main() -> None:
    """Trains, and writes control cells as they would be under the asked perturbations."""
    chosen = arguments(__doc__, "epochs")
    given, settings = read_given(chosen.task), SETTINGS
    if given.unseen:
        refuse(
            "MrVI gives cells another sample of those it was trained on, and this perturbation was not seen"
        )
    given, of_times = given.without_time()
    settings += of_times
    fits = max(1, MOST_STEPS * BATCH // given.train.n_obs)
    epochs = chosen.steps or min(EPOCHS, fits)
    if fits < EPOCHS:
        settings += f"; capped: {fits} epochs, not {EPOCHS}"
    scvi.settings.seed = chosen.seed
    obs = given.train.obs[["perturbation", "batch"]].astype(str)
    cells = anndata.AnnData(sparse.csr_matrix(given.train.X), obs=obs, var=given.train.var[[]].copy())
    TorchMRVI.setup_anndata(cells, sample_key="perturbation", batch_key="batch")
    model = TorchMRVI(cells)
    model.train(max_epochs=epochs, batch_size=BATCH, accelerator="cpu", enable_progress_bar=False)
    groups = [changed(model, given, cells, row) for _, row in given.ask.iterrows()]
    write_cells(
        chosen.out, given, groups, package="scvi-tools", steps=epochs, unit="epochs", settings=settings
    )


@torch.inference_mode()
def changed(model: TorchMRVI, given: Given, cells: anndata.AnnData, row: pd.Series) -> np.ndarray:
    """Control cells of the row's context and time, as they would be under its perturbation."""
    rows = given.controls(row["context"], row["time"])
    place = list(model.sample_order).index(row["perturbation"])
    model.module.eval()
    ratios = []
    for batch in model._make_data_loader(adata=cells, indices=rows, batch_size=256):
        asked = model.module._get_inference_input(batch)
        rates = []
        for sample in (asked["sample_index"], torch.full_like(asked["sample_index"], place)):
            latent = model.module.inference(**asked, cf_sample=sample, use_mean=True)
            made = model.module.generative(**model.module._get_generative_input(batch, latent))
            rates.append(made["h"])
        ratios.append((rates[1] / rates[0]).numpy())
    return np.log1p(np.expm1(given.log1p[rows].toarray()) * np.concatenate(ratios))


if __name__ == "__main__":
    main()
