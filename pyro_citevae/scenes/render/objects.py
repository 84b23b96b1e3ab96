"""The objects by number of their shape: the teapot, six solids, or meshes of one's own in their places."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from pyro_citevae.errors import DataError
from pyro_citevae.scenes.dynamics import SHAPES
from pyro_citevae.scenes.render.mesh import SUFFIXES, Mesh, read_mesh
from pyro_citevae.scenes.render.solids import SOLIDS

__all__ = ["meshes"]


def meshes(folder: str | Path | None = None) -> tuple[Mesh, ...]:
    """The seven objects: the Utah teapot, and a solid for each other shape of the published layout.

    Args:
        folder: Folder of meshes (``.npz`` or ``.obj``) named after shapes of the layout, such as ``cow.obj``;
            each takes the place of that shape.

    Raises:
        DataError: The folder holds no mesh, one that is named after no shape, or one that cannot be read.

    Example:
        >>> [len(mesh.faces) for mesh in meshes()][0]
        992
    """
    found = {} if folder is None else _named(Path(folder))
    shipped = resources.files("pyro_citevae.scenes") / "files" / "teapot.npz"
    with resources.as_file(shipped) as path:
        standing = [read_mesh(found.pop(SHAPES[0], path))]
    for shape, solid in zip(SHAPES[1:], SOLIDS.values(), strict=True):
        standing.append(read_mesh(found[shape]) if shape in found else solid())
    return tuple(standing)


def _named(folder: Path) -> dict[str, Path]:
    """The mesh files of a folder by shape."""
    files = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES)
    if not files:
        raise DataError(f"meshes('{folder}') finds no mesh; put .npz or .obj files there, such as cow.obj.")
    for path in files:
        if path.stem not in SHAPES:
            raise DataError(
                f"the mesh '{path}' is named after no shape; name it after the one it stands for: "
                f"{', '.join(SHAPES)}."
            )
    found = {path.stem: path for path in files}
    if len(found) < len(files):
        raise DataError(f"meshes('{folder}') finds two meshes of one name; leave one of them.")
    return found
