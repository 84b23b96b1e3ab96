"""The first fit of a fresh process, of a few steps: initial weights, capture and the rest; prints JSON.

python experiments/speed/first_steps.py runs/speed/screen_2048x2000x20.h5ad --accelerator gpu
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from open_screen import in_memory
from whole_fits import fitted


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--accelerator", default="cpu")
    chosen = parser.parse_args(given)
    data = in_memory(chosen.file)
    found = {
        "seconds": fitted(data, 1, batch_size=chosen.batch_size, accelerator=chosen.accelerator),
        "steps": math.ceil(data.n_cells / chosen.batch_size),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
