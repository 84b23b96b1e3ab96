"""Where a bound that is not a number came from: the site, the parameter, and the cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.errors import DivergenceError
from pyro_citevae.program import LatentDynamics

__all__ = ["divergence"]

_SHOWN = 3


def divergence(
    what: str, when: str, model: LatentDynamics, guide: AmortizedGuide, batch: Batch, names: np.ndarray
) -> DivergenceError:
    """The error that says where the trouble began.

    Args:
        what: What is not a number, such as ``"bound became nan"``.
        when: At which step and epoch.
        model: The model as it stands.
        guide: The guide as it stands.
        batch: The minibatch.
        names: Names of the cells of the whole data.
    """
    site, bad = _first_site(model, guide, batch)
    cells = names[batch.index.cpu().numpy()[bad]]
    shown = ", ".join(map(str, cells[:_SHOWN])) + (" and others" if len(cells) > _SHOWN else "")
    return DivergenceError(
        f"the {what} {when}: first at {site}, parameter {_first_parameter(model, guide)}, cells {shown}; "
        "lower learning_rate, or look at those cells. The last good epoch is in the error's last_good."
    )


def _first_site(model: LatentDynamics, guide: AmortizedGuide, batch: Batch) -> tuple[str, np.ndarray]:
    """The first site whose value or log probability is not finite, and the cells where it is not."""
    everywhere = np.ones(batch.n_cells, dtype=bool)
    with torch.no_grad(), pyro.validation_enabled(False):
        for part, name, node in _sites(model, guide, batch):
            density = node["fn"].log_prob(node["value"])
            wrong = ~torch.isfinite(density)
            if wrong.any():
                local = wrong.shape[-1:] == (batch.n_cells,)
                cells = wrong.reshape(-1, batch.n_cells).any(0).cpu().numpy() if local else everywhere
                return f"site '{name}' of {type(part).__name__}", cells
    return "no site: the gradient alone is not finite", everywhere


def _sites(
    model: LatentDynamics, guide: AmortizedGuide, batch: Batch
) -> Iterator[tuple[nn.Module, str, dict[str, Any]]]:
    guided: Any = poutine.trace(guide).get_trace(batch)
    yield from ((guide, name, node) for name, node in guided.nodes.items() if _is_continuous(node))
    modelled: Any = poutine.trace(poutine.replay(model, trace=guided)).get_trace(batch)
    yield from ((model, name, node) for name, node in modelled.nodes.items() if _is_continuous(node))


def _is_continuous(node: dict[str, Any]) -> bool:
    return bool(node["type"] == "sample") and isinstance(node["value"], Tensor) and node["name"] != "cell"


def _first_parameter(model: LatentDynamics, guide: AmortizedGuide) -> str:
    """The first parameter that is not finite, or whose gradient is not; else the one with the largest."""
    named = [
        (f"{part}.{name}", parameter)
        for part, module in (("model", model), ("guide", guide))
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    ]
    for what, values in (("value", [p.data for _, p in named]), ("gradient", [p.grad for _, p in named])):
        for (name, _), value in zip(named, values, strict=True):
            if value is not None and not torch.isfinite(value).all():
                return f"'{name}' (its {what} is not finite)"
    largest, value = max(named, key=lambda one: float(one[1].detach().abs().max()))
    return f"'{largest}' (the largest, {float(value.detach().abs().max()):.3g})"
