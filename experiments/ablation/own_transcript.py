"""What the term for the perturbed gene's own transcript gains, which every score of an effect leaves out.

python experiments/ablation/own_transcript.py
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

import pyro_citevae as cv
from pyro_citevae.data import pseudobulk
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

HELD_OUT = ("POU5F1", "PRDM14", "RUNX1T1", "NANOG", "SOX2", "FOXH1")


def main() -> None:
    data = cv.datasets.load("renge")
    print("a later day of knock-outs that were seen:")
    report(data, *data.hold_out(times=[5]), labels=data.perturbations())
    print("knock-outs that were not seen, their first day:")
    report(data, *data.hold_out(perturbations=HELD_OUT), labels=HELD_OUT, time=2)


def report(
    data: cv.Trajectories,
    train: cv.Trajectories,
    test: cv.Trajectories,
    *,
    labels: Sequence[str],
    time: float = 5,
) -> None:
    """Mean forecast of the own transcript's change and its mean absolute error, with and without the term."""
    own = [data.schema.genes.index(one) for one in labels]
    controls = data.select(data.schema.control, time)
    effects = [pseudobulk.effect(test.select(one, time), controls) for one in labels]
    true = np.array([effect[gene] for effect, gene in zip(effects, own, strict=True)])
    print(f"  measured: {true.mean():.3f}")
    for on in (True, False):
        torch.manual_seed(0)
        model = CiteVAE(train.schema, own_transcript=on)
        posterior = cv.fit(model, BackwardSmoother(model), train, seed=0, progress=False)
        effect = (
            posterior.effect([cv.do(one) for one in labels], time=time).mean(("chain", "draw")).to_numpy()
        )
        found = np.array([effect[i, 0, gene] for i, gene in enumerate(own)])
        said = "with" if on else "without"
        print(f"  {said} own_transcript: forecast {found.mean():.3f}, error {abs(found - true).mean():.3f}")


if __name__ == "__main__":
    main()
