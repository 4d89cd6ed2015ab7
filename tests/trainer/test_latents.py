"""Both kinds of latents behind their one interface, held against torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, OneHotCategorical, kl_divergence

from tests.trainer.agents import debug_config
from trainer.errors import ConfigError
from trainer.world_model.latents import Categorical, Gaussian, Latent
from trainer.world_model.model import make_latent

S, C, UNIMIX = 5, 7, 0.01
MIN_STD = 0.1

both_kinds = pytest.mark.parametrize("latent", [Categorical(S, C, UNIMIX), Gaussian(6, MIN_STD)], ids=["cat", "gauss"])


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def theirs(latent: Latent, distribution: Tensor) -> Distribution:
    """The distribution of a whole latent, as PyTorch has it."""
    if isinstance(latent, Gaussian):
        return Independent(Normal(*distribution.chunk(2, -1)), 1)
    return Independent(OneHotCategorical(logits=distribution.unflatten(-1, (S, C))), 1)


def raw_of(latent: Latent, *shape: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.randn(*shape, latent.parameters, generator=generator)


@both_kinds
def test_distributions_and_samples_have_the_widths_that_the_latent_names(latent: Latent, generator: torch.Generator):
    distribution = latent.distribution(raw_of(latent, 3, 4, generator=generator))
    assert distribution.shape == (3, 4, latent.parameters)
    sample = latent.sample(distribution, latent.draw(3, 4, generator=generator))
    assert sample.shape == (3, 4, latent.width)
    packed = latent.pack(sample)
    width, dtype = latent.stored
    assert packed.shape == (3, 4, width)
    assert packed.dtype == dtype


@both_kinds
def test_distributions_are_float32_whatever_the_network_gave(latent: Latent, generator: torch.Generator):
    assert latent.distribution(raw_of(latent, 3, generator=generator).bfloat16()).dtype == torch.float32


@both_kinds
def test_what_is_packed_unpacks_to_the_same_sample(latent: Latent, generator: torch.Generator):
    distribution = latent.distribution(raw_of(latent, 50, generator=generator))
    sample = latent.sample(distribution, latent.draw(50, generator=generator))
    assert torch.equal(latent.unpack(latent.pack(sample)), sample)
    assert latent.unpack(latent.pack(sample)).dtype == torch.float32


@both_kinds
def test_samples_have_the_distributions_mean_and_variance(latent: Latent, generator: torch.Generator):
    distribution = latent.distribution(raw_of(latent, 1, generator=generator)).expand(40_000, -1)
    sample = latent.sample(distribution, latent.draw(40_000, generator=generator))
    reference = theirs(latent, distribution[0])
    torch.testing.assert_close(sample.mean(0), reference.mean.flatten(), atol=0.05, rtol=0)
    torch.testing.assert_close(sample.var(0), reference.variance.flatten(), atol=0.01, rtol=0.05)


@both_kinds
def test_the_same_noise_gives_the_same_sample(latent: Latent, generator: torch.Generator):
    distribution = latent.distribution(raw_of(latent, 20, generator=generator))
    noise = latent.draw(20, generator=generator)
    assert torch.equal(latent.sample(distribution, noise), latent.sample(distribution, noise))
    assert not torch.equal(latent.sample(distribution, noise), latent.sample(distribution, noise.flip(0)))


@both_kinds
def test_divergences_and_their_gradients_equal_pytorchs(latent: Latent, generator: torch.Generator):
    left, right = (raw_of(latent, 8, 3, generator=generator).requires_grad_() for _ in range(2))
    ours = latent.kl(latent.distribution(left), latent.distribution(right))
    reference = kl_divergence(*(theirs(latent, latent.distribution(raw)) for raw in (left, right)))
    torch.testing.assert_close(ours, reference)
    weight = torch.randn(8, 3, generator=generator)
    torch.testing.assert_close(
        torch.autograd.grad((weight * ours).sum(), (left, right)),
        torch.autograd.grad((weight * reference).sum(), (left, right)),
    )


def test_gradients_pass_a_gaussian_sample_as_they_pass_pytorchs(generator: torch.Generator):
    latent = Gaussian(6, MIN_STD)
    raw, noise = raw_of(latent, 9, generator=generator).requires_grad_(), latent.draw(9, generator=generator)
    weight = torch.randn(9, 6, generator=generator)
    mean, deviation = latent.distribution(raw).chunk(2, -1)
    (ours,) = torch.autograd.grad((weight * latent.sample(latent.distribution(raw), noise)).sum(), raw)
    (by_hand,) = torch.autograd.grad((weight * (mean + noise * deviation)).sum(), raw)
    torch.testing.assert_close(ours, by_hand)
    assert ours[:, :6].abs().min() > 0
    assert ours[:, 6:].abs().sum() > 0


def test_gradients_pass_a_categorical_sample_as_if_it_were_the_probabilities(generator: torch.Generator):
    latent = Categorical(S, C, UNIMIX)
    raw, noise = raw_of(latent, 9, generator=generator).requires_grad_(), latent.draw(9, generator=generator)
    weight = torch.randn(9, S * C, generator=generator)
    sample = latent.sample(latent.distribution(raw), noise)
    assert sample.detach().unflatten(-1, (S, C)).max(-1).values.sub(1).abs().max() < 1e-6, "one-hot"
    (ours,) = torch.autograd.grad((weight * sample).sum(), raw)
    (straight,) = torch.autograd.grad((weight * latent.distribution(raw).exp()).sum(), raw)
    torch.testing.assert_close(ours, straight)


def test_no_class_is_impossible_and_no_deviation_smaller_than_its_bound():
    certain = torch.zeros(1, S * C)
    certain[0, 0] = 1e3
    probabilities = Categorical(S, C, UNIMIX).distribution(certain).exp().unflatten(-1, (S, C))
    torch.testing.assert_close(probabilities[0, 0, 1:], torch.full((C - 1,), UNIMIX / C))
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(1, S))
    _, deviation = Gaussian(2, MIN_STD).distribution(torch.tensor([0.0, 0.0, -50.0, 50.0])).chunk(2, -1)
    torch.testing.assert_close(deviation, torch.tensor([MIN_STD, 50.0]))


def test_a_byte_holds_256_classes_and_more_are_refused():
    latent = Categorical(3, 256, UNIMIX)
    last = torch.zeros(1, 3, 256)
    last[..., -1] = 1
    assert torch.equal(latent.unpack(latent.pack(last.flatten(-2))), last.flatten(-2))
    with pytest.raises(ConfigError, match=r"agent\.world_model\.classes: 257"):
        Categorical(3, 257, UNIMIX)


def test_a_config_without_classes_has_gaussians():
    assert isinstance(make_latent(debug_config("agent=dreamer").agent.world_model), Gaussian)
    assert isinstance(make_latent(debug_config().agent.world_model), Categorical)
