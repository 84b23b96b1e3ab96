"""Loggers get each row of the history, and callbacks are called, through both stretches of a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.errors import FitError
from pyro_citevae.guides import MeanField
from pyro_citevae.models import StaticShift


class Counted(Callback):
    epochs = 0

    def on_train_epoch_end(self, *_: Any) -> None:
        self.epochs += 1


def fitted(**options: Any) -> cv.Posterior:
    data = simulated(n_cells=120)
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    return cv.fit(model, MeanField(model, hidden=4), data, progress=False, **options)


@pytest.mark.filterwarnings("ignore:the bound was still rising")
@pytest.mark.parametrize("course", [{"max_epochs": 4}, {"max_steps": 60}])
def test_each_row_of_the_history_is_logged_under_its_step(tmp_path: Path, course: dict) -> None:
    """A fit by steps has a second stretch, whose steps follow those of the first."""
    logger, counted = CSVLogger(tmp_path, name="screen"), Counted()
    posterior = fitted(logger=logger, callbacks=[counted], **course)
    logged = pd.read_csv(Path(logger.log_dir) / "metrics.csv").sort_values("step")
    history = posterior.history
    assert counted.epochs == len(history) == len(logged)
    assert logged["step"].tolist() == history["step"].astype(int).tolist()
    pd.testing.assert_series_equal(
        logged["training"].reset_index(drop=True), history["training"], check_names=False
    )


def test_a_fit_is_the_same_whoever_watches(tmp_path: Path) -> None:
    watched = fitted(max_epochs=2, logger=CSVLogger(tmp_path), callbacks=[Counted()])
    assert watched.history.equals(fitted(max_epochs=2).history)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"logger": "wandb"}, "holds 'wandb', which is no Logger"),
        ({"logger": True}, "holds True, which is no Logger of Lightning; give one of lightning"),
        ({"callbacks": [print]}, "which is no Callback of Lightning"),
    ],
)
def test_what_cannot_watch_is_refused(options: dict, said: str) -> None:
    with pytest.raises(FitError, match=said):
        fitted(max_epochs=1, **options)
