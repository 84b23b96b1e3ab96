"""Terms of a process in the tokens: each its equation, its sites, and what it contributes.

A further term is one class here and two lines in a model; the README of this folder shows how.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Parameter

from pyro_citevae.nn.normal_array import NormalArray
from pyro_citevae.nn.priors import from_seen, gate, normal
from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.program import Mechanism, positive

Values: TypeAlias = dict[str, Tensor]
Dose: TypeAlias = Float[Tensor, "... cell token"]
Table: TypeAlias = Float[Tensor, "... row gene"]


def sampled(terms: Iterable[TokenTerm]) -> Values:
    """Samples the sites of terms, one term after the other, and returns their values by symbol."""
    values: Values = {}
    for term in terms:
        values |= term.sites(values)
    return values


class TokenTerm(ABC):
    """A term of a process: an equation in the tokens.

    A term adds its parameters to the model that it is made for, under the symbols of its equation, so that
    the weights of a run have these names.

    Args:
        model: The model whose term it is: it has ``schema``, ``n_programs``, ``seen``, ``rows`` and ``zero``.

    Attributes:
        dims: Names of the axes of the term's sites.
    """

    dims: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def __init__(self, model: Any) -> None:
        self.model = model

    @abstractmethod
    def sites(self, values: Values) -> Values:
        """Samples the term's sites.

        Args:
            values: What the terms before sampled, by symbol.

        Returns:
            The values by symbol; a symbol that was there before is replaced.
        """


@final
class Absent(TokenTerm):
    """A term that is switched off: no site, and zero wherever it is added."""

    def sites(self, values: Values) -> Values:
        """None."""
        return {}

    def __call__(self, *given: Any) -> Float[Tensor, ""]:
        """Zero."""
        return self.model.zero


@final
class Memory(TokenTerm):
    """``W_lkj ~ N(0, 0.3)``; adds ``(1 - decay) z_{t-1} + sum_l W_l tanh(z_{t-l})``."""

    dims = MappingProxyType({"W": ("lag", "program", "source")})

    def sites(self, values: Values) -> Values:
        """Samples W."""
        return {"W": self.model.lag_weights()}

    def __call__(self, mechanism: Mechanism, history: Any) -> Float[Tensor, "... cell program"]:
        """What a state keeps of its past."""
        return self.model.past(mechanism.W, history)


@final
class EdgeGates(TokenTerm):
    """``A_lkj ~ RelaxedBernoulli(0.2)``: an edge is there or not, ``W <- A W``."""

    dims = MappingProxyType({"A": ("lag", "program", "source")})

    def sites(self, values: Values) -> Values:
        """Samples A, and gates W by it."""
        A = pyro.sample("A", gate(self.model.zero + 0.2, *values["W"].shape[-3:]))
        return {"W": values["W"] * A}


@final
class TargetMask(TokenTerm):
    """``m_pk ~ RelaxedBernoulli(0.5)``: which programs a token targets, ``a <- m a`` and ``b <- m b``."""

    dims = MappingProxyType({"m": ("token", "program")})

    def sites(self, values: Values) -> Values:
        """Samples m, and masks what is there of a and b by it."""
        shape = (self.model.schema.n_tokens, self.model.n_programs)
        m = pyro.sample("m", gate(self.model.zero + 0.5, *shape))
        return {symbol: m * values[symbol] for symbol in ("a", "b") if symbol in values} | {
            symbol: m[..., None, :, :] * values[symbol] for symbol in ("g",) if symbol in values
        }


@final
class Pairs(TokenTerm):
    """``v_pr ~ N(0, 1)``, ``w_rk ~ N(0, 0.3)``; what two tokens shift together, as a factorisation machine.

    ::

        sum_{i < j} h_i h_j sum_r v_ir v_jr w_r

    Zero for a single token, symmetric, and learnt from combinations for every pair of their tokens.

    Args:
        model: The model whose term it is.
        rank: Number R of factors.

    Source: S. Rendle, Factorization Machines (2010).
    """

    dims = MappingProxyType({"v": ("token", "rank"), "w": ("rank", "program")})

    def __init__(self, model: Any, rank: int) -> None:
        super().__init__(model)
        self.rank = rank

    def sites(self, values: Values) -> Values:
        """Samples v and w."""
        zero, P, K = self.model.zero, self.model.schema.n_tokens, self.model.n_programs
        v = pyro.sample("v", normal(zero, 1.0, P, self.rank))
        return {"v": v, "w": pyro.sample("w", normal(zero, 0.3, self.rank, K))}

    def __call__(self, mechanism: Mechanism, h: Dose) -> Float[Tensor, "... cell program"]:
        """The shift of the mean: ``((h v)^2 - h^2 v^2) w / 2``, which is the sum over pairs."""
        both: Tensor = (h @ mechanism.v).square() - h.square() @ mechanism.v.square()
        return both @ mechanism.w / 2


@final
class Epistasis(TokenTerm):
    """``q_ijk ~ N(0, s_q)``; adds ``sum_{i < j} h_i h_j q_ij``: every pair shifts the programs by itself.

    The scale s_q is learnt from the pairs that were seen, and what an unseen one does is drawn, which widens
    its interval.
    """

    dims = MappingProxyType({"q": ("pair", "program")})

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        model.s_q = positive(torch.tensor(0.1))

    def sites(self, values: Values) -> Values:
        """Samples q."""
        P = self.model.schema.n_tokens
        law = normal(self.model.zero, self.model.s_q, P * (P - 1) // 2, self.model.n_programs)
        return {"q": pyro.sample("q", law)}

    def __call__(self, mechanism: Mechanism, h: Dose) -> Float[Tensor, "... cell program"]:
        """The shift of the mean."""
        i, j = torch.triu_indices(h.shape[-1], h.shape[-1], 1, device=h.device)
        return (h[..., i] * h[..., j]) @ mechanism.q


@final
class Onset(TokenTerm):
    """``kappa_p ~ LogNormal(m_kappa, 0.5)``; a token sets in gradually, at its own rate.

    ::

        r_t = 1 - exp(-kappa sum_{t' <= t} u_{t'})                     share that has set in
        h_t = u_t r_t / mean_{t' <= T} (1 - exp(-kappa t'))            dose that acts, T units in all T steps

    The dose is measured in whole courses, since in a snapshot kappa would be one more amplitude.
    """

    dims = MappingProxyType({"kappa": ("token",)})

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        model.m_kappa = Parameter(torch.tensor(-1.2))

    def sites(self, values: Values) -> Values:
        """Samples kappa."""
        P, T = self.model.schema.n_tokens, self.model.schema.n_steps
        median = from_seen(self.model.m_kappa.expand(P, 1), self.model.seen)[:, 0]
        kappa: Tensor = pyro.sample("kappa", dist.LogNormal(median, 0.5).to_event(1))
        steps = torch.arange(1, T + 1, device=kappa.device)
        return {"kappa": kappa, "typical": (1 - torch.exp(-kappa[..., None] * steps)).mean(-1)}

    def share(self, mechanism: Mechanism, exposure: Dose) -> Dose:
        """r, which share of each token has set in."""
        return -torch.expm1(-mechanism.kappa * exposure)

    def dose(self, mechanism: Mechanism, u: Dose) -> Dose:
        """h, the dose that acts."""
        return u * self.share(mechanism, mechanism.exposure) / mechanism.typical


@final
class AtOnce(TokenTerm):
    """``h_t = u_t`` and ``r_t = min(1, sum_{t' <= t} u_{t'})``: a token acts as soon as it is given."""

    def sites(self, values: Values) -> Values:
        """None."""
        return {}

    def share(self, mechanism: Mechanism, exposure: Dose) -> Dose:
        """r, which share of each token has set in."""
        return exposure.clamp(max=1.0)

    def dose(self, mechanism: Mechanism, u: Dose) -> Dose:
        """h, the dose that acts."""
        return u


@final
class GroupDeviation(TokenTerm):
    """``e_tpg ~ N(0, s_p)``; a token's cells deviate together, and keep what they took on.

    ::

        E_t = e_1 + ... + e_t                for the steps t <= T of the screen
        E_t = E_T + e_later                  for those that follow, e_later ~ N(0, s_p)

    It lets a group drift from the model: the scale s_p of its changes is learnt from the observed times, and
    what it does at a time without data is drawn, which widens the interval. No cell of the screen sees
    e_later, whose posterior is its prior.

    The T steps of a snapshot are never seen apart. There ``e_1 ~ N(0, s_p sqrt(T))`` is what a group took on
    by the observation, with the law of the sum over T steps.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        schema = model.schema
        model.s_e = positive(torch.full((schema.n_tokens, 1), 0.05))
        snapshot = schema.design == "snapshot"
        self.dims = {
            "e": ("change" if snapshot else "step", "token", "gene"),
            "e_later": ("token", "gene"),
        }
        self.stride = schema.n_steps if snapshot else 1  # steps of a change

    @property
    def scale(self) -> Float[Tensor, "token 1"]:
        """Scale of each token's changes; for one without cells, that of a middling token."""
        s_e, seen = self.model.s_e, self.model.seen
        log, n_seen = s_e.detach().log(), seen.sum().clamp(min=1)
        typical = (torch.where(seen[:, None], log, 0.0).sum() / n_seen).exp()
        return torch.where(seen[:, None], s_e, typical)

    def sites(self, values: Values) -> Values:
        """Samples e, and out of training e_later; on a large screen, of the tokens in use."""
        model, rows, s_p = self.model, self.model.in_use, self.scale
        shape, weight = (model.schema.n_tokens, model.schema.n_genes), None
        if rows is not None and rows.weight is not None:
            shape, weight, s_p = (len(rows.tokens), shape[1]), rows.weight, rows.of(s_p)
        changes = (model.schema.n_steps // self.stride, *shape)
        e = pyro.sample("e", NormalArray(0.0, s_p * self.stride**0.5, changes, weight=weight))
        if model.training:
            return {"e": e}
        return {"e": e, "e_later": pyro.sample("e_later", NormalArray(0.0, s_p, shape, weight=weight))}

    def in_steps(
        self, direct: Table, mechanism: Mechanism, step: Int[Tensor, "slot cell"], rows: RowsInUse
    ) -> tuple[Table, Int[Tensor, "slot cell 1"]]:
        """A table of ``direct + E_t``, a row a step and token, and where each step's rows begin."""
        e = rows.of_local(mechanism.e)
        if not self.model.training:
            e = torch.cat([e, rows.of_local(mechanism.e_later)[..., None, :, :]], dim=-3)
        changed = (e.cumsum(-3) if e.shape[-3] > 1 else e) + direct[..., None, :, :]
        change = ((step.clamp(min=1) - 1) // self.stride).clamp(max=e.shape[-3] - 1)
        return changed.flatten(-3, -2), len(rows.tokens) * change[..., None]


@final
class NoDeviation(TokenTerm):
    """A token's cells do as the model says."""

    def sites(self, values: Values) -> Values:
        """None."""
        return {}

    def in_steps(
        self, direct: Table, mechanism: Mechanism, step: Int[Tensor, "slot cell"], rows: RowsInUse
    ) -> tuple[Table, Int[Tensor, "slot cell 1"]]:
        """``direct`` itself, the same in every step."""
        return direct, torch.zeros_like(step)[..., None]
