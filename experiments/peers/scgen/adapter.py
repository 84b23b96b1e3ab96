"""scGen (Lotfollahi, Wolf, Theis 2019): carries a perturbation that was seen to cells of another type.

.venv-peers/scgen/bin/python experiments/peers/scgen/adapter.py TASK_FOLDER OUT.h5ad --seed S [--steps EPOCHS]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import anndata
import numpy as np
import scgen
import scvi
from exchange import CONTROL, Given, arguments, read_given, refuse, write_cells

EPOCHS = 100  # as its tutorial of this very task has it, with batches of 32 and early stopping
SETTINGS = "as its tutorial: 100 epochs at most, batches of 32, early stopping; shift over all cell types"


def expression(given: Given) -> anndata.AnnData:
    """Training cells as its tutorial has them: log-normalised, with a condition and a cell type."""
    obs = given.train.obs[["perturbation", "context"]].astype(str)
    cells = anndata.AnnData(given.log1p, obs=obs, var=given.train.var[[]].copy())
    scgen.SCGEN.setup_anndata(cells, batch_key="perturbation", labels_key="context")
    return cells


def main() -> None:
    """Trains, shifts the controls of each asked context, and writes what they become."""
    chosen = arguments(__doc__, "epochs")
    given = read_given(chosen.task)
    if given.unseen:
        refuse("scGen carries a perturbation that was seen to other cells, and this one was not seen")
    given, of_times = given.without_time()
    settings = SETTINGS + of_times
    scvi.settings.seed = chosen.seed
    cells = expression(given)
    model = scgen.SCGEN(cells)
    epochs = chosen.steps or EPOCHS
    model.train(max_epochs=epochs, batch_size=32, early_stopping=True, early_stopping_patience=25)
    groups = []
    for row in given.ask.itertuples():
        controls = cells[given.controls(row.context, row.time)[: row.n_cells]].copy()
        made, _ = model.predict(ctrl_key=CONTROL, stim_key=row.perturbation, adata_to_predict=controls)
        groups.append(np.asarray(made.X))
    write_cells(chosen.out, given, groups, package="scgen", steps=epochs, unit="epochs", settings=settings)


if __name__ == "__main__":
    main()
