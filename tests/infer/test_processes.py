"""Several processes that train one model: gradients, refusals, and a process that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gradient_of_processes
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from anndata import AnnData
from gradient_of_processes import run
from known_decoder import KnownDecoder, small_screen
from safetensors.torch import load_file

import pyro_citevae as cv
from pyro_citevae.errors import FitError
from pyro_citevae.guides import MeanField

SCRIPT = Path(gradient_of_processes.__file__)
SMALL = """
[model]
name = "CiteVAE"
n_programs = 2
hidden = 8
[guide]
name = "BackwardSmoother"
hidden = 8
[fit]
batch_size = 20
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes note that torchrun started."""
    out = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(out), "16"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_two_processes_have_the_gradient_of_one_on_the_union_of_their_minibatches(together: Path) -> None:
    alone, posterior = run(16)
    for rank in ("0", "1"):
        shared = load_file(together / rank / "gradients.safetensors")
        assert shared.keys() == alone.keys()
        assert {name.split(".")[0] for name in shared} == set("01234567"), "every step"
        for name, gradient in alone.items():
            # sums of float32 in another order
            scale = float(gradient.abs().max())
            torch.testing.assert_close(shared[name], gradient, rtol=1e-3, atol=1e-4 * scale + 1e-7)
        history = pd.read_parquet(together / rank / "history.parquet")
        np.testing.assert_allclose(history, posterior.history, rtol=1e-4)


def test_the_gradient_tells_a_wrong_scale(together: Path) -> None:
    """The comparison is no empty one: half the minibatch, as a process sees it, has another gradient."""
    halves, _ = run(8)
    shared = load_file(together / "0" / "gradients.safetensors")
    assert any(not torch.allclose(shared[name], halves[name], rtol=0.01) for name in shared if name[0] == "0")


def test_both_processes_end_with_the_same_weights(together: Path) -> None:
    one, two = (load_file(together / rank / "weights.safetensors") for rank in ("0", "1"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_both_processes_stop_together_where_the_bound_no_longer_rises(together: Path) -> None:
    """Each sees a share of the minibatches; what it decides by is the mean over both."""
    one, two = (json.loads((together / rank / "course.json").read_text()) for rank in ("0", "1"))
    assert one == two
    assert 30 <= one["steps"] < 400


def test_several_devices_without_a_launcher_are_refused() -> None:
    data = small_screen()
    model = KnownDecoder(data.schema)
    with pytest.raises(
        FitError, match=r"devices=2\) needs a process a device, .*torchrun --nproc-per-node=2"
    ):
        cv.fit(model, MeanField(model), data, devices=2, progress=False)


@pytest.mark.slow
def test_a_killed_process_ends_all_with_a_sentence_and_the_fit_goes_on(tmp_path: Path) -> None:
    data = cv.simulate(n_cells=200, n_genes=20, n_perturbations=4, n_steps=3, seed=0).data
    obs = pd.DataFrame({"perturbation": data.row_labels.astype(str), "time": data.row_times}, data.names)
    adata = AnnData(X=data.values, obs=obs, var=pd.DataFrame(index=list(data.schema.genes)))
    adata.write_h5ad(tmp_path / "screen.h5ad")
    (tmp_path / "small.toml").write_text(SMALL)

    def command(out: str, *more: str) -> list[str]:
        line = f"fit screen.h5ad --time time --config small.toml --epochs 60 --devices 2 --quiet -o {out}"
        return [sys.executable, "-m", "pyro_citevae", *line.split(), *more]

    options = {"cwd": tmp_path, "text": True, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    whole = subprocess.run(command("whole"), capture_output=True, check=False, **options)
    assert whole.returncode == 0, whole.stderr
    started = subprocess.Popen(command("run"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    state = tmp_path / "run.training/seed_0/training.safetensors"
    while not state.exists() and started.poll() is None:
        time.sleep(0.02)
    processes = psutil.Process(started.pid).children(recursive=True)
    (second,) = [one for one in processes if one.environ().get("RANK") == "1"]
    os.kill(second.pid, signal.SIGKILL)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 2
    assert said.strip().splitlines() == [
        "error: process 1 of 2 was killed (signal 9), so the others were stopped; go on from the last whole "
        "epoch by the same command with --resume."
    ]
    assert {path.name for path in tmp_path.iterdir()} >= {"run.training"}
    assert not (tmp_path / "run").exists()
    resumed = subprocess.run(command("run", "--resume"), capture_output=True, check=False, **options)
    assert resumed.returncode == 0, resumed.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not (tmp_path / "run.training").exists()
