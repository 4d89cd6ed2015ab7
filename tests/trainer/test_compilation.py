"""Compiled regions give what eager ones give: every loss, every gradient, every buffer.

One agent is taken through the whole compiler, the other as far as what compilers get wrong first: tracing, gradients
traced ahead of time, writing in place.
"""

from __future__ import annotations

import copy
import functools
import inspect
import shutil

import pytest
import torch
from torch import Tensor

from tests.trainer.agents import (
    assert_equal_to_rounding,
    end_episode,
    noise_of,
    random_rows,
    sequences_of,
    small_agent,
)
from trainer.agents.base import Agent
from trainer.agents.dreamer import Dreamer
from trainer.agents.dreamer_v3 import DreamerV3
from trainer.compilation import Compilable, compile_regions, region, rehearse
from trainer.world_model.model import WorldModel
from trainer.world_model.rssm import RSSM

T, B = 5, 3


OWNERS: tuple[type[Compilable], ...] = (Agent, Dreamer, DreamerV3, WorldModel, RSSM)


def regions(owner: type[Compilable]) -> list[str]:
    """Names of the class's own methods that are regions: `region` wraps all of them in one and the same function."""
    wrapper = RSSM._observe_step.__code__
    return [name for name, value in vars(owner).items() if getattr(value, "__code__", None) is wrapper]


@pytest.fixture
def compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The one that regions are compiled with, all of them anew."""
    if request.param == "inductor" and shutil.which("g++") is None:
        pytest.skip("PyTorch compiles for CPUs with g++")
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=request.param))
    for owner in OWNERS:
        for name in regions(owner):
            monkeypatch.setattr(owner, name, region(inspect.unwrap(getattr(owner, name))))
    return request.param


def step(agent: Agent, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients of a batch with episode ends, numbered by its seed."""
    rows = end_episode(end_episode(random_rows(T + 1, B, seed), 2, terminal=True), 4, terminal=False)
    loss = agent.loss(sequences_of(agent, rows), noise_of(agent, T, B))
    for parameter in agent.parameters():
        parameter.grad = None
    loss.total.backward()
    trained = {name: p.grad for name, p in agent.named_parameters() if p.grad is not None}
    return {**loss.metrics, "deter": loss.departure.deter, "stoch": loss.departure.stoch}, trained


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.timeout(900)  # the whole compiler takes a minute of a core, and longer on one that is shared
@pytest.mark.parametrize(
    ("compiler", "words"),
    [
        ("aot_eager", "agent=dreamer_v3"),
        ("aot_eager", "agent.behaviour.actor_gradient=dynamics"),
        ("inductor", "agent=dreamer"),
    ],
    indirect=["compiler"],
)
def test_compiled_losses_and_gradients_equal_eager_ones(compiler: str, words: str):
    eager = small_agent(words, "agent.world_model.head_layers=1")
    compiled = copy.deepcopy(eager)
    compile_regions(compiled)
    before, after_first = graphs(), 0
    for seed in (0, 1):
        (losses, gradients), (found_losses, found) = step(eager, seed), step(compiled, seed)
        after_first = after_first or graphs()
        torch.testing.assert_close(found_losses, losses, rtol=1e-4, atol=1e-5)
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert_equal_to_rounding(found[name], gradient, name, share=2e-5)
    torch.testing.assert_close(dict(compiled.named_buffers()), dict(eager.named_buffers()))
    # With and without gradients at its inputs, but not for every one of the steps.
    assert 0 < after_first - before <= 2 * sum(len(regions(owner)) for owner in OWNERS)
    assert graphs() == after_first, "a second batch compiles nothing"


def test_regions_run_eagerly_unless_they_are_asked_to_be_compiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(torch, "compile")
    agent = small_agent()
    step(agent, 0)
    compile_regions(agent)
    assert agent.compiled
    assert agent.world_model.rssm.compiled
    compile_regions(agent, enabled=False)
    step(agent, 0)


@pytest.mark.parametrize("compiler", ["aot_eager"], indirect=True)
def test_a_rehearsal_compiles_something(compiler: str):
    before = graphs()
    rehearse(torch.device("cpu"))
    assert graphs() == before + 1
