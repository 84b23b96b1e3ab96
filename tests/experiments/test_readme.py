"""The README's code runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import pyro_citevae as cv
from pyro_citevae.guides import BackwardSmoother

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), flags=re.DOTALL
)


def test_the_lines_of_use_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use = (
        BLOCKS[0]
        .replace("seed=0)", "seed=0, max_epochs=1, progress=False)")
        .replace("cells=train.controls()", "cells=train.controls().cells(np.arange(5))")
    )
    monkeypatch.chdir(tmp_path)
    names: dict = {"np": np}
    exec(use, names)
    assert names["cells"].n_obs == 5
    idata = names["idata"]
    assert "posterior" in (idata.children if isinstance(idata, xr.DataTree) else idata.groups())
    assert (tmp_path / "runs/renge/model.safetensors").is_file()


def test_the_variant_is_about_25_lines_and_fits_and_predicts_unchanged() -> None:
    names: dict = {}
    exec(BLOCKS[1], names)
    body = BLOCKS[1].partition("class ")[2]
    assert len([line for line in body.splitlines() if line.strip()]) <= 25
    data = cv.simulate(n_cells=120, n_genes=12, n_perturbations=3, seed=1).data
    model = names["SaturatingLag"](data.schema, n_programs=3)
    posterior = cv.fit(model, BackwardSmoother(model), data, max_epochs=3, progress=False)
    predicted = posterior.predict(cv.do("gene_0"), cells=data.controls(), draws=7)
    assert predicted.shape == (data.controls().n_cells, 12)
    assert np.isfinite(predicted.layers["mean"]).all()
    effect = posterior.effect(cv.do("gene_0"), versus=cv.do(), draws=7)
    assert effect.dims == ("chain", "draw", "perturbation", "time", "gene")
    assert float(effect.std("draw").max()) > 0
