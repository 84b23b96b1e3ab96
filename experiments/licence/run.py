"""Licence reports of fits to shipped screens, to sequences of vectors, and to rendered sequences.

python experiments/licence/run.py [NAMES] makes the reports that reports/ lacks.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import pyro_citevae as cv
from pyro_citevae.analysis.identifiability.licence import licence
from pyro_citevae.data import datasets
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

HERE = Path(__file__).parent
CAUSAL3DIDENT = HERE.parent / "causal3dident"
sys.path.insert(0, str(CAUSAL3DIDENT))
import images  # noqa: E402
import run as vectors  # noqa: E402

Fit = Callable[[], tuple[cv.Posterior, cv.Trajectories]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="names of the fits; all if none")
    names = parser.parse_args().names
    folder = HERE / "reports"
    folder.mkdir(exist_ok=True)
    for name, fit in FITS.items():
        report = folder / f"{name}.txt"
        if not report.is_file() and (not names or name in names):
            started = time.perf_counter()
            found = licence(*fit())
            found.table().assign(fit=name, equivalence=found.equivalence).to_parquet(
                report.with_suffix(".parquet")
            )
            report.write_text(found.report() + "\n")
            print(f"{name}: {found.equivalence}, {time.perf_counter() - started:.0f} s", flush=True)
    tables = [
        pd.read_parquet(folder / f"{name}.parquet") for name in FITS if (folder / f"{name}.txt").is_file()
    ]
    text = tabulate(tables)
    (HERE / "results.md").write_text(text + "\n")
    print(text)


def screen(name: str) -> tuple[cv.Posterior, cv.Trajectories]:
    """A shipped screen, with everything as it comes."""
    data = datasets.load(name)
    model = CiteVAE(data.schema)
    return cv.fit(model, BackwardSmoother(model), data, progress=False), data


def mixture(name: str) -> tuple[cv.Posterior, cv.Trajectories]:
    """The first row of the experiment on vectors that sees this mixture, seed 0."""
    settings = tomllib.loads((CAUSAL3DIDENT / "config.toml").read_text())
    row = next(row for row in settings["rows"] if row["mixture"] == name)
    simulation, data = vectors.sequences(row, settings, 0)
    return vectors.fitted(row, settings["fit"], data, simulation.truth.z.shape[-1], 0), data


def rendered(name: str, seed: int) -> tuple[cv.Posterior, cv.Trajectories]:
    """A row of the experiment on images, which keeps its fits."""
    settings = tomllib.loads((CAUSAL3DIDENT / "images.toml").read_text())
    row = next(row for row in settings["rows"] if row["name"] == name)
    posterior = images.kept(row, settings, seed)
    return posterior, images.pairs(images.rendered(settings["frames"], seed))


FITS: dict[str, Fit] = {
    "renge": partial(screen, "renge"),
    "papalexi": partial(screen, "papalexi"),
    "norman_subset": partial(screen, "norman_subset"),
    "hill": partial(screen, "hill"),
    "vectors": partial(mixture, "wide"),
    "c3d_render": partial(rendered, "CITE-VAE", 1),
}


def tabulate(tables: list[pd.DataFrame]) -> str:
    """A line a fit: its class, and each check's number beside what it is compared with."""
    names = list(tables[0].index)
    lines = [f"| fit | licence | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for table in tables:
        cells = [cell(check) for _, check in table.iterrows()]
        lines.append(f"| {table.fit.iloc[0]} | {table.equivalence.iloc[0]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(check: pd.Series[Any]) -> str:
    """A check in few characters."""
    if check.passed is None:
        return "not tried"
    return f"{'pass' if check.passed else 'fail'}: {check.number:.3g} of {check.threshold:.3g}"


if __name__ == "__main__":
    main()
