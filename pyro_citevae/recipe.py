"""The recipe: from names and settings to features, a model, a guide and a fit, one way for all commands."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, final

from pyro_citevae import config, registry
from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.config import Part
from pyro_citevae.data import Trajectories
from pyro_citevae.data.features import GeneFeatures, coexpression, from_table, gene_ontology
from pyro_citevae.errors import CiteVAEError, ModelError
from pyro_citevae.infer import FitSettings, Posterior, fit
from pyro_citevae.infer.fit_settings import settings_of
from pyro_citevae.program import LatentDynamics

_SPECIES = "gene-ontology:mouse (terms of the human genes of the same letters, an approximation)"

__all__ = ["Recipe", "described", "features_of", "features_of_run", "takes_features"]


@final
@dataclass(frozen=True)
class Recipe:
    """What a fit is made from, by name.

    Attributes:
        model: Name of the model, and its arguments.
        guide: Name of the guide, and its arguments.
        fit: Fields of :class:`~pyro_citevae.infer.FitSettings`.
        features: What the model knows of genes, as :func:`features_of` reads it.

    Example:
        >>> Recipe(Part(name="CiteVAE"), Part(name="MeanField")).model_class.__name__
        'CiteVAE'
    """

    model: Part
    guide: Part
    fit: Mapping[str, Any] = field(default_factory=dict)
    features: str = "none"

    @classmethod
    def of(cls, settings: config.Settings, features: str = "none") -> Recipe:
        """The recipe that a TOML file's tables give."""
        return cls(settings.model, settings.guide, settings.fit, features)

    @property
    def model_class(self) -> type[LatentDynamics]:
        """The model's class.

        Raises:
            ModelError: There is no such model.
        """
        return registry.find_model(self.model.name)

    @property
    def guide_class(self) -> type[AmortizedGuide]:
        """The guide's class.

        Raises:
            ModelError: There is no such guide.
        """
        return registry.find_guide(self.guide.name)

    @property
    def fit_settings(self) -> FitSettings:
        """How the fit is made.

        Raises:
            FitError: A setting is unknown or out of range.
        """
        return settings_of(dict(self.fit))

    def require(self) -> Recipe:
        """Returns the recipe if its classes can be found and its settings are in range.

        Raises:
            ModelError: A class is unknown.
            FitError: A setting is unknown or out of range.
        """
        registry.find_model(self.model.name)
        registry.find_guide(self.guide.name)
        settings_of(dict(self.fit))
        return self

    def made(self, train: Trajectories, *, plain: bool = False) -> tuple[LatentDynamics, AmortizedGuide]:
        """The model and the guide for a screen, not fitted.

        Args:
            train: The training cells.
            plain: Let a model that takes no features go without.

        Raises:
            ModelError: A class cannot be found or made, or the model takes no features.
            DataError: The features cannot be read.
        """
        model, part = self.model_class, self.model
        known = features_of(self.features, train, plain=False)
        if known is not None and takes_features(model):
            part = Part(**{"features": known, "name": part.name, **part.arguments})
        elif known is not None and not plain:
            raise ModelError(
                f"features='{self.features}': {model.__name__} takes no features; fit CiteVAE, or leave them "
                "out."
            )
        made = config.make(model, part, train.schema)
        return made, config.make(self.guide_class, self.guide, made)

    def fitted(self, train: Trajectories, *, plain: bool = False, **training: Any) -> Posterior:
        """The fit.

        Args:
            train: The training cells.
            plain: Let a model that takes no features go without.
            **training: Arguments of :func:`~pyro_citevae.fit` beside its settings, such as ``progress``.

        Raises:
            CiteVAEError: As for :meth:`made` and :func:`~pyro_citevae.fit`.
        """
        model, guide = self.made(train, plain=plain)
        fitted = fit(model, guide, train, **training, **asdict(self.fit_settings))
        if self.features != "none":
            fitted.record["summary"]["features"] = described(self.features)
        return fitted


def described(features: str) -> str:
    """What a run notes of where features came from.

    Args:
        features: As :func:`features_of` reads it.

    Example:
        >>> described("coexpression")
        'coexpression'
    """
    return _SPECIES if features == "gene-ontology:mouse" else features


def features_of_run(record: Mapping[str, Any], train: Trajectories) -> GeneFeatures | None:
    """The features that a run was fitted with, as baselines take them; None where there are none any more.

    Args:
        record: The run's record.
        train: Its training cells.
    """
    said = str(record.get("summary", {}).get("features", "none"))
    try:
        return features_of("gene-ontology:mouse" if said == _SPECIES else said, train, plain=True)
    except CiteVAEError:  # a table that is no longer there
        return None


def features_of(kind: str, train: Trajectories, *, plain: bool) -> GeneFeatures | None:
    """Features of every token, from nothing but the training cells and what is known of genes.

    Args:
        kind: ``"none"``, ``"gene-ontology"``, or ``"gene-ontology:mouse"`` for symbols of mice,
            ``"coexpression"``, or the path of a table.
        train: The training cells.
        plain: Whether the cosine of the terms itself is wanted, as by smoothers that sharpen it themselves,
            or what models take.

    Returns:
        A row a token; None for ``"none"``.

    Raises:
        DataError: The table cannot be read, the species is unknown, or no gene is described.
    """
    tokens = train.schema.tokens
    if kind == "none":
        return None
    known, _, species = kind.partition(":")
    if known == "gene-ontology":
        of: dict[str, Any] = {"species": species} if species else {}
        if not plain:
            return gene_ontology(tokens, **of)
        return gene_ontology(tokens, specificity=1.0, sharpness=None, rank=len(tokens), **of)
    if kind == "coexpression":
        return coexpression(train, tokens)
    return from_table(kind, tokens)


def takes_features(model: type[LatentDynamics]) -> bool:
    """Whether a model's class has an argument for features of genes."""
    return "features" in inspect.signature(model.__init__).parameters
