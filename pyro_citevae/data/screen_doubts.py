"""Doubts of a new screen: effects that its design cannot tell apart, and doses that do nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from pyro_citevae.data.columns import Columns
from pyro_citevae.data.dose_columns import DOSES, varies_within_labels
from pyro_citevae.data.interventions import Dose, Schedule
from pyro_citevae.data.label_doubts import near_control
from pyro_citevae.data.labels import Labels
from pyro_citevae.data.schema import Schema
from pyro_citevae.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "ignored_doses",
    "require_both",
    "require_named",
    "require_one_reading",
    "require_some",
    "without_effect",
]


def without_effect(
    schedules: Sequence[Schedule], schema: Schema, labels: Labels, last: float = 0.0
) -> list[str]:
    """Refuses doses that begin after the last observation; tells of doses of nothing.

    Args:
        schedules: What the labels say.
        schema: The grid.
        labels: How labels were read.
        last: When the last of these cells was observed, if that is after the schema's last time.

    Raises:
        DataError: A dose acts on nothing.
    """
    found, last = [], max(last, schema.times[-1])
    for one in dict.fromkeys(schedules):
        for dose in one.doses:
            if dose.at + 1e-6 * schema.step >= last:
                raise DataError(
                    f"{labels.said} says '{dose}': from {dose.at:g} {schema.time_unit} on, and the last "
                    f"observation is at {last:g}, so that it acts on nothing; write a dose as "
                    f"'{dose.token}*{dose.at:g}', or name the column of the times with time=."
                )
        if one.doses and all(dose.amount == 0 for dose in one.doses):
            found.append(
                f"{labels.said} says '{one.label()}': a dose of nothing, which is no control's label."
            )
    return found


def require_named(labels: Labels, written: pd.Series) -> None:
    """Refuses labels that name nothing, such as ``+``.

    Args:
        labels: How labels are read.
        written: Label of each cell.

    Raises:
        DataError: A label holds signs alone.
    """
    for text in filter(labels.names_nothing, set(written)):
        raise DataError(
            f"{labels.said} holds '{text}', which names nothing; leave those cells out with "
            f"exclude='{text}', or name them with control= if they are unperturbed."
        )


def require_one_reading(read: Mapping[str, Schedule], tokens: Sequence[str], said: str) -> None:
    """Refuses a label that is a combination here, and the name of one perturbation where it stands in quotes.

    Args:
        read: What each label says.
        tokens: The perturbations.
        said: The column of labels.

    Raises:
        DataError: A label is both.
    """
    for text in read.keys() & set(tokens):
        if read[text].tokens != (text,):
            quoted = Dose(text).text(quoted=True)
            raise DataError(
                f"{said} says '{text}' and, as the name of one perturbation, '{quoted}'; write one of them "
                "otherwise."
            )


def ignored_doses(adata: AnnData, columns: Columns) -> list[str]:
    """Tells of a column of doses that is not read, although it differs within a label.

    Args:
        adata: The cells.
        columns: The columns that are read.
    """
    for name in DOSES if columns.dose is None else ():
        if name in adata.obs:
            labels = pd.Series(adata.obs[str(columns.perturbation)])
            several = varies_within_labels(labels, adata.obs[name])
            several = {label: found for label, found in several.items() if label not in columns.control}
            if several:
                label, found = next(iter(several.items()))
                return [
                    f"obs['{name}'] has several values under one label ('{label}': {', '.join(found[:4])}) "
                    f"and was not read; name it with dose='{name}' if it is the dose."
                ]
    return []


def require_both(schedules: Sequence[Schedule], labels: Labels, columns: Columns, written: pd.Series) -> None:
    """Refuses a new screen without controls, or without perturbed cells.

    Args:
        schedules: What the labels say.
        labels: How labels were read.
        columns: The columns.
        written: Label of each cell, as a text.

    Raises:
        DataError: It names the labels that there are.
    """
    if not any(one.is_control for one in schedules):
        counted = written.value_counts()
        near = near_control(counted.index, columns.control)
        few = ", ".join(f"'{name}'" for name in counted.index[:5])
        guess = f" '{near}' looks like one." if near else ""
        raise DataError(
            f"no control cell: {labels.said} never says {' or '.join(repr(one) for one in columns.control)}; "
            f"its labels are {few}{' ...' if len(counted) > 5 else ''}; name the label of the unperturbed "
            f"cells with control=.{guess}"
        )
    if all(one.is_control for one in schedules):
        raise DataError(f"{labels.said} has no perturbed cell; nothing can be learnt.")


def require_some(adata: AnnData, genes: pd.Index) -> None:
    """Refuses an AnnData without cells or without genes.

    Args:
        adata: The cells.
        genes: Names of the genes.

    Raises:
        DataError: There is none.
    """
    if adata.n_obs == 0 or len(genes) == 0:
        what = "cell" if adata.n_obs == 0 else "gene"
        raise DataError(f"the AnnData has no {what}; give cells x genes.")
