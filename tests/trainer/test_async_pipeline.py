"""Both loops of the asynchronous pipeline: the learner here, the simulator in a forked process."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.waiting import PATIENCE
from trainer.checkpoint import load, load_latest
from trainer.config import compose
from trainer.errors import NotFinite, PeerLost, Stopped
from trainer.exchange.rendezvous import Rendezvous
from trainer.exchange.weights import WeightReader, WeightWriter
from trainer.learner import Learner
from trainer.pipelines import learning, simulation
from trainer.pipelines.balance import Balance
from trainer.role import RoleConfig, RoleContext
from trainer.run_dir import Phase, RunDir
from trainer.simulators.debug import SPEED, DebugSimulator

FORK = multiprocessing.get_context("fork")


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
    assert RunDir(roles.folder).read_summary()["frames"] > 128 + 2 * 20 * 32


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
    assert RunDir(roles.folder).read_summary()["optim_steps"] == checkpoint.step + 8


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
    assert RunDir(roles.folder).read_summary()["optim_steps"] == 20


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
