"""Published file layouts: how GEARS, scPerturb, CPA and the Virtual Cell Challenge name their columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import pandas as pd
from jaxtyping import Int

from pyro_citevae.data.columns import Columns
from pyro_citevae.data.dose_columns import amounts, varies_within_labels
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.labels import Labels, missing, texts
from pyro_citevae.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["LAYOUTS", "PublishedLayout", "reason_of", "resolve"]

_CONTEXTS = ("cell_line", "cell_type", "celltype")


class PublishedLayout(ABC):
    """How files of one origin name their columns and write a combination.

    Attributes:
        name: What ``layout=`` takes.
        perturbation: Column of ``obs`` with the labels, of those that files of this origin use.
        publisher: Who publishes files in this layout.
        marks: What a file has by which the layout is known.
        neutral: Members of a label that stand for no perturbation.
    """

    name: ClassVar[str]
    perturbation: ClassVar[tuple[str, ...]]
    publisher: ClassVar[str]
    marks: ClassVar[str]
    neutral: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def fits(self, adata: AnnData) -> bool:
        """Whether a file is surely in this layout; no two layouts fit one file."""

    @abstractmethod
    def columns(self, adata: AnnData) -> Columns:
        """The columns of this layout that a file has."""

    def missing(self, adata: AnnData, given: Columns) -> list[str]:
        """What a file in this layout has and this one lacks, such as ``obs['condition']``."""
        return [] if given.perturbation else _missing(adata.obs, "obs", self.perturbation)

    def schedules(
        self, obs: pd.DataFrame, written: pd.Series, columns: Columns, labels: Labels
    ) -> tuple[list[Schedule], Int[np.ndarray, " observation"]]:
        """What was done to cells: each distinct label, with what stands beside it, is read once.

        Args:
            obs: What the file says of each cell.
            written: Label of each, as a text.
            columns: The columns.
            labels: How labels are read.

        Returns:
            What the distinct labels say, and which of these each cell has; two may say the same.

        Raises:
            DataError: A dose is no number, or does not fit its label.
        """
        frame = pd.DataFrame({"label": written})
        frame["dose"] = "" if columns.dose is None else texts(obs[columns.dose])
        frame["beside"] = self._beside(obs)
        rows = frame.drop_duplicates().itertuples(index=False, name=None)
        read = [self._schedule(row, columns, labels) for row in rows]
        return read, frame.groupby(list(frame), sort=False, dropna=False).ngroup().to_numpy()

    def _schedule(self, row: tuple[str, str, Any], columns: Columns, labels: Labels) -> Schedule:
        """What a label says, with its dose and with what stands beside it."""
        label, dose, beside = row
        if labels.is_control(label):
            return Schedule()
        members = self._members(label, beside, labels)
        given = () if columns.dose is None else amounts(dose, members, label, columns.dose)
        return labels.schedule(label, members, given)

    def _members(self, label: str, beside: Any, labels: Labels) -> list[str]:
        return labels.members(label)

    def _beside(self, obs: pd.DataFrame) -> Any:
        """What says how a cell's label is read."""
        return ""

    def _column(self, adata: AnnData) -> str:
        return next((name for name in self.perturbation if name in adata.obs), self.perturbation[0])


@final
class Plain(PublishedLayout):
    """``obs["perturbation"]`` with ``"A"``, ``"A+B"``, ``"A+B@24"`` and ``"control"``: this library's own."""

    name = "plain"
    perturbation = ("perturbation",)
    publisher = "this library"
    marks = "nothing of a published layout"

    def fits(self, adata: AnnData) -> bool:
        """Never: it is what is left when no other layout fits."""
        return False

    def columns(self, adata: AnnData) -> Columns:
        """The default columns."""
        return Columns(perturbation="perturbation", control=("control",))


@final
class Gears(PublishedLayout):
    """``obs["condition"]`` with ``"ctrl"``, ``"A+ctrl"``, ``"ctrl+A"``, ``"A+B"``, and ``var["gene_name"]``.

    The processed files keep log-normalised values in ``X`` and the counts in the layer ``counts``.

    Source: Y. Roohani, K. Huang, J. Leskovec, Predicting transcriptional outcomes of novel multigene
    perturbations with GEARS (2023).
    """

    name = "gears"
    perturbation = ("condition",)
    publisher = "GEARS (Roohani et al. 2023)"
    marks = "var['gene_name'], and labels in obs['condition'] that join a gene and 'ctrl'"
    neutral = ("ctrl",)

    def fits(self, adata: AnnData) -> bool:
        """Gene names in ``var`` and a label that joins a gene and ``ctrl``."""
        if "gene_name" not in adata.var or "condition" not in adata.obs:
            return False
        return any("ctrl" in label.split("+") for label in _distinct(adata.obs["condition"]) if "+" in label)

    def missing(self, adata: AnnData, given: Columns) -> list[str]:
        """The gene names count too."""
        lacking = [] if given.genes else _missing(adata.var, "var", ("gene_name",))
        return super().missing(adata, given) + lacking

    def columns(self, adata: AnnData) -> Columns:
        """Labels, control, gene names (the index holds identifiers), and the counts beside ``X``."""
        named: dict[str, Any] = {"genes": "gene_name", "layer": _counts(adata)}
        return Columns(
            perturbation="condition", control=("ctrl",), context=_context(adata, "condition", "ctrl"), **named
        )


@final
class ScPerturb(PublishedLayout):
    """``obs["perturbation"]`` with ``"A"``, ``"A_B"``, ``"control"``; ``nperts`` members; ``ncounts`` in all.

    A label is divided at its underscores only where that gives ``nperts`` members. ``dose_value`` is read
    where a perturbation has several doses.

    Source: S. Peidli et al., scPerturb: harmonized single-cell perturbation data (2024).
    """

    name = "scperturb"
    perturbation = ("perturbation",)
    publisher = "scPerturb (Peidli et al. 2024)"
    marks = "obs['perturbation'] and obs['nperts']"

    def fits(self, adata: AnnData) -> bool:
        """Labels with their number of members, and no mark of CPA."""
        return {"perturbation", "nperts"} <= set(adata.obs) and not LAYOUTS["cpa"].fits(adata)

    def missing(self, adata: AnnData, given: Columns) -> list[str]:
        """The number of members counts too."""
        return super().missing(adata, given) + _missing(adata.obs, "obs", ("nperts",))

    def columns(self, adata: AnnData) -> Columns:
        """Labels, control, and the library size over all genes."""
        library = "ncounts" if "ncounts" in adata.obs else None
        dose = "dose_value" if _has_doses(adata.obs, "perturbation", "dose_value") else None
        named: dict[str, Any] = {"library": library, "dose": dose}
        named["context"] = _context(adata, "perturbation", "control")
        return Columns(perturbation="perturbation", control=("control",), **named)

    def _beside(self, obs: pd.DataFrame) -> Any:
        return _numbers(obs["nperts"]).fillna(0)

    def _members(self, label: str, beside: Any, labels: Labels) -> list[str]:
        names = label.split("_")
        if len(names) == beside:
            return names
        return [label] if beside == 1 else labels.members(label)


@final
class VirtualCellChallenge(PublishedLayout):
    """``obs["target_gene"]`` with the knocked-down gene or ``"non-targeting"``, and ``batch``.

    Source: Y. Roohani et al., Virtual Cell Challenge: Toward a Turing test for the virtual cell (2025).
    """

    name = "vcc"
    perturbation = ("target_gene",)
    publisher = "Virtual Cell Challenge (Arc Institute 2025)"
    marks = "'non-targeting' in obs['target_gene'], and no obs['perturbation']"

    def fits(self, adata: AnnData) -> bool:
        """Target genes, the untargeted among them, and no column of this library's own name."""
        if "target_gene" not in adata.obs or "perturbation" in adata.obs:
            return False
        return "non-targeting" in _distinct(adata.obs["target_gene"])

    def columns(self, adata: AnnData) -> Columns:
        """Labels, control and batches."""
        batch = "batch" if "batch" in adata.obs else None
        named: dict[str, Any] = {"batch": batch, "context": _context(adata, "target_gene", "non-targeting")}
        return Columns(perturbation="target_gene", control=("non-targeting",), **named)


@final
class Cpa(PublishedLayout):
    """``obs["condition"]`` with ``"A"``, ``"A+B"``; beside it ``"0.5"``, ``"1.0+1.0"``; ``control`` 0 or 1.

    The label is ``condition_ID``, ``condition`` or ``perturbation``, the dose ``dose_val`` or ``dose_value``.
    ``A`` with dose 0.5 is read as ``A*0.5``; where one dose stands beside several members it holds for each.
    ``cov_drug_dose_name``, which joins covariate, label and dose, repeats them and is not read.

    Source: M. Lotfollahi et al., Predicting cellular responses to complex perturbations in high-throughput
    screens (2023).
    """

    name = "cpa"
    perturbation = ("condition_ID", "condition", "perturbation")
    publisher = "CPA (Lotfollahi et al. 2023)"
    marks = "labels, their doses, and obs['control'] that marks the controls"
    neutral = ("control", "ctrl")
    doses: ClassVar[tuple[str, ...]] = ("dose_val", "dose_value")

    def fits(self, adata: AnnData) -> bool:
        """A label, a dose and a mark of the controls, and no mark of GEARS."""
        given = [
            not _missing(adata.obs, "obs", names) for names in (self.perturbation, self.doses, ("control",))
        ]
        return all(given) and not LAYOUTS["gears"].fits(adata)

    def missing(self, adata: AnnData, given: Columns) -> list[str]:
        """The dose counts too."""
        lacking = [] if given.dose else _missing(adata.obs, "obs", self.doses)
        return super().missing(adata, given) + lacking

    def columns(self, adata: AnnData) -> Columns:
        """Labels, control, doses, and the counts beside the normalised values."""
        column = self._column(adata)
        dose = next((name for name in self.doses if name in adata.obs), None)
        control = (self._control(adata, column),)
        named: dict[str, Any] = {"dose": dose, "layer": _counts(adata)}
        named["context"] = _context(adata, column, control[0])
        return Columns(perturbation=column, control=control, **named)

    def _control(self, adata: AnnData, column: str) -> str:
        """The label of the cells marked as controls; a name that CPA's files use if none is marked."""
        labels = texts(adata.obs[column])
        marked: set[str] = set()
        if "control" in adata.obs:
            marked = set(labels[_numbers(adata.obs["control"]) == 1])
        if len(marked) > 1:
            raise DataError(
                f"obs['control'] marks cells of several labels ({', '.join(sorted(marked)[:3])}); name the "
                "one of the unperturbed cells with control=."
            )
        known = [name for name in self.neutral if name in set(labels)]
        return next(iter(marked or known or self.neutral))


LAYOUTS: MappingProxyType[str, PublishedLayout] = MappingProxyType(
    {one.name: one for one in (Plain(), Gears(), ScPerturb(), VirtualCellChallenge(), Cpa())}
)


def resolve(adata: AnnData, given: Columns) -> Columns:
    """Names every column of a file: those given, and otherwise those of its layout.

    The layout is the one given; if none is, and no column of perturbations either, the published one that the
    file is surely in, and otherwise this library's own.

    Args:
        adata: Cells x genes.
        given: What the user names; None where the layout is to say.

    Returns:
        Columns whose ``layout``, ``perturbation`` and ``control`` are not None.

    Raises:
        DataError: There is no such layout, or the file lacks what the layout has.

    Example:
        >>> from pyro_citevae.data import datasets
        >>> found = resolve(datasets.renge(), Columns(time="time"))
        >>> found.layout, found.perturbation, found.control
        ('plain', 'perturbation', ('control',))
    """
    layout = _layout(adata, given)
    if given.layout is not None and layout.name != "plain":
        lacking = layout.missing(adata, given)
        if lacking:
            raise DataError(
                f"layout='{layout.name}' looks for {' and '.join(lacking)}, which the file lacks; obs has "
                f"{_names(adata.obs)} and var has {_names(adata.var)}."
            )
    named = {one.name: getattr(given, one.name) for one in fields(given)}
    found = replace(
        layout.columns(adata), **{name: value for name, value in named.items() if value not in (None, ())}
    )
    return replace(found, layout=layout.name)


def reason_of(adata: AnnData, given: Columns) -> str:
    """Why a file is read in its layout, as a part of a sentence.

    Example:
        >>> from pyro_citevae.data import datasets
        >>> reason_of(datasets.renge(), Columns(time="time"))
        'the file has nothing of a published layout'
    """
    if given.layout is not None:
        return f"layout='{given.layout}' is named"
    if given.perturbation is not None:
        return f"perturbation='{given.perturbation}' is named"
    return f"the file has {_layout(adata, given).marks}"


def _layout(adata: AnnData, given: Columns) -> PublishedLayout:
    if given.layout is not None:
        if given.layout not in LAYOUTS:
            raise DataError(f"layout='{given.layout}' is not a layout; the layouts are {', '.join(LAYOUTS)}.")
        return LAYOUTS[given.layout]
    if given.perturbation is not None:
        return LAYOUTS["plain"]
    return next((one for one in LAYOUTS.values() if one.fits(adata)), LAYOUTS["plain"])


def _counts(adata: AnnData) -> str | None:
    return "counts" if "counts" in adata.layers else None


def _context(adata: AnnData, labels: str, control: str) -> str | None:
    """The column of contexts, of those that layouts have: where cells differ, and each value has controls."""
    for name in _CONTEXTS:
        if name in adata.obs and labels in adata.obs and not missing(pd.Series(adata.obs[name])).any():
            cells, named = pd.Series(adata.obs[name]), set(_distinct(adata.obs[name]))
            if len(named) > 1 and named == set(_distinct(cells[texts(adata.obs[labels]) == control])):
                return name
    return None


def _distinct(column: Any) -> list[str]:
    return list(dict.fromkeys(texts(column)))


def _numbers(column: Any) -> pd.Series:
    return pd.Series(pd.to_numeric(texts(column), errors="coerce"))


def _has_doses(obs: Any, labels: str, dose: str) -> bool:
    """Whether a perturbation has several doses."""
    if labels not in obs or dose not in obs:
        return False
    known = ~missing(pd.Series(obs[labels]))
    return bool(varies_within_labels(pd.Series(obs[labels])[known], pd.Series(obs[dose])[known]))


def _missing(frame: Any, what: str, names: tuple[str, ...]) -> list[str]:
    if any(name in frame for name in names):
        return []
    return [" or ".join(f"{what}['{name}']" for name in names)]


def _names(frame: Any) -> str:
    return ", ".join(map(str, frame)) or "no column"
