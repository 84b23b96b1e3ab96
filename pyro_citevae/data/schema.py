"""Names, order and sizes of everything a model's tensors are indexed by."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import warnings
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64

from pyro_citevae.data.interventions import Dose, Schedule
from pyro_citevae.errors import DataError, ScheduleError, few
from pyro_citevae.renamed import renamed_arguments
from pyro_citevae.shown import Shown

__all__ = ["OFF_GRID", "Schema", "StudyDesign", "Values"]

OFF_GRID = 1e-5
"""How far a time may lie from the end of a step, as a share of a step or of the time: that of rounding."""

StudyDesign = Literal["snapshot", "time course", "sequences"]
Values = Literal["counts", "real"]

_MOST_OF_LARGEST = 100.0  # beyond, nothing that cells show says anything of a dose
_IN_JSON = {"design": "layout"}  # what runs call it, whose digests must stay


@dataclass(frozen=True, repr=False)
class Schema(Shown):
    """What the axes of a screen mean.

    Time runs on a grid: step t ends at the time ``t * step`` in the data's unit, or at ``grid[t - 1]`` where
    steps are not equally long. Perturbations act from step 1 on, and step 0 is the state before any of them.

    Attributes:
        genes: Measured genes, in the order of the count matrix (dim ``gene``).
        tokens: Perturbations that have effects of their own (dim ``token``); a combination is two doses.
        control: Label of the unperturbed cells.
        times: Times at which cells were observed, sorted, in ``time_unit``.
        step: Length of one latent step, in ``time_unit``; with a grid, of those after it.
        time_unit: ``"day"``, ``"hour"``, or ``"step"`` when the data has no times.
        batches: Technical batches; one name when the data has none.
        design: How cells were observed: all once at one time, each once at its own time, or repeatedly.
        values: ``"counts"``, or ``"real"`` for a Gaussian emission.
        total: Median library size: the common total of normalised expression.
        panel_share: Mean share of the library size that the measured genes hold; 1 when they are all of it.
        grid: Times at which the latent steps 1, 2, ... end, when they are not equally long.
        image: Height, width and channels, where what is observed is an image and a gene a value of a pixel.
        dose_ranges: Smallest and largest amount of each token, where amounts have units of their own; empty
            where all are strengths between 0 and 1. A program sees an amount as a share of the largest.
        dose_unit: Unit of the amounts.
        contexts: Kinds of cells that a perturbation does not change; empty where the data name none.

    Raises:
        DataError: The grid does not increase from above 0, or the image has other values than genes.

    Example:
        >>> schema = Schema(("g",), ("A",), times=(6.0, 24.0), grid=(6.0, 24.0, 72.0), step=24.0)
        >>> schema.n_steps, schema.ends(4).tolist()
        (2, [0.0, 6.0, 24.0, 72.0, 96.0])
    """

    genes: tuple[str, ...]
    tokens: tuple[str, ...]
    control: str = "control"
    times: tuple[float, ...] = (1.0,)
    step: float = 1.0
    time_unit: str = "step"
    batches: tuple[str, ...] = ("all",)
    design: StudyDesign = "snapshot"
    values: Values = "counts"
    total: float = 1.0
    panel_share: float = 1.0
    grid: tuple[float, ...] = ()
    image: tuple[int, ...] = ()
    dose_ranges: tuple[tuple[float, float], ...] = ()
    dose_unit: str = ""
    contexts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = (0.0, *self.grid)
        if not all(before < after < math.inf for before, after in pairwise(known)):
            raise DataError(
                f"the grid {self._grid_name} does not increase from above 0; give the times at which the "
                "latent steps end."
            )
        if self.image and (len(self.image) != 3 or math.prod(self.image) != len(self.genes)):
            raise DataError(
                f"Schema(image={self.image}) does not have {len(self.genes)} values, one a gene; give "
                "height, width and channels."
            )

    def facts(self) -> dict[str, str]:
        """Design, sizes and the first names of each axis."""
        return {
            "design": self.design,
            "values": self.values,
            "genes": f"{self.n_genes:,}: {few(self.genes)}",
            "perturbations": f"{self.n_tokens:,}: {few(self.tokens) or 'none'}",
            "control": self.control,
            "times": f"{few([f'{time:g}' for time in self.times], 6)} {self.time_unit}",
            "steps": str(self.n_steps),
            "batches": str(self.n_batches),
            **({"contexts": few(self.contexts)} if self.contexts else {}),
        }

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def n_tokens(self) -> int:
        """Number of perturbation tokens."""
        return len(self.tokens)

    @property
    def n_batches(self) -> int:
        """Number of technical batches."""
        return len(self.batches)

    @property
    def n_contexts(self) -> int:
        """Number of contexts; one where the data name none."""
        return max(1, len(self.contexts))

    def context_of(self, name: str) -> int:
        """Position of a context.

        Raises:
            DataError: There is no such context.

        Example:
            >>> Schema(("g",), ("A",), contexts=("B cells", "T cells")).context_of("T cells")
            1
        """
        if name not in self.contexts:
            known = ", ".join(self.contexts) or "none; name a column with context="
            raise DataError(f"context '{name}' is not in the data, whose contexts are {known}.")
        return self.contexts.index(name)

    @property
    def n_shares(self) -> int:
        """Shares that a library size divides into: one a gene, and the unmeasured rest if it counts that."""
        return self.n_genes + int(self.panel_share < 1.0)

    @property
    def panel_total(self) -> float:
        """What the measured genes hold of the common total: the depth that profiles of them are scaled to."""
        return self.total * self.panel_share

    @property
    def n_steps(self) -> int:
        """Number of latent steps up to the last observed time."""
        return self.step_of(self.times[-1])

    @property
    def n_slots(self) -> int:
        """Observations that one cell can have: one, unless the data are sequences."""
        return len(self.times) if self.design == "sequences" else 1

    def ends(self, n_steps: int) -> Float64[np.ndarray, " step"]:
        """The time at which each of the steps 0..n_steps ends, in ``time_unit``; step 0 ends at time 0."""
        return np.array([self._end(t) for t in range(n_steps + 1)])

    def step_of(self, time: float) -> int:
        """The latent step that ends at a time.

        Raises:
            DataError: The time is negative or falls between two ends.
        """
        t = self._nearest(time) if math.isfinite(time) else -1
        if t < 0 or abs(self._end(t) - time) > OFF_GRID * max(self.step, abs(time)):
            raise DataError(
                f"time {time:g} is not on the grid {self._grid_name}; "
                + ("give one of these times." if self.grid else "give a multiple of it.")
            )
        return t

    def _end(self, t: int) -> float:
        known = (0.0, *self.grid)
        return known[t] if t < len(known) else known[-1] + (t - len(self.grid)) * self.step

    def _nearest(self, time: float) -> int:
        known = (0.0, *self.grid)
        if time > known[-1]:
            return len(self.grid) + round((time - known[-1]) / self.step)
        return int(np.abs(np.array(known) - time).argmin())

    @property
    def _grid_name(self) -> str:
        if not self.grid:
            return f"of {self.step:g} {self.time_unit}"
        return f"({', '.join(f'{end:g}' for end in self.grid)}, then every {self.step:g}) {self.time_unit}"

    @cached_property
    def token_index(self) -> dict[str, int]:
        """Position of each token."""
        return {token: p for p, token in enumerate(self.tokens)}

    @cached_property
    def own_gene(self) -> Int64[np.ndarray, " token"]:
        """Position among the genes of each token's own transcript, or -1 where it is not measured."""
        position = {gene: g for g, gene in enumerate(self.genes)}
        return np.array([position.get(token, -1) for token in self.tokens], dtype=np.int64)

    def require(self, schedule: Schedule) -> Schedule:
        """Returns the schedule if all its tokens are known, and no dose is far beyond those of the cells.

        Raises:
            ScheduleError: A token is unknown, and the message lists the nearest names; or a dose is more than
                100 times the largest that cells were given.
        """
        for token in schedule.tokens:
            if token not in self.token_index:
                folded = {name.casefold(): name for name in self.tokens}
                near = difflib.get_close_matches(token.casefold(), list(folded), n=3, cutoff=0.4)
                names = ", ".join(folded[name] for name in near) or few(self.tokens)
                whole = next((name for name in self.tokens if re.split(r"[@*+]", name)[0] == token), None)
                quoted = (
                    f"; write a name with + @ or * in double quotes, as in do('{Dose(whole)}')"
                    if whole
                    else ""
                )
                joined = [part.strip() for part in re.split(r"[|;,/&_ ]+", token)]
                if len(joined) > 1 and all(part in self.token_index for part in joined):
                    raise ScheduleError(
                        f"do({token!r}) is not among the perturbations; join members by '+', as in "
                        f"'{'+'.join(joined)}'."
                    )
                said = "the nearest" if near else "these"
                raise ScheduleError(
                    f"do({token!r}) is not among the perturbations{quoted}; {said} are {names}, and one "
                    "without cells is named in from_anndata(candidates=...)."
                )
        for dose in schedule.doses:
            largest = self.largest_dose(dose.token)
            if dose.amount > _MOST_OF_LARGEST * largest:
                unit = f" {self.dose_unit}" if self.dose_unit else ""
                raise ScheduleError(
                    f"do({dose.token!r}) at {dose.amount:g}{unit} is more than {_MOST_OF_LARGEST:g} times "
                    f"the largest dose that cells were given, {largest:g}{unit}; give the dose in their unit."
                )
        return schedule

    def largest_dose(self, token: str) -> float:
        """The largest amount of a token that cells were given; 1 where amounts are strengths.

        Example:
            >>> Schema(("g",), ("A",), dose_ranges=((10.0, 300.0),)).largest_dose("A")
            300.0
        """
        return self.dose_ranges[self.token_index[token]][1] if self.dose_ranges else 1.0

    def doses(self, schedule: Schedule, n_steps: int) -> Float32[np.ndarray, "step token"]:
        """The dose u[t, token] that acts in the step that ends at t, for t = 0..n_steps.

        A dose given at time a acts in every step that ends after a, so ``u[0]`` is zero. An amount counts as
        a share of the largest one of its token, where amounts have units of their own.
        """
        u = np.zeros((n_steps + 1, self.n_tokens), dtype=np.float32)
        ends = self.ends(n_steps)
        for dose in self.require(schedule).doses:
            p = self.token_index[dose.token]
            acting = (ends > dose.at + 1e-6 * self.step) & (ends > 0)
            u[acting, p] = dose.amount / self.largest_dose(dose.token)
        return u

    def schedule(self, text: str) -> Schedule:
        """Reads a label as :meth:`Schedule.parse` does, where what is a token as it stands is one name.

        Raises:
            ScheduleError: The text cannot be read.

        Example:
            >>> Schema(("g",), ("HLA-DRB1*15",)).schedule("HLA-DRB1*15").tokens
            ('HLA-DRB1*15',)
        """
        if text in self.token_index and text != self.control:
            return Schedule((Dose(text),))
        return Schedule.parse(text, self.control)

    def label(self, text: str) -> str:
        """A label as the data have it: members sorted, and names that need it in quotes.

        Example:
            >>> Schema(("g",), ("MYC", "STAT1")).label("STAT1+MYC")
            'MYC+STAT1'
        """
        return self.schedule(text).label(self.control)

    def doubts(self, schedule: Schedule, time: float) -> list[str]:
        """What makes a schedule's prediction at a time doubtful: doses beyond the cells', or without effect.

        Args:
            schedule: Known tokens.
            time: The last time that is predicted.

        Returns:
            A sentence each.
        """
        found = []
        for dose in schedule.doses:
            if dose.at >= time:
                found.append(
                    f"do({str(dose)!r}) begins at {dose.at:g} {self.time_unit} and acts on nothing by time "
                    f"{time:g}; predict a later time, or write a dose as NAME*AMOUNT."
                )
            low, high = (
                self.dose_ranges[self.token_index[dose.token]] if self.dose_ranges else (0.0, math.inf)
            )
            if self.dose_ranges and (low, high) != (0.0, 1.0) and not low <= dose.amount <= high:
                unit = f" {self.dose_unit}" if self.dose_unit else ""
                found.append(
                    f"do({str(dose)!r}) gives {dose.amount:g}{unit}, and cells were given {low:g} to "
                    f"{high:g}{unit}; write the amount, as in do('{Dose(dose.token, amount=high)}')."
                )
        return found

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` reads back; what came later is left out where it is empty."""
        later = ("grid", "image", "dose_ranges", "dose_unit", "contexts")
        kept = {name: value for name, value in asdict(self).items() if name not in later or value}
        return {_IN_JSON.get(name, name): value for name, value in kept.items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Schema:
        """Reads what :meth:`to_json` wrote."""
        names = {said: name for name, said in _IN_JSON.items()}
        named: dict[str, Any] = {names.get(said, said): _as_tuples(v) for said, v in value.items()}
        return cls(**named)

    @property
    def digest(self) -> str:
        """SHA-256 of the schema, to tell runs of different data apart."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @property
    def layout(self) -> StudyDesign:
        """The name of ``design`` in the version before."""
        warnings.warn(
            "Schema.layout is called Schema.design now; the old name goes with the next version.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.design


def _as_tuples(value: Any) -> Any:
    """What JSON has as lists."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


Schema.__init__ = renamed_arguments(layout="design")(Schema.__init__)  # type: ignore[method-assign]
