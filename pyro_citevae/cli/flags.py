"""Flags: what a sentence of the library says in Python, said as it is typed in a shell."""

from __future__ import annotations

import re
from dataclasses import fields

from pyro_citevae.data.columns import Columns

__all__ = ["in_flags"]

_FLAGS = (
    (r"by the same call with resume=True", "by the same command with --resume"),
    (r"\boverwrite=True\b", "--overwrite"),
    (r"the (model|guide) '([^']*)'(?= is (?:unknown|not a subclass)|: )", r"--\1 '\2'"),
    (
        r"is your own class '(\w+)' of '([^']*)'; pass it by load\(path, (\w+)=\w+\)",
        r"is your own; pass it by --\3 \2:\1",
    ),
    (
        r"hold_out\(perturbations=\['([^']*)'\]\) names a combination; .*$",
        r"--hold-out 'perturbation=\1' names a combination; write --hold-out 'combination=\1'.",
    ),
    (
        r"stand in for some by posterior\.read\(adata, missing='mask'\)",
        "let expected counts stand in by --mask-missing",
    ),
    (r"posterior\.read\(adata, new_batches='spread'\)", "--new-batches spread"),
    (r"name the column of var that holds their names with genes=, or ", ""),
    (r"name the right column with batch=, or take", "take"),
    (r"Split\.parse\('([^']*)'\)", r"--hold-out '\1'"),
    (r"the settings '([^']*)'", r"--config '\1'"),
    (r"features='([^']*)'", r"--features \1"),
    (r"gene_ontology\(species='([^']*)'\)", r"--features gene-ontology:\1"),
    (r"\bspecies='(\w+)'", r"--features gene-ontology:\1"),
    (r"give features of your own by from_table\(table, genes\)", "give --features the path of a table"),
    (r"c3d_parts\(n_frames=(-?\d+)\)", r"--frames \1"),
    (r"c3d_parts\(seed=(-?\d+)\)", r"--seed \1"),
    (r"render_parts\(jobs=(-?\d+)\)", r"--jobs \1"),
    (r"is named in from_anndata\(candidates=\.\.\.\)", "can be asked if you fit it again with --candidates"),
    (r"\bdata='FILE\.h5ad'", "--data FILE.h5ad"),
    (r"\bmax_(epochs|steps)=(?=\d)", r"--\1 "),
    (r"(leave out|raise) max_(epochs|steps)\b", r"\1 --\2"),
    (r"meshes\('([^']*)'\) finds", r"--mesh-dir '\1' holds"),
)


# what a command takes by the name that Python has for it
_NAMES = (*(one.name for one in fields(Columns)), "step", "n_steps", "time_unit", "values", "new_batches")
_VALUE = r"""'[^']*'|\[[^\]]*\]|-?\d[\d.]*(?=[^\w.]|\.?$)"""
_ARGUMENT = re.compile(rf"""(?<![\w'"(\[;-])(?<!--hold-out )({"|".join(_NAMES)})=(?!\.\.\.)({_VALUE})?""")


def in_flags(sentence: str) -> str:
    """A sentence with the arguments that are flags of the command line said as flags.

    Example:
        >>> in_flags("'run' exists; choose another name, or pass overwrite=True.")
        "'run' exists; choose another name, or pass --overwrite."
    """
    for said, flag in _FLAGS:
        sentence = re.sub(said, flag, sentence)
    return _ARGUMENT.sub(_as_flag, sentence)


def _as_flag(found: re.Match[str]) -> str:
    """An argument of Python as a flag, a list as the flag for each of its values."""
    flag, value = f"--{found[1].replace('_', '-')}", found[2]
    if value is None:
        return flag
    if value.startswith("["):
        return " ".join(f"{flag} {one.strip()}" for one in re.findall(r"'[^']*'|[^\s,\[\]]+", value))
    return f"{flag} {value}"
