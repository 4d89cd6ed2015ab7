"""Convolutional networks for images: an encoder, and the decoder that is its mirror image.

Source: DreamerV3, Hafner et al. 2023, p. 20 and danijar/dreamerv3, dreamerv3/rssm.py::Encoder and Decoder (`strided`):
pixels in [0, 1] less a half go in, the squared error of pixels in [0, 1] is what comes out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.simulators.base import Space
from trainer.world_model.layers import Activation, Linear, initialise

KERNEL = 4  # pixels; with stride 2 and padding 1, each layer halves a side, rounded down
SMALLEST = 4  # pixels: sides are halved as long as they stay at least this long


class ImageNetworks(nn.Module):
    """Encoder and decoder of one key of the observations.

    Args:
        space: Images `[H, W, C]`: uint8, or floats as the simulator scales them.
        features: Width of what the decoder reads.
        depth: Channels of the first layer; every further layer has twice as many.
        activation: Of every layer but the last.

    Raises:
        ConfigError: The images are too small to be halved once.
    """

    def __init__(self, space: Space, features: int, depth: int, activation: str) -> None:
        super().__init__()
        height, width, channels = space.shape
        self.bytes = space.dtype == torch.uint8
        sides = _sides(height, width)
        if len(sides) == 1:
            raise ConfigError(
                f"images of {height} x {width} pixels are too small: at least {2 * SMALLEST} on each side"
            )
        depths = [channels] + [depth * 2**layer for layer in range(len(sides) - 1)]
        layers = list(zip(itertools.pairwise(depths), itertools.pairwise(sides), strict=True))
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(_convolution(inputs, outputs), PixelActivation(activation, outputs))
                for (inputs, outputs), _ in layers
            )
        )
        self.smallest = (*sides[-1], depths[-1])  # [h, w, c]
        self.embedding = sides[-1][0] * sides[-1][1] * depths[-1]
        self.expand = Linear(features, self.embedding)
        self.decoder = nn.Sequential(
            PixelActivation(activation, depths[-1]),
            *itertools.chain.from_iterable(
                (_transposed(outputs, inputs, small, large), PixelActivation(activation, inputs))
                for (inputs, outputs), (large, small) in reversed(layers[1:])
            ),
            _transposed(depths[1], channels, sides[1], sides[0]),
        )

    def scale(self, image: Tensor) -> Tensor:
        """What the decoder is to give back, `[..., H, W, C]`: bytes as numbers in [0, 1], floats as they are."""
        return image.float() / 255 if self.bytes else image

    def encode(self, image: Tensor) -> Tensor:
        """Images `[..., H, W, C]` to embeddings `[..., E]`."""
        scaled = self.scale(image) - 0.5 if self.bytes else image
        pixels = scaled.flatten(end_dim=-4).permute(0, 3, 1, 2)  # [B, C, H, W], its channels last in memory
        encoded = self.encoder(pixels).permute(0, 2, 3, 1)  # [B, h, w, c]
        return encoded.reshape(*image.shape[:-3], self.embedding)

    def decode(self, features: Tensor) -> Tensor:
        """Features `[..., F]` to images `[..., H, W, C]`, as `scale` gives them."""
        expanded = self.expand(features).reshape(-1, *self.smallest).permute(0, 3, 1, 2)
        image = self.decoder(expanded).permute(0, 2, 3, 1)  # [B, H, W, C]
        image = image.reshape(*features.shape[:-1], *image.shape[1:])
        return torch.sigmoid(image) if self.bytes else image

    def loss(self, features: Tensor, image: Tensor) -> Tensor:
        """Squared error of the reconstruction, summed over all pixels, `[...]`, float32."""
        return (self.decode(features).float() - self.scale(image)).square().sum((-3, -2, -1))


class PixelActivation(nn.Module):
    """What stands behind a convolution, `[B, C, H, W]`; normalises over the channels of each pixel alone."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.activation = Activation(name, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _sides(height: int, width: int) -> list[tuple[int, int]]:
    """Height and width in front of each layer and behind the last one."""
    sides = [(height, width)]
    while min(sides[-1]) // 2 >= SMALLEST:
        sides.append((sides[-1][0] // 2, sides[-1][1] // 2))
    return sides


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, KERNEL, stride=2, padding=1)
    return _initialised(layer, inputs * KERNEL**2)


def _transposed(inputs: int, outputs: int, small: Sequence[int], large: Sequence[int]) -> nn.ConvTranspose2d:
    """Doubles the sides, and adds the row and the column that halving odd ones has lost."""
    lost = tuple(after - 2 * before for before, after in zip(small, large, strict=True))
    layer = nn.ConvTranspose2d(inputs, outputs, KERNEL, stride=2, padding=1, output_padding=lost)
    return _initialised(layer, inputs * KERNEL**2 // 4)  # a pixel that comes out is reached by a quarter of the kernel


def _initialised(layer: nn.Conv2d | nn.ConvTranspose2d, fan_in: int) -> nn.Conv2d | nn.ConvTranspose2d:
    assert layer.bias is not None
    with torch.no_grad():
        initialise(layer.weight, fan_in)
        layer.bias.zero_()
    return layer
