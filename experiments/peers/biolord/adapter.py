"""biolord (Piran et al. 2024): profiles decoded from what is known of them: perturbation, context and time.

.venv-peers/biolord/bin/python experiments/peers/biolord/adapter.py TASK OUT.h5ad --seed S [--steps STEPS]

Its authors predict perturbations from the mean profile of each (their scripts on Norman and Adamson), and so
does this: the control cells of an asked row are moved by what the predicted profile differs from their mean.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import anndata
import biolord
import numpy as np
import pandas as pd
from exchange import CONTROL, Given, arguments, genes_of, read_given, write_cells

STEPS = 1_000  # about what its authors' 200 epochs take over Norman's hundred singles
BATCH = 32
MODULE = {  # of the authors' configuration for Norman
    "attribute_nn_width": 64,
    "attribute_nn_depth": 2,
    "use_batch_norm": False,
    "use_layer_norm": False,
    "attribute_dropout_rate": 0.0,
    "unknown_attribute_noise_param": 0.2,
    "n_latent_attribute_ordered": 32,
    "n_latent_attribute_categorical": 16,
    "reconstruction_penalty": 1e4,
    "decoder_width": 32,
    "decoder_depth": 2,
    "decoder_activation": True,
    "attribute_nn_activation": True,
    "unknown_attributes": False,
}
PLAN = {
    "n_epochs_warmup": 0,
    "latent_lr": 1e-2,
    "latent_wd": 1e-5,
    "attribute_nn_lr": 1e-3,
    "attribute_nn_wd": 4e-8,
    "step_size_lr": 45,
    "cosine_scheduler": True,
    "scheduler_final_lr": 1e-5,
    "decoder_lr": 1e-2,
    "decoder_wd": 1e-2,
}
SETTINGS = "its authors' configuration for Norman: mean profiles in batches of 32, for as many steps"


def known_of(given: Given) -> tuple[dict[str, np.ndarray], str]:
    """What is known of each single perturbation: features where a gene is unseen, else which one it is."""
    names = sorted({gene for one in given.labels for gene in genes_of(one)})
    if given.unseen_genes:
        given.embeddings()
        table = given.genes.loc[names].to_numpy(np.float32)
        said = "features of genes"
    else:
        table, said = np.eye(len(names), dtype=np.float32), "one column a gene"
    return {CONTROL: np.zeros(table.shape[1], np.float32), **dict(zip(names, table, strict=True))}, said


def profiles(
    given: Given, rows: pd.DataFrame, known: dict[str, np.ndarray], x: np.ndarray
) -> anndata.AnnData:
    """Profiles as biolord reads them: perturbation and time are ordered attributes, the context is a kind."""
    last = float(given.train.obs["time"].astype(float).max())
    names = [f"row_{i}" for i in range(len(rows))]
    obs = pd.DataFrame({"context": rows["context"].astype(str).to_numpy()}, index=names)
    obs["_indices"] = 0  # of an embedding of cells, which this configuration has no use for
    made = anndata.AnnData(np.asarray(x, np.float32), obs=obs, var=given.train.var[[]].copy())
    made.obsm["perturbation"] = np.array([known[one] for one in rows["perturbation"]])
    made.obsm["time"] = rows["time"].to_numpy(np.float32)[:, None] / last
    return made


def measured(given: Given) -> tuple[pd.DataFrame, np.ndarray]:
    """The mean log-normalised profile of each perturbation, context and time of training."""
    obs = given.train.obs[["perturbation", "context", "time"]].astype({"perturbation": str, "context": str})
    group = obs.groupby(["perturbation", "context", "time"], sort=True, observed=True)
    number = group.ngroup().to_numpy()
    rows = group.size().reset_index()
    return rows, np.array([np.asarray(given.log1p[number == i].mean(0)).ravel() for i in range(len(rows))])


def main() -> None:
    """Trains on mean profiles, predicts the asked ones, and writes controls that were moved to them."""
    chosen = arguments(__doc__, "steps")
    given = read_given(chosen.task)
    known, said = known_of(given)
    rows, x = measured(given)
    single = (~rows["perturbation"].str.contains("+", regex=False)).to_numpy()
    train = profiles(given, rows[single], known, x[single])
    ordered = ["perturbation", "time"] if given.facts["has_times"] else ["perturbation"]
    attributes = {"ordered_attributes_keys": ordered, "categorical_attributes_keys": ["context"]}
    biolord.Biolord.setup_anndata(train, **attributes)
    model = biolord.Biolord(train, n_latent=32, module_params=MODULE | {"seed": chosen.seed})
    steps = chosen.steps or STEPS
    epochs = math.ceil(steps / math.ceil(train.n_obs / BATCH))
    with tempfile.TemporaryDirectory() as aside:
        model.train(
            max_epochs=epochs,
            batch_size=BATCH,
            plan_kwargs=PLAN,
            train_size=1.0,
            accelerator="cpu",
            enable_checkpointing=False,
            check_val_every_n_epoch=None,
            default_root_dir=aside,
            logger=False,
            enable_progress_bar=False,
        )

    def predicted(perturbation: str, context: str, time: float) -> np.ndarray:
        """The profile of a single perturbation, or of the control."""
        asked = pd.DataFrame({"perturbation": [perturbation], "context": [context], "time": [time]})
        return np.asarray(model.predict(profiles(given, asked, known, x[:1]))[0].X)[0]

    seen = {tuple(row): profile for row, profile in zip(rows.to_numpy()[:, :3], x, strict=True)}
    groups = []
    for row in given.ask.itertuples():
        cells = given.log1p[given.controls(row.context, row.time)[: row.n_cells]].toarray()
        start = cells.mean(0)
        members = genes_of(row.perturbation) or [CONTROL]
        if len(members) == 1:
            delta = predicted(members[0], row.context, row.time) - start
        else:  # as its authors do: what was measured of a member, what is predicted where it was not
            control = seen[CONTROL, row.context, row.time]
            each = [seen.get((one, row.context, row.time)) for one in members]
            each = [
                predicted(one, row.context, row.time) if found is None else found
                for one, found in zip(members, each, strict=True)
            ]
            delta = np.sum([one - control for one in each], axis=0)
        groups.append(np.maximum(cells + delta, 0.0))
    settings = f"{SETTINGS}; {said}; a pair is the sum of its members, measured where they were"
    write_cells(chosen.out, given, groups, package="biolord", steps=steps, unit="steps", settings=settings)


if __name__ == "__main__":
    main()
