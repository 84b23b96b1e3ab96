"""Whether a program looks at the contexts that the data name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import torch
from pyro import poutine
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.errors import CiteVAEWarning
from pyro_citevae.infer.drawn_rows import drawn_rows
from pyro_citevae.infer.latent_sites import few_rows
from pyro_citevae.program import LatentDynamics

__all__ = ["warn_if_contexts_are_unread"]


def warn_if_contexts_are_unread(model: LatentDynamics, guide: AmortizedGuide, batch: Batch) -> None:
    """Warns of a model none of whose hooks computes with ``mechanism.context`` though the data name contexts.

    Args:
        model: The generative program.
        guide: Its guide.
        batch: A few cells.
    """
    batch = batch.to(model.device)
    if batch.context is None:
        return
    with (
        torch.random.fork_rng(),
        torch.no_grad(),
        poutine.block(),
        drawn_rows(model, guide, few_rows(model, guide, batch)),
        _Watched(batch.context) as context,
    ):
        model(batch)
    if not context.read:
        kind, schema = type(model).__name__, model.schema
        warnings.warn(
            f"{kind} looks at no context, so that cells of all {schema.n_contexts} start, look and respond "
            "alike in its program; take a model that reads mechanism.context, such as CiteVAE by its "
            "argument contexts, or read the data without context=.",
            CiteVAEWarning,
            stacklevel=3,
        )


@final
class _Watched(TorchFunctionMode):
    """Notes whether an operation within is given a tensor.

    Args:
        tensor: The tensor.
    """

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor, self.read = tensor, False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs the operation."""
        self.read = self.read or any(one is self.tensor for one in _values((args, kwargs or {})))
        return func(*args, **(kwargs or {}))


def _values(given: Any) -> Iterator[Any]:
    """What an operation is given, an index's parts one by one."""
    if isinstance(given, Mapping):
        given = list(given.values())
    if not isinstance(given, list | tuple):
        yield given
        return
    for one in given:
        yield from _values(one)
