"""A step's bound and gradient, compiled for the CPU: traced once through the program, then without Python."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import stateless

from pyro_citevae.environment import unless_set
from pyro_citevae.nn.fixed_shapes import fixed_shapes
from pyro_citevae.nn.host_reads import FilledNumbers

__all__ = ["Differentiated", "compiled", "differentiated", "pays"]

Differentiated = Callable[..., Tensor]

_SECONDS = 90.0  # that compiling takes on a core
_SPARED = 0.35  # share of a step's time
_OF_A_STEP, _OF_A_VALUE = 0.01, 8e-8  # seconds of a step on a core: as such, and for each cell and gene


def pays(n_steps: int, n_values: int) -> bool:
    """Whether a fit is so long that compiling its step spares twice the time that it takes.

    It is told by sizes alone, so that the same fit is run the same way on every machine.

    Args:
        n_steps: Steps of the fit.
        n_values: Cells of a minibatch times genes.

    Example:
        >>> pays(7_000, 128 * 2_000), pays(7_000, 256 * 8_000)
        (False, True)
    """
    return n_steps * (_OF_A_STEP + _OF_A_VALUE * n_values) * _SPARED > 2 * _SECONDS


def differentiated(bound: Callable[..., Tensor]) -> Differentiated:
    """The loss, whose gradient is left at the parameters.

    Args:
        bound: Gives the loss of tensors.
    """

    def run(*given: Tensor) -> Tensor:
        with fixed_shapes(), FilledNumbers():
            loss = bound(*given)
            loss.backward()
        return loss.detach()

    return run


def compiled(bound: Callable[..., Tensor], module: nn.Module, *given: Tensor) -> Differentiated:
    """The same, traced with these tensors and compiled; draws are those of the plain step.

    The program runs once, with Pyro's handlers, and leaves a graph of plain operations. The compiler keeps
    what it has made in the user's cache folder, so that the next fit of a like program starts at once.

    Args:
        bound: Gives the loss of tensors; it refers to the module's parameters.
        module: What has the parameters.
        *given: Tensors of the shapes of every later call.

    Raises:
        Exception: There is no C++ compiler, or an operation that cannot be compiled.

    Source: J. Ansel et al., PyTorch 2 (2024), for the compiler.
    """
    import torch._inductor as inductor

    learnt = {name: one for name, one in module.named_parameters() if one.requires_grad}
    names = list(learnt)
    used: list[int] = []

    def step(*flat: Tensor) -> list[Tensor]:
        leaves = [one.detach().requires_grad_() for one in flat[: len(names)]]
        swapped = stateless._reparametrize_module(module, dict(zip(names, leaves, strict=True)))
        with swapped, fixed_shapes(), FilledNumbers(), torch.enable_grad():
            loss = bound(*flat[len(names) :])
            found = torch.autograd.grad(loss, leaves, allow_unused=True)
        used[:] = [i for i, one in enumerate(found) if one is not None]
        return [loss.detach(), *(one for one in found if one is not None)]

    held = [one.detach() for one in learnt.values()]
    kept = unless_set("TORCHINDUCTOR_CACHE_DIR", _users_folder())
    with torch.random.fork_rng(devices=[]), torch.no_grad(), kept:
        graph = make_fx(step)(*held, *given)
        run = inductor.compile(graph, [*held, *given], options={"fallback_random": True})
        run(*held, *given)

    def differentiate(*given: Tensor) -> Tensor:
        with torch.no_grad():
            loss, *gradients = run(*held, *given)
        for i, gradient in zip(used, gradients, strict=True):
            # a compiler chooses strides, and Adam reads a gradient as its parameter lies
            learnt[names[i]].grad = gradient.contiguous()
        made: Tensor = loss
        return made

    return differentiate


def _users_folder() -> str:
    """Where the compiler keeps its work, so that the next process finds it."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str(base / "pyro-citevae" / "compiled")
