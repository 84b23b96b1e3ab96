"""Lagged programs seen as images: the process of CITE-VAE on rendered scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyro_citevae.data.schema import Schema
from pyro_citevae.errors import ModelError
from pyro_citevae.nn.lags import kept, saturating
from pyro_citevae.nn.networks import ImageDecoder
from pyro_citevae.nn.priors import gate, normal
from pyro_citevae.program import Distribution, LatentDynamics, Mechanism, correlations, positive


@final
class ImageSequence(LatentDynamics):
    r"""Programs that evolve under perturbation-conditioned mechanisms, and the images that they make.

    ::

        A_lkj ~ RelaxedBernoulli(0.2)    W_lkj ~ N(0, 0.3)        lag graph: gate and weight of j -> k
        m_pk  ~ RelaxedBernoulli(0.5)                             which programs a token targets, or known
        a_pk  ~ N(0, s_a)                b_pk  ~ N(0, 0.3)        shift and log-scale change of a token

        s_n      ~ N(0, I)               z_{n,0} ~ N(0, C C^T)    invariant and first state
        g_tk     = 1 - prod_p (1 - m_pk)^u_tp, or 0               how far k is cut off (perfect)
        z_{n,tk} ~ N((1 - g_tk) [(1 - decay) z_{t-1} + sum_l (A_l W_l) tanh(z_{t-l})]_k + (u_t (m a))_k,
                     sigma_k exp((u_t (m b))_k))
        x_{n,t}  ~ N(f(z_t, s_n), r)                              values of pixels in [0, 1]

    ======  ============================================  =======================
    symbol  meaning                                       shape
    ======  ============================================  =======================
    A, W    gate in [0, 1] and weight of an edge j -> k   (lag, program, program)
    m, a    target mask, and shift of a token             (token, program)
    b       log-scale change of a token                   (token, program)
    g       share of its past that a program has lost     (cell, program)
    C       triangular: how first states depend           (program, program)
    sigma   noise scale of the transition                 (program,)
    f       transposed convolutions                       -> (height, width, channel)
    r       noise scale of a value                        ()
    ======  ============================================  =======================

    The first image shows a state of the process itself, whose programs depend on each other by their shared
    causes: C is learnt, since a standard normal would mix them until they do not. A factor that is an angle
    lies on a circle, which takes two programs; give more programs than factors.
    The scale r is learnt: it says how much a pixel counts against the Kullback-Leibler terms.

    Args:
        schema: Names and sizes of the axes, with the image's.
        n_programs: Number K of programs.
        n_invariant: Size S of the invariant state.
        n_lags: Number L of lags.
        hidden: Width of the layer between the states and the smallest image.
        time: Let a state remember the past; off, ``z_t ~ N(u_t (m a), sigma exp(u_t (m b)))``.
        edges: Gate the lag graph (A); off, every edge is open.
        targets: Rows of 0 and 1, a token each and a program a column, where it is known which programs a
            token may change; None to learn the mask m.
        perfect: Let a token cut its targets off from their past, as a perfect intervention does.
        scale: Let tokens change the noise scale (b).
        decay: Share of a program's state that a step loses.
        shift_scale: Prior scale s_a of the shifts.

    Raises:
        ModelError: The schema is of no images, or the targets are of other tokens or programs.

    Source: the lagged process is CiteVAE's; P. Lippe et al., CITRIS (2022), for the task; O. Rybkin, K.
    Daniilidis and S. Levine, Simple and Effective VAE Training with Calibrated Decoders (2021), for the
    scale of the emission.
    """

    C: Tensor
    sigma: Tensor
    r: Tensor
    known: Tensor
    dims: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {
            "A": ("lag", "program", "source"),
            "W": ("lag", "program", "source"),
            "m": ("token", "program"),
            "a": ("token", "program"),
            "b": ("token", "program"),
        }
    )

    def __init__(
        self,
        schema: Schema,
        *,
        n_programs: int = 16,
        n_invariant: int = 4,
        n_lags: int = 1,
        hidden: int = 256,
        time: bool = True,
        edges: bool = False,
        targets: Sequence[Sequence[int]] | None = None,
        perfect: bool = False,
        scale: bool = True,
        decay: float = 0.5,
        shift_scale: float = 1.0,
    ) -> None:
        super().__init__(schema, n_programs=n_programs, n_invariant=n_invariant, n_lags=n_lags)
        if not schema.image:
            raise ModelError(
                "ImageSequence(schema) needs images; make the data with ImageSequences.trajectories()."
            )
        self.time, self.edges, self.scale = time, time and edges, scale
        self.perfect = perfect
        self.decay, self.s_a = decay, shift_scale
        self.decoder = ImageDecoder(n_programs + n_invariant, schema.image, hidden)
        self.C = correlations(n_programs)
        self.sigma = positive(torch.full((n_programs,), 0.5))
        self.r = positive(torch.tensor(0.1))
        self.mask = targets is None
        sampled = {"W": time, "A": time and edges, "m": self.mask, "a": True, "b": scale}
        self.dims = {site: axes for site, axes in type(self).dims.items() if sampled[site]}
        if targets is not None:
            known = torch.tensor(targets, dtype=torch.get_default_dtype())
            if known.shape != (schema.n_tokens, n_programs):
                raise ModelError(
                    f"ImageSequence(targets=...) has shape {tuple(known.shape)}, expected a row for each of "
                    f"{schema.n_tokens} tokens and a column for each of {n_programs} programs."
                )
            self.register_buffer("known", known)

    def mechanism(self) -> Mechanism:
        """Samples the lag graph, the targets, and what the tokens change."""
        P, K, L = self.schema.n_tokens, self.n_programs, self.n_lags
        zero = torch.zeros_like(self.r)
        W = None
        if self.time:
            W = pyro.sample("W", normal(zero, 0.3, L, K, K))
            if self.edges:
                W = W * pyro.sample("A", gate(zero + 0.2, L, K, K))
        m = pyro.sample("m", gate(zero + 0.5, P, K)) if self.mask else self.known
        a = m * pyro.sample("a", normal(zero, self.s_a, P, K))
        b = m * pyro.sample("b", normal(zero, 0.3, P, K)) if self.scale else torch.zeros_like(a)
        return Mechanism(W=W, m=m, a=a, b=b)

    def initial(self, mechanism: Mechanism) -> Distribution:
        """Normal of unit variances: the same state before every perturbation."""
        return dist.MultivariateNormal(torch.zeros_like(self.sigma), scale_tril=self.C)

    def transition(
        self,
        mechanism: Mechanism,
        history: Sequence[Float[Tensor, "... cell program"]],
        u: Float[Tensor, "cell token"],
    ) -> Distribution:
        """A lagged step with decay, shifted and rescaled by the dose."""
        loc = u @ mechanism.a
        if self.time:
            past = (1 - self.decay) * history[-1] + saturating(mechanism.W, history)
            loc = kept(mechanism.m, u) * past + loc if self.perfect else past + loc
        return dist.Normal(loc, self.sigma * torch.exp(u @ mechanism.b)).to_event(1)

    def emission(
        self,
        mechanism: Mechanism,
        z: Float[Tensor, "... slot cell program"],
        s: Float[Tensor, "... slot cell invariant"],
        library: Float[Tensor, "slot cell"],
    ) -> Distribution:
        """Values of pixels around the decoded image."""
        return dist.Normal(self.decoder(torch.cat([z, s], dim=-1)), self.r).to_event(1)
