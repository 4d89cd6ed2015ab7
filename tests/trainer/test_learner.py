"""The learner: what it logs, that it notices NaN, and that it goes on exactly where it left off."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.agents import (
    ACTION,
    CPU,
    OBSERVATION,
    debug_config,
    end_episode,
    make_replay,
    random_rows,
    small_agent,
    state_of,
)
from trainer.agents import make_agent
from trainer.agents.base import Agent
from trainer.errors import ConfigError, NotFinite
from trainer.learner import Learner
from trainer.replay import Replay

B = 3
ROWS = 20

both_agents = pytest.mark.parametrize("agent", ["dreamer_v3", "dreamer"])


def filled_replay(agent: Agent, rows: int = ROWS) -> Replay:
    replay = make_replay(agent, ROWS, B)
    if rows:
        replay.extend(end_episode(random_rows(rows, B), rows // 2, terminal=True), state_of(agent, rows, B, fill=0.1))
    return replay


def make_learner(*overrides: str, seed: int = 0, rows: int = ROWS) -> Learner:
    agent = small_agent(*overrides)
    return Learner(agent, filled_replay(agent, rows), debug_config(*overrides), seed, CPU)


def learn(learner: Learner, steps: int) -> None:
    for _ in range(steps):
        learner.learn()


def weights_of(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.agent.state_dict().items()}


def same(one: Any, two: Any) -> bool:
    """Whether nested values are equal bit for bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, two)
    if isinstance(one, Mapping):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


@both_agents
@pytest.mark.parametrize("autocast", ["null", "bfloat16"])
def test_a_step_changes_every_weight_and_writes_latents_back(agent: str, autocast: str):
    """Under autocast PyTorch 2.7 keeps weights that were cast without gradients, and then trains none of them."""
    warmup = ["agent.optimizer.warmup=0"] if agent == "dreamer_v3" else []
    learner = make_learner(f"agent={agent}", f"optimization.autocast={autocast}", *warmup)
    before, latents = weights_of(learner), learner._replay._deter.clone()
    learn(learner, 2)
    after = weights_of(learner)
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert learner.step == 2
    assert not torch.equal(learner._replay._deter, latents)


@both_agents
def test_metrics_are_means_over_the_steps_since_the_last_line(agent: str):
    one, three = (make_learner(f"agent={agent}") for _ in range(2))
    single = []
    for _ in range(5):
        learn(one, 1)
        single.append(one.pop_metrics())
    learn(three, 2)
    first = three.pop_metrics()
    learn(three, 3)
    second = three.pop_metrics()
    for name in single[0]:
        assert first[name] == pytest.approx(sum(line[name] for line in single[:2]) / 2, rel=1e-5)
        assert second[name] == pytest.approx(sum(line[name] for line in single[2:]) / 3, rel=1e-5)
    assert {"loss/total", "world_model/kl", "optimizer/gradient_norm"} <= set(first)


def test_there_are_no_metrics_where_no_step_was_done():
    learner = make_learner()
    assert learner.pop_metrics() == {}
    learn(learner, 1)
    assert learner.pop_metrics()
    assert learner.pop_metrics() == {}


@both_agents
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_weight_is_noticed_at_the_next_line_and_at_the_next_checkpoint(agent: str, broken: float):
    learner = make_learner(f"agent={agent}")
    learn(learner, 3)
    learner.pop_metrics()
    with torch.no_grad():
        next(learner.agent.parameters()).view(-1)[0] = broken
    learn(learner, 2)  # asks the device nothing, so that nothing is noticed here
    with pytest.raises(NotFinite, match=r"is (nan|inf|-inf) in one of the 2 optimiser steps up to 5"):
        learner.pop_metrics()
    with pytest.raises(NotFinite):
        learner.state_dict()


def test_a_nan_of_a_single_step_is_not_forgotten_by_the_steps_behind_it():
    learner = make_learner()
    learner._replay._rows.reward[:] = math.nan
    weights = weights_of(learner)
    learn(learner, 1)
    learner._replay._rows.reward[:] = 0
    learner.agent.load_state_dict(weights)
    learn(learner, 3)
    with pytest.raises(NotFinite, match=r"in one of the 4 optimiser steps"):
        learner.pop_metrics()


@both_agents
@pytest.mark.parametrize("popped", [True, False])
def test_a_restored_learner_goes_on_bit_for_bit(agent: str, popped: bool):
    learner, restored = make_learner(f"agent={agent}"), make_learner(f"agent={agent}", seed=1)
    learn(learner, 3)
    if popped:
        learner.pop_metrics()
    restored.load_state_dict(copy.deepcopy(learner.state_dict()))
    restored._replay.load_state_dict(copy.deepcopy(learner._replay.state_dict()))
    assert restored.step == 3
    for one in (learner, restored):
        learn(one, 4)
    assert learner.pop_metrics() == restored.pop_metrics()
    assert same(learner.state_dict(), restored.state_dict())
    assert same(learner._replay.state_dict(), restored._replay.state_dict())


@both_agents
def test_a_state_is_restored_into_the_tensors_that_are_there(agent: str):
    """A captured step goes on working on them: others would neither be trained nor logged nor found to be NaN."""
    learner, restored = make_learner(f"agent={agent}"), make_learner(f"agent={agent}")
    for one in (learner, restored):
        learn(one, 2)

    def addresses() -> list[int]:
        return [tensor.data_ptr() for tensor in restored._tensors()]

    before = addresses()
    restored.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert addresses() == before
    assert restored._sums is not None


def test_what_was_summed_up_before_a_state_is_loaded_does_not_count():
    fresh, learner = make_learner(), make_learner()
    learn(learner, 2)
    learner.load_state_dict(copy.deepcopy(fresh.state_dict()))
    learner._replay.load_state_dict(copy.deepcopy(fresh._replay.state_dict()))
    for one in (fresh, learner):
        learn(one, 1)
    assert learner.pop_metrics() == fresh.pop_metrics()


def test_other_seeds_sample_other_sequences():
    one, two = (make_learner(seed=seed) for seed in (0, 1))
    for learner in (one, two):
        learn(learner, 1)
    assert one.pop_metrics() != two.pop_metrics()


@both_agents
def test_bfloat16_agrees_with_float32_within_its_rounding(agent: str):
    """It has 8 bits of mantissa, 0.4 %; what many layers and a horizon of steps make of that stays within 5 %."""
    lines = []
    for overrides in ([], ["optimization.autocast=bfloat16"]):
        config = debug_config(f"agent={agent}", *overrides)
        torch.manual_seed(0)
        untrained = make_agent(config.agent, OBSERVATION, ACTION)
        learner = Learner(untrained, filled_replay(untrained), config, 0, CPU)
        learn(learner, 1)
        assert {parameter.dtype for parameter in learner.agent.parameters()} == {torch.float32}
        lines.append(dict(learner.pop_metrics()))
    single, half = lines
    assert single != half, "autocast is not on at all"
    if agent == "dreamer_v3":
        # A first row is a normalised zero, whose gradient is as large as the normalisation's 1 / epsilon. Whether the
        # row is just above or just below the free nats decides whether it counts.
        del single["optimizer/gradient_norm"]
    for name, value in single.items():
        assert half[name] == pytest.approx(value, rel=0.05, abs=0.02), name


def test_before_a_whole_sequence_was_written_nothing_is_learnt():
    learner = make_learner(rows=8)
    with pytest.raises(ValueError, match="a sequence of 8 rows and one of context needs more than the 8 written"):
        learner.learn()
    assert learner.step == 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("replay_buffer.batch_size=30", r"replay_buffer\.batch_size: 30 .*batch_length 8"),
        ("optimization.autocast=float16", r"optimization\.autocast: 'float16' is neither null nor bfloat16"),
    ],
)
def test_settings_that_cannot_be_are_refused(override: str, words: str):
    with pytest.raises(ConfigError, match=words):
        make_learner(override)
