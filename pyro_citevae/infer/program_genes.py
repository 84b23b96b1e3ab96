"""What a program is: the genes that it moves, and what these have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np
import pandas as pd
import pyro
import torch
import xarray as xr
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.enrichment import enrichment
from pyro_citevae.errors import DataError
from pyro_citevae.infer.counterfactuals import Abduction
from pyro_citevae.infer.exchangeability import global_draws
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.program import LatentDynamics
from pyro_citevae.shown import Shown

__all__ = ["ProgramGenes", "program_loadings", "sign_probability", "strongest_genes"]

_SURE = 0.05  # of q, below which a term names a program
_NAMING = 3  # genes that stand for a program
_DRAWS = 20  # of the mechanism, which tell the strongest genes


def program_loadings(model: LatentDynamics, guide: AmortizedGuide, draws: int, seed: int) -> xr.DataArray:
    r"""How far each program moves each gene, over draws of the mechanism.

    ::

        L_kg = (log E[x_g | z = +1_k] - log E[x_g | z = -1_k]) / 2

    around a cell of median library size whose states are at the centre of their prior: one unit is one prior
    standard deviation of z_0. For real values the means themselves are compared. The sign of a program is
    arbitrary.

    Args:
        model: The fitted program.
        guide: Its guide.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        Dims (draw, program, gene), and the coordinate ``top_genes``: the three strongest genes of each
        program.
    """
    K, S = model.n_programs, model.n_invariant
    with seeded(seed), torch.no_grad():
        values = global_draws(guide, draws)
        made = Abduction.of_population(model, range(2 * K), values, draws, seed).cells
        cells = replace(made, technical=torch.zeros_like(made.technical)).to(model.device)
        unit = torch.eye(K, device=model.device)
        z = torch.cat([unit, -unit])[None]
        with pyro.plate("draw", draws, dim=-3):
            mechanism = model.mechanism_at(values)
        seen = model.observation(mechanism, cells.exposure, cells.step, cells.technical)
        mean: Tensor = model.emission(seen, z, z.new_zeros(1, 2 * K, S), cells.library).mean
    mean = mean.expand(draws, 1, 2 * K, -1)[:, 0]
    level = mean if model.schema.values == "real" else mean.clamp(min=1e-30).log()
    loading = (level[:, :K] - level[:, K:]) / 2
    names = [f"program_{k}" for k in range(K)]
    made_of = xr.DataArray(
        loading.double().numpy(force=True),
        dims=("draw", "program", "gene"),
        coords={"draw": np.arange(draws), "program": names, "gene": list(model.schema.genes)},
        name="loading",
        attrs={
            "unit": "log mean count a unit of z" if model.schema.values == "counts" else "value a unit of z"
        },
    )
    order = np.argsort(-np.abs(made_of.mean("draw").to_numpy()), axis=1, kind="stable")[:, :_NAMING]
    top = [", ".join(genes) for genes in made_of.gene.to_numpy()[order]]
    return made_of.assign_coords(top_genes=("program", top))


def strongest_genes(model: LatentDynamics, guide: AmortizedGuide, seed: int) -> dict[str, xr.Variable]:
    """The coordinate ``top_genes`` of what has a dim of programs, by which pictures head them.

    Args:
        model: The fitted program.
        guide: Its guide.
        seed: Seed of the draws.
    """
    return {"top_genes": program_loadings(model, guide, _DRAWS, seed).top_genes.variable}


def sign_probability(values: xr.DataArray, drawn: tuple[str, ...]) -> xr.DataArray:
    """How probable the better supported sign is.

    Args:
        values: The draws.
        drawn: Their dims.
    """
    positive, negative = (values > 0).mean(drawn), (values < 0).mean(drawn)
    return positive.where(positive >= negative, negative)


@final
@dataclass(frozen=True, eq=False, repr=False)
class ProgramGenes(Shown):
    """The genes that programs move, over draws of the mechanism.

    Attributes:
        loadings: How far each program moves each gene, dims (draw, program, gene).
        top: Genes of each program in the tables.
    """

    loadings: xr.DataArray
    top: int

    def __post_init__(self) -> None:
        if self.top < 1:
            raise DataError(f"posterior.program_genes(top={self.top}) must be positive.")

    def facts(self) -> dict[str, str]:
        """What each program is called."""
        return dict(self.names)

    @cached_property
    def table(self) -> pd.DataFrame:
        """The genes that each program moves most: a row a program and gene, the strongest first.

        Columns: ``program``, its ``program_name``, ``rank``, ``gene``, mean ``loading``, its 80 % interval
        ``lower`` and ``upper``, and ``p_sign``, how probable its sign is within this fit. These three are NaN
        where all draws agree: a decoder is fitted, and its uncertainty shows between fits alone.
        """
        made = self._strongest.copy()
        made.insert(1, "program_name", made["program"].map(self.names))
        return made

    @cached_property
    def _strongest(self) -> pd.DataFrame:
        """The table without names."""
        mean = self.loadings.mean("draw")
        lower, upper = (self.loadings.quantile(q, "draw") for q in (0.1, 0.9))
        sure = sign_probability(self.loadings, ("draw",))
        if bool((lower == upper).all()):  # a decoder that is fitted, not drawn, has no spread in one fit
            lower, upper, sure = (one * np.nan for one in (lower, upper, sure))
        rows = []
        for program in self.loadings.program.values:
            order = np.argsort(-np.abs(mean.sel(program=program).to_numpy()), kind="stable")[: self.top]
            at = [one.sel(program=program).to_numpy()[order] for one in (mean, lower, upper, sure)]
            found = dict(zip(("loading", "lower", "upper", "p_sign"), at, strict=True))
            genes = self.loadings.gene.to_numpy()[order]
            rank = np.arange(1, len(order) + 1)
            rows.append(pd.DataFrame({"program": program, "rank": rank, "gene": genes, **found}))
        return pd.concat(rows, ignore_index=True)

    @cached_property
    def terms(self) -> pd.DataFrame:
        """Terms of the gene ontology that these genes have more often than all genes of the screen.

        The table of :func:`~pyro_citevae.data.enrichment.enrichment`, with ``program`` before it.

        Raises:
            DataError: No gene of the screen is in the ontology.
        """
        background = [str(gene) for gene in self.loadings.gene.values]
        parts = [
            enrichment(part["gene"], background).assign(program=program)
            for program, part in self._strongest.groupby("program", sort=False)
        ]
        made = pd.concat(parts, ignore_index=True)
        return made[["program", *made.columns.drop("program")]]

    @property
    def known_terms(self) -> pd.DataFrame:
        """The terms; no row where no gene of the screen is in the ontology."""
        try:
            return self.terms
        except DataError:  # genes of another species, or features that are no genes
            return pd.DataFrame({"program": [], "name": [], "k": [], "q": []})

    @cached_property
    def names(self) -> Mapping[str, str]:
        """A name for each program: its surest term of two genes or more, else its three strongest genes."""
        by_program = self._strongest.groupby("program", sort=False)
        names = {str(program): "/".join(part["gene"][:3]) for program, part in by_program}
        terms = self.known_terms
        sure = terms[(terms["q"] < _SURE) & (terms["k"] >= 2)].groupby("program", sort=False)
        return names | {str(program): str(part["name"].iloc[0]) for program, part in sure}
