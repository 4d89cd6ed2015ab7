"""Local: a run is a process of this machine, in a session of its own.

What finds an attempt again is `attempts/<n>/pid`. The started process writes it itself, in one atomic step, before it
does anything else: whoever dies between starting it and noting its handle, the attempt is neither lost nor started
twice.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from orchestrator.backends.base import Launch, LaunchRequest, Observation, in_folder
from orchestrator.backends.exit_codes import by_exit_code
from orchestrator.errors import BackendError
from orchestrator.gpus import ORDER, VISIBLE, Gpu, of_this_machine, visible_names
from orchestrator.hosts import Host, LocalHost
from orchestrator.processes import Entry, Process, end, members, read_table, send
from orchestrator.states import FailureClass, RunState
from trainer.run_dir import (
    ATTEMPT_VARIABLE,
    DEADLINE_VARIABLE,
    RUN_DIR_VARIABLE,
    RUN_ID_VARIABLE,
    Failure,
    RunDir,
)

LAUNCH_TIMEOUT = 60.0  # seconds that a starting process may take to claim its attempt
LEFTOVER_GRACE = 10.0  # seconds between TERM and KILL for what outlives its script: enough to save a checkpoint
NICE = 10  # what `nice` adds: commands that somebody waits for come first
FULL_DISK = 1 << 20  # bytes: with less free than this, nothing that says why a run ended could be written

# The claim is a hard link: it appears with its whole content, and only one of many can make it. A full disk or a
# missing right shows before it. Output goes to the caller until the claim is made, and to the log from then on.
# Where the kernel shares cores among sessions first (autogroups), it is the session that has to be nice; whoever is not
# root may say so ten times a second on the whole machine.
CLAIM = """
set -eu
trap '' HUP
run_dir=$1 attempt=$2 host=$3 nice=$4
shift 4
cd -- "$run_dir"
exec 3>>"$attempt/log.txt"
read -r boot </proc/sys/kernel/random/boot_id
read -r stat </proc/$$/stat
fields=(${stat##*) })
trap 'rm -f -- "$attempt/.pid.$$"' EXIT
printf '%s\\n' "$$:${fields[19]}:$boot:$host" >"$attempt/.pid.$$"
ln -T -- "$attempt/.pid.$$" "$attempt/pid"
rm -f -- "$attempt/.pid.$$"
exec >&3 2>&3 3>&-
trap 'echo 75 >"$attempt/exit_code"; exit 75' INT TERM USR1 # to stop before it has begun: nothing is lost
if [[ -w /proc/self/autogroup ]]; then
  for _ in {1..10}; do
    { echo "$nice" >/proc/self/autogroup; } 2>/dev/null && break
    sleep 0.1
  done
fi
exec nice -n "$nice" -- "$@"
"""


@dataclass(frozen=True)
class Markers:
    """What an attempt left behind, and what became of its machine."""

    success: bool = False
    failure: Failure | None = None
    exit_code: int | None = None
    trained: bool = False  # its trainer gave a sign of life
    restarted: bool = False  # the machine was, since the attempt began
    disk_full: bool = False


def outcome(markers: Markers) -> Observation:
    """What became of an attempt that has ended. Its exit code alone is never taken for success."""
    if markers.success:
        return Observation(RunState.SUCCEEDED, exit_code=markers.exit_code)
    if markers.failure is not None:
        failure = markers.failure
        code = failure.exit_code if markers.exit_code is None else markers.exit_code
        return Observation(RunState.FAILED, failure.failure_class, code, failure.message)
    if markers.exit_code is None and markers.restarted:
        return _failed(FailureClass.NODE_FAILURE, None, "the machine was restarted while the run was on it")
    if markers.disk_full:
        return _failed(FailureClass.CRASH, markers.exit_code, "the disk under the run directory is full")
    if markers.exit_code is None:
        return _failed(FailureClass.CRASH, None, "setup-and-run.sh was killed (SIGKILL) and could not say by whom")
    return by_exit_code(markers.exit_code, trained=markers.trained)


def _failed(failure_class: FailureClass, exit_code: int | None, message: str) -> Observation:
    return Observation(RunState.FAILED, failure_class, exit_code, message)


@dataclass(frozen=True)
class LocalBackend:
    """This machine. Handles are `pid:start:boot:host` of the process that runs the script.

    Attributes:
        host: Where the script is started; this machine, unless a test says otherwise.
        environment: Variables that runs inherit.
        leftover_grace: Seconds that processes get which outlive their script.
    """

    name: ClassVar[str] = "local"
    queues: ClassVar[bool] = False

    host: Host = field(default_factory=LocalHost)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    leftover_grace: float = LEFTOVER_GRACE

    def plan(self, request: LaunchRequest) -> Launch:
        return Launch(
            request,
            commands=(("bash", str(request.script)),),
            environment={
                RUN_ID_VARIABLE: request.run_id,
                RUN_DIR_VARIABLE: str(request.run_dir),
                ATTEMPT_VARIABLE: str(request.attempt),
            },
        )

    def again(self, launch: Launch, attempt: int, words: Sequence[str]) -> Launch:
        return replace(
            launch,
            request=replace(launch.request, attempt=attempt),
            commands=(("bash", str(launch.request.script), *words),),
            environment={**launch.environment, ATTEMPT_VARIABLE: str(attempt)},
        )

    def gpus(self, launch: Launch) -> tuple[Gpu, ...]:
        return of_this_machine(self.environment)

    def on_gpus(self, launch: Launch, names: Sequence[str]) -> Launch:
        leased = {VISIBLE: ",".join(visible_names(names, self.environment))}
        if VISIBLE not in self.environment:
            leased[ORDER] = "PCI_BUS_ID"  # as the driver numbers them
        return replace(launch, environment={**launch.environment, **leased})

    def launch(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        request = launch.request
        attempt = RunDir(request.run_dir).attempt(request.attempt)
        if (claimed := _read_claim(attempt)) is not None:
            return claimed
        environment = {**self.environment, **launch.environment, **{name: secrets[name] for name in request.secrets}}
        if request.time_limit is not None:
            environment[DEADLINE_VARIABLE] = f"{time.time() + request.time_limit:.0f}"
        [command] = launch.commands
        try:
            attempt.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BackendError(f"{attempt}: {error.strerror or error}") from error
        arguments = ("claim", str(request.run_dir), str(attempt), socket.gethostname(), str(NICE), *command)
        started = self.host.run(
            ("setsid", "--fork", "bash", "-c", CLAIM, *arguments), environment=environment, timeout=LAUNCH_TIMEOUT
        )
        if (claimed := _read_claim(attempt)) is None:
            reason = (started.stderr or started.stdout).strip() or f"setsid: exit code {started.exit_code}"
            raise BackendError(f"{request.run_id} could not be started: {reason.splitlines()[-1]}")
        return claimed

    def poll(self, handles: Mapping[str, Path]) -> dict[str, Observation]:
        found = {handle: self._observe(handle, RunDir(run_dir)) for handle, run_dir in handles.items()}
        return {handle: observation for handle, observation in found.items() if observation is not None}

    def cancel(self, handles: Mapping[str, Path], grace: timedelta) -> None:
        processes = {handle: Process.parse(handle) for handle in handles}
        deadline = time.monotonic() + grace.total_seconds()
        # The script alone is asked: it passes the signal on and waits for the checkpoint.
        leaders = [process for process in processes.values() if process.is_alive]
        for leader in leaders:
            send(Entry(leader.pid, parent=0, session=leader.pid, state="?", start=leader.start), signal.SIGTERM)
        while any(leader.is_alive for leader in leaders) and time.monotonic() < deadline:
            time.sleep(0.05)
        here = {
            process: (RunDir(handles[handle]), number)
            for handle, process in processes.items()
            if process.is_here and (number := _attempt_of(handle, RunDir(handles[handle]))) is not None
        }
        end(lambda: _belonging(here), grace=max(0.0, deadline - time.monotonic()))
        if elsewhere := sorted({process.host for process in processes.values() if not process.is_here}):
            raise BackendError(f"only the machine itself can end runs of {', '.join(elsewhere)}; cancel them there")

    def execute(self, handle: str, run_dir: Path, command: Sequence[str], variables: Mapping[str, str]) -> int:
        process = Process.parse(handle)
        if not process.is_here:
            raise BackendError(f"the run is on {process.host}; type this there")
        return self.host.stream(in_folder(run_dir, command, variables))

    def _observe(self, handle: str, run_dir: RunDir) -> Observation | None:
        process = Process.parse(handle)
        number = _attempt_of(handle, run_dir)
        if process.is_alive:
            trained = number is not None and run_dir.has_trained(number)
            return Observation(RunState.RUNNING if trained else RunState.SETTING_UP, attempt=number)
        if number is None:
            return _failed(FailureClass.LOST, None, f"{run_dir.root} is gone or no longer holds the attempt")
        if process.is_here:
            end(lambda: _belonging({process: (run_dir, number)}), grace=self.leftover_grace)
        markers = _read_markers(process, run_dir, number)
        if not process.is_here and markers.exit_code is None and not markers.success and markers.failure is None:
            return None  # it may well be running there
        return replace(outcome(markers), attempt=number)


def _read_claim(attempt: Path) -> str | None:
    """Handle of the process that has claimed an attempt."""
    try:
        return (attempt / "pid").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _attempt_of(handle: str, run_dir: RunDir) -> int | None:
    """Number of the attempt that a handle stands for."""
    return next((n for n in reversed(run_dir.attempts()) if _read_claim(run_dir.attempt(n)) == handle), None)


def _belonging(attempts: Mapping[Process, tuple[RunDir, int]]) -> Sequence[Entry]:
    """Living processes of attempts, the script included."""
    table = read_table((RUN_ID_VARIABLE, RUN_DIR_VARIABLE, ATTEMPT_VARIABLE))
    found: dict[int, Entry] = {}
    for leader, (run_dir, number) in attempts.items():
        marks = {
            RUN_ID_VARIABLE: run_dir.root.name,
            RUN_DIR_VARIABLE: str(run_dir.root),
            ATTEMPT_VARIABLE: str(number),
        }
        found |= {entry.pid: entry for entry in members(table, marks, leader, leader_alive=leader.is_alive)}
    return list(found.values())


def _read_markers(process: Process, run_dir: RunDir, number: int) -> Markers:
    failure = None
    try:
        failure = run_dir.read_failure()
    except (ValueError, KeyError, TypeError) as error:
        failure = Failure(FailureClass.CRASH, f"{run_dir.failure} cannot be read: {error}", attempt=number)
    return Markers(
        success=run_dir.success.exists(),
        failure=failure if failure is not None and failure.attempt == number else None,
        exit_code=run_dir.read_exit_code(number),
        trained=run_dir.has_trained(number),
        restarted=process.is_here and not process.is_of_this_boot,
        disk_full=shutil.disk_usage(run_dir.root).free < FULL_DISK,
    )
