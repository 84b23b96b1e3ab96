"""Flags: what a sentence of the library says in Python, said as it is typed in a shell."""

from __future__ import annotations

import re

__all__ = ["in_flags"]

_FLAGS = (
    (r"by the same call with resume=True", "by the same command with --resume"),
    (r"\boverwrite=True\b", "--overwrite"),
    (r"the (model|guide) '([^']*)'(?= is (?:unknown|not a subclass)|: )", r"--\1 '\2'"),
    (
        r"is your own class '(\w+)' of '([^']*)'; pass it by load\(path, (\w+)=\w+\)",
        r"is your own; pass it by --\3 \2:\1",
    ),
    (r"Split\.parse\('([^']*)'\)", r"--hold-out '\1'"),
    (r"the settings '([^']*)'", r"--config '\1'"),
    (r"features='([^']*)'", r"--features \1"),
    (r"c3d_parts\(n_frames=(-?\d+)\)", r"--frames \1"),
    (r"c3d_parts\(seed=(-?\d+)\)", r"--seed \1"),
    (r"render_parts\(jobs=(-?\d+)\)", r"--jobs \1"),
    (r"meshes\('([^']*)'\) finds", r"--mesh-dir '\1' holds"),
)


def in_flags(sentence: str) -> str:
    """A sentence with the arguments that are flags of the command line said as flags.

    Example:
        >>> in_flags("'run' exists; choose another name, or pass overwrite=True.")
        "'run' exists; choose another name, or pass --overwrite."
    """
    for said, flag in _FLAGS:
        sentence = re.sub(said, flag, sentence)
    return sentence
