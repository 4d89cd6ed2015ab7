"""Batches of a replay in main memory, against those of a replay on the step's own device."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.agents import random_rows, small_agent
from trainer.batches import DeviceBatches, HostBatches
from trainer.replay import Replay, Sequences
from trainer.simulators.base import Space
from trainer.world_model.rssm import State

CPU = torch.device("cpu")
SEQUENCES, LENGTH, ENVIRONMENTS, ROWS = 4, 3, 5, 40


@pytest.fixture
def replay() -> Replay:
    agent = small_agent()
    rows = random_rows(ROWS, ENVIRONMENTS)
    (key, observation), *_ = rows.observation.items()
    replay = Replay(
        frames=ROWS * ENVIRONMENTS,
        environments=ENVIRONMENTS,
        observation={key: Space((observation.shape[-1],))},
        action=rows.action.shape[-1],
        latent=agent.world_model.rssm.latent,
        deter=agent.world_model.rssm.deter,
        device=CPU,
    )
    state = agent.initial(ENVIRONMENTS)
    replay.extend(rows, State(*(field.expand(ROWS, *field.shape) for field in state)))
    return replay


def host_batches(replay: Replay, seed: int) -> HostBatches:
    return HostBatches(replay, SEQUENCES, LENGTH, seed, CPU)


def latents(replay: Replay, fill: float) -> State:
    deter = torch.full((LENGTH, SEQUENCES, replay.state_dict()["rings"][-2].shape[-1]), fill)
    stoch = torch.zeros(LENGTH, SEQUENCES, 16)
    return State(deter, stoch)


def step(batches: HostBatches, states: State) -> Sequences:
    """One optimiser step's use of its batch; a copy of it."""
    batches.before_step()
    sequences = batches.sample()
    kept = sequences._replace(rows=sequences.rows.map(torch.clone), time=sequences.time.clone())
    batches.refresh(sequences, states)
    batches.after_step()
    return kept


def test_a_host_replay_gives_the_batches_that_a_device_replay_gives(replay):
    host = host_batches(replay, seed=3)
    device = DeviceBatches(replay, SEQUENCES, LENGTH, torch.Generator().manual_seed(3))
    device.sample()  # the first draw only shapes the buffers
    for _ in range(3):
        ours, theirs = step(host, latents(replay, 0.0)), device.sample()
        for our, their in zip(ours.rows.tensors(), theirs.rows.tensors(), strict=True):
            assert torch.equal(our, their)
        assert torch.equal(ours.time, theirs.time)


def test_batches_stay_at_the_same_addresses(replay):
    host = host_batches(replay, seed=0)
    step(host, latents(replay, 0.0))
    before = [tensor.data_ptr() for tensor in host.sample().rows.tensors()]
    step(host, latents(replay, 0.0))
    assert [tensor.data_ptr() for tensor in host.sample().rows.tensors()] == before


def test_latents_are_written_back_before_the_next_step(replay):
    host = host_batches(replay, seed=0)
    first = step(host, latents(replay, 7.0))
    host.before_step()
    deter = replay.state_dict()["rings"][-2]
    for sequence in range(SEQUENCES):
        time = int(first.time[sequence])
        written = deter[time + 1 : time + 1 + LENGTH]
        assert (written == 7.0).any(dim=(0, 2)).any(), "one of the environments has them"
    assert (deter == 7.0).sum() <= SEQUENCES * LENGTH * deter.shape[-1]


def test_batches_go_on_from_a_saved_state(replay):
    host = host_batches(replay, seed=0)
    step(host, latents(replay, 0.0))
    saved = host.state_dict()
    others = [host_batches(replay, seed=seed) for seed in (1, 2)]
    for other in others:
        other.load_state_dict(saved)
    one, two = (step(other, latents(replay, 0.0)) for other in others)
    assert torch.equal(one.time, two.time)
    assert torch.equal(one.rows.reward, two.rows.reward)
