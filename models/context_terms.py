"""What a token does in a context beside what it does everywhere."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, final

import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from pyro_citevae.data.doses import Doses
from pyro_citevae.models.token_terms import Dose, TokenTerm, Values
from pyro_citevae.nn.normal_array import NormalArray
from pyro_citevae.program import Mechanism, positive

__all__ = ["ContextDeviation"]

_JITTER = 1e-4


@final
class ContextDeviation(TokenTerm):
    r"""``g_cpk ~ N(0, s_g)``; what a token does in a context beside what it does everywhere.

    ::

        a_cp = a_p + sum_c' L_cc' g_c'p                 L L' = R,  R_cc' = exp(-d_cc' / (2 d))

    d_cc' is how far the controls of two contexts lie apart, one less the correlation of their profiles, and d
    its mean over the contexts of training. So deviations of contexts whose controls look alike are alike, and
    that of a context without perturbed cells is forecast from the others by kriging. The scale s_g is learnt:
    it is small where contexts respond alike.
    """

    dims = MappingProxyType({"g": ("context", "token", "program")})

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        model.s_g = positive(torch.tensor(0.1))

    def sites(self, values: Values) -> Values:
        """Samples g; on a large screen, of the tokens in use."""
        model, rows = self.model, self.model.in_use
        n_tokens, weight = model.schema.n_tokens, None
        if rows is not None and rows.weight is not None and "g" in model.local_sites:
            n_tokens, weight = len(rows.tokens), rows.weight
        shape = (model.schema.n_contexts, n_tokens, model.n_programs)
        g = pyro.sample("g", NormalArray(0.0, model.s_g, shape, weight=weight))
        return {"g": torch.einsum("cd,...dpk->...cpk", self.root, g)}

    @property
    def root(self) -> Float[Tensor, "context context"]:
        """L, triangular, so that a context that is added last changes nothing of the others."""
        R = torch.exp(-self.model.context_distance / (2 * self.model.context_unit))
        return torch.linalg.cholesky(R + _JITTER * torch.eye(len(R), device=R.device, dtype=R.dtype))

    def __call__(self, mechanism: Mechanism, h: Dose) -> Float[Tensor, "... cell program"]:
        """The shift of the mean: ``h sum_c' L_cc' g_c'``."""
        context, table = mechanism.context, mechanism.g
        if context is None:
            mean: Tensor = h @ table.mean(-3)
            return mean
        given, n_tokens = Doses.of(h), table.shape[-2]
        token = given.token + n_tokens * context[:, None]
        shift: Tensor = Doses(token, given.amount, n_tokens * table.shape[-3]) @ table.flatten(-3, -2)
        return shift
