"""One run of a program, and the comparison of two: by log density at equal values, so exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_citevae.data import Batch
from pyro_citevae.errors import ConformanceError
from pyro_citevae.infer.latent_sites import is_latent
from pyro_citevae.infer.substitute import Substitute
from pyro_citevae.program import LatentDynamics
from pyro_citevae.sites import INVARIANT, VALUES, state, step_of_state

__all__ = ["TOLERANCE", "Run", "plates", "require_same"]

TOLERANCE = 1e-4


@final
class Run:
    """The sites of one run of a model or a guide.

    Args:
        program: The model or the guide.
        batch: The cells.
        values: Values of sites that are not to be drawn.
        draws: Number of draws side by side; 0 for no plate of draws.
    """

    def __init__(
        self, program: nn.Module, batch: Batch, values: Mapping[str, Tensor] | None = None, draws: int = 0
    ) -> None:
        side_by_side: Any = pyro.plate("draw", draws, dim=-3) if draws else nullcontext()
        with (
            torch.no_grad(),
            Substitute(dict(values or {}), mean=False),
            side_by_side,
            poutine.trace() as tracer,
        ):
            self.returned = program(batch)
        sites: dict[str, Any] = tracer.trace.nodes
        self.program = program
        self.sites = {
            name: site
            for name, site in sites.items()
            if site["type"] == "sample" and not site_is_subsample(site)
        }

    @property
    def latent(self) -> dict[str, Any]:
        """The sites that a model and its guide share."""
        return {name: site for name, site in self.sites.items() if is_latent(site)}

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """What to give another run so that it draws nothing; a point mass follows from the rest."""
        return {
            name: site["value"]
            for name, site in self.sites.items()
            if (name == VALUES or not site["is_observed"]) and not _is_point(site["fn"])
        }

    @cached_property
    def densities(self) -> dict[str, Tensor]:
        """Log density of each site's value, with the axes of its plates."""
        return {name: site["fn"].log_prob(site["value"]) for name, site in self.sites.items()}

    def is_local(self, name: str) -> bool:
        """Whether every cell has its own value of a site."""
        return "cell" in plates(self.sites[name])

    def step_of(self, name: str) -> int:
        """The step that a cell's site belongs to by its name, such as ``z_2`` or ``r_2``; 0 for any other."""
        number = name.rpartition("_")[2]
        return int(number) if number.isdigit() and self.is_local(name) else 0

    def values_of(self, index: Int[Tensor, " chosen"]) -> dict[str, Tensor]:
        """The values, with cells taken at positions."""
        return {
            name: value.index_select(-1 - self.sites[name]["fn"].event_dim, index)
            if self.is_local(name)
            else value
            for name, value in self.values.items()
        }

    def densities_of(self, index: Int[Tensor, " chosen"]) -> dict[str, Tensor]:
        """The log densities, with cells taken at positions."""
        return {
            name: value[..., index] if self.is_local(name) else value
            for name, value in self.densities.items()
        }

    @staticmethod
    def side_by_side(runs: Sequence[Run]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Values and log densities of several runs, with an axis of draws left of the slots and the cells."""
        sites = runs[0].sites
        values = {
            name: _stacked([run.values[name] for run in runs], sites[name]["fn"].event_dim)
            for name in runs[0].values
        }
        return values, {name: _stacked([run.densities[name] for run in runs], 0) for name in sites}


def require_same(
    run: Run, before: Mapping[str, Float[Tensor, ...]], after: Mapping[str, Float[Tensor, ...]], when: str
) -> str:
    """Says how closely the log densities of sites agree.

    Raises:
        ConformanceError: A site's law differs; the text names who says it.
    """
    largest = 0.0
    for name in before:
        one, two = torch.broadcast_tensors(before[name], after[name])
        apart = torch.where(torch.isclose(one, two, TOLERANCE, TOLERANCE, equal_nan=True), 0.0, one - two)
        moved = float(apart.abs().nan_to_num(torch.inf).max()) if apart.numel() else 0.0
        if moved:
            raise ConformanceError(
                f"the law of '{name}' ({_teller(run.program, name)}) moves by {moved:.2g} in log density, "
                f"expected 0, {when}"
            )
        difference = (one - two).abs().nan_to_num(0.0, posinf=0.0)
        largest = max(largest, float(difference.max()) if difference.numel() else 0.0)
    return f"log densities agree to {largest:.1g}"


def plates(site: Any) -> dict[str, int]:
    """Names and sizes of the plates around a site."""
    return {frame.name: frame.size for frame in site["cond_indep_stack"] if frame.vectorized}


def _stacked(values: Sequence[Tensor], event_dim: int) -> Tensor:
    ones = (1,) * (2 + event_dim - values[0].dim())
    return torch.stack([value.reshape(*ones, *value.shape) for value in values])


def _is_point(law: Any) -> bool:
    while hasattr(law, "base_dist"):
        law = law.base_dist
    return isinstance(law, dist.Delta)


def _teller(program: nn.Module, site: str) -> str:
    """Who says the law of a site: a hook of the model, or the guide."""
    if not isinstance(program, LatentDynamics):
        return f"in {type(program).__name__}"
    known = {INVARIANT: "invariant", VALUES: "emission or observation", state(0): "initial"}
    hook = known.get(site, "mechanism or regime" if step_of_state(site) is None else "transition")
    return f"{type(program).__name__}.{hook}"
