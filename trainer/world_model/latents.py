"""The two kinds of latents: categoricals as in DreamerV3, Gaussians as in Dreamer.

A distribution is one float32 tensor `[..., P]` of its parameters, a sample one of `[..., Z]`, whatever the kind.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.errors import ConfigError
from trainer.world_model.functional import categorical_kl, gaussian_kl, sample_categorical, unimix


class Latent(Protocol):
    """One kind of latent.

    Attributes:
        width: Z, of a sample.
        parameters: P, of a distribution and of what the network gives for it.
        stored: Width and type of a sample as the replay keeps it.
    """

    width: int
    parameters: int
    stored: tuple[int, torch.dtype]

    def distribution(self, raw: Tensor) -> Tensor:
        """Parameters from the network's output, `[..., P]`, float32."""
        ...

    def draw(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Randomness of samples of that shape, on the generator's device."""
        ...

    def sample(self, distribution: Tensor, noise: Tensor) -> Tensor:
        """A sample `[..., Z]`, differentiable with respect to the distribution."""
        ...

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        """KL(left || right) of two distributions in nats, summed to `[...]`."""
        ...

    def pack(self, sample: Tensor) -> Tensor:
        """A sample as the replay keeps it."""
        ...

    def unpack(self, packed: Tensor) -> Tensor:
        """What `pack` was given."""
        ...


class Categorical:
    """`stochastic` one-hot vectors of `classes` each; the parameters are log-probabilities.

    Args:
        stochastic: Number of categoricals, S.
        classes: Classes of each, C.
        mixed: Share of the uniform distribution in each.

    Raises:
        ConfigError: There are more classes than a byte can tell apart.
    """

    def __init__(self, stochastic: int, classes: int, mixed: float) -> None:
        if classes > 256:
            raise ConfigError(f"agent.world_model.classes: {classes} do not fit the byte that the replay keeps one in")
        self._shape, self._mixed = (stochastic, classes), mixed
        self.width = self.parameters = stochastic * classes
        self.stored = (stochastic, torch.uint8)

    def distribution(self, raw: Tensor) -> Tensor:
        return unimix(raw.unflatten(-1, self._shape), self._mixed).flatten(-2)

    def draw(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Uniform in [0, 1), `[..., S]`."""
        return torch.rand(*shape, self._shape[0], generator=generator, device=generator.device)

    def sample(self, distribution: Tensor, noise: Tensor) -> Tensor:
        """One-hot, with straight-through gradients."""
        return sample_categorical(distribution.unflatten(-1, self._shape), noise).flatten(-2)

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        return categorical_kl(left.unflatten(-1, self._shape), right.unflatten(-1, self._shape))

    def pack(self, sample: Tensor) -> Tensor:
        """The class of each, `[..., S]`."""
        return sample.unflatten(-1, self._shape).argmax(-1).to(torch.uint8)

    def unpack(self, packed: Tensor) -> Tensor:
        return F.one_hot(packed.long(), self._shape[1]).float().flatten(-2)


class Gaussian:
    """Independent normals; the parameters are means and, behind them, standard deviations.

    Args:
        width: Number of normals.
        min_std: Smallest standard deviation.

    Source: Dreamer, Hafner et al. 2020, arXiv 1912.01603; torchrl/modules/models/model_based.py::RSSMPrior.
    """

    def __init__(self, width: int, min_std: float = 0.1) -> None:
        self.width, self.parameters, self._min_std = width, 2 * width, min_std
        self.stored = (width, torch.float32)

    def distribution(self, raw: Tensor) -> Tensor:
        mean, deviation = raw.float().chunk(2, -1)
        return torch.cat([mean, F.softplus(deviation).clamp_min(self._min_std)], -1)

    def draw(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Standard normal, `[..., Z]`."""
        return torch.randn(*shape, self.width, generator=generator, device=generator.device)

    def sample(self, distribution: Tensor, noise: Tensor) -> Tensor:
        mean, deviation = distribution.chunk(2, -1)
        return mean + deviation * noise

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        return gaussian_kl(*left.chunk(2, -1), *right.chunk(2, -1))

    def pack(self, sample: Tensor) -> Tensor:
        return sample

    def unpack(self, packed: Tensor) -> Tensor:
        return packed
