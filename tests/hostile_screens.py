"""Hostile screens: a small screen with some faults, each named, so that a case is a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from hostile_columns import BATCHES, CONTEXTS, DOSES, LABELS, LIBRARIES, SEQUENCES, TIMES, TYPES
from hostile_matrices import COUNTS, FORMS, dense, with_count
from scipy import sparse

__all__ = ["FAULTS", "Hostile", "Parts", "made"]

GENES = ("A", "B", "C", "D", "E")
_CYCLE = ("control", "A", "B", "A+B", "control", "A", "C", "B")


@dataclass(frozen=True)
class Hostile:
    """A screen by what is wrong with it.

    Attributes:
        seed: Seed of its counts.
        n_cells: Number of cells before any fault.
        faults: A name of :data:`FAULTS` and the number of its variant, in the order they are made.
        options: Columns that are named although nothing is wrong with them.
        store: How it is written: ``"csr"``, ``"dense"``, or ``"zarr"``.
        fit: Whether two steps are fitted to it, and a forecast made, where it is read.
    """

    seed: int = 0
    n_cells: int = 16
    faults: tuple[tuple[str, int], ...] = ()
    options: tuple[str, ...] = ()
    store: str = "csr"
    fit: bool = False


@dataclass
class Parts:
    """A screen on its way to become an AnnData, and the arguments that read it."""

    X: Any
    obs: pd.DataFrame
    var: pd.DataFrame
    layers: dict[str, Any] = field(default_factory=dict)
    uns: dict[str, Any] = field(default_factory=dict)
    raw: AnnData | None = None
    reading: dict[str, Any] = field(default_factory=dict)
    broken: str = ""
    hand: Callable[[AnnData], AnnData] = lambda adata: adata

    def adata(self) -> AnnData:
        """The AnnData; what it cannot hold, it says itself."""
        adata = AnnData(self.X, obs=self.obs, var=self.var, layers=self.layers, uns=self.uns)
        if self.raw is not None:
            adata.raw = self.raw
        return self.hand(adata)


def made(case: Hostile) -> Parts:
    """The screen of a case, its faults made one after the other."""
    rng, n = np.random.default_rng(case.seed), case.n_cells
    X = rng.poisson(2.0, (n, len(GENES))).astype(np.float32)
    obs = pd.DataFrame(index=[f"cell_{i:02d}" for i in range(n)])
    obs["perturbation"] = np.resize(_CYCLE, n)
    obs["time"] = np.resize([1.0, 2.0, 4.0], n)
    obs["batch"] = np.resize(["x", "y", "y"], n)
    obs["context"] = np.where(np.arange(n) % 16 < 8, "T", "B")
    obs["dose"] = np.where(obs["perturbation"] == "control", "0", "10")
    obs["depth"] = X.sum(1) * 10.0 + 5
    obs["cell"] = [f"c{i}" for i in range(n)]
    parts = Parts(X, obs, pd.DataFrame(index=list(GENES)))
    for name in case.options:
        parts.reading |= _OPTIONS[name]
    for name, variant in case.faults:
        FAULTS[name][variant](parts)
    return parts


_OPTIONS: dict[str, dict[str, Any]] = {
    "time": {"time": "time"},
    "observed": {"time": "time", "step": "observed"},
    "batch": {"batch": "batch"},
    "context": {"context": "context"},
    "dose": {"dose": "dose"},
    "library": {"library": "depth"},
    "sequence": {"time": "time", "sequence": "cell"},
    "exclude": {"exclude": ("C",)},
    "fewer genes": {"most_genes": 3},
    "candidates": {"candidates": ("D",)},
    "real": {"values": "real"},
    "names": {"separator": ""},
}
OPTIONS = tuple(_OPTIONS)

Fault = Callable[[Parts], None]


def _column(name: str, argument: str, values: Callable[[int], Any]) -> Fault:
    """A column of ``obs`` made anew, and named."""

    def change(parts: Parts) -> None:
        new = values(len(parts.obs))
        parts.obs[name] = new.set_axis(parts.obs.index) if isinstance(new, pd.Series) else new
        parts.reading.setdefault(argument, name)
        if argument == "sequence":
            parts.reading.setdefault("time", "time")

    return change


def _label(text: Any) -> Fault:
    """Two perturbed cells get another label."""

    def change(parts: Parts) -> None:
        labels = parts.obs["perturbation"].astype(object).copy()
        labels.iloc[[i for i in (1, 5) if i < len(labels)]] = [text] * min(2, max(0, len(labels) - 1))
        parts.obs["perturbation"] = labels

    return change


def _typed(column: str, change: Callable[[pd.Series], Any]) -> Fault:
    """A column of another type."""

    def apply(parts: Parts) -> None:
        parts.obs[column] = change(parts.obs[column])

    return apply


def _count(value: float, kind: str) -> Fault:
    """One value of another size."""
    return _form(lambda X: with_count(X, value, kind))


def _form(change: Callable[[Any], Any]) -> Fault:
    def apply(parts: Parts) -> None:
        parts.X = change(parts.X)

    return apply


def _sliced(cells: slice, genes: slice) -> Fault:
    def change(parts: Parts) -> None:
        parts.X = parts.X[cells, genes]
        parts.obs, parts.var = parts.obs.iloc[cells].copy(), parts.var.iloc[genes].copy()
        parts.layers, parts.raw = {}, None

    return change


def _names(axis: str, names: Callable[[list[str]], Any]) -> Fault:
    def change(parts: Parts) -> None:
        table = getattr(parts, axis)
        table.index = names(list(map(str, table.index)))

    return change


def _set(**given: Any) -> Fault:
    """Other arguments."""
    return lambda parts: parts.reading.update(given)


def _layer(**layers: Callable[[Any], Any]) -> Fault:
    def change(parts: Parts) -> None:
        parts.layers |= {name: make(parts.X) for name, make in layers.items()}

    return change


def _in_layer(parts: Parts) -> None:
    parts.layers["counts"], parts.X = parts.X, np.log1p(np.asarray(dense(parts.X), dtype=float))
    parts.reading["layer"] = "counts"


def _in_raw(parts: Parts) -> None:
    parts.raw = AnnData(parts.X, obs=parts.obs, var=parts.var)
    parts.X, parts.var = np.log1p(np.asarray(dense(parts.X), dtype=float))[:, :3], parts.var.iloc[:3].copy()
    parts.layers = {}
    parts.reading["layer"] = "raw"


def _without_values(parts: Parts) -> None:
    parts.X = None


def _in_layer_alone(parts: Parts) -> None:
    _in_layer(parts)
    _without_values(parts)


def _without(column: str) -> Fault:
    return lambda parts: parts.obs.__delitem__(column) if column in parts.obs else None


def _twice(column: str) -> Fault:
    def change(parts: Parts) -> None:
        parts.obs = pd.concat([parts.obs, parts.obs[[column]]], axis=1)

    return change


def _gene_column(values: list[Any]) -> Fault:
    def change(parts: Parts) -> None:
        parts.var["symbol"] = (values * 5)[: len(parts.var)]
        parts.reading["genes"] = "symbol"

    return change


def _handed(hand: Callable[[AnnData], AnnData]) -> Fault:
    """A view, or another stand-in for the screen."""
    return lambda parts: setattr(parts, "hand", hand)


def _broken(what: str) -> Fault:
    return lambda parts: setattr(parts, "broken", what)


def _breaks() -> tuple[str, ...]:
    from broken_files import BREAKS

    return BREAKS


_STEPS = (
    *(0, -1, np.nan, np.inf, "1/3", "observed", [1, 2, 4], [], [2, 1], 1e-300, 1e300, "a", 0.5, [0.0, 1.0]),
    *("1,2,4", True, [1, None], np.array([1.0, 2.0, 4.0]), 3, "1e-9"),
)
_ALONE: dict[str, tuple[Any, ...]] = {
    "n_steps": (0, 1, 65, 10**20, "3", 2.5, np.nan, None, True, -3),
    "most_genes": (0, 1, -1, 3, 10**20, 2.5, "3", np.nan),
    "exclude": ("control", "A", "*", "", "nan", ("A", "B", "C", "A+B"), ("A", "control", "B", "C", "A+B"), 3),
    "control": (
        "NT",
        "*",
        "[",
        "",
        "A",
        "co*",
        ["control", "A"],
        "control ",
        "A+B",
        3,
        ("control", "*"),
        "c[",
        "+",
    ),
    "separator": ("", "|", "+", "A", " ", "@", "*", "++", ".", "\\", 3),
    "layout": ("plain", "gears", "scperturb", "vcc", "cpa", "odd", "", 3),
    "values": ("counts", "real", "log", None, 3),
    "candidates": ("D", ("D", "D"), "A+B", "A@1", "control", "", "D*2", '"D', "Z Z", 3),
    "layer": ("counts", "raw", "X", "raw/X", "", 3),
    "perturbation": ("time", "depth", "missing", "", "cell", 3, "batch"),
    "time": ("missing", "perturbation", "depth", "cell", 3),
    "batch": ("perturbation", "time", "cell", "depth", "missing"),
    "context": ("perturbation", "cell", "time", "batch", "missing"),
    "library": ("time", "perturbation", "missing", "batch"),
    "dose": ("depth", "perturbation", "time", "missing"),
    "genes": ("missing", "", 3),
    "new_batches": ("odd", "spread"),
    "odd": (1,),
}
_TIMED: dict[str, tuple[Any, ...]] = {
    "step": _STEPS,
    "time_unit": ("day", "", "days", 3, "a\nb"),
    "sequence": ("batch", "perturbation", "time", "missing"),
}
_ARGUMENTS: tuple[dict[str, Any], ...] = (
    *({name: value} for name, values in _ALONE.items() for value in values),
    *({name: value, "time": "time"} for name, values in _TIMED.items() for value in values),
)
_CELL_NAMES: tuple[Callable[[list[str]], Any], ...] = (
    lambda x: ["c"] * len(x),
    lambda x: list(range(len(x))),
    lambda x: [f"{i}.0" for i in range(len(x))],
    lambda x: ["", *x[1:]],
    lambda x: [f"a\n{i}" for i in x],
    lambda x: [f"{i}\x00" for i in x],
    lambda x: [f"é🧬{i}" for i in x],
    lambda x: pd.Index(x, name="perturbation"),
    lambda x: [*x[-1:], *x[:-1]],
    lambda x: [f"{i}-1" for i in x],
    lambda x: pd.CategoricalIndex(x),
    lambda x: [i * 200 for i in x],
)
_GENE_NAMES: tuple[Callable[[list[str]], Any], ...] = (
    lambda x: ["A"] * len(x),
    lambda x: list(range(len(x))),
    lambda x: [f"ENSG0000000000{i}" for i in range(len(x))],
    lambda x: ["", *x[1:]],
    lambda x: [f"a\n{i}" for i in x],
    lambda x: ["control", *x[1:]],
    lambda x: [i.lower() for i in x],
    lambda x: [f"é🧬{i}" for i in x],
    lambda x: pd.Index(x, name="A"),
    lambda x: ["nan", *x[1:]],
    lambda x: [i * 400 for i in x],
)
_SYMBOLS: tuple[list[Any], ...] = (
    *(list("VWXYZ"), ["A"], [None], [1, 2, 3, 4, 5], ["A", "", "B", None, np.nan], [True, False]),
    [b"A", b"B", b"C", b"D", b"E"],
)
_SIZES = (
    *(((0,), (None,)), ((None,), (0,)), ((0,), (0,)), ((1,), (None,)), ((2,), (None,)), ((None,), (1,))),
    *(((3,), (2,)), ((1, 2), (None,))),
)


FAULTS: dict[str, tuple[Fault, ...]] = {
    "label": tuple(_label(text) for text in LABELS),
    "type of labels": tuple(_typed("perturbation", change) for change in TYPES),
    "type of batches": tuple(_typed("batch", change) for change in TYPES),
    "time": tuple(_column("time", "time", values) for values in TIMES),
    "dose": tuple(_column("dose", "dose", values) for values in DOSES),
    "library": tuple(_column("depth", "library", values) for values in LIBRARIES),
    "batch": tuple(_column("batch", "batch", values) for values in BATCHES),
    "context": tuple(_column("context", "context", values) for values in CONTEXTS),
    "sequence": tuple(_column("cell", "sequence", values) for values in SEQUENCES),
    "count": tuple(_count(value, kind) for value, kind in COUNTS),
    "form": tuple(_form(change) for change in FORMS),
    "size": tuple(_sliced(slice(*cells), slice(*genes)) for cells, genes in _SIZES),
    "cell names": tuple(_names("obs", change) for change in _CELL_NAMES),
    "gene names": tuple(_names("var", change) for change in _GENE_NAMES),
    "gene column": tuple(_gene_column(values) for values in _SYMBOLS),
    "layer": (
        _in_layer,
        _in_raw,
        _without_values,
        _in_layer_alone,
        _layer(counts=lambda X: X),
        _layer(counts=lambda X: np.full(X.shape, np.nan)),
        _layer(seen=lambda X: dense(X) > 0),
        _layer(raw=lambda X: X),
        _layer(counts=lambda X: sparse.csc_matrix(dense(X))),
    ),
    "hand": (
        _handed(lambda adata: adata[::-1]),
        _handed(lambda adata: adata[:, ::-1]),
        _handed(lambda adata: adata[1:][:, :4]),
        _handed(lambda adata: adata[adata.obs_names.to_series().sample(frac=1, random_state=0).index]),
        _handed(lambda adata: adata[np.arange(adata.n_obs) % 2 == 0].copy()),
        _handed(lambda adata: adata[:0]),
    ),
    "columns": (
        *(_without(name) for name in ("perturbation", "time", "batch", "context", "depth", "cell")),
        *(_twice(name) for name in ("perturbation", "time", "batch")),
    ),
    "unit": tuple(
        (lambda parts, unit=unit: parts.uns.update(time_unit=unit))
        for unit in ("day", 3, np.array(["day"]), {"a": 1}, b"day", "", "a\nb", True)
    ),
    "argument": tuple(_set(**given) for given in _ARGUMENTS),
    "break": tuple(_broken(what) for what in _breaks()),
}
"""Every fault by its name, in its variants."""
