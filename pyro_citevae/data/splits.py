"""What is held out of training: perturbations, combinations, times, contexts; saved as JSON with a hash."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from pyro_citevae.arguments import Names, names, numbers
from pyro_citevae.data.interventions import Dose, Schedule
from pyro_citevae.errors import DataError, reason
from pyro_citevae.shown import Shown

if TYPE_CHECKING:
    from pyro_citevae.data.trajectories import Trajectories

__all__ = ["Criterion", "Split", "matching_rows", "members_seen"]

_KEYS = {
    "perturbation": "perturbations",
    "combination": "combinations",
    "time": "times",
    "context": "contexts",
}
_ALWAYS = ("perturbations", "combinations", "times")


@dataclass(frozen=True)
class Criterion:
    """Observations of these perturbations or combinations, and at these times where times are named.

    Attributes:
        perturbations: Tokens; a combination that contains one is meant too.
        combinations: Exact combinations, such as ``"A+B"``.
        times: Times in the data's unit.
        contexts: Contexts, whose perturbed cells are meant: their controls tell what is known of a context.
    """

    perturbations: tuple[str, ...] = ()
    combinations: tuple[str, ...] = ()
    times: tuple[float, ...] = ()
    contexts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("perturbations", "combinations", "contexts"):
            object.__setattr__(self, name, names(getattr(self, name), f"Criterion({name}=...)"))
        object.__setattr__(self, "times", tuple(numbers(self.times, "Criterion(times=...)")))

    @classmethod
    def parse(cls, text: str) -> Criterion:
        """Reads ``perturbation=A,B``, ``time=5``, ``combination=A+B``, ``context=T cells``, or several.

        Raises:
            DataError: The text has another form.

        Example:
            >>> Criterion.parse("perturbation=PRDM14;time=5")
            Criterion(perturbations=('PRDM14',), combinations=(), times=(5.0,), contexts=())
        """
        found: dict[str, Any] = {}
        for part in text.split(";"):
            key, _, listed = part.partition("=")
            values = tuple(name.strip() for name in listed.split(",") if name.strip())
            if key.strip() not in _KEYS or _KEYS[key.strip()] in found or not values:
                raise DataError(
                    f"Split.parse('{text}') cannot be read at '{part}'; write 'perturbation=A,B', 'time=5', "
                    "'combination=A+B', 'context=T cells', or several of them joined by ';'."
                )
            found[_KEYS[key.strip()]] = values
        try:
            found["times"] = tuple(float(time) for time in found.get("times", ()))
            if not all(map(math.isfinite, found["times"])):
                raise ValueError
        except ValueError:
            raise DataError(f"Split.parse('{text}') needs numbers after 'time='.") from None
        return cls(**found)

    def __str__(self) -> str:
        named = {"perturbation": self.perturbations, "combination": self.combinations}
        named |= {"time": tuple(f"{time:g}" for time in self.times), "context": self.contexts}
        return ";".join(f"{key}={','.join(some)}" for key, some in named.items() if some)


@dataclass(frozen=True, repr=False)
class Split(Shown):
    """The union of criteria, and the hash of the observations that they held out.

    Attributes:
        criteria: What is held out.
        digest: SHA-256 of the criteria and of the held-out observations' names; empty before use.
    """

    criteria: tuple[Criterion, ...]
    digest: str = ""

    @classmethod
    def parse(cls, texts: Names) -> Split:
        """Reads one criterion a text."""
        return cls(tuple(Criterion.parse(text) for text in names(texts, "Split.parse(texts=...)")))

    @staticmethod
    def hash_of(criteria: tuple[Criterion, ...], observations: Sequence[str]) -> str:
        """The hash that a split carries once it was applied."""
        said = [_written(one) for one in criteria]
        content = json.dumps([said, sorted(observations)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def to_json(self) -> str:
        """The split as the text of a JSON file."""
        written = {"criteria": [_written(one) for one in self.criteria], "digest": self.digest}
        return json.dumps(written, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, content: str | bytes) -> Split:
        """Reads what :meth:`to_json` gave.

        Raises:
            DataError: It is something else.
        """
        try:
            value = json.loads(content)
            criteria = tuple(
                Criterion(**{key: tuple(one[key]) for key in {*_ALWAYS, *dict(one)}})
                for one in value["criteria"]
            )
            return cls(criteria, str(value["digest"]))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"this is no split ({reason(error)}).") from None

    def save(self, path: str | Path) -> None:
        """Writes the split as JSON."""
        Path(path).write_text(self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Split:
        """Reads a split that :meth:`save` wrote.

        Raises:
            DataError: The file is not a split.
        """
        try:
            return cls.from_json(Path(path).read_bytes())
        except (OSError, DataError) as error:
            raise DataError(
                f"'{path}' is not a split file ({reason(error).rstrip('.')}); write one with Split.save."
            ) from None

    def facts(self) -> dict[str, str]:
        """What is held out, and the hash once it was applied."""
        return {"held out": str(self) or "nothing", "digest": self.digest[:12] or "not yet applied"}

    def __str__(self) -> str:
        return " or ".join(str(one) for one in self.criteria)


def matching_rows(data: Trajectories, criterion: Criterion) -> Bool[np.ndarray, " observation"]:
    """Which observations of a data set a criterion names.

    Args:
        data: The cells.
        criterion: What is named.

    Raises:
        ScheduleError: A perturbation is unknown.
        DataError: A combination or a time is not in the data.
    """
    for token in criterion.perturbations:
        members = data.schema.schedule(token).tokens
        if len(members) > 1 and token not in data.schema.token_index:
            raise DataError(
                f"hold_out(perturbations=['{token}']) names a combination; hold it out with "
                f"combinations=['{token}'], "
                f"or every cell of its members with perturbations={list(members)}."
            )
        data.schema.require(Schedule((Dose(token),)))
    wanted = {data.schema.schedule(name).tokens for name in criterion.combinations}
    present = {one.tokens for one in data.conditions}
    for tokens in wanted - present:
        known = [one.label() for one in data.conditions if len(one.tokens) > 1]
        few = ", ".join(known[:3]) or "none"
        raise DataError(
            f"combination '{'+'.join(tokens)}' is not in the data, whose combinations are {few}"
            f"{' ...' if len(known) > 3 else ''}; name one that is."
        )
    chosen = np.array(
        [
            bool(set(one.tokens) & set(criterion.perturbations)) or one.tokens in wanted
            for one in data.conditions
        ]
    )
    rows = np.asarray(chosen[data.condition[data.row_cell]])
    there = np.ones(data.n_observations, dtype=bool)
    if criterion.contexts:
        wanted_contexts = [data.schema.context_of(name) for name in criterion.contexts]
        perturbed = np.array([not one.is_control for one in data.conditions])[data.condition]
        there = (perturbed & np.isin(data.context, wanted_contexts))[data.row_cell]
        if not (criterion.perturbations or criterion.combinations):
            rows = there
    if not criterion.times:
        return rows & there
    steps = np.array([data.schema.step_of(time) for time in criterion.times])
    missing = [time for time, t in zip(criterion.times, steps, strict=True) if t not in data.row_step]
    if missing:
        raise DataError(f"time {missing[0]:g} is not in the data; its times are {data.schema.times}.")
    at = np.isin(data.row_step, steps)
    named = criterion.perturbations or criterion.combinations or criterion.contexts
    return at & rows & there if named else at


def _written(criterion: Criterion) -> dict[str, Any]:
    """A criterion as JSON; what came later is left out where it is empty, so that digests stay."""
    found = asdict(criterion)
    return {key: value for key, value in found.items() if key in _ALWAYS or value}


def members_seen(combination: Schedule, training: Iterable[Schedule]) -> int:
    """How many members of a combination training has alone: its stratum, 0, 1 or 2 for a pair.

    Doses and times are left out of account. A member that training has only within other combinations is
    not seen.

    Args:
        combination: A schedule of two or more tokens.
        training: The schedules of the training data, such as ``train.conditions``.

    Raises:
        DataError: The schedule has fewer than two tokens.

    Example:
        >>> from pyro_citevae.data import do
        >>> members_seen(do("A+B"), [do(), do("A"), do("B+C")])
        1

    Source: Y. Roohani, K. Huang, J. Leskovec, Predicting transcriptional outcomes of novel multigene
    perturbations with GEARS (2023), whose splits are these strata.
    """
    if len(combination.tokens) < 2:
        raise DataError(f"members_seen({combination!r}) needs a combination of two tokens or more.")
    alone = {one.tokens[0] for one in training if len(one.tokens) == 1}
    return sum(token in alone for token in combination.tokens)
