"""The same scene drawn by OpenGL without a window (EGL), on a graphics card or by Mesa in software."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from jaxtyping import Float

from pyro_citevae.errors import DataError, reason
from pyro_citevae.scenes.render import scene
from pyro_citevae.scenes.render.mesh import Mesh
from pyro_citevae.scenes.render.renderer import AREA_MAP, SAMPLES, SPOT_MAP, Renderer
from pyro_citevae.scenes.render.scene import Stage, View
from pyro_citevae.scenes.render.shadow_map import OFFSET, light_view

__all__ = ["EglRenderer"]

_NEAREST = 0.1  # depth before which nothing is drawn

# Rows go down in our images and up in OpenGL's: y is turned, so that what is read is in our order.
_PLACE = """
#version 330
uniform vec3 eye; uniform mat3 axes; uniform float tangent;
in vec3 corner; in vec3 corner_normal;
out vec3 point; out vec3 normal;
void main() {
    point = corner; normal = corner_normal;
    vec3 seen = (corner - eye) * axes;
    gl_Position = vec4(seen.x / tangent, -seen.y / tangent, seen.z - 2.0 * NEAREST, seen.z);
}
""".replace("NEAREST", str(_NEAREST))

_KEEP = """
#version 330
in vec3 point; in vec3 normal;
layout(location = 0) out vec4 place; layout(location = 1) out vec4 turned;
void main() { place = vec4(point, gl_FragCoord.w); turned = vec4(normal, 1.0); }
"""

_WHOLE = """
#version 330
in vec2 corner;
void main() { gl_Position = vec4(corner, 0.0, 1.0); }
"""

# `shade` is radiance() of NumpyRenderer, `lit` is ShadowMap.lit
_SHADE = f"""
#version 330
uniform sampler2D places; uniform sampler2D normals; uniform sampler2D spot_map; uniform sampler2D area_map;
uniform vec3 eye; uniform mat3 axes; uniform float tangent;
uniform vec3 spot_eye; uniform mat3 spot_axes; uniform float spot_tangent;
uniform vec3 area_eye; uniform mat3 area_axes; uniform float area_tangent;
uniform vec3 object_colour; uniform vec3 ground_colour; uniform vec3 spot_colour;
out vec3 light;

float lit(sampler2D map, vec3 from, mat3 turn, float spread, int soft, vec3 point, vec3 normal) {{
    int size = textureSize(map, 0).x;
    vec3 seen = (point + {OFFSET} * normal - from) * turn;
    if (seen.z <= 0.0) return 1.0;
    vec2 at = 0.5 * float(size) * (1.0 + vec2(seen.x, -seen.y) / (spread * seen.z));
    if (any(greaterThanEqual(abs(at - 0.5 * float(size)), vec2(0.5 * float(size) + float(soft))))) return 1.0;
    vec2 corner = at - float(soft);
    ivec2 first = ivec2(floor(corner));
    vec2 rest = corner - floor(corner);
    float reached = 0.0;
    for (int down = 0; down <= 2 * soft; ++down)
        for (int right = 0; right <= 2 * soft; ++right) {{
            ivec2 cell = first + ivec2(right, down);
            bool inside = all(greaterThanEqual(cell, ivec2(0))) && all(lessThan(cell, ivec2(size)));
            float met = inside ? texelFetch(map, cell, 0).w : 0.0;
            float across = right == 0 ? 1.0 - rest.x : right == 2 * soft ? rest.x : 1.0;
            float along = down == 0 ? 1.0 - rest.y : down == 2 * soft ? rest.y : 1.0;
            reached += met <= 1.0 / seen.z ? across * along : 0.0;
        }}
    return reached / float(4 * soft * soft);
}}

void main() {{
    vec2 at = (gl_FragCoord.xy * 2.0 / {SAMPLES}.0 - 1.0) * tangent;
    vec3 way = axes * vec3(at.x, -at.y, 1.0);
    float depth = ({scene.GROUND_HEIGHT} - eye.z) / way.z;
    vec4 place = texelFetch(places, ivec2(gl_FragCoord.xy), 0);
    vec3 point = eye + way * depth, normal = vec3(0.0, 0.0, 1.0), colour = ground_colour;
    if (place.w > 1.0 / depth) {{
        point = place.xyz;
        normal = normalize(texelFetch(normals, ivec2(gl_FragCoord.xy), 0).xyz);
        if (dot(normal, eye - point) < 0.0) normal = -normal;
        colour = object_colour;
    }}
    vec3 to_area = area_eye - point;
    float far = length(to_area);
    to_area /= far;
    float white = {scene.AMBIENT} + {scene.SUN_GAIN} * max(normal.z, 0.0)
        + {scene.AREA_GAIN} * max(dot(to_area, normal), 0.0) * max(to_area.z, 0.0)
        * pow(area_eye.z / far, 2.0)
        * lit(area_map, area_eye, area_axes, area_tangent, {AREA_MAP["softness"]}, point, normal);
    vec3 to_spot = normalize(spot_eye - point);
    float edge = {np.cos(scene.CONE / 2)};
    float t = clamp((dot(to_spot, -spot_axes[2]) - edge) / ((1.0 - edge) * {scene.CONE_BLEND}), 0.0, 1.0);
    float spot = {scene.SPOT_GAIN} * t * t * (3.0 - 2.0 * t) * max(dot(to_spot, normal), 0.0)
        * lit(spot_map, spot_eye, spot_axes, spot_tangent, {SPOT_MAP["softness"]}, point, normal);
    light = colour / {np.pi} * (white + spot * spot_colour);
}}
"""


@final
class EglRenderer(Renderer):
    """Deferred shading in three passes: what two lights see, what the camera sees, and its light.

    Args:
        meshes: The objects, by number of the shape.

    Raises:
        DataError: moderngl is not installed, or there is no EGL.
    """

    name = "egl"

    def __init__(self, meshes: Sequence[Mesh]) -> None:
        super().__init__(meshes)
        self._camera = scene.camera()
        self._context = context = _context()
        self._place = context.program(vertex_shader=_PLACE, fragment_shader=_KEEP)
        self._shade = context.program(vertex_shader=_WHOLE, fragment_shader=_SHADE)
        most = max(mesh.corners.size for mesh in self.meshes)
        self._corners = context.buffer(reserve=8 * most, dynamic=True)
        layout = [(self._corners, "3f 3f", "corner", "corner_normal")]
        self._object = context.vertex_array(self._place, layout)
        whole = context.buffer(np.array([-1, -1, 3, -1, -1, 3], dtype="f4"))
        self._image = context.vertex_array(self._shade, [(whole, "2f", "corner")])
        self._seen = self._target(SAMPLES)
        self._maps = {"spot": self._target(SPOT_MAP["size"]), "area": self._target(AREA_MAP["size"])}
        self._light = context.framebuffer([context.texture((SAMPLES, SAMPLES), 4, dtype="f4")])
        textures = (*self._seen.color_attachments, *(one.color_attachments[0] for one in self._maps.values()))
        for unit, (sampler, texture) in enumerate(
            zip(("places", "normals", "spot_map", "area_map"), textures, strict=True)
        ):
            self._shade[sampler] = unit
            texture.use(unit)

    def radiance(self, stage: Stage) -> Float[np.ndarray, "sample 3"]:
        """Linear light of each sample, as :class:`NumpyRenderer` has it."""
        both = np.concatenate([stage.corners, stage.normals], axis=-1).astype("f4")
        self._corners.write(both.tobytes())
        self._context.enable(self._context.DEPTH_TEST)
        self._draw(self._seen, self._camera, both)
        self._set(self._shade, "", self._camera)
        for name, light in (("spot", stage.spotlight), ("area", np.array(scene.AREA_LIGHT))):
            view = light_view(light, stage)
            self._draw(self._maps[name], view, both)
            self._set(self._shade, f"{name}_", view)
        for name in ("object_colour", "ground_colour", "spot_colour"):
            self._shade[name] = tuple(getattr(stage, name))
        self._context.disable(self._context.DEPTH_TEST)
        self._light.use()
        self._image.render(vertices=3)
        read = self._light.read(components=3, dtype="f4")
        return np.frombuffer(read, dtype="f4").reshape(-1, 3)

    def _target(self, size: int) -> Any:
        """An image of points, with one over the depth, and of normals."""
        textures = [self._context.texture((size, size), 4, dtype="f4") for _ in range(2)]
        return self._context.framebuffer(textures, self._context.depth_renderbuffer((size, size)))

    def _draw(self, target: Any, view: View, corners: Float[np.ndarray, "face corner 6"]) -> None:
        """Draws the object as a view has it."""
        self._set(self._place, "", view)
        target.use()
        target.clear()
        self._object.render(vertices=3 * len(corners))

    @staticmethod
    def _set(program: Any, prefix: str, view: View) -> None:
        """Tells a program of a view; the rows of its axes are the columns of the shader's matrix."""
        program[f"{prefix}eye"] = tuple(view.eye)
        program[f"{prefix}axes"] = tuple(view.axes.ravel())
        program[f"{prefix}tangent"] = view.tangent


def _context() -> Any:
    """A context without a window."""
    try:
        import moderngl  # an optional extra
    except ImportError as error:
        raise DataError(
            "the backend 'egl' needs moderngl; pip install 'pyro-citevae[egl]', or take the backend 'numpy'."
        ) from error
    try:
        settings: dict[str, Any] = {"backend": "egl"}  # its annotation asks for what it refuses
        return moderngl.create_context(standalone=True, **settings)
    except Exception as error:  # moderngl raises a bare Exception
        raise DataError(
            f"the backend 'egl' finds no EGL ({reason(error).rstrip('.')}); install it (Debian: libegl1 "
            "and libgl1-mesa-dri), or take the backend 'numpy'."
        ) from error
