"""A minibatch: what a program sees of some cells; values stay as they are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pyro_citevae.data.observations import Observations, moved

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """What a program sees of a minibatch of cells.

    Attributes:
        size: Number N of cells in the data set that the minibatch stands for.
        index: Position of each cell in the data set.
        u: Dose of every token in the step that ends at t; row 0 is zero. Of data, they are
            :class:`~pyro_citevae.data.doses.Doses`.
        step: Latent step of each observation slot.
        observed: Which slots hold an observation.
        library: Library size of each slot (any positive number where nothing is observed).
        technical: Index of each cell's technical batch.
        x: Observed values, or None when the program only predicts.
        weight: What each cell's terms count in the bound; None for one each.
        context: Index of each cell's context; None where the data name none.
    """

    size: int
    index: Int[Tensor, " cell"]
    u: Float[Tensor, "step cell token"]
    step: Int[Tensor, "slot cell"]
    observed: Bool[Tensor, "slot cell"]
    library: Float[Tensor, "slot cell"]
    technical: Int[Tensor, " cell"]
    x: Observations | None
    weight: Float[Tensor, " cell"] | None = None
    context: Int[Tensor, " cell"] | None = None

    @property
    def n_cells(self) -> int:
        """Number of cells in the minibatch."""
        return self.index.shape[0]

    @property
    def n_steps(self) -> int:
        """Number of latent steps to walk."""
        return self.u.shape[0] - 1

    @cached_property
    def last(self) -> Int[Tensor, " cell"]:
        """Step of each cell's last observation; 0 for a cell without one."""
        return torch.where(self.observed, self.step, 0).amax(0)

    def reached(self, t: int) -> Bool[Tensor, " cell"]:
        """Which cells have an observation at step t or later."""
        return self.last >= t

    @cached_property
    def exposure(self) -> Float[Tensor, "slot cell token"]:
        """Dose summed over the steps up to each observation: dose times time, in steps."""
        cells = torch.arange(self.n_cells, device=self.step.device)
        return self.u.cumsum(0)[self.step, cells]

    def unobserved(self) -> Batch:
        """The same cells with nothing to condition on: what prediction runs the program on."""
        return replace(self, x=None, observed=torch.zeros_like(self.observed))

    def to(
        self, device: torch.device | str, non_blocking: bool = False, dtype: torch.dtype | None = None
    ) -> Batch:
        """Copies to a device, with real numbers of a type; as they are if None."""
        x = None if self.x is None else self.x.to(device, non_blocking, dtype)
        return self._mapped(lambda one: moved(one, device, non_blocking, dtype), x)

    def pin_memory(self) -> Batch:
        """Copies to memory that a GPU can read while the CPU goes on."""
        return self._mapped(Tensor.pin_memory, None if self.x is None else self.x.pin_memory())

    def _mapped(self, copy: Callable[[Tensor], Tensor], x: Observations | None) -> Batch:
        names = ("index", "u", "step", "observed", "library", "technical")
        copies: dict[str, Any] = {name: copy(getattr(self, name)) for name in names}
        for name in ("weight", "context"):
            value = getattr(self, name)
            copies[name] = None if value is None else copy(value)
        return Batch(size=self.size, x=x, **copies)
