"""GEARS (Roohani, Huang, Leskovec 2024): shifts of expression by graphs of genes and of perturbations.

.venv-peers/gears/bin/python experiments/peers/gears/adapter.py TASK OUT.h5ad --seed S [--steps EPOCHS]

Used as its README has it for data of one's own: ``new_data_process``,
``model_initialize(hidden_size=64)``, ``train(lr=1e-3)`` for 20 epochs with batches of 32. What differs,
and why:

* its graph of perturbations is downloaded; here the neighbours of a perturbed gene are the 20 whose
  features are nearest by the cosine, above 0.1: its rule, by the task's features in place of terms shared.
  Without features each gene is alone, which is enough for pairs of genes that were seen;
* it holds a tenth of the perturbations out to choose an epoch; a screen of twenty has none to spare. Two
  that it is trained on choose it, the last one mostly: its rate halves each epoch;
* ``predict`` gives the mean over control cells; here the cells are written, those of the asked time.

GEARS knows one kind of cells, so that a new context is not its task.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

sys.path.append(str(Path(__file__).parents[1]))

import anndata
import numpy as np
import pandas as pd
import torch
from exchange import Given, arguments, condition, genes_of, none_negative, read_given, refuse, write_cells
from gears import GEARS, PertData
from gears.model import GEARS_Model
from gears.utils import create_cell_graph_for_prediction
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

EPOCHS = 20
MOST_WORK = 5e6  # cells x genes x epochs of three minutes on a processor
NEIGHBOURS, LEAST = 20, 0.1
SETTINGS = (
    "defaults: 64 wide, rate 1e-3 halved each epoch, batches of 32; graph of perturbations: 20 nearest by "
    "the cosine of the task's features, above 0.1, not its download; none set aside to choose an epoch"
)


class AtOnce(GEARS_Model):
    """GEARS's network, which adds perturbations to a batch's cells in one sum.

    The same numbers in less than half the time: its own copies the whole batch for each cell. The sum enters
    before the batch normalisation that follows its place, and GEARS is told of no perturbation.
    """

    def __init__(self, config: dict) -> None:
        super().__init__(config)
        self.places: list[list[int]] = []
        self.bn_pert_base.register_forward_pre_hook(self.added)

    def forward(self, batch: Data) -> torch.Tensor:
        """The predicted cells of a batch."""
        self.places = batch.pert_idx
        none = [[-1]] * len(self.places)
        return super().forward(SimpleNamespace(x=batch.x, batch=batch.batch, pert_idx=none))

    def added(self, _: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        """What the normalisation is given, with the perturbations' embeddings added to their cells' genes."""
        (genes,) = inputs
        perturbed = [i for i, one in enumerate(self.places) if -1 not in one]
        if not perturbed:
            return genes
        known = self.pert_emb(torch.arange(self.num_perts))
        for layer in self.sim_layers:
            known = layer(known, self.G_sim, self.G_sim_weight)
        sums = torch.stack([known[self.places[i]].sum(0) for i in perturbed])
        fused = self.pert_fuse(sums if len(sums) > 1 else sums.repeat(2, 1))[: len(sums)]
        shifts = genes.new_zeros(len(self.places), genes.shape[1])
        shifts = shifts.index_add(0, torch.tensor(perturbed), fused)
        return (genes.reshape(len(self.places), -1, genes.shape[1]) + shifts[:, None]).reshape(genes.shape)


def main() -> None:
    """Trains, and writes control cells as the asked perturbations shift them."""
    chosen = arguments(__doc__, "epochs")
    given, settings = read_given(chosen.task), SETTINGS
    if given.facts["has_contexts"]:
        refuse("GEARS knows one kind of cells, and a new one is asked")
    given, of_times = given.without_time()
    settings += of_times
    fits = max(1, int(MOST_WORK / (given.train.n_obs * counted(given).sum())))
    epochs = chosen.steps or min(EPOCHS, fits)
    if fits < EPOCHS:
        settings += f"; capped: {min(EPOCHS, fits)} epochs, not {EPOCHS}"
    np.random.seed(chosen.seed)  # noqa: NPY002 - GEARS draws controls by it
    torch.manual_seed(chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        model = trained(given, Path(folder), epochs)
    groups = [shifted(model, given, row) for _, row in given.ask.iterrows()]
    write_cells(
        chosen.out, given, groups, package="cell-gears", steps=epochs, unit="epochs", settings=settings
    )


def trained(given: Given, folder: Path, epochs: int) -> GEARS:
    """GEARS on all training cells."""
    genes = sorted({gene for one in given.labels for gene in genes_of(one)})
    for name in ("gene2go_all.pkl", "genes.pkl"):  # it reads of the first which genes it knows
        (folder / name).write_bytes(pickle.dumps(dict.fromkeys(genes)))
    data = PertData(str(folder), gene_set_path=str(folder / "genes.pkl"))
    data.new_data_process("screen", adata=expression(given))
    seen = [one for one in data.adata.obs["condition"].unique() if one != "ctrl"]
    data.split, data.seed, data.train_gene_set_size = "no_test", 0, 1.0
    data.set2conditions = {"train": ["ctrl", *seen], "val": seen[:2]}
    data.get_dataloader(batch_size=32, test_batch_size=128)
    model = GEARS(data, device="cpu")
    edges, weights = graph(given, list(data.pert_names))
    model.model_initialize(hidden_size=64, G_go=edges, G_go_weight=weights)
    model.model = AtOnce(model.config)
    model.train(epochs=epochs, lr=1e-3)
    return model


def expression(given: Given) -> anndata.AnnData:
    """Training cells as GEARS reads them, without perturbations of one cell and genes of no count."""
    kept = given.of_several_cells()
    conditions = [condition(one) for one in given.train.obs["perturbation"][kept]]
    obs = pd.DataFrame({"condition": conditions, "cell_type": "all"}, index=given.train.obs_names[kept])
    genes = list(given.train.var_names[counted(given)])
    var = pd.DataFrame({"gene_name": genes}, index=genes)
    return anndata.AnnData(given.log1p[kept][:, counted(given)], obs=obs, var=var)


def counted(given: Given) -> np.ndarray:
    """Whether a gene has a count in any training cell."""
    return np.asarray(given.train.X.sum(0)).ravel() > 0


def graph(given: Given, genes: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges ``(from, to)`` to each gene from those most like it and itself, and their weights."""
    alike = np.eye(len(genes))
    if given.genes is not None:
        rows = given.genes.loc[genes].to_numpy(float)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        alike = np.maximum(rows @ rows.T, alike)
    nearest = np.argsort(-alike, axis=0)[: NEIGHBOURS + 1]
    edges = np.array([(i, to) for to in range(len(genes)) for i in nearest[:, to] if alike[i, to] > LEAST]).T
    return torch.tensor(edges), torch.tensor(alike[edges[0], edges[1]], dtype=torch.float32)


def shifted(model: GEARS, given: Given, row: pd.Series) -> np.ndarray:
    """Control cells of the row's context and time as its perturbation shifts them."""
    genes = genes_of(row["perturbation"])
    places = [model.pert_list.index(one) for one in genes]
    controls = given.log1p[given.controls(row["context"], row["time"])].toarray()
    kept = counted(given)
    graphs = [create_cell_graph_for_prediction(cell[None, kept], places, genes) for cell in controls]
    model.best_model.eval()
    with torch.no_grad():
        cells = [model.best_model(batch) for batch in DataLoader(graphs, 300, shuffle=False)]
    controls[:, kept] = none_negative(torch.cat(cells).numpy())
    return controls


if __name__ == "__main__":
    main()
