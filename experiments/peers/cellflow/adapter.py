"""CellFlow (Klein et al. 2025): control cells carried to perturbed ones by conditional flow matching.

.venv-peers/cellflow/bin/python experiments/peers/cellflow/adapter.py TASK OUT.h5ad --seed S [--steps N]

Used as its tutorials and its authors' runs on Norman's screen have it:

* cells are 50 principal components of ``log1p`` of counts scaled to the median total (``centered_pca``);
* a perturbation is the set of its genes, one-hot, the default; where a gene was never seen they are given
  by the task's features, where its authors take ESM-2;
* a context is given by the mean of its control cells, and cells are carried within a context and a time.
  The time is given by its logarithm;
* where a time was never seen, the controls of the first time are carried to all others, controls among
  them, as its tutorial on the zebrafish interpolates;
* ``match_linear`` with epsilon 1, a constant noise of 0.5, a dropout of 0.5 of the condition, layers
  before and after pooling: its authors' choice for Norman. Pooling by an attention token: the default.

For a fit in minutes on a processor all layers are 512 wide (256 for conditions) and not 2048 to 4096,
batches hold 256 cells and not 1024, and each is a step of Adam at 5e-4, where the default gathers 20
batches for one at 5e-5: its 100,000 iterations are 5,000 such steps. The flow is integrated to a tolerance
of 1e-3 and not 1e-5.

What the components leave out of a control cell is added to the cell that it becomes. Cells without it
would have too small sums of counts: the mean of ``exp`` grows with the spread.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
if os.environ.get("OMP_NUM_THREADS") == "1":
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import anndata
import diffrax
import numpy as np
import optax
import pandas as pd
from cellflow.model import CellFlow
from cellflow.preprocessing import centered_pca
from cellflow.utils import match_linear
from exchange import CONTROL, Given, arguments, genes_of, none_negative, read_given, write_cells

STEPS = 1400
COMPONENTS, WIDTH, CONDITION = 50, 512, 256
MOST_CELLS = 500  # carried to a condition: the flow is slow, and fewer make the means noisy
SETTINGS = (
    "50 principal components; epsilon 1, noise 0.5, dropout of the condition 0.5 as its authors for Norman; "
    "512 wide, batches of 256, Adam at 5e-4 each batch; capped: "
    f"{STEPS} iterations (the authors' 100,000 are 5,000 steps of Adam)"
)


def main() -> None:
    """Trains, carries controls to each asked condition, and writes the cells."""
    chosen = arguments(__doc__, "steps")
    given, settings = read_given(chosen.task), SETTINGS
    settings += "; features of genes" if given.unseen_genes else "; one-hot genes"
    steps = chosen.steps or STEPS
    screen = prepared(given)
    model = trained(given, screen, chosen.seed, steps)
    rng = np.random.default_rng(chosen.seed)
    groups = [carried(model, given, screen, given.ask.loc[[i]], rng) for i in given.ask.index]
    write_cells(
        chosen.out, given, groups, package="cellflow-tools", steps=steps, unit="steps", settings=settings
    )


def gene_columns(given: Given) -> list[str]:
    """A column for each gene of the largest perturbation."""
    return [f"gene_{i}" for i in range(max(len(genes_of(one)) for one in given.labels))]


def conditions(given: Given, rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that CellFlow reads: genes, filled up by the control, and what they meet."""
    genes = [[*genes_of(one), CONTROL, CONTROL] for one in rows["perturbation"]]
    found = {name: [one[i] for one in genes] for i, name in enumerate(gene_columns(given))}
    found["context"] = rows["context"].astype(str)
    found["log_time"] = np.log(np.maximum(rows["time"].astype(float), 1e-3))
    found["origin"] = found["context"]
    if not given.asks_new_times:
        found["origin"] = found["context"] + " at " + rows["time"].astype(float).astype(str)
    return pd.DataFrame(found, index=rows.index).assign(source=False)


def prepared(given: Given) -> anndata.AnnData:
    """Training cells with components, the sources among them, and what is known of genes and contexts."""
    obs = given.train.obs
    screen = anndata.AnnData(given.log1p.toarray(), obs=conditions(given, obs))
    centered_pca(screen, n_comps=min(COMPONENTS, min(screen.shape) - 1))
    controls = (obs["perturbation"] == CONTROL).to_numpy()
    first = np.isclose(obs["time"].astype(float), obs["time"].astype(float).min())
    screen.obs["source"] = controls & first if given.asks_new_times else controls
    contexts = obs["context"].astype(str).to_numpy()
    means = {one: screen.obsm["X_pca"][controls & (contexts == one)].mean(0) for one in np.unique(contexts)}
    screen.uns["contexts"] = means
    if given.unseen_genes:
        genes = sorted({gene for one in given.labels for gene in genes_of(one)})
        known = {gene: given.genes.loc[gene].to_numpy(np.float32) for gene in genes}
        screen.uns["genes"] = known | {CONTROL: np.zeros(given.genes.shape[1], np.float32)}
    return screen


def trained(given: Given, screen: anndata.AnnData, seed: int, steps: int) -> CellFlow:
    """CellFlow on the sources that have targets; it takes no others."""
    targets = screen.obs.loc[~screen.obs["source"], "origin"].unique()
    meets = {"context": given.facts["has_contexts"], "log_time": given.facts["has_times"]}
    sample = [name for name, there in meets.items() if there]
    model = CellFlow(screen[screen.obs["origin"].isin(targets).to_numpy()].copy(), solver="otfm")
    model.prepare_data(
        sample_rep="X_pca",
        control_key="source",
        perturbation_covariates={"gene": gene_columns(given)},
        perturbation_covariate_reps={"gene": "genes"} if given.unseen_genes else None,
        sample_covariates=sample,
        sample_covariate_reps={"context": "contexts"} if "context" in sample else None,
        split_covariates=["origin"],
    )
    layers = {"layer_type": "mlp", "dims": [CONDITION, CONDITION], "dropout_rate": 0.0}
    model.prepare_model(
        condition_embedding_dim=CONDITION,
        cond_output_dropout=0.5,
        layers_before_pool={name: dict(layers) for name in ("gene", *sample)},
        layers_after_pool=dict(layers),
        time_encoder_dims=[WIDTH] * 3,
        hidden_dims=[WIDTH] * 3,
        decoder_dims=[WIDTH] * 3,
        probability_path={"constant_noise": 0.5},
        match_fn=partial(match_linear, epsilon=1.0, tau_a=1.0, tau_b=1.0),
        optimizer=optax.adam(5e-4),
        seed=seed,
    )
    model.train(num_iterations=steps, batch_size=256, valid_freq=steps + 2)
    return model


def carried(
    model: CellFlow, given: Given, screen: anndata.AnnData, row: pd.DataFrame, rng: np.random.Generator
) -> np.ndarray:
    """Control cells of the row's context, and of its time or the first one, carried to its condition."""
    first = given.train.obs["time"].astype(float).min()
    time = first if given.asks_new_times else row["time"].iloc[0]
    rows = given.controls(row["context"].iloc[0], time)
    source = screen[rng.permutation(rows)[:MOST_CELLS]].copy()
    condition = conditions(given, row)
    source.obs = source.obs.assign(source=True, origin=condition["origin"].iloc[0])
    step = diffrax.PIDController(rtol=1e-3, atol=1e-3)
    (moved,) = model.predict(source, condition, "X_pca", stepsize_controller=step).values()
    return none_negative(source.X + (np.asarray(moved) - source.obsm["X_pca"]) @ screen.varm["PCs"].T)


if __name__ == "__main__":
    main()
