"""Names of sites: what the program calls its states and values, and which names it keeps for itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import SupportsInt

from pyro_citevae.errors import ModelError

__all__ = [
    "INVARIANT",
    "VALUES",
    "cell_states",
    "is_cell_state",
    "is_exportable",
    "require_exportable",
    "reserved",
    "state",
    "states_to",
    "step_of_state",
]

INVARIANT = "s"
VALUES = "x"

_STATE = re.compile(r"z_(\d+)")
_PLATES = frozenset({"cell", "slot", "draw"})
# variables and dims of what is exported, beside which a global site would be another thing of one name
_EXPORTED = frozenset(
    {
        "z",
        "chain",
        "trajectory",
        "time",
        "program",
        "invariant",
        "gene",
        "token",
        "source",
        "lag",
        "step",
        "feature",
        "perturbation",
        "value",
    }
)


def state(t: SupportsInt) -> str:
    """The site of the programs' state after step t.

    Example:
        >>> state(0)
        'z_0'
    """
    return f"z_{int(t)}"


def states_to(last: int) -> list[str]:
    """The sites of the states after the steps 0..last."""
    return [state(t) for t in range(last + 1)]


def step_of_state(name: str) -> int | None:
    """The step that a site is the state after; None for any other site.

    Example:
        >>> step_of_state("z_12"), step_of_state("z_scale")
        (12, None)
    """
    found = _STATE.fullmatch(name)
    return None if found is None else int(found.group(1))


def is_cell_state(name: str) -> bool:
    """Whether a site is a state of a cell: of its programs, or invariant."""
    return name == INVARIANT or step_of_state(name) is not None


def cell_states(names: Iterable[str]) -> list[str]:
    """Those of some sites that are states of a cell."""
    return [name for name in names if is_cell_state(name)]


def reserved(name: str) -> bool:
    """Whether a name is the program's own, so that no global site may have it.

    Example:
        >>> reserved("z_0"), reserved("time"), reserved("z_scale")
        (True, True, False)
    """
    return is_cell_state(name) or name == VALUES or name in _PLATES or name in _EXPORTED


def is_exportable(name: object) -> bool:
    """Whether a file of labelled arrays can hold a variable or an axis of this name."""
    return isinstance(name, str) and bool(name) and "/" not in name


def require_exportable(name: str, model: str) -> None:
    """Refuses a global site with a name that the program or the export uses, or that no file can hold.

    Args:
        name: Name of the site.
        model: Name of the model's class.

    Raises:
        ModelError: The name is reserved, empty or a path.
    """
    if not is_exportable(name):
        raise ModelError(f"{model}.mechanism samples '{name}'; give the site a name, without '/'.")
    if reserved(name):
        raise ModelError(
            f"{model}.mechanism samples '{name}', a name that inference or the export uses itself; give the "
            f"site another, such as '{name}_global'."
        )
