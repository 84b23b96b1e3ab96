"""Predicts cells under perturbations of a screen in this process, and prints memory and time as JSON.

python experiments/speed/predict_citevae.py runs/speed/screen_1500x2000x20.h5ad --cells 500 --draws 200
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from open_screen import in_memory

import pyro_citevae as cv
from pyro_citevae.data.anndata_io import layer_names
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--perturbations", type=int, help="The first so many; all by default.")
    parser.add_argument("--accelerator", default="cpu")
    chosen = parser.parse_args(given)
    data = in_memory(chosen.file)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CiteVAE(data.schema)
        guide = BackwardSmoother(model)
    # as the guide starts: what a prediction costs does not depend on what was learnt
    posterior = cv.Posterior(model.eval(), guide.eval(), pd.DataFrame(), {"data": data.digest, "split": None})
    posterior.to(chosen.accelerator)
    controls = data.controls().thinned(chosen.cells)
    before = _peak_gib()
    started = time.perf_counter()
    asked = [cv.do(token) for token in data.schema.tokens[: chosen.perturbations]]
    made = posterior.predict(asked, cells=controls, draws=chosen.draws, progress=False)
    found = {
        "seconds": time.perf_counter() - started,
        "before_gib": before,
        "peak_gib": _peak_gib(),
        "rows": made.n_obs,
        "layers": layer_names(made),
        "layers_gib": sum(made.layers[name].nbytes for name in layer_names(made)) / 2**30,
    }
    print(json.dumps(found))


def _peak_gib() -> float:
    # ru_maxrss would begin at what the process that started this one had
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak[1]) / 2**20 if peak else float("nan")


if __name__ == "__main__":
    main()
