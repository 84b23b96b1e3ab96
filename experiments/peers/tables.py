"""Tables of the peers: gathers the pieces of a folder, and writes results.parquet, fits.json and results.md.

A start of run.py goes on from the first two, as it does from its own folder.

python experiments/peers/tables.py [-o runs/peers]      without the folder: results.md anew from the other two
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import search
from pages import page
from pieces import MARKS, stored
from predictors import contenders

from pyro_citevae.whole_files import aside

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
    scores = pd.read_parquet(chosen.to / "results.parquet")  # those of the search too
    main_ones = [one for one in noted["fits"] if one["asked_steps"] is None and one["place"] != search.INNER]
    scores = scores[scores.folder.isin([one["folder"] for one in main_ones])]
    fits = [one for one in main_ones if one["predictor"] != MARKS]
    (chosen.to / "results.md").write_text(page(scores, fits, noted["search"], not_installed()))
    print(f"Saved {chosen.to}/results.parquet, fits.json and results.md.")
    return 0


def restored(out: Path, results: Path = HERE) -> None:
    """Puts the pieces of the written results where a start looks for them, so that it goes on from there."""
    if not (results / "fits.json").is_file():
        return
    scores = pd.read_parquet(results / "results.parquet")
    noted = json.loads((results / "fits.json").read_text())
    known = search.read(out)
    for row in noted["search"] if not known else []:
        search.note(row, out)
    for said in noted["fits"]:
        folder = out / said["folder"]
        if not folder.exists():
            rows = scores[scores.folder == said["folder"]].drop(columns=["folder", "task"])
            with aside(folder) as written:
                written.mkdir(parents=True)
                rows.reset_index(drop=True).to_parquet(written / "scores.parquet")
                (written / "piece.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def gathered(out: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The scores of all pieces, and what is noted of each."""
    frames, fits = [], []
    for frame, said in stored(out, contenders()):
        if len(frame):
            frames.append(frame.assign(task=said["task"], folder=said["folder"]))
        fits.append(dict(said))
    return pd.concat(frames, ignore_index=True), fits


def not_installed() -> dict[str, str]:
    """Peers that cannot be installed, with the line that says why."""
    return {one.parent.name: one.read_text().strip() for one in sorted(HERE.glob("*/failure.txt"))}


if __name__ == "__main__":
    raise SystemExit(main())
