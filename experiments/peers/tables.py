"""Tables of the peers: gathers the pieces of a folder, and writes results.parquet, fits.json and results.md.

python experiments/peers/tables.py [-o runs/peers]      without the folder: results.md anew from the other two
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import search
from pages import page
from pieces import stored
from predictors import contenders

HERE = Path(__file__).parent


def main(given: Sequence[str] | None = None) -> int:
    """Gathers, and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, default=None, help="Folder of the pieces.")
    parser.add_argument("--to", type=Path, default=HERE, help="Where the results are written.")
    chosen = parser.parse_args(given)
    if chosen.out is not None:
        scores, fits = gathered(chosen.out)
        scores.to_parquet(chosen.to / "results.parquet")
        written = {"fits": fits, "search": search.read(chosen.out)}
        (chosen.to / "fits.json").write_text(json.dumps(written, indent=1) + "\n")
    noted = json.loads((chosen.to / "fits.json").read_text())
    scores = pd.read_parquet(chosen.to / "results.parquet")
    (chosen.to / "results.md").write_text(page(scores, noted["fits"], noted["search"], not_installed()))
    print(f"Saved {chosen.to}/results.parquet, fits.json and results.md.")
    return 0


def gathered(out: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """All scores by the default length of training, and what is noted of each fit."""
    frames, fits = [], []
    for frame, said in stored(out, contenders()):
        if said["asked_steps"] is None and said["place"] != "inner":
            frames.append(frame.assign(task=said["task"]))
            if "seconds" in said:
                fits.append(kept(said))
    return pd.concat(frames, ignore_index=True), fits


def kept(said: Mapping[str, Any]) -> dict[str, Any]:
    """What is noted of a fit, less what only the store needs."""
    return {
        name: one
        for name, one in said.items()
        if name not in ("key", "asked_steps", "place", "case", "source")
    }


def not_installed() -> dict[str, str]:
    """Peers that cannot be installed, with the line that says why."""
    return {one.parent.name: one.read_text().strip() for one in sorted(HERE.glob("*/failure.txt"))}


if __name__ == "__main__":
    raise SystemExit(main())
