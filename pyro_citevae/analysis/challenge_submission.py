"""A submission to the Virtual Cell Challenge: predicted cells of every target beside a context's controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from pyro_citevae.arguments import Number, count, names
from pyro_citevae.arguments import seed as a_seed
from pyro_citevae.data.cell_eval2_files import PERTURBATION, cells_for_cell_eval2
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError
from pyro_citevae.infer.predictive import Predictive

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["challenge_submission"]

_SAID = "challenge_submission"
_MOST_COUNTS = 1_000_000  # of a cell; cell-eval2 rejects more


def challenge_submission(
    posterior: Predictive,
    targets: Sequence[str],
    controls: Trajectories,
    *,
    genes: Sequence[str] | None = None,
    column: str = PERTURBATION,
    control: str | None = None,
    most_cells: int = 400,
    time: Number | None = None,
    draws: int = 50,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda said, done, total: None,
) -> AnnData:
    """Posterior predictive cells of every target, and the controls, in the form of the challenge.

    The challenge takes raw counts on exactly the reference's genes, with exactly its labels, the control's
    among them, and as many cells of a perturbation as one likes; the reference has 400. Cells are those of
    ``posterior.predict(do(target), cells=controls)``, each from a control cell under a draw of the mechanism.

    Args:
        posterior: What was fitted.
        targets: Perturbations; the control among them is passed over, since it is written anyway.
        controls: Control cells of the context, which are written as they are.
        genes: The genes of the reference, in its order; None for those of the schema.
        column: Name of the column of ``obs`` with the labels.
        control: The reference's label of controls; None for the schema's.
        most_cells: Cells of each target, at most: as many as there are controls.
        time: Time to predict; None for the last one of the data.
        draws: Draws of the mechanism that the cells of a target take by turns.
        seed: Seed of the draws of the first target; each further one has the next.
        progress: Called before each target with it, the number of targets done and of all.

    Returns:
        Cells x genes, integers as float32, the targets in their order and then the controls.

    Raises:
        ScheduleError: A target is unknown.
        DataError: The values are no counts, a gene is not modelled, a predicted cell has more counts than the
            challenge takes, or there is nothing to predict.

    Example:
        >>> import pyro_citevae as cv
        >>> data = cv.simulate(n_cells=300, n_genes=8, n_perturbations=2, n_steps=2).data
        >>> model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
        >>> guide = cv.guides.MeanField(model, hidden=4)
        >>> posterior = cv.fit(model, guide, data, max_epochs=1, progress=False)
        >>> made = challenge_submission(posterior, ["gene_0", "gene_1"], data.controls(), most_cells=10)
        >>> made.obs["target"].value_counts()[["gene_0", "gene_1"]].tolist()
        [10, 10]
    """
    schema = posterior.schema
    if schema.values != "counts":
        raise DataError(
            "a submission to the challenge is of counts, and the model has real values; fit counts."
        )
    order = _order(schema.genes, genes)
    label = schema.control if control is None else control
    asked = [one for one in names(targets, f"{_SAID}(targets=...)") if one not in (label, schema.control)]
    schedules = {one: schema.require(schema.schedule(one)) for one in dict.fromkeys(asked)}
    if not schedules or controls.n_cells == 0:
        lacking = "target" if controls.n_cells else "control cell"
        raise DataError(f"{_SAID}(...) has no {lacking}; give one or more.")
    asking: dict[str, Any] = {"draws": draws, "time": time, "progress": False}
    base = controls.thinned(count(most_cells, f"{_SAID}(most_cells=...)"))
    seed = a_seed(seed, f"{_SAID}(seed=...)")
    parts, labels = [], []
    for done, (target, schedule) in enumerate(schedules.items()):
        progress(target, done, len(schedules))
        made = posterior.predict(schedule, cells=base, seed=seed + done, **asking)
        parts.append(sparse.csr_matrix(made.X, dtype=np.float32))
        labels += [target] * made.n_obs
    progress("", len(schedules), len(schedules))
    parts.append(sparse.csr_matrix(controls.stored.tocsr(), dtype=np.float32))
    labels += [label] * controls.n_observations
    x = sparse.vstack(parts).tocsr()[:, order]
    largest = float(x.sum(1).max())
    if largest > _MOST_COUNTS:
        raise DataError(
            f"a cell of the submission has {largest:.0f} counts, and the challenge takes {_MOST_COUNTS}; "
            "give controls of a lower depth."
        )
    return cells_for_cell_eval2(x, np.array(labels), [schema.genes[i] for i in order], column)


def _order(known: Sequence[str], wanted: Sequence[str] | None) -> list[int]:
    """Positions of the genes of the reference, in its order."""
    if wanted is None:
        return list(range(len(known)))
    at = {name: i for i, name in enumerate(known)}
    lacking = [one for one in wanted if one not in at]
    if lacking:
        raise DataError(
            f"the model lacks {len(lacking)} of the {len(wanted)} genes of the submission, such as "
            f"'{lacking[0]}', and the challenge takes no other genes than its own; fit all of them."
        )
    return [at[one] for one in wanted]
