"""The asynchronous pipeline on the debug simulator: whole runs under the coordinator, and both loops side by side."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.agents import debug_config
from tests.trainer.conftest import named_memory
from trainer.checkpoint import load, load_latest
from trainer.config import compose
from trainer.errors import ConfigError, NotFinite, PeerLost, Stopped
from trainer.exchange.rendezvous import Rendezvous
from trainer.exchange.weights import WeightReader, WeightWriter
from trainer.learner import Learner
from trainer.pipelines import learning, simulation
from trainer.pipelines.balance import Balance
from trainer.pipelines.parts import choose_devices
from trainer.role import RoleConfig, RoleContext
from trainer.run_dir import FailureClass, Phase, RunDir
from trainer.simulators.debug import SPEED, DebugSimulator

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds that a loaded machine may take for what takes none
FORK = multiprocessing.get_context("fork")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Ended, or waiting for whoever is its parent now to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def steps_of(folder: Path) -> list[int]:
    return [line["step"] for line in RunDir(folder).read_metrics()]


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads(RunDir(folder).summary.read_text())


# Whole runs


class Run:
    """`python -m trainer pipeline=async` in processes of its own, with temporary files of its own."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDir(folder / "run")
        self.stderr = ""
        self._process: subprocess.Popen[str] | None = None
        self._temporary = Path(tempfile.mkdtemp(prefix="t"))  # short: a socket will be in it

    def start(self, *overrides: str) -> None:
        paths = {"PYTHONPATH": str(ROOT), "TMPDIR": str(self._temporary), "LONGSHORE_RUN_DIR": str(self.run_dir.root)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trainer", "experiment=debug", "pipeline=async", *overrides],
            env=os.environ | paths,
            stderr=subprocess.PIPE,
            text=True,
        )

    def train_until(self, step: int) -> None:
        """Wait until so many optimiser steps are done."""
        attempt = max(self.run_dir.attempts(), default=0)

        def reached() -> bool:
            assert self._process.poll() is None, self._process.communicate()
            status = self.run_dir.read_status()
            return status is not None and status.attempt >= attempt and status.optim_step >= step

        wait_until(reached)

    def role(self, name: str) -> int:
        """Process id of a role of the coordinator."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        modules = {"simulator": b"trainer.pipelines.simulation", "learner": b"trainer.pipelines.learning"}
        (pid,) = (pid for pid in children if modules[name] in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
        return int(pid)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        _, self.stderr = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode

    def left(self) -> list[str]:
        """Temporary files."""
        return os.listdir(self._temporary)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._temporary.rmdir()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    one = Run(tmp_path)
    yield one
    one.close()


ENDLESS = "optimization.total_optim_steps=1000000"


def test_a_run_that_is_stopped_saves_all_and_goes_on_to_success(run: Run):
    run.start(ENDLESS)
    run.train_until(8)
    assert not named_memory(run.role("simulator")) + named_memory(run.role("learner"))
    run.signal(signal.SIGTERM)
    assert run.wait() == 75
    assert run.run_dir.read_failure().failure_class is FailureClass.PREEMPTED
    checkpoint = load_latest(run.run_dir)
    assert checkpoint.parts["collector"]["simulator"] is not None
    before = checkpoint.parts["progress"]
    assert not run.left()

    total = (checkpoint.step // 4 + 5) * 4
    run.start(f"optimization.total_optim_steps={total}")
    assert run.wait() == 0
    assert run.run_dir.success.exists()
    assert steps_of(run.run_dir.root) == list(range(4, total + 1, 4))
    assert "resuming from step" in run.stderr
    assert "simulator and learner share cpu" in run.stderr
    summary = summary_of(run.run_dir.root)
    assert summary["optim_steps"] == total
    assert summary["frames"] > before["frames"]
    assert summary["random_return"] == before["random_return"] > 0
    assert summary["trained_return"] > 0
    assert load_latest(run.run_dir).step == total
    status = run.run_dir.read_status()
    assert (status.phase, status.optim_step, status.frames) == (Phase.DONE, total, summary["frames"])
    assert {"loss/total", "episode/return", "throughput/fps", "pipeline/policy_lag", "pipeline/replay_ratio"} <= set(
        list(run.run_dir.read_metrics())[-1]
    )
    assert not run.left()


@pytest.mark.parametrize("victim", ["simulator", "learner"])
def test_a_killed_role_ends_the_run_within_seconds(run: Run, victim: str):
    run.start(ENDLESS, "checkpoint.interval=1")
    run.train_until(20)
    wait_until(lambda: (run.run_dir.checkpoints / "latest").exists())
    pids = {name: run.role(name) for name in ("simulator", "learner")}
    os.kill(pids[victim], signal.SIGKILL)
    killed = time.monotonic()
    assert run.wait() == 1
    assert time.monotonic() - killed < 30  # of the grace of 60
    assert all(gone(pid) for pid in pids.values())
    failure = run.run_dir.read_failure()
    assert failure.failure_class is FailureClass.CRASH
    assert failure.message == f"role {victim} was ended by signal 9 (SIGKILL)"
    checkpoint = load_latest(run.run_dir)
    if victim == "simulator":
        assert checkpoint.step == run.run_dir.read_status().optim_step
        assert checkpoint.parts["collector"] is None
    else:
        assert checkpoint.parts["collector"] is not None
    assert not run.left()


def test_torch_is_not_imported_before_the_simulator_may_start():
    """Isaac's AppLauncher must come first."""
    code = "import sys, trainer.pipelines.simulation; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Both loops: the learner here, the simulator in a forked process


class Roles:
    """Contexts of both roles, and the simulator's process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._simulators: list[BaseProcess] = []

    def context(self, role: str, rendezvous: Rendezvous, *overrides: str) -> RoleContext:
        config = compose(["experiment=debug", "pipeline=async", f"run_dir={self.folder}", *overrides])
        paths = {"outcome": str(self.folder / f"outcome-{role}.json"), "reserve": str(self.folder / ".reserve")}
        reports = role == "learner"
        return RoleContext(
            RoleConfig(
                role, config, str(self.folder), 1, **paths, coordinator=0, reports=reports, rendezvous=rendezvous
            )
        )

    def learner(self, *overrides: str) -> RoleContext:
        """Start a simulator; the context of the learner that it belongs to."""
        rendezvous = Rendezvous.make()
        context = self.context("simulator", rendezvous, *overrides)
        self._simulators.append(FORK.Process(target=self._simulate, args=(context,)))
        self._simulators[-1].start()
        return self.context("learner", rendezvous, *overrides)

    def simulator_ended(self) -> str:
        """With which exception the simulator's main function ended, or with none."""
        self._simulators[-1].join(PATIENCE)
        return (self.folder / "ended").read_text()

    def kill_simulator(self) -> None:
        self._simulators[-1].kill()

    def freeze_simulator(self) -> None:
        os.kill(self._simulators[-1].pid, signal.SIGSTOP)

    def stop_simulator(self) -> None:
        self._simulators[-1].terminate()

    def close(self) -> None:
        for simulator in self._simulators:
            simulator.kill()
            simulator.join()

    def _simulate(self, context: RoleContext) -> None:
        context.reinstall_signals()
        ended = "None"
        try:
            simulation.main(context)
        except Exception as error:
            ended = repr(error)
        (self.folder / "ended").write_text(ended)


@pytest.fixture
def roles(tmp_path: Path) -> Iterator[Roles]:
    both = Roles(tmp_path)
    yield both
    both.close()


def run_until_step(context: RoleContext, step: int, then: Callable[[], object]) -> None:
    """Do something as soon as so many optimiser steps are done."""
    beat, done = context.beat, False

    def beat_and_then(phase: Phase, **values: Any) -> None:
        nonlocal done
        beat(phase, **values)
        if phase is Phase.TRAINING and values["optim_step"] >= step and not done:
            done = True
            then()

    context.beat = beat_and_then  # type: ignore[method-assign]
    learning.main(context)


def test_the_simulator_acts_with_the_weights_that_the_learner_has_published(
    roles: Roles, monkeypatch: pytest.MonkeyPatch
):
    """Both sides note what they have published and taken; what was taken is compared bit for bit."""
    taken, published = roles.folder / "taken", dict[int, bytes]()
    take, publish = WeightReader.take, WeightWriter.publish

    def note_take(self: WeightReader, *, wait: bool = False) -> bool:
        if not take(self, wait=wait):
            return False
        with taken.open("ab") as file:
            pickle.dump((self.version, b"".join(tensor.numpy().tobytes() for tensor in self._targets)), file)
        return True

    def note_publish(self: WeightWriter, version: int, tensors: dict[str, torch.Tensor]) -> bool:
        if publish(self, version, tensors):
            published[version] = b"".join(tensors[name].numpy().tobytes() for name in self._tensors)
            return True
        return False

    monkeypatch.setattr(WeightReader, "take", note_take)
    monkeypatch.setattr(WeightWriter, "publish", note_publish)
    learning.main(roles.learner("optimization.total_optim_steps=40", "pipeline.publish_interval=2"))
    assert roles.simulator_ended() == "None"
    versions = []
    with taken.open("rb") as file:
        while file.peek():
            version, content = pickle.load(file)
            assert content == published[version]
            versions.append(version)
    assert versions == sorted(set(versions))
    assert versions[0] == 0
    assert versions[-1] == 40  # the ones that are evaluated
    assert len(versions) > 5
    assert len(set(published.values())) == len(published)


def note_leads(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learner's lead in frames trained on, whenever it may have changed."""
    leads: list[float] = []
    may_learn = Balance.may_learn

    def note(self: Balance) -> bool:
        leads.append(self.trained - self.ratio * self.collected)
        return may_learn(self)

    monkeypatch.setattr(Balance, "may_learn", note)
    return leads


@pytest.mark.parametrize("slow", ["learner", "simulator"])
def test_the_replay_ratio_is_kept_whichever_side_is_slow(roles: Roles, monkeypatch: pytest.MonkeyPatch, slow: str):
    learn, step = Learner.learn, DebugSimulator.step
    seconds = {"learner": (0.1, 0.0), "simulator": (0.0, 0.1)}[slow]

    def slow_learn(self: Learner) -> None:
        learn(self)
        time.sleep(seconds[0])

    def slow_step(self: DebugSimulator, action: torch.Tensor) -> Any:
        time.sleep(seconds[1])
        return step(self, action)

    monkeypatch.setattr(Learner, "learn", slow_learn)
    monkeypatch.setattr(DebugSimulator, "step", slow_step)
    leads = note_leads(monkeypatch)
    ratio, batch, chunk = 2.0, 32, 64
    learning.main(
        roles.learner("optimization.total_optim_steps=24", f"optimization.replay_ratio={ratio}", "eval.episodes=0")
    )
    slack = ratio * chunk + batch
    assert -slack <= min(leads)
    assert max(leads) <= slack
    if slow == "learner":
        assert min(leads) < -ratio * chunk / 2, "the simulator was never ahead: nothing was tested"
    else:
        assert max(leads) > ratio * chunk / 2, "the learner was never ahead: nothing was tested"


def test_without_a_ratio_a_slow_learner_gets_all_that_is_collected(roles: Roles, monkeypatch: pytest.MonkeyPatch):
    learn = Learner.learn
    monkeypatch.setattr(Learner, "learn", lambda self: (learn(self), time.sleep(0.05)))
    learning.main(roles.learner("eval.episodes=0"))
    assert summary_of(roles.folder)["frames"] > 128 + 2 * 20 * 32


def test_learning_begins_with_as_many_random_frames_as_the_config_says(roles: Roles, monkeypatch: pytest.MonkeyPatch):
    learn, frames = Learner.learn, list[int]()
    context = roles.learner("optimization.replay_ratio=1", "collector.init_random_frames=300")

    def note(self: Learner) -> None:
        frames.append(context._status.frames)
        learn(self)

    monkeypatch.setattr(Learner, "learn", note)
    learning.main(context)
    assert 300 <= frames[0] < 300 + 2 * 64


def test_rows_of_a_resumed_run_go_on_where_those_of_the_first_attempt_ended(roles: Roles):
    """The simulator's state is the one after the last row in the replay, whatever it did meanwhile."""
    context = roles.learner("optimization.total_optim_steps=1000000")
    with pytest.raises(Stopped):
        run_until_step(context, 30, lambda: setattr(context, "_stop", True))
    assert "Stopped" in roles.simulator_ended()
    check_rows(roles.folder)
    context = roles.learner("optimization.total_optim_steps=1000000")
    stop_at = load_latest(RunDir(roles.folder)).step + 20
    with pytest.raises(Stopped):
        run_until_step(context, stop_at, lambda: setattr(context, "_stop", True))
    check_rows(roles.folder)


def test_a_checkpoint_in_between_holds_no_row_that_the_simulators_state_does_not_know(roles: Roles):
    context = roles.learner("checkpoint.keep=1000", "optimization.total_optim_steps=40")
    context.config["checkpoint"]["interval"] = 0.1  # seconds
    learning.main(context)
    checkpoints = sorted(RunDir(roles.folder).checkpoints.glob("step_*"))
    checkpoints = [path for path in checkpoints if load(path).parts["replay"]["written"][0]]
    assert len(checkpoints) > 3
    for path in checkpoints:
        check_rows(roles.folder, path)


def check_rows(folder: Path, path: Path | None = None) -> None:
    """Positions move by the action between two rows, up to the one where the simulator stands now."""
    checkpoint = load(path) if path else load_latest(RunDir(folder))
    replay, collector = checkpoint.parts["replay"], checkpoint.parts["collector"]
    observation, action, first = (find(replay, shape) for shape in ((3,), (2,), "is_first"))
    rows = len(observation)
    order = torch.arange(replay["written"][0] - rows, replay["written"][0]) % rows
    observation, action, first = observation[order], action[order], first[order]
    moved = observation[1:, :, :2] - observation[:-1, :, :2]
    expected = SPEED * action[1:]
    inside = ~first[1:]
    assert torch.allclose(moved[inside], expected[inside], atol=1e-5)
    standing = collector["simulator"]["position"]
    assert torch.allclose(observation[-1, :, :2], standing[-observation.shape[1] :], atol=1e-6)
    assert inside.float().mean() > 0.8


def find(replay: dict[str, Any], what: tuple[int, ...] | str) -> torch.Tensor:
    """A ring of the replay by the shape of a row, or the one that says where episodes begin."""
    rings = [ring for ring in torch.utils._pytree.tree_leaves(replay) if isinstance(ring, torch.Tensor)]
    if what == "is_first":
        return next(ring for ring in rings if ring.dtype is torch.bool)
    return next(ring for ring in rings if ring.shape[2:] == what and ring.dtype is torch.float32)


def test_a_learner_whose_simulator_dies_saves_and_says_so(roles: Roles):
    context = roles.learner("optimization.total_optim_steps=1000000")
    with pytest.raises(PeerLost, match="simulator is gone"):
        run_until_step(context, 5, roles.kill_simulator)
    checkpoint = load_latest(RunDir(roles.folder))
    assert checkpoint.step >= 5
    assert checkpoint.parts["collector"] is None
    learning.main(roles.learner(f"optimization.total_optim_steps={checkpoint.step + 8}"))  # it can be gone on from
    assert summary_of(roles.folder)["optim_steps"] == checkpoint.step + 8


def test_a_learner_that_is_to_stop_does_not_wait_long_for_a_simulator_that_hangs(roles: Roles):
    """As it is where the watchdog ends the run because of that simulator."""
    context = roles.learner("optimization.total_optim_steps=1000000", "watchdog.grace=2")

    def hang_and_stop() -> None:
        roles.freeze_simulator()
        context._stop = True

    with pytest.raises(Stopped):
        run_until_step(context, 5, hang_and_stop)
    checkpoint = load_latest(RunDir(roles.folder))
    assert checkpoint.step >= 5
    assert checkpoint.parts["collector"] is None


def test_a_simulator_that_alone_is_asked_to_stop_has_the_learner_save(roles: Roles):
    """Slurm may send its signals to any process of a step."""
    context = roles.learner("optimization.total_optim_steps=1000000")
    with pytest.raises(Stopped):
        run_until_step(context, 5, roles.stop_simulator)
    assert "Stopped" in roles.simulator_ended()
    assert load_latest(RunDir(roles.folder)).parts["collector"]["simulator"] is not None


def test_a_simulator_whose_learner_fails_ends_too(roles: Roles, monkeypatch: pytest.MonkeyPatch):
    learn = Learner.learn

    def learn_with_a_nan(self: Learner) -> None:
        if self.step == 9:
            with torch.no_grad():
                next(self.agent.parameters()).fill_(torch.nan)
        learn(self)

    monkeypatch.setattr(Learner, "learn", learn_with_a_nan)
    with pytest.raises(NotFinite, match="up to 12"):
        learning.main(roles.learner())
    assert "PeerLost" in roles.simulator_ended()
    assert load_latest(RunDir(roles.folder)) is None


def test_an_unknown_task_is_the_simulators_word(roles: Roles):
    with pytest.raises(PeerLost):
        learning.main(roles.learner("env.name=Debug-Fly"))
    assert "ConfigError" in roles.simulator_ended()
    assert "Debug-Reach" in roles.simulator_ended()


def test_a_stop_during_the_last_evaluation_costs_the_evaluation_alone(roles: Roles):
    context = roles.learner()
    beat = context.beat

    def stop_when_evaluating(phase: Phase, **values: Any) -> None:
        beat(phase, **values)
        context._stop = context._stop or (phase is Phase.EVALUATING and values["optim_step"] == 20)

    context.beat = stop_when_evaluating  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        learning.main(context)
    assert load_latest(RunDir(roles.folder)).step == 20
    learning.main(roles.learner())
    assert summary_of(roles.folder)["optim_steps"] == 20


def test_without_the_replay_in_the_checkpoint_it_is_filled_again(roles: Roles):
    context = roles.learner("checkpoint.replay=false")
    with pytest.raises(Stopped):
        run_until_step(context, 10, lambda: setattr(context, "_stop", True))
    before = load_latest(RunDir(roles.folder))
    assert "replay" not in before.parts
    learning.main(roles.learner("checkpoint.replay=false"))
    lines = list(RunDir(roles.folder).read_metrics())
    assert [line["step"] for line in lines] == [4, 8, 12, 16, 20]
    assert lines[2]["frames"] >= before.parts["progress"]["frames"] + 128


def test_a_role_without_a_rendezvous_says_what_is_wrong(roles: Roles):
    context = roles.context("learner", None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="without a rendezvous"):
        learning.main(context)


# Devices


@pytest.mark.parametrize(
    ("gpus", "overrides", "devices"),
    [
        (0, [], ("cpu", "cpu")),
        (1, [], ("cuda:0", "cuda:0")),
        (2, [], ("cuda:0", "cuda:1")),
        (8, [], ("cuda:0", "cuda:1")),
        (2, ["device=cpu"], ("cpu", "cpu")),
        (2, ["device=cuda:1"], ("cuda:1", "cuda:1")),
        (2, ["pipeline.simulator_device=cuda:1"], ("cuda:1", "cuda:0")),
        (2, ["pipeline.learner_device=cuda"], ("cuda:0", "cuda:0")),
        (4, ["pipeline.simulator_device=cuda:3", "pipeline.learner_device=cuda:2"], ("cuda:3", "cuda:2")),
    ],
)
def test_each_role_has_a_gpu_of_its_own_where_there_are_two(
    monkeypatch: pytest.MonkeyPatch, gpus: int, overrides: list[str], devices: tuple[str, str]
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    config = debug_config("pipeline=async", *overrides)
    assert tuple(str(device) for device in choose_devices(config)) == devices


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pipeline.simulator_device=gpu", r"pipeline\.simulator_device: 'gpu' is no device"),
        ("pipeline.learner_device=cuda:4", r"pipeline\.learner_device: cuda:4 is not there: 2 GPUs"),
    ],
)
def test_a_device_that_is_not_there_is_the_jobs_fault(monkeypatch: pytest.MonkeyPatch, override: str, words: str):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=words):
        choose_devices(debug_config("pipeline=async", override))
