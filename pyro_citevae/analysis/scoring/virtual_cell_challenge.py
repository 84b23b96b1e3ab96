"""The metrics of the Virtual Cell Challenge 2026, by its own package cell-eval2."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import pandas as pd

from pyro_citevae.analysis.scoring.cells import on_measured_genes
from pyro_citevae.data.cell_eval2_files import PERTURBATION, write_pair
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["challenge_scores"]


def challenge_scores(
    predicted: AnnData, measured: Trajectories, time: float, name: str, preset: str = "vcc2026"
) -> pd.DataFrame:
    """Scores predicted cells by cell-eval2, with its Wilcoxon tests by scanpy.

    Install it with ``pip install 'pyro-citevae[challenge]'``. Perturbations are taken to have no target gene
    where a label is a combination, since cell-eval2 leaves out one gene each.

    Args:
        predicted: What ``predict`` returned.
        measured: Measured cells, controls of the same time among them.
        time: The time to compare.
        name: Name of the predictor.
        preset: Settings of cell-eval2: ``"vcc2026"``, ``"v2"`` or ``"v1"``.

    Returns:
        Columns ``predictor, perturbation, time, score, value``, the scores named ``cell_eval2_<metric>``; the
        version that made them is in ``attrs["cell-eval2"]``.

    Raises:
        DataError: cell-eval2 is not installed, nothing is both predicted and measured, or a measured gene was
            not predicted.
    """
    try:
        import cell_eval2
    except ImportError:
        raise DataError(
            "the challenge's metrics need cell-eval2; install it with pip install 'pyro-citevae[challenge]'."
        ) from None
    config = cell_eval2.EvalConfig.from_preset(preset)
    combinations = any("+" in label for label in measured.perturbations())
    config = replace(
        config,
        pert_col=PERTURBATION,
        control=measured.schema.control,
        device="cpu",
        de=replace(config.de, backend="scanpy"),
        target_gene_map={"*": None} if combinations else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pair(on_measured_genes(predicted, measured.schema), measured, time, folder)
        found = cell_eval2.compute_metrics(*map(str, paths), config=config).to_dict(as_series=False)
    frame = pd.DataFrame({"perturbation": found["perturbation"], "value": found["value"]})
    frame = frame.assign(predictor=name, time=time, score=[f"cell_eval2_{one}" for one in found["metric"]])
    frame = frame[["predictor", "perturbation", "time", "score", "value"]]
    frame.attrs["cell-eval2"] = version("cell-eval2")
    return frame
