"""Cells summarised over the draws of their laws: a draw of each, mean, spread and quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pyro_citevae.nn.count_quantiles import count_quantiles
from pyro_citevae.nn.counts import NegativeBinomial, Poisson

__all__ = ["summarised"]

_TAILS = {"q05": 0.05, "q95": 0.95}


def summarised(
    laws: Sequence[Any],
    means: Sequence[Float[Tensor, "draw time cell gene"]],
    draw: Int[np.ndarray, " cell"],
    member: Int[np.ndarray, " cell"],
) -> tuple[Float[np.ndarray, "time cell gene"], dict[str, Float[np.ndarray, "time cell gene"]]]:
    r"""A draw of each cell's values, and ``mean``, ``sd``, ``q05`` and ``q95`` over all draws.

    Negative binomials and Poissons need no draws of counts but each cell's own::

        mean = E mu                  sd^2 = E var(x | mu) + var mu

    over the draws of mu, and quantiles are those of a negative binomial whose mean is log-normal with these
    moments (:func:`~pyro_citevae.nn.count_quantiles.count_quantiles`). Of any other law every draw is drawn.

    Args:
        laws: A member's law of the values, batch shape (draw, time, cell), event shape (gene,), for each.
        means: Their means.
        draw: Whose draw a cell's own one is.
        member: And of which member.
    """
    bases = [getattr(law, "base_dist", law) for law in laws]
    if all(isinstance(one, NegativeBinomial | Poisson) for one in bases):
        return _own(bases, draw, member), _by_moments(bases, means)
    drawn = [law.sample() for law in laws]
    x = torch.cat(drawn) if len(drawn) > 1 else drawn[0]
    mean = torch.stack([one.mean(0) for one in means]).mean(0)
    values = x.detach().cpu().numpy()
    own = values[member * len(drawn[0]) + draw, :, np.arange(len(draw))].swapaxes(0, 1)
    layers = {"mean": mean, "sd": x.std(0, correction=0)}
    made = {name: one.detach().cpu().numpy() for name, one in layers.items()}
    return own.copy(), made | dict(zip(_TAILS, _quantiles(values), strict=True))


def _own(
    laws: Sequence[NegativeBinomial | Poisson],
    draw: Int[np.ndarray, " cell"],
    member: Int[np.ndarray, " cell"],
) -> Float[np.ndarray, "time cell gene"]:
    """A draw of each cell's counts."""
    _, n_times, n_cells, n_genes = laws[0].batch_shape
    found = np.empty((n_times, n_cells, n_genes), dtype=np.float32)
    for j, law in enumerate(laws):
        cell = np.flatnonzero(member == j)
        if len(cell):
            at = (torch.from_numpy(draw[cell]), slice(None), torch.from_numpy(cell))
            found[:, cell] = law.at(at).sample().cpu().numpy().swapaxes(0, 1)
    return found


def _by_moments(
    laws: Sequence[NegativeBinomial | Poisson], means: Sequence[Float[Tensor, "draw time cell gene"]]
) -> dict[str, Float[np.ndarray, "time cell gene"]]:
    """Summaries by the law of total variance."""
    moments = []
    for law, mu in zip(laws, means, strict=True):
        square = torch.linalg.vector_norm(mu, dim=0).square() / len(mu)
        moments.append(torch.stack([mu.mean(0), square, _dispersed(law, mu, square)]))
    mean, square, dispersed = torch.stack(moments).mean(0)
    spread = (square - mean.square()).clamp(min=0.0)
    layers = {"mean": mean, "sd": (mean + dispersed + spread).sqrt()}
    made = {name: one.detach().cpu().numpy() for name, one in layers.items()}
    uncertain = (mean, spread, dispersed / square.clamp(min=1e-30))
    m, s2, phi = (one.detach().cpu().double().numpy() for one in uncertain)
    tails = count_quantiles(m, s2, phi, list(_TAILS.values()))
    return made | {name: one.astype(np.float32) for name, one in zip(_TAILS, tails, strict=True)}


def _dispersed(
    law: NegativeBinomial | Poisson,
    mu: Float[Tensor, "draw time cell gene"],
    square: Float[Tensor, "time cell gene"],
) -> Float[Tensor, "time cell gene"]:
    """``E phi mu^2`` over the draws, from ``square = E mu^2`` where phi has no axis of draws."""
    phi = law.dispersion
    return phi * square if phi.dim() < mu.dim() else (phi * mu.square()).mean(0)


def _quantiles(x: Float[np.ndarray, "draw ..."]) -> Float[np.ndarray, "2 ..."]:
    """Quantiles over the first axis, which NumPy sorts ten times faster than torch does."""
    ordered = np.sort(x, axis=0)
    position = np.array(list(_TAILS.values()), dtype=np.float32) * np.float32(len(x) - 1)
    below, above = np.floor(position).astype(int), np.ceil(position).astype(int)
    weight = (position - below).astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    tails: np.ndarray = ordered[below] * (1 - weight) + ordered[above] * weight
    return tails
