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

MOST_EPOCHS = 400  # its default for less than 20,000 cells
FEW_CELLS, SMALL, LARGE = 4_000, 128, 512  # its default batch for few cells, that of its tutorials for more
MOST_STEPS = {SMALL: 4_000, LARGE: 2_000}  # of which two minutes hold about so many
NORMAN = (  # of its tutorial on Norman's pairs
    {
        "n_latent": 128,
        "recon_loss": "nb",
        "doser_type": "linear",
        "n_hidden_encoder": 512,
        "n_layers_encoder": 2,
        "n_hidden_decoder": 256,
        "n_layers_decoder": 2,
        "use_batch_norm_decoder": False,
        "dropout_rate_decoder": 0.2,
    },
    {
        "n_epochs_pretrain_ae": 30,
        "n_epochs_adv_warmup": 100,
        "n_epochs_mixup_warmup": 10,
        "mixup_alpha": 0.2,
        "adv_steps": 2,
        "n_hidden_adv": 128,
        "n_layers_adv": 2,
        "dropout_rate_adv": 0.2,
        "reg_adv": 50.0,
        "pen_adv": 1.0,
        "lr": 3e-4,
        "wd": 4e-7,
        "step_size_lr": 45,
    },
)
KANG = (  # of its tutorial on interferon in cell types
    {
        "n_latent": 64,
        "recon_loss": "nb",
        "doser_type": "linear",
        "n_hidden_encoder": 128,
        "n_layers_encoder": 2,
        "n_hidden_decoder": 512,
        "n_layers_decoder": 2,
        "use_batch_norm_decoder": False,
        "use_layer_norm_decoder": True,
        "dropout_rate_decoder": 0.1,
    },
    {
        "n_epochs_pretrain_ae": 30,
        "n_epochs_adv_warmup": 50,
        "n_epochs_mixup_warmup": 0,
        "mixup_alpha": 0.0,
        "adv_steps": None,
        "n_hidden_adv": 64,
        "n_layers_adv": 3,
        "dropout_rate_adv": 0.3,
        "reg_adv": 20.0,
        "pen_adv": 5.0,
        "lr": 3e-4,
        "wd": 4e-7,
        "do_clip_grad": True,
        "gradient_clip_value": 1.0,
        "step_size_lr": 10,
    },
)


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
    module, plan = KANG if given.facts["has_contexts"] else NORMAN
    settings = ["as its tutorials on Kang's (contexts) and Norman's screen"]
    given, of_times = given.without_time()
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
    model = cpa.CPA(cells, split_key="split", seed=chosen.seed, **module, **more)
    batch = SMALL if given.train.n_obs < FEW_CELLS else LARGE
    epochs = chosen.steps or min(MOST_EPOCHS, max(1, MOST_STEPS[batch] * batch // given.train.n_obs))
    settings.append(f"400 epochs or {MOST_STEPS[batch]:,} steps of {batch} cells at most (capped)")
    quiet = {"use_gpu": False, "save_path": False, "enable_progress_bar": False}
    stop = {"early_stopping_patience": 5, "check_val_every_n_epoch": 5}
    model.train(max_epochs=epochs, batch_size=batch, plan_kwargs=dict(plan), **stop, **quiet)
    made = []
    for rows in groups:
        asked = cells[rows].copy()
        model.predict(asked, batch_size=256)
        mean = np.asarray(asked.obsm["CPA_pred"], dtype=float)
        made.append(np.log1p(given.target_sum * mean / mean.sum(1, keepdims=True)))
    said = "; ".join(settings) + of_times
    write_cells(chosen.out, given, made, package="cpa-tools", steps=epochs, unit="epochs", settings=said)


if __name__ == "__main__":
    main()
