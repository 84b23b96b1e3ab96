"""Which triangle each sample of an image sees: a z-buffer in NumPy, looping over neither."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Fragments", "rasterise"]


@final
@dataclass(frozen=True)
class Fragments:
    """The nearest triangle of each sample that a triangle covers.

    Attributes:
        sample: Number of the sample, row by row.
        face: The triangle it sees.
        weights: Of the triangle's corners in the point that is seen, in space and not on the image.
        nearness: One over the depth of that point.
    """

    sample: Int[np.ndarray, " hit"]
    face: Int[np.ndarray, " hit"]
    weights: Float[np.ndarray, "hit corner"]
    nearness: Float[np.ndarray, " hit"]


def rasterise(
    projected: Float[np.ndarray, "face corner 3"], size: int, *, most_pairs: int = 1 << 19
) -> Fragments:
    """Finds the nearest triangle of each sample of a square image.

    A sample is the middle of a cell of a ``size`` by ``size`` grid. Over a triangle the edge functions
    (Pineda 1988) and one over the depth are linear on the image.

    Args:
        projected: Column, row (in cells) and one over the depth of each corner; all before the eye.
        size: Cells in a row, and rows.
        most_pairs: Pairs of a triangle and a sample of its box that are looked at together.

    Returns:
        A fragment for each covered sample, in the order of the samples.

    Example:
        >>> triangle = np.array([[[0.0, 0.0, 1.0], [4.0, 0.0, 1.0], [0.0, 4.0, 1.0]]])
        >>> rasterise(triangle, 4).sample
        array([ 0,  1,  2,  3,  4,  5,  6,  8,  9, 12])
    """
    nearest = np.zeros(size * size)
    face = np.full(size * size, -1)
    weights = np.zeros((size * size, 3))
    for one in _covered(projected, size, most_pairs):
        np.maximum.at(nearest, one.sample, one.nearness)
        wins = one.nearness >= nearest[one.sample]
        face[one.sample[wins]], weights[one.sample[wins]] = one.face[wins], one.weights[wins]
    sample = np.flatnonzero(face >= 0)
    return Fragments(sample, face[sample], weights[sample], nearest[sample])


def _covered(
    projected: Float[np.ndarray, "face corner 3"], size: int, most_pairs: int
) -> Iterator[Fragments]:
    """Every pair of a triangle and a sample in it, in blocks that bound the memory."""
    flat = projected[..., :2]
    one, two, three = np.moveaxis(flat, 1, 0)
    area = _cross(two - one, three - one)
    low = np.clip(np.ceil(flat.min(axis=1) - 0.5), 0, size).astype(np.int64)
    high = np.clip(np.floor(flat.max(axis=1) - 0.5), -1, size - 1).astype(np.int64)
    width, height = np.maximum(high - low + 1, 0).T
    faces = np.flatnonzero((width * height > 0) & (np.abs(area) > 1e-12))
    ends = np.cumsum((width * height)[faces])
    for block in np.split(faces, np.searchsorted(ends, np.arange(most_pairs, ends[-1:].sum(), most_pairs))):
        boxes = width[block] * height[block]
        face = np.repeat(block, boxes)
        place = np.arange(len(face)) - np.repeat(np.cumsum(boxes) - boxes, boxes)
        column, row = low[face, 0] + place % width[face], low[face, 1] + place // width[face]
        offset = np.stack([column, row], axis=-1) + 0.5 - one[face]
        second = _cross(offset, (three - one)[face]) / area[face]
        third = _cross((two - one)[face], offset) / area[face]
        inside = (second >= 0) & (third >= 0) & (second + third <= 1)
        face, second, third = face[inside], second[inside], third[inside]
        weights = np.stack([1 - second - third, second, third], axis=-1) * projected[face, :, 2]
        nearness = weights.sum(axis=-1)
        yield Fragments((row * size + column)[inside], face, weights / nearness[:, None], nearness)


def _cross(a: Float[np.ndarray, "one 2"], b: Float[np.ndarray, "one 2"]) -> Float[np.ndarray, " one"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
