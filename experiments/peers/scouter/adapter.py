"""Scouter (Zhu, Li 2025): profiles of unseen genes' perturbations from embeddings of the genes.

.venv-peers/scouter/bin/python experiments/peers/scouter/adapter.py TASK OUT.h5ad --seed S [--steps EPOCHS]

Used as its README and its tutorial on one's own data have it: ``ScouterData``, ``gene_ranks``,
``model_init`` and ``train`` with their defaults, 40 epochs at most and a tenth of the perturbations to
stop early by. Members of the asked pairs are not set aside. What differs:

* the task's features are the embedding, in place of GPT's of descriptions of the genes; where there are
  none, genes that were all seen have one-hot embeddings;
* batches are such that an epoch has 50 of them, of 16 to 256 cells: with its 256, a screen of a thousand
  cells has four, and it stops when its profiles are still an eighth of the controls'.

It predicts a cell's expected expression, without its noise. The control cells of an asked row are moved by
what the mean of the predicted cells differs from the mean of the controls. Scouter knows one kind of
cells, so that a new context is not its task.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import anndata
import numpy as np
import pandas as pd
import torch
from exchange import Given, arguments, condition, genes_of, none_negative, read_given, refuse, write_cells
from scouter import Scouter, ScouterData

EPOCHS, BATCHES = 40, 50
SETTINGS = (
    "defaults: rate 1e-3, stops early by a tenth of the perturbations; batches of 16 to 256 so that an epoch "
    "has 50; the task's features in place of GPT's embeddings; control cells are moved by the difference of "
    "the means"
)


def main() -> None:
    """Trains, and writes control cells moved to the predicted means."""
    chosen = arguments(__doc__, "epochs")
    given, settings = read_given(chosen.task), SETTINGS
    if given.facts["has_contexts"]:
        refuse("Scouter knows one kind of cells, and a new one is asked")
    given, of_times = given.without_time()
    settings += of_times
    torch.manual_seed(chosen.seed)
    epochs = chosen.steps or EPOCHS
    model = trained(given, chosen.seed, epochs)
    groups = [moved(model, given, chosen.seed, row) for _, row in given.ask.iterrows()]
    write_cells(
        chosen.out, given, groups, package="scouter-learn", steps=epochs, unit="epochs", settings=settings
    )


def trained(given: Given, seed: int, epochs: int) -> Scouter:
    """Scouter on all perturbations but those by which it stops."""
    data = ScouterData(
        expression(given), embedding(given), key_label="condition", key_var_genename="gene_name"
    )
    data.setup_ad("embd_index", slim=False)
    data.gene_ranks()
    data.get_dropout_non_zero_genes()
    data.split_Train_Val_Test(val_conds=set_aside(given, data, seed), if_test=False)
    model = Scouter(data, device="cpu")
    model.model_init()
    perturbed = int((data.train_adata.obs["condition"] != "ctrl").sum())
    model.train(n_epochs=epochs, batch_size=int(np.clip(perturbed // BATCHES, 16, 256)))
    return model


def expression(given: Given) -> anndata.AnnData:
    """Training cells as Scouter reads them; perturbations of a single cell are left out."""
    kept = given.of_several_cells()
    conditions = [condition(one) for one in given.train.obs["perturbation"][kept]]
    obs = pd.DataFrame({"condition": conditions}, given.train.obs_names[kept])
    var = pd.DataFrame({"gene_name": list(given.train.var_names)}, index=list(given.train.var_names))
    return anndata.AnnData(given.log1p[kept], obs=obs, var=var)


def embedding(given: Given) -> pd.DataFrame:
    """A row for each perturbed gene, and zeros for the control."""
    genes = sorted({gene for one in given.labels for gene in genes_of(one)})
    table = pd.DataFrame(np.eye(len(genes)), index=genes) if given.genes is None else given.genes.loc[genes]
    return pd.concat([table, pd.DataFrame(0.0, index=["ctrl"], columns=table.columns)])


def set_aside(given: Given, data: ScouterData, seed: int) -> list[str]:
    """A tenth of the perturbations, none of them a member of an asked pair."""
    members = {condition(gene) for one in given.unseen for gene in genes_of(one)}
    seen = sorted(set(data.adata.obs["condition"]) - {"ctrl"})
    free = [one for one in seen if one not in members]
    return list(
        np.random.default_rng(seed).choice(free, min(len(free), round(0.1 * len(seen))), replace=False)
    )


def moved(model: Scouter, given: Given, seed: int, row: pd.Series) -> np.ndarray:
    """Control cells of the row's context and time, moved by the predicted difference of the means."""
    asked = condition(row["perturbation"])
    predicted = model.pred([asked], seed=seed)[asked].mean(0)
    controls = given.log1p[given.controls(row["context"], row["time"])].toarray()
    return none_negative(controls + predicted - controls.mean(0))


if __name__ == "__main__":
    main()
