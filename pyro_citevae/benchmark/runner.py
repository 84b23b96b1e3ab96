"""Runs a benchmark piece by piece: what was scored before, under the same settings, is not fitted again."""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from pyro_citevae.analysis.baselines.rules import Predictor
from pyro_citevae.analysis.scoring.measurement import reproducible
from pyro_citevae.analysis.scoring.tables import ALL, COLUMNS, REPRODUCIBLE
from pyro_citevae.benchmark.ablation import ablated
from pyro_citevae.benchmark.completed import IN_CONTEXT, completed
from pyro_citevae.benchmark.fold import Fold
from pyro_citevae.benchmark.jobs import made_at_once
from pyro_citevae.benchmark.protocols import PROTOCOLS, Protocol
from pyro_citevae.benchmark.settings import Settings, Variant
from pyro_citevae.benchmark.stored_pieces import stored, write_piece
from pyro_citevae.class_source import class_record
from pyro_citevae.config import Part
from pyro_citevae.data import Split, datasets
from pyro_citevae.errors import CiteVAEWarning, DataError, RunError
from pyro_citevae.infer import Ensemble, Posterior
from pyro_citevae.locks import locked
from pyro_citevae.recipe import Recipe, features_of

__all__ = ["ABLATION", "Results", "protocol_of", "require_protocol", "run"]

ABLATION = "ablation"
_PACKAGES = ("pyro-citevae", "torch", "pyro-ppl", "lightning", "numpy", "scipy", "scoringrules", "anndata")
_BASELINES, _ENSEMBLE = "baselines", "ensemble"


@dataclass(frozen=True)
class Results:
    """A finished benchmark.

    Attributes:
        protocol: Its name.
        scores: Tidy rows, single perturbations first and then the means; ``seconds`` are rows of ``ALL``. Its
            ``attrs``, which a parquet file keeps, hold the package versions and the settings.
        headline: Reproducible perturbations.
        strata: Names of the means over other groups of perturbations, and within contexts.
        splits: What each fold held out, with its hash.
        versions: Package versions.
        seconds: Time spent on what the table holds, in earlier runs too.
    """

    protocol: str
    scores: pd.DataFrame
    headline: tuple[str, ...]
    strata: tuple[str, ...]
    splits: tuple[Split, ...]
    versions: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class _Piece:
    """What is scored and stored at once: the baselines, a variant from one seed, or its seeds' ensemble."""

    fold: Fold
    name: str
    seed: int | str
    variant: Variant | None = None

    @property
    def said(self) -> str:
        """What the progress bar shows."""
        return f"fold {self.fold.number}: {self.name}" + ("" if self.variant is None else f", {self.seed}")


def protocol_of(name: str, settings: Settings) -> Protocol:
    """The protocol by its name; for an ablation the one that its settings name.

    Raises:
        DataError: There is no such protocol.
    """
    chosen = settings.protocol if name == ABLATION else name
    require_protocol(chosen, tuple(PROTOCOLS))
    return PROTOCOLS[chosen]


def require_protocol(name: str, known: Sequence[str] = (*PROTOCOLS, ABLATION)) -> None:
    """Refuses what is not the name of a protocol, or ``ablation``.

    Raises:
        DataError: There is no such protocol.
    """
    if name not in known:
        raise DataError(f"'{name}' is not a protocol; name one of {', '.join(known)}.")


def run(
    name: str,
    settings: Settings,
    store: str | Path,
    progress: Callable[[str, int, int], None] = lambda said, done, total: None,
    jobs: int = 1,
) -> Results:
    """Runs a protocol over folds, variants and seeds.

    Each piece (baselines, or a variant from one seed, or the seeds' ensemble, in one fold) is written whole
    into ``store``. A piece that is there already is taken as it is if the split's hash, the data, all of its
    settings, the class sources and the package versions are what they were.

    Args:
        name: ``held-out-time``, ``held-out-time-of-perturbation``, ``unseen-gene``, ``unseen-combination``,
            ``unseen-context``, ``unseen-gene-in-unseen-context``, or ``ablation``.
        settings: What to run.
        store: Folder of the pieces.
        progress: Called before each piece with what it is, the number of pieces done and of all.
        jobs: Processes that make pieces at once, each in one thread. The rows are the same.

    Returns:
        The scores of all pieces.

    Raises:
        DataError: The protocol is unknown, or the data has nothing for it to hold out.
        ModelError: A model or a guide cannot be found or made.
        DivergenceError: A fit diverged; the pieces before it are kept.
        RunError: Another process runs a benchmark into the folder, or it cannot be written.
    """
    with locked(Path(store)):
        return _run(name, settings, store, progress, jobs)


def _run(
    name: str,
    settings: Settings,
    store: str | Path,
    progress: Callable[[str, int, int], None],
    jobs: int,
) -> Results:
    """Runs a protocol, as the only process that does so in the folder of pieces."""
    plan = _Plan.of(name, settings, store)
    settings, folds, pieces, headline = plan.bench.settings, plan.folds, plan.pieces, plan.headline
    if jobs > 1:
        said = {i: piece.said for i, piece in enumerate(pieces) if piece.seed != _ENSEMBLE}
        made_at_once(said, partial(_Plan.of, name, plan.bench.settings, store), jobs, progress)
    found: list[tuple[pd.DataFrame, float]] = []
    with _each_warning_once():
        for done, piece in enumerate(pieces):
            progress(piece.said, done, len(pieces))
            found.append(plan.bench.result(piece))
    progress("", len(pieces), len(pieces))
    if not headline:
        last = {one.perturbation: one for fold in folds for one in fold.measurements}
        headline = reproducible(list(last.values()))
    strata: dict[str, list[str]] = {REPRODUCIBLE: list(headline)}
    contexts: dict[str, list[int]] = {}
    for fold in folds:
        for stratum, labels in fold.strata.items():
            strata.setdefault(stratum, []).extend(labels)
        if fold.context is not None:
            contexts.setdefault(f"{IN_CONTEXT}{fold.context}", []).append(fold.number)
    single = pd.concat([frame for frame, _ in found]).assign(protocol=name, dataset=settings.title)
    reference = settings.reference or plan.bench.protocol.reference
    scores = completed(single[list(COLUMNS)], strata, reference, len(folds), contexts)
    scores = scores.assign(
        split=scores.fold.map({fold.number: fold.split.digest for fold in folds}).fillna("")
    )
    scores.attrs.update(versions=_versions(settings), settings=settings.model_dump(exclude_none=True))
    return Results(
        name,
        scores,
        headline,
        (*(one for one in strata if one != REPRODUCIBLE), *contexts),
        tuple(fold.split for fold in folds),
        _versions(settings),
        sum(seconds for _, seconds in found),
    )


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Shows a warning of ours once, whichever of the many fits and predictions repeat it."""
    seen: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def once(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, CiteVAEWarning) or str(message) not in seen:
                seen.add(str(message))
                show(message, category, *where, **more)

        warnings.showwarning = once
        yield


def _pieces(folds: Sequence[Fold], settings: Settings, variants: Sequence[Variant]) -> Iterator[_Piece]:
    for fold in folds:
        yield _Piece(fold, _BASELINES, 0)
        for variant in variants:
            name = _name(settings, variant)
            for seed in range(settings.seeds):
                yield _Piece(fold, name, seed, variant)
            if settings.ensemble and settings.seeds > 1:
                yield _Piece(fold, f"{name} ({_ENSEMBLE})", _ENSEMBLE, variant)


def _require_variants(settings: Settings, variants: Sequence[Variant]) -> None:
    """Finds every class, and a name of its own for every variant, before the first fit."""
    seen: set[str] = set()
    for variant in variants:
        Recipe(*settings.merged(variant)).require()
        name = _name(settings, variant)
        if name in seen:
            raise DataError(f"two variants of the benchmark are called '{name}'; give one of them name=.")
        seen.add(name)


def _name(settings: Settings, variant: Variant) -> str:
    model, guide, _ = settings.merged(variant)
    return variant.name or f"{_short(model)}/{_short(guide)}"


def _short(part: Part) -> str:
    return part.name.rpartition(":")[2]


def _catalogued(settings: Settings) -> tuple[str, ...]:
    if settings.simulate or settings.dataset not in datasets.CATALOGUE:
        return ()
    return datasets.CATALOGUE[settings.dataset].headline


@dataclass(frozen=True)
class _Bench:
    """Makes pieces, or finds them made."""

    settings: Settings
    protocol: Protocol
    store: Path

    def result(self, piece: _Piece) -> tuple[pd.DataFrame, float]:
        """The rows of a piece, with the seconds that it took when it was made."""
        folder, key = self._folder(piece), self._key(piece)
        found = stored(folder, key)
        if found is not None:
            return found
        started = time.perf_counter()
        frame, posterior = self._made(piece)
        seconds = time.perf_counter() - started
        if piece.variant is not None:
            row = {"predictor": piece.name, "perturbation": ALL, "time": float("nan"), "score": "seconds"}
            row |= {"value": seconds, "fold": piece.fold.number, "seed": _number(piece.seed)}
            frame = pd.concat([frame, pd.DataFrame([row])], ignore_index=True)
        write_piece(folder, key, frame, seconds, self._said(piece), posterior)
        return frame, seconds

    def _made(self, piece: _Piece) -> tuple[pd.DataFrame, Posterior | None]:
        if piece.variant is None:
            return self._baselines(piece.fold), None
        if piece.seed == _ENSEMBLE:
            members = [self._loaded(piece, seed) for seed in range(self.settings.seeds)]
            return self._scored(piece, Ensemble(members), 0), None
        posterior = self._fitted(piece)
        kept = posterior if self.settings.ensemble and self.settings.seeds > 1 else None
        return self._scored(piece, posterior, _number(piece.seed)), kept

    def _scored(self, piece: _Piece, predictor: Predictor, seed: int) -> pd.DataFrame:
        chosen = self.settings
        return piece.fold.scores(
            piece.name,
            predictor,
            draws=chosen.draws,
            cells=chosen.cells,
            challenge=chosen.challenge,
            measured_controls=chosen.measured_controls,
            seed=seed,
        )

    def _baselines(self, fold: Fold) -> pd.DataFrame:
        marks = [fold.ceiling()]
        if self.settings.challenge and self.settings.cells:
            marks.append(fold.challenge_scale())
        if not self.settings.baselines:
            return pd.concat(marks, ignore_index=True)
        features = features_of(self.settings.features, fold.train, plain=True)
        rules = self.protocol.baselines(fold, features, network_steps=self.settings.network_steps)
        frames = [self._scored(_Piece(fold, name, 0), rule, 0) for name, rule in rules.items()]
        return pd.concat([*marks, *frames], ignore_index=True)

    def _recipe(self, piece: _Piece) -> Recipe:
        """What a piece's fit is made from; the settings' seed gives way to the piece's."""
        model, guide, options = self.settings.merged(piece.variant or Variant())
        return Recipe(model, guide, {**options, "seed": _number(piece.seed)}, self.settings.features)

    def _fitted(self, piece: _Piece) -> Posterior:
        return self._recipe(piece).fitted(piece.fold.train, plain=True, progress=False)

    def _loaded(self, piece: _Piece, seed: int) -> Posterior:
        """A seed's posterior, fitted again if its piece was made without one."""
        name = piece.name.removesuffix(f" ({_ENSEMBLE})")
        single = _Piece(piece.fold, name, seed, piece.variant)
        recipe = self._recipe(single)
        try:
            return Posterior.load(self._folder(single) / "run", recipe.model_class, recipe.guide_class)
        except RunError:  # it is not there, or damaged
            return self._fitted(single)

    def _folder(self, piece: _Piece) -> Path:
        slug = re.sub(r"[^A-Za-z0-9]+", "_", piece.name).strip("_")
        return self.store / f"fold_{piece.fold.number}" / slug / f"seed_{piece.seed}"

    def _said(self, piece: _Piece) -> dict[str, Any]:
        """All that a piece follows from."""
        said: dict[str, Any] = {
            "protocol": self.protocol.name,
            "split": piece.fold.split.digest,
            "data": piece.fold.whole.digest,
            "name": piece.name,
            "seed": piece.seed,
            "draws": self.settings.draws,
            "cells": self.settings.cells,
            "challenge": self.settings.challenge,
            "measured_controls": self.settings.measured_controls,
            "features": self.settings.features,
            "versions": _versions(self.settings),
        }
        if piece.variant is None:
            said["baselines"] = self.settings.network_steps if self.settings.baselines else None
        else:
            model, guide, options = self.settings.merged(piece.variant)
            recipe = self._recipe(piece)
            said["model"] = {**model.model_dump(), **class_record(recipe.model_class)}
            said["guide"] = {**guide.model_dump(), **class_record(recipe.guide_class)}
            said["fit"] = {name: value for name, value in options.items() if name != "seed"}
        if piece.seed == _ENSEMBLE:
            said["seeds"] = self.settings.seeds
        return said

    def _key(self, piece: _Piece) -> str:
        return hashlib.sha256(json.dumps(self._said(piece), sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class _Plan:
    """What a benchmark makes, in its order."""

    bench: _Bench
    folds: tuple[Fold, ...]
    pieces: tuple[_Piece, ...]
    headline: tuple[str, ...]

    @classmethod
    def of(cls, name: str, settings: Settings, store: str | Path) -> _Plan:
        """Reads the data, divides it, and finds every class before the first fit."""
        protocol, data = protocol_of(name, settings), settings.data()
        settings = settings.model_copy(update={"reference": settings.reference or protocol.reference})
        settings = settings.described(Path(store))
        variants = [Variant(), *(ablated(settings) if name == ABLATION else ()), *settings.variants]
        _require_variants(settings, variants)
        headline = tuple(settings.headline) or _catalogued(settings)
        folds = tuple(protocol.folds(data, settings.folds, headline)[: settings.limit])
        bench = _Bench(settings, protocol, Path(store))
        return cls(bench, folds, tuple(_pieces(folds, settings, variants)), headline)

    def make(self, number: int) -> None:
        """Makes one piece, or finds it made."""
        with _each_warning_once():
            self.bench.result(self.pieces[number])


def _number(seed: int | str) -> int:
    return seed if isinstance(seed, int) else 0


def _versions(settings: Settings) -> dict[str, str]:
    packages = (*_PACKAGES, "cell-eval2") if settings.challenge else _PACKAGES
    return {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
