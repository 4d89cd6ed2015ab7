"""The ring of rows: what is written is what is sampled, and never across the write head."""

from __future__ import annotations

import pytest
import torch

from tests.trainer import agents
from tests.trainer.agents import ACTION, CPU, random_rows, small_agent, state_of
from trainer.replay import Replay, Rows
from trainer.simulators.base import Space
from trainer.world_model.latents import Categorical, Gaussian, Latent
from trainer.world_model.rssm import State

B = 3


def make_replay(rows: int) -> Replay:
    return agents.make_replay(small_agent(), rows, B)


def numbered(start: int, length: int) -> tuple[Rows, State]:
    """Rows whose reward is `row * 10 + environment`, and latents to go with them."""
    rows = random_rows(length, B, seed=start)
    reward = (torch.arange(start, start + length).unsqueeze(-1) * 10 + torch.arange(B)).float()
    return rows._replace(reward=reward), state_of(small_agent(), length, B, fill=0.0)


def test_sequences_are_consecutive_rows_of_one_environment():
    replay = make_replay(10)
    replay.extend(*numbered(0, 10))
    rewards = replay.sample(200, 4, torch.Generator().manual_seed(0)).rows.reward
    assert rewards.shape == (5, 200)
    assert (rewards.diff(dim=0) == 10).all()
    assert sorted(set((rewards[0] % 10).tolist())) == [0, 1, 2]
    assert sorted(set((rewards[0] // 10).tolist())) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("written", range(10, 24))
def test_sequences_never_cross_the_write_head(written: int):
    replay = make_replay(10)
    replay.extend(*numbered(0, 10))
    if written > 10:
        for start in range(10, written):
            replay.extend(*numbered(start, 1))
    rewards = replay.sample(100, 4, torch.Generator().manual_seed(written)).rows.reward
    assert (rewards.diff(dim=0) == 10).all()
    assert rewards.min() // 10 >= written - 10
    assert rewards.max() // 10 <= written - 1


def test_a_chunk_longer_than_the_ring_is_refused_with_the_keys_to_change():
    with pytest.raises(ValueError, match=r"buffer_size.*frames_per_batch"):
        make_replay(4).extend(*numbered(0, 5))


def test_a_ring_too_small_for_one_row_is_refused():
    with pytest.raises(ValueError, match="holds no row"):
        make_replay(0)


@pytest.mark.parametrize("written", [0, 1, 4])
def test_sampling_before_a_whole_sequence_was_written_gives_rows_of_the_right_shapes(written: int):
    """A step is captured before anything was collected; the learner itself refuses to learn from such rows."""
    replay = make_replay(10)
    if written:
        replay.extend(*numbered(0, written))
    assert replay.sample(7, 4, torch.Generator().manual_seed(0)).rows.reward.shape == (5, 7)


def test_a_chunk_may_be_written_across_the_end_of_the_ring():
    replay = make_replay(10)
    for start in (0, 7, 14):
        replay.extend(*numbered(start, 7))
    rewards = replay.sample(100, 9, torch.Generator().manual_seed(0)).rows.reward
    assert (rewards[0] // 10 == 11).all(), "the oldest row there is"
    assert (rewards.diff(dim=0) == 10).all()


@pytest.mark.parametrize("latent", [Categorical(4, 5, 0.01), Gaussian(6)], ids=["categorical", "gaussian"])
def test_every_key_of_the_observation_and_every_kind_of_latent_comes_back_as_it_was(latent: Latent):
    spaces = {"image": Space((4, 5, 3), torch.uint8), "vector": Space((2,))}
    replay = Replay(frames=6 * B, environments=B, observation=spaces, action=ACTION, latent=latent, deter=7, device=CPU)
    generator = torch.Generator().manual_seed(0)
    observation = {
        "image": torch.randint(256, (6, B, 4, 5, 3), generator=generator, dtype=torch.uint8),
        "vector": torch.randn(6, B, 2, generator=generator),
    }
    raw = torch.randn(6, B, latent.parameters, generator=generator)
    stoch = latent.sample(latent.distribution(raw), latent.draw(6, B, generator=generator))
    deter = torch.randn(6, B, 7, generator=generator)
    replay.extend(random_rows(6, B)._replace(observation=observation), State(deter, stoch))
    sampled = replay.sample(50, 2, generator)
    time, environment = sampled.time, sampled.environment
    for key, expected in observation.items():
        assert sampled.rows.observation[key].dtype == expected.dtype
        for t in range(3):
            assert torch.equal(sampled.rows.observation[key][t], expected[time + t, environment])
    assert torch.equal(sampled.context.stoch, stoch[time, environment])
    assert torch.equal(sampled.context.deter, deter[time, environment])


@pytest.mark.parametrize("written", [4, 13])
def test_a_restored_replay_samples_the_same_sequences(written: int):
    replay, restored = make_replay(10), make_replay(10)
    for start in range(written):
        replay.extend(*numbered(start, 1))
    restored.load_state_dict(replay.state_dict())
    one, two = (r.sample(50, 2, torch.Generator().manual_seed(0)) for r in (replay, restored))
    assert all(torch.equal(a, b) for a, b in zip(one.rows.tensors(), two.rows.tensors(), strict=True))
    assert torch.equal(one.time, two.time)


def test_a_replay_of_other_sizes_is_refused_with_what_to_do():
    replay = make_replay(10)
    replay.extend(*numbered(0, 10))
    with pytest.raises(ValueError, match=r"checkpoint\.replay=false"):
        make_replay(8).load_state_dict(replay.state_dict())
