"""Pieces: one predictor on one fold from one seed, made once, scored, and stored whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from predictors import OURS, RULES, Contender
from task_folder import Case

from pyro_citevae.analysis import CellsPredictor, Predictor, evaluate
from pyro_citevae.errors import CiteVAEError
from pyro_citevae.whole_files import aside

__all__ = ["MARKS", "Piece", "Store", "stored"]

MARKS = "marks"
_DRAWS, _CELLS = 200, 200
_TRUE = "true_"
_OF_INTERVALS = ("coverage", "sharpness", "risk_coverage")
_OF_TRUTH = ("pearson_delta_control", "relative_l2", "crps", "coverage_80", "sign_accuracy_20", "pds")
_SCORING = 1  # raised where the scores of the same predictions change


@dataclass(frozen=True)
class Piece:
    """What is made and stored at once.

    Attributes:
        case: The fold.
        contender: Who predicts; None for the ceiling and the two ends of the challenge's scale.
        seed: Seed of the fit.
        steps: How long it trains, in its own unit; None for its default.
        challenge: Whether cell-eval2 scores the cells.
    """

    case: Case
    contender: Contender | None
    seed: int = 0
    steps: int | None = None
    challenge: bool = True

    @property
    def name(self) -> str:
        """The contender's name, or that of the marks."""
        return MARKS if self.contender is None else self.contender.name

    @property
    def folder(self) -> Path:
        """Where it is stored, within the case's folder's own parent."""
        length = "" if self.steps is None else f"_steps_{self.steps}"
        return self.case.folder.parent / self.name / f"seed_{self.seed}{length}"

    @property
    def key(self) -> str:
        """A hash of all that it follows from."""
        said = {
            "case": self.case.key,
            "source": "" if self.contender is None else self.contender.source,
            "seed": self.seed,
            "steps": self.steps,
            "challenge": self.challenge,
            "scoring": _SCORING,
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """Makes pieces, or finds them made.

    Attributes:
        limit: Seconds after which a contender is stopped.
        again: Whether what failed is tried again.
        anew: Whether what is there is made anew, after a change of the library for one.
    """

    limit: float = 1800.0
    again: bool = False
    anew: bool = False

    def result(self, piece: Piece) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The scores of a piece, none where it failed, and what is noted of it."""
        noted = piece.folder / "piece.json"
        if noted.is_file() and not self.anew:
            said = json.loads(noted.read_text())
            tried = said["failure"] and not said["cannot"] and self.again
            if said["key"] == piece.key and not tried:
                return pd.read_parquet(piece.folder / "scores.parquet"), said
        with aside(piece.folder, overwrite=True) as written:
            written.mkdir(parents=True)
            frame, said = self._made(piece, written)
            frame.to_parquet(written / "scores.parquet")
            (written / "piece.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
        return frame, said

    def _made(self, piece: Piece, folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
        case, contender = piece.case, piece.contender
        said: dict[str, Any] = {
            "key": piece.key,
            "task": case.task.name,
            "fold": case.fold.number,
            "predictor": piece.name,
            "seed": piece.seed,
            "asked_steps": piece.steps,
            "place": case.folder.parent.name,
            "case": case.key,
            "source": "" if contender is None else contender.source,
        }
        if contender is None:
            return self._marks(piece), said | {"failure": "", "cannot": False}
        out = folder / ("predicted.h5ad" if contender.name not in (OURS, RULES) else "predicted.pickle")
        ran = contender.run(case, out, seed=piece.seed, steps=piece.steps, limit=self.limit)
        said |= asdict(ran)
        if ran.failure:
            return pd.DataFrame(columns=_COLUMNS), said
        try:
            made, itself = contender.predictors(case, out)
            frame = pd.concat([self._scored(piece, name, one) for name, one in made.items()])
        except (CiteVAEError, KeyError, OSError, ValueError) as error:  # what it wrote cannot be read
            return pd.DataFrame(columns=_COLUMNS), said | {"failure": f"not scored: {error}"[:300]}
        if contender.name == RULES:
            out.unlink()
        return frame.reset_index(drop=True), said | {"itself": itself}

    def _scored(self, piece: Piece, name: str, predictor: Predictor) -> pd.DataFrame:
        fold, seed = piece.case.fold, piece.seed
        sizes: dict[str, Any] = {"draws": _DRAWS, "cells": _CELLS, "challenge": piece.challenge}
        frames = [fold.scores(name, predictor, seed=seed, **sizes)]
        if piece.case.truth:
            frames.append(against_truth(piece.case, name, predictor, seed))
        frame = pd.concat(frames, ignore_index=True)
        if isinstance(predictor, CellsPredictor) and predictor.n_draws == 1:  # a point has no interval
            frame = frame[~frame.score.str.removeprefix(_TRUE).str.startswith(_OF_INTERVALS)]
        return frame

    def _marks(self, piece: Piece) -> pd.DataFrame:
        fold = piece.case.fold
        frames = [fold.ceiling(), *([fold.challenge_scale()] if piece.challenge else [])]
        return pd.concat(frames, ignore_index=True)


def against_truth(case: Case, name: str, predictor: Predictor, seed: int) -> pd.DataFrame:
    """The main scores of effects against the true ones, as ``true_<score>``."""
    found = []
    schema, context = case.fold.train.schema, case.fold.context
    where = {} if context is None else {"context": context}
    for time in case.fold.times:
        asked = [one for one in case.truth if one.time == time]
        schedules = [schema.schedule(one.perturbation) for one in asked]
        effects = predictor.effect(schedules, draws=_DRAWS, time=time, seed=seed, **where)
        effects = effects if context is None else effects.isel(context=0)
        found.append(evaluate({name: effects}, asked, headline=(), protocol="", dataset="", seed=seed))
    frame = pd.concat(found)
    single = frame.perturbation.isin([one.perturbation for one in case.truth])
    kept = frame[(frame.predictor == name) & frame.score.isin(_OF_TRUTH) & single]
    return kept.assign(score=_TRUE + kept.score, fold=case.fold.number)[list(_COLUMNS)]


def stored(
    folder: Path, contenders: Mapping[str, Contender]
) -> Iterator[tuple[pd.DataFrame, Mapping[str, Any]]]:
    """Every piece under a folder that is of its case and contender as they are, with what is noted of it."""
    for noted in sorted(folder.rglob("piece.json")):
        said = json.loads(noted.read_text())
        case = noted.parents[2] / "case" / "case.json"
        known = contenders.get(said["predictor"])
        same = not case.is_file() or said.get("case") == json.loads(case.read_text())
        if same and said["source"] == ("" if known is None else known.source):
            place = {"folder": str(noted.parent.relative_to(folder))}
            yield pd.read_parquet(noted.with_name("scores.parquet")), said | place


_COLUMNS = ("predictor", "perturbation", "time", "fold", "seed", "score", "value")
