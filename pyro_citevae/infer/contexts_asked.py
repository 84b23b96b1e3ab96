"""Which contexts a prediction is asked for, by name or by the cells to act on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyro_citevae.arguments import Names, names
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError, few

__all__ = ["contexts_asked", "named", "of_context", "one_context", "require_known_contexts"]


def contexts_asked(
    given: Names | None, schema: Schema, cells: Trajectories | None, said: str
) -> list[int | None]:
    """Positions of the contexts: those named, or those of the cells, or all; ``[None]`` where there are none.

    Args:
        given: Names of contexts; None for those of the cells, or all.
        schema: The model's axes.
        cells: Control cells to act on, if there are some.
        said: The call, for the message.

    Raises:
        DataError: None is named, a context is unknown, or none of the cells is of it.
    """
    if given is None and not schema.contexts:
        return [None]
    if given is not None and not schema.contexts:
        raise DataError(
            f"{said}(context={given!r}) names a context, and the model was fitted without any; fit data that "
            "were read with context=."
        )
    there = range(schema.n_contexts) if cells is None else np.unique(cells.context).tolist()
    if given is None:
        return list(there)
    asked = list(dict.fromkeys(schema.context_of(name) for name in names(given, f"{said}(context=...)")))
    if not asked:
        raise DataError(f"{said}(context=[]) names no context; give one, or leave it out for all.")
    for c in asked:
        if c not in there:
            raise DataError(
                f"{said}(context={schema.contexts[c]!r}) is of none of the cells, whose contexts are "
                f"{few([schema.contexts[one] for one in there])}; give control cells of it."
            )
    return list(asked)


def one_context(given: str | None, schema: Schema, said: str) -> int | None:
    """Position of the one context that is asked for; None where there are none.

    Raises:
        DataError: There are several, and none is named.
    """
    found = contexts_asked(given, schema, None, said)
    if len(found) > 1:
        raise DataError(
            f"{said}() is asked in one context at a time; name it, as in context={schema.contexts[0]!r}, of "
            f"{few(schema.contexts)}."
        )
    return found[0]


def require_known_contexts(data: Trajectories, schema: Schema, said: str) -> None:
    """Refuses cells of contexts that a model's schema lacks; ``said`` is the expression that gave them.

    Raises:
        DataError: There are some.
    """
    known = data.schema.contexts[: schema.n_contexts] == schema.contexts
    if schema.contexts and known and (data.context >= schema.n_contexts).any():
        new = few(data.schema.contexts[schema.n_contexts :])
        raise DataError(
            f"{said} holds cells of context {new}, which training did not have; take "
            "posterior.adapt(controls) first, and ask what it returns."
        )


def of_context(cells: Trajectories | None, context: int | None) -> Trajectories | None:
    """The cells of a context; all of them where there are none."""
    if cells is None or context is None:
        return cells
    return cells.cells(np.flatnonzero(cells.context == context))


def named(contexts: Sequence[int | None], schema: Schema) -> list[str]:
    """Their names."""
    return [schema.contexts[c] for c in contexts if c is not None]
