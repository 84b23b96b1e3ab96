"""The fitted posterior: draws, predictions, effects, and a folder on disk without pickle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import pandas as pd
import torch
import xarray as xr

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.arguments import Number, count, whole
from pyro_citevae.class_source import reference
from pyro_citevae.data.splits import Split
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer import idata
from pyro_citevae.infer.adaptation import adapted
from pyro_citevae.infer.bounds import Objective, negative_bound
from pyro_citevae.infer.context_shifts import ContextShifts, context_shifts
from pyro_citevae.infer.contexts_asked import require_known_contexts
from pyro_citevae.infer.diagnosis import Diagnosis, adequacy_of
from pyro_citevae.infer.discrepancy import Discrepancy
from pyro_citevae.infer.fit_tree import FitTree
from pyro_citevae.infer.latent_states import latent_states, write_states
from pyro_citevae.infer.predictive import Predictive
from pyro_citevae.infer.program_genes import ProgramGenes, program_loadings
from pyro_citevae.infer.run_files import RunFiles
from pyro_citevae.infer.run_record import facts_of
from pyro_citevae.infer.saved_run import files_of, parts_of
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.kinds import RUN
from pyro_citevae.program import LatentDynamics
from pyro_citevae.whole_files import aside

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Posterior"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Posterior(Predictive):
    """A fitted model with its guide.

    Every draw is made from a seed, so that equal calls give equal draws, before and after saving.

    Attributes:
        model: The generative program with fitted parameters.
        guide: The amortised guide.
        history: Bound in nats a cell, gradient norm and KL weight by epoch.
        record: Settings, hashes of data and split, package versions.
        split: What was held out of training, if anything was.
        discrepancy: What cells that the fit has not seen say of its errors; None where nothing was learnt.
    """

    model: LatentDynamics
    guide: AmortizedGuide
    history: pd.DataFrame
    record: dict[str, Any]
    split: Split | None = None
    discrepancy: Discrepancy | None = None

    @property
    def discrepancies(self) -> tuple[Discrepancy | None, ...]:
        """Its own."""
        return (self.discrepancy,)

    @property
    def adequacy(self) -> Diagnosis:
        """What the fit says of itself; :func:`~pyro_citevae.analysis.diagnose` looks further."""
        return adequacy_of(self.record.get("course", {}), self.discrepancy, self.model.n_programs)

    def facts(self) -> dict[str, str]:
        """Model, guide, sizes, and what the fit says of itself."""
        said = facts_of(self.model, self.guide, self.record)
        return said | {"adequacy": self.adequacy.verdict.removeprefix("adequacy: ")}

    @property
    def members(self) -> tuple[tuple[LatentDynamics, AmortizedGuide], ...]:
        """The model with its guide."""
        return ((self.model, self.guide),)

    def adapt(self, controls: Trajectories | AnnData, *, progress: bool = True) -> Posterior:
        """The same posterior with contexts that training did not have, from their controls alone.

        What is a context's own (its start, its baseline) is fitted to the controls, with all else fixed
        (:func:`~pyro_citevae.infer.adaptation.adapted`). :meth:`predict` and :meth:`effect` call it where
        they are given such cells; call it yourself to do it once.

        Args:
            controls: Control cells, read with the model's schema, or an AnnData that holds some.
            progress: Whether to show a bar when it takes more than two seconds.

        Raises:
            DataError: Every context of the cells is known.

        Example:
            >>> import pyro_citevae as cv
            >>> kang = cv.datasets.kang()
            >>> new = kang.obs["cell_type"] == "B cells"
            >>> columns = {"context": "cell_type", "batch": "donor"}
            >>> data = cv.Trajectories.from_anndata(kang[~new], **columns)
            >>> model = cv.models.CiteVAE(data.schema, n_programs=2, hidden=4)
            >>> posterior = cv.fit(model, cv.guides.MeanField(model), data, max_epochs=1, progress=False)
            >>> posterior.adapt(kang[new], progress=False).schema.contexts[-1]
            'B cells'
        """
        return adapted(self, self._taken(controls), progress=progress)

    def bound(
        self,
        data: Trajectories,
        *,
        particles: int = 8,
        objective: Objective = "elbo",
        alpha: float = 0.5,
        seed: int = 0,
    ) -> float:
        """A lower bound on the log evidence of data, in nats a cell.

        Args:
            data: Observed cells.
            particles: Number of draws.
            objective: ``"elbo"``, the tighter ``"iwae"``, or ``"renyi"``.
            alpha: Order of the Renyi bound.
            seed: Seed of the draws.

        Raises:
            DataError: A cell is of a context that the model does not know.
        """
        require_known_contexts(data, self.schema, "posterior.bound(data)")
        negative = negative_bound(self.model, self.guide, objective, alpha=alpha, particles=particles)
        with seeded(seed), torch.no_grad():
            loss = negative(data.batch().to(self.model.device))
        return -float(loss) / data.n_cells

    def latent(
        self, data: Trajectories, *, draws: Number = 20, seed: int = 0, most_cells: Number = 2000
    ) -> pd.DataFrame:
        """Posterior mean of the states of each observation, at its own step.

        ``E[z_{n,t} | x_n]`` and ``E[s_n | x_n]`` under the guide, averaged over draws of the mechanism. Each
        state stands at the mean of its law given the states before it, so that a cell's row does not depend
        on the other cells: the exact mean where these laws are linear. A flow has draws in its place.

        Args:
            data: Observed cells, read with the model's schema.
            draws: Number of draws.
            seed: Seed of the draws.
            most_cells: Cells that are read at once; for the memory.

        Returns:
            A row an observation, in the order of the data set and under the observation's name, with the
            columns ``program_0``, ... and, if the model has invariant states, ``invariant_0``, ... What each
            program is called is in ``attrs["program_names"]``.

        Raises:
            DataError: The cells were read with another schema, or a number is not positive.

        Example:
            >>> import pyro_citevae as cv
            >>> data = cv.simulate(n_cells=30).data
            >>> model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
            >>> guide = cv.guides.MeanField(model, hidden=4)
            >>> posterior = cv.fit(model, guide, data, max_epochs=1, progress=False)
            >>> posterior.latent(data).filter(like="program").shape
            (30, 2)
        """
        states = latent_states(self.guide, data, draws, seed, most_cells)
        states.attrs["program_names"] = {} if self._named is None else dict(self._named.names)
        return states

    def program_genes(self, top: Number = 20, *, draws: Number = 50, seed: int = 0) -> ProgramGenes:
        """The genes that each program moves, what these have in common, and a name for each program.

        ``L_kg = (log E[x_g | z = +1_k] - log E[x_g | z = -1_k]) / 2``, from the emission of a cell whose
        states are at the centre of their prior (:mod:`~pyro_citevae.infer.program_genes`).

        Args:
            top: Genes of each program in the tables.
            draws: Number of draws of the mechanism.
            seed: Seed of the draws.

        Returns:
            ``loadings``, ``table``, ``terms`` (enrichment in the shipped gene ontology) and ``names``.

        Raises:
            DataError: A number is not positive.

        Example:
            >>> import pyro_citevae as cv
            >>> data = cv.simulate(n_cells=30).data
            >>> model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
            >>> posterior = cv.fit(model, cv.guides.MeanField(model), data, max_epochs=1, progress=False)
            >>> posterior.program_genes(top=3, draws=5).table.shape
            (6, 8)
        """
        n_draws, n_top = count(draws, "program_genes(draws=...)"), whole(top, "program_genes(top=...)")
        return ProgramGenes(program_loadings(self.model, self.guide, n_draws, seed), n_top)

    @cached_property
    def _named(self) -> ProgramGenes | None:
        """The programs as :meth:`program_genes` has them by default, by whose names they are exported.

        None of images, whose values are no genes, and where the emission has no mean in closed form.
        """
        if self.schema.image:
            return None
        try:
            return self.program_genes()
        except NotImplementedError:
            return None

    def context_shifts(self, *, draws: Number = 200, seed: int = 0) -> ContextShifts:
        """What each perturbation shifts in each context, and how far contexts differ there.

        Args:
            draws: Number of draws of the mechanism.
            seed: Seed of the draws.

        Returns:
            ``shifts``, draws of ``a`` in each context, and ``table``: how much of each perturbation's shift
            is shared, and which share contexts have apart, with 80 % intervals.

        Raises:
            ModelError: The model has no deviations of contexts.
            DataError: ``draws`` is not positive, or fewer than two contexts have perturbed cells.

        Example:
            >>> import pyro_citevae as cv
            >>> data = cv.simulate(n_cells=60, n_perturbations=2, n_contexts=3).data
            >>> model = cv.models.CiteVAE(data.schema, n_programs=2, hidden=4)
            >>> posterior = cv.fit(model, cv.guides.MeanField(model), data, max_epochs=1, progress=False)
            >>> posterior.context_shifts(draws=10).shifts.dims
            ('chain', 'draw', 'context', 'token', 'program')
        """
        n_draws = count(draws, "context_shifts(draws=...)")
        contexts, known = self.schema.contexts, self.discrepancy
        measured = [name for name in contexts if name not in self.record.get("adapted", {})]
        if known is not None:
            control = known.schema.control
            of = {int(c) for label, c in zip(known.labels, known.contexts, strict=True) if label != control}
            measured = [name for c, name in enumerate(contexts) if c in of]
        return context_shifts(self.model, self.guide, measured, n_draws, seed)

    def annotate(self, adata: AnnData, *, draws: Number = 20, seed: int = 0, **reading: Any) -> None:
        """Writes the posterior mean of each cell's states beside its counts.

        ============================  ======================================================================
        where                         what
        ============================  ======================================================================
        obsm["X_citevae"]             programs at the cell's own step, as :meth:`latent` has them
        obsm["X_citevae_invariant"]   invariant states, if the model has some
        uns["citevae"]                model, guide, draws, seed, package versions; ``programs`` and their
                                      ``program_names``; the tables ``program_genes`` and ``program_terms``
                                      of :meth:`program_genes`
        ============================  ======================================================================

        Rows are matched by the names of the cells, in whatever order; those that are not read, such as
        excluded labels, get NaN and a warning.

        Args:
            adata: Cells with the columns that the training data had.
            draws: Number of draws.
            seed: Seed of the draws.
            **reading: Arguments of :meth:`read`, such as ``new_batches="spread"``.

        Raises:
            DataError: The cells cannot be read as the training data were.

        Example:
            >>> import pyro_citevae as cv
            >>> renge = cv.datasets.renge()[::20].copy()
            >>> data = cv.Trajectories.from_anndata(renge, time="time")
            >>> model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
            >>> guide = cv.guides.MeanField(model, hidden=4)
            >>> cv.fit(model, guide, data, max_epochs=1, progress=False).annotate(renge)
            >>> renge.obsm["X_citevae"].shape == (renge.n_obs, 2)
            True
        """
        n_draws = whole(draws, "posterior.annotate(draws=...)")
        states = self.latent(self.read(adata, **reading), draws=n_draws, seed=seed)
        write_states(adata, states, self.guide, self._named, draws=n_draws, seed=seed)

    def to_datatree(
        self,
        data: Trajectories | None = None,
        *,
        draws: int = 100,
        most_cells: int = 200,
        seed: int = 0,
    ) -> xr.DataTree:
        """The posterior as an ``xarray.DataTree`` with the groups that ArviZ knows.

        ``log_likelihood`` holds ``log p(x_ng | z_n, s_n, mechanism)`` of each value, in the dims of the
        observed values, so that ``arviz.loo`` leaves out one gene of one cell at a time. Its sum over genes
        would leave out a cell, whose states nothing else tells: importance sampling fails there, as Pareto k
        shows. Where the law of a cell does not factorise over genes, there is one number a cell.

        Plots of ArviZ 1.x that take one observed dim want
        :func:`~pyro_citevae.infer.idata.stacked` of the tree.

        Args:
            data: Observed cells for the groups on cells; None for the global sites alone.
            draws: Number of draws.
            most_cells: Cells beyond this number are thinned evenly, since cell-level draws are large.
            seed: Seed of the draws.

        Returns:
            Groups ``posterior`` and ``prior``, ``discrepancy`` if cells were held back, and with data also
            ``posterior_predictive``, ``prior_predictive``, ``log_likelihood``, ``observed_data`` and
            ``constant_data``.

        Raises:
            DataError: ``draws`` or ``most_cells`` is no whole number from 1 on.
        """
        draws, most_cells = (
            count(draws, "to_datatree(draws=...)"),
            count(most_cells, "to_datatree(most_cells=...)"),
        )
        cells = None if data is None else data.thinned(most_cells)
        groups = FitTree(self.model, self.guide, draws).groups(cells, seed)
        groups = {name: idata.with_names(group, self._named) for name, group in groups.items()}
        if self.discrepancy is not None:
            groups["discrepancy"] = idata.discrepancy_dataset(
                self.discrepancy.to_dataset(), self.schema.contexts
            )
        tree = xr.DataTree.from_dict(groups)
        idata.attribute(tree, model=reference(type(self.model)), guide=reference(type(self.guide)))
        return tree

    def to_arviz(self, data: Trajectories | None = None, **options: Any) -> Any:
        """The tree of :meth:`to_datatree`, in the form that the installed ArviZ takes."""
        return idata.as_arviz(self.to_datatree(data, **options))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Writes the run's folder: weights as safetensors, everything else as JSON and parquet.

        The folder is written aside and then renamed, so a half-written one never takes its place.

        Args:
            path: Folder to make.
            overwrite: Whether a run that is there already may be replaced.

        Raises:
            RunError: The folder exists and is not to be replaced, is no run, or cannot be written.
            ModelError: The model was made with an argument that JSON cannot hold.
        """
        with aside(path, overwrite=overwrite, kind=RUN) as folder:
            self.write(folder, Path(path).name)

    def write(self, folder: Path, called: str = "RUN") -> None:
        """Makes a folder and writes the run's files into it; :meth:`save` does so whole or not at all.

        Args:
            folder: The folder.
            called: What its README calls it, where it is to be renamed.
        """
        folder.mkdir()
        for name, content in files_of(self, called).items():
            (folder / name).write_bytes(content)

    @classmethod
    def load(cls, path: str | Path, model: type[LatentDynamics], guide: type[AmortizedGuide]) -> Posterior:
        """Reads a folder that :meth:`save` wrote, for classes that the caller names.

        No code is taken from the folder. :func:`pyro_citevae.load` finds the classes of this package and of
        installed plug-ins. A class whose source file changed since the fit is told by a warning.

        Raises:
            RunError: The folder is no run, is damaged, or belongs to other classes.

        Warns:
            CiteVAEWarning: The run was written before runs had checksums, or a class's source changed.
        """
        return cls(*parts_of(RunFiles.read(Path(path)), model, guide))
