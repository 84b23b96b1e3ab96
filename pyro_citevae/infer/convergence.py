"""When a fit is done: how long the step size stays, when it begins to fall, and what that is known from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

__all__ = ["Convergence", "last_stretch", "steps_of_screen"]

_LEAST_STEPS = 2000  # at the full step size
_FALL = 1000  # steps over which it falls
_LOOKED_AT = 1000  # steps whose bound says whether it still rises
_LOOK_EVERY = 100
_NOISE = 3.0  # standard errors that a rise must exceed
_MOST_STEPS, _MOST_PASSES = 7000, 3
_LAST_STRETCH = 1000


def steps_of_screen(n_batches: int) -> int:
    """The most steps that a fit takes by default: 7,000, or three passes over a screen that is larger.

    Args:
        n_batches: Minibatches in a pass over the cells.

    Example:
        >>> steps_of_screen(10), steps_of_screen(10_000)
        (7000, 30000)
    """
    return max(_MOST_STEPS, _MOST_PASSES * n_batches)


def last_stretch(most_steps: int) -> int:
    """Steps of them that a fit takes in the end on all cells, those that it had held back among them.

    Args:
        most_steps: The most steps of the fit.

    Example:
        >>> last_stretch(7000), last_stretch(400)
        (1000, 100)
    """
    return min(_LAST_STRETCH, most_steps // 4)


@final
@dataclass
class Convergence:
    r"""The step size over a fit that lasts until the bound has stopped rising.

    ::

        step size = eta                                              until the bound has stopped rising
                    eta (1 + cos(pi (step - start) / length)) / 2    from then on, to zero

    The bound has stopped where its mean over the last 500 steps exceeds that over the 500 before by no more
    than three standard errors of the difference. With a fixed number of epochs the step size falls from the
    first step on, and nothing is asked of the bound.

    Args:
        most_steps: Steps after which a fit ends, whether the bound still rises or not.
        fixed: Whether these steps are taken in any case, with a step size that falls from the first on.

    Attributes:
        start: Step at which the step size begins to fall; None before it is known.
        rising: What the bound gained over the last 500 steps when the fall began for lack of steps, in nats a
            cell; None where it had stopped rising.
        losses: The training bound of the last steps, in nats a cell.

    Source: S. Hu et al., MiniCPM (2024), for the schedule of warm-up, stable step size and fall.

    Example:
        >>> course = Convergence(6000)
        >>> for step in range(2000):
        ...     course.note(step, bound=-100.0 + (step % 7))
        >>> course.start, course.rising, course.is_done(2999), course.is_done(3000)
        (2000, None, False, True)
    """

    most_steps: int
    fixed: bool = False
    start: int | None = None
    rising: float | None = None
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.fixed or self.most_steps < 2:
            self.start = 0

    @property
    def length(self) -> int:
        """Steps over which the step size falls."""
        if self.fixed:
            return max(1, self.most_steps)
        return max(1, min(_FALL, self.most_steps // 3))

    @property
    def least_steps(self) -> int:
        """Steps that a fit takes at least."""
        return min(self.most_steps, _LEAST_STEPS + _FALL)

    def factor(self, step: int) -> float:
        """The step size of a step, as a share of the first one."""
        if self.start is None or step < self.start:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - self.start) / self.length)))

    def asks(self, step: int) -> bool:
        """Whether the bounds up to this step may decide something, so that they have to be noted by now."""
        if self.start is not None:
            return False
        taken = step + 1
        return taken >= self.most_steps - self.length or (taken >= _LEAST_STEPS and taken % _LOOK_EVERY == 0)

    def note(self, step: int, bound: float) -> None:
        """Takes in the bound of a step, and decides whether the fall begins with the next one."""
        if self.start is not None:
            return
        self.losses.append(bound)
        del self.losses[:-_LOOKED_AT]
        taken, asked = step + 1, self.asks(step)
        if taken >= self.most_steps - self.length:
            self.start = taken
            gain, noise = self._gain()
            self.rising = gain if gain > _NOISE * noise else None
        elif asked:
            gain, noise = self._gain()
            if gain <= _NOISE * noise:
                self.start = taken

    def is_done(self, steps: int) -> bool:
        """Whether so many steps are all."""
        return self.start is not None and steps >= self.start + self.length

    def _gain(self) -> tuple[float, float]:
        """What the bound gained from one half of the last steps to the other, and its standard error."""
        before, after = np.array_split(np.array(self.losses), 2)
        if len(before) < 2 or len(after) < 2:
            return 0.0, 0.0
        error = math.sqrt(before.var(ddof=1) / len(before) + after.var(ddof=1) / len(after))
        return float(after.mean() - before.mean()), error

    def state(self) -> dict[str, Any]:
        """What a fit that goes on needs."""
        return {"start": self.start, "rising": self.rising, "losses": list(self.losses)}

    def resume(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state` gave."""
        self.start, self.rising, self.losses = state["start"], state["rising"], list(state["losses"])
