"""A script in a process of its own, so that its memory and its threads are its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from case import UnavailableError

__all__ = ["PEERS_PYTHON", "answer", "peers"]

_HERE = Path(__file__).parent
PEERS_PYTHON = Path(os.environ.get("PEERS_PYTHON", _HERE.parents[1] / ".venv-peers/bench/bin/python"))


def answer(script: str, *arguments: object, python: Path | str = sys.executable) -> dict[str, Any]:
    """Runs a script of this folder, and reads the JSON of its last line.

    Raises:
        UnavailableError: The script failed.
    """
    command = [str(python), str(_HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UnavailableError(f"{script} ended with {done.returncode}: {last}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peers() -> Path:
    """The Python of the environment that has the other tools.

    Raises:
        UnavailableError: It was not made.
    """
    if not PEERS_PYTHON.is_file():
        raise UnavailableError(f"no {PEERS_PYTHON}; run make bench-peers, or set PEERS_PYTHON")
    return PEERS_PYTHON
