"""Many simulators on a Ray cluster of this machine: whole runs, and what becomes of one whose simulators are killed."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.checkpoint import load_latest
from trainer.config import compose
from trainer.errors import ConfigError, PeerLost, Stopped
from trainer.role import RoleConfig, RoleContext
from trainer.run_dir import Phase, RunDir

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
ACTORS, ENVIRONMENTS, CHUNK = 2, 4, 64  # of experiment=debug


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init("local", num_cpus=ACTORS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


def make_loop(folder: Path, *overrides: str, attempt: int = 1) -> Any:
    from trainer.pipelines.ray_fleet import Fleet, choose_fleet
    from trainer.pipelines.ray_learning import RayLearningLoop

    ring = "replay_buffer.buffer_size=16384"  # room for all that simulators send before a slow machine stops them
    words = ["experiment=debug", "pipeline=ray", f"pipeline.actors={ACTORS}", f"run_dir={folder}", ring, *overrides]
    config = compose(words)
    choose_fleet(config, {"CPU": ACTORS}, 0)
    paths = {"outcome": str(folder / "outcome.json"), "reserve": str(folder / ".reserve")}
    context = RoleContext(RoleConfig("learner", config, str(folder), attempt, coordinator=0, **paths))
    return RayLearningLoop(context, Fleet(config, context.run_dir))


def at_step(loop: Any, step: int, do: Any) -> None:
    """Call `do` once, as soon as so many optimiser steps are done."""
    beat, done = loop._context.beat, []

    def beat_and_do(phase: Phase, **values: Any) -> None:
        beat(phase, **values)
        if phase is Phase.TRAINING and values["optim_step"] >= step and not done:
            done.append(True)
            do()

    loop._context.beat = beat_and_do


def pid_of(actor: Any) -> int:
    import ray

    return ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))


def check_rings(replay: Any) -> None:
    """Each simulator's rows are in its own columns, in their order: nothing but a beginning breaks an episode off."""
    position = replay._rows.observation["policy"][..., :2]
    for group in range(ACTORS):
        columns = slice(group * ENVIRONMENTS, (group + 1) * ENVIRONMENTS)
        rows = replay.written[group]
        assert rows < replay.capacity
        moved = (position[1:rows, columns] - position[: rows - 1, columns]).norm(dim=-1)
        first = replay._rows.is_first[1:rows, columns]
        assert (moved[~first] < 0.3).all(), "a step moves the point by 0.2 at most in either direction"
        assert replay._rows.is_first[0, columns].all()


def test_a_killed_simulator_is_replaced_and_costs_its_unsent_chunks_alone(
    cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    endless = ("optimization.total_optim_steps=100000", "replay_buffer.buffer_size=200000")
    loop = make_loop(tmp_path, "optimization.replay_ratio=4", *endless)
    fleet, replay = loop._fleet, loop._replay
    victim, store, from_the_new_one = fleet._actors[1], loop._store, []

    def note(content: Any, chunk: Any, group: int) -> None:
        store(content, chunk, group)
        if fleet._lives[1] and group == 1:
            from_the_new_one.append(chunk)
            loop._context._stop = len(from_the_new_one) == 3

    loop._store = note
    with caplog.at_level(logging.WARNING):
        at_step(loop, 5, lambda: os.kill(pid_of(victim), signal.SIGKILL))
        with pytest.raises(Stopped):
            loop.run()
    assert "simulator 1 is lost and replaced" in caplog.text
    assert fleet._lives == [0, 1]
    rows_of_chunks = sum(replay.written) - 3  # three rows of first observations, two of them the second simulator's
    assert loop._progress.frames == rows_of_chunks * ENVIRONMENTS
    begun = replay._rows.is_first & ~replay._rows.is_last
    assert int(begun[:, ENVIRONMENTS:].all(-1).sum()) == 2
    check_rings(replay)
    ratio = loop._balance.trained / loop._balance.collected
    assert ratio == pytest.approx(4, abs=1), "lost frames do not count as collected"
    assert load_latest(RunDir(tmp_path)).parts["replay"]["written"] == replay.written


def test_a_run_ends_with_its_evaluation(cluster: None, tmp_path: Path):
    loop = make_loop(tmp_path, "pipeline.actors=1")
    loop.run()
    summary = RunDir(tmp_path).read_summary()
    assert (summary["optim_steps"], summary["trained_return"] > 0) == (20, True)


def test_a_stopped_run_goes_on_with_its_replay_in_new_episodes(cluster: None, tmp_path: Path):
    loop = make_loop(tmp_path, "eval.episodes=0")
    at_step(loop, 6, lambda: setattr(loop._context, "_stop", True))
    with pytest.raises(Stopped):
        loop.run()
    before = load_latest(RunDir(tmp_path)).parts["replay"]["written"]
    second = make_loop(tmp_path, "eval.episodes=0", attempt=2)
    assert second._replay.written == before
    second.run()
    assert second._learner.step == 20
    assert all(now >= then for now, then in zip(second._replay.written, before, strict=True))
    check_rings(second._replay)


def test_a_config_that_the_simulator_refuses_is_told_as_such(cluster: None, tmp_path: Path):
    with pytest.raises(ConfigError, match="Debug-Reach, not 'Debug-Fly'"):
        make_loop(tmp_path, "env.name=Debug-Fly", "pipeline.actors=1")


def test_a_simulator_that_is_lost_again_and_again_ends_the_run(cluster: None, tmp_path: Path):
    loop = make_loop(tmp_path, "optimization.total_optim_steps=1000000", "eval.episodes=0", "pipeline.actors=1")
    fleet = loop._fleet

    def lose() -> None:
        from trainer.pipelines.ray_fleet import Call

        fleet._losses[0] = 3
        fleet._replace(Call(0, "collect", CHUNK), RuntimeError("Isaac Sim has crashed"))

    at_step(loop, 2, lose)
    with pytest.raises(PeerLost, match="simulator 0 was lost 4 times before it gave anything: Isaac Sim has crashed"):
        loop.run()
    assert load_latest(RunDir(tmp_path)).step >= 2


def test_what_is_lost_again_waits_a_little_and_an_evaluation_does_not_wait_for_it(cluster: None, tmp_path: Path):
    from trainer.pipelines import ray_fleet
    from trainer.pipelines.messages import Evaluate, Evaluated

    loop = make_loop(tmp_path)
    fleet = loop._fleet
    while None in fleet._turns:
        fleet.wait(1.0)
        fleet.receive()
    loop._publish()
    fleet._losses[0] = 1
    fleet._replace(ray_fleet.Call(0, "collect", CHUNK), RuntimeError("its machine is gone"))
    assert fleet._turns[0] is None
    assert fleet._due[0] - time.monotonic() == pytest.approx(ray_fleet.AGAIN, abs=1)
    fleet.send(Evaluate(0, random=False))
    while (message := fleet.receive()) is None:
        fleet.wait(1.0)
    assert isinstance(message, Evaluated)
    while fleet._turns[0] is None:
        fleet.wait(0.1)
        fleet.receive()
    assert fleet._lives == [1, 0]
    fleet.close()


def test_the_tasks_of_a_job_are_one_cluster_which_ends_with_the_first_of_them(tmp_path: Path):
    job = {"LONGSHORE_TASKS": "2", "LONGSHORE_RUN_DIR": str(tmp_path), "LONGSHORE_ATTEMPT": "1"}
    environment = os.environ | job | {"SLURM_CPUS_PER_TASK": "1"}
    words = ("experiment=debug", "pipeline=ray", f"pipeline.actors={ACTORS}", "eval.episodes=0")
    further = [sys.executable, "-m", "trainer.pipelines.ray_node"]
    with (tmp_path / "node.txt").open("wb") as log:
        node = subprocess.Popen(further, env=environment | {"LONGSHORE_TASK": "1"}, stderr=log)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "trainer", *words], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert "2 simulators on a Ray cluster of 2 nodes" in done.stderr
        assert node.wait(60) == 0
    finally:
        node.kill()
    assert "the head is gone" in (tmp_path / "node.txt").read_text()
    assert not (RunDir(tmp_path).attempt(1) / "ray.json").exists()


def test_actors_act_with_the_weights_that_are_published(cluster: None, tmp_path: Path):
    """A chunk is that of the version that it names; weights that are no numbers show in it."""
    import ray

    loop = make_loop(tmp_path, "pipeline.actors=1")
    fleet = loop._fleet
    loop._publish()
    version, weights = fleet._weights
    collected = ray.get(fleet._actors[0].collect.remote(random=False, version=version, weights=weights))
    assert collected.chunk.version == 0
    assert (collected.chunk.frames, collected.chunk.versions) == (CHUNK, 1)
    again = ray.get(fleet._actors[0].collect.remote(random=False, version=version, weights=weights))
    assert again.chunk.versions == 0
    with torch.no_grad():
        for parameter in loop._agent.parameters():
            parameter.fill_(torch.nan)
    loop._learner.step = 3
    loop._publish()
    version, weights = fleet._weights
    spoilt = ray.get(fleet._actors[0].collect.remote(random=False, version=version, weights=weights))
    assert spoilt.chunk.version == 3
    assert any(torch.tensor(array).isnan().any() for array in spoilt.arrays.values() if array.dtype.kind == "f")
    fleet.close()


def test_torch_is_not_imported_before_a_simulator_may_start():
    code = "import sys; import trainer.pipelines.ray_actor; assert 'torch' not in sys.modules"
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0


@pytest.mark.parametrize(
    ("words", "resources", "visible", "chosen"),
    [
        (["env.backend=mjlab"], {"CPU": 32, "GPU": 7}, 8, (7, 1.0, "cuda:0", "cuda:7")),
        (["env.backend=isaaclab"], {"CPU": 64, "GPU": 15}, 8, (15, 1.0, "cuda:0", "cuda:7")),
        (["env.backend=mjlab", "pipeline.actors=2"], {"CPU": 8, "GPU": 1}, 1, (2, 0.5, "cuda:0", "cuda:0")),
        (["env.backend=mjlab"], {"CPU": 4}, 0, (3, 0.0, "cpu", "cpu")),
        (["env.backend=dm_control"], {"CPU": 16, "GPU": 1}, 1, (15, 0.0, "cpu", "cuda:0")),
        (["env.backend=dm_control", "pipeline.actor_cpus=4"], {"CPU": 16}, 0, (3, 0.0, "cpu", "cpu")),
    ],
)
def test_a_fleet_is_as_large_as_the_cluster(
    words: list[str], resources: dict[str, float], visible: int, chosen: tuple[int, float, str, str]
):
    from trainer.pipelines.ray_fleet import choose_fleet

    config = compose(["pipeline=ray", *words])
    choose_fleet(config, resources, visible)
    pipeline = config["pipeline"]
    keys = ("actors", "actor_gpus", "simulator_device", "learner_device")
    assert tuple(pipeline[key] for key in keys) == chosen


def test_more_simulators_than_cores_are_refused():
    from trainer.pipelines.ray_fleet import choose_fleet

    with pytest.raises(ConfigError, match=r"pipeline.actors: 9 .* 8 cores"):
        choose_fleet(compose(["pipeline=ray", "pipeline.actors=9"]), {"CPU": 8}, 0)
