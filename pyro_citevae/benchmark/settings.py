"""Settings of a benchmark from TOML, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from pyro_citevae import config
from pyro_citevae.config import Part
from pyro_citevae.data import Simulation, Trajectories, datasets, open_h5ad, simulate
from pyro_citevae.errors import DataError
from pyro_citevae.whole_files import aside

__all__ = ["Settings", "Variant", "settings_from"]

SIMULATED = "simulated"


class Variant(BaseModel):
    """One predictor: what it changes in the benchmark's ``[model]``, ``[guide]`` and ``[fit]``."""

    model_config = ConfigDict(extra="forbid")
    name: str = ""
    model: dict[str, Any] = Field(default_factory=dict)
    guide: dict[str, Any] = Field(default_factory=dict)
    fit: dict[str, Any] = Field(default_factory=dict)


class Settings(config.Settings):
    """What ``citevae benchmark --config`` reads.

    Attributes:
        protocol: Protocol that an ablation is run on.
        guides: Guides that an ablation tries beside that of ``[guide]``; every shipped one if empty.
        dataset: A shipped data set's name, or an h5ad file, read with ``columns``.
        columns: Arguments of :meth:`Trajectories.from_anndata` for a file.
        simulate: Arguments of :func:`simulate`, in place of a data set.
        headline: Reproducible perturbations; the data set's own, or those whose halves agree, if empty.
        folds: Number of folds over what is held out; ``"each"`` for one of the headline at a time. Contexts
            are held out one at a time whatever it is.
        limit: Folds to run, at most.
        seeds: Fits of every variant from so many seeds.
        ensemble: Whether the seeds' ensemble is a predictor beside the single seeds.
        draws: Draws of effects.
        cells: Control cells to predict from, for scores of distributions; 0 leaves these out.
        measured_controls: Whether a model forecasts effects as measured against the controls in training,
            where these are of the scored time: the truth and all baselines are taken against these cells.
        challenge: Whether cell-eval2 scores the predicted cells too.
        features: What models and baselines know of genes: ``"none"``, ``"gene-ontology"``,
            ``"coexpression"``, the path of a table, or ``"simulated"`` for those of a simulated screen.
        baselines: Whether baselines and duplicates are scored too; the ceiling always is.
        network_steps: Training steps of the latent additive network among the baselines.
        reference: Baseline that scaled scores put at 0; the protocol's own if none.
        variants: Predictors beside the one of ``[model]``, ``[guide]`` and ``[fit]``.
    """

    protocol: str = "held-out-time"
    guides: list[str] = Field(default_factory=list)
    dataset: str = "renge"
    columns: dict[str, Any] = Field(default_factory=dict)
    simulate: dict[str, Any] = Field(default_factory=dict)
    headline: list[str] = Field(default_factory=list)
    folds: PositiveInt | Literal["each"] = 5
    limit: PositiveInt | None = None
    seeds: PositiveInt = 5
    ensemble: bool = True
    draws: int = Field(default=200, ge=2)
    cells: int = Field(default=200, ge=0)
    measured_controls: bool = True
    challenge: bool = False
    features: str = "none"
    baselines: bool = True
    network_steps: PositiveInt = 600
    reference: str | None = None
    variants: list[Variant] = Field(default_factory=list)

    @property
    def title(self) -> str:
        """Name of the data in the tables."""
        return "simulated" if self.simulate else Path(self.dataset).stem

    def data(self) -> Trajectories:
        """Reads or simulates the screen.

        Raises:
            DataError: There is no such data, or an argument is unknown.
        """
        try:
            if self.simulate:
                return self._simulated().data
            if self.dataset in datasets.CATALOGUE:
                return datasets.load(self.dataset)
            return Trajectories.from_anndata(open_h5ad(self.dataset), **self.columns)
        except TypeError as error:
            raise DataError(f"the benchmark's data cannot be made from its settings ({error}).") from None

    def described(self, store: Path) -> Settings:
        """The settings with the features of a simulated screen as a table in a folder.

        Raises:
            DataError: No screen is simulated.
        """
        if self.features != SIMULATED:
            return self
        if not self.simulate:
            raise DataError('features = "simulated" is of a simulated screen; add [simulate] or name others.')
        path = store / "features.parquet"
        with aside(path, overwrite=True) as file:
            self._simulated().features().to_parquet(file)
        return self.model_copy(update={"features": str(path)})

    def _simulated(self) -> Simulation:
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in self.simulate.items()
        }
        return simulate(**given)

    def on(self, path: str, columns: dict[str, Any]) -> Settings:
        """The same benchmark on another data set's name or file."""
        changed = {"dataset": path, "columns": columns, "simulate": {}, "headline": []}
        return self.model_copy(update=changed)

    def merged(self, variant: Variant) -> tuple[Part, Part, dict[str, Any]]:
        """Model, guide and fit of a variant; another class does not inherit the arguments of the first."""
        model, guide = (
            _merged(part, changed)
            for part, changed in ((self.model, variant.model), (self.guide, variant.guide))
        )
        return model, guide, {**self.fit, **variant.fit}


def _merged(part: Part, changed: dict[str, Any]) -> Part:
    if changed.get("name", part.name) != part.name:
        return Part(**changed)
    return Part(**{"name": part.name, **part.arguments, **changed})


def settings_from(path: str | Path) -> Settings:
    """Reads a benchmark's TOML file.

    Raises:
        ModelError: The file is missing, is no TOML, or has an unknown or unfit entry.
    """
    return config.settings_as(path, Settings)
