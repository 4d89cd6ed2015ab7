"""The reference learns, alone and beside a simulator, and measures itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from batched_env import ACTION, OBSERVATION, PointEnv
from noise import no_noise, noise_from
from tensordict import TensorDict
from torch import Tensor

from benchmarks.reference import (
    ReferenceLearner,
    ReferencePipeline,
    ReferenceReplay,
    Settings,
    Sizes,
    main,
    make_losses,
    make_mjlab_environment,
    make_networks,
    measure_learner,
    measure_pipeline,
    random_batch,
)
from benchmarks.reference_networks import GAMMA, HORIZON, LAMBDA

CPU = torch.device("cpu")
SIZES = Sizes(state=4, belief=8, embedding=16, width=16)
SMALL = Settings(
    batch_size=40, batch_length=5, capacity=400, steps_per_chunk=10, sync_every=2, autocast=False, compile=False
)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_step_trains_every_network(autocast: bool):
    torch.manual_seed(0)
    networks = make_networks(OBSERVATION, ACTION, sizes=SIZES)
    learner = ReferenceLearner(networks, "cpu", autocast=autocast, compile=False)
    parts = ("encoder", "decoder", "prior", "posterior", "reward", "actor_body", "value_body")
    before = {part: [weight.clone() for weight in getattr(networks, part).parameters()] for part in parts}
    for _ in range(3):  # under three nats of divergence a first step leaves the prior as it is
        losses = learner.step(random_batch(8, 5, OBSERVATION, ACTION, sizes=SIZES))
    assert all(torch.isfinite(loss) for loss in vars(losses).values())
    for part in ("encoder", "decoder", "posterior", "reward", "actor_body", "value_body"):
        weights = getattr(networks, part).parameters()
        assert not any(map(torch.equal, weights, before[part])), part
    assert list(learner.watch.medians()) == ["world model", "actor", "value"]


def test_the_world_model_learns_one_batch():
    torch.manual_seed(0)
    learner = ReferenceLearner(make_networks(OBSERVATION, ACTION, sizes=SIZES), "cpu", autocast=False, compile=False)
    batch = random_batch(4, 5, OBSERVATION, ACTION, sizes=SIZES)
    with no_noise():
        first, *_, last = (learner.step(batch) for _ in range(40))
    assert last.reward < 0.95 * first.reward
    assert last.reconstruction < 0.9 * first.reconstruction


def test_the_actor_maximises_lambda_returns_of_fifteen_steps():
    """The loss against its definition: returns computed backwards, discounted, summed over the imagined steps."""
    torch.manual_seed(0)
    networks = make_networks(OBSERVATION, ACTION, sizes=SIZES)
    losses = make_losses(networks)
    with no_noise(), torch.no_grad():
        _, latents = losses.world_model(random_batch(2, 3, OBSERVATION, ACTION, sizes=SIZES))
        loss, imagined = losses.actor(latents.reshape(-1))
        value_loss, _ = losses.value(imagined)
    assert imagined.shape == (2 * 3, HORIZON)
    after = imagined["next"]
    values = networks.value_body(after["state"], after["belief"])  # [B·T, H, 1], of the states arrived at
    returns: list[Tensor] = []
    for step in reversed(range(HORIZON)):
        later = returns[-1] if returns else values[:, step]
        returns.append(after["reward"][:, step] + GAMMA * ((1 - LAMBDA) * values[:, step] + LAMBDA * later))
    targets = torch.stack(returns[::-1], 1)
    discounts = GAMMA ** torch.arange(HORIZON)[:, None]
    torch.testing.assert_close(loss["loss_actor"], -(targets * discounts).sum((-2, -1)).mean())
    predicted = networks.value_body(imagined["state"], imagined["belief"])
    expected = ((predicted - targets).square() * discounts).sum((-2, -1)).mean()
    torch.testing.assert_close(value_loss["loss_value"], expected)


def test_noise_is_drawn_in_the_order_that_parity_tests_rely_on():
    torch.manual_seed(0)
    networks = make_networks(OBSERVATION, ACTION, sizes=SIZES)
    losses = make_losses(networks)
    drawn: list[tuple[int, ...]] = []

    def record(shape: torch.Size) -> Tensor:
        drawn.append(tuple(shape))
        return torch.zeros(shape)

    sequences, length = 2, 3
    with noise_from(record), torch.no_grad():
        _, latents = losses.world_model(random_batch(sequences, length, OBSERVATION, ACTION, sizes=SIZES))
        assert drawn == [(sequences, SIZES.state)] * 2 * length
        drawn.clear()
        _, imagined = losses.actor(latents.reshape(-1))
        assert drawn == [(sequences * length, ACTION), (sequences * length, SIZES.state)] * HORIZON
        drawn.clear()
        losses.value(imagined)
        assert not drawn


def test_the_policy_filters_as_the_world_model_does():
    """What the collector stores before a sequence is what training starts it from."""
    torch.manual_seed(0)
    networks = make_networks(OBSERVATION, ACTION, sizes=SIZES)
    batch = random_batch(2, 3, OBSERVATION, ACTION, sizes=SIZES)
    with no_noise(), torch.no_grad():
        _, latents = make_losses(networks).world_model(batch)
        after = latents["next"].reshape(-1)
        seen = TensorDict(policy=batch["next", "policy"].reshape(6, -1), belief=after["belief"], batch_size=[6])
        torch.testing.assert_close(networks.policy(seen)["state"], after["state"])


def test_the_pipeline_trains_beside_its_collector():
    torch.manual_seed(0)
    pipeline = ReferencePipeline(PointEnv(4, episode=12), "cpu", SMALL, SIZES)
    collecting = pipeline.collector.policy[0].module[0].weight
    before = collecting.clone()
    with pipeline:
        figure = measure_pipeline(pipeline, seconds=1.0, block=2)
        while len(pipeline.returns) < 2:
            pipeline.step()
        pipeline.sync_policy()
        assert not torch.equal(collecting, before)
        assert torch.equal(collecting, pipeline.networks.encoder[0].weight)
        assert pipeline.frames >= SMALL.steps_per_chunk * 4
    assert not pipeline._thread.is_alive()
    assert pipeline.collector.closed
    assert figure.steps_per_s.median > 0
    assert list(figure.parts_ms) == ["sample", "world model", "actor", "value"]
    assert 0 < figure.frames_per_step <= SMALL.batch_size
    assert all(value < 0 for value in pipeline.returns)


class FailingEnv(PointEnv):
    def _step(self, tensordict: TensorDict) -> TensorDict:
        if self._time[0] == 15:
            raise ArithmeticError("the simulation diverged")
        return super()._step(tensordict)


def test_a_failure_of_the_collector_ends_the_training():
    pipeline = ReferencePipeline(FailingEnv(4), "cpu", SMALL, SIZES)
    with pipeline:
        pipeline._thread.join()
        with pytest.raises(RuntimeError, match="collector's thread failed") as caught:
            pipeline.step()
    assert isinstance(caught.value.__cause__, ArithmeticError)


def test_lost_observations_do_not_enter_the_replay():
    chunk = random_batch(4, 10, OBSERVATION, ACTION, sizes=SIZES)
    chunk["next", "policy"][1, 3] = torch.nan
    chunk["collector", "traj_ids"] = torch.arange(4)[:, None].expand(4, 10)
    replay = ReferenceReplay(SMALL, CPU)
    replay.extend(chunk)
    kept = replay._buffer[:]["next", "policy"]  # [N, T, F]
    assert not kept[1, 3].any()
    assert torch.equal(kept[1, 4], chunk["next", "policy"][1, 4])


@pytest.mark.slow
@pytest.mark.parametrize("native_autoreset", [False, True])
def test_the_pipeline_trains_on_mjlab(native_autoreset: bool):
    """Seed, trap 6: the simulator's rewards are `[N]`, those of the wrapper `[N, 1]`. Episodes end in both ways."""
    environment = make_mjlab_environment("Mjlab-Cartpole-Balance", 4, "cpu", native_autoreset=native_autoreset)
    simulator = environment.base_env._env
    pipeline = ReferencePipeline(environment, "cpu", SMALL, SIZES)
    simulator.episode_length_buf[0] = simulator.max_episode_length - 3
    with pipeline:
        pipeline.step()
        while not pipeline.returns:
            pipeline.step()
    assert simulator.reward_buf.shape == (4,)
    stored = pipeline.replay._buffer[:]
    assert stored["next", "reward"].shape[::2] == (4, 1)  # [N, T, 1]
    assert stored["next", "done"].any()
    lost = ~stored["next", "policy"][stored["next", "done"].squeeze(-1)].any(-1)
    assert lost.all() if native_autoreset else not lost.any()
    assert not any(value.isnan().any() for value in stored.values(True, True))


def test_measuring_the_learner():
    figure = measure_learner(CPU, SMALL, steps=4, environments=8, observation=3, action=2, sizes=SIZES, block=2)
    assert figure.steps_per_s.steps == 4
    assert figure.steps_per_s.slowest <= figure.steps_per_s.median <= figure.steps_per_s.fastest
    assert figure.frames_per_step == SMALL.batch_size
    assert figure.peak_memory_gib is None


def test_the_command_line_writes_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "figures.json"
    sizes = ["--batch", "20", "--length", "5", "--environments", "8", "--capacity", "400", "--steps", "2"]
    main(["learner", *sizes, "--device", "cpu", "--no-compile", "--json", str(path)])
    assert "optimiser steps/s" in capsys.readouterr().out
    written = json.loads(path.read_text())
    assert {"torch", "torchrl", "tensordict", "python"} == set(written["versions"])
    assert written["settings"]["batch"] == 20
    assert written["figures"][0]["steps_per_s"]["steps"] == 2
    assert {"date", "machine"} < set(written)
