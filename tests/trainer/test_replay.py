"""The ring of rows: what is written is what is sampled, and never across the write head."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.agents import ACTION, random_rows, small_agent
from trainer.replay import Replay, Rows
from trainer.world_model.rssm import State

B = 3


def make_replay(rows: int) -> Replay:
    return Replay(
        frames=rows * B,
        environments=B,
        observation=3,
        action=ACTION,
        state=small_agent().initial(1),
        device=torch.device("cpu"),
    )


def numbered(start: int, length: int) -> tuple[Rows, State]:
    """Rows whose reward is `row * 10 + environment`, and latents to go with them."""
    rows = random_rows(length, B, seed=start)
    reward = (torch.arange(start, start + length).unsqueeze(-1) * 10 + torch.arange(B)).float()
    state = small_agent().initial(length * B)
    return rows._replace(reward=reward), State(*(field.unflatten(0, (length, B)) for field in state))


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


def test_sampling_before_a_whole_sequence_was_written_is_refused():
    replay = make_replay(10)
    replay.extend(*numbered(0, 4))
    with pytest.raises(ValueError, match="needs more than the 4"):
        replay.sample(1, 4, torch.Generator())


@pytest.mark.parametrize("written", [4, 13])
def test_a_restored_replay_samples_the_same_sequences(written: int):
    replay, restored = make_replay(10), make_replay(10)
    for start in range(written):
        replay.extend(*numbered(start, 1))
    restored.load_state_dict(replay.state_dict())
    one, two = (r.sample(50, 2, torch.Generator().manual_seed(0)) for r in (replay, restored))
    assert all(torch.equal(a, b) for a, b in zip(one.rows, two.rows, strict=True))
    assert torch.equal(one.time, two.time)


def test_a_replay_of_other_sizes_is_refused_with_what_to_do():
    replay = make_replay(10)
    replay.extend(*numbered(0, 10))
    with pytest.raises(ValueError, match=r"checkpoint\.replay=false"):
        make_replay(8).load_state_dict(replay.state_dict())
