"""The metrics of the Virtual Cell Challenge 2026, by its own package cell-eval2."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyro_citevae.analysis.scoring.cells import on_measured_genes
from pyro_citevae.analysis.scoring.tables import ALL
from pyro_citevae.data.cell_eval2_files import PERTURBATION, write_pair
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["PREFIX", "challenge_rows", "challenge_scores", "configured", "without_advice"]

PREFIX = "cell_eval2_"
"""What the names of cell-eval2's scores begin with."""


def challenge_scores(
    predicted: AnnData, measured: Trajectories, time: float, name: str, preset: str = "vcc2026"
) -> pd.DataFrame:
    """Scores predicted cells by cell-eval2, with its Wilcoxon tests by scanpy.

    Install it with ``pip install 'pyro-citevae[challenge]'``. Perturbations are taken to have no target gene
    where a label is a combination or none is a measured gene, since cell-eval2 leaves out one gene each.

    Args:
        predicted: What ``predict`` returned.
        measured: Measured cells, controls of the same time among them.
        time: The time to compare.
        name: Name of the predictor.
        preset: Settings of cell-eval2: ``"vcc2026"``, ``"v2"`` or ``"v1"``.

    Returns:
        Columns ``predictor, perturbation, time, score, value``, the scores named ``cell_eval2_<metric>``. A
        metric that is a ratio of sums over all perturbations has one row, of the perturbation ``ALL``. The
        version that made them is in ``attrs["cell-eval2"]``.

    Raises:
        DataError: cell-eval2 is not installed, nothing is both predicted and measured, or a measured gene was
            not predicted.
    """
    package, config = configured(measured, preset)
    with tempfile.TemporaryDirectory() as folder, without_advice():
        paths = write_pair(on_measured_genes(predicted, measured.schema), measured, time, folder)
        found = package.compute_metrics(*map(str, paths), config=config)
    return challenge_rows(found, name, time)


@contextmanager
def without_advice() -> Iterator[None]:
    """Without what pandas advises scanpy on how to build its tables, once a column and a perturbation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
        yield


def configured(measured: Trajectories, preset: str) -> tuple[Any, Any]:
    """The package cell-eval2, and its settings for a screen.

    Raises:
        DataError: cell-eval2 is not installed.
    """
    try:
        import cell_eval2
    except ImportError:
        raise DataError(
            "the challenge's metrics need cell-eval2; install it with pip install 'pyro-citevae[challenge]'."
        ) from None
    config = cell_eval2.EvalConfig.from_preset(preset)
    labels = measured.perturbations()
    targeted = not any("+" in label for label in labels) and set(labels) & set(measured.schema.genes)
    return cell_eval2, replace(
        config,
        pert_col=PERTURBATION,
        control=measured.schema.control,
        device="cpu",
        de=replace(config.de, backend="scanpy"),
        target_gene_map=None if targeted else {"*": None},
    )


def challenge_rows(found: Any, name: str, time: float) -> pd.DataFrame:
    """Rows of a predictor from cell-eval2's own table, with the metrics that it derives from all of it."""
    from cell_eval2 import aggregate_metrics

    single = pd.DataFrame(found.to_dict(as_series=False))[["perturbation", "metric", "value"]]
    whole = pd.DataFrame(aggregate_metrics(found).to_dict(as_series=False))
    derived = whole[whole["agg"] == "ratio_of_sums"]
    over_all = pd.DataFrame({"perturbation": ALL, "metric": derived["metric"], "value": derived["mean"]})
    frame = pd.concat([single, over_all], ignore_index=True)
    frame = frame.assign(predictor=name, time=time, score=PREFIX + frame["metric"].astype(str))
    frame = frame[["predictor", "perturbation", "time", "score", "value"]]
    frame.attrs["cell-eval2"] = version("cell-eval2")
    return frame
