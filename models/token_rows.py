"""Terms with a row for each token, which features may move: shifts, scale changes, single genes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, final

import pyro
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Parameter

from pyro_citevae.models.token_terms import Dose, TokenTerm, Values
from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.program import Mechanism


class Rows(TokenTerm):
    """A site with a row for each token, moved by features where they inform it; subclasses say its prior.

    ::

        row_p ~ N(mean, scale)        see :class:`~pyro_citevae.nn.priors.TokenRows`
    """

    symbol: ClassVar[str]

    @property
    @abstractmethod
    def population(self) -> tuple[Tensor, float]:
        """Mean and scale of the rows."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Length of a row."""

    def sites(self, values: Values) -> Values:
        """Samples the rows; of a local site, those of the tokens that act in the minibatch."""
        used = self.model.in_use if self.symbol in self.model.local_sites else None
        law = self.model.rows(self.symbol, *self.population, self.width, self.model.seen, used)
        return {self.symbol: pyro.sample(self.symbol, law)}

    def unseen(
        self, values: Mapping[str, Tensor], donor: Int[Tensor, "draw token"]
    ) -> Float[Tensor, "draw ... token width"]:
        """Draws of the rows, those of tokens without cells by kriging from the others."""
        return self.model.rows.unseen(self.symbol, values, *self.population, self.model.seen, donor)


@final
class Shift(Rows):
    """``a_pk ~ N(mu_a, s_a)``; adds ``h_t a`` to the mean, and takes back what tokens share.

    ::

        h_t a - (sum_p h_tp - max_p h_tp) mu_a

    What all tokens shift alike, mu_a, is mostly the sampling error of the controls: it counts once in a
    combination, where the sum over its tokens would repeat it.

    Args:
        model: The model whose term it is.
        scale: Prior scale s_a.
        masked: Whether each token's targets are masked, so that tokens share nothing.
    """

    symbol = "a"
    dims = MappingProxyType({"a": ("token", "program")})

    def __init__(self, model: Any, scale: float, *, masked: bool) -> None:
        super().__init__(model)
        model.mu_a, model.s_a = Parameter(torch.zeros(model.n_programs)), scale
        self.masked = masked

    @property
    def population(self) -> tuple[Tensor, float]:
        """``mu_a`` and ``s_a``."""
        return self.model.mu_a, self.model.s_a

    @property
    def width(self) -> int:
        """The programs."""
        return int(self.model.n_programs)

    def __call__(self, mechanism: Mechanism, h: Dose) -> Float[Tensor, "... cell program"]:
        """The shift of the mean."""
        shift: Tensor = h @ mechanism.a
        if self.masked:
            return shift
        repeated = (h.sum(-1, keepdim=True) - h.amax(-1, keepdim=True)).clamp(min=0.0)
        return shift - repeated * self.model.mu_a


@final
class Rescaling(Rows):
    """``b_pk ~ N(0, 0.1)``; adds ``h_t b`` to the logarithm of the noise scale."""

    symbol = "b"
    dims = MappingProxyType({"b": ("token", "program")})

    @property
    def population(self) -> tuple[Tensor, float]:
        """Zero and 0.1."""
        return self.model.zero, 0.1

    @property
    def width(self) -> int:
        """The programs."""
        return int(self.model.n_programs)

    def __call__(self, mechanism: Mechanism, h: Dose) -> Float[Tensor, "... cell program"]:
        """The change of the log-scale."""
        return h @ mechanism.b


@final
class Direct(Rows):
    """``d_pg ~ N(0, s_d)``; a token changes single genes, natural log.

    Args:
        model: The model whose term it is.
        scale: Prior scale s_d.
    """

    symbol = "d"
    dims = MappingProxyType({"d": ("token", "gene")})

    def __init__(self, model: Any, scale: float) -> None:
        super().__init__(model)
        model.s_d = scale

    @property
    def population(self) -> tuple[Tensor, float]:
        """Zero and ``s_d``."""
        return self.model.zero, self.model.s_d

    @property
    def width(self) -> int:
        """The genes."""
        return int(self.model.schema.n_genes)

    def __call__(self, mechanism: Mechanism, rows: RowsInUse) -> Float[Tensor, "... used gene"]:
        """The change of each gene by the tokens in use."""
        return rows.of_local(mechanism.d)


@final
class OwnTranscript(Rows):
    """``c_p ~ N(m_c, 0.5)``; a token changes its own transcript, natural log."""

    symbol = "c"
    dims = MappingProxyType({"c": ("token", "own")})

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        model.m_c = Parameter(torch.zeros(()))

    @property
    def population(self) -> tuple[Tensor, float]:
        """``m_c`` and 0.5."""
        return self.model.m_c, 0.5

    @property
    def width(self) -> int:
        """One, so that c lines up with d under a plate of draws."""
        return 1

    def __call__(self, mechanism: Mechanism, rows: RowsInUse) -> Float[Tensor, "... used gene"]:
        """The change of each gene by the tokens in use: of the own one alone."""
        own = self.model.own_gene.index_select(0, rows.tokens)
        genes = torch.arange(self.model.schema.n_genes, device=own.device)
        c = rows.of_local(mechanism.c) if self.symbol in self.model.local_sites else rows.of(mechanism.c)
        changed: Tensor = c * (genes == own[:, None])
        return changed
