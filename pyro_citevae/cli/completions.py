"""Values that a shell completes, where they are a short list."""

from __future__ import annotations

from collections.abc import Callable

from pyro_citevae.data import datasets

__all__ = ["one_of", "screens", "known_classes", "known_guides", "known_models"]


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Completes one of these names.

    Example:
        >>> one_of("cpu", "gpu", "auto")("g")
        ['gpu']
    """

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def screens(incomplete: str) -> list[str]:
    """Completes a shipped screen; where none begins so, the shell completes a file."""
    return one_of(*datasets.CATALOGUE)(incomplete)


def known_models(incomplete: str) -> list[str]:
    """Completes a model, those of installed plug-ins among them."""
    return _listed("model", incomplete)


def known_guides(incomplete: str) -> list[str]:
    """Completes a guide, those of installed plug-ins among them."""
    return _listed("guide", incomplete)


def known_classes(incomplete: str) -> list[str]:
    """Completes a model or a guide."""
    return [*known_models(incomplete), *known_guides(incomplete)]


def _listed(kind: str, incomplete: str) -> list[str]:
    from pyro_citevae import registry  # which takes seconds

    return one_of(*(one.name for one in registry.listings() if one.kind == kind))(incomplete)
