"""Who watches a fit: loggers and callbacks of Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from pyro_citevae.errors import FitError

__all__ = ["Watching"]


@final
@dataclass(frozen=True)
class Watching:
    """Loggers, which get each row of the history, and callbacks, which Lightning calls as it trains.

    Attributes:
        loggers: The loggers.
        callbacks: The callbacks.
        passed: Steps that the fit has taken before these.
    """

    loggers: tuple[Logger, ...] = ()
    callbacks: tuple[Callback, ...] = ()
    passed: int = 0

    @classmethod
    def of(cls, logger: Any, callbacks: Any) -> Watching:
        """What a user hands to ``fit``: nothing, one, or several.

        Raises:
            FitError: One of them is no logger, or no callback, of Lightning.
        """
        made: dict[str, tuple[Any, ...]] = {}
        for argument, given, kind in (("logger", logger, Logger), ("callbacks", callbacks, Callback)):
            listed = [] if given is None or given is False else given
            several = isinstance(listed, Sequence) and not isinstance(listed, str)
            listed = list(listed) if several else [listed]
            for one in listed:
                if not isinstance(one, kind):
                    raise FitError(
                        f"fit({argument}=...) holds {one!r}, which is no {kind.__name__} of Lightning; give "
                        f"one of lightning.pytorch.{'loggers' if kind is Logger else 'callbacks'}."
                    )
            made[argument] = tuple(listed)
        return cls(made["logger"], made["callbacks"])

    def note(self, row: dict[str, float]) -> None:
        """Hands a row of the history to the loggers, under its step in the whole fit."""
        step = int(row["step"]) + self.passed
        metrics = {name: value for name, value in row.items() if name != "step" and value == value}  # not NaN
        for logger in self.loggers:
            logger.log_metrics(metrics, step=step)
            logger.save()
