"""Effects: draws of what a schedule changes in the profile of a population."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from pyro_citevae.arguments import Names, Number, names, number, whole
from pyro_citevae.data.interventions import Dose, Schedule
from pyro_citevae.data.schema import Schema
from pyro_citevae.errors import DataError, ScheduleError, few
from pyro_citevae.shown import Shown, as_html, as_text

if TYPE_CHECKING:
    from pyro_citevae.picture import Drawn, Given

__all__ = ["Effect"]

_SAMPLED = ("chain", "draw")
_AXES = ("perturbation", "time", "gene")
_UNITS = {"counts": "log(1 + count)", "real": "unit of the values"}
_MOST_PANELS = 6


class Effect(Shown, xr.DataArray):
    """Paired draws of an effect, an ``xarray.DataArray`` with (chain, draw, perturbation, time, gene).

    It shows itself in three lines; what has lost its draws, such as a mean, shows its values as xarray does.
    """

    __slots__ = ()

    @classmethod
    def of(
        cls,
        values: Float[np.ndarray, "chain draw perturbation time gene"],
        schedules: Sequence[Schedule],
        times: Sequence[float],
        schema: Schema,
        versus: Schedule,
    ) -> Effect:
        """Names the axes of the draws."""
        return cls(
            values,
            dims=("chain", "draw", *_AXES),
            coords={
                "chain": np.arange(values.shape[0]),
                "draw": np.arange(values.shape[1]),
                "perturbation": [one.label(schema.control) for one in schedules],
                "time": list(times),
                "gene": list(schema.genes),
            },
            name="effect",
            attrs={
                "versus": versus.label(schema.control),
                "control": schema.control,
                "unit": _UNITS[schema.values],
                "time_unit": schema.time_unit,
            },
        )

    @classmethod
    def in_contexts(cls, parts: Sequence[Effect], contexts: Sequence[str]) -> Effect:
        """Effects in several contexts as one, with the dim context after draw."""
        first = parts[0]
        values = np.stack([part.to_numpy() for part in parts], axis=2)
        coords = {"context": list(contexts), **first.coords}
        return cls(
            values, dims=(*_SAMPLED, "context", *_AXES), coords=coords, name="effect", attrs=first.attrs
        )

    @property
    def _axes(self) -> tuple[str, ...]:
        """The axes beside those of draws."""
        return ("context", *_AXES) if "context" in self.coords else _AXES

    def facts(self) -> dict[str, str]:
        """Sizes, what it is compared with, and the first names of each axis."""
        said = {
            "draws": " x ".join(f"{self.sizes[dim]} {dim}s" for dim in _SAMPLED if dim in self.dims),
            "versus": str(self.attrs.get("versus", "")),
            "unit": str(self.attrs.get("unit", "")),
        }
        for axis in self._axes:
            if axis in self.coords:
                names = [one if isinstance(one, str) else f"{one:g}" for one in self[axis].values.flat]
                said[f"{axis}s"] = f"{len(names):,}: {few(names)}"
        return {name: value for name, value in said.items() if value}

    def __repr__(self) -> str:
        return as_text("Effect", self.facts()) if "draw" in self.dims else xr.DataArray.__repr__(self)

    def _repr_html_(self) -> str:
        return as_html("Effect", self.facts()) if "draw" in self.dims else xr.DataArray._repr_html_(self)

    def sel(
        self,
        indexers: Mapping[Any, Any] | None = None,
        method: str | None = None,
        tolerance: int | float | Iterable[int | float] | None = None,
        drop: bool = False,
        **indexers_kwargs: Any,
    ) -> Effect:
        """Selects by label, as ``xarray.DataArray.sel`` does; a combination's members may be in any order.

        A label that stands in the coordinate is taken as it is. Another is read as a schedule, and looked for
        as schedules are written.

        Args:
            indexers: Labels by dim, in place of keywords.
            method: How inexact labels of the other dims match, such as ``"nearest"``.
            tolerance: How far inexact labels may be off.
            drop: Whether scalar coordinates are dropped.
            **indexers_kwargs: Labels by dim.

        Raises:
            DataError: A perturbation is not in the effect; the sentence names the nearest.

        Example:
            >>> from pyro_citevae.data import Schema, do
            >>> schema = Schema(genes=("g",), tokens=("MYC", "STAT1"))
            >>> effect = Effect.of(np.zeros((1, 2, 1, 1, 1)), [do("STAT1+MYC@24")], [48.0], schema, do())
            >>> str(effect.sel(perturbation="STAT1+MYC@24").perturbation.values)
            'MYC@24+STAT1'
        """
        if indexers is not None and indexers_kwargs:
            return super().sel(indexers, method, tolerance, drop, **indexers_kwargs)  # xarray refuses both
        asked = dict(indexers_kwargs if indexers is None else indexers)
        if "perturbation" not in asked or "perturbation" not in self.indexes:
            return super().sel(asked, method, tolerance, drop)
        exact = {"perturbation": self._found(asked.pop("perturbation"))}
        if method is None:
            return super().sel(exact | asked, drop=drop)
        return super().sel(exact, drop=drop).sel(asked, method, tolerance, drop)

    def interval(self, probability: float = 0.9) -> xr.DataArray:
        """Equal-tailed credible interval over chains and draws.

        Args:
            probability: Mass inside the interval.

        Returns:
            Dims (bound, ...), where ``bound`` is ``"lower"`` or ``"upper"``.
        """
        tail = (1 - probability) / 2
        bounds = xr.DataArray(self).quantile([tail, 1 - tail], dim=("chain", "draw"))
        return bounds.rename(quantile="bound").assign_coords(bound=["lower", "upper"])

    def table(self, probability: Number = 0.9, threshold: Number = 0.1) -> pd.DataFrame:
        """What the draws of all chains say of each perturbation, time and gene.

        ============  ======================================================================================
        column        of the effect delta, in the effect's own unit
        ============  ======================================================================================
        mean          posterior mean
        lower, upper  bounds of the equal-tailed credible interval
        p_positive    ``P(delta > 0)``
        p_beyond      ``P(|delta| > threshold)``
        lfsr          local false sign rate ``min(P(delta <= 0), P(delta >= 0))``: how probable it is that the
                      better supported sign is wrong
        ============  ======================================================================================

        Probabilities are shares of the draws, so none between 0 and one in the number of draws is told apart
        from 0. A draw that is not a number supports no sign.

        Args:
            probability: Mass inside the interval.
            threshold: Size that an effect is compared with, in its own unit.

        Returns:
            A row for each perturbation, time and gene, in the order of the coordinates. An axis that
            :meth:`sel` reduced to one label gives a column of that label.

        Raises:
            DataError: The probability is not between 0 and 1, the threshold is negative or not finite, or
                the effect has lost its draws or one of the three axes.

        Example:
            >>> from pyro_citevae.data import Schema, do
            >>> schema = Schema(genes=("g", "h"), tokens=("A",))
            >>> draws = np.array([[0.2, 0.0], [0.4, -0.3]]).reshape(1, 2, 1, 1, 2)
            >>> table = Effect.of(draws, [do("A")], [1.0], schema, do()).table()
            >>> table[["gene", "p_positive", "p_beyond", "lfsr"]].values.tolist()
            [['g', 1.0, 1.0, 0.0], ['h', 0.0, 0.5, 0.5]]

        Source: M. Stephens, False Discovery Rates: A New Deal (2017), for the local false sign rate.
        """
        inside = number(probability, "effect.table(probability=...)")
        size = number(threshold, "effect.table(threshold=...)")
        if not 0 < inside < 1:
            raise DataError(f"effect.table(probability={probability}) is not between 0 and 1; give 0.9.")
        if size < 0:
            raise DataError(f"effect.table(threshold={threshold}) is negative; give a size, such as 0.1.")
        drawn = self._drawn()
        draws = drawn.to_numpy().reshape(-1, *drawn.shape[-len(drawn._axes) :])
        tail = (1 - inside) / 2
        lower, upper = np.quantile(draws, [tail, 1 - tail], axis=0)
        positive, negative = draws > 0, draws < 0
        columns = {
            "mean": draws.mean(0),
            "lower": lower,
            "upper": upper,
            "p_positive": positive.mean(0),
            "p_beyond": (np.abs(draws) > size).mean(0),
            "lfsr": np.minimum((~positive).mean(0), (~negative).mean(0)),
        }
        axes = drawn._axes
        index = pd.MultiIndex.from_product([drawn[axis].to_numpy() for axis in axes], names=axes)
        return index.to_frame(index=False).assign(**{name: one.ravel() for name, one in columns.items()})

    def plot_volcano(
        self,
        perturbation: Names | None = None,
        time: Number | None = None,
        threshold: Number = 0.1,
        probability: Number = 0.9,
        most_named: Number = 8,
        ax: Given = None,
    ) -> Drawn:
        """Size of each gene's effect against how sure its sign is, a panel a perturbation.

        The abscissa is the posterior mean, and the ordinate ``-log10`` of the local false sign rate
        (:meth:`table`), which is taken as one in the number of draws where it is less. Coloured genes lie
        beyond both dashed lines: their mean is larger than the threshold, and their interval leaves out zero
        (``lfsr <= (1 - probability) / 2``). A name that finds no room is left out.

        Args:
            perturbation: Labels to show, in any order of a combination's members; None for all.
            time: Time to show; None for the last one of the effect.
            threshold: Size of effects, in their own unit.
            probability: Mass inside the interval.
            most_named: How many genes are named at most, of those that are coloured: the largest means.
            ax: Where to draw, an axis for each perturbation; None for a figure of its own.

        Returns:
            The figure, for a notebook to show or ``savefig`` to write, or ``ax`` if it was given.

        Raises:
            DataError: There are more than six perturbations, a label or the time is not in the effect, the
                axes are too few or too many, or :meth:`table` refuses.

        Example:
            >>> import pyro_citevae as cv
            >>> data = cv.simulate(n_cells=30).data
            >>> model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
            >>> guide = cv.guides.MeanField(model, hidden=4)
            >>> posterior = cv.fit(model, guide, data, max_epochs=1, progress=False)
            >>> figure = posterior.effect(cv.do("gene_0"), draws=50).plot_volcano()
            >>> [axis.get_title() for axis in figure.axes]
            ['gene_0, step 4']
        """
        from pyro_citevae.infer.volcano import volcano

        drawn = self._drawn()
        if perturbation is not None:
            labels = names(perturbation, "effect.plot_volcano(perturbation=...)")
            drawn = drawn.sel(perturbation=list(labels))
        shown = drawn.perturbation.to_numpy().tolist()
        if not 1 <= len(shown) <= _MOST_PANELS:
            raise DataError(
                f"effect.plot_volcano() has {len(shown)} perturbations to show, and 1 to {_MOST_PANELS} fit; "
                f"name some, as in perturbation={shown[:2] or ['A', 'B']}."
            )
        times = drawn.time.to_numpy()
        asked = times[-1] if time is None else number(time, "effect.plot_volcano(time=...)")
        at = np.flatnonzero(np.isclose(times, asked))
        if not len(at):
            raise DataError(
                f"effect.plot_volcano(time={time}) is not among the effect's times "
                f"{', '.join(f'{one:g}' for one in times)}; name one of them."
            )
        chosen = drawn.isel(time=at[-1:])
        if chosen.sizes.get("context", 1) > 1:
            contexts = [str(one) for one in chosen["context"].to_numpy()]
            raise DataError(
                f"effect.plot_volcano() has the contexts {few(contexts)}, and shows one; choose it first, as "
                f"in effect.sel(context={contexts[0]!r})."
            )
        return volcano(
            chosen.table(probability, threshold),
            n_draws=math.prod(chosen.sizes[dim] for dim in _SAMPLED if dim in chosen.dims),
            threshold=float(threshold),
            tail=(1 - float(probability)) / 2,
            unit=str(self.attrs.get("unit", "")),
            when=f"{self.attrs.get('time_unit', 'time')} {times[at[-1]]:g}",
            most_named=max(0, whole(most_named, "effect.plot_volcano(most_named=...)")),
            ax=ax,
        )

    def _drawn(self) -> Effect:
        """The effect with its draws first, and then the three axes, of which a scalar one has length one.

        Raises:
            DataError: It has lost its draws or an axis, or has another.
        """
        axes = self._axes
        lost = [axis for axis in axes if axis not in self.coords or self[axis].dims not in ((), (axis,))]
        grown = self.expand_dims([axis for axis in axes if axis not in lost and axis not in self.dims])
        sampled = [dim for dim in grown.dims if dim in ("chain", "draw")]
        if lost or not sampled or len(sampled) + len(axes) < grown.ndim:
            raise DataError(
                f"the effect has dims ({', '.join(map(str, self.dims))}), and a table needs draws of each "
                "perturbation, time and gene; choose by effect.sel or isel, and average the table instead."
            )
        return grown.transpose(*sampled, *axes)

    def _found(self, asked: Any) -> Any:
        """Labels of perturbations as the coordinate has them; what holds no text is left to xarray."""
        if isinstance(asked, str):
            return self._label(asked)
        if not isinstance(asked, (list, np.ndarray, pd.Index, pd.Series, xr.DataArray, xr.Variable)):
            return asked
        values = np.asarray(asked, dtype=object)
        if not any(isinstance(one, str) for one in values.flat):
            return asked
        found = values.copy()
        for at, one in np.ndenumerate(values):
            found[at] = self._label(one) if isinstance(one, str) else one
        return asked.copy(data=found) if isinstance(asked, (xr.DataArray, xr.Variable)) else found

    def _label(self, asked: str) -> str:
        """A label of the coordinate that names the same schedule.

        Raises:
            DataError: There is none.
        """
        labels = self.indexes["perturbation"]
        control = str(self.attrs.get("control", "control"))
        read = [asked, str(Dose(asked))]  # one name, however it is written, before a schedule of several
        with suppress(ScheduleError):
            read.append(Schedule.parse(asked, control).label(control))
        for label in read:
            if label in labels:
                return label
        raise DataError(
            f"effect.sel(perturbation={asked!r}) is not in the effect; the nearest are "
            f"{', '.join(self._nearest(read[-1], 3))}, and posterior.effect predicts others."
        )

    def _nearest(self, label: str, most: int) -> list[str]:
        """The labels that read most like one; the first ones if none does."""
        labels = [str(one) for one in self.indexes["perturbation"]]
        folded = {one.casefold(): one for one in labels}
        near = difflib.get_close_matches(label.casefold(), list(folded), n=most, cutoff=0.4)
        return [folded[one] for one in near] or labels[:most]
