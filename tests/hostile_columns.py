"""Columns of a hostile screen: labels, times, doses and the like that people and programs write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["BATCHES", "CONTEXTS", "DOSES", "LABELS", "LIBRARIES", "SEQUENCES", "TIMES", "TYPES"]

Values = Callable[[int], Any]

LABELS: tuple[Any, ...] = (
    "", " ", None, np.nan, "nan", "NaN", "None", "<NA>", "inf", "True", pd.NA, pd.NaT,
    "+", "++", "A+", "+A", "A++B", "A+A", "A + B", "B+A", "A+B+C+D", "A+control", "control+control",
    "control@3", "control*2", "control@", "control*x", "Control", "CONTROL ", " A", "A ", "a",
    "non-targeting",
    "A@24", "A@0", "A@0.5", "A@-1", "A@1e300", "A@1e-300", "A@", "@", "@1", "A@1@2", "A @1", "A@nan",
    "A*0", "A*-1", "A*1e39", "A*1e-300", "A*nan", "A*", "*", "*2", "A*2*3", "A*0.5@3", "A@1*0.5",
    "A*1_000", "A*10",
    "A*0.5+B*2", "٣", "A*٣", "A@²", "A@1_0", "A*1e5",
    '"A', '"', '""', '"A"', '"A+B"', '"A"+B', '"A*2"', "'A'", "A\"B", '"control"', '"A""B"',
    "A\nB", "A\tB", "A\x00B", "A\u200bB", "A\xa0B", "\ufeffA", "é", "é", "日本", "🧬", "A" * 400, "A|B",
    "A,B", "A_B",
    "[A]", "['A', 'B']", "('A',)", "[]", "['A', 3]", "{'A': 1}", "(A", "A)", "((A))", "(+)-JQ1", "CD4+",
    "17+beta",
    "1", "01", "1.0", "1+2", "=A1", "A/B", "A\\B", "..", "/", "-", "_", ".", "?", "A;B", "A&B", "A:B",
    "A B", "A$", "$A$",
    "1-Mar", "sgA-1", "unassigned", "multiplet", "NEGATIVE", "ctrl", "A+ctrl", "HLA-A*02:01", "HLA-DRB1*15",
    1, 1.5, True, b"A", ("A", "B"), ["A", "B"], {"A"}, 10**30, 1 + 2j, float("inf"),
)  # fmt: skip

TYPES: tuple[Callable[[pd.Series], Any], ...] = (
    lambda x: x.astype("category"),
    lambda x: x.astype("category").cat.add_categories(["unused", "other"]),
    lambda x: pd.Categorical(x, ordered=True),
    lambda x: x.astype("string"),
    lambda x: x.astype("string").where(np.arange(len(x)) != 1),
    lambda x: x.astype(object).where(np.arange(len(x)) != 1, None),
    lambda x: x.map({name: i for i, name in enumerate(pd.unique(x))}),
    lambda x: x.map({name: i + 0.5 for i, name in enumerate(pd.unique(x))}),
    lambda x: x == x.iloc[0] if len(x) else x,
    lambda x: pd.array(np.arange(len(x)) % 3, dtype="Int64"),
    lambda x: pd.array([None, *range(1, len(x))], dtype="Int64") if len(x) else x,
    lambda x: pd.array([None, *[True] * (len(x) - 1)], dtype="boolean") if len(x) else x,
    lambda x: x.str.encode("utf8") if x.dtype == object else x,
    lambda x: [("A", "B")] * len(x),
    lambda x: [["A"]] * len(x),
    lambda x: pd.to_timedelta(np.arange(len(x)), unit="h"),
    lambda x: pd.cut(np.arange(len(x)), 3) if len(x) > 1 else x,
    lambda x: x.astype("string[pyarrow]"),
    lambda x: pd.Categorical.from_codes([-1] * len(x), ["A"]),
    lambda x: np.array(x, dtype="U3"),
    lambda x: x.astype("category").cat.rename_categories(lambda one: f" {one} "),
    lambda x: pd.Categorical(np.arange(len(x))),
    lambda x: pd.arrays.SparseArray(np.arange(len(x)) % 2),
    lambda x: np.arange(len(x)) * 1j,
)


def _of(*values: Any) -> Values:
    """Values that are repeated to the number of cells."""

    def column(n: int) -> Any:
        return [values[i % len(values)] for i in range(n)]

    return column


def _typed(kind: str, *values: Any) -> Values:
    return lambda n: pd.Series(_of(*values)(n)).astype(kind)


TIMES: tuple[Values, ...] = (
    _of("D4", "D8"), _of("24h", "48h"), _of("4 days", "8 days"), _of("D4", "24h"), _of("day4", "Day 8"),
    _of("4", "8"), _of("4", "D8"),
    _of(-1.0, 1.0), _of(1e-5, 2e-5), _of(1e-300, 1.0), _of(1e-310, 2e-310), _of(1e-20, 3e-20),
    _of(4e-5, 1.0), _of(5e-324, 1.0),
    _of(1 / 3, 2 / 3), _of(1 / 3, 1.0), _of(0.333333, 0.666667), _of(0.33, 0.67), _of(3.3333, 6.6667),
    _of(1 / 7, 1 / 11),
    _of(1e300, 2e300), _of(1e29, 2e29), _of(1e308, 1.0), _of(1e10, 1e10 + 1), _of(np.nan, 1.0),
    _of(None, 1.0), _of(np.inf, 1.0),
    _of("inf", "1"), _of("", "1"), _of("late", "early"), _of("1e3", "2e3"), _of("٣", "٤"),
    _of("1_000", "2_000"), _of("0x10", "0x20"),
    _of(" 4 ", "8"), _of("4,5", "9"), _of(0.0, 0.0), _of(0.0, 1.0), _of(0.0, -0.0), _of(1.0), _of(1, 64),
    _of(1, 65), _of(1, 1000),
    _of(1.0, 1.0000001), _of(1.0, 1.00001), _of(1.0, 1.001), _of(24, 72), _of(True, False),
    _of(1 + 0j, 2 + 0j), _of(1, "2"), _of((1,), (2,)),
    lambda n: np.linspace(0.1, 3.7, n), lambda n: np.random.default_rng(0).random(n),
    lambda n: np.arange(n),
    lambda n: pd.to_timedelta(np.resize([8, 16], n), unit="h"),
    lambda n: pd.to_timedelta(np.resize([8, 16], n), unit="ns"),
    lambda n: pd.to_timedelta(np.resize([-8, 16], n), unit="h"),
    lambda n: pd.to_timedelta(np.resize([1, 90], n), unit="m"),
    lambda n: pd.to_datetime(np.resize(["2020-01-01", "2020-01-02"], n)), lambda n: [pd.NaT] * n,
    lambda n: pd.to_timedelta([None, *np.resize([8, 16], max(0, n - 1))][:n], unit="h"),
    _typed("Int64", 1, 2), lambda n: pd.array([None, *[1] * max(0, n - 1)][:n], dtype="Int64"),
    _typed("category", 1.0, 2.0),
    _typed("category", "D1", "D2"), _typed("string", "1", "2"), _typed("Float64", 0.5, 1.5),
    _typed("float16", 0.1, 0.2), _typed("float32", 0.1, 0.3),
    lambda n: pd.Categorical(_of(1, 2)(n), categories=[1, 2, 3]),
)  # fmt: skip

DOSES: tuple[Values, ...] = (
    _of("1e39"), _of("-1"), _of("0"), _of("1"), _of("1+2"), _of("1+"), _of("nan"), _of(None),
    _of("10 nM", "20 nM"), _of("10 nM", "10 uM"), _of("1e-300"),
    _of("∞"), _of("1e5", "100"), _of("1e30", "1e-30"), _of("1e31"), _of(0.1, 0.5), _of(100.0, 300.0),
    _of(100), _of(1e-3, 1e3), _of("much"), _of(True),
    _of(1 + 1j), _of("1,5"), _of("1.0+0.5", "1"), _of(np.inf), _of(5e-324), _of("0.1", "1", "10", "100"),
    _of("1e2", "100", "100.0"), _of(" 1 "),
    _of("1e+2"), _of("+1"), _of("٣"), _of("1_0"), _typed("category", 1.0, 10.0), _typed("Int64", 1, 10),
    _typed("float16", 0.1), _of(16777216.5, 16777217.5),
    _of("0", "0", "10"), _of("10 µM"), _of("10 nM"), _of("0 nM", "0 uM"), _of([1]), _of("1+1+1"),
)  # fmt: skip

LIBRARIES: tuple[Values, ...] = (
    _of(1e39), _of(-1.0), _of(np.nan), _of("deep"), _of(0.0), _of(1e300), _of(1e-300), _of("1e3"),
    _of(1e12), _of(1e13), _of(True), _of(1000 + 0j), _of(1000), _of("1000"),
    _of(None), _of(np.inf), _of(1e3, 1e9), _of(1000.5), _typed("category", 1000.0, 2000.0),
    _typed("Int64", 1000), _typed("float16", 1000.0), _typed("string", "1000"),
    lambda n: pd.array([None, *[1000] * max(0, n - 1)][:n], dtype="Int64"), _of([1000]), _of("1,000"),
    _of(1.0, 1000.0),
)  # fmt: skip

BATCHES: tuple[Values, ...] = (
    _of("x", np.nan), _of("x", None), _of(1, 2), _of(1.0, 2.0), _of(1, "1"), _of(1, 1.0), _of(True, False),
    _of("all"), _of("x" * 400, "y"), _of("é", "🧬"), _of(" x", "x "),
    _of(""), _of("nan", "x"), _of("A", "B", "control"), lambda n: [f"b{i}" for i in range(n)],
    lambda n: np.repeat(["x", "y"], [n - n // 2, n // 2]), _of("a\nb", "c"), _of("a\x00", "a"),
    lambda n: pd.Categorical(_of("x", "y")(n), categories=["y", "x", "z"]), _typed("string", "x", "y"),
    lambda n: np.resize(["x", "y", "y", "y", "x", "y", "y", "y"], n),
    _of((1,), (2,)), _of(1 + 0j, 2 + 0j), lambda n: pd.to_timedelta(np.resize([1, 2], n), unit="D"),
    _of(10**30, 1), _of(b"x", b"y"), lambda n: pd.to_datetime(np.resize(["2020-01-01", "2020-01-02"], n)),
)  # fmt: skip

CONTEXTS: tuple[Values, ...] = (
    *BATCHES,
    _of("T", "B", "B", "B"),
    _of("T"),
    _of("T", "T", "T", "T", "T", "T", "T", "NK"),
)

SEQUENCES: tuple[Values, ...] = (
    _of("c"), _of("c", "d"), lambda n: [f"c{i // 3}" for i in range(n)],
    lambda n: [f"c{i % 8}" for i in range(n)], lambda n: [i // 8 for i in range(n)],
    _of(None), _of(np.nan, "c"), lambda n: pd.Categorical([f"c{i}" for i in range(n)]),
    lambda n: np.arange(n) * 1.5, _of("a\nb"), lambda n: [f"c{i % 8} " for i in range(n)],
)  # fmt: skip
