"""Renderers by name."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from pyro_citevae.errors import DataError
from pyro_citevae.scenes.render.egl_renderer import EglRenderer
from pyro_citevae.scenes.render.mesh import Mesh
from pyro_citevae.scenes.render.renderer import NumpyRenderer, Renderer

__all__ = ["BACKENDS", "open_renderer"]

BACKENDS: MappingProxyType[str, type[Renderer]] = MappingProxyType(
    {one.name: one for one in (NumpyRenderer, EglRenderer)}
)


def open_renderer(backend: str, meshes: Sequence[Mesh]) -> Renderer:
    """Makes the renderer of a name.

    Args:
        backend: ``"numpy"``; ``"egl"``; or ``"auto"``, which is egl where it can be had and else numpy.
        meshes: The objects, by number of the shape.

    Raises:
        DataError: There is no such backend, or what it needs is missing.

    Example:
        >>> from pyro_citevae.scenes.render import meshes
        >>> open_renderer("numpy", meshes()).name
        'numpy'
    """
    if backend == "auto":
        try:
            return EglRenderer(meshes)
        except DataError:
            return NumpyRenderer(meshes)
    if backend not in BACKENDS:
        raise DataError(f"'{backend}' is no backend; the backends are {', '.join(BACKENDS)} and auto.")
    return BACKENDS[backend](meshes)
