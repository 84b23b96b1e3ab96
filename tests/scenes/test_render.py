"""The renderer: projection, depth, shadows, light and colour against geometry; objects; backends."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from pyro_citevae.errors import DataError
from pyro_citevae.scenes import render
from pyro_citevae.scenes.dynamics import SHAPES
from pyro_citevae.scenes.render import Mesh, NumpyRenderer, open_renderer, read_mesh
from pyro_citevae.scenes.render.rasteriser import rasterise
from pyro_citevae.scenes.render.scene import AREA_LIGHT, CONE, GROUND_HEIGHT, OBJECT_SIZE, Stage, camera
from pyro_citevae.scenes.render.shadow_map import ShadowMap

LATENTS = ("x", "y", "z", "alpha", "beta", "gamma", "theta", "hue", "spot_hue", "ground_hue")
SIZE = 128  # samples in a row
RADIUS = OBJECT_SIZE / 2


def ball(n: int = 40) -> Mesh:
    """A sphere of n rings."""
    polar, azimuth = np.meshgrid(np.linspace(0, np.pi, n), np.linspace(0, 2 * np.pi, 2 * n), indexing="ij")
    ring = np.sin(polar)
    points = np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), np.cos(polar)], axis=-1)
    i, j = np.meshgrid(np.arange(n - 1), np.arange(2 * n - 1), indexing="ij")
    one = i * 2 * n + j
    faces = np.stack([one, one + 2 * n, one + 1, one + 1, one + 2 * n, one + 2 * n + 1], axis=-1)
    return Mesh(points.reshape(-1, 3), faces.reshape(-1, 3)).unit()


def row(**values: float) -> np.ndarray:
    return np.array([float(values.get(name, 0.0)) for name in LATENTS])


def scenes(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.hstack([rng.uniform(-2, 2, (n, 3)), rng.uniform(0, 2 * np.pi, (n, 7))]) * (np.arange(10) != 5)


@pytest.fixture(scope="module")
def objects() -> NumpyRenderer:
    return NumpyRenderer(render.meshes())


@pytest.fixture(scope="module")
def balls() -> NumpyRenderer:
    return NumpyRenderer([ball()])


def image(renderer: render.Renderer, shape: int = 0, **values: float) -> np.ndarray:
    return renderer.render(row(**values)[None], np.array([shape]))[0].astype(int)


def covered(mesh: Mesh, **values: float) -> np.ndarray:
    """How many of a pixel's four samples see the object."""
    stage = Stage.of(row(**values), mesh)
    seen = np.zeros(SIZE * SIZE, dtype=int)
    seen[rasterise(camera().project(stage.corners, SIZE), SIZE).sample] = 1
    return seen.reshape(64, 2, 64, 2).sum(axis=(1, 3))


def missed_by(stage: Stage) -> np.ndarray:
    """How far each sample's ray passes the object's centre, in radii."""
    view = camera()
    ways, to_centre = view.directions(SIZE), stage.centre - view.eye
    cosine = ways @ to_centre / np.linalg.norm(ways, axis=1) / np.linalg.norm(to_centre)
    return np.linalg.norm(to_centre) * np.sqrt(1 - cosine**2) / RADIUS


# Geometry


@pytest.mark.parametrize("latents", scenes(4))
def test_a_ball_covers_the_rays_that_meet_it(latents: np.ndarray) -> None:
    stage, view = Stage.of(latents, ball()), camera()
    miss = missed_by(stage)
    seen = np.zeros(SIZE * SIZE, dtype=bool)
    seen[rasterise(view.project(stage.corners, SIZE), SIZE).sample] = True
    assert seen[miss < 0.99].all()
    assert not seen[miss > 1].any()
    assert (miss < 0.99).sum() > 200


def test_each_sample_sees_the_nearest_of_random_triangles() -> None:
    rng, size = np.random.default_rng(0), 24
    corners = np.concatenate([rng.uniform(-4, 28, (30, 3, 2)), rng.uniform(0.2, 2, (30, 3, 1))], axis=-1)
    nearness = np.zeros((30, size, size))
    for face, (one, two, three) in enumerate(corners):
        for r in range(size):
            for c in range(size):
                edges = np.array([two[:2] - one[:2], three[:2] - one[:2]]).T
                s, t = np.linalg.solve(edges, np.array([c + 0.5, r + 0.5]) - one[:2])
                if min(s, t, 1 - s - t) >= 0:
                    nearness[face, r, c] = one[2] + s * (two[2] - one[2]) + t * (three[2] - one[2])
    seen = rasterise(corners, size)
    flat = nearness.reshape(30, -1)
    np.testing.assert_array_equal(seen.sample, np.flatnonzero(flat.any(axis=0)))
    np.testing.assert_array_equal(seen.face, flat.argmax(axis=0)[seen.sample])
    np.testing.assert_allclose(seen.nearness, flat.max(axis=0)[seen.sample], rtol=1e-9)
    # the weights are those of the point in space: they project onto the sample
    x = (seen.weights * corners[seen.face, :, 0] / corners[seen.face, :, 2]).sum(axis=1) * seen.nearness
    np.testing.assert_allclose(x, seen.sample % size + 0.5, rtol=1e-9)


def test_blocks_of_triangles_change_nothing() -> None:
    corners = camera().project(Stage.of(row(), render.meshes()[0]).corners, SIZE)
    whole = rasterise(corners, SIZE)
    cut = rasterise(corners, SIZE, most_pairs=100)
    np.testing.assert_array_equal(cut.sample, whole.sample)
    np.testing.assert_array_equal(cut.nearness, whole.nearness)


def test_what_is_beside_the_image_is_not_seen() -> None:
    assert not len(rasterise(np.array([[[-9.0, 1, 1], [-2, 1, 1], [-5, 9, 1]]]), 8).sample)


@pytest.mark.parametrize("name", ["x", "y", "z"])
def test_the_object_goes_where_the_projection_says(name: str, balls: NumpyRenderer) -> None:
    for value in (-2.0, -0.7, 1.1, 2.0):
        changed = image(balls, hue=0, **{name: value}) != image(balls, hue=2.0, **{name: value})
        meets = missed_by(Stage.of(row(**{name: value}), ball())).reshape(SIZE, SIZE) < 1
        middle = np.argwhere(changed.any(axis=-1)).mean(axis=0) + 0.5
        expected = (np.argwhere(meets).mean(axis=0) + 0.5) / 2
        np.testing.assert_allclose(middle, expected, atol=0.2)
        centre = np.array([0, 0, OBJECT_SIZE / 2]) + value * np.eye(3)["xyz".index(name)]
        # perspective pushes the middle of the outline off the image of the centre
        np.testing.assert_allclose(middle, camera().project(centre, 64)[[1, 0]], atol=1.5)


def test_the_camera_sees_ground_in_every_pixel() -> None:
    assert (camera().directions(SIZE)[:, 2] < 0).all()


@pytest.mark.parametrize("angle", ["alpha", "beta", "gamma"])
def test_an_object_turns_about_its_axis(angle: str) -> None:
    mesh = render.meshes()[1]
    axis = {"alpha": "x", "beta": "y", "gamma": "z"}[angle]
    turned = Stage.of(row(**{angle: 0.7}), mesh).corners - [0, 0, OBJECT_SIZE / 2]
    expected = Rotation.from_euler(axis, 0.7).apply(OBJECT_SIZE * mesh.corners.reshape(-1, 3))
    np.testing.assert_allclose(turned.reshape(-1, 3), expected, atol=1e-12)


# Light


@pytest.mark.parametrize("light", ["spot", "area"])
def test_a_shadow_falls_where_the_ball_is_in_the_way(light: str) -> None:
    stage = Stage.of(row(x=0.5, y=-1, z=1, theta=2.2), ball())
    at = stage.spotlight if light == "spot" else np.array(AREA_LIGHT)
    rng = np.random.default_rng(0)
    points = np.hstack([rng.uniform(-15, 15, (20_000, 2)), np.full((20_000, 1), GROUND_HEIGHT)])
    ways = points - at
    along = (stage.centre - at) @ ways.T / np.linalg.norm(ways, axis=1)
    miss = np.sqrt(np.sum((stage.centre - at) ** 2) - along**2) / RADIUS
    lit = ShadowMap.of(at, stage, size=64, softness=1).lit(points, np.tile([0.0, 0.0, 1.0], (20_000, 1)))
    assert (lit[miss < 0.9] < 0.001).all()
    assert (lit[miss > 1.1] > 0.999).all()
    assert min((miss < 0.9).sum(), (miss > 1.1).sum()) > 100


def test_the_near_side_of_a_ball_does_not_shade_itself() -> None:
    stage = Stage.of(row(theta=1), ball())
    normals = (stage.corners - stage.centre).reshape(-1, 3) / RADIUS
    lit = ShadowMap.of(stage.spotlight, stage, size=64, softness=1).lit(stage.corners.reshape(-1, 3), normals)
    way = stage.spotlight - stage.corners.reshape(-1, 3)
    cosine = np.einsum("ni,ni->n", way, normals) / np.linalg.norm(way, axis=1)
    assert (lit[cosine > 0.4] > 0.99).all()
    assert (lit[cosine < -0.45] < 0.01).all()


def in_cone(theta: float) -> np.ndarray:
    """Pixels with a ground sample that the spotlight's cone holds, were nothing in between."""
    stage, view = Stage.of(row(theta=theta), ball()), camera()
    ways = view.directions(SIZE)
    points = view.eye + ways * ((GROUND_HEIGHT - view.eye[2]) / ways[:, 2])[:, None]
    axis = stage.centre - stage.spotlight
    way = points - stage.spotlight
    cosine = way @ axis / np.linalg.norm(axis) / np.linalg.norm(way, axis=1)
    return (cosine > np.cos(CONE / 2)).reshape(64, 2, 64, 2).any(axis=(1, 3))


@pytest.mark.parametrize("theta", [0.3, 2.5, 5.0])
@pytest.mark.parametrize("shape", range(7))
def test_a_hue_changes_the_pixels_of_what_it_colours(
    shape: int, theta: float, objects: NumpyRenderer
) -> None:
    base = {"theta": theta, "alpha": 0.4, "hue": 0.5, "spot_hue": 1.5, "ground_hue": 4.0}
    samples = covered(objects.meshes[shape], **base)

    def changed(name: str) -> np.ndarray:
        other = image(objects, shape, **(base | {name: base[name] + 2.0}))
        return abs(other - image(objects, shape, **base)).max(axis=-1)

    of_object, of_ground, of_spot = changed("hue"), changed("ground_hue"), changed("spot_hue")
    assert not of_object[samples == 0].any()
    assert of_object[samples == 4].all()
    assert not of_ground[samples == 4].any()
    assert of_ground[samples == 0].all()
    assert not of_spot[(samples == 0) & ~in_cone(theta)].any()
    assert (of_spot > 20).sum() > 100


def test_the_spotlight_goes_around_the_middle() -> None:
    places = [Stage.of(row(theta=theta, x=1), ball()).spotlight for theta in (0, np.pi / 2)]
    np.testing.assert_allclose(places, [[0, 4, 6 + OBJECT_SIZE], [4, 0, 6 + OBJECT_SIZE]], atol=1e-12)


@pytest.mark.parametrize("theta", [0.6, 3.0])
def test_the_spotlight_does_not_reach_ground_behind_the_ball(theta: float, balls: NumpyRenderer) -> None:
    values = {"theta": theta, "z": 1.0}
    stage, view = Stage.of(row(**values), ball()), camera()
    changed = abs(image(balls, spot_hue=0, **values) - image(balls, spot_hue=2, **values)).max(axis=-1)
    # around the point of the ground that the ball's centre hides from the light
    aside = np.array([[0, 0], [0.8, 0], [-0.8, 0], [0, 0.8], [0, -0.8]])
    share = (stage.spotlight[2] - GROUND_HEIGHT) / (stage.spotlight[2] - stage.centre[2])
    middle = stage.spotlight + share * (stage.centre - stage.spotlight)
    points = np.hstack([middle[:2] + aside, np.full((5, 1), GROUND_HEIGHT)])
    columns, rows, _ = np.floor(view.project(points, 64)).astype(int).T
    seen = np.all([(columns >= 0), (columns < 64), (rows >= 0), (rows < 64)], axis=0)
    rows, columns = rows[seen], columns[seen]
    ground = covered(ball(), **values)[rows, columns] == 0
    assert ground.sum() > 2
    assert not changed[rows, columns][ground].any()
    assert (changed > 20).sum() > 100


def test_ground_hides_what_is_below_it(balls: NumpyRenderer) -> None:
    sunk = {"z": GROUND_HEIGHT - OBJECT_SIZE - 0.1}  # an object whose top is just below the ground
    np.testing.assert_array_equal(image(balls, hue=0, **sunk), image(balls, hue=2, **sunk))


def test_the_angle_of_the_spotlight_moves_its_light(objects: NumpyRenderer) -> None:
    moved = abs(image(objects, theta=0.5) - image(objects, theta=1.0)).max(axis=-1)
    assert (moved > 20).sum() > 100


@pytest.mark.parametrize("name", LATENTS)
@pytest.mark.parametrize("shape", range(7))
def test_every_latent_is_visible(name: str, shape: int, objects: NumpyRenderer) -> None:
    moved = abs(image(objects, shape, theta=2) - image(objects, shape, **({"theta": 2} | {name: 0.6})))
    assert (moved.max(axis=-1) > 10).sum() > 15


def test_hues_and_angles_go_around(objects: NumpyRenderer) -> None:
    latents = scenes(3)
    turned = latents + 2 * np.pi * (np.arange(10) > 2)
    some = np.array([0, 3, 6])
    gap = abs(objects.render(latents, some).astype(int) - objects.render(turned, some))
    assert (gap > 1).mean() < 1e-3  # a sample on an edge may fall to the other side


# Images


def test_equal_latents_give_equal_bytes_alone_or_together(objects: NumpyRenderer) -> None:
    latents, shapes = scenes(7), np.arange(7)
    together = objects.render(latents, shapes)
    again = NumpyRenderer(render.meshes()).render(latents, shapes)
    alone = [objects.render(one[None], kind[None])[0] for one, kind in zip(latents, shapes, strict=True)]
    np.testing.assert_array_equal(together, again)
    np.testing.assert_array_equal(together, alone)
    assert together.dtype == np.uint8
    assert len({one.tobytes() for one in together}) == 7


def test_no_frames_give_no_images(objects: NumpyRenderer) -> None:
    assert objects.render(np.zeros((0, 10)), np.zeros(0, dtype=int)).shape == (0, 64, 64, 3)


def test_a_contact_sheet_has_a_row_an_object(objects: NumpyRenderer) -> None:
    sheet = render.contact_sheet(objects, columns=2)
    assert sheet.shape == (7 * 64, 2 * 64, 3)
    assert len(np.unique(sheet[:64, :64].reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize(
    ("latents", "shapes", "phrase"),
    [
        (row(), 7, "shape 7 has no mesh; the shapes are 0 to 6"),
        (row(), -1, "shape -1 has no mesh"),
        (row(x=np.nan), 0, "a latent is not finite"),
    ],
)
def test_frames_without_an_image_are_refused(
    latents: np.ndarray, shapes: int, phrase: str, objects: NumpyRenderer
) -> None:
    with pytest.raises(DataError, match=phrase):
        objects.render(latents[None], np.array([shapes]))


# Objects


def own_distances(mesh: Mesh) -> list[float]:
    """The farthest that a part of the turned mesh is from the mesh, in its lengths, for each rotation."""
    rng = np.random.default_rng(0)
    area = _area(mesh)
    face = rng.choice(len(area), 40_000, p=area / area.sum())
    surface = np.einsum("nc,nci->ni", rng.dirichlet(np.ones(3), len(face)), mesh.corners[face])
    tree = cKDTree(surface)
    return [float(tree.query(rotation.apply(surface[:300]))[0].max()) for rotation in rotations()]


def rotations() -> list[Rotation]:
    """A grid of axes, each with turns from 20 degrees to 180."""
    ways = np.stack(np.meshgrid(*[[-1, -0.5, 0, 0.5, 1]] * 3), axis=-1).reshape(-1, 3)
    ways = ways[[tuple(one) > (0, 0, 0) for one in ways]]
    ways = ways / np.linalg.norm(ways, axis=1, keepdims=True)
    return [Rotation.from_rotvec(np.radians(turn) * way) for way in ways for turn in (20, 60, 90, 120, 180)]


@pytest.mark.parametrize("shape", range(7))
def test_no_rotation_leaves_an_object_as_it_is(shape: int) -> None:
    assert min(own_distances(render.meshes()[shape])) > 0.04


def test_a_box_is_found_to_have_rotations() -> None:
    points = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    sides = [points[:, axis] == end for axis in range(3) for end in (-0.5, 0.5)]
    faces = [np.flatnonzero(side)[some] for side in sides for some in ([0, 1, 2], [1, 2, 3])]
    assert min(own_distances(Mesh(points, np.array(faces)))) < 0.02


@pytest.mark.parametrize("shape", range(7))
def test_objects_have_one_size_and_unit_normals_outwards(shape: int) -> None:
    mesh = render.meshes()[shape]
    assert np.ptp(mesh.vertices, axis=0).max() == pytest.approx(1)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=-1)[_area(mesh) > 1e-9], 1, atol=1e-6)


def _area(mesh: Mesh) -> np.ndarray:
    one, two, three = np.moveaxis(mesh.corners, 1, 0)
    return np.linalg.norm(np.cross(two - one, three - one), axis=-1)


def test_normals_are_smooth_on_a_ball_and_keep_an_edge() -> None:
    round_ = ball()
    wide = _area(round_) > 1e-9
    outward = round_.corners / np.linalg.norm(round_.corners, axis=-1, keepdims=True)
    assert (abs(np.einsum("fci,fci->fc", round_.normals, outward))[wide] > 0.99).all()
    roof = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), np.array([[0, 1, 2], [0, 3, 1]]))
    np.testing.assert_allclose(roof.normals[0], np.tile([0, 0, 1], (3, 1)), atol=1e-12)
    np.testing.assert_allclose(roof.normals[1], np.tile([0, 1, 0], (3, 1)), atol=1e-12)


OBJ = """
# a square and a triangle of it again
v 0 0 0
v 2 0 0
v 2 2 0
v 0 2 0
vn 0 0 1
f 1/1/1 2//1 3 4
f -4 -3 -2
"""


def test_an_obj_is_read_with_polygons_and_negative_numbers(tmp_path: Path) -> None:
    path = tmp_path / "cow.obj"
    path.write_text(OBJ)
    mesh = read_mesh(path)
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [0, 2, 3], [0, 1, 2]])
    np.testing.assert_allclose(mesh.vertices[2], [0.5, 0.5, 0])


def test_a_mesh_takes_the_place_of_the_shape_it_is_named_after(tmp_path: Path) -> None:
    own = ball(8)
    np.savez(tmp_path / "cow.npz", vertices=own.vertices, faces=own.faces)
    for shape, one, shipped in zip(SHAPES, render.meshes(tmp_path), render.meshes(), strict=True):
        assert (one.digest == shipped.digest) == (shape != "cow")
    assert render.meshes(tmp_path)[3].digest == read_mesh(tmp_path / "cow.npz").digest


def write(path: Path, text: str) -> None:
    path.write_text(text)


BAD_MESHES = [
    ("cow.obj", "v 0 0 zero\n", "could not convert string to float"),
    ("cow.obj", "v 0 0 0\n", "the mesh has no face"),
    ("cow.obj", "v 0 0 0\nv 1 0 0\nf 1 2 3\n", "a face names vertex 2 of 2"),
    ("cow.obj", "v 0 0 0\nf 1 1 1\n", "all vertices of the mesh lie in one point"),
    ("cow.obj", "v 0 0 nan\nv 1 0 0\nf 1 2 2\n", "not finite"),
    ("cow.npz", "no archive", "cannot be read as a mesh"),
    ("bunny.obj", OBJ, "is named after no shape; name it after the one it stands for: teapot, armadillo"),
    ("cow.stl", "", "finds no mesh; put .npz or .obj files there"),
]


@pytest.mark.parametrize(("name", "text", "phrase"), BAD_MESHES)
def test_bad_meshes_are_refused(name: str, text: str, phrase: str, tmp_path: Path) -> None:
    write(tmp_path / name, text)
    with pytest.raises(DataError, match=phrase.replace(".", r"\.")):
        render.meshes(tmp_path)


def test_more_bad_meshes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ends in neither \.npz nor \.obj"):
        read_mesh(tmp_path / "cow.stl")
    with pytest.raises(DataError, match="finds no mesh"):
        render.meshes(tmp_path / "missing")
    np.savez(tmp_path / "cow.npz", points=np.eye(3))
    with pytest.raises(DataError, match="give an npz with vertices"):
        render.meshes(tmp_path)
    write(tmp_path / "cow.obj", OBJ)
    with pytest.raises(DataError, match="two meshes of one name"):
        render.meshes(tmp_path)


# Backends


def test_egl_draws_what_numpy_draws(objects: NumpyRenderer) -> None:
    pytest.importorskip("moderngl")
    try:
        other = open_renderer("egl", objects.meshes)
    except DataError as error:
        pytest.skip(str(error))
    latents, shapes = scenes(14, seed=3), np.arange(14) % 7
    gap = abs(other.render(latents, shapes).astype(int) - objects.render(latents, shapes))
    assert gap.mean() < 0.05
    assert (gap > 3).mean() < 1e-3  # a sample on an edge may fall to the other side


class NoEgl:
    @staticmethod
    def create_context(**settings: object) -> None:
        raise Exception("eglInitialize failed (0x3001)\nmore")


@pytest.mark.parametrize(
    ("module", "phrase"),
    [(None, r"pip install 'pyro-citevae\[egl\]'"), (NoEgl, r"no EGL \(eglInitialize failed .*libegl1")],
)
def test_egl_that_is_absent_is_refused_by_name_and_passed_over_by_auto(
    module: object, phrase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "moderngl", module)
    with pytest.raises(DataError, match=phrase):
        open_renderer("egl", [ball(4)])
    assert open_renderer("auto", [ball(4)]).name == "numpy"


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(DataError, match="'vulkan' is no backend; the backends are numpy, egl and auto"):
        open_renderer("vulkan", [ball(4)])
