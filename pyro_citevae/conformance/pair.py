"""What the laws are tried on: a model and its guide, made for a small screen of every study design."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias, cast, final, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.conformance.run import Run
from pyro_citevae.data import Batch, Schema, Trajectories, simulate
from pyro_citevae.data.observations import Observations, SparseObservations
from pyro_citevae.data.schema import StudyDesign, Values
from pyro_citevae.errors import ConformanceError, ModelError
from pyro_citevae.infer import Posterior, fit
from pyro_citevae.infer.bounds import negative_bound
from pyro_citevae.infer.substitute import Substitute
from pyro_citevae.program import LatentDynamics

__all__ = ["Case", "MakeGuide", "MakeModel", "Pair", "dense", "of_cells", "sparse"]

_SHAKE = 0.03
_KINDS: Sequence[tuple[Values, tuple[int, ...]]] = (("counts", ()), ("real", ()), ("real", (1, 2, 3)))

MakeModel: TypeAlias = Callable[[Schema], LatentDynamics]
MakeGuide: TypeAlias = Callable[[LatentDynamics], AmortizedGuide]


@dataclass(frozen=True, eq=False)
class Case:
    """A screen of one study design, with the model and the guide made for it.

    Every parameter is shaken from where it starts: a term that starts at zero would hide a mistake.
    """

    data: Trajectories
    model: LatentDynamics
    guide: AmortizedGuide

    @property
    def name(self) -> str:
        """Its study design, and whether it has contexts."""
        schema = self.data.schema
        return schema.design + (f" of {schema.n_contexts} contexts" if schema.contexts else "")

    @cached_property
    def batch(self) -> Batch:
        """The whole screen, standing for twice as many cells."""
        return replace(self.data.batch(), size=2 * self.data.n_cells)

    @cached_property
    def drawn(self) -> Run:
        """A run of the model."""
        return Run(self.model, self.batch)

    @cached_property
    def guided(self) -> Run:
        """A run of the guide."""
        return Run(self.guide, self.batch)

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

    def bound(self, batch: Batch, values: Mapping[str, Tensor] | None = None, particles: int = 1) -> Tensor:
        """The evidence lower bound at given values of the guide's sites, from the same seed each time."""
        negative = negative_bound(self.model, self.guide, "elbo", alpha=0.0, particles=particles)
        torch.manual_seed(0)
        with Substitute(dict(values or {}), mean=False):
            bound: Tensor = -negative(batch)
        return bound

    def gradients(self, batch: Batch) -> dict[str, Tensor | None]:
        """The gradient of the bound by parameter; None where the bound does not depend on it.

        Raises:
            ConformanceError: The bound or a gradient is not finite.
        """
        bound = self.bound(batch)
        if not torch.isfinite(bound):
            raise ConformanceError(f"the bound is {bound.item()}, expected a finite number")
        found = torch.autograd.grad(bound, list(self.parameters.values()), allow_unused=True)
        by_name: dict[str, Tensor | None] = dict(zip(self.parameters, found, strict=True))
        for name, gradient in by_name.items():
            if gradient is not None and not torch.isfinite(gradient).all():
                raise ConformanceError(
                    f"the gradient of {name} holds {_odd(gradient)}, expected finite numbers"
                )
        return by_name


@final
class Pair:
    """A way to make a model and a guide, one of which is checked.

    Args:
        make_model: The model's class, or a function of the schema.
        make_guide: The guide's class, or a function of the model.
        of_guide: Whether it is the guide that is checked.
    """

    def __init__(self, make_model: MakeModel, make_guide: MakeGuide, *, of_guide: bool = False) -> None:
        self.make_model, self.make_guide, self.of_guide = make_model, make_guide, of_guide

    @cached_property
    def cases(self) -> list[Case]:
        """A case for each study design: of counts, or what the model takes: real values, images."""
        *first, last = _KINDS
        for kind in first:
            with suppress(ModelError):
                return [self._case(_screen(design, *kind)) for design in get_args(StudyDesign)]
        return [self._case(_screen(design, *last)) for design in get_args(StudyDesign)]

    @property
    def subject(self) -> str:
        """The class that is checked."""
        return self._names[self.of_guide]

    @property
    def partner(self) -> str:
        """The class that it is checked with."""
        return self._names[not self.of_guide]

    @cached_property
    def fitted(self) -> Posterior:
        """What one pass of training over the sequences gives."""
        case = self.cases[-1]
        return fit(case.model, case.guide, case.data, max_epochs=1, batch_size=16, progress=False)

    @property
    def _names(self) -> tuple[str, str]:
        """The classes of the model and the guide, or what should have made them."""
        if "cases" in vars(self):
            return type(self.cases[0].model).__name__, type(self.cases[0].guide).__name__
        return _maker(self.make_model), _maker(self.make_guide)

    def _case(self, data: Trajectories) -> Case:
        torch.manual_seed(0)
        model = self.make_model(data.schema)
        _require_kind(model, LatentDynamics, f"{_maker(self.make_model)}(schema)")
        guide = self.make_guide(_shaken(model))
        _require_kind(guide, AmortizedGuide, f"{_maker(self.make_guide)}(model)")
        return Case(data, model, _shaken(guide))


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
        context=None if batch.context is None else batch.context[index],
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
    return SparseObservations(row, gene, rows[row, gene], (slots, cells, genes))


def _screen(design: StudyDesign, values: Values, image: tuple[int, ...]) -> Trajectories:
    """Two dozen cells in two technical batches; a sequence lacks some of its times.

    A time course has two contexts, and the others name none. With an image, the six genes are the values of
    two pixels.
    """
    data = simulate(
        n_cells=24,
        n_genes=6,
        n_programs=2,
        n_perturbations=3,
        n_steps=3,
        combinations=("gene_0+gene_1",),
        design=design,
        values=values,
    ).data
    place, contexts = np.arange(data.n_cells), ("left", "right") if design == "time course" else ()
    schema = replace(data.schema, batches=("one", "two"), image=image, contexts=contexts)
    data = replace(data, schema=schema, technical=place % 2, context=place // 2 % max(1, len(contexts)))
    return data.rows((data.row_cell % 3 > 0) | (data.row_step != 2) | (design != "sequences"))


def _maker(given: Any) -> str:
    return str(getattr(given, "__name__", type(given).__name__))


def _shaken(module: Any) -> Any:
    with torch.no_grad():
        for value in module.parameters():
            value.add_(_SHAKE * torch.randn_like(value))
    return module.eval()


def _require_kind(made: object, abstract: type, said: str) -> None:
    if not isinstance(made, abstract):
        raise ConformanceError(
            f"{said} is a {type(made).__name__}, expected a subclass of {abstract.__name__}"
        )


def _odd(values: Tensor) -> float:
    return float(values[~torch.isfinite(values)][0])
