"""Encoders and decoders: a linear map plus a perceptron that starts at zero.

The linear part makes the exact posterior of a linear Gaussian model representable; the perceptron adds
what it lacks, and starts at zero so that training leaves the linear solution only where the data asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import linear

__all__ = [
    "BackwardRecurrence",
    "Decoder",
    "DoseCode",
    "ImageDecoder",
    "ImageEncoder",
    "Perceptron",
    "SteppedPerceptron",
    "joined",
]

_SMALLEST = 2  # side at which convolutions stop halving an image
_FOLDED = 8  # side from which neighbouring pixels are folded into channels first
_CHANNELS = (32, 64, 64, 128)  # of the layers, from the image on; the last for all that follow
_MOST_COLUMNS = 256  # of doses, one a token, that a network sees as they are
_CODE = 32  # numbers that stand for a token beyond
_GROUPS = 8  # of channels that are standardised together


def joined(*parts: Float[Tensor, "... _"]) -> Float[Tensor, "... _"]:
    """Concatenates the last axis after broadcasting the others."""
    leads = {part.shape[:-1] for part in parts}
    if len(leads) == 1:
        return torch.cat(parts, dim=-1)
    lead = torch.broadcast_shapes(*leads)
    return torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], dim=-1)


class Perceptron(nn.Module):
    """``y = B x + c + V relu(U2 relu(U1 x))`` with V zero at the start.

    Args:
        n_in: Size of the input.
        n_out: Size of the output.
        hidden: Width of the two hidden layers; 0 leaves the linear part alone.
    """

    def __init__(self, n_in: int, n_out: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.correction = _correction(n_in, n_out, hidden)

    def forward(self, x: Float[Tensor, "... _"]) -> Float[Tensor, "... _"]:
        """Evaluates the map."""
        if self.correction is None:
            return self.linear(x)
        if self.linear.out_features <= self.linear.in_features:
            return self.linear(x) + self.correction(x)
        # a wide output is made once: [x, h] [B, V]^T in place of x B^T + h V^T
        *layers, outer = self.correction
        last, hidden = cast(nn.Linear, outer), x
        for layer in layers:
            hidden = layer(hidden)
        weight = torch.cat([self.linear.weight, last.weight], dim=1)
        made: Tensor = linear(torch.cat([x, hidden], -1), weight, self.linear.bias + last.bias)
        return made


class SteppedPerceptron(nn.Module):
    """A perceptron whose linear part has weights of its own at each step; the correction is shared.

    Args:
        n_in: Size of the input.
        n_out: Size of the output.
        n_steps: Number of steps with weights of their own; later steps use the last ones.
        hidden: Width of the two hidden layers; 0 leaves the linear part alone.
    """

    def __init__(self, n_in: int, n_out: int, n_steps: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(n_in, n_out) for _ in range(n_steps))
        self.correction = _correction(n_in, n_out, hidden)

    def forward(self, x: Float[Tensor, "... _"], t: int) -> Float[Tensor, "... _"]:
        """Evaluates the map of step t."""
        y: Tensor = self.linear[min(t, len(self.linear) - 1)](x)
        return y if self.correction is None else y + self.correction(x)

    def held(self, x: Float[Tensor, "... _"]) -> Callable[[Float[Tensor, "... _"], int], Tensor]:
        """The maps of the rest of the input and a step, the first part x being the same at all of them.

        What x adds to every map is made once.
        """
        n = x.shape[-1]
        maps = cast(list[nn.Linear], list(self.linear))
        fixed = linear(
            x, torch.cat([one.weight[:, :n] for one in maps]), torch.cat([one.bias for one in maps])
        )
        of_step = list(zip(fixed.chunk(len(maps), -1), [one.weight[:, n:] for one in maps], strict=True))

        def straight(rest: Tensor, t: int) -> Tensor:
            added, weight = of_step[min(t, len(maps) - 1)]
            return added + linear(rest, weight)

        if self.correction is None:
            return straight
        outer, *layers = self.correction
        first = cast(nn.Linear, outer)
        added, weight = linear(x, first.weight[:, :n], first.bias), first.weight[:, n:]

        def corrected(rest: Tensor, t: int) -> Tensor:
            h = added + linear(rest, weight)
            for layer in layers:
                h = layer(h)
            return straight(rest, t) + h

        return corrected


@final
class DoseCode(nn.Module):
    """What a network sees of doses: a column a token or, where a screen has many, ``u C`` of 32 columns.

    A row of C is a token's code, learnt from a random start. A network's maps then cost what their cells do:
    each would have a row of weights a token otherwise.

    Args:
        n_tokens: Number of tokens.

    Attributes:
        n_out: Number of columns.

    Example:
        >>> DoseCode(20).n_out, DoseCode(10_000).n_out
        (20, 32)
    """

    def __init__(self, n_tokens: int) -> None:
        super().__init__()
        self.n_out = n_tokens if n_tokens <= _MOST_COLUMNS else _CODE
        self.code = None if n_tokens <= _MOST_COLUMNS else nn.Embedding(n_tokens, _CODE)

    def forward(self, u: Float[Tensor, "... cell token"]) -> Float[Tensor, "... cell _"]:
        """Encodes the doses."""
        return u if self.code is None else u @ self.code.weight


class BackwardRecurrence(nn.Module):
    """``h_i = GRU(x_i, h_{i+1})`` where slot i was observed and ``h_i = h_{i+1}`` elsewhere, from ``h = 0``.

    Args:
        n_in: Size of the input.
        hidden: Size of the state h.

    Source: K. Cho et al., Learning Phrase Representations using RNN Encoder-Decoder (2014).
    """

    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(n_in, hidden)

    def forward(
        self, x: Float[Tensor, "slot cell _"], observed: Bool[Tensor, "slot cell"]
    ) -> Float[Tensor, "slot+1 cell hidden"]:
        """The state after each slot and all behind it; the last row is the start."""
        states = [x.new_zeros(x.shape[1], self.cell.hidden_size)]
        for slot in reversed(range(len(x))):
            states.append(torch.where(observed[slot, :, None], self.cell(x[slot], states[-1]), states[-1]))
        return torch.stack(states[::-1])


class Decoder(nn.Module):
    """Latent states to one number a gene; the field's decoder, blind to perturbation and time.

    Args:
        n_latent: Size of the latent state.
        n_genes: Number of genes.
        hidden: Width of the two hidden layers; 0 makes it linear.
    """

    def __init__(self, n_latent: int, n_genes: int, hidden: int) -> None:
        super().__init__()
        self.map = Perceptron(n_latent, n_genes, hidden)

    def forward(self, z: Float[Tensor, "... latent"]) -> Float[Tensor, "... gene"]:
        """Evaluates the decoder."""
        y: Tensor = self.map(z)
        return y


class ImageEncoder(nn.Module):
    """Flattened images, and what stands beside them, to ``n_out`` numbers: strided convolutions, then a map.

    Blocks of 2 x 2 pixels are folded into channels, which spares the convolutions that cost most. Each layer
    then halves an image of even sides, down to a side of two, and standardises its channels in groups:
    without, a scene whose objects fill a tenth of it is seen as its background alone for hundreds of steps,
    in which the states learn to say nothing. In mixed precision the convolutions run in the lower one.

    Args:
        image: Height, width and channels.
        n_beside: How many numbers follow the pixels in a row.
        n_out: Size of the output.

    Source: I. Higgins et al., beta-VAE (2017), for networks of this kind on images of 64 x 64; Y. Wu and K.
    He, Group Normalization (2018); W. Shi et al., Real-Time Single Image and Video Super-Resolution Using an
    Efficient Sub-Pixel Convolutional Neural Network (2016), for the folding.
    """

    def __init__(self, image: Sequence[int], n_beside: int, n_out: int) -> None:
        super().__init__()
        self.image = tuple(image)
        height, width, channels = image
        fold = _fold(height, width)
        height, width, channels = height // fold, width // fold, channels * fold**2
        layers: list[nn.Module] = [nn.PixelUnshuffle(fold)]
        for n_channels in _halvings(height, width):
            convolution = nn.Conv2d(channels, n_channels, 3, stride=2, padding=1)
            layers += [convolution, _standardised(n_channels), nn.SiLU()]
            height, width, channels = height // 2, width // 2, n_channels
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(height * width * channels + n_beside, n_out)

    def forward(self, x: Float[Tensor, "... _"]) -> Float[Tensor, "... _"]:
        """Evaluates the network."""
        n_pixels = math.prod(self.image)
        shown = x[..., :n_pixels].reshape(-1, *self.image).movedim(-1, 1)
        features = self.convolutions(shown - 0.5).reshape(*x.shape[:-1], -1).to(x.dtype)
        encoded: Tensor = self.head(joined(features, x[..., n_pixels:]))
        return encoded.to(x.dtype)


class ImageDecoder(nn.Module):
    """Latent states to the values of a flattened image: the encoder's way back, and a logistic map.

    Args:
        n_latent: Size of the latent state.
        image: Height, width and channels.
        hidden: Width of the layer between the state and the smallest image.

    Source: as for :class:`ImageEncoder`.
    """

    def __init__(self, n_latent: int, image: Sequence[int], hidden: int) -> None:
        super().__init__()
        height, width, channels = image
        fold = _fold(height, width)
        height, width, channels = height // fold, width // fold, channels * fold**2
        widths = _halvings(height, width)
        scale = 2 ** len(widths)
        n_channels = widths[-1] if widths else channels
        shape = (n_channels, height // scale, width // scale)
        layers: list[nn.Module] = [
            nn.Linear(n_latent, hidden),
            nn.SiLU(),
            nn.Linear(hidden, math.prod(shape)),
            nn.Unflatten(-1, shape),
        ]
        back = widths[::-1]
        for before, after in zip(back, [*back[1:], channels], strict=False):
            convolution = nn.Conv2d(before, 4 * after, 3, padding=1)
            layers += [_standardised(before), nn.SiLU(), convolution, nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers, nn.PixelShuffle(fold))

    def forward(self, z: Float[Tensor, "... latent"]) -> Float[Tensor, "... gene"]:
        """Evaluates the decoder."""
        shown = self.layers(z.reshape(-1, z.shape[-1])).to(z.dtype).movedim(1, -1).flatten(1)
        return torch.sigmoid(shown).reshape(*z.shape[:-1], -1)


def _fold(height: int, width: int) -> int:
    """Side of the blocks of pixels that are folded into channels."""
    return 2 if min(height, width) >= _FOLDED and height % 2 == width % 2 == 0 else 1


def _halvings(height: int, width: int) -> list[int]:
    """Channels of the layers that halve an image, as many as its sides allow."""
    found: list[int] = []
    while min(height, width) > _SMALLEST and height % 2 == 0 and width % 2 == 0:
        found.append(_CHANNELS[min(len(found), len(_CHANNELS) - 1)])
        height, width = height // 2, width // 2
    return found


def _standardised(n_channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, n_channels)


class _ZeroLinear(nn.Linear):
    """A linear layer that starts at zero."""

    def reset_parameters(self) -> None:
        """Sets weight and bias to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def _correction(n_in: int, n_out: int, hidden: int) -> nn.Sequential | None:
    if hidden == 0:
        return None
    return nn.Sequential(
        nn.Linear(n_in, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        _ZeroLinear(hidden, n_out),
    )
