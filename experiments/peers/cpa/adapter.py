"""CPA (Lotfollahi et al. 2023): an additive latent shift of each perturbation and context, decoded to counts.

.venv-peers/cpa/bin/python experiments/peers/cpa/adapter.py TASK_FOLDER OUT.h5ad --seed S [--steps EPOCHS]
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import anndata
import cpa
import numpy as np
import pandas as pd
import torch
from exchange import CONTROL, Given, arguments, genes_of, read_given, write_cells
from scipy import sparse

BATCH = 128  # its default
MOST_EPOCHS = 400  # its default for less than 20,000 cells; early stopping as it has it
MOST_STEPS = 6_000  # of which three minutes hold about so many


def screen(given: Given, seed: int) -> tuple[anndata.AnnData, list[np.ndarray]]:
    """Training cells, and below them controls under each asked name, which CPA calls out of distribution."""
    chosen = [given.controls(row.context, row.time)[: row.n_cells] for row in given.ask.itertuples()]
    asked = given.ask.loc[given.ask.index.repeat([len(rows) for rows in chosen])]
    columns = ["perturbation", "context"]
    obs = pd.concat([given.train.obs[columns].astype(str), asked[columns]], ignore_index=True)
    seen = len(given.train.obs)
    split = np.random.default_rng(seed).random(len(obs)) < 0.9
    obs["split"] = np.where(np.arange(len(obs)) >= seen, "ood", np.where(split, "train", "test"))
    obs.index = [f"cell_{i}" for i in range(len(obs))]
    x = sparse.vstack([given.train.X, given.train.X[np.concatenate(chosen)]]).tocsr()
    ends = np.cumsum([seen, *(len(rows) for rows in chosen)])
    groups = [np.arange(first, last) for first, last in pairwise(ends)]
    return anndata.AnnData(x, obs=obs, var=given.train.var[[]].copy()), groups


def embeddings(given: Given) -> torch.nn.Embedding:
    """Features of genes, in CPA's order of names, for perturbations without cells; they are not trained."""
    rows = {name: given.genes.loc[name] for name in cpa.CPA.pert_encoder if name in given.genes.index}
    table = np.zeros((len(cpa.CPA.pert_encoder), given.genes.shape[1]))
    for name, i in cpa.CPA.pert_encoder.items():
        table[i] = rows.get(name, 0.0)
    return torch.nn.Embedding.from_pretrained(torch.tensor(table, dtype=torch.float32), padding_idx=0)


def main() -> None:
    """Trains on all training cells, decodes the controls under each asked name, and writes their means."""
    chosen = arguments(__doc__, "epochs")
    given = read_given(chosen.task)
    settings = ["defaults"]
    if given.asks_new_times:
        given = given.of_last_time()
        settings.append("no time: cells of the last training day alone")
    if given.unseen_genes and given.genes is None:
        given.embeddings()
    cells, groups = screen(given, chosen.seed)
    cpa.CPA.pert_smiles_map = {}  # of no drug
    longest = max(len(genes_of(one)) for one in given.labels)
    cpa.CPA.setup_anndata(
        cells,
        perturbation_key="perturbation",
        control_group=CONTROL,
        categorical_covariate_keys=["context"],
        is_count_data=True,
        max_comb_len=max(2, longest),
    )
    more = {}
    if given.unseen_genes:
        more["drug_embeddings"] = embeddings(given)
        settings.append("features of genes in place of learnt embeddings")
    model = cpa.CPA(cells, split_key="split", seed=chosen.seed, **more)
    fits = max(1, MOST_STEPS * BATCH // given.train.n_obs)
    epochs = chosen.steps or min(MOST_EPOCHS, fits)
    settings.append("400 epochs at most, or 6,000 steps (capped)")
    quiet = {"use_gpu": False, "save_path": False, "enable_progress_bar": False}
    model.train(max_epochs=epochs, batch_size=BATCH, **quiet)
    made = []
    for rows in groups:
        asked = cells[rows].copy()
        model.predict(asked, batch_size=256)
        mean = np.asarray(asked.obsm["CPA_pred"], dtype=float)
        made.append(np.log1p(given.target_sum * mean / mean.sum(1, keepdims=True)))
    said = "; ".join(settings)
    write_cells(chosen.out, given, made, package="cpa-tools", steps=epochs, unit="epochs", settings=said)


if __name__ == "__main__":
    main()
