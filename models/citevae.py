"""CITE-VAE, as reconstructed from the abstract of Jiang et al. (2026)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pyro_citevae.data.doses import Doses
from pyro_citevae.data.features import GeneFeatures
from pyro_citevae.data.schema import Schema
from pyro_citevae.errors import ModelError
from pyro_citevae.models.context_rows import CONTEXT_TERMS
from pyro_citevae.models.context_terms import ContextDeviation
from pyro_citevae.models.lagged import LaggedExpression
from pyro_citevae.models.token_rows import Direct, OwnTranscript, Rescaling, Rows, Shift
from pyro_citevae.models.token_terms import (
    Absent,
    AtOnce,
    EdgeGates,
    Epistasis,
    GroupDeviation,
    Memory,
    NoDeviation,
    Onset,
    Pairs,
    TargetMask,
    TokenTerm,
    sampled,
)
from pyro_citevae.nn.networks import joined
from pyro_citevae.nn.priors import TokenRows
from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.nn.weighted_rows import weighted_rows
from pyro_citevae.program import Distribution, Mechanism


@final
class CiteVAE(LaggedExpression):
    r"""Latent causal programs that evolve under perturbation-conditioned mechanisms.

    ::

        W_lkj   ~ N(0, 0.3)                                        weight of an edge j -> k of the lag graph
        a_pk    ~ N(mu_a, s_a)            b_pk  ~ N(0, 0.1)        shift and log-scale change of a token
        A_lkj   ~ RelaxedBernoulli(0.2)                            which edges there are (edges)
        m_pk    ~ RelaxedBernoulli(0.5)                            which programs a token targets (mask)
        d_pg    ~ N(0, s_d)               c_p   ~ N(m_c, 0.5)      single genes (direct), own transcript
        v_pr    ~ N(0, 1)                 w_rk  ~ N(0, 0.3)        what two tokens shift together (pairs)
        q_ijk   ~ N(0, s_q)                                        what a pair shifts by itself (epistasis)
        kappa_p ~ LogNormal(m_kappa, 0.5)                          rate at which a token sets in (onset)
        e_tpg   ~ N(0, s_p)                                        what a group takes on in a step (group)
        e_later ~ N(0, s_p)                                        what it takes on after the screen's last

        g_cpk   ~ N(0, s_g)               a_c = a + L_c g         what a token does in a context (contexts)

        s_n      ~ N(0, I)                                         invariant state
        z_{n,0}  ~ N(mu_z, I)                                      mu_z of the cell's context, else zero
        r_{n,t}  = 1 - exp(-kappa sum_{t' <= t} u_{t'})            share that the exposure has set in
        h_{n,t}  = u_t r_t / mean_{t' <= T} (1 - exp(-kappa t'))   dose that acts, T units in all T steps
        E_t      = e_1 + ... + e_t, and later E_T + e_later        deviation of the groups by now
        pairs(h) = sum_{i < j} h_i h_j sum_r v_ir v_jr w_r
        epi(h)   = sum_{i < j} h_i h_j q_ij
        z_{n,t}  ~ N((1 - decay) z_{t-1} + sum_l (A_l W_l) tanh(z_{t-l})
                     + h_t (m a_c) - (sum_p h_tp - max_p h_tp) mu_a + pairs(h_t) + epi(h_t),
                     sigma exp(h_t (m b)))
        x_{n,t}  ~ NB(library_n softmax(f(z_t, s_n) + batch_n + context_n + r_t (d + c + E_t)), theta_g)

    ================  ============================================  ==================
    symbol            meaning                                       shape
    ================  ============================================  ==================
    A, W              gate in [0, 1] and weight of an edge j -> k   (lag, program, program)
    m, a, b           target mask, shift and log-scale change       (token, program)
    c                 change of the token's own transcript (log)    (token, 1)
    d                 direct change of single genes (log)           (token, gene)
    e                 deviation that a group takes on (log)         (step, token, gene); of a snapshot,
                                                                    (change, token, gene)
    e_later           deviation that it takes on later (log)        (token, gene)
    kappa             rate at which a token sets in, a step         (token,)
    g                 deviation of a token in a context             (context, token, program)
    L                 root of how alike contexts' controls look     (context, context)
    v, w              pair loadings of a token, shift by a factor   (token, rank), (rank, program)
    q                 shift of a pair i < j by itself               (pair, program)
    sigma             noise scale of the transition                 (program,)
    theta             inverse dispersion                            (gene,)
    ================  ============================================  ==================

    With features F of the tokens, rows of a and d (and of b and c, where asked) have their prior mean moved
    by ``B_0 + F_p B``, as :class:`~pyro_citevae.nn.priors.TokenRows` says: a token without cells is drawn
    around what is learnt from the tokens that it is like.

    Each of these lines is a term (:mod:`~pyro_citevae.models.token_terms`), which says more of it. What all
    tokens shift alike, mu_a, counts once in a combination: it is mostly the sampling error of the controls.
    The decoder f sees neither dose nor time. A knocked-out gene's protein decays, so that its loss sets in
    with exposure; programs sum up what acts on them, and follow later than single genes do. The scales s_a
    and s_d are given, since maximising the bound over them shrinks strong effects. Where the library size
    counts unmeasured genes too, the softmax has one more class for them.

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
        contexts: What a context changes where the data name some: ``"start"`` (mu_z), ``"baseline"``
            (context) and ``"mechanism"`` (g).

    Raises:
        ModelError: ``informed`` names a site that the model lacks, the features are a text, or ``contexts``
            names something else.
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

    own_gene: Tensor
    batch_moves_rest = False

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
        contexts: Sequence[str] = CONTEXT_TERMS,
    ) -> None:
        for name in contexts:
            if name not in CONTEXT_TERMS:
                raise ModelError(
                    f"CiteVAE(contexts=...) names {name!r}, expected some of {', '.join(CONTEXT_TERMS)}."
                )
        super().__init__(
            schema,
            n_programs=n_programs,
            n_invariant=n_invariant,
            n_lags=n_lags,
            hidden=hidden,
            emission=emission,
            decay=decay,
            contexts=contexts,
        )
        self.register_buffer("own_gene", torch.from_numpy(schema.own_gene), persistent=False)
        self.memory = Memory(self) if time else Absent(self)
        self.deviation = GroupDeviation(self) if group else NoDeviation(self)
        self.shift = Shift(self, shift_scale, masked=mask)
        apart = "mechanism" in contexts and schema.n_contexts > 1
        self.in_context = ContextDeviation(self) if apart else Absent(self)
        self.rescaling = Rescaling(self) if scale else Absent(self)
        self.edges = EdgeGates(self) if time and edges else Absent(self)
        self.targets = TargetMask(self) if mask else Absent(self)
        self.direct = Direct(self, direct_scale) if direct else Absent(self)
        self.pairs = Pairs(self, pairs) if pairs else Absent(self)
        self.epistasis = Epistasis(self) if epistasis else Absent(self)
        self.own_transcript = OwnTranscript(self) if own_transcript else Absent(self)
        self.onset = Onset(self) if time and onset else AtOnce(self)
        moved = informed if informed is not None else ["a", "d"] if direct else ["a"]
        self.rows = self._token_rows(features, moved)
        axes = {site: names for term in self.terms for site, names in term.dims.items()}
        self.dims = {**axes, **self.rows.axes(axes)}
        named = {axis for axes in self.dims.values() for axis in axes}
        coords = {"change": ("by the observation",), "own": ("own transcript",)}
        self.coords = {axis: names for axis, names in coords.items() if axis in named}
        if epistasis:
            self.coords["pair"] = ["+".join(pair) for pair in combinations(schema.tokens, 2)]
        # rows of a token that meet its cells alone; a mask has values for all tokens
        own = [term.symbol for term in self.terms if isinstance(term, Rows)] if not mask else ["d"] * direct
        own += ["g"] * (apart and "a" in own)
        self.local_sites = (*own, *["e", "e_later"] * group)
        self.prior_sites = ["e_later"] * group

    @property
    def terms(self) -> tuple[TokenTerm, ...]:
        """The terms in the order of the equations, in which their sites are sampled."""
        return (
            self.memory,  # W
            self.shift,  # a
            self.in_context,  # g
            self.rescaling,  # b
            self.edges,  # A
            self.targets,  # m
            self.direct,  # d
            self.own_transcript,  # c
            self.pairs,  # v, w
            self.epistasis,  # q
            self.onset,  # kappa
            self.deviation,  # e
        )

    def mechanism(self) -> Mechanism:
        """Samples the sites of every term."""
        return Mechanism(**sampled(self.terms), exposure=0.0)

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
        h = self.onset.dose(mechanism, u)
        own = self._placed(h)
        shift = self.shift(mechanism, own)  # h (m a) - (sum_p h_p - max_p h_p) mu_a
        shift = shift + self.in_context(mechanism, own)  # h (m L_c g)
        shift = shift + self.pairs(mechanism, h)  # sum_{i < j} h_i h_j sum_r v_ir v_jr w_r
        shift = shift + self.epistasis(mechanism, h)  # sum_{i < j} h_i h_j q_ij
        mean = self.memory(mechanism, history) + shift  # (1 - decay) z_{t-1} + sum_l (A_l W_l) tanh(z_{t-l})
        return self.step(mean, self.rescaling(mechanism, own))  # sigma exp(h (m b))

    def observation(
        self,
        mechanism: Mechanism,
        exposure: Float[Tensor, "slot cell token"],
        step: Int[Tensor, "slot cell"],
        technical: Int[Tensor, " cell"],
    ) -> Mechanism:
        """Adds what exposure and batches change outside the decoder: ``batch_n + r_t (d + c + E_t)``."""
        given = Doses.of(exposure)
        rows = self.in_use or RowsInUse.acting(given.token, given.amount)
        direct = self.direct(mechanism, rows) + self.own_transcript(mechanism, rows)  # d + c
        direct = direct.expand(*direct.shape[:-2], len(rows.tokens), self.schema.n_genes)
        table, first = self.deviation.in_steps(direct, mechanism, step, rows)  # d + c + E_t
        r = Doses.of(self.onset.share(mechanism, given))
        place = first + rows.place[r.token]
        return mechanism.updated(offset=self._offset(mechanism, table, place, r.amount, technical))

    def _placed(self, h: Float[Tensor, "... cell token"]) -> Float[Tensor, "... cell used"]:
        """The doses by the places of the tokens whose own rows are drawn; as they are where all are."""
        rows = self.in_use
        if rows is None or rows.weight is None or "a" not in self.local_sites:
            return h
        given = Doses.of(h)
        return Doses(rows.place[given.token], given.amount, len(rows.tokens))

    def _offset(
        self,
        mechanism: Mechanism,
        table: Float[Tensor, "... row gene"],
        index: Int[Tensor, "slot cell given"],
        r: Float[Tensor, "... slot cell given"],
        technical: Int[Tensor, " cell"],
    ) -> Float[Tensor, "... slot cell gene"]:
        """The effects of batch, context and tokens that act, as a sum of few rows of one table."""
        batch = technical.expand(index.shape[:-1])[..., None]
        moved = weighted_rows(
            torch.cat([self.batch_effect.expand(*table.shape[:-2], -1, -1), table], dim=-2),
            torch.cat([batch, self.schema.n_batches + index], dim=-1),
            joined(torch.ones_like(batch, dtype=r.dtype), r),
        )
        return moved + self.baseline(mechanism) if self.baseline.on else moved

    @property
    def has_features(self) -> Bool[Tensor, " token"]:
        """Tokens that have features."""
        return super().has_features if self.rows.F is None else self.rows.F.any(-1)

    def unseen(self, values: Mapping[str, Tensor], donor: Int[Tensor, "draw token"]) -> Mapping[str, Tensor]:
        """Rows that features move, by kriging from the seen ones."""
        informed = (term for term in self.terms if isinstance(term, Rows) and term.symbol in self.rows.m_rho)
        return {term.symbol: term.unseen(values, donor) for term in informed}

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Leaves out a table of which gene is whose, which runs held before it followed from the schema."""
        state_dict.pop(f"{prefix}own", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _token_rows(
        self, features: GeneFeatures | Sequence[str] | None, informed: Sequence[str]
    ) -> TokenRows:
        """The laws of rows; where the features are names alone, their values come with the weights."""
        known = [term.symbol for term in self.terms if isinstance(term, Rows)]
        for site in informed if features is not None else ():
            if site not in known:
                raise ModelError(
                    f"CiteVAE(informed=...) names '{site}', expected some of {', '.join(sorted(known))}."
                )
        if features is None:
            return TokenRows(None, informed)
        if isinstance(features, str):
            raise ModelError(f"CiteVAE(features={features!r}) is a text; give GeneFeatures of the tokens.")
        if isinstance(features, GeneFeatures):
            return TokenRows(torch.from_numpy(features.rows(self.schema.tokens)).float(), informed)
        return TokenRows(torch.zeros(self.schema.n_tokens, len(features)), informed)
