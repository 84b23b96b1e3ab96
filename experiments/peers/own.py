"""Ours or the simple rules on one fold, in a process of their own, as an adapter is: fit, predict, write.

python own.py CASE_FOLDER OUT.pickle CiteVAE|rules --seed S [--steps N]
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pyro_citevae.analysis import Predictor
from pyro_citevae.benchmark import PROTOCOLS, Fold
from pyro_citevae.config import Part
from pyro_citevae.data import Schedule, do
from pyro_citevae.recipe import Recipe, features_of

_STEPS = 7000  # the most that a fit takes by default
_DRAWS, _CELLS, _CELL_DRAWS = 200, 200, 50


def fitted(fold: Fold, features: str, seed: int, steps: int | None) -> Mapping[str, Predictor]:
    """CiteVAE with nothing set but the seed."""
    length = {} if steps is None else {"max_steps": steps}
    recipe = Recipe(Part(name="CiteVAE"), Part(name="BackwardSmoother"), {"seed": seed, **length}, features)
    return {"CiteVAE": recipe.fitted(fold.train, progress=False)}


def ruled(fold: Fold, protocol: str, features: str) -> Mapping[str, Predictor]:
    """Every rule that the protocol puts beside a model, and the duplicates that see what is scored."""
    return PROTOCOLS[protocol].baselines(fold, features_of(features, fold.train, plain=True))


def predict(fold: Fold, predictor: Predictor, seed: int) -> None:
    """Everything that is scored, as the time that peers take holds it too."""
    schema = fold.train.schema
    schedules = [Schedule.parse(one, schema.control) for one in fold.labels]
    where: dict[str, Any] = {} if fold.context is None else {"context": fold.context}
    predictor.effect(schedules, draws=_DRAWS, time=fold.times, seed=seed, **where)
    here = fold.train if fold.context is None else fold.train.select(context=fold.context)
    base = here.controls().thinned(_CELLS)
    predictor.predict([do(), *schedules], cells=base, draws=_CELL_DRAWS, time=fold.times, seed=seed)


def main() -> None:
    """Reads the fold, makes the predictor, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None)
    given = parser.parse_args()
    fold, protocol, features = pickle.loads((given.case / "fold.pickle").read_bytes())
    known = str(given.case / "task" / "genes.parquet") if features == "table" else features
    if given.kind == "rules":
        found, settings = ruled(fold, protocol, known), "defaults; all rules of the protocol in one process"
    else:
        found, settings = fitted(fold, known, given.seed, given.steps), f"defaults; features: {features}"
    for one in found.values():
        predict(fold, one, given.seed)
    said = {
        "package": "pyro-citevae",
        "version": version("pyro-citevae"),
        "steps": given.steps or _STEPS,
        "unit": "steps at most",
        "settings": settings,
        "intervals": "draws of the effect",
    }
    given.out.write_bytes(pickle.dumps((found, said)))


if __name__ == "__main__":
    main()
