"""Several fits of one program, asked as one posterior."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, final

import numpy as np
import xarray as xr

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.splits import Split
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import FitError, ModelError
from pyro_citevae.infer import idata
from pyro_citevae.infer.discrepancy import Discrepancy
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.predictive import Predictive
from pyro_citevae.infer.run_record import ENSEMBLE, RECORD, facts_of, sealed
from pyro_citevae.kinds import RUN
from pyro_citevae.program import LatentDynamics
from pyro_citevae.whole_files import aside

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Ensemble"]


@final
class Ensemble(Predictive):
    """Posteriors of one program fitted from different seeds: a mixture with equal weights, a chain each.

    A single fit finds one of many explanations of the same data, and is sure of it. What the members
    disagree on widens every interval, and their mean errs less than any of them. Programs have no common
    order across members, so draws of global sites must not be averaged over chains.

    Args:
        posteriors: Two fits or more, of the same classes to the same data.

    Raises:
        FitError: There are fewer than two, or they are of different classes or data.

    Example:
        >>> import pyro_citevae as cv
        >>> from pyro_citevae.guides import MeanField
        >>> from pyro_citevae.models import StaticShift
        >>> data = cv.simulate(n_cells=30).data
        >>> model = StaticShift(data.schema, n_programs=2, hidden=4)
        >>> guide = MeanField(model, hidden=4)
        >>> fits = [cv.fit(model, guide, data, max_epochs=1, progress=False, seed=s) for s in range(2)]
        >>> cv.Ensemble(fits).effect(cv.do("gene_0"), draws=5).sizes["chain"]
        2

    Source: B. Lakshminarayanan, A. Pritzel, C. Blundell, Simple and Scalable Predictive Uncertainty
    Estimation using Deep Ensembles (2017).
    """

    def __init__(self, posteriors: Sequence[Posterior]) -> None:
        if len(posteriors) < 2:
            raise FitError(f"Ensemble(posteriors) holds {len(posteriors)}; fit two seeds at least.")
        for what, values in (
            ("model and guide", {one.name for one in posteriors}),
            ("schema", {one.schema.digest for one in posteriors}),
            ("training data", {one.record["data"] for one in posteriors}),
        ):
            if len(values) > 1:
                raise FitError(f"Ensemble(posteriors) mixes fits of another {what}; fit all to the same.")
        self.posteriors = tuple(posteriors)

    @property
    def members(self) -> tuple[tuple[LatentDynamics, AmortizedGuide], ...]:
        """The fitted models, each with its guide."""
        return tuple(one.members[0] for one in self.posteriors)

    @property
    def discrepancies(self) -> tuple[Discrepancy | None, ...]:
        """The members' own."""
        return tuple(one.discrepancy for one in self.posteriors)

    @property
    def record(self) -> dict[str, Any]:
        """What the members have in common: the first one's record."""
        return self.posteriors[0].record

    @property
    def split(self) -> Split | None:
        """What was held out of training."""
        return self.posteriors[0].split

    def facts(self) -> dict[str, str]:
        """Number of fits, model, guide and sizes."""
        return {"fits": str(len(self.posteriors)), **facts_of(*self.members[0], self.record)}

    def adapt(self, controls: Trajectories | AnnData, *, progress: bool = True) -> Ensemble:
        """The members with contexts that training did not have; see :meth:`Posterior.adapt`."""
        given = self._taken(controls)
        return Ensemble([one.adapt(given, progress=progress) for one in self.posteriors])

    def bound(self, data: Trajectories, **options: Any) -> float:
        """The members' mean bound, in nats a cell: a bound for the mixture, by Jensen's inequality."""
        return float(np.mean([one.bound(data, **options) for one in self.posteriors]))

    def latent(self, data: Trajectories, **options: Any) -> NoReturn:
        """Refuses: programs have no common order across members, so states have no mean.

        Raises:
            ModelError: Always; the sentence says how to ask one member.
        """
        raise _of_one_member("latent(data)")

    def annotate(self, adata: AnnData, **options: Any) -> NoReturn:
        """Refuses, as :meth:`latent` does.

        Raises:
            ModelError: Always; the sentence says how to ask one member.
        """
        raise _of_one_member("annotate(adata)")

    def to_datatree(self, data: Trajectories | None = None, **options: Any) -> xr.DataTree:
        """The members' trees, joined along ``chain``; see :meth:`Posterior.to_datatree`."""
        trees = [one.to_datatree(data, **options) for one in self.posteriors]
        shared = [name for name in trees[0].children if all(name in tree.children for tree in trees)]
        groups = {name: _joined([tree[name].to_dataset() for tree in trees]) for name in shared}
        joined = xr.DataTree.from_dict(groups)
        idata.attribute(joined, **{name: trees[0].attrs[name] for name in ("model", "guide")})
        return joined

    def to_arviz(self, data: Trajectories | None = None, **options: Any) -> Any:
        """The tree of :meth:`to_datatree`, in the form that the installed ArviZ takes."""
        return idata.as_arviz(self.to_datatree(data, **options))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Writes a folder with a run's folder for each member, whole or not at all.

        Args:
            path: Folder to make.
            overwrite: Whether a run that is there already may be replaced.

        Raises:
            RunError: The folder exists and is not to be replaced, is no run, or cannot be written.
        """
        with aside(path, overwrite=overwrite, kind=RUN) as folder:
            folder.mkdir()
            records: dict[str, bytes] = {}
            for chain, one in enumerate(self.posteriors):
                one.write(folder / f"member_{chain}")
                records[f"member_{chain}/{RECORD}"] = (folder / f"member_{chain}" / RECORD).read_bytes()
            (folder / ENSEMBLE).write_bytes(sealed({"members": len(self.posteriors)}, records))


def _of_one_member(call: str) -> ModelError:
    return ModelError(
        f"ensemble.{call} would mix programs of different fits, which have no common order; ask one of them, "
        f"with ensemble.posteriors[0].{call}."
    )


def _joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    if "chain" not in parts[0].dims:
        return parts[0]
    return xr.concat(
        [part.assign_coords(chain=[chain]) for chain, part in enumerate(parts)],
        dim="chain",
        data_vars="minimal",
        coords=[name for name in idata.NAMES if name in parts[0].coords],  # programs are each member's own
    )
