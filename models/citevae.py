"""CITE-VAE, as reconstructed from the abstract of Jiang et al. (2026)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pyro_citevae.data.features import GeneFeatures
from pyro_citevae.data.schema import Schema
from pyro_citevae.errors import ModelError
from pyro_citevae.nn.emissions import Emission
from pyro_citevae.nn.lags import saturating
from pyro_citevae.nn.networks import Decoder, joined
from pyro_citevae.nn.priors import TokenRows, from_seen, gate, normal
from pyro_citevae.nn.weighted_rows import weighted_rows
from pyro_citevae.program import Distribution, LatentDynamics, Mechanism, positive


@final
class CiteVAE(LatentDynamics):
    r"""Latent causal programs that evolve under perturbation-conditioned mechanisms.

    ::

        A_lkj  ~ RelaxedBernoulli(0.2)    W_lkj ~ N(0, 0.3)        lag graph (edges), weight of j -> k
        m_pk   ~ RelaxedBernoulli(0.5)                             which programs a token targets (mask)
        a_pk   ~ N(mu_a, s_a)             b_pk  ~ N(0, 0.1)        shift and log-scale change of a token
        c_p    ~ N(m_c, 0.5)              d_pg  ~ N(0, s_d)        own transcript, and single genes (direct)
        e_tpg  ~ N(0, s_p)                                         what a group takes on at one time
        kappa_p ~ LogNormal(m_kappa, 0.5)                          rate at which a token sets in
        v_pr   ~ N(0, 1)                  w_rk  ~ N(0, 0.3)        what two tokens shift together (pairs)
        q_ijk  ~ N(0, s_q)                                         what a pair shifts by itself (epistasis)

        s_n      ~ N(0, I)                                         invariant state
        z_{n,0}  ~ N(0, I)
        r_{n,t}  = 1 - exp(-kappa sum_{t' <= t} u_{t'})            share that the exposure has set in
        h_{n,t}  = u_t r_t / mean_{t' <= T} (1 - exp(-kappa t'))   dose that acts, T units in all T steps
        E_t      = e_1 + ... + e_t                                 deviation of the groups by now
        z_{n,t}  ~ N((1 - decay) z_{t-1} + sum_l (A_l W_l) tanh(z_{t-l}) + h_t (m a) + pairs(h_t)
                     - (sum_p h_tp - max_p h_tp) mu_a,  sigma exp(h_t (m b)))
        pairs(h) = sum_{i < j} h_i h_j (q_ij + sum_r v_ir v_jr w_r)
        x_{n,t}  ~ NB(library_n softmax(f(z_t, s_n) + batch_n + r_t (c + d + E_t)), theta_g)

    ================  ============================================  ==================
    symbol            meaning                                       shape
    ================  ============================================  ==================
    A, W              gate in [0, 1] and weight of an edge j -> k   (lag, program, program)
    m, a, b           target mask, shift and log-scale change       (token, program)
    c                 change of the token's own transcript (log)    (token, 1)
    d                 direct change of single genes (log)           (token, gene)
    e                 deviation that a group takes on (log)         (step, token, gene)
    kappa             rate at which a token sets in, a step         (token,)
    v, w              pair loadings of a token, shift by a factor   (token, rank), (rank, program)
    q                 shift of a pair i < j by itself               (pair, program)
    sigma             noise scale of the transition                 (program,)
    theta             inverse dispersion                            (gene,)
    ================  ============================================  ==================

    With features F of the tokens, rows of a and d (and of b and c, where asked) have their prior mean moved
    by ``B_0 + F_p B``, as :class:`~pyro_citevae.nn.priors.TokenRows` says: a token without cells is drawn
    around what is learnt from the tokens that it is like.

    What all tokens shift alike, mu_a, counts once in a combination: it is mostly the sampling error of
    the controls, which a sum over the tokens would repeat. The decoder f sees neither dose nor time. A
    knocked-out gene's protein decays, so that its loss sets in with exposure; programs sum up what acts on
    them, and follow later than single genes do. The deviation E is to a forecast what a group's own
    scatter is to a mean: the scale s_p of its changes is learnt from the observed times, and what it does
    at a time without data is drawn, which widens the interval. The scales s_a and s_d are given, since
    maximising the bound over them shrinks strong effects. Where the library size counts unmeasured genes
    too, the softmax has one more class for them.

    A pair is one more of the seen ones: the scale s_q of what pairs shift by themselves is learnt from those
    that were seen, and what an unseen one does is drawn, which widens its interval.

    The switches that are off by default (edges, mask, direct, pairs, epistasis) add what did not pay in
    forecasts of real screens; turn them on where the ingredient itself is the question.

    Args:
        schema: Names and sizes of the screen's axes.
        n_programs: Number K of programs.
        n_invariant: Size S of the invariant state.
        n_lags: Number L of lags.
        hidden: Width of the decoder's hidden layers; 0 makes it linear.
        emission: Family of :class:`Emission`; None for NB, or N(f + ..., scale) where values are real.
        time: Let a state remember the past (W), and a token set in; off, ``z_t ~ N(u_t (m a),
            sigma exp(u_t (m b)))``.
        onset: Let a token set in gradually (kappa), where there is time; off, ``h_t = u_t`` and
            ``r_t = min(1, sum u)``.
        edges: Gate the lag graph (A), so that edges have a probability; off, every edge is open.
        mask: Gate the targets (m); off, a token may shift every program.
        scale: Let tokens change the noise scale (b).
        own_transcript: Let a token change its own transcript (c).
        direct: Let a token change single genes (d).
        group: Let a token's cells at one time deviate together (e).
        pairs: Rank R of what tokens given together shift beside their own shifts; 0 for none. The term is
            symmetric, zero for a single token, and learnt from combinations for every pair of their tokens.
        epistasis: Let every pair shift the programs by itself (q); for screens with combinations.
        decay: Share of a program's state that a step loses.
        shift_scale: Prior scale s_a of the shifts.
        direct_scale: Prior scale s_d of the direct changes, natural log.
        features: Features of every token, such as ``features.gene_ontology(schema.tokens)``; or the names of
            their columns alone, where the values are loaded with the weights.
        informed: Sites whose rows the features move, among a, b, c and d; None for a, and d where it is.

    Raises:
        ModelError: ``informed`` names a site that the model lacks, or the features are a text.
        DataError: A token has no row in the features.

    Source: W. Jiang et al., Learning Latent Dynamical Causal Processes for Single-Cell Perturbation
    Prediction, arXiv 2605.25581 (2026), of which only the abstract was read: the equations are ours. The pair
    term is that of S. Rendle, Factorization Machines (2010).

    Example:
        >>> from pyro_citevae import simulate
        >>> model = CiteVAE(simulate().data.schema, n_programs=4)
        >>> model.settings["n_programs"]
        4
    """

    sigma: Tensor
    s_e: Tensor
    own: Tensor
    dims: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {
            "A": ("lag", "program", "source"),
            "W": ("lag", "program", "source"),
            "m": ("token", "program"),
            "a": ("token", "program"),
            "b": ("token", "program"),
            "c": ("token", "own"),
            "d": ("token", "gene"),
            "e": ("step", "token", "gene"),
            "kappa": ("token",),
            "v": ("token", "rank"),
            "w": ("rank", "program"),
            "q": ("pair", "program"),
        }
    )

    def __init__(
        self,
        schema: Schema,
        *,
        n_programs: int = 16,
        n_invariant: int = 8,
        n_lags: int = 1,
        hidden: int = 64,
        emission: str | None = None,
        time: bool = True,
        onset: bool = True,
        edges: bool = False,
        mask: bool = False,
        scale: bool = True,
        own_transcript: bool = True,
        direct: bool = False,
        group: bool = True,
        pairs: int = 0,
        epistasis: bool = False,
        decay: float = 0.05,
        shift_scale: float = 0.5,
        direct_scale: float = 0.15,
        features: GeneFeatures | Sequence[str] | None = None,
        informed: Sequence[str] | None = None,
    ) -> None:
        super().__init__(schema, n_programs=n_programs, n_invariant=n_invariant, n_lags=n_lags)
        self.time, self.onset, self.edges = time, time and onset, edges
        self.mask, self.scale = mask, scale
        self.own_transcript, self.direct, self.group = own_transcript, direct, group
        K, G = n_programs, schema.n_genes
        self.decoder = Decoder(K + n_invariant, schema.n_shares, hidden)
        self.likelihood = Emission(schema.values, G, emission)
        self.batch_effect = torch.nn.Parameter(torch.zeros(schema.n_batches, G))
        self.decay, self.s_a, self.s_d = decay, shift_scale, direct_scale
        self.sigma = positive(torch.full((K,), 0.3))
        if group:
            self.s_e = positive(torch.full((schema.n_tokens, 1), 0.05))
        self.mu_a = torch.nn.Parameter(torch.zeros(K))
        self.pairs, self.epistasis = pairs, epistasis
        if epistasis:
            self.s_q = positive(torch.tensor(0.1))
        if own_transcript:
            self.m_c = torch.nn.Parameter(torch.zeros(()))
        if self.onset:
            self.m_kappa = torch.nn.Parameter(torch.tensor(-1.2))
        moved = ("a", "d")[: 1 + direct] if informed is None else informed
        self.rows = self._token_rows(features, moved)
        self.dims = {**type(self).dims, **self.rows.axes(type(self).dims)}
        own = torch.from_numpy(schema.own_gene)
        self.register_buffer("own", torch.nn.functional.one_hot(own.clamp(min=0), G) * (own >= 0)[:, None])

    def _token_rows(
        self, features: GeneFeatures | Sequence[str] | None, informed: Sequence[str]
    ) -> TokenRows:
        """The laws of rows; where the features are names alone, their values come with the weights."""
        there = {"a": True, "b": self.scale, "c": self.own_transcript, "d": self.direct}
        for site in informed if features is not None else ():
            if not there.get(site):
                known = ", ".join(name for name, on in there.items() if on)
                raise ModelError(f"CiteVAE(informed=...) names '{site}', expected some of {known}.")
        if features is None:
            return TokenRows(None, informed)
        if isinstance(features, str):
            raise ModelError(f"CiteVAE(features={features!r}) is a text; give GeneFeatures of the tokens.")
        if isinstance(features, GeneFeatures):
            return TokenRows(torch.from_numpy(features.rows(self.schema.tokens)).float(), informed)
        return TokenRows(torch.zeros(self.schema.n_tokens, len(features)), informed)

    @property
    def informed(self) -> Bool[Tensor, " token"]:
        """Tokens that have features."""
        return super().informed if self.rows.F is None else self.rows.F.any(-1)

    @property
    def _populations(self) -> dict[str, tuple[Tensor, float]]:
        """Mean and scale of the rows of each site."""
        zero = torch.zeros_like(self.mu_a[0])
        m_c = self.m_c if self.own_transcript else zero
        return {"a": (self.mu_a, self.s_a), "b": (zero, 0.1), "c": (m_c, 0.5), "d": (zero, self.s_d)}

    def unseen(self, values: Mapping[str, Tensor], donor: Int[Tensor, "draw token"]) -> Mapping[str, Tensor]:
        """Rows that features move, by kriging from the seen ones."""
        populations = self._populations
        return {
            site: self.rows.unseen(site, values, *populations[site], self.seen, donor)
            for site in self.rows.m_rho
        }

    def _group_scale(self) -> Float[Tensor, "token 1"]:
        """Scale of each token's group deviations; for one without cells, that of a middling token."""
        s_e = self.s_e
        typical = s_e[self.seen].log().mean().exp().detach()
        return torch.where(self.seen[:, None], s_e, typical)

    def mechanism(self) -> Mechanism:
        """Samples the lag graph, the tokens' effects and their direct changes."""
        P, K, G, L = self.schema.n_tokens, self.n_programs, self.schema.n_genes, self.n_lags
        zero, rows = torch.zeros_like(self.mu_a[0]), self._populations
        W: Any = pyro.sample("W", normal(zero, 0.3, L, K, K)) if self.time else None
        a = pyro.sample("a", self.rows("a", *rows["a"], K, self.seen))
        b = torch.zeros_like(a)
        if self.scale:
            b = pyro.sample("b", self.rows("b", *rows["b"], K, self.seen))
        if self.time and self.edges:
            W = W * pyro.sample("A", gate(zero + 0.2, L, K, K))
        if self.mask:
            m = pyro.sample("m", gate(zero + 0.5, P, K))
            a, b = m * a, m * b
        direct = zero.expand(P, G)
        if self.direct:
            direct = pyro.sample("d", self.rows("d", *rows["d"], G, self.seen))
        if self.own_transcript:
            # (token, 1), so that it lines up with d under a plate of draws
            c = pyro.sample("c", self.rows("c", *rows["c"], 1, self.seen))
            direct = direct + c * self.own
        v = w = None
        if self.pairs:
            v = pyro.sample("v", normal(zero, 1.0, P, self.pairs))
            w = pyro.sample("w", normal(zero, 0.3, self.pairs, K))
        q = None
        if self.epistasis:
            q = pyro.sample("q", normal(zero, self.s_q, P * (P - 1) // 2, K))
        kappa = typical = None
        if self.onset:
            m_kappa = from_seen(self.m_kappa.expand(P, 1), self.seen)[:, 0]
            kappa = pyro.sample("kappa", dist.LogNormal(m_kappa, 0.5).to_event(1))
            steps = torch.arange(1, self.schema.n_steps + 1, device=kappa.device)
            typical = (1 - torch.exp(-kappa[..., None] * steps)).mean(-1)
        T = self.schema.n_steps + 1  # what a later step takes on is one more
        e = pyro.sample("e", normal(zero, self._group_scale(), T, P, G)) if self.group else None
        exposure = zero.expand(P)
        timed = {"kappa": kappa, "typical": typical, "exposure": exposure}
        return Mechanism(W=W, a=a, b=b, direct=direct, e=e, v=v, w=w, q=q, **timed)

    def initial(self, mechanism: Mechanism) -> Distribution:
        """Standard normal: the same state before every perturbation."""
        return dist.Normal(torch.zeros_like(self.mu_a), 1.0).to_event(1)

    def regime(self, mechanism: Mechanism, t: int, u: Float[Tensor, "cell token"]) -> Mechanism:
        """Sums up the exposure to each token, this step's dose included."""
        return mechanism.updated(exposure=mechanism.exposure + u)

    def transition(
        self,
        mechanism: Mechanism,
        history: Sequence[Float[Tensor, "... cell program"]],
        u: Float[Tensor, "cell token"],
    ) -> Distribution:
        """A lagged step with decay, shifted and rescaled by the dose that acts."""
        h = u * self._response(mechanism, mechanism.exposure) / mechanism.typical if self.onset else u
        loc = h @ mechanism.a
        if not self.mask:
            repeated = (h.sum(-1, keepdim=True) - h.amax(-1, keepdim=True)).clamp(min=0.0)
            loc = loc - repeated * self.mu_a
        if self.pairs:
            loc = loc + ((h @ mechanism.v).square() - h.square() @ mechanism.v.square()) @ mechanism.w / 2
        if self.epistasis:
            i, j = torch.triu_indices(h.shape[-1], h.shape[-1], 1)
            loc = loc + (h[..., i] * h[..., j]) @ mechanism.q
        if self.time:
            loc = (1 - self.decay) * history[-1] + saturating(mechanism.W, history) + loc
        return dist.Normal(loc, self.sigma * torch.exp(h @ mechanism.b)).to_event(1)

    def _response(
        self, mechanism: Mechanism, exposure: Float[Tensor, "... cell token"]
    ) -> Float[Tensor, "... cell token"]:
        """Which share of each token has set in."""
        if not self.onset:
            return exposure.clamp(max=1.0)
        response: Tensor = 1 - torch.exp(-mechanism.kappa * exposure)
        return response

    def observation(
        self,
        mechanism: Mechanism,
        exposure: Float[Tensor, "slot cell token"],
        step: Int[Tensor, "slot cell"],
        technical: Int[Tensor, " cell"],
    ) -> Mechanism:
        """Adds what exposure and batches change outside the decoder."""
        response, B, P = self._response(mechanism, exposure), self.schema.n_batches, exposure.shape[-1]
        effects, row = mechanism.direct, torch.arange(P, device=step.device).expand_as(exposure)
        if self.group:
            late = self.schema.n_steps + 1
            effects = (effects[..., None, :, :] + mechanism.e.cumsum(-3)).flatten(-3, -2)  # direct + E_t
            row = row + P * (step.clamp(min=1, max=late) - 1)[..., None]
        batch = technical.expand(step.shape)[..., None]
        offset = weighted_rows(
            torch.cat([self.batch_effect.expand(*effects.shape[:-2], -1, -1), effects], dim=-2),
            torch.cat([batch, B + row], dim=-1),
            joined(torch.ones_like(batch, dtype=response.dtype), response),
            torch.cat([torch.ones_like(batch, dtype=torch.bool), exposure != 0], dim=-1),
        )
        return mechanism.updated(offset=offset)

    def emission(
        self,
        mechanism: Mechanism,
        z: Float[Tensor, "... slot cell program"],
        s: Float[Tensor, "... slot cell invariant"],
        library: Float[Tensor, "slot cell"],
    ) -> Distribution:
        """Counts around the library's share of each gene, unless another family was asked for."""
        logits, offset = self.decoder(torch.cat([z, s], dim=-1)), mechanism.offset
        n_rest = self.schema.n_shares - self.schema.n_genes
        if n_rest:
            offset = torch.nn.functional.pad(offset, (0, n_rest))
        return self.likelihood(logits + offset, library)
