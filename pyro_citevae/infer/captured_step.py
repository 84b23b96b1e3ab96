"""A training step that is recorded once on a GPU and replayed: no part of it waits for Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from pyro_citevae.data.batch import Batch
from pyro_citevae.data.loading import Places
from pyro_citevae.data.resident_screen import ResidentScreen
from pyro_citevae.errors import CiteVAEWarning, reason
from pyro_citevae.infer.compiled_step import compiled, differentiated
from pyro_citevae.nn.fixed_shapes import fixed_shapes
from pyro_citevae.nn.host_reads import FilledNumbers, HostReads

__all__ = ["CapturedStep", "reads"]

_WARM_UP = 3  # steps before the recording, in which memory is taken and kernels are loaded
_KEPT = 100  # steps whose losses wait on the device


def reads(bound: Callable[[], Tensor], learnt: Sequence[Tensor]) -> list[str]:
    """What a step reads from its device, a sentence each; none if it can be recorded.

    Args:
        bound: Gives the loss of a minibatch.
        learnt: Parameters, whose gradients are dropped after.
    """
    devices = {one.device for one in learnt if one.is_cuda}
    apart = torch.random.fork_rng(devices=list(devices))
    with apart, torch.enable_grad(), fixed_shapes(), FilledNumbers(), HostReads() as found:
        bound().backward()
    for one in learnt:
        one.grad = None
    return found.found


@final
class CapturedStep:
    """A step on a screen that lies on the device: minibatch, bound, gradient, clipping and Adam's update.

    On a GPU it is recorded in a CUDA graph after a few steps, and replayed from then on. Where it cannot be
    recorded it is run as it stands. It is the same step either way, with the same draws. Losses and norms
    stay on the device until :meth:`told` reads them. A step whose loss or gradient is not a number changes
    nothing, nor does any after it.

    Args:
        screen: The cells.
        bound: The loss of a minibatch, with the weight of the latent sites' terms as a tensor.
        learnt: What has gradients after a step: parameters, and rows that the step took.
        optimizer: Adam of the parameters.
        clip: Largest norm of the gradient.
        record: Whether to record, where the screen lies on a GPU.

    Source: NVIDIA, CUDA Graphs (2019); torch.cuda.CUDAGraph.
    """

    def __init__(
        self,
        screen: ResidentScreen,
        bound: Callable[[Any, Tensor], Tensor],
        learnt: Callable[[], Sequence[Tensor]],
        optimizer: torch.optim.Adam,
        *,
        clip: float,
        record: bool,
    ) -> None:
        self.screen, self.learnt = screen, learnt
        self.differentiate = differentiated(self._bound)
        self.bound = bound
        self.optimizer, self.clip = optimizer, clip
        self.waiting: list[Places] = []  # minibatches whose losses nobody has read yet
        device = screen.value.device
        index, weight = screen.places(np.zeros(0, dtype=np.int64))
        self.index, self.weight = index.to(device), weight.to(device)
        self.kl_weight = torch.ones((), device=device)
        self.failed = torch.zeros((), device=device)
        self.kept = torch.zeros(_KEPT + 1, 2, device=device)
        self.n_kept = torch.zeros(1, dtype=torch.int64, device=device)
        self.record, self.graph, self.n_taken = record and device.type == "cuda", None, 0

    def __call__(self, places: Places, kl_weight: float) -> None:
        """Takes a step on a minibatch.

        Args:
            places: Its cells.
            kl_weight: Weight of the latent sites' terms.
        """
        given_places = self.screen.places(places.cells, places.weight)
        for held, given in zip((self.index, self.weight), given_places, strict=True):
            held.copy_(given.pin_memory() if held.is_cuda else given, non_blocking=True)
        self.kl_weight.fill_(kl_weight)
        if self.record and self.graph is None and self.n_taken == _WARM_UP:
            self._try_to_record()
        if self.graph is not None:
            self.graph.replay()
        else:
            with self._aside():
                self._step()
        self.n_taken += 1
        self.waiting.append(places)

    @property
    def is_full(self) -> bool:
        """Whether the losses have to be read before the next step."""
        return len(self.waiting) == _KEPT

    def told(self) -> list[tuple[Places, float, float]]:
        """Minibatch, loss and norm of the gradient of the steps since they were last told."""
        kept = self.kept[: len(self.waiting)].tolist() if self.waiting else []
        told = [(places, loss, norm) for places, (loss, norm) in zip(self.waiting, kept, strict=True)]
        self.n_kept.zero_()
        self.waiting.clear()
        return told

    def batch(self, places: Places) -> Batch:
        """A minibatch as the step sees it."""
        index, weight = self.screen.places(places.cells, places.weight)
        batch: Batch = self.screen(index.to(self.index.device), weight.to(self.index.device))
        return batch

    def _step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.differentiate(self.index, self.weight, self.kl_weight)
        with fixed_shapes(), FilledNumbers():
            learnt = self.learnt()
            norm = nn.utils.get_total_norm([one.grad for one in learnt if one.grad is not None])
            nn.utils.clip_grads_with_norm_(learnt, self.clip, norm)
            finite = torch.isfinite(loss) & torch.isfinite(norm)
            self.failed.copy_(torch.maximum(self.failed, 1.0 - finite.to(self.failed.dtype)))
            self.optimizer.found_inf = self.failed  # type: ignore[attr-defined]  # Adam then moves nothing
            self.optimizer.step()
            self.kept.index_copy_(0, self.n_kept, torch.stack([loss, norm]).to(self.kept.dtype)[None])
            self.n_kept.add_(1).clamp_(max=_KEPT)

    def compile(self, module: nn.Module) -> None:
        """Compiles bound and gradient; raises where there is no compiler.

        Args:
            module: What has the parameters.
        """
        some = np.arange(min(self.screen.size, self.screen.n_cells))
        index, weight = self.screen.places(some)
        self.differentiate = compiled(self._bound, module, index, weight, self.kl_weight.clone())

    def _bound(self, index: Tensor, weight: Tensor, kl_weight: Tensor) -> Tensor:
        return self.bound(self.screen(index, weight), kl_weight)

    def _aside(self) -> Any:
        """A stream beside the main one, on which torch wants the steps before a recording."""
        return _SideStream() if self.record and self.graph is None else nullcontext()

    def _try_to_record(self) -> None:
        """Records the step; where the device refuses, steps are run by themselves from here on."""
        try:
            self.graph = self._recorded()
        except RuntimeError as error:
            self.record = False
            warnings.warn(
                f"the device refused to record a step ({reason(error)}), so that each is run by itself, "
                'which is slower; fit(..., capture="never") does so without this warning.',
                CiteVAEWarning,
                stacklevel=2,
            )

    def _recorded(self) -> Any:
        """The step in a graph."""
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            self._step()
        return graph


class _SideStream:
    """Work on a stream of its own, after all that was asked before and before all that is asked after."""

    def __enter__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())
        self.inside = torch.cuda.stream(self.stream)
        self.inside.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.inside.__exit__(*error)
        torch.cuda.current_stream().wait_stream(self.stream)
