"""The coordinator: composes the config, starts the roles, watches them, and alone says what became of the attempt.

It imports no torch and no simulator, so that nothing it watches can hang or crash it. Signals are its to hand on: each
role is the leader of a process group of its own, and gets SIGTERM when it is to save and stop.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from trainer.config import compose, run_dir_override
from trainer.errors import ConfigError, describe
from trainer.exchange.rendezvous import Rendezvous
from trainer.idle_gpus import IdleGpus
from trainer.outcome import (
    RoleEnd,
    Stop,
    Verdict,
    judge,
    make_reserve,
    memory_kills,
    signal_name,
)
from trainer.role import STOP_SIGNALS, RoleConfig
from trainer.role_process import RoleProcess
from trainer.run_dir import (
    ATTEMPT_VARIABLE,
    DEADLINE_VARIABLE,
    RUN_DIR_VARIABLE,
    ExitCode,
    Failure,
    FailureClass,
    RunDir,
    write_atomically,
)
from trainer.watchdog import Watchdog

# The processes of each pipeline: name of the role -> module that is run. The last one reports: it writes status.json.
PIPELINES: Mapping[str, Mapping[str, str]] = {
    "sync": {"trainer": "trainer.pipelines.sync"},
    "async": {"simulator": "trainer.pipelines.simulation", "learner": "trainer.pipelines.learning"},
    "ray": {"learner": "trainer.pipelines.ray"},
    "acceptance": {"acceptance": "trainer.pipelines.acceptance"},
}

_Number = TypeVar("_Number", int, float)

USAGE = """\
usage: python -m trainer [KEY=VALUE ...]

Trains, or goes on from the last checkpoint, in the run directory: $LONGSHORE_RUN_DIR, else run_dir=FOLDER.
KEY=VALUE are Hydra overrides of these defaults:
"""


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds.

    Attributes:
        start: From the start of the roles to the first heartbeat of real work.
        stall: Between two heartbeats.
        grace: From asking a role to stop, or from its last word, to killing it.
        margin: Before the deadline, to save in.
        poll: Between two looks at the roles.
        repeat: A second request to stop counts as impatience only this long after the first. Signals come in twos:
            the shell forwards what the terminal or the scheduler has sent to both.
        idle_gpu: Without any use of a GPU, until it is told.
    """

    start: float
    stall: float
    grace: float
    margin: float
    poll: float = 0.1
    repeat: float = 1.0
    idle_gpu: float = 600.0

    @staticmethod
    def of(config: Mapping[str, Any], time_left: float) -> Limits:
        """Limits of a config; the margin takes no more than a tenth of the time left until the deadline."""
        watchdog = config["watchdog"]
        margin = max(0.0, min(watchdog["margin"], time_left / 10))
        return Limits(watchdog["start"], watchdog["stall"], watchdog["grace"], margin, idle_gpu=watchdog["idle_gpu"])


@dataclass
class Requests:
    """Signals that have arrived, with the monotonic time of each."""

    arrived: list[tuple[int, float]] = field(default_factory=list)

    def install(self) -> Requests:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and means it
                signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.arrived.append((number, time.monotonic()))

    def first(self) -> Stop | None:
        if not self.arrived:
            return None
        return Stop(FailureClass.PREEMPTED, f"asked to stop by {signal_name(self.arrived[0][0])}")

    def impatient(self, repeat: float) -> bool:
        """Somebody at a terminal wants it to end at once: Ctrl-C again, or Ctrl-C and then SIGTERM."""
        if not self.arrived:
            return False
        first, since = self.arrived[0]
        return any(
            when - since >= repeat
            and (number == signal.SIGINT or (number == signal.SIGTERM and first == signal.SIGINT))
            for number, when in self.arrived[1:]
        )


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """`python -m trainer`: compose, run the pipeline's roles, and return the exit status."""
    if any(word in ("-h", "--help") for word in arguments):
        import yaml

        print(USAGE + yaml.safe_dump(compose([]), sort_keys=False))
        return ExitCode.DONE
    requests = Requests().install()
    named = environment.get(RUN_DIR_VARIABLE) or run_dir_override(arguments)
    try:
        attempt = _number(environment, ATTEMPT_VARIABLE, int)
        deadline = _number(environment, DEADLINE_VARIABLE, float)
        config = compose(arguments)
        folder = environment.get(RUN_DIR_VARIABLE) or config["run_dir"]
        if not folder:
            raise ConfigError(f"run_dir: not set; write run_dir=FOLDER or set {RUN_DIR_VARIABLE}")
        run_dir = RunDir(Path(folder).absolute())
        config["run_dir"] = str(run_dir.root)
        commands = role_commands(str(config["pipeline"]["name"]))
    except ConfigError as error:
        say(str(error))
        if named:
            failure = Failure(FailureClass.SPEC, str(error), exit_code=ExitCode.USAGE)
            with suppress(OSError):
                RunDir(Path(named)).write_failure(failure)
        return ExitCode.USAGE
    attempt = attempt or max(run_dir.attempts(), default=0) + 1
    limits = Limits.of(config, float("inf") if deadline is None else deadline - time.time())
    return launch_roles(commands, config, run_dir, attempt, limits, deadline=deadline, requests=requests)


def role_commands(pipeline: str) -> dict[str, list[str]]:
    """Argv of each role of a pipeline; bare, because Kit reads `sys.argv`."""
    if pipeline not in PIPELINES:
        raise ConfigError(f"pipeline.name: {pipeline!r} is not one of {', '.join(PIPELINES)}")
    return {role: [sys.executable, "-m", module] for role, module in PIPELINES[pipeline].items()}


def launch_roles(
    commands: Mapping[str, Sequence[str]],
    config: dict[str, Any],
    run_dir: RunDir,
    attempt: int,
    limits: Limits,
    *,
    deadline: float | None = None,
    requests: Requests | None = None,
) -> int:
    """Run the roles to their end and write SUCCESS or failure.json.

    Args:
        commands: Name of each role -> its argv; the last one reports. Where there are several, they get a rendezvous.
        config: Resolved config, handed to each role and written to config.yaml.
        run_dir: Made when missing. Where it holds SUCCESS already, nothing is started.
        attempt: Number of this start of the run, from 1.
        limits: How long things may take.
        deadline: Unix time at which the attempt is ended from outside, if any.
        requests: Signals so far, where the caller has installed the handlers; they are installed here otherwise.

    Returns:
        An `ExitCode`.
    """
    if run_dir.success.exists():
        say(f"{run_dir.root}: already done; remove {run_dir.success.name} there to train on, or name another run_dir")
        return ExitCode.DONE
    requests = requests or Requests().install()
    reserve = run_dir.root / ".reserve"
    roles: list[RoleProcess] = []
    rendezvous: Rendezvous | None = None
    try:
        run_dir.failure.unlink(missing_ok=True)
        make_reserve(reserve)
        write_atomically(run_dir.config, _yaml(config))
        rendezvous = Rendezvous.make() if len(commands) > 1 else None
        reporter = list(commands)[-1]
        for name, command in commands.items():
            roles.append(_start(name, command, config, run_dir, attempt, name == reporter, rendezvous))
        with IdleGpus(limits.idle_gpu, say, os.environ.get("CUDA_VISIBLE_DEVICES")):
            verdict = _supervise(roles, run_dir, attempt, limits, deadline, requests)
    except OSError as error:
        for role in roles:
            role.kill()
        verdict = Verdict(ExitCode.CRASH, FailureClass.CRASH, describe(error, run_dir.root))
    finally:
        if rendezvous is not None:
            rendezvous.remove()
    return _conclude(verdict, run_dir, attempt, reserve)


def _start(
    name: str,
    command: Sequence[str],
    config: dict[str, Any],
    run_dir: RunDir,
    attempt: int,
    reports: bool,
    rendezvous: Rendezvous | None,
) -> RoleProcess:
    folder = run_dir.attempt(attempt)
    outcome, reserve = folder / f"outcome-{name}.json", folder / f".reserve-{name}"
    make_reserve(reserve)
    outcome.unlink(missing_ok=True)
    run_dir.heartbeat(attempt, name).unlink(missing_ok=True)
    role = RoleConfig(
        name,
        config,
        str(run_dir.root),
        attempt,
        outcome=str(outcome),
        reserve=str(reserve),
        coordinator=os.getpid(),
        reports=reports,
        rendezvous=rendezvous,
    )
    return RoleProcess(name, command, role, folder / f"role-{name}.json")


def _supervise(
    roles: Sequence[RoleProcess],
    run_dir: RunDir,
    attempt: int,
    limits: Limits,
    deadline: float | None,
    requests: Requests,
) -> Verdict:
    """Watch until all roles have ended; ask them to stop when there is reason to, and kill those that do not."""
    now = time.monotonic()
    names = [role.name for role in roles]
    watchdog = Watchdog(run_dir, attempt, names, start=limits.start, stall=limits.stall, now=now)
    over, stop_at = _deadlines(deadline, limits, now)
    memory_kills_before = memory_kills()
    running, ends = list(roles), list[RoleEnd]()
    stop: Stop | None = None
    kill_at: float | None = None
    while True:
        for role in [role for role in running if role.ended()]:
            running.remove(role)
            ends.append(role.end(memory_kills() > memory_kills_before))
        if not running:
            return judge(ends, stop)
        now = time.monotonic()
        working = [role.name for role in running if role.closing_since(now) is None]
        if stop is None:
            stop = requests.first() or _wish(run_dir) or _timeout(now, stop_at) or watchdog.overdue(now, working)
            if stop is not None:
                say(f"{stop.message}; waiting up to {limits.grace:g} s for the roles to save and end")
        if kill_at is None and (stop is not None or judge(ends, None).failure_class is not None):
            kill_at = min(now + limits.grace, max(over, now))
            for role in running:
                if stop is not None and stop.failure_class is FailureClass.STALLED:
                    role.print_stacks()
                role.ask_to_stop()
        impatient = requests.impatient(limits.repeat)
        for role in running:
            closing = role.closing_since(now)
            hangs = closing is not None and now - closing > limits.grace
            if not role.killed and (impatient or hangs or (kill_at is not None and now >= kill_at)):
                say(f"role {role.name} does not end: killed")
                role.kill()
        time.sleep(limits.poll)


def _deadlines(deadline: float | None, limits: Limits, now: float) -> tuple[float, float]:
    """Monotonic times of the deadline itself and of the request to stop before it."""
    if deadline is None:
        return float("inf"), float("inf")
    left = max(0.0, deadline - time.time())
    return now + left, now + left - limits.margin


def _wish(run_dir: RunDir) -> Stop | None:
    with suppress(FileNotFoundError):
        return Stop(FailureClass.STOPPED, " ".join(run_dir.stop.read_text(encoding="utf-8").split()))
    return None


def _timeout(now: float, stop_at: float) -> Stop | None:
    return Stop(FailureClass.TIMEOUT, "the time limit is reached") if now >= stop_at else None


def _conclude(verdict: Verdict, run_dir: RunDir, attempt: int, reserve: Path) -> int:
    """Write the marker of the attempt, in the reserved room if the disk is full, and give that room back."""
    try:
        try:
            _write_marker(verdict, run_dir, attempt)
        except OSError:
            reserve.unlink(missing_ok=True)
            _write_marker(verdict, run_dir, attempt)
    except OSError as error:
        say(f"could not write what became of the run: {describe(error, run_dir.root)}")
        return verdict.exit_code or ExitCode.CRASH
    finally:
        for file in [reserve, *run_dir.attempt(attempt).glob(".reserve-*")]:
            with suppress(OSError):
                file.unlink(missing_ok=True)
    if verdict.failure_class is not None:
        say(f"{verdict.failure_class}: {verdict.message}")
    return verdict.exit_code


def _write_marker(verdict: Verdict, run_dir: RunDir, attempt: int) -> None:
    if verdict.failure_class is None:
        run_dir.write_success(attempt)
    else:
        run_dir.write_failure(verdict.failure(attempt))


def _number(environment: Mapping[str, str], name: str, kind: type[_Number]) -> _Number | None:
    raw = environment.get(name)
    try:
        return kind(raw) if raw else None
    except ValueError:
        raise ConfigError(f"{name}: {raw!r} is no number") from None


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def say(message: str) -> None:
    """One line on stderr; a terminal that is gone or a log on a full disk must not end the coordinator."""
    with suppress(OSError):
        os.write(2, f"trainer: {message}\n".encode())
