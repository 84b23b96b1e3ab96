"""The hooks of a model, asked in turn: what each one returns is checked before the program uses it."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, final

from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from pyro_citevae.errors import CiteVAEError, HookError, OutOfRangeError, reason

if TYPE_CHECKING:
    from pyro_citevae.program import LatentDynamics

__all__ = ["Distribution", "Hooks", "Mechanism", "axes_refused", "failed", "plate_refused"]


class Mechanism(SimpleNamespace):
    """Values of the global sites, named by their symbols: ``Mechanism(W=W, a=a)``.

    Attributes:
        context: Position of each cell's context in ``schema.contexts``, of shape (cell,), where the data name
            contexts; None where cells are of no context in particular. The program sets it after
            ``mechanism()``, and :meth:`updated` keeps it.

    Example:
        >>> import torch
        >>> mechanism = Mechanism(m=torch.tensor([[0.0, 1.0], [2.0, 3.0]]))  # (context, program)
        >>> mechanism.context is None
        True
        >>> of_cells = mechanism.updated(context=torch.tensor([1, 1, 0]))
        >>> of_cells.m[..., of_cells.context, :].tolist()
        [[2.0, 3.0], [2.0, 3.0], [0.0, 1.0]]
    """

    context: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the mechanism has no '{name}'; mechanism() returned {', '.join(vars(self))}.")

    def updated(self, **values: Any) -> Mechanism:
        """A copy with some values added or replaced."""
        return Mechanism(**{**vars(self), **values})


@final
class Hooks:
    """A model's hooks under their own names, with what each returns checked.

    A law has the event shape that its hook promises, and a batch shape that broadcasts from the right
    against ``(cell,)`` for a state and ``(slot, cell)`` for the emission. One more axis on the left belongs
    to a plate of draws, and any further ones to the discrete sites that inference sums over.

    Args:
        model: The model that is asked.
        n_cells: Cells that its laws are for.
        n_slots: Observations that each has room for.

    Raises:
        HookError: A hook fails, or returns something else than it should; the sentence names the hook,
            what was expected and what came.
    """

    def __init__(self, model: LatentDynamics, n_cells: int = 1, n_slots: int = 1) -> None:
        self.model, self.n_cells, self.n_slots = model, n_cells, n_slots

    def mechanism(self) -> Mechanism:
        """The global values."""
        return self._mechanism("mechanism")

    def invariant(self) -> Distribution:
        """The law of s."""
        return self._law("invariant", "invariant", self.model.n_invariant)

    def initial(self, mechanism: Mechanism) -> Distribution:
        """The law of z_0."""
        return self._law("initial", "program", self.model.n_programs, mechanism)

    def regime(self, mechanism: Mechanism, t: int, u: Tensor) -> Mechanism:
        """The mechanism that holds in step t."""
        return self._mechanism("regime", mechanism, t, u)

    def transition(self, mechanism: Mechanism, history: Sequence[Tensor], u: Tensor) -> Distribution:
        """The law of z_t."""
        return self._law("transition", "program", self.model.n_programs, mechanism, history, u)

    def observation(
        self, mechanism: Mechanism, exposure: Tensor, step: Tensor, technical: Tensor
    ) -> Mechanism:
        """The mechanism as the emission sees it."""
        return self._mechanism("observation", mechanism, exposure, step, technical)

    def emission(self, mechanism: Mechanism, z: Tensor, s: Tensor, library: Tensor) -> Distribution:
        """The law of x."""
        return self._law("emission", "gene", self.model.schema.n_genes, mechanism, z, s, library)

    def _ask(self, hook: str, *given: Any) -> Any:
        """What a hook returns; a failure inside is told by the hook's name and line, its cause kept."""
        method = getattr(self.model, hook)
        try:
            return method(*given)
        except CiteVAEError:
            raise
        except Exception as error:
            handed = _shapes(dict(zip(inspect.signature(method).parameters, given, strict=False)))
            raise failed(self._name(hook), error, _advice(hook, error), handed) from error

    def _mechanism(self, hook: str, *given: Any) -> Mechanism:
        found = self._ask(hook, *given)
        if not isinstance(found, Mechanism):
            values = "Mechanism(W=W, ...), the values by their symbols" if not given else "mechanism"
            raise HookError(
                f"{self._name(hook)} returned {_kind(found)}, expected a Mechanism",
                f"end it with return {values}",
            )
        return found

    def _law(self, hook: str, axis: str, size: int, *given: Any) -> Distribution:
        law = self._ask(hook, *given)
        where = self._name(hook)
        if not isinstance(law, Distribution):
            raise HookError(
                f"{where} returned {_kind(law)}, expected a law of pyro.distributions",
                "end it with return dist.Normal(loc, scale).to_event(1), or another law",
            )
        event, batch = tuple(law.event_shape), tuple(law.batch_shape)
        if event != (size,):
            raise HookError(
                f"{where} returned a law of event shape {event}, expected ({axis},) = ({size},)",
                f"end it with .to_event(1), and let the {axis} be its parameters' last axis",
            )
        if not self._fits(batch, slots := self.n_slots if hook == "emission" else 1):
            cells = self.n_cells
            axes = f"(slot, cell) = ({slots}, {cells})" if hook == "emission" else f"(cell,) = ({cells},)"
            raise HookError(
                f"{where} returned a law of batch shape {batch}, expected {axes} or what broadcasts to it",
                "keep the axes of what the hook was given, and index them from the right",
            )
        return law

    def _fits(self, batch: tuple[int, ...], slots: int) -> bool:
        """Whether a law's batch shape broadcasts against (draw, slot, cell)."""
        axes = zip(reversed(batch), (self.n_cells, slots), strict=False)
        return all(size in (1, axis) for size, axis in axes) and (self.model.enumerated or len(batch) <= 3)

    def _name(self, hook: str) -> str:
        return f"{type(self.model).__name__}.{hook}"


def failed(where: str, error: Exception, mend: str, handed: str = "") -> HookError:
    """The error of what a user wrote, by its name and line.

    Args:
        where: What failed, such as ``"Mine.transition"``.
        error: How; training tells a value out of a law's range apart as divergence.
        mend: What to do, unless a value is out of range.
        handed: What it was given, in words.
    """
    told = (
        f"{where} failed{_place(error)}: {reason(error).rstrip('.:')}{handed and f'; it was given {handed}'}"
    )
    if _is_out_of_range(error):
        return OutOfRangeError(
            told,
            "make scales by cv.program.positive or softplus, and keep log, sqrt and division away from 0",
        )
    return HookError(told, mend)


def plate_refused(model: str, plate: str) -> HookError:
    """The error of a model's class whose ``mechanism`` opens a plate."""
    return HookError(
        f"{model}.mechanism opens the plate '{plate}'",
        "let each global site have event axes instead, as in dist.Normal(0.0, 1.0).expand([8]).to_event(1)",
    )


def axes_refused(model: str, site: str, batch: tuple[int, ...], event_dim: int) -> HookError:
    """The error of a model's class whose global site has axes that are no event."""
    return HookError(
        f"{model}.mechanism samples '{site}' with batch shape {batch}, expected event axes alone",
        f"end its law with .to_event({len(batch) + event_dim})",
    )


def _is_out_of_range(error: Exception) -> bool:
    """Whether a law refused a parameter or a value, which is no mistake of the hook's text."""
    inner = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    laws = ("torch.distributions.", "pyro.distributions.", "pyro_citevae.nn.")
    return isinstance(error, ValueError) and inner.startswith(laws)


def _kind(found: object) -> str:
    """A value's type as a person would say it."""
    return "nothing" if found is None else f"a {type(found).__module__}.{type(found).__qualname__}"


def _place(error: BaseException) -> str:
    """File and line of the hook that an error went through."""
    trace = error.__traceback__
    inside = trace.tb_next if trace else None
    if inside is None:
        return ""
    return f" at {Path(inside.tb_frame.f_code.co_filename).name}, line {inside.tb_lineno}"


def _advice(hook: str, error: Exception) -> str:
    """What to do about an error inside a hook."""
    if "already in the trace" in str(error):
        return "call parameters of the model otherwise than its sites"
    if "Multiple sample sites" in str(error):
        return "sample global sites in mechanism(), once each, and leave states and plates to the library"
    if isinstance(error, IndexError | ValueError) and hook == "transition":
        return "history holds the last min(t, n_lags) states, z_0 alone at step 1; ask for no more of them"
    if isinstance(error, IndexError):
        return "ask for no position that the hook was not given, such as a step after the last one"
    if isinstance(error, AttributeError):
        return "use what the hook is given, and return from mechanism() what the others need"
    if isinstance(error, TypeError):
        return "see the hook's arguments in help(LatentDynamics)"
    if not isinstance(error, RuntimeError):
        return "mend that line"
    return "index tensors from the right (u @ a, not a[0]), and keep the axes of what the hook was given"


def _shapes(given: Mapping[str, Any]) -> str:
    """Names and shapes of the tensors that a hook was handed."""
    said = []
    for name, value in given.items():
        if isinstance(value, Mechanism):
            said.append(_shapes(vars(value)))
        elif isinstance(value, Tensor):
            said.append(f"{name} {tuple(value.shape)}")
        elif isinstance(value, list):
            said.append(f"{name} of {len(value)} x {tuple(value[-1].shape)}")
    return ", ".join(part for part in said if part)
