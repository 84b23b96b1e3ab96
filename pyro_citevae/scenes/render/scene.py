"""The scene of C3D-Render: what ten latents and a mesh put before the camera, and under which lights."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from jaxtyping import Float

from pyro_citevae.scenes.render.mesh import Mesh

__all__ = ["SCENE_VERSION", "SIZE", "Stage", "View"]

SCENE_VERSION = 1  # one more whenever an image would change, so that no cache mixes two scenes
SIZE = 64  # pixels in a row, and rows
SUPERSAMPLING = 2  # samples in a pixel's row, and rows
OBJECT_SIZE = 4.5  # S: length of the object's longest side
GROUND_HEIGHT = -OBJECT_SIZE
CAMERA = (8.0, 0.0, 8.0)
FIELD_OF_VIEW = np.radians(71)  # of the whole width
AREA_LIGHT = (0.0, 0.0, 14.0)
CONE = np.radians(35)  # full angle of the spotlight
CONE_BLEND = 0.1  # share of the cone in which it fades
SPOT_GAIN, AREA_GAIN, SUN_GAIN, AMBIENT = 2.39, 1.03, 0.10, 0.02


@final
@dataclass(frozen=True)
class View:
    """A pinhole: of the camera, or of a light that asks what it reaches.

    Attributes:
        eye: Where the pinhole is.
        axes: Rows: to the right, up, and ahead; unit vectors.
        tangent: Of half the angle that the image spans.
    """

    eye: Float[np.ndarray, " 3"]
    axes: Float[np.ndarray, "3 3"]
    tangent: float

    @classmethod
    def towards(cls, eye: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"], tangent: float) -> Self:
        """A view of the target, upright (with x for up where it looks straight down)."""
        ahead = (target - eye) / np.linalg.norm(target - eye)
        right = np.cross(ahead, [0.0, 0.0, 1.0])
        if np.linalg.norm(right) < 1e-6:
            right = np.array([0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        return cls(eye, np.stack([right, np.cross(right, ahead), ahead]), tangent)

    def project(self, points: Float[np.ndarray, "*point 3"], size: int) -> Float[np.ndarray, "*point 3"]:
        """Column, row (downwards, in cells of an image ``size`` cells wide) and one over the depth.

        Example:
            >>> view = View.towards(np.array([0.0, -2.0, 0.0]), np.zeros(3), tangent=1.0)
            >>> view.project(np.array([1.0, 0.0, 1.0]), 64).tolist()
            [48.0, 16.0, 0.5]
        """
        x, y, depth = np.moveaxis((points - self.eye) @ self.axes.T.astype(points.dtype), -1, 0)
        scale = size / 2 / (self.tangent * depth)
        return np.stack([size / 2 + x * scale, size / 2 - y * scale, 1 / depth], axis=-1)

    def directions(self, size: int) -> Float[np.ndarray, "sample 3"]:
        """The direction in which each sample looks, row by row; each goes one unit ahead."""
        across = ((np.arange(size) + 0.5) * 2 / size - 1) * self.tangent
        x, y = np.meshgrid(across, -across)
        return np.stack([x.ravel(), y.ravel(), np.ones(size * size)], axis=-1) @ self.axes


def camera() -> View:
    """The camera, which looks at the origin and sees ground in every pixel."""
    return View.towards(np.array(CAMERA), np.zeros(3), float(np.tan(FIELD_OF_VIEW / 2)))


@final
@dataclass(frozen=True, eq=False)
class Stage:
    """The scene of one image, after Zimmermann et al. (2021) and von Kuegelgen et al. (2021).

    The object, scaled to S, is turned by ``R_z(gamma) R_y(beta) R_x(alpha)`` around ``(x, y, z + S / 2)``;
    the spotlight stands at ``(4 sin theta, 4 cos theta, 6 + S)`` and is aimed at the centre.

    Attributes:
        corners: Of the object's triangles.
        normals: At those corners.
        centre: Of the object.
        radius: Of the sphere around the centre that holds the object.
        spotlight: Where it stands.
        object_colour: Linear red, green and blue, as the two below; ``HSV(hue, 1, 1)``.
        ground_colour: ``HSV(hue, 0.6, 1)``.
        spot_colour: ``HSV(hue, 0.8, 1)``.
    """

    corners: Float[np.ndarray, "face corner 3"]
    normals: Float[np.ndarray, "face corner 3"]
    centre: Float[np.ndarray, " 3"]
    radius: float
    spotlight: Float[np.ndarray, " 3"]
    object_colour: Float[np.ndarray, " 3"]
    ground_colour: Float[np.ndarray, " 3"]
    spot_colour: Float[np.ndarray, " 3"]

    @classmethod
    def of(cls, latents: Float[np.ndarray, " 10"], mesh: Mesh) -> Self:
        """The scene of a row of latents: positions, rotations, spotlight's angle, three hues."""
        x, y, z, alpha, beta, gamma, theta, hue, spot_hue, ground_hue = (float(one) for one in latents)
        rotation = _rotation(alpha, beta, gamma)
        centre = np.array([x, y, z + OBJECT_SIZE / 2])
        return cls(
            corners=OBJECT_SIZE * mesh.corners @ rotation.T + centre,
            normals=mesh.normals @ rotation.T,
            centre=centre,
            radius=OBJECT_SIZE * mesh.radius,
            spotlight=np.array([4 * np.sin(theta), 4 * np.cos(theta), 6 + OBJECT_SIZE]),
            object_colour=_colour(hue, 1.0),
            ground_colour=_colour(ground_hue, 0.6),
            spot_colour=_colour(spot_hue, 0.8),
        )


def _rotation(alpha: float, beta: float, gamma: float) -> Float[np.ndarray, "3 3"]:
    (a, b, c), (d, e, f) = np.cos([alpha, beta, gamma]), np.sin([alpha, beta, gamma])
    about_x = np.array([[1, 0, 0], [0, a, -d], [0, d, a]])
    about_y = np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    about_z = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _colour(hue: float, saturation: float) -> Float[np.ndarray, " 3"]:
    return np.array(colorsys.hsv_to_rgb(hue / (2 * np.pi) % 1, saturation, 1.0))
