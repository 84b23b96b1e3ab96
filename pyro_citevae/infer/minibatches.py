"""Where the minibatches of a fit come from, and which cells it holds back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any, cast, final

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import Sampler

from pyro_citevae.data.batch import Batch
from pyro_citevae.data.loading import loader, places
from pyro_citevae.data.samplers import Balanced, Blocks, Passes, Share, balance, in_order, uniform
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import FitError
from pyro_citevae.infer.fit_settings import FitSettings
from pyro_citevae.infer.processes import World

__all__ = ["Loaders", "given", "loaders"]

_STRETCH = 64  # neighbouring cells that are held out together
_STEPS_A_ROUND = 100  # between looks at the held-out bound, and records of the history
_MOST_MEASURED = 1000  # cells of the held-out bound, where it decides nothing


@final
@dataclass(frozen=True)
class Loaders:
    """Where minibatches come from.

    Attributes:
        training: The minibatches of an epoch, anew each time they are iterated.
        places: The same by their cells alone, for a screen that lies on the device; None where there is none.
        held_out: Minibatches on which the bound is measured; None for none.
        generator: What the order of the training minibatches is drawn from, if it is ours.
        unseen: Positions of the cells that the fit does not see.
        passes: Passes over the cells in what is one epoch for the loader.
        ours: Whether minibatches are drawn here, by the settings.
    """

    training: Any
    places: Any = None
    held_out: Iterable[Batch] | None = None
    generator: torch.Generator | None = None
    unseen: Int[np.ndarray, " held_out"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    passes: int = 1
    ours: bool = True

    @property
    def n_batches(self) -> int:
        """Minibatches in an epoch."""
        return max(1, len(self.training))


def loaders(data: Trajectories, settings: FitSettings, together: World) -> Loaders:
    """The minibatches that the settings say, or a process's share of them."""
    backed = data.stored.in_file
    kind = ("blocks" if backed else "uniform") if settings.sampler == "auto" else settings.sampler
    training, unseen = _partition(data, settings, by_place=kind == "blocks")
    generator = torch.Generator().manual_seed(settings.seed)
    size, n = settings.minibatch(len(training)), together.size
    if size % n:
        raise FitError(
            f"fit(batch_size={size}) cannot be shared evenly by {n} processes; give a multiple of {n}."
        )
    batches: Sampler[list[int]]
    weight = None
    if kind == "blocks":
        batches = Blocks(data.place[training], size, generator, shares=n)
    elif kind == "balanced":
        weight = balance(data.condition[training])
        batches = Balanced(data.condition[training], size, generator)
    else:
        batches = uniform(len(training), size, generator)
    # with passes given the bound of all of them may end the fit
    measured = unseen if settings.max_epochs is not None else unseen[:_MOST_MEASURED]
    in_turn: Sampler[list[int]] = in_order(len(measured), size)
    if n > 1:
        batches, in_turn = Share(batches, together.rank, n), Share(in_turn, together.rank, n)
    passes = 1
    if settings.max_epochs is None:
        passes = max(1, _STEPS_A_ROUND // max(1, len(cast(Sized, batches))))
        batches = Passes(batches, passes)
    pin = settings.accelerator != "cpu" and torch.cuda.is_available()
    held_out = loader(data, measured, in_turn, pin_memory=pin) if len(measured) else None
    drawn = loader(data, training, batches, weight=weight, pin_memory=pin)
    by_place = None if backed or n > 1 else places(training, batches, weight=weight)
    return Loaders(drawn, by_place, held_out, generator, unseen, passes)


def given(batches: Iterable[Batch], settings: FitSettings, together: World) -> Loaders:
    """Minibatches that the caller makes."""
    if settings.validation > 0:
        raise FitError(
            "fit(batches=...) trains on all it is given, so that no cells are left to measure the held-out "
            "bound; pass validation=0."
        )
    if together.size > 1:
        raise FitError("fit(batches=...) trains in one process; leave batches= out for several.")
    if not isinstance(batches, Sized) or isinstance(batches, Iterator) or len(batches) == 0:
        raise FitError(
            f"fit(batches={type(batches).__name__}) must have a length and give an epoch anew each time it "
            "is iterated; give a list, a DataLoader, or a class with __len__ and __iter__."
        )
    return Loaders(_Epochs(batches), ours=False)


@final
class _Epochs:
    """Minibatches that the caller makes; Lightning would take a list of them for several loaders."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def _partition(
    data: Trajectories, settings: FitSettings, *, by_place: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training and of the validation cells; by place, whole stretches of the file."""
    rng = np.random.default_rng(settings.seed)
    if by_place:
        n_unseen = int(settings.validation * data.n_cells)
        stretches = np.array_split(np.argsort(data.place, kind="stable"), max(1, data.n_cells // _STRETCH))
        order = np.concatenate([stretches[i] for i in rng.permutation(len(stretches))])
        unseen = order[:n_unseen]
        return order[n_unseen:], unseen[np.argsort(data.place[unseen], kind="stable")]
    if settings.validation == 0:
        return np.arange(data.n_cells), np.zeros(0, dtype=np.int64)
    # the same share of every group: cells in a random order within their group, counted along all groups
    last = np.full(data.n_cells, 0)
    np.maximum.at(last, data.row_cell, data.row_step)
    order = np.lexsort((rng.random(data.n_cells), last, data.condition))
    place = np.empty(data.n_cells)
    place[order] = np.arange(data.n_cells) + rng.random()
    chosen = np.floor(place * settings.validation) != np.floor((place - 1) * settings.validation)
    chosen &= ~_alone(data.condition, last)
    return np.flatnonzero(~chosen), rng.permutation(np.flatnonzero(chosen))


def _alone(condition: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Cells that have their group to themselves, which the fit must see to know of it."""
    _, group, n = np.unique(np.stack([condition, last], 1), axis=0, return_inverse=True, return_counts=True)
    return np.asarray(n[group.ravel()] < 2)
