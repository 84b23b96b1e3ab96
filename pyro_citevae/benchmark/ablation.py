"""The variants of an ablation: every switch of a model turned, and other guides, one at a time."""

from __future__ import annotations

import inspect

from pyro_citevae import guides, registry
from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.benchmark.settings import Settings, Variant
from pyro_citevae.config import Part

__all__ = ["ablated"]


def ablated(settings: Settings) -> list[Variant]:
    """One variant a switch of the model, and one a guide, beside those that the settings name.

    A switch is a boolean argument of the model: on, it is turned off, and off, it is turned on.

    Args:
        settings: The benchmark, whose model and guide are the ones to vary.

    Example:
        >>> [one.name for one in ablated(Settings())][:2]
        ['CiteVAE/BackwardSmoother without time', 'CiteVAE/BackwardSmoother without onset']
    """
    whole = f"{settings.model.name}/{settings.guide.name}"
    found = []
    for name, default in switches(settings.model).items():
        on = settings.model.arguments.get(name, default)
        said = f"{whole} {'without' if on else 'with'} {name.replace('_', ' ')}"
        found.append(Variant(name=said, model={"name": settings.model.name, name: not on}))
    shipped = [name for name in guides.__all__ if issubclass(getattr(guides, name), AmortizedGuide)]
    others = [name for name in settings.guides or shipped if name != settings.guide.name]
    return [*found, *(Variant(name=f"{settings.model.name}/{one}", guide={"name": one}) for one in others)]


def switches(part: Part) -> dict[str, bool]:
    """The boolean arguments of a model, with their defaults."""
    parameters = inspect.signature(registry.find_model(part.name).__init__).parameters
    return {name: one.default for name, one in parameters.items() if isinstance(one.default, bool)}
