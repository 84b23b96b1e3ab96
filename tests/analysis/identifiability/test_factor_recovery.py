"""Recovery of factors by blocks of programs: exact cases, invariances, and bad input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pyro_citevae.analysis.identifiability.factor_recovery import FactorRecovery, factor_recovery
from pyro_citevae.errors import DataError

NAMES = ["place", "angle"]


def factors(n: int = 2000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.column_stack([rng.normal(size=n), rng.uniform(0, 2 * np.pi, n)])


def programs(truth: np.ndarray) -> np.ndarray:
    """One program of the place, two of the angle."""
    place, angle = truth.T
    return np.column_stack([np.cos(angle), np.tanh(place), np.sin(angle)])


def recovered(z: np.ndarray, truth: np.ndarray | None = None) -> FactorRecovery:
    return factor_recovery(z, factors() if truth is None else truth, NAMES, angles=["angle"])


def test_pure_programs_are_told_apart() -> None:
    found = recovered(programs(factors()))
    assert found.block.tolist() == [1, 0, 1]
    assert found.diagonal > 0.97
    assert found.off_diagonal < 0.05
    assert found.table().loc["angle", "place"] == found.r2[1, 0]


def test_ranks_agree_where_a_program_is_a_bent_factor() -> None:
    found = recovered(programs(factors()))
    assert (np.diag(found.spearman) > 0.97).all()  # tanh keeps the order
    # two columns of 1,000 rows: a rank correlation of independent ones has standard deviation 1/sqrt(1000)
    assert abs(found.spearman[0, 1]) < 4 / np.sqrt(1000)
    assert not recovered(programs(factors())[:, [1]]).spearman[1].any()


def test_mixtures_of_two_scenes_are_read_from_pure_blocks_alone() -> None:
    z = programs(factors())
    pure = recovered(z)
    assert pure.triplet.max() < 0.15
    # the same programs, turned into each other: read well from one scene, wrongly from two
    turned = recovered(z @ np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0])
    assert (turned.triplet > 3 * pure.triplet).all()
    noise = recovered(np.random.default_rng(1).normal(size=(2000, 3)))
    np.testing.assert_allclose(noise.triplet, 1.0, atol=0.1)


def test_one_group_alone_is_never_mixed() -> None:
    z = programs(factors())
    found = factor_recovery(z, factors(), NAMES, angles=["angle"], groups={"all": NAMES})
    assert found.triplet.max() < 0.15


def test_order_sign_and_scale_of_programs_do_not_matter() -> None:
    z = programs(factors())
    one, other = recovered(z), recovered(z[:, [2, 0, 1]] * [-3.0, 0.2, 10.0])
    assert other.block.tolist() == [1, 1, 0]
    np.testing.assert_allclose(one.r2, other.r2, atol=0.03)  # two fits of the same regression


def test_half_of_a_circle_is_half_of_an_angle() -> None:
    # cos alone leaves the sign of sin open: R2 = 1/2 for an angle that is uniform
    found = recovered(programs(factors())[:, :2])
    assert found.r2[1, 1] == pytest.approx(0.5, abs=0.05)


def test_programs_that_mix_show_off_the_diagonal() -> None:
    z = programs(factors())
    mixed = np.column_stack([z[:, 0] + z[:, 1], z[:, 0] - z[:, 1], z[:, 2]])
    # the block of the place holds cos, half of the angle; that of the angle nothing of the place
    assert recovered(mixed).off_diagonal == pytest.approx(0.25, abs=0.05)


def test_noise_explains_nothing_and_no_block_is_zero() -> None:
    noise = np.random.default_rng(1).normal(size=(2000, 3))
    assert recovered(noise).r2.max() < 0.05
    alone = recovered(programs(factors())[:, [1]])
    assert not alone.r2[1].any()


def test_factors_of_a_group_share_a_block() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(2000, 3))
    z = truth @ np.array([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])  # turned within the group
    names, groups = ["x", "y", "hue"], {"place": ["x", "y"], "colour": ["hue"]}
    found = factor_recovery(z, truth, names, groups=groups)
    assert found.block.tolist() == [0, 0, 1]
    assert found.group.tolist() == [0, 0, 1]
    assert found.diagonal > 0.95
    assert found.off_diagonal < 0.05
    np.testing.assert_allclose(found.by_block[:, 0], found.r2[:, :2].mean(1))
    alone = factor_recovery(z, truth, names)  # the same programs tell x and y apart by half each
    assert alone.own[:2].mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_a_group_that_nothing_shows_takes_an_idle_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(2000, 3))
    idle = rng.normal(size=2000)
    z = np.column_stack([truth[:, 0], truth[:, 1], idle])[:, rng.permutation(3)]
    names, groups = ["x", "y", "hidden"], {"place": ["x", "y"], "hidden": ["hidden"]}
    found = factor_recovery(z, truth, names, groups=groups)
    assert found.own[:2].min() > 0.95
    assert found.own[2] < 0.05


def test_a_faint_factor_has_its_program_where_that_tells_more_of_another() -> None:
    rng = np.random.default_rng(0)
    loud, faint = rng.normal(size=(2, 2000))
    z = np.column_stack([loud, loud + 0.5 * faint + 0.3 * rng.normal(size=2000), rng.normal(size=2000)])
    found = factor_recovery(z, np.column_stack([loud, faint]), ["loud", "faint"])
    assert found.block[1] == 1


WRONG: dict[str, tuple[str, Callable[[], object]]] = {
    "rows": ("2000 and 10 rows", lambda: recovered(programs(factors()), factors(10))),
    "names": ("2 factors of 1 names", lambda: factor_recovery(programs(factors()), factors(), ["place"])),
    "few": ("10 rows, too few", lambda: recovered(programs(factors(10)), factors(10))),
    "in no group": (
        "has 'angle' in 0 groups; put each of place, angle in one",
        lambda: factor_recovery(programs(factors()), factors(), NAMES, groups={"one": ["place"]}),
    ),
    "in two groups": (
        "has 'angle' in 2 groups",
        lambda: factor_recovery(
            programs(factors()), factors(), NAMES, groups={"one": NAMES, "two": ["angle"]}
        ),
    ),
    "a stranger in a group": (
        "has 'hue' in 1 groups; put each of place, angle in one, and nothing else",
        lambda: factor_recovery(programs(factors()), factors(), NAMES, groups={"one": [*NAMES, "hue"]}),
    ),
    "constant": ("'place' is constant", lambda: recovered(programs(factors()), factors() * [0.0, 1.0])),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_named(case: str) -> None:
    phrase, call = WRONG[case]
    with pytest.raises(DataError, match=phrase):
        call()
