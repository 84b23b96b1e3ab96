"""Row 1: the negative binomial of the library against torch's, forward and backward, on sparse counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from alternation import alternated, seconds
from case import Case, Measured, Target
from scipy import sparse
from torch import Tensor

import pyro_citevae as cv
from pyro_citevae.nn.sparse_counts import SparseCounts

__all__ = ["cases"]

_DENSITY = 0.1
_TOLERANCE = 1e-5
_NO_WORSE = 1.2  # times torch's own error, where that is above the tolerance

Likelihood = Callable[[Tensor, Tensor], Tensor]


def cases(quick: bool) -> list[Case]:
    """512 cells x 5,000 genes."""
    n_cells, n_genes, rounds = (16, 50, 3) if quick else (512, 5000, 25)
    target = Target("torch's time over ours", "at least", 4.0)
    return [
        Case(
            "likelihood",
            f"{n_cells:,} x {n_genes:,}, {_DENSITY:.0%} non-zero",
            target,
            partial(_measured, n_cells, n_genes, rounds),
        )
    ]


def _measured(n_cells: int, n_genes: int, rounds: int) -> Measured:
    counts, log_mean, log_theta = _problem(n_cells, n_genes)
    dense = torch.from_numpy(counts.toarray())
    ours, theirs = _ours(counts), partial(_torchs, dense)
    taken = alternated(
        {
            "torch": partial(_forward_and_backward, theirs, log_mean, log_theta),
            "ours": partial(_forward_and_backward, ours, log_mean, log_theta),
        },
        rounds,
    )
    exact = _forward_and_backward(partial(_torchs, dense.double()), log_mean.double(), log_theta.double())
    our_errors = _errors(_forward_and_backward(ours, log_mean, log_theta), exact)
    torchs_errors = _errors(_forward_and_backward(theirs, log_mean, log_theta), exact)
    # the gradient in theta sums small differences over cells, of which torch itself keeps fewer digits
    holds = all(
        one <= max(_TOLERANCE, _NO_WORSE * other)
        for one, other in zip(our_errors, torchs_errors, strict=True)
    )
    note = (
        f"torch {seconds(taken['torch'])}, ours {seconds(taken['ours'])}; relative errors of value, "
        f"gradient in mu and in theta: ours {_said(our_errors)}, torch's {_said(torchs_errors)}"
    )
    return Measured((taken["torch"] / taken["ours"]).tolist(), note, holds)


def _problem(n_cells: int, n_genes: int) -> tuple[sparse.csr_matrix, Tensor, Tensor]:
    """Counts of which a tenth are not zero, drawn from the law whose parameters are near those given."""
    rng = np.random.default_rng(0)
    theta = np.exp(rng.normal(1.0, 0.5, n_genes))
    spread = rng.normal(0.0, 1.5, n_genes)
    low, high = -12.0, 5.0  # where the mean's offset gives the wanted density
    for _ in range(40):
        middle = (low + high) / 2
        share = 1 - np.mean((1 + np.exp(spread + middle) / theta) ** -theta)
        low, high = (middle, high) if share < _DENSITY else (low, middle)
    mean = np.exp(spread + low + rng.normal(0.0, 0.2, (n_cells, n_genes)))
    counts = rng.poisson(rng.gamma(theta, mean / theta)).astype(np.float32)
    log_mean = np.log(mean) + rng.normal(0.0, 0.1, mean.shape)
    return (
        sparse.csr_matrix(counts),
        torch.from_numpy(log_mean).float(),
        torch.from_numpy(np.log(theta)).float(),
    )


def _ours(counts: sparse.csr_matrix) -> Likelihood:
    """The library's own, as a minibatch hands it on: dense for the encoder, its non-zeros beside it."""
    stored = counts.tocoo()
    place = torch.from_numpy(stored.row.astype(np.int64) * counts.shape[1] + stored.col)
    given = SparseCounts.of(torch.from_numpy(counts.toarray()), place, torch.from_numpy(stored.data))
    return lambda log_mean, log_theta: (
        cv.counts.NegativeBinomial(log_mean, log_theta, validate_args=False).to_event(1).log_prob(given)
    )


def _torchs(counts: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    law = torch.distributions.NegativeBinomial(
        log_theta.exp(), logits=log_mean - log_theta, validate_args=False
    )
    return law.log_prob(counts)


def _forward_and_backward(likelihood: Likelihood, log_mean: Tensor, log_theta: Tensor) -> list[Tensor]:
    """The sum of the log probabilities, and its gradients in both parameters."""
    given = [log_mean.detach().requires_grad_(), log_theta.detach().requires_grad_()]
    value = likelihood(*given).sum()
    value.backward()
    return [value.detach(), *(one.grad for one in given if one.grad is not None)]


def _errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    """Errors against double precision, each relative to its norm."""
    return [float((one.double() - true).norm() / true.norm()) for one, true in zip(found, exact, strict=True)]


def _said(errors: list[float]) -> str:
    return ", ".join(f"{error:.0e}" for error in errors)
