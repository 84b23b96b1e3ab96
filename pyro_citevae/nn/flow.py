"""An inverse autoregressive flow that starts at the identity."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from pyro.distributions import Normal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution

_validated = Distribution._validate_args
import pyro.contrib.zuko  # noqa: E402
import zuko  # noqa: E402
from zuko.flows.autoregressive import MaskedAutoregressiveTransform  # noqa: E402

Distribution.set_default_validate_args(_validated)  # zuko turns validation off for every distribution

__all__ = ["InverseAutoregressiveFlow"]

_MOST_PASSES = 32


class InverseAutoregressiveFlow(nn.Module):
    r"""The law of ``loc + scale * f(eps)`` with ``eps ~ N(0, I)``.

    ``f = f_M o ... o f_1`` with ``f_m(x)_i = x_i exp(a_i(x_{<i}, c)) + b_i(x_{<i}, c)``, where every second
    f_m goes through the components in reverse order. A draw and its density take one pass; the density of
    another value takes a pass for each component (or for each of 32 blocks of them).

    Args:
        n_features: Number of components.
        n_context: Size of the context c; 0 for none.
        hidden: Width of the two hidden layers of a and b.
        n_transforms: Number M of transforms.

    Source: D. P. Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow (2016).

    Example:
        >>> import torch
        >>> law = InverseAutoregressiveFlow(2)(torch.ones(2), torch.full((2,), 1e-3))
        >>> law().detach().round()
        tensor([1., 1.])
    """

    def __init__(
        self, n_features: int, n_context: int = 0, *, hidden: int = 64, n_transforms: int = 2
    ) -> None:
        super().__init__()
        forwards: Any = torch.arange(n_features)
        self.transforms = nn.ModuleList(
            MaskedAutoregressiveTransform(
                n_features,
                n_context,
                passes=min(n_features, _MOST_PASSES),
                order=forwards.flip(0) if m % 2 else forwards,
                hidden_features=(hidden, hidden),
            )
            for m in range(n_transforms)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the last layer of each transform to zero, so that f is the identity."""
        transforms: Any = self.transforms
        for transform in transforms:
            last = transform.hyper[-1] if hasattr(transform, "hyper") else transform
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self,
        loc: Float[Tensor, "... feature"],
        scale: Float[Tensor, "... feature"],
        context: Float[Tensor, "... context"] | None = None,
    ) -> TorchDistributionMixin:
        """The law for each row of loc, scale and context, with event shape (feature,)."""
        lead = () if context is None else context.shape[:-1]
        lead = torch.broadcast_shapes(loc.shape[:-1], scale.shape[:-1], lead)
        base = Normal(loc.new_zeros(()), loc.new_ones(())).expand((*lead, loc.shape[-1])).to_event(1)
        steps = [transform(context) for transform in self.transforms]
        whole = zuko.transforms.ComposedTransform(*steps, _Affine(loc, scale, event_dim=1))
        law = pyro.contrib.zuko.ZukoToPyro(zuko.distributions.NormalizingFlow(whole.inv, base))
        return cast(TorchDistributionMixin, law)


class _Affine(AffineTransform):
    """An affine map whose loc and scale have batch axes; zuko asks for the shape of the event alone."""

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return shape

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return shape
