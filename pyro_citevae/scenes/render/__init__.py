"""C3D-Render: images of one object under a spotlight, whose ten latents are known."""

from pyro_citevae.scenes.render.backends import BACKENDS, open_renderer
from pyro_citevae.scenes.render.contact_sheet import contact_sheet
from pyro_citevae.scenes.render.mesh import Mesh, read_mesh
from pyro_citevae.scenes.render.objects import meshes
from pyro_citevae.scenes.render.renderer import NumpyRenderer, Renderer
from pyro_citevae.scenes.render.scene import SCENE_VERSION

__all__ = [
    "BACKENDS",
    "SCENE_VERSION",
    "Mesh",
    "NumpyRenderer",
    "Renderer",
    "contact_sheet",
    "meshes",
    "open_renderer",
    "read_mesh",
]
