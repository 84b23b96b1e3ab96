"""State's transition model (Adduri et al. 2025), trained from scratch in the space of expression.

.venv-peers/state/bin/python experiments/peers/state/adapter.py TASK OUT.h5ad --seed S [--steps N]

Used by its own two commands, ``state tx train`` and ``state tx infer``, as its README and the notebook of
the Virtual Cell Challenge have them:

* cells are ``log1p`` of counts scaled to the median total, all genes in ``X_hvg``, ``output_space=gene``;
* a cell type is a context at a time, so that a perturbed cell is learnt from controls of both;
* a perturbation is a one-hot vector, the default. A pair never seen of genes that were is the sum of
  theirs, and where a gene was never seen each perturbation is given by the features of its genes instead
  (``perturbation_features_file``, where the Challenge has ESM-2);
* the energy distance, the learning rate 1e-4, batches of 16 sets, the llama backbone: the defaults.

Two things are not the defaults, for a fit in minutes on a processor. Sets hold 32 cells, and not 512: that
is what its authors take for Replogle's screens, of few cells a perturbation. The backbone is 128 wide,
with 4 layers, and not 768 with 8: their small one, ``state_sm``, takes 6 seconds a step here, and after as
many minutes as this one gets it predicts one and the same cell.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import anndata
import numpy as np
import pandas as pd
import torch
from exchange import CONTROL, Given, arguments, genes_of, read_given, write_cells
from state.__main__ import load_hydra_config
from state._cli import run_tx_infer, run_tx_train
from state._cli._tx import add_arguments_infer

STEPS = 1000
WIDTH, HEADS = 128, 8
N_CELLS = 1000  # of each asked row, drawn with replacement: fewer make the means noisy
SETTINGS = (
    "model=state in gene space, 128 wide, 4 layers, sets of 32 cells; else its defaults: energy distance, "
    f"rate 1e-4, 16 sets a batch; capped: {STEPS} steps, not 40,000 (README); one-hot perturbations, summed "
    "for pairs"
)


def main() -> None:
    """Trains, gives controls of each asked context and time the asked perturbation, and writes the cells."""
    chosen = arguments(__doc__, "steps")
    given, settings = read_given(chosen.task), SETTINGS
    if given.unseen_genes:
        settings += "; features of genes in their place"
    given, of_times = given.without_time()
    settings += of_times
    steps = chosen.steps or STEPS
    with tempfile.TemporaryDirectory() as folder:
        train(given, Path(folder), chosen.seed, steps)
        groups = predict(given, Path(folder), chosen.seed)
    write_cells(chosen.out, given, groups, package="arc-state", steps=steps, unit="steps", settings=settings)


def train(given: Given, folder: Path, seed: int, steps: int) -> None:
    """``state tx train``; the run is written to ``folder/run``."""
    (folder / "screen").mkdir()
    expression(given).write_h5ad(folder / "screen/screen.h5ad")
    split = folder / "split.toml"
    split.write_text(f'[datasets]\nscreen = "{folder}/screen"\n\n[training]\nscreen = "train"\n')
    backbone = {
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": WIDTH // HEADS,
    }
    overrides = {
        "data.kwargs.toml_config_path": split,
        "data.kwargs.embed_key": "X_hvg",
        "data.kwargs.output_space": "gene",
        "data.kwargs.pert_col": "perturbation",
        "data.kwargs.cell_type_key": "cell_type",
        "data.kwargs.batch_col": "batch",
        "data.kwargs.control_pert": CONTROL,
        "data.kwargs.num_workers": 0,
        "model": "state",
        "model.kwargs.cell_set_len": 32,
        "model.kwargs.hidden_dim": WIDTH,
        **{f"model.kwargs.transformer_backbone_kwargs.{key}": value for key, value in backbone.items()},
        "training.max_steps": steps,
        "training.val_freq": steps,  # there is no validation; the default is more than an epoch has
        "training.train_seed": seed,
        "use_wandb": "false",
        "output_dir": folder,
        "name": "run",
    }
    if given.unseen:
        torch.save(features(given), folder / "features.pt")
        overrides["data.kwargs.perturbation_features_file"] = folder / "features.pt"
    run_tx_train(load_hydra_config("tx", [f"{key}={value}" for key, value in overrides.items()]))


def features(given: Given) -> dict[str, torch.Tensor]:
    """Of each perturbation; the control's are zeros, as State has them for what it knows nothing of."""
    if given.unseen_genes:
        table = given.embeddings()
    else:
        genes = sorted({gene for one in given.labels for gene in genes_of(one)})
        table = pd.DataFrame({one: np.isin(genes, genes_of(one)) for one in given.labels}).T
    return {one: torch.tensor(row.to_numpy(np.float32)) for one, row in table.iterrows()}


def predict(given: Given, folder: Path, seed: int) -> list[np.ndarray]:
    """``state tx infer`` on controls, and on rows that name what is asked."""
    controls = expression(given)
    controls = controls[controls.obs["perturbation"] == CONTROL].copy()
    rows = given.ask.loc[given.ask.index.repeat(N_CELLS)].assign(batch="none")
    asked = anndata.AnnData(np.zeros((len(rows), controls.n_vars), np.float32), obs=columns(rows))
    asked.obs_names, asked.var_names = [f"asked_{i}" for i in range(len(rows))], controls.var_names
    asked.obsm["X_hvg"] = asked.X
    anndata.concat([controls, asked]).write_h5ad(folder / "asked.h5ad")
    parser = ArgumentParser()
    add_arguments_infer(parser)
    options = {"--model-dir": "run", "--adata": "asked.h5ad", "--output": "made.h5ad"}
    called = [word for option, name in options.items() for word in (option, str(folder / name))]
    called += ["--embed-key", "X_hvg", "--pert-col", "perturbation", "--celltype-col", "cell_type"]
    run_tx_infer(parser.parse_args([*called, "--control-pert", CONTROL, "--seed", str(seed), "--quiet"]))
    made = anndata.read_h5ad(folder / "made.h5ad")[asked.obs_names].obsm["X_hvg"]
    return np.split(np.asarray(made), len(given.ask))


def expression(given: Given) -> anndata.AnnData:
    """Training cells as ``state tx preprocess_train`` leaves them, every gene among the variable ones."""
    cells = anndata.AnnData(given.log1p.toarray(), obs=columns(given.train.obs))
    cells.obs_names, cells.var_names = list(given.train.obs_names), list(given.train.var_names)
    cells.obsm["X_hvg"], cells.uns["log1p"] = cells.X, {}
    return cells


def columns(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that State reads."""
    cell_type = rows["context"].astype(str) + " at " + rows["time"].astype(float).astype(str)
    named = {"perturbation": rows["perturbation"], "cell_type": cell_type, "batch": rows["batch"]}
    return pd.DataFrame({key: pd.Categorical(value.astype(str)) for key, value in named.items()})


if __name__ == "__main__":
    main()
