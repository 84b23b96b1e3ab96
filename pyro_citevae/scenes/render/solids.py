"""Six solids made from formulas, none of which a rotation turns into itself.

A solid that a rotation leaves as it is would hide that rotation from every encoder. So each formula has
lengths and angles of which no two agree.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from pyro_citevae.scenes.render.mesh import Mesh

__all__ = ["SOLIDS"]

_Points = Float[np.ndarray, "along around 3"]


def _sheet(points: _Points) -> Mesh:
    """The closed surface of a grid of points whose columns go around; a pole is a row in one point."""
    n, m, _ = points.shape
    i, j = np.meshgrid(np.arange(n - 1), np.arange(m), indexing="ij")
    one, two = i * m + j, i * m + (j + 1) % m
    quads = np.stack([one, two, two + m, one, two + m, one + m], axis=-1)
    return Mesh(points.reshape(-1, 3), quads.reshape(-1, 3)).unit()


def _directions(n: int = 24, m: int = 40) -> _Points:
    """Unit vectors from one pole to the other."""
    polar, azimuth = np.meshgrid(np.linspace(0, np.pi, n), np.arange(m) * 2 * np.pi / m, indexing="ij")
    return np.stack(
        [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), -np.cos(polar)], axis=-1
    )


def _tube(centre: np.ndarray, radius: np.ndarray, m: int = 16) -> Mesh:
    """A tube along a curve, closed by a point at each end."""
    tangent = np.gradient(centre, axis=0)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
    side = np.cross(tangent, np.array([0.36, 0.48, 0.8]))
    side /= np.linalg.norm(side, axis=-1, keepdims=True)
    other = np.cross(tangent, side)
    angle = np.arange(m) * 2 * np.pi / m
    ring = np.cos(angle)[:, None] * side[:, None] + np.sin(angle)[:, None] * other[:, None]
    rings = centre[:, None] + radius[:, None, None] * ring
    ends = [np.broadcast_to(centre[end], (1, m, 3)) for end in (0, -1)]
    return _sheet(np.concatenate([ends[0], rings, ends[1]]))


def _caltrop() -> Mesh:
    """``r(d) = 0.45 + sum_k a_k exp(c_k (d . e_k - 1))``: five spikes of five lengths and widths."""
    d = _directions(32, 56)
    spikes = np.array(
        [[1, 0.1, 0.2], [-0.3, 1, 0.1], [-0.4, -0.6, 0.8], [0.3, -0.9, -0.5], [-0.5, 0.3, -0.9]], float
    )
    spikes /= np.linalg.norm(spikes, axis=1, keepdims=True)
    length, width = np.array([1.1, 0.85, 0.65, 0.45, 0.3]), np.array([14, 10, 12, 8, 6])
    return _sheet(d * (0.45 + (length * np.exp(width * (d @ spikes.T - 1))).sum(axis=-1, keepdims=True)))


def _pebble() -> Mesh:
    """``r(d) = 1 + 0.35 x y + 0.3 y^3 + 0.35 x z^2 - 0.25 x y z``, with axes of 1, 0.7 and 0.5."""
    d = _directions()
    x, y, z = np.moveaxis(d, -1, 0)
    r = 1 + 0.35 * x * y + 0.3 * y**3 + 0.35 * x * z**2 - 0.25 * x * y * z
    return _sheet(d * r[..., None] * np.array([1, 0.7, 0.5]))


def _horn() -> Mesh:
    """A bent and rising cone: ``c(t) = (cos 4t, 0.8 sin 4t, 1.1 t)``, of radius ``0.05 + 0.42 t``."""
    t = np.linspace(0, 1, 40)
    return _tube(np.stack([np.cos(4 * t), 0.8 * np.sin(4 * t), 1.1 * t], axis=-1), 0.05 + 0.42 * t)


def _knot() -> Mesh:
    """An open trefoil, three quarters of its way, that thickens: radius ``0.2 + 0.6 t``."""
    t = np.linspace(0, 1, 72)
    turn = 1.5 * np.pi * t
    centre = np.stack(
        [
            np.sin(turn) + 2 * np.sin(2 * turn),
            np.cos(turn) - 2 * np.cos(2 * turn),
            -1.2 * np.sin(3 * turn),
        ],
        axis=-1,
    )
    return _tube(centre, 0.2 + 0.6 * t, m=14)


def _shell() -> Mesh:
    """A logarithmic spiral of two turns that climbs as it shrinks (Raup 1966)."""
    t = np.linspace(0, 1, 56)
    size = np.exp(-1.9 * t)
    turn = 4 * np.pi * t
    centre = size[:, None] * np.stack([np.cos(turn), np.sin(turn), np.full_like(t, -1.6)], axis=-1)
    return _tube(centre, 0.45 * size, m=18)


def _wedge() -> Mesh:
    """A box, 1 x 0.6 x 1.6, that narrows, leans along y and twists by 70 degrees as it rises."""
    angle = (np.arange(32) + 0.5) * 2 * np.pi / 32
    square = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    square /= np.abs(square).max(axis=-1, keepdims=True)
    height = np.linspace(0, 1, 20)
    twist = np.radians(70) * height
    flat = square * np.array([0.5, 0.3]) * (1 - 0.3 * square[:, :1])
    x, y = (flat[None] * (1 - 0.55 * height[:, None, None])).transpose(2, 0, 1)
    cos, sin = np.cos(twist)[:, None], np.sin(twist)[:, None]
    rise = np.broadcast_to(1.6 * height[:, None], x.shape)
    rings = np.stack([cos * x - sin * y, sin * x + cos * y + 0.35 * rise, rise], axis=-1)
    ends = [np.broadcast_to(rings[end].mean(axis=0), (1, *rings.shape[1:])) for end in (0, -1)]
    return _sheet(np.concatenate([ends[0], rings, ends[1]]))


SOLIDS: MappingProxyType[str, Callable[[], Mesh]] = MappingProxyType(
    {
        "caltrop": _caltrop,
        "pebble": _pebble,
        "horn": _horn,
        "knot": _knot,
        "shell": _shell,
        "wedge": _wedge,
    }
)
