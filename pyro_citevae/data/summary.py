"""The summary of a data set: what was read, for people and for the record of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from pyro_citevae.errors import few
from pyro_citevae.shown import Shown

if TYPE_CHECKING:
    from pyro_citevae.data.trajectories import Trajectories

__all__ = ["Summary"]

_SHOWN = 4


@final
@dataclass(frozen=True, repr=False)
class Summary(Shown):
    """What a data set holds, and what was read to make it.

    It shows as a table in a notebook, ``print`` writes the same in a terminal, and ``content`` is what JSON
    takes.

    Attributes:
        content: Numbers and names, by what they are of.

    Example:
        >>> import pyro_citevae as cv
        >>> cv.simulate(n_cells=60, n_perturbations=3).data.summary().content["perturbations"]
        {'gene_0': 15, 'gene_1': 15, 'gene_2': 15}
    """

    content: Mapping[str, Any]

    @classmethod
    def of(cls, data: Trajectories) -> Summary:
        """The summary of a data set."""
        schema, reading = data.schema, data.reading
        counted = np.bincount(data.condition, minlength=len(data.conditions)).tolist()
        named = zip((one.label(schema.control) for one in data.conditions), counted, strict=True)
        cells = {label: n for label, n in sorted(named) if n}
        at = {f"{time:g}": int((data.row_step == schema.step_of(time)).sum()) for time in schema.times}
        combined = [one.label() for one in data.conditions if len(one.tokens) > 1 and cells.get(one.label())]
        amounts: dict[str, set[float]] = {}
        for one in data.conditions:
            for dose in one.doses:
                amounts.setdefault(dose.token, set()).add(dose.amount)
        doses = {token: sorted(given) for token, given in sorted(amounts.items()) if given != {1.0}}
        perturbed = {label: n for label, n in cells.items() if label != schema.control}
        content: dict[str, Any] = {
            "cells": data.n_cells,
            "observations": data.n_observations,
            "design": schema.design,
            "genes": schema.n_genes,
            "values": schema.values,
            "library": {"median": float(np.median(data.library)), "panel_share": schema.panel_share},
            "control": schema.control,
            "n_controls": cells.get(schema.control, 0),
            "n_perturbations": len(schema.tokens),
            "perturbations": perturbed,
            "combinations": combined,
            "doses": doses,
            "dose_unit": schema.dose_unit,
            "times": at,
            "time_unit": schema.time_unit,
            "step": list(schema.grid) or schema.step,
            "n_steps": schema.n_steps,
            "batches": {name: int((data.technical == b).sum()) for b, name in enumerate(schema.batches)},
            **({"contexts": _of_contexts(data)} if schema.contexts else {}),
            "tokens_that_are_genes": int((schema.own_gene >= 0).sum()),
            "candidates": [str(one) for one in np.array(schema.tokens)[~data.seen]],
        }
        if reading is not None:
            columns = reading.columns
            shown = (
                "perturbation",
                "time",
                "batch",
                "context",
                "sequence",
                "dose",
                "genes",
                "layer",
                "library",
            )
            content |= {
                "layout": columns.layout,
                "layout_because": reading.reason,
                "columns": {name: getattr(columns, name) for name in shown if getattr(columns, name)},
                "controls": dict(reading.controls),
                "left_out": dict(reading.left_out),
                "cells_in_the_file": reading.cells,
                "genes_in_the_file": reading.genes,
                "library_from": reading.library,
                "doubts": list(reading.doubts),
                "notes": list(reading.notes),
            }
        return cls(content)

    @property
    def rows(self) -> list[tuple[str, str]]:
        """What is said of each part, in words."""
        return list(self._rows())

    def _rows(self) -> Iterator[tuple[str, str]]:
        found = self.content
        if "layout" in found:
            yield "layout", f"{found['layout']}, since {found['layout_because']}"
            yield "columns", ", ".join(f"{name}={value}" for name, value in found["columns"].items())
        left_out = sum(found.get("left_out", {}).values())
        of = f" ({left_out} left out: {_few(list(found['left_out']))})" if left_out else ""
        rows = "" if found["observations"] == found["cells"] else f", {found['observations']} observations"
        yield "cells", f"{found['cells']}{rows}, {found['design']}{of}"
        there = found.get("genes_in_the_file", found["genes"])
        yield (
            "genes",
            f"{found['genes']}{f' of {there}' if there != found['genes'] else ''}, {found['values']}",
        )
        library = found["library"]
        if found["values"] == "counts":
            share = (
                f"; the genes hold {library['panel_share']:.0%} of it" if library["panel_share"] < 1 else ""
            )
            said = f", from {found['library_from']}" if "library_from" in found else ""
            yield "library", f"median {library['median']:g}{said}{share}"
        controls = found.get("controls") or {found["control"]: found["n_controls"]}
        yield "controls", _few([f"{name} ({n} cells)" for name, n in controls.items()])
        yield "perturbations", self._perturbations()
        if found["combinations"]:
            yield "combinations", f"{len(found['combinations'])}: {_few(found['combinations'])}"
        if found["doses"]:
            unit = f" {found['dose_unit']}" if found["dose_unit"] else ""
            given = {name: _few([f"{one:g}" for one in some]) for name, some in found["doses"].items()}
            yield "doses", f"{_few([f'{name} at {some}' for name, some in given.items()], '; ')}{unit}"
        times = [f"{time} ({n})" for time, n in found["times"].items()]
        steps = f"{found['n_steps']} latent steps"
        if found["design"] == "snapshot":
            yield "times", f"none: a snapshot, after {steps}"
        else:
            yield "times", f"{_few(times)} in the unit '{found['time_unit']}'; {steps}"
        if len(found["batches"]) > 1:
            yield "batches", _few([f"{name} ({n})" for name, n in found["batches"].items()])
        if "contexts" in found:
            of_each = [
                f"{name} ({one['cells']}, {one['controls']} controls)"
                for name, one in found["contexts"].items()
            ]
            yield "contexts", f"{len(of_each)}: {_few(of_each)}"
        yield (
            "perturbed genes",
            f"{found['tokens_that_are_genes']} of {found['n_perturbations']} are measured",
        )
        if found["candidates"]:
            yield "candidates", f"{len(found['candidates'])} without cells: {_few(found['candidates'])}"
        if "features" in found:
            yield "features", found["features"]
        for note in found.get("notes", ()):
            yield "note", note
        for doubt in found.get("doubts", ()):
            yield "warning", doubt

    def _perturbations(self) -> str:
        cells = self.content["perturbations"]
        if not cells:
            return "none"
        ordered = sorted(cells, key=lambda one: -cells[one])
        least, most = ordered[-1], ordered[0]
        said = f"{len(cells)}: {_few(ordered)}"
        if len(cells) == 1:
            return f"{said}; {cells[most]} cells"
        return f"{said}; {cells[least]} cells ({least}) to {cells[most]} ({most}) each"

    def to_json(self) -> dict[str, Any]:
        """The content, for the record of a run."""
        return dict(self.content)

    def __rich__(self) -> RenderableType:
        table = Table(box=box.SIMPLE, show_header=False, title="What was read", title_justify="left")
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, said in self.rows:
            table.add_row(f"[yellow]{name}[/]" if name == "warning" else name, escape(said))
        return table

    def facts(self) -> dict[str, str]:
        """The rows; notes and warnings are numbered where there are several."""
        found: dict[str, str] = {}
        for name, said in self.rows:
            again = sum(one.partition(" ")[0] == name for one in found)
            found[f"{name} {again + 1}" if again else name] = said
        return found

    def __str__(self) -> str:
        console = Console(width=110, file=None, force_terminal=False)
        with console.capture() as captured:
            console.print(self)
        return captured.get().strip("\n")

    __repr__ = __str__  # to be read whole is what it is for


def _of_contexts(data: Trajectories) -> dict[str, dict[str, int]]:
    """Cells and controls of each context."""
    control = data.labels == data.schema.control
    of = {name: data.context == c for c, name in enumerate(data.schema.contexts)}
    return {
        name: {"cells": int(here.sum()), "controls": int((here & control).sum())} for name, here in of.items()
    }


def _few(names: Sequence[str], joint: str = ", ") -> str:
    return few(names, _SHOWN, joint)
