"""A training step of CiteVAE without Pyro and without a trainer: what the library's own step is held against.

The same networks, draws, laws and order of draws, written by hand as log-probabilities of normals, with the
library's likelihood and its sparse sums. From the same weights and the same seed it gives the same bound.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

import pyro_citevae as cv
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE
from pyro_citevae.nn.weighted_rows import weighted_rows

__all__ = ["PlainStep", "program", "train"]

_SITES = ("W", "a", "b", "c")


def program(schema: cv.Schema, hidden: int = 128) -> tuple[CiteVAE, BackwardSmoother]:
    """CiteVAE in the form that :class:`PlainStep` repeats: lag graph, shifts, scales and own transcript."""
    model = CiteVAE(schema, hidden=hidden, onset=False, group=False)
    return model, BackwardSmoother(model, hidden=hidden)


class PlainStep(nn.Module):
    """The negative evidence lower bound of a minibatch, by hand.

    Args:
        model: Of :func:`program`, whose weights are copied.
        guide: Its guide.
    """

    def __init__(self, model: CiteVAE, guide: BackwardSmoother) -> None:
        super().__init__()
        self.schema, self.decay, self.s_a = model.schema, model.decay, model.s_a
        self.n_programs, self.n_invariant = model.n_programs, model.n_invariant
        for name in ("decoder", "batch_effect", "mu_a", "m_c"):
            setattr(self, name, copy.deepcopy(getattr(model, name)))
        self.log_theta = copy.deepcopy(model.likelihood.log_theta)
        self.log_sigma = nn.Parameter(model.sigma.detach().log())
        own = model.own_gene[:, None] == torch.arange(model.schema.n_genes)
        self.register_buffer("own", own.float(), persistent=False)
        for name in ("encoder", "invariant_head", "last_head", "back_head"):
            setattr(self, name, copy.deepcopy(getattr(guide, name)))
        q = guide.globals.independent
        located = {site: (getattr(q.locs, site), getattr(q.scales, site)) for site in _SITES}
        self.loc = nn.ParameterDict(
            {site: nn.Parameter(loc.detach().clone()) for site, (loc, _) in located.items()}
        )
        self.raw_scale = nn.ParameterDict(
            {site: nn.Parameter(scale.detach().expm1().log()) for site, (_, scale) in located.items()}
        )

    def forward(self, batch: cv.data.Batch, kl_weight: float = 1.0) -> Tensor:
        """The bound of the data set that the minibatch stands for, its latent terms times a weight."""
        sites, log_q = self._mechanism()
        zero = torch.zeros(())
        log_p = _log_normal(sites["W"], zero, torch.tensor(0.3)).sum()
        log_p = log_p + _log_normal(sites["a"], self.mu_a, torch.tensor(self.s_a)).sum()
        log_p = log_p + _log_normal(sites["b"], zero, torch.tensor(0.1)).sum()
        log_p = log_p + _log_normal(sites["c"], self.m_c, torch.tensor(0.5)).sum()
        s, z, log_q_cells = self._states(batch)
        log_p_cells = (
            _log_normal(s, zero, torch.ones(())).sum() + _log_normal(z[0], zero, torch.ones(())).sum()
        )
        sigma = self.log_sigma.exp()
        for t in range(1, batch.n_steps + 1):
            u = batch.u[t]
            repeated = (u.sum(-1, keepdim=True) - u.amax(-1, keepdim=True)).clamp(min=0.0)
            loc = u @ sites["a"] - repeated * self.mu_a
            loc = loc + (1 - self.decay) * z[t - 1] + torch.tanh(z[t - 1]) @ sites["W"][0].mT
            law = _log_normal(z[t], loc, sigma * torch.exp(u @ sites["b"]))
            log_p_cells = log_p_cells + (law.sum(-1) * batch.reached(t)).sum()
        each = batch.size / batch.n_cells
        latent = log_p - log_q + each * (log_p_cells - log_q_cells)
        return -(kl_weight * latent + each * self._log_likelihood(batch, sites["c"], s, z))

    def _mechanism(self) -> tuple[dict[str, Tensor], Tensor]:
        """Draws of the global sites, and their log density."""
        drawn: dict[str, Tensor] = {}
        log_q = torch.zeros(())
        for site in _SITES:
            loc, scale = self.loc[site], softplus(self.raw_scale[site])
            drawn[site] = loc + scale * torch.randn(loc.shape)
            log_q = log_q + _log_normal(drawn[site], loc, scale).sum()
        return drawn, log_q

    def _states(self, batch: cv.data.Batch) -> tuple[Tensor, list[Tensor], Tensor]:
        """Draws of the cells' states from the last observation backwards, and their log density."""
        n, K = batch.n_cells, self.n_programs
        x = batch.x.transformed(self.schema.total / batch.library)
        technical = one_hot(batch.technical, self.schema.n_batches).to(x.dtype)
        encoded = self.encoder(torch.cat([x, technical.expand(*x.shape[:-1], -1)], dim=-1))
        summary = torch.where(batch.observed[..., None], encoded, 0.0).transpose(0, 1).flatten(1)
        s, log_q = _drawn(self.invariant_head(summary))
        log_q = log_q.sum()

        seen = torch.cat([summary, s], dim=-1)
        last_dose = batch.u[batch.last, torch.arange(n)]
        last_output = self.last_head(torch.cat([seen, last_dose, self._clock(batch, 0)], dim=-1))
        later, back_head = summary.new_zeros(n, K), self.back_head.held(seen)
        z: list[Tensor] = []
        for t in range(batch.n_steps, -1, -1):
            dose = batch.u[min(t + 1, batch.n_steps)]
            moving = torch.cat([later, dose, self._clock(batch, t)], dim=-1)
            output = torch.where((batch.last == t)[:, None], last_output, back_head(moving, t))
            state, log_density = _drawn(output)
            log_q = log_q + (log_density * batch.reached(t)).sum()
            later = torch.where((batch.last >= t)[:, None], state, 0.0)
            z.insert(0, state)
        return s, z, log_q

    def _clock(self, batch: cv.data.Batch, t: int) -> Tensor:
        """The step and the steps that are left, as shares."""
        T = self.schema.n_steps
        left = (batch.last - t).to(batch.library.dtype) / T
        return torch.stack([torch.full_like(left, t / T), left], dim=-1)

    def _log_likelihood(self, batch: cv.data.Batch, c: Tensor, s: Tensor, z: list[Tensor]) -> Tensor:
        walked = torch.stack(z)
        observed = walked.gather(0, batch.step[..., None].expand(*batch.step.shape, walked.shape[-1]))
        logits = self.decoder(torch.cat([observed, s.expand(*observed.shape[:-1], -1)], dim=-1))
        response, token = batch.exposure.amount.clamp(max=1.0), batch.exposure.token
        tokens = (len(self.batch_effect) + token).expand(response.shape)
        technical = batch.technical.expand(batch.step.shape)[..., None]
        logits = logits + weighted_rows(
            torch.cat([self.batch_effect, c * self.own]),
            torch.cat([technical, tokens], dim=-1),
            torch.cat([torch.ones_like(response[..., :1]), response], dim=-1),
        )
        log_mean = batch.library.log()[..., None] + logits.log_softmax(-1)
        law = cv.counts.NegativeBinomial(log_mean, self.log_theta, validate_args=False)
        return (law.log_prob(batch.x.dense).sum(-1) * batch.observed).sum()


def train(step: PlainStep, data: cv.Trajectories, batch_size: int, max_epochs: int, seed: int = 0) -> None:
    """The loop of :func:`pyro_citevae.fit` by hand: minibatches, warm-up, clipping, Adam, cosine."""
    n_steps = max_epochs * math.ceil(data.n_cells / batch_size)
    optimizer = torch.optim.Adam(step.parameters(), lr=6e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    history = []
    for number, index in enumerate(_minibatches(data.n_cells, batch_size, max_epochs, seed)):
        weight = 0.1 + 0.9 * min(1.0, number / (0.3 * n_steps))
        loss = step(data.batch(index), weight) / data.n_cells
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(step.parameters(), 10.0, error_if_nonfinite=True)
        optimizer.step()
        schedule.step()


def _minibatches(n_cells: int, batch_size: int, max_epochs: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for _ in range(max_epochs):
        order = rng.permutation(n_cells)
        yield from (order[first : first + batch_size] for first in range(0, n_cells, batch_size))


def _drawn(output: Tensor) -> tuple[Tensor, Tensor]:
    """A draw of the normal that a network's output stands for, and its log density."""
    loc, raw = output.chunk(2, dim=-1)
    scale = softplus(raw) + 1e-4
    value = loc + scale * torch.randn(loc.shape)
    return value, _log_normal(value, loc, scale).sum(-1)


def _log_normal(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -((value - loc) / scale).square() / 2 - scale.log() - math.log(2 * math.pi) / 2
