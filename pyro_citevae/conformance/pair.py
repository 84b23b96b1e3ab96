"""A model and its guide, made for small simulated screens of every layout: what the laws are tried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias, cast, final, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data import Batch, Schema, Trajectories, simulate
from pyro_citevae.data.schema import Layout, Values
from pyro_citevae.data.trajectories import Observations
from pyro_citevae.errors import ConformanceError, ModelError
from pyro_citevae.infer import Posterior, fit
from pyro_citevae.infer.prediction import Substitute
from pyro_citevae.program import LatentDynamics

__all__ = ["Case", "MakeGuide", "MakeModel", "Pair", "dense", "name_of", "of_cells", "sparse"]

MakeModel: TypeAlias = Callable[[Schema], LatentDynamics]
MakeGuide: TypeAlias = Callable[[LatentDynamics], AmortizedGuide]


@dataclass(frozen=True, eq=False)
class Case:
    """A screen of one layout, with the model and the guide made for it.

    Every parameter is shaken from where it starts: a term that starts at zero would hide a mistake.
    """

    data: Trajectories
    model: LatentDynamics
    guide: AmortizedGuide

    @cached_property
    def batch(self) -> Batch:
        """The whole screen, standing for twice as many cells."""
        return replace(self.data.batch(), size=2 * self.data.n_cells)

    @property
    def posterior(self) -> Posterior:
        """The model and the guide as they are, without a fit."""
        return Posterior(self.model, self.guide, pd.DataFrame(), {})

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What training moves, by class and name."""
        return {
            f"{type(part).__name__}.{name}": value
            for part in (self.model, self.guide)
            for name, value in part.named_parameters()
            if value.requires_grad
        }

    def loss(self, batch: Batch, values: Mapping[str, Tensor] | None = None, **options: Any) -> Tensor:
        """The negative bound at given values of the guide's sites, from the same random numbers each time."""
        kind = TraceEnum_ELBO if self.model.enumerated else Trace_ELBO
        torch.manual_seed(0)
        with Substitute(dict(values or {}), mean=False):
            elbo: Any = kind(max_plate_nesting=2, **options)
            loss: Tensor = elbo.differentiable_loss(self.model, self.guide, batch)
        return loss

    def gradients(self, batch: Batch) -> dict[str, Tensor | None]:
        """The gradient of the negative bound by parameter; None where the bound does not depend on it.

        Raises:
            ConformanceError: The bound or a gradient is not finite.
        """
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise ConformanceError(f"the bound is {-loss.item()}, expected a finite number")
        found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        by_name: dict[str, Tensor | None] = dict(zip(self.parameters, found, strict=True))
        for name, gradient in by_name.items():
            if gradient is not None and not torch.isfinite(gradient).all():
                raise ConformanceError(
                    f"the gradient of {name} holds {_odd(gradient)}, expected finite numbers"
                )
        return by_name


@final
class Pair:
    """A way to make a model and a guide."""

    def __init__(self, make_model: MakeModel, make_guide: MakeGuide) -> None:
        self.make_model, self.make_guide = make_model, make_guide

    @cached_property
    def cases(self) -> list[Case]:
        """A case for each layout; of real values, if the model refuses counts."""
        try:
            return [self._case(_screen(layout, "counts")) for layout in get_args(Layout)]
        except ModelError:
            return [self._case(_screen(layout, "real")) for layout in get_args(Layout)]

    @cached_property
    def fitted(self) -> Posterior:
        """What one pass of training over the sequences gives."""
        case = self.cases[-1]
        return fit(case.model, case.guide, case.data, max_epochs=1, batch_size=16, progress=False)

    def _case(self, data: Trajectories) -> Case:
        torch.manual_seed(0)
        model = self.make_model(data.schema)
        _require_kind(model, LatentDynamics, f"{name_of(self.make_model)}(schema)")
        guide = self.make_guide(_shaken(model))
        _require_kind(guide, AmortizedGuide, f"{name_of(self.make_guide)}(model)")
        return Case(data, model, _shaken(guide))


def name_of(maker: Any) -> str:
    """The name of a class, or of a function that makes its instances."""
    return str(getattr(maker, "__name__", type(maker).__name__))


def of_cells(batch: Batch, index: Int[Tensor, " chosen"]) -> Batch:
    """The cells at positions of a batch, in the order given."""
    return replace(
        batch,
        index=batch.index[index],
        u=batch.u[:, index],
        step=batch.step[:, index],
        observed=batch.observed[:, index],
        library=batch.library[:, index],
        technical=batch.technical[index],
        x=sparse(dense(batch)[:, index]),
    )


def dense(batch: Batch) -> Float[Tensor, "slot cell gene"]:
    """The observed values of a batch that has some."""
    return cast(Observations, batch.x).dense


def sparse(values: Float[Tensor, "slot cell gene"]) -> Observations:
    """Values as a batch holds them."""
    slots, cells, genes = values.shape
    rows = values.reshape(slots * cells, genes)
    row, gene = rows.nonzero(as_tuple=True)
    return Observations(row, gene, rows[row, gene], (slots, cells, genes))


def _screen(layout: Layout, values: Values) -> Trajectories:
    """Two dozen cells in two technical batches; a sequence lacks some of its times."""
    data = simulate(
        n_cells=24,
        n_genes=6,
        n_programs=2,
        n_perturbations=3,
        n_steps=3,
        combinations=("gene_0+gene_1",),
        layout=layout,
        values=values,
    ).data
    schema = replace(data.schema, batches=("one", "two"))
    data = replace(data, schema=schema, technical=np.arange(data.n_cells) % 2)
    return data.rows((data.row_cell % 3 > 0) | (data.row_step != 2) | (layout != "sequences"))


def _shaken(module: Any) -> Any:
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return module.eval()


def _require_kind(made: object, abstract: type, said: str) -> None:
    if not isinstance(made, abstract):
        raise ConformanceError(f"{said} is a {type(made).__name__}, expected a {abstract.__name__}")


def _odd(values: Tensor) -> float:
    return float(values[~torch.isfinite(values)][0])
