"""From latents to images: what every backend shares, and the one that needs NumPy alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float, Int, UInt8

from pyro_citevae.errors import DataError
from pyro_citevae.scenes.render import scene
from pyro_citevae.scenes.render.mesh import Mesh
from pyro_citevae.scenes.render.rasteriser import rasterise
from pyro_citevae.scenes.render.scene import SIZE, SUPERSAMPLING, Stage
from pyro_citevae.scenes.render.shadow_map import ShadowMap

__all__ = ["NumpyRenderer", "Renderer"]

SAMPLES = SIZE * SUPERSAMPLING
SPOT_MAP = {"size": 64, "softness": 1}
AREA_MAP = {"size": 32, "softness": 3}


class Renderer(ABC):
    """Renders C3D-Render images of 64 x 64 pixels.

    A subclass gives the light that each sample sees; the mean over a pixel's samples is put to sRGB.

    Args:
        meshes: The objects, by number of the shape.
    """

    name: ClassVar[str]

    def __init__(self, meshes: Sequence[Mesh]) -> None:
        self.meshes = tuple(meshes)

    @abstractmethod
    def radiance(self, stage: Stage) -> Float[np.ndarray, "sample 3"]:
        """Linear red, green and blue of each sample, row by row from the top left."""

    @final
    def render(
        self, latents: Float[np.ndarray, "frame 10"], shapes: Int[np.ndarray, " frame"]
    ) -> UInt8[np.ndarray, "frame 64 64 3"]:
        """Renders a frame for each row of latents.

        Args:
            latents: x, y, z in [-2, 2]; alpha, beta, gamma, the spotlight's angle, and the hues of object,
                spotlight and background in [0, 2 pi).
            shapes: Number of each frame's mesh.

        Raises:
            DataError: A shape has no mesh, or a latent is not finite.
        """
        unknown = shapes[(shapes < 0) | (shapes >= len(self.meshes))]
        if unknown.size:
            raise DataError(f"shape {unknown[0]} has no mesh; the shapes are 0 to {len(self.meshes) - 1}.")
        if not np.isfinite(latents).all():
            raise DataError("a latent is not finite; give numbers.")
        images = np.empty((len(latents), SIZE, SIZE, 3), dtype=np.uint8)
        for image, row, shape in zip(images, latents, shapes, strict=True):
            light = self.radiance(Stage.of(row, self.meshes[shape]))
            pixels = light.reshape(SIZE, SUPERSAMPLING, SIZE, SUPERSAMPLING, 3).mean(axis=(1, 3))
            image[:] = np.rint(255 * _srgb(np.clip(pixels, 0, 1)))
        return images


def _srgb(linear: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The transfer curve of IEC 61966-2-1."""
    return np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    )


@final
class NumpyRenderer(Renderer):
    r"""A z-buffer with a shadow map a light, all in NumPy.

    A matt surface of colour rho with normal n sends the camera

    ``rho / pi (ambient + sun (n_z)+ + area v_a (n . l_a)+ (l_az)+ h^2 / d^2 + spot c k v_s (n . l_s)+)``

    with l the direction and d the distance of a light, h the height of the area light, c the spotlight's
    colour, k its cone, and v the share of the light that the object does not keep off.

    Example:
        >>> from pyro_citevae.scenes.render import meshes
        >>> NumpyRenderer(meshes()).render(np.zeros((1, 10)), np.zeros(1, int)).shape
        (1, 64, 64, 3)
    """

    name = "numpy"

    def __init__(self, meshes: Sequence[Mesh]) -> None:
        super().__init__(meshes)
        self._camera = scene.camera()
        ways = self._camera.directions(SAMPLES)
        depth = (scene.GROUND_HEIGHT - self._camera.eye[2]) / ways[:, 2]
        self._ground = (self._camera.eye + ways * depth[:, None]).astype(np.float32)
        self._ground_nearness = 1 / depth

    def radiance(self, stage: Stage) -> Float[np.ndarray, "sample 3"]:
        """Linear light of each sample; see the class."""
        seen = rasterise(self._camera.project(stage.corners, SAMPLES), SAMPLES)
        front = seen.nearness > self._ground_nearness[seen.sample]
        sample, face, weights = seen.sample[front], seen.face[front], seen.weights[front]
        points = self._ground.copy()
        normals = np.zeros_like(points)
        normals[:, 2] = 1
        colour = np.tile(stage.ground_colour.astype(np.float32), (len(points), 1))
        points[sample] = np.einsum("nc,nci->ni", weights, stage.corners[face])
        normals[sample] = self._facing(
            np.einsum("nc,nci->ni", weights, stage.normals[face]), self._camera.eye - points[sample]
        )
        colour[sample] = stage.object_colour
        white = scene.AMBIENT + scene.SUN_GAIN * np.maximum(normals[:, 2], 0) + _area(stage, points, normals)
        spot = _spot(stage, points, normals)
        return (
            colour
            / np.float32(np.pi)
            * (white[:, None] + spot[:, None] * stage.spot_colour.astype(np.float32))
        )

    @staticmethod
    def _facing(
        normals: Float[np.ndarray, "point 3"], to_eye: Float[np.ndarray, "point 3"]
    ) -> Float[np.ndarray, "point 3"]:
        """Unit normals on the side that is seen, since a mesh may be open or inside out."""
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        side = np.where(np.einsum("ni,ni->n", normals, to_eye) < 0, -1.0, 1.0)
        return side[:, None] * normals / np.maximum(length, 1e-9)


def _area(
    stage: Stage, points: Float[np.ndarray, "point 3"], normals: Float[np.ndarray, "point 3"]
) -> Float[np.ndarray, " point"]:
    """What the area light adds."""
    light = np.array(scene.AREA_LIGHT)
    way, distance = _way(light, points)
    shadow = ShadowMap.of(light, stage, **AREA_MAP).lit(points, normals)
    facing = np.maximum(np.einsum("ni,ni->n", way, normals), 0) * np.maximum(way[:, 2], 0)
    return np.float32(scene.AREA_GAIN) * shadow * facing * (np.float32(light[2]) / distance) ** 2


def _spot(
    stage: Stage, points: Float[np.ndarray, "point 3"], normals: Float[np.ndarray, "point 3"]
) -> Float[np.ndarray, " point"]:
    """What the spotlight adds, of the colour one; it does not fade with distance, as theirs."""
    way, _ = _way(stage.spotlight, points)
    axis = (stage.spotlight - stage.centre) / np.linalg.norm(stage.spotlight - stage.centre)
    edge = np.cos(scene.CONE / 2)
    t = np.clip((way @ axis.astype(np.float32) - edge) / ((1 - edge) * scene.CONE_BLEND), 0, 1)
    cone = (t * t * (3 - 2 * t)).astype(np.float32)
    facing = np.maximum(np.einsum("ni,ni->n", way, normals), 0)
    light = np.float32(scene.SPOT_GAIN) * cone * facing
    reached = np.flatnonzero(light)
    shadow = ShadowMap.of(stage.spotlight, stage, **SPOT_MAP)
    light[reached] *= shadow.lit(points[reached], normals[reached])
    return light


def _way(
    light: Float[np.ndarray, " 3"], points: Float[np.ndarray, "point 3"]
) -> tuple[Float[np.ndarray, "point 3"], Float[np.ndarray, " point"]]:
    """Unit vectors from points to a light, and the distances."""
    way = light.astype(np.float32) - points
    distance = np.sqrt(np.einsum("ni,ni->n", way, way))
    return way / distance[:, None], distance
