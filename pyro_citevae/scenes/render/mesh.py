"""Triangle meshes: read from a file, put to one size, with the normals that smooth shading needs."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from pyro_citevae.errors import DataError, reason

__all__ = ["Mesh", "read_mesh"]

_CREASE = np.cos(np.radians(40))  # faces that meet at a wider angle keep an edge between them
SUFFIXES = (".npz", ".obj")


@final
@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles in space.

    Attributes:
        vertices: Points.
        faces: Three vertices a triangle, counter-clockwise from outside.

    Raises:
        DataError: A face names a vertex that is not there, a coordinate is not finite, or nothing has a size.

    Example:
        >>> corner = Mesh(np.vstack([np.zeros(3), np.eye(3)]), np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1]]))
        >>> corner.unit().vertices.max(axis=0)
        array([0.5, 0.5, 0.5])
    """

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]

    def __post_init__(self) -> None:
        n, faces = len(self.vertices), self.faces
        if not faces.size:
            raise DataError("the mesh has no face; give a mesh of triangles.")
        if faces.min() < 0 or faces.max() >= n:
            raise DataError(f"a face names vertex {faces.max()} of {n}; number the vertices from 0.")
        if not np.isfinite(self.vertices).all():
            raise DataError("a vertex of the mesh is not finite; mend the mesh.")
        if not np.ptp(self.vertices, axis=0).any():
            raise DataError("all vertices of the mesh lie in one point; mend the mesh.")

    @cached_property
    def corners(self) -> Float[np.ndarray, "face corner 3"]:
        """The points of each triangle."""
        return self.vertices[self.faces]

    @cached_property
    def normals(self) -> Float[np.ndarray, "face corner 3"]:
        """Unit normals at the corners: the mean over the vertex's faces, by area, across no sharp edge."""
        one, two, three = np.moveaxis(self.corners, 1, 0)
        area = np.cross(two - one, three - one)
        flat = area / np.maximum(np.linalg.norm(area, axis=-1, keepdims=True), 1e-12)
        corner = np.arange(self.faces.size)
        face = corner // 3
        shape = (len(corner), len(self.vertices))
        at = sparse.csr_matrix((np.ones(len(corner)), (corner, self.faces.ravel())), shape=shape)
        beside = (at @ (at.T @ sparse.csr_matrix((np.ones(len(corner)), (corner, face))))).tocoo()
        smooth = np.einsum("ni,ni->n", flat[face[beside.row]], flat[beside.col]) > _CREASE
        rows, columns = beside.row[smooth], beside.col[smooth]
        mean = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=beside.shape) @ area
        length = np.linalg.norm(mean, axis=-1, keepdims=True)
        normals = np.where(length > 0, mean / np.maximum(length, 1e-12), flat[face])
        return normals.reshape(len(self.faces), 3, 3)

    @cached_property
    def radius(self) -> float:
        """Of the sphere around the origin that holds the mesh."""
        return float(np.linalg.norm(self.vertices, axis=1).max())

    @cached_property
    def digest(self) -> str:
        """A hash of the triangles."""
        return hashlib.sha256(np.ascontiguousarray(self.corners).tobytes()).hexdigest()[:16]

    def unit(self) -> Mesh:
        """The mesh with its bounding box around the origin, whose longest side is one."""
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        return Mesh((self.vertices - (low + high) / 2) / (high - low).max(), self.faces)


def read_mesh(path: str | Path) -> Mesh:
    """Reads a mesh and puts it to unit size.

    Args:
        path: A ``.npz`` file with ``vertices`` (vertex, 3) and ``faces`` (face, 3), or a Wavefront
            ``.obj`` file, whose polygons are cut into triangles.

    Raises:
        DataError: The file cannot be read as a mesh.
    """
    path = Path(path)
    readers = dict(zip(SUFFIXES, (_read_npz, _read_obj), strict=True))
    if path.suffix not in readers:
        raise DataError(
            f"the mesh '{path}' ends in neither {' nor '.join(SUFFIXES)}; convert it to one of them."
        )
    try:
        vertices, faces = readers[path.suffix](path)
        return Mesh(np.asarray(vertices, float).reshape(-1, 3), np.asarray(faces, int).reshape(-1, 3)).unit()
    except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile, DataError) as error:
        raise DataError(
            f"'{path}' cannot be read as a mesh ({reason(error).rstrip('.')}); give an npz with vertices "
            "(vertex, 3) and faces (face, 3), or an obj."
        ) from error


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as held:
        return held["vertices"], held["faces"]


def _read_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The ``v`` and ``f`` lines: a vertex is counted from 1, or back from the last one if negative."""
    vertices: list[list[float]] = []
    faces: list[tuple[int, int, int]] = []
    for line in path.read_text().splitlines():
        match line.split():
            case ["v", *values]:
                vertices.append([float(value) for value in values[:3]])
            case ["f", *words]:
                numbers = [int(word.partition("/")[0]) for word in words]
                first, *others = [one - 1 if one > 0 else len(vertices) + one for one in numbers]
                faces += [(first, *pair) for pair in pairwise(others)]
    return np.array(vertices), np.array(faces)
