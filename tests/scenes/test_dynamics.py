"""The latent process of Temporal-Causal3DIdent: its law, its graph, its interventions."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from pyro_citevae.errors import DataError
from pyro_citevae.scenes.dynamics import (
    COARSE,
    FACTORS,
    NOISE,
    SHAPES,
    LatentSequences,
    SoftEffects,
    adjacency,
    latent_dynamics,
    latent_triplets,
)

TURN = 2 * np.pi
COLUMN = {name: i for i, name in enumerate(FACTORS)}
MOVING = [name for name in NOISE if name != "rot-gamma"]
ANGLES = [name for name in MOVING if name not in COARSE["pos"]]
ONE = ("teapot",)

SETS_OF_SHAPES = pytest.mark.parametrize(
    "shapes", [SHAPES, ONE, ("teapot", "cow"), ("hare", "horse")], ids="+".join
)
IN_TIME = pytest.mark.parametrize("instantaneous", [False, True], ids=["lagged", "instantaneous"])


def arc(a: np.ndarray, b: Any) -> np.ndarray:
    """The signed arc from b to a."""
    return (a - b + np.pi) % TURN - np.pi


def of(drawn: LatentSequences, name: str, step: int) -> np.ndarray:
    return np.concatenate([drawn.latents, drawn.shapes], -1)[:, step, COLUMN[name]]


def placed(drawn: LatentSequences, name: str, values: np.ndarray) -> LatentSequences:
    """The sequences with one factor replaced at their last step."""
    latents, shapes = drawn.latents.copy(), drawn.shapes.copy()
    if name == "obj-shape":
        shapes[:, -1, 0] = values
    else:
        latents[:, -1, COLUMN[name]] = values
    return replace(drawn, latents=latents, shapes=shapes)


@pytest.fixture(scope="module")
def long() -> dict[str, LatentSequences]:
    options: dict[str, dict[str, Any]] = {"several": {}, "one": {"shapes": ONE}}
    return {name: latent_dynamics(400, 130, seed=0, **chosen) for name, chosen in options.items()}


BOTH = pytest.mark.parametrize("which", ["several", "one"])


@BOTH
def test_stationary_spread(long: dict[str, LatentSequences], which: str) -> None:
    sd = long[which].latents[:, 30:].reshape(-1, 10).std(0)
    # 40,000 rows that forget within ten steps or so: a standard error near 0.01
    np.testing.assert_allclose(sd[:3], 0.9, atol=0.05)
    np.testing.assert_allclose(np.delete(sd[3:], 2), 1.84, atol=0.06)
    assert sd[COLUMN["rot-gamma"]] == 0


@BOTH
def test_ranges(long: dict[str, LatentSequences], which: str) -> None:
    latents = long[which].latents
    assert (abs(latents[..., :3]) <= 2).all()
    assert ((latents[..., 3:] >= 0) & (latents[..., 3:] < TURN)).all()
    assert (latents[..., COLUMN["rot-gamma"]] == 0).all()
    assert (long[which].shapes[..., 1] == 0).all()


@pytest.mark.parametrize(("which", "rate"), [("several", 1 / 7), ("one", 1 / 6)])
def test_intervention_rates(long: dict[str, LatentSequences], which: str, rate: float) -> None:
    done = long[which].interventions
    assert not done[:, 0].any()
    steps = done[:, 1:].reshape(-1, 12)
    movable = [n for n in (*MOVING, "obj-shape") if which == "several" or n != "obj-shape"]
    found = dict(zip(FACTORS, steps.mean(0), strict=True))
    for name in FACTORS:
        expected = rate if name in movable else 0.0
        assert found[name] == pytest.approx(expected, abs=5 * (rate / len(steps)) ** 0.5)
    assert steps.any(1).mean() == pytest.approx(2 / 3, abs=0.01)
    assert (steps[:, :3] == steps[:, :1]).all(), "the positions are set together"
    assert (steps[:, 3] == steps[:, 4]).all(), "so are the rotations"
    # coarse factors are chosen apart from each other
    chosen = steps[:, [COLUMN[members[0]] for members in COARSE.values() if members[0] in movable]]
    off = np.corrcoef(chosen.T) - np.eye(chosen.shape[1])
    assert abs(off).max() < 5 / len(steps) ** 0.5


def test_what_is_set_is_uniform_over_its_range(long: dict[str, LatentSequences]) -> None:
    drawn = long["several"]
    for name in MOVING:
        i = COLUMN[name]
        low, width = (-2.0, 4.0) if name in COARSE["pos"] else (0.0, TURN)
        values = np.sort((drawn.latents[..., i][drawn.interventions[..., i]] - low) / width)
        gap = abs(values - np.arange(len(values)) / len(values)).max()
        assert gap < 2 / len(values) ** 0.5, name  # Kolmogorov-Smirnov, p near 1e-3
    shape = drawn.shapes[..., 0][drawn.interventions[..., COLUMN["obj-shape"]]]
    np.testing.assert_allclose(np.bincount(shape) / len(shape), 1 / 7, atol=5 / len(shape) ** 0.5)


def test_the_shape_is_kept_or_drawn_anew() -> None:
    drawn = latent_dynamics(4000, 6, seed=1, interventions="none")
    changed = (np.diff(drawn.shapes[..., 0]) != 0).mean()
    assert changed == pytest.approx(0.05 * 6 / 7, abs=5 * (0.05 / 20000) ** 0.5)


GOALS = {
    "pos-x": lambda v: 1.5 * np.sin(v["rot-beta"]),
    "pos-y": lambda v: 1.5 * np.sin(v["rot-alpha"]),
    "pos-z": lambda v: 1.5 * np.cos(v["rot-alpha"]),
    "rot-alpha": lambda v: v["hue-back"],
    "rot-beta": lambda v: v["hue-object"],
    "rot-spot": lambda v: np.angle(v["pos-y"] + 1j * v["pos-x"]),
    "hue-spot": lambda v: -v["hue-back"],
}
HUES = {"teapot": 0, "armadillo": 1, "cow": 2, "head": 3, "horse": 4}


@IN_TIME
@pytest.mark.parametrize("name", MOVING)
def test_a_factor_moves_half_way_to_its_goal(name: str, instantaneous: bool) -> None:
    drawn = latent_dynamics(4000, 2, seed=2, instantaneous=instantaneous, interventions="none")
    old, new = ({one: of(drawn, one, step) for one in FACTORS} for step in (0, 1))
    now = new if instantaneous else old
    current, reached, sd = old[name], new[name], NOISE[name]
    if name == "hue-object":
        mean = np.angle(np.exp(1j * now["hue-spot"]) + np.exp(1j * now["hue-back"]))
        goal = np.select([now["obj-shape"] == 2, now["obj-shape"] == 4], [mean, mean + np.pi])
        for shape, hue in HUES.items():
            goal[now["obj-shape"] == SHAPES.index(shape)] = hue * TURN / 5
    else:
        goal = GOALS.get(name, lambda _: current)(now)
    if name in COARSE["pos"]:
        noise = reached - (current + goal) / 2
        assert abs(reached).max() < 2
    else:
        noise = arc(reached, current + arc(goal, current) / 2)
    assert abs(noise.mean()) < 5 * sd / 4000**0.5
    assert noise.std() == pytest.approx(sd, rel=0.06)
    assert abs(noise).max() < 6 * sd


def test_positions_at_the_border_follow_the_truncated_law() -> None:
    """At 1.99 with the goal at 1.5 the centre is 1.745, 2.55 standard deviations below the border."""
    drawn = latent_dynamics(20000, 1, seed=3)
    for sign in (1, -1):
        start = placed(
            placed(drawn, "pos-x", np.full(20000, sign * 1.99)), "rot-beta", np.full(20000, sign * np.pi / 2)
        )
        shift = np.zeros((1, 10))
        effects = SoftEffects(np.vstack([shift, shift]), np.vstack([shift, shift]))
        effects.log_scale[1, 0] = np.log(10)  # sd 1: the border cuts a good part
        moved = latent_dynamics(20000, 2, seed=4, interventions="soft", effects=effects, start=start)
        for e, sd in enumerate([0.1, 1.0]):
            noise = np.random.default_rng(5).normal(1.745, sd, 400_000)
            expected = noise[abs(noise) <= 2]
            found = sign * of(moved, "pos-x", 1)[moved.environments == e]
            assert found.mean() == pytest.approx(expected.mean(), abs=5 * expected.std() / 100)
            assert found.std() == pytest.approx(expected.std(), rel=0.05)
            assert found.max() <= 2


def _cases() -> Iterator[Any]:
    for instantaneous in (False, True):
        for shapes in (SHAPES, ONE, ("teapot", "cow"), ("hare", "horse")):
            yield pytest.param(shapes, instantaneous, id=f"{'+'.join(shapes)}-{instantaneous}")


@pytest.mark.parametrize(("shapes", "instantaneous"), list(_cases()))
def test_the_graph_says_what_moves_when_a_factor_is_moved(shapes: Any, instantaneous: bool) -> None:
    """Paired noise: whatever differs a step later is a descendant within that step, and nothing else is."""
    graph = adjacency(shapes, instantaneous)
    start = latent_dynamics(300, 1, seed=6, shapes=shapes)
    options: Any = {"seed": 7, "shapes": shapes, "instantaneous": instantaneous, "interventions": "none"}
    base = latent_dynamics(300, 2, start=start, **options)
    within = np.linalg.matrix_power(np.eye(12) + graph[0], 12) > 0  # descendants in the same step
    reached = within @ graph[1]
    other = latent_dynamics(300, 1, seed=8, shapes=shapes)
    for cause in (*MOVING, "obj-shape"):
        moved = latent_dynamics(300, 2, start=placed(start, cause, of(other, cause, 0)), **options)
        for effect in FACTORS:
            differs = (of(moved, effect, 1) != of(base, effect, 1)).mean()
            if reached[COLUMN[effect], COLUMN[cause]]:
                # a hue moves the object only where it is a hare or a dragon
                assert differs > 0.1, f"{cause} does not move {effect}"
            else:
                assert differs == 0, f"{cause} moves {effect}"


@SETS_OF_SHAPES
def test_effects_within_a_step_follow_the_order(shapes: Any) -> None:
    """A factor set within a step moves its same-step descendants in that step, and nothing before them."""
    graph = adjacency(shapes, instantaneous=True)[0]
    order = [COLUMN[n] for n in ("obj-shape", "hue-back", "hue-spot", "hue-object", "rot-alpha", "rot-beta")]
    order += [COLUMN[n] for n in ("pos-x", "pos-y", "pos-z", "rot-spot", "rot-gamma", "obj-material")]
    assert not np.triu(graph[np.ix_(order, order)]).any(), "the same-step graph is acyclic in this order"

    options: Any = {"seed": 9, "shapes": shapes, "instantaneous": True}
    base = latent_dynamics(3000, 2, interventions="none", **options)
    done = latent_dynamics(3000, 2, interventions="perfect", **options)
    within = np.linalg.matrix_power(np.eye(12) + graph, 12) > 0
    for effect in FACTORS:
        differs = of(base, effect, 1) != of(done, effect, 1)
        hit = (done.interventions[:, 1] @ within[COLUMN[effect]].T) > 0
        assert not differs[~hit].any(), effect


def test_a_goal_follows_the_value_that_an_intervention_sets_in_the_same_step() -> None:
    drawn = latent_dynamics(6000, 2, seed=10, instantaneous=True)
    done = drawn.interventions[:, 1]
    rows = done[:, COLUMN["hue-back"]] & ~done[:, COLUMN["rot-alpha"]]
    old = of(drawn, "rot-alpha", 0)[rows]
    centre = old + arc(of(drawn, "hue-back", 1)[rows], old) / 2
    assert arc(of(drawn, "rot-alpha", 1)[rows], centre).std() == pytest.approx(0.15, rel=0.1)


def test_coarse_graph() -> None:
    expected = {
        "pos": {"pos", "rot"},
        "rot": {"rot", "hue-object", "hue-back"},
        "rot-spot": {"rot-spot", "pos"},
        "hue-object": {"hue-object", "obj-shape", "hue-spot", "hue-back"},
        "hue-spot": {"hue-spot", "hue-back"},
        "hue-back": {"hue-back"},
        "obj-shape": {"obj-shape"},
    }
    names = list(COARSE)
    graph = adjacency(coarse=True)
    assert not graph[0].any()
    assert {k: {names[j] for j in graph[1, i].nonzero()[0]} for i, k in enumerate(names)} == expected
    within = adjacency(coarse=True, instantaneous=True)
    np.testing.assert_array_equal(within[1], np.eye(7, dtype=bool))
    np.testing.assert_array_equal(within[0] | within[1], graph[1])
    one = adjacency(ONE, coarse=True)[1]
    assert not one[names.index("obj-shape")].any()
    assert one[names.index("hue-object")].sum() == 1


def test_fine_graph_has_the_edges_of_the_table() -> None:
    assert adjacency()[1].sum() == 10 + 11  # ten factors that remember, and eleven parents
    assert adjacency(ONE)[1].sum() == 9 + 8
    assert adjacency(("teapot", "cow"))[1].sum() == 10 + 9


def one_effect(name: str, shift: float = 0.0, log_scale: float = 0.0) -> SoftEffects:
    a, b = np.zeros((2, 10)), np.zeros((2, 10))
    a[1, COLUMN[name]], b[1, COLUMN[name]] = shift, log_scale
    return SoftEffects(a, b)


@IN_TIME
@pytest.mark.parametrize("name", MOVING)
def test_a_soft_shift_moves_its_target_and_only_what_follows(name: str, instantaneous: bool) -> None:
    options: Any = {"seed": 11, "instantaneous": instantaneous}
    base = latent_dynamics(400, 2, interventions="none", **options)
    soft = latent_dynamics(400, 2, interventions="soft", effects=one_effect(name, shift=0.3), **options)
    token = soft.environments == 1
    # mirrored and cut noise moves with the centre; away from the border the shift is the shift
    inside = token & (abs(of(base, name, 1)) < 1.2) if name in COARSE["pos"] else token
    np.testing.assert_allclose(arc(of(soft, name, 1), of(base, name, 1))[inside], 0.3, atol=1e-3)
    within = np.linalg.matrix_power(np.eye(12) + adjacency(SHAPES, instantaneous)[0], 12) > 0
    for other in FACTORS:
        differs = of(soft, other, 1) != of(base, other, 1)
        assert not differs[~token].any()
        assert differs[token].any() == within[COLUMN[other], COLUMN[name]], other


@pytest.mark.parametrize("shift", [-20.0, 20.0])
def test_a_shift_far_beyond_the_border_ends_at_the_border(shift: float) -> None:
    effects = one_effect("pos-y", shift=shift)
    drawn = latent_dynamics(200, 3, seed=16, interventions="soft", effects=effects)
    reached = of(drawn, "pos-y", 2)[drawn.environments == 1]
    # beyond the border by d the law decays as exp(-d x / sd^2) from it
    np.testing.assert_allclose(reached, np.sign(shift) * 2, atol=0.01)


@pytest.mark.parametrize("name", MOVING)
def test_a_soft_change_of_scale_scales_the_noise_of_its_target_alone(name: str) -> None:
    options: Any = {"seed": 12, "interventions": "soft"}
    soft = latent_dynamics(8000, 2, effects=one_effect(name, log_scale=0.5), **options)
    same = latent_dynamics(8000, 2, effects=one_effect(name), **options)
    token = soft.environments == 1
    still = latent_dynamics(
        8000, 2, effects=one_effect(name, log_scale=-30.0), **options
    )  # no noise: the centre
    noise = arc(of(soft, name, 1), of(still, name, 1))[token]
    assert noise.std() == pytest.approx(NOISE[name] * np.exp(0.5), rel=0.06)
    assert abs(noise.mean()) < 5 * noise.std() / len(noise) ** 0.5
    for other in FACTORS:
        differs = of(soft, other, 1) != of(same, other, 1)
        assert differs[token].any() == (other == name)
        assert not differs[~token].any()


def test_soft_interventions_hold_at_every_step_of_their_sequences() -> None:
    effects = SoftEffects.draw(4, seed=0)
    drawn = latent_dynamics(10, 5, seed=13, interventions="soft", effects=effects)
    np.testing.assert_array_equal(drawn.environments, np.arange(10) % 4)
    expected = np.hstack([effects.shift != 0, np.zeros((4, 2), dtype=bool)])[drawn.environments]
    for t in range(1, 5):
        np.testing.assert_array_equal(drawn.interventions[:, t], expected)
    assert not drawn.interventions[:, 0].any()


@pytest.mark.parametrize("n_targets", [1, 2, 3])
def test_drawn_effects_tell_the_factors_apart(n_targets: int) -> None:
    effects = SoftEffects.draw(19, seed=14, n_targets=n_targets)
    hit = effects.shift != 0
    np.testing.assert_array_equal(hit, effects.log_scale != 0)
    np.testing.assert_array_equal(hit.sum(1), [0] + [n_targets] * 18)
    for name in MOVING:
        common = hit[hit[:, COLUMN[name]]].all(0)
        assert [FACTORS[i] for i in common.nonzero()[0]] == [name]
    size = abs(effects.shift / np.array(list(NOISE.values())))[hit]
    assert 2 <= size.min() <= size.max() <= 4
    assert {-1, 1} == set(np.sign(effects.shift[hit]))


def test_the_first_step_has_the_same_law_in_every_environment() -> None:
    soft = latent_dynamics(50, 3, seed=15, interventions="soft")
    none = latent_dynamics(50, 3, seed=15, interventions="none")
    np.testing.assert_array_equal(soft.latents[:, 0], none.latents[:, 0])
    assert (none.environments == 0).all()
    assert not none.interventions.any()


@IN_TIME
@pytest.mark.parametrize("interventions", ["perfect", "soft", "none"])
def test_the_same_seed_gives_the_same_sequences(interventions: Any, instantaneous: bool) -> None:
    one, same, other = (
        latent_dynamics(20, 4, seed=seed, interventions=interventions, instantaneous=instantaneous)
        for seed in (1, 1, 2)
    )
    for field in fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(same, field.name))
    assert (one.latents != other.latents)[..., [i for i in range(10) if i != 5]].all()


def test_more_steps_leave_the_first_ones_as_they_are() -> None:
    short, long = (latent_dynamics(20, n, seed=1) for n in (3, 6))
    np.testing.assert_array_equal(short.latents, long.latents[:, :3])


def test_one_shape_is_shown_throughout() -> None:
    drawn = latent_dynamics(10, 5, seed=0, shapes=("dragon",))
    assert (drawn.shapes == [SHAPES.index("dragon"), 0]).all()


def test_several_shapes_are_those_named() -> None:
    drawn = latent_dynamics(100, 20, seed=0, shapes=("head", "hare"))
    assert set(drawn.shapes[..., 0].ravel()) == {SHAPES.index("head"), SHAPES.index("hare")}


def test_a_start_is_gone_on_from() -> None:
    first = latent_dynamics(5, 3, seed=0)
    then = latent_dynamics(5, 4, seed=1, start=first)
    np.testing.assert_array_equal(then.latents[:, 0], first.latents[:, -1])
    np.testing.assert_array_equal(then.shapes[:, 0], first.shapes[:, -1])


@pytest.mark.parametrize("shapes", [SHAPES, ONE], ids=len)
def test_triplets_mix_whole_coarse_factors_of_two_scenes(shapes: Any) -> None:
    drawn = latent_dynamics(50, 4, seed=0, shapes=shapes)
    mixed = latent_triplets(drawn, 500, seed=1)
    every = np.concatenate([mixed.latents, mixed.shapes], -1)
    np.testing.assert_array_equal(every[:, 2], np.where(mixed.sources, every[:, 1], every[:, 0]))
    assert (mixed.sources[:, :3] == mixed.sources[:, :1]).all()
    assert (mixed.sources[:, 3:6] == mixed.sources[:, 3:4]).all()
    coarse = mixed.sources[:, [COLUMN[members[0]] for members in COARSE.values()]]
    varying = coarse[:, : 7 if len(shapes) > 1 else 6]
    assert varying.any(1).all()
    assert not varying.all(1).any()
    np.testing.assert_allclose(varying.mean(0), 0.5, atol=5 * 0.5 / 500**0.5)
    scenes = set(map(tuple, drawn.latents.reshape(-1, 10)))
    assert set(map(tuple, mixed.latents[:, :2].reshape(-1, 10))) <= scenes


def _zeros(n: int) -> np.ndarray:
    return np.zeros((n, 10))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no sequence": ({"n_sequences": 0}, r"n_sequences=0\) is below 1"),
    "no step": ({"n_steps": 0}, r"n_steps=0\) is below 1"),
    "interventions": ({"interventions": "hard"}, "'hard' is not one of perfect, soft, none"),
    "shape": ({"shapes": ("cube",)}, "'cube' is not a shape; the shapes are teapot, armadillo"),
    "no shape": ({"shapes": ()}, "is empty or names one twice"),
    "shape twice": ({"shapes": ("cow", "cow")}, "is empty or names one twice"),
    "effects without soft": ({"effects": SoftEffects(_zeros(2), _zeros(2))}, "pass interventions='soft'"),
    "start of another size": (
        {"start": latent_dynamics(2, 1, seed=0)},
        "start has 2 sequences, n_sequences=3",
    ),
    "start with another shape": (
        {"start": latent_dynamics(3, 1, seed=0, shapes=("cow",)), "shapes": ONE},
        "start shows a cow, which shapes leaves out",
    ),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        latent_dynamics(**({"n_sequences": 3, "n_steps": 2, "seed": 0} | options))


def test_bad_effects_are_refused() -> None:
    with pytest.raises(DataError, match="changes environment 0, the control"):
        SoftEffects(_zeros(2) + 1, _zeros(2))
    with pytest.raises(DataError, match="rot-gamma, which is constant"):
        SoftEffects(_zeros(2), np.vstack([_zeros(1), _zeros(1) + 1]))
    with pytest.raises(DataError, match="n_environments=0 leaves out the control"):
        SoftEffects.draw(0, seed=0)
    with pytest.raises(DataError, match=r"n_targets=10 is not in 1\.\.9"):
        SoftEffects.draw(3, seed=0, n_targets=10)
    with pytest.raises(DataError, match="n_triplets=0 is below 1"):
        latent_triplets(latent_dynamics(3, 1, seed=0), 0, seed=0)


def test_unknown_shapes_have_no_graph() -> None:
    with pytest.raises(DataError, match="'bunny' is not a shape"):
        adjacency(("bunny",))
