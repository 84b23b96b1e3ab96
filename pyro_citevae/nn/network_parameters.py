"""Parameters of networks as sites of a Pyro program: where somebody reads them, and not where nobody does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pyro.nn import PyroModule

__all__ = ["NetworkModule", "without_network_parameters"]

_ARE_SITES: ContextVar[bool] = ContextVar("pyro_citevae_network_parameters", default=True)


@contextmanager
def without_network_parameters() -> Iterator[None]:
    """Lets programs hand on their networks as they are, with no site for each of their parameters.

    Pyro makes a ``param`` site of every parameter of a network, each time that a program asks for the
    network. Who takes gradients by ``module.parameters()`` reads none of them, and they cost a small step
    as much as its transitions do.

    Example:
        >>> import torch
        >>> from pyro import poutine
        >>> class Program(NetworkModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.map = torch.nn.Linear(1, 1)
        ...     def forward(self):
        ...         return self.map(torch.zeros(1))
        >>> program = Program()
        >>> len(poutine.trace(program).get_trace().param_nodes)
        2
        >>> with without_network_parameters():
        ...     len(poutine.trace(program).get_trace().param_nodes)
        0
    """
    token = _ARE_SITES.set(False)
    try:
        yield
    finally:
        _ARE_SITES.reset(token)


class NetworkModule(PyroModule):
    """A Pyro program that holds networks which are plain torch modules."""

    def __getattr__(self, name: str) -> Any:
        if not _ARE_SITES.get():
            network = self.__dict__.get("_modules", {}).get(name)
            if network is not None and not isinstance(network, PyroModule):
                return network
        return super().__getattr__(name)
