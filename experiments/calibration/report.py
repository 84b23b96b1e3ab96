"""Tables and figures of the panel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

NOMINAL = (50, 80, 95)
_MARK = {"development": "o", "final": "s"}


def write(folder: Path, found: Mapping[str, pd.DataFrame]) -> None:
    """Writes results.md, results.parquet and the figures from the rows of all pieces."""
    if not found:
        return
    rows = pd.concat(found.values(), ignore_index=True)
    rows.to_parquet(folder / "results.parquet")
    panel = rows[rows["set"].notna()] if "set" in rows else rows.iloc[:0].assign(set="")
    parts = []
    for kind in ("development", "final"):
        one = panel[panel["set"] == kind]
        if len(one):
            parts += [f"## {kind.capitalize()} screens", targets(one), screens_table(one)]
    if "misfit" in rows and rows.misfit.notna().any():
        shown = rows[rows.misfit.notna()][["misfit", "sign", "named", "failed"]]
        parts += ["## Planted misfits", markdown(shown)]
    halves = rows[rows.piece.str.startswith("halves")]
    if len(halves):
        parts += [
            "## Shipped screens, one half of each group's cells against the other",
            halves_table(halves),
        ]
    (folder / "results.md").write_text("\n\n".join(parts) + "\n")
    if len(panel):
        figures(folder, panel)


def markdown(table: pd.DataFrame) -> str:
    """A table as markdown."""
    head = ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    return "\n".join(
        [*head, *("| " + " | ".join(map(str, row)) + " |" for row in table.to_numpy(dtype=object))]
    )


def by_screen(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a screen with its means."""
    found = []
    for name, one in rows.groupby("screen", sort=False):
        seen = one[one.kind.isin(["seen", "inert"])]
        unseen = one[one.kind.isin(["pair", "time"])]
        moved = unseen[unseen["size"] > 1e-6]
        rules = [c for c in one if c.startswith("rule: ") and moved[c].notna().any()]
        best = min(((moved[c] / moved["size"]).mean() for c in rules), default=np.nan)
        row = {"screen": name, **{c: one[c].iloc[0] for c in _SIZES}}
        row["error / pseudobulk"] = (seen.error / seen["rule"]).mean()
        row |= {f"seen {q} %": seen[f"coverage_{q}"].mean() for q in NOMINAL}
        row["called without effect"] = one[one.kind == "inert"].called.mean()
        row |= {
            "kind": unseen.kind.iloc[0] if len(unseen) else "",
            "error": (moved.error / moved["size"]).mean(),
        }
        row["best rule"] = best
        row |= {f"unseen {q} %": unseen[f"coverage_{q}"].mean() for q in NOMINAL}
        found.append(row | {"adequate": bool(one.adequate.iloc[0])})
    return pd.DataFrame(found)


_SIZES = ("n_cells", "n_genes", "n_perturbations", "n_programs", "steps", "seconds")


def targets(rows: pd.DataFrame) -> str:
    """What was asked of the panel, and what came out."""
    one = by_screen(rows)
    n = len(one)
    error = one["error / pseudobulk"]
    mean = {q: one[f"seen {q} %"].mean() for q in NOMINAL}
    unseen = one[one.kind != ""]
    lines = [
        (
            "seen effects, error over that of the groups' own pseudobulk, mean",
            "1.0 at most",
            f"{error.mean():.2f}",
        ),
        ("the same, worst screen", "1.3 at most", f"{error.max():.2f}"),
        (
            "seen effects, 50 / 80 / 95 % intervals cover",
            "within 7 points",
            " / ".join(f"{100 * mean[q]:.0f}" for q in NOMINAL),
        ),
        (
            "80 % within 12 points, screens",
            f"{round(21 / 24 * n)} of {n}",
            f"{int((abs(one['seen 80 %'] - 0.8) <= 0.12).sum())} of {n}",
        ),
        (
            "no effect: genes called with P(direction) > .975",
            "5 % at most",
            f"{100 * rows[rows.kind == 'inert'].called.mean():.1f} %",
        ),
        (
            "held-out pairs and times: below the best rule that sees the same, screens",
            f"{round(18 / 24 * len(unseen))} of {len(unseen)}",
            f"{int((unseen.error < unseen['best rule']).sum())} of {len(unseen)}",
        ),
        (
            "the same, 80 % intervals cover",
            "within 7 points",
            " and ".join(
                f"{100 * part['unseen 80 %'].mean():.0f} ({kind}s)" for kind, part in unseen.groupby("kind")
            ),
        ),
        ("diagnose stays calm", f"{round(21 / 24 * n)} of {n}", f"{int(one.adequate.sum())} of {n}"),
    ]
    return markdown(pd.DataFrame(lines, columns=["of default settings", "target", "found"]))


def screens_table(rows: pd.DataFrame) -> str:
    """A row a screen."""
    return markdown(by_screen(rows).round(2))


def halves_table(rows: pd.DataFrame) -> str:
    """A row a shipped screen."""
    found = []
    for name, one in rows.groupby("screen"):
        row = {"screen": name, "groups": len(one), "relative L2": (one.error / one["size"]).mean()}
        row["of this half itself"] = (one["rule"] / one["size"]).mean()
        found.append(row | {f"{q} % covers": one[f"coverage_{q}"].mean() for q in NOMINAL})
    return markdown(pd.DataFrame(found).round(3))


def figures(folder: Path, rows: pd.DataFrame) -> None:
    """Coverage by nominal level, error by size of the screen, and width against error."""
    nominal = np.array(NOMINAL) / 100
    figure, axis = plt.subplots(figsize=(5, 4.2), layout="constrained")
    axis.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--", label="calibrated")
    for _, one in by_screen(rows).set_index("screen").iterrows():
        axis.plot(nominal, [one[f"seen {q} %"] for q in NOMINAL], color="0.8", lw=0.8, zorder=0)
    for kind, style in {"seen": "-", "inert": ":", "pair": "-.", "time": "--"}.items():
        part = rows[rows.kind == kind]
        if len(part):
            axis.plot(nominal, [part[f"coverage_{q}"].mean() for q in NOMINAL], style, marker="o", label=kind)
    axis.set(xlabel="nominal probability of the interval", ylabel="share of true effects inside")
    axis.legend(title="grey: seen, a screen each", frameon=False)
    figure.savefig(folder / "coverage.png", dpi=130)
    table = by_screen(rows)
    figure, axis = plt.subplots(figsize=(5, 4.2), layout="constrained")
    axis.axhline(1.0, color="0.6", lw=1, ls="--")
    cells = table.n_cells / (table.n_perturbations + 1)
    axis.scatter(cells, table["error / pseudobulk"], s=table.n_genes / 2, alpha=0.7)
    axis.set(xscale="log", xlabel="cells a perturbation (size of a dot: genes)")
    axis.set_ylabel("error of seen effects over that of their own pseudobulk")
    figure.savefig(folder / "error.png", dpi=130)
    figure, axis = plt.subplots(figsize=(5, 4.2), layout="constrained")
    for kind, marker in {"seen": "o", "inert": "x", "pair": "^", "time": "s"}.items():
        part = rows[rows.kind == kind]
        axis.scatter(part.width, part.miss, s=10, marker=marker, alpha=0.5, label=kind)
    reach = np.array([rows.width.min(), rows.width.max()])
    axis.plot(reach, reach * 0.311, color="0.4", lw=1, ls="--", label="expected of a normal")
    axis.set(xscale="log", yscale="log", xlabel="mean width of 80 % intervals", ylabel="mean absolute error")
    axis.legend(frameon=False)
    figure.savefig(folder / "width.png", dpi=130)
    plt.close("all")
