"""Simulators behind their one interface: the debug one, and mjlab's real physics on the CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tests.trainer.agents import CPU, KEY, debug_config
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.simulators import make_simulator
from trainer.simulators.base import Simulator, Space
from trainer.simulators.debug import ARENA, EPISODE_STEPS
from trainer.simulators.observations import chosen_groups, picked, spaces_of

mjlab = pytest.mark.skipif(importlib.util.find_spec("mjlab") is None, reason="mjlab is not installed")


def env(**changes: object) -> Config:
    return Config(**{**vars(debug_config().env), **changes})


@pytest.fixture(scope="module")
def cartpole() -> Simulator:
    pytest.importorskip("mjlab")
    config = env(backend="mjlab", name="Mjlab-Cartpole-Balance", observation_key="actor", num_envs=3)
    simulator = make_simulator(config, 0, CPU)
    yield simulator
    simulator.close()


def test_the_debug_simulator_terminates_outside_its_arena_and_truncates_in_time():
    simulator = make_simulator(env(), 0, CPU)
    position = simulator.reset()[KEY][:, :2]
    outwards = position / position.abs().amax(-1, keepdim=True)
    for steps in range(1, EPISODE_STEPS + 1):
        step, count = simulator.step(outwards), steps
        ended = step.is_last
        if ended.any():
            break
    assert step.is_terminal[ended].all()
    assert count < EPISODE_STEPS
    assert step.reward[ended].max() < torch.exp(torch.tensor(-ARENA))
    simulator.reset()
    flags = [simulator.step(torch.zeros(4, 2)) for _ in range(EPISODE_STEPS)]
    assert not any(step.is_last.any() for step in flags[:-1])
    assert flags[-1].is_last.all()
    assert not flags[-1].is_terminal.any()


def test_the_debug_simulators_state_can_be_saved_and_loaded():
    one, two = (make_simulator(env(), seed, CPU) for seed in (0, 1))
    one.reset()
    one.step(torch.ones(4, 2))
    observation = two.load_state_dict(one.state_dict())
    for _ in range(2 * EPISODE_STEPS):
        ours, theirs = one.step(torch.ones(4, 2) / 3), two.step(torch.ones(4, 2) / 3)
        assert torch.equal(ours.observation[KEY], theirs.observation[KEY])
        assert all(torch.equal(a, b) for a, b in zip(ours[1:], theirs[1:], strict=True))
    assert observation[KEY].shape == (4, 3)


def shapes(observation: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in observation.items()}


@mjlab
def test_mjlab_gives_rows_of_the_interfaces_shapes(cartpole: Simulator):
    terms = (("cart_pos", 1), ("pole_angle", 2), ("cart_vel", 1), ("pole_vel", 1))
    assert (cartpole.environments, cartpole.action) == (3, 1)
    assert cartpole.observation == {"actor": Space((5,), terms=terms)}
    assert cartpole.max_return == 50
    assert shapes(cartpole.reset()) == {"actor": (3, 5)}
    step = cartpole.step(torch.zeros(3, 1))
    assert shapes(step.observation) == {"actor": (3, 5)}
    assert step.observation["actor"].dtype == torch.float32
    assert [tuple(field.shape) for field in step[1:]] == [(3,), (3,), (3,)]
    assert [field.dtype for field in step[1:]] == [torch.float32, torch.bool, torch.bool]
    assert 0 < step.reward.min() <= step.reward.max() <= 0.05


@mjlab
def test_mjlab_tells_what_an_action_is_to_the_task(cartpole: Simulator):
    assert cartpole.control[:4] == (0.05, (-1.0,), (1.0,), ("slider",))
    assert cartpole.control[4:] == ((1.0,), (0.0,))


@mjlab
def test_mjlab_resets_itself_and_shows_the_new_episodes_observation(cartpole: Simulator):
    """Never the NaN that TorchRL puts where the last observation was, and the last reward is there."""
    cartpole.reset()
    for _ in range(40):
        before = cartpole.step(torch.ones(3, 1)).observation["actor"]
    assert before[:, 1].max() < 0.999, "the pole has moved"
    cartpole._env._env.episode_length_buf[1] = 999
    step = cartpole.step(torch.ones(3, 1))
    assert step.is_last.tolist() == [False, True, False]
    assert not step.is_terminal.any()
    after = step.observation["actor"]
    assert torch.isfinite(after).all()
    assert after[1, 1] > 0.999, "upright again"
    assert after[0, 1] == pytest.approx(before[0, 1].item(), abs=0.5)
    assert (step.reward > 0).all()


@mjlab
def test_mjlab_observations_are_the_callers_own(cartpole: Simulator):
    first = cartpole.reset()["actor"]
    kept = first.clone()
    cartpole.step(torch.ones(3, 1))
    assert torch.equal(first, kept)


@mjlab
def test_unknown_tasks_and_observation_groups_name_what_there_is(cartpole: Simulator):
    with pytest.raises(ConfigError, match=r"no task 'Mjlab-Cartpole'.*Mjlab-Cartpole-Balance"):
        make_simulator(env(backend="mjlab", name="Mjlab-Cartpole"), 0, CPU)
    with pytest.raises(ConfigError, match=r"observation_key.*actor.*policy"):
        make_simulator(env(backend="mjlab", name="Mjlab-Cartpole-Balance", observation_key="policy"), 0, CPU)


@mjlab
def test_mjlab_shows_a_cameras_bytes_beside_vectors():
    """Its cameras are Warp's, which renders on a CPU too, in seconds a picture."""
    names = {"backend": "mjlab", "name": "Mjlab-Lift-Cube-Yam-Rgb", "from_pixels": True, "num_envs": 2}
    simulator = make_simulator(env(**names, observation_key=["actor"]), 0, CPU)
    terms = (("joint_pos", 8), ("joint_vel", 8), ("actions", 7), ("goal_position", 3))
    spaces = {"actor": Space((26,), terms=terms), "pixels": Space((32, 32, 3), torch.uint8)}
    assert simulator.observation == spaces
    first = simulator.reset()
    pixels = first["pixels"].clone()
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (2, 32, 32, 3))
    assert pixels.float().std() > 5, "there is something to see"
    step = simulator.step(torch.ones(2, simulator.action))
    assert not torch.equal(step.observation["pixels"], pixels)
    assert torch.equal(first["pixels"], pixels), "a picture is the caller's own"
    simulator.close()


@mjlab
def test_pixels_alone_are_what_an_agent_sees_unless_groups_are_named(cartpole: Simulator):
    config = env(backend="mjlab", name="Mjlab-Cartpole-Balance", from_pixels=True, observation_key=None)
    with pytest.raises(ConfigError, match=r"Mjlab-Cartpole-Balance has no camera; .* as Mjlab-Lift-Cube-Yam-Rgb has"):
        make_simulator(config, 0, CPU)
    assert chosen_groups(env(observation_key=None, from_pixels=True), "actor") == []
    assert chosen_groups(env(observation_key=None), "actor") == ["actor"]
    assert chosen_groups(env(observation_key="critic", from_pixels=True), "actor") == ["critic"]
    with pytest.raises(ConfigError, match=r"env.observation_key: 3 is neither a name nor a list of names"):
        chosen_groups(env(observation_key=3), "actor")


def test_groups_of_several_tensors_give_a_key_for_each():
    terms = {"joints": torch.zeros(2, 3, dtype=torch.float64), "eye": torch.zeros(2, 8, 8, 3, dtype=torch.uint8)}
    seen = picked({"policy": terms, "goal": torch.zeros(2, 1)}, ["policy"])
    assert spaces_of(seen) == {"policy.joints": Space((3,)), "policy.eye": Space((8, 8, 3), torch.uint8)}
