"""The world model's functions, held against TorchRL's on random inputs."""

from __future__ import annotations

import pytest
import torch
from torchrl.modules import functional as torchrl_functional
from torchrl.modules.models import model_based as torchrl_model
from torchrl.objectives.dreamer_v3 import categorical_kl_terms
from torchrl.objectives.value.functional import td_lambda_return_estimate

from trainer.agents.returns import lambda_returns, percentiles
from trainer.world_model.functional import (
    balanced_kl,
    categorical_kl,
    sample_categorical,
    symexp,
    symexp_bins,
    symlog,
    two_hot,
    two_hot_loss,
    two_hot_mean,
    unimix,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def values(*shape: int) -> torch.Tensor:
    """Over eight orders of magnitude, both signs."""
    return torch.randn(shape) * 10 ** torch.empty(shape).uniform_(-4, 4)


def test_symlog_and_symexp_equal_torchrls_and_undo_each_other():
    x = values(1000)
    torch.testing.assert_close(symlog(x), torchrl_functional.symlog(x))
    torch.testing.assert_close(symexp(symlog(x)), torchrl_functional.symexp(torchrl_functional.symlog(x)))
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-4, atol=1e-6)


def test_two_hot_targets_and_their_loss_equal_torchrls():
    bins, x, logits = symexp_bins(255), values(200), torch.randn(200, 255)
    torch.testing.assert_close(two_hot(x, bins), torchrl_model.two_hot_encode(x, bins))
    torch.testing.assert_close(two_hot_loss(logits, x, bins), torchrl_model.two_hot_cross_entropy(logits, x, bins))


def test_two_hot_targets_have_the_value_as_their_mean_and_stop_at_the_range():
    bins, x = symexp_bins(41), values(200).clamp(-1e6, 1e6)
    torch.testing.assert_close((two_hot(x, bins).double() * bins.double()).sum(-1).float(), x, rtol=1e-4, atol=1e-3)
    assert two_hot(torch.tensor([1e12, -1e12]), bins).argmax(-1).tolist() == [40, 0]


def test_two_hot_mean_equals_torchrls_and_is_exactly_zero_when_flat():
    bins = symexp_bins(255)
    logits = 8 * torch.randn(100, 255)
    torch.testing.assert_close(
        two_hot_mean(logits, bins), torchrl_model.two_hot_decode(logits, bins).squeeze(-1), rtol=1e-4, atol=1e-2
    )
    assert two_hot_mean(torch.zeros(7, 255), bins).tolist() == [0.0] * 7


def test_the_gradient_of_a_two_hot_mean_is_that_of_the_bins_that_matter():
    bins, logits = symexp_bins(255).double(), torch.full((1, 255), -40.0, dtype=torch.float64)
    logits[0, 130:134] = torch.tensor([1.0, 2.0, 0.5, 0.0], dtype=torch.float64)
    exact, found = (logits.clone().requires_grad_() for _ in range(2))
    (torch.softmax(exact, -1) * bins).sum().backward()
    two_hot_mean(found, bins.float()).sum().backward()
    torch.testing.assert_close(found.grad[0, 130:134], exact.grad[0, 130:134], rtol=0.1, atol=0.01)
    logits[0, -1] = -20.0  # one part in five hundred millions of a bin at 4.8e8
    far = logits.clone().requires_grad_()
    two_hot_mean(far, bins.float()).sum().backward()
    assert far.grad[0, -1].abs() < 1e-4 * far.grad[0, 130:134].abs().max()


def test_even_bin_counts_are_refused_because_none_would_be_at_zero():
    with pytest.raises(ValueError, match="odd"):
        symexp_bins(254)


def test_unimix_equals_torchrls():
    logits = 5 * torch.randn(20, 4, 8)
    torch.testing.assert_close(unimix(logits, 0.01).exp(), torchrl_model._unimix_probs(logits, 0.01))


def test_samples_follow_the_distribution_and_pass_gradients_straight_through():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(50_000, 1, 3).clone().requires_grad_()
    log_probabilities = unimix(logits, 0.01)
    sample = sample_categorical(log_probabilities, torch.rand(50_000, 1))
    assert set(sample.detach().sum(-1).round(decimals=4).unique().tolist()) == {1.0}
    torch.testing.assert_close(sample.mean(0), log_probabilities[0].exp(), atol=0.01, rtol=0)
    (direct,) = torch.autograd.grad(log_probabilities.exp()[..., 0].sum(), logits, retain_graph=True)
    (through,) = torch.autograd.grad(sample[..., 0].sum(), logits)
    torch.testing.assert_close(through, direct)


def test_kl_terms_and_their_gradients_equal_torchrls():
    posterior, prior = (torch.randn(6, 5, 4, 8, requires_grad=True) for _ in range(2))
    ours = [loss.mean() for loss in balanced_kl(categorical_kl, unimix(posterior, 0.01), unimix(prior, 0.01), 1.0)[:2]]
    theirs = categorical_kl_terms(posterior, prior, free_nats=1.0, unimix=0.01)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)
        for mine, reference in zip(
            torch.autograd.grad(our, (posterior, prior), allow_unused=True, retain_graph=True),
            torch.autograd.grad(their, (posterior, prior), allow_unused=True, retain_graph=True),
            strict=True,
        ):
            assert (mine is None) == (reference is None)
            if mine is not None:
                torch.testing.assert_close(mine, reference)


def test_lambda_returns_equal_torchrls_with_terminations_inside():
    steps, batch, gamma, lam = 12, 5, 0.97, 0.95
    reward, value = torch.randn(steps + 1, batch), torch.randn(steps + 1, batch)
    terminal = torch.rand(steps + 1, batch) < 0.2
    ours = lambda_returns(reward, gamma * (~terminal).float(), value, lam=lam)

    def batch_first(x: torch.Tensor) -> torch.Tensor:
        return x[1:].T.unsqueeze(-1)

    theirs = td_lambda_return_estimate(
        gamma, lam, batch_first(value), batch_first(reward), batch_first(terminal), batch_first(terminal)
    )
    torch.testing.assert_close(ours, theirs.squeeze(-1).T)


def test_lambda_returns_bootstrap_where_an_episode_was_truncated():
    """A cut at step 2: what comes after belongs to another episode and must not leak back."""
    reward, value = torch.tensor([[0.0], [1.0], [1.0], [100.0]]), torch.tensor([[0.0], [0.0], [7.0], [50.0]])
    last = torch.tensor([[False], [False], [True], [False]])
    returns = lambda_returns(reward, torch.full((4, 1), 0.5), value, last, lam=1.0)
    assert returns[:, 0].tolist() == [1 + 0.5 * (1 + 0.5 * 7), 1 + 0.5 * 7, 100 + 0.5 * 50]


def test_percentiles_equal_torch_quantile():
    x = torch.randn(3, 1001)
    low, high = percentiles(x, 0.05, 0.95)
    torch.testing.assert_close(torch.stack([low, high]), torch.quantile(x, torch.tensor([0.05, 0.95])))
