"""Programs that are read as gene expression: what the models of this folder share but for their dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from pyro_citevae.data.schema import Schema
from pyro_citevae.models.context_rows import CONTEXT_TERMS, Baseline, Start
from pyro_citevae.nn.emissions import Emission
from pyro_citevae.nn.networks import Decoder, joined
from pyro_citevae.program import Distribution, LatentDynamics, Mechanism


class ExpressionDynamics(LatentDynamics):
    r"""Latent dynamics whose states a decoder turns into expression; subclasses say how programs move.

    ::

        s_n     ~ N(0, I)                                          invariant state
        z_{n,0} ~ N(mu_z, I)                                       mu_z of the cell's context, else zero
        z_{n,t} ~ transition(mechanism, history, u_{n,t})          from the subclass
        x_{n,t} ~ NB(library_n softmax(f(z_t, s_n) + offset), theta_g)
        offset  = batch_n + context_n                              a subclass may add to it

    =======  =====================================  ==================
    symbol   meaning                                shape
    =======  =====================================  ==================
    f        decoder, blind to dose and time        to (gene,)
    batch    effect of a technical batch (log)      (batch, gene)
    mu_z     where cells of a context start         (context, program)
    context  baseline of a context (log)            (context, gene)
    theta    inverse dispersion                     (gene,)
    =======  =====================================  ==================

    Where the library size counts unmeasured genes too, the softmax has one more class for them.

    Args:
        schema: Names and sizes of the screen's axes.
        n_programs: Number K of programs.
        n_invariant: Size S of the invariant state.
        n_lags: Number L of past states that a transition sees.
        hidden: Width of the decoder's hidden layers; 0 makes it linear.
        emission: Family of :class:`Emission`; None for NB, or N(f + offset, scale) where values are real.
        contexts: What a context changes, of ``"start"`` (mu_z) and ``"baseline"`` (context), where there are
            contexts.

    Attributes:
        batch_moves_rest: Whether a technical batch has an effect on the class of unmeasured genes too.
    """

    batch_moves_rest: ClassVar[bool] = True

    def __init__(
        self,
        schema: Schema,
        *,
        n_programs: int,
        n_invariant: int,
        n_lags: int = 1,
        hidden: int,
        emission: str | None,
        contexts: Sequence[str] = CONTEXT_TERMS,
    ) -> None:
        super().__init__(schema, n_programs=n_programs, n_invariant=n_invariant, n_lags=n_lags)
        self.decoder = Decoder(n_programs + n_invariant, schema.n_shares, hidden)
        n_moved = schema.n_shares if self.batch_moves_rest else schema.n_genes
        self.batch_effect = torch.nn.Parameter(torch.zeros(schema.n_batches, n_moved))
        self.likelihood = Emission(schema.values, schema.n_genes, emission)
        changed = contexts if schema.contexts else ()
        self.start = Start(self, "start" in changed)
        self.baseline = Baseline(self, n_moved, "baseline" in changed)

    @property
    def zero(self) -> Float[Tensor, ""]:
        """Zero, where the model's parameters are."""
        return self._like.new_zeros(())

    def initial(self, mechanism: Mechanism) -> Distribution:
        """Normal around where cells of a context start: the same state before every perturbation."""
        start = self._like.new_zeros(self.n_programs) + self.start(mechanism)
        return dist.Normal(start, 1.0).to_event(1)

    def observation(
        self,
        mechanism: Mechanism,
        exposure: Float[Tensor, "slot cell token"],
        step: Int[Tensor, "slot cell"],
        technical: Int[Tensor, " cell"],
    ) -> Mechanism:
        """Adds the effect of technical batches, and the baseline of contexts."""
        return mechanism.updated(offset=self.batch_effect[technical] + self.baseline(mechanism))

    def emission(
        self,
        mechanism: Mechanism,
        z: Float[Tensor, "... slot cell program"],
        s: Float[Tensor, "... slot cell invariant"],
        library: Float[Tensor, "slot cell"],
    ) -> Distribution:
        """Counts around the library's share of each gene, unless another family was asked for."""
        logits, offset = self.decoder(joined(z, s)), mechanism.offset
        n_rest = logits.shape[-1] - offset.shape[-1]
        lead = logits.shape[:-1]
        ours = isinstance(self.decoder, Decoder) and not torch.is_grad_enabled()
        if ours and torch.broadcast_shapes(lead, offset.shape[:-1]) == lead:
            logits[..., : offset.shape[-1]] += offset  # a prediction has many, and making one costs a pass
            return self.likelihood(logits, library)
        return self.likelihood(logits + (pad(offset, (0, n_rest)) if n_rest else offset), library)
