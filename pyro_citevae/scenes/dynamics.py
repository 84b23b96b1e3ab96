"""The latent process of Temporal-Causal3DIdent: the factors of a scene, their graph, and interventions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_ndtr, ndtri, ndtri_exp

from pyro_citevae.errors import DataError
from pyro_citevae.scenes.factors import (
    COARSE,
    FACTORS,
    MEMBERS,
    N_LATENTS,
    NOISE,
    SHAPES,
    LatentSequences,
    LatentTriplets,
    latent_triplets,
)

__all__ = [
    "COARSE",
    "FACTORS",
    "NOISE",
    "SHAPES",
    "LatentSequences",
    "LatentTriplets",
    "SoftEffects",
    "adjacency",
    "latent_dynamics",
    "latent_triplets",
]

_Values: TypeAlias = Float[np.ndarray, " sequence"]

_INTERVENTIONS = ("perfect", "soft", "none")
_TURN = 2 * np.pi
_REACH = 2.0  # positions lie in [-2, 2]
_KEPT = 0.95  # probability that a step keeps the shape
_STILL = ("rot-gamma", "obj-material")  # constant, so never intervened on
_SHAPE = FACTORS.index("obj-shape")


@dataclass(frozen=True)
class SoftEffects:
    """What each environment changes in the transition, ``z_t ~ law(loc + a, sd exp(b))``; 0 is the control.

    Attributes:
        shift: a, in the units of the latents, for each of the first ten of ``FACTORS``.
        log_scale: b, the change of the log noise scale.
    """

    shift: Float[np.ndarray, "environment 10"]
    log_scale: Float[np.ndarray, "environment 10"]

    def __post_init__(self) -> None:
        changed = (self.shift != 0) | (self.log_scale != 0)
        if changed[:1].any():
            raise DataError("SoftEffects changes environment 0, the control; give it a row of zeros.")
        if changed[:, FACTORS.index("rot-gamma")].any():
            raise DataError("SoftEffects changes rot-gamma, which is constant; leave its column zero.")

    @classmethod
    def draw(
        cls,
        n_environments: int = 19,
        *,
        seed: int,
        n_targets: int = 2,
        shift: tuple[float, float] = (2.0, 4.0),
        log_scale: tuple[float, float] = (0.4, 0.8),
    ) -> SoftEffects:
        """Draws sparse effects, such that the environments that change a factor have nothing else in common.

        With K = 9 factors that move, 19 environments are the 2 K + 1 that shifts and scales need, and each
        factor is the first target of two of them.

        Args:
            n_environments: Number of environments, the control among them.
            seed: Seed.
            n_targets: Number of factors that an environment changes.
            shift: Range of the absolute shift, in noise standard deviations.
            log_scale: Range of the absolute change of the log noise scale.

        Raises:
            DataError: There is no environment, or there are more targets than factors that move.

        Example:
            >>> effects = SoftEffects.draw(seed=0)
            >>> (effects.shift != 0).sum(1)
            array([0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
        """
        rng = np.random.default_rng(seed)
        moving = rng.permutation([i for i, name in enumerate(NOISE) if name not in _STILL])
        if n_environments < 1:
            raise DataError(f"n_environments={n_environments} leaves out the control; give 1 or more.")
        if not 1 <= n_targets <= len(moving):
            raise DataError(f"n_targets={n_targets} is not in 1..{len(moving)}, the factors that move.")
        token = np.arange(n_environments - 1)[:, None]
        # the companions of a first target change from one round over the factors to the next
        companion = token // len(moving) * (n_targets - 1) + np.arange(n_targets - 1)
        offset = np.hstack([np.zeros_like(token), 1 + companion % (len(moving) - 1)])
        targets = np.zeros((n_environments, N_LATENTS), dtype=bool)
        targets[token + 1, moving[(token + offset) % len(moving)]] = True

        def sizes(low: float, high: float) -> Float[np.ndarray, "environment 10"]:
            size = rng.uniform(low, high, targets.shape) * rng.choice([-1, 1], targets.shape)
            return np.where(targets, size, 0.0)

        return cls(sizes(*shift) * np.array([*NOISE.values()]), sizes(*log_scale))


def latent_dynamics(
    n_sequences: int,
    n_steps: int,
    *,
    seed: int,
    shapes: Sequence[str] = SHAPES,
    instantaneous: bool = False,
    interventions: str = "perfect",
    effects: SoftEffects | None = None,
    start: LatentSequences | None = None,
) -> LatentSequences:
    """Draws sequences of the factors.

    Each factor moves half way to a goal that its parents set, plus noise of standard deviation 0.10 for
    positions (the law given [-2, 2]) and 0.15 for angles and hues (on the shortest arc, modulo 2 pi):

    ================= =====================================================================
    factor            goal
    ================= =====================================================================
    pos-x             1.5 sin(rot-beta)
    pos-y             1.5 sin(rot-alpha)
    pos-z             1.5 cos(rot-alpha)
    rot-alpha         hue-back
    rot-beta          hue-object
    rot-gamma         constant, 0
    rot-spot          atan2(pos-x, pos-y)
    hue-object        of its shape: 2 pi / 5 times 0 teapot, 1 armadillo, 2 cow, 3 head, 4 horse;
                      hare: circular mean of the other two hues; dragon: that + pi;
                      itself where there is one shape only
    hue-spot          2 pi - hue-back
    hue-back          itself
    obj-shape         kept with probability 0.95, else uniform
    ================= =====================================================================

    The parents are those of the step before or, if ``instantaneous``, of the same step (shape and hues first,
    then rotations, positions and spotlight). A perfect intervention draws all factors of a coarse one
    uniformly over their range, each coarse factor with probability 1/7 (1/6 with one shape) at each step.
    Soft interventions hold at every step of a sequence; see :class:`SoftEffects`. The first step is uniform
    over the ranges in every environment.

    Args:
        n_sequences: Number of sequences.
        n_steps: Number of steps of each, the first included.
        seed: Seed. Equal seeds, sizes and shapes give equal noise, so sequences that differ in the other
            arguments are paired.
        shapes: Names of the shapes that occur.
        instantaneous: Whether parents act within a step.
        interventions: ``"perfect"``, ``"soft"`` or ``"none"``.
        effects: What soft interventions do; ``SoftEffects.draw(seed=seed)`` if not given. The sequences take
            the environments in turn.
        start: Sequences whose last step is the first of the new ones.

    Returns:
        The sequences.

    Raises:
        DataError: An argument is out of its range, or does not fit the others.

    Example:
        >>> drawn = latent_dynamics(100, 6, seed=0)
        >>> drawn.latents.shape, drawn.interventions.shape
        ((100, 6, 10), (100, 6, 12))
        >>> bool((abs(drawn.latents[..., :3]) <= 2).all())
        True

    Source: P. Lippe et al., CITRIS: Causal Identifiability from Temporal Intervened Sequences (2022); with
    instantaneous effects, P. Lippe et al., Causal Representation Learning for Instantaneous and Temporal
    Effects in Interactive Systems (2023).
    """
    kinds = _kinds(shapes)
    _check(n_sequences, n_steps, interventions, effects, start, kinds)
    rng = np.random.default_rng(seed)
    mechanisms = _mechanisms(shapes)
    if interventions == "soft" and effects is None:
        effects = SoftEffects.draw(seed=seed)
    if effects is None:
        effects = SoftEffects.draw(1, seed=seed)
    environments = np.arange(n_sequences) % len(effects.shift)
    soft = (effects.shift != 0) | (effects.log_scale != 0)

    latents = np.zeros((n_sequences, n_steps, N_LATENTS))
    shown = np.zeros((n_sequences, n_steps, 2), dtype=np.int64)
    done = np.zeros((n_sequences, n_steps, len(FACTORS)), dtype=bool)
    latents[:, 0], shown[:, 0, 0] = _anywhere(n_sequences, kinds, rng)
    if start is not None:
        latents[:, 0], shown[:, 0] = start.latents[:, -1], start.shapes[:, -1]
    for t in range(1, n_steps):
        fresh, fresh_shape = _anywhere(n_sequences, kinds, rng)
        noise = rng.uniform(np.finfo(float).tiny, 1.0, (n_sequences, N_LATENTS))
        keep = rng.random(n_sequences) < _KEPT
        targets = _targets(n_sequences, len(kinds) > 1, rng) & (interventions == "perfect")
        done[:, t] = targets
        done[:, t, :N_LATENTS] |= soft[environments]

        before = dict(zip(FACTORS, [*latents[:, t - 1].T, shown[:, t - 1, 0]], strict=False))
        after = {"obj-shape": np.where(keep & ~targets[:, _SHAPE], before["obj-shape"], fresh_shape)}
        parents = after if instantaneous else before
        for name, (causes, goal) in mechanisms.items():
            i = FACTORS.index(name)
            moved = _move(
                before[name],
                goal(*(parents[cause] for cause in causes)) if causes else before[name],
                effects.shift[environments, i],
                NOISE[name] * np.exp(effects.log_scale[environments, i]),
                noise[:, i],
                angle=name not in COARSE["pos"],
            )
            after[name] = latents[:, t, i] = np.where(targets[:, i], fresh[:, i], moved)
        shown[:, t, 0] = after["obj-shape"]
    return LatentSequences(latents, shown, done, environments)


def adjacency(
    shapes: Sequence[str] = SHAPES, instantaneous: bool = False, coarse: bool = False
) -> Bool[np.ndarray, "2 factor factor"]:
    """The graph of :func:`latent_dynamics`.

    Args:
        shapes: Names of the shapes that occur.
        instantaneous: Whether parents act within a step.
        coarse: Whether to give the graph of the groups of ``COARSE`` instead of ``FACTORS``.

    Returns:
        Entry [l, k, j] says whether factor j at step t - l drives factor k at step t. Factors that are
        constant have no edges.

    Raises:
        DataError: A shape is unknown or named twice.

    Example:
        >>> graph = adjacency()
        >>> [FACTORS[j] for j in graph[1, FACTORS.index("rot-spot")].nonzero()[0]]
        ['pos-x', 'pos-y', 'rot-spot']
        >>> adjacency(coarse=True).shape
        (2, 7, 7)
    """
    kinds = _kinds(shapes)
    graph = np.zeros((2, len(FACTORS), len(FACTORS)), dtype=bool)
    for name, (causes, _) in _mechanisms(shapes).items():
        child = FACTORS.index(name)
        graph[1, child, child] = True
        for cause in causes:
            graph[0 if instantaneous else 1, child, FACTORS.index(cause)] = True
    graph[1, _SHAPE, _SHAPE] = len(kinds) > 1
    return MEMBERS @ graph @ MEMBERS.T if coarse else graph


def _check(
    n_sequences: int,
    n_steps: int,
    interventions: str,
    effects: SoftEffects | None,
    start: LatentSequences | None,
    kinds: Int[np.ndarray, " kind"],
) -> None:
    for name, number in {"n_sequences": n_sequences, "n_steps": n_steps}.items():
        if number < 1:
            raise DataError(f"latent_dynamics({name}={number}) is below 1; ask for one or more.")
    if interventions not in _INTERVENTIONS:
        raise DataError(f"interventions='{interventions}' is not one of {', '.join(_INTERVENTIONS)}.")
    if effects is not None and interventions != "soft":
        raise DataError(
            f"effects are given, but interventions='{interventions}'; pass interventions='soft' with them."
        )
    if start is None:
        return
    if len(start.latents) != n_sequences:
        raise DataError(
            f"start has {len(start.latents)} sequences, n_sequences={n_sequences}; ask for as many as it has."
        )
    strange = np.setdiff1d(start.shapes[:, -1, 0], kinds)
    if len(strange):
        raise DataError(f"start shows a {SHAPES[strange[0]]}, which shapes leaves out; name it there.")


def _kinds(shapes: Sequence[str]) -> Int[np.ndarray, " kind"]:
    """The indices of the shapes."""
    unknown = [shape for shape in shapes if shape not in SHAPES]
    if unknown:
        raise DataError(f"'{unknown[0]}' is not a shape; the shapes are {', '.join(SHAPES)}.")
    if not shapes or len(set(shapes)) < len(shapes):
        raise DataError(f"shapes={tuple(shapes)} is empty or names one twice; name each shape once.")
    return np.array([SHAPES.index(shape) for shape in shapes])


_Mechanism: TypeAlias = tuple[tuple[str, ...], Callable[..., _Values]]


def _mechanisms(shapes: Sequence[str]) -> dict[str, _Mechanism]:
    """The parents of each factor besides itself and the goal that they set, causes before their effects."""
    return {
        "hue-back": ((), np.asarray),
        "hue-spot": (("hue-back",), lambda back: _TURN - back),
        "hue-object": _hue_of_object(shapes),
        "rot-alpha": (("hue-back",), np.asarray),
        "rot-beta": (("hue-object",), np.asarray),
        "pos-x": (("rot-beta",), lambda beta: 1.5 * np.sin(beta)),
        "pos-y": (("rot-alpha",), lambda alpha: 1.5 * np.sin(alpha)),
        "pos-z": (("rot-alpha",), lambda alpha: 1.5 * np.cos(alpha)),
        "rot-spot": (("pos-x", "pos-y"), np.arctan2),
    }


def _hue_of_object(shapes: Sequence[str]) -> _Mechanism:
    """Each shape has a hue of its own; the hare's and the dragon's follow the other hues."""
    hare, dragon = SHAPES.index("hare"), SHAPES.index("dragon")
    own = np.array([0, 1, np.nan, 2, np.nan, 3, 4]) * _TURN / 5

    def goal(shape: Int[np.ndarray, " sequence"], spot: _Values, back: _Values) -> _Values:
        mean = np.arctan2(np.sin(spot) + np.sin(back), np.cos(spot) + np.cos(back))
        return np.where(shape == hare, mean, np.where(shape == dragon, mean + np.pi, own[shape]))

    if len(shapes) == 1:
        return (), np.asarray
    if {"hare", "dragon"}.isdisjoint(shapes):
        return ("obj-shape",), lambda shape: own[shape]
    return ("obj-shape", "hue-spot", "hue-back"), goal


def _anywhere(
    n: int, kinds: Int[np.ndarray, " kind"], rng: np.random.Generator
) -> tuple[Float[np.ndarray, "sequence 10"], Int[np.ndarray, " sequence"]]:
    """Every factor uniform over its range."""
    latents = rng.random((n, N_LATENTS)) * _TURN
    latents[:, :3] = (latents[:, :3] / np.pi - 1) * _REACH
    latents[:, FACTORS.index("rot-gamma")] = 0.0
    return latents, kinds[rng.integers(len(kinds), size=n)]


def _targets(n: int, several_shapes: bool, rng: np.random.Generator) -> Bool[np.ndarray, "sequence 12"]:
    """The factors that a step of perfect interventions sets."""
    movable = np.array([name not in _STILL and (several_shapes or name != "obj-shape") for name in FACTORS])
    chosen = rng.random((n, len(COARSE))) < 1 / (len(COARSE) - (not several_shapes))
    return chosen @ MEMBERS & movable


def _move(
    current: _Values, goal: _Values, shift: _Values, sd: _Values, noise: _Values, *, angle: bool
) -> _Values:
    """Half way to the goal; ``noise`` is uniform on (0, 1)."""
    if angle:
        arc = (goal - current + np.pi) % _TURN - np.pi
        moved = (current + arc / 2 + shift + sd * ndtri(noise)) % _TURN
        return np.where(moved < _TURN, moved, 0.0)  # -1e-17 % 2 pi is 2 pi
    centre = (current + goal) / 2 + shift
    # the quantile of a normal given [-2, 2], in logarithms and mirrored to the lower tail, so that it holds
    # however far beyond the border the centre lies
    sign = np.where(centre < 0, -1.0, 1.0)
    share = np.where(centre < 0, 1 - noise, noise)
    low, high = (log_ndtr((edge - abs(centre)) / sd) for edge in (-_REACH, _REACH))
    moved = abs(centre) + sd * ndtri_exp(np.logaddexp(low + np.log1p(-share), high + np.log(share)))
    return sign * np.clip(moved, -_REACH, _REACH)
