"""steve: `job`, `cp` and `step`, typed here or on a login node. A run is an allocation of its own.

What finds an attempt again is the submission's folder on the host (`orchestrator.remote.submission`): a process of the
host's allocates, copies, sets up and starts, and writes down how far it has come. From then on everything is asked by
steps, one a look, and brought here. Nobody but whoever looks releases the allocation.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from orchestrator.backends.base import Launch, LaunchRequest, Observation, Place, in_folder
from orchestrator.backends.steve.commands import ALLOCATE, CODE, SCRIPT, allocation_script, steve_commands, with_words
from orchestrator.backends.steve.steps import Life, StepHost
from orchestrator.errors import BackendError, UsageError
from orchestrator.hosts import Host, LocalHost
from orchestrator.jobfile.quantities import duration_seconds
from orchestrator.profile import Assumptions, Profile
from orchestrator.remote.mirror import fetch_logs, fetch_markers
from orchestrator.remote.submission import submit_once
from orchestrator.remote.transfer import What, pull
from orchestrator.states import FailureClass, RunState
from trainer.run_dir import ExitCode, RunDir, write_atomically

COMMAND_TIMEOUT = 60.0  # seconds of `release` and `state`
RELEASE = ("scancel", "{job_id}")
BIRTH = 60  # seconds from a detached step's start to its first line
LOOK = 0.5  # seconds between two looks while a run is being cancelled

# Lines: AGE PHASE of each submission, the age in seconds.
READ_PHASES = r"""
for folder in "$@"; do
  printf '%d %s\n' "$((EPOCHSECONDS - $(stat -c %Y -- "$folder/phase" 2>/dev/null || echo "$EPOCHSECONDS")))" \
    "$(head -n 1 -- "$folder/phase" 2>/dev/null || echo unknown)"
done
"""
ASK_TO_STOP = 'kill -TERM "$(cat -- "$1")"'


# What `state` may say of an allocation that is over, in Slurm's words; any other one means that it stands.
ENDED: Mapping[str, FailureClass] = {
    "PREEMPTED": FailureClass.PREEMPTED,
    "TIMEOUT": FailureClass.TIMEOUT,
    "DEADLINE": FailureClass.TIMEOUT,
    "OUT_OF_MEMORY": FailureClass.OUT_OF_MEMORY,
    **dict.fromkeys(
        ("NODE_FAIL", "BOOT_FAIL", "CANCELLED", "COMPLETED", "FAILED", "REVOKED"), FailureClass.NODE_FAILURE
    ),
}


@dataclass(frozen=True)
class End:
    """How an allocation has ended."""

    failure_class: FailureClass
    reason: str


@dataclass(frozen=True)
class Phase:
    """How far the process on the host has come with an attempt."""

    name: str
    message: str
    age: float  # seconds


@dataclass
class SteveBackend:
    """One cluster behind steve. Handles are `JOB:ATTEMPT`, the attempt being the first one of the allocation.

    Attributes:
        host: Where steve is typed.
        assume: What is taken for granted of it.
        shared: Folder that outlives allocations, under one path in all of them; None where there is none.
        commands: What is typed instead of `steve`; `release` and `state`, with {job_id} in their words.
    """

    name: ClassVar[str] = "steve"
    queues: ClassVar[bool] = True

    host: Host = field(default_factory=LocalHost)
    assume: Assumptions = field(default_factory=Assumptions)
    shared: Path | None = None
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def at(cls, profile: Profile) -> SteveBackend:
        """The cluster of a profile.

        Raises:
            UsageError: The profile lacks something.
        """
        assume = profile.assume
        paths = {"shared": profile.shared, "assume.folder": assume.folder, "assume.staging": assume.staging}
        for key, path in paths.items():
            if path is not None and not path.startswith("/"):
                raise UsageError(f"profile {profile.name}: {key}: write an absolute path")
        host: Host = LocalHost()
        if profile.host is not None:
            if assume.staging is None:
                raise UsageError(f"profile {profile.name}: host needs assume.staging, a folder there")
            from orchestrator.remote.ssh import SshHost

            host = SshHost(profile.host, profile.jump, profile.key)
        return cls(host, assume, Path(profile.shared) if profile.shared else None, profile.commands)

    def plan(self, request: LaunchRequest) -> Launch:
        return Launch(request, steve_commands(request, self._steve, self.assume.folder))

    def again(self, launch: Launch, attempt: int, words: Sequence[str]) -> Launch:
        request = replace(launch.request, attempt=attempt)
        return replace(launch, request=request, commands=with_words(launch.commands, words))

    def launch(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        request = launch.request
        here = next(upload.source for upload in request.uploads if upload.target == request.run_dir)
        folder = self._folder(here, request.attempt)
        bundle = folder.with_name(f"{folder.name}.bundle")
        if self.host.run(("test", "-d", str(folder))).exit_code != 0:
            self._send(request, here, bundle)
        script = allocation_script(
            launch.commands,
            bundle=str(bundle),
            attempt=request.attempt,
            time_limit=request.time_limit,
            ready=duration_seconds(self.assume.ready),
        )
        submitted = submit_once(
            self.host,
            folder,
            ("bash", f"./{ALLOCATE}"),
            {ALLOCATE: script},
            [str(request.run_dir)],
            {name: secrets[name] for name in request.secrets},
            duration_seconds(self.assume.answer),
        )
        handle = f"{submitted.job_id}:{request.attempt}"
        write_atomically(_allocation(here, request.attempt), json.dumps({"handle": handle}))
        return handle

    def poll(self, handles: Mapping[str, Path]) -> dict[str, Observation]:
        open_ones = {handle: run_dir for handle, run_dir in handles.items() if not _is_released(handle, run_dir)}
        phases = self._phases(open_ones)
        seen = {}
        for handle, run_dir in handles.items():
            if handle in phases:
                observation = self._observe(handle, run_dir, phases[handle])
            else:
                observation = outcome(RunDir(run_dir), _attempt(handle), "released")
            if observation is not None:
                seen[handle] = observation
        return seen

    def cancel(self, handles: Mapping[str, Path], grace: timedelta) -> None:
        deadline = time.monotonic() + grace.total_seconds()
        asked: dict[str, StepHost] = {}
        for handle, run_dir in handles.items():
            if _is_released(handle, run_dir):
                continue
            self.host.write(self._folder(run_dir, _attempt(handle)) / "cancelled", "")
            steps = self._steps(handle, run_dir)
            with contextlib.suppress(BackendError):  # nothing runs there yet, or no second step may
                if steps.run(("bash", "-c", ASK_TO_STOP, "stop", str(steps.pid))).exit_code == 0:
                    asked[handle] = steps
        for handle, steps in asked.items():
            with contextlib.suppress(BackendError):
                while steps.run(("true",)).exit_code == 0 and steps.life is Life.ALIVE and time.monotonic() < deadline:
                    time.sleep(LOOK)
            with contextlib.suppress(BackendError):
                self._collect(steps, handles[handle], handle)
        problems = [self._release(handle, run_dir) for handle, run_dir in handles.items()]
        if any(problems):
            raise BackendError("; ".join(filter(None, problems)))

    def fetch(self, run_dirs: Sequence[Path]) -> None:
        for run_dir in run_dirs:
            for handle in _handles(run_dir)[-1:]:
                if _is_released(handle, run_dir):
                    continue
                with contextlib.suppress(BackendError):  # `poll` says when it is lost; what is here can be shown
                    steps = self._steps(handle, run_dir)
                    fetch_markers(steps, self._root, [run_dir])
                    fetch_logs(steps, self._root, [run_dir])

    def place(self, run_dir: Path) -> Place | None:
        folder = self._root / run_dir.name
        for handle in _handles(run_dir)[-1:]:
            if not _is_released(handle, run_dir):
                return Place(self._steps(handle, run_dir), folder)
        return Place(self.host, folder) if self.shared is not None else None

    def execute(self, handle: str, run_dir: Path, command: Sequence[str], variables: Mapping[str, str]) -> int:
        return self._steps(handle, run_dir).stream(in_folder(self._root / run_dir.name, command, variables))

    def _observe(self, handle: str, run_dir: Path, phase: Phase) -> Observation | None:
        number = _attempt(handle)
        if phase.name == "silent":
            return self._lost(handle, run_dir, "it never took a copy")
        if (end := self._end(handle)) is not None:
            return self._lost(handle, run_dir, end.reason, end.failure_class)
        if phase.name in {"unknown", "allocating", "waiting"}:
            return Observation(RunState.QUEUED, message=f"job {_job(handle)} waits for its allocation")
        if phase.name in {"copying", "setting-up", "starting"}:
            return Observation(RunState.SETTING_UP, attempt=number)
        steps = self._steps(handle, run_dir)
        try:
            fetch_markers(steps, self._root, [run_dir])
        except BackendError as error:
            return self._silence(handle, run_dir, phase, str(error))
        _silent(handle, run_dir).unlink(missing_ok=True)
        unborn = steps.life is Life.UNBORN and phase.age > BIRTH
        if phase.name == "failed" or steps.life is Life.GONE or unborn:
            with contextlib.suppress(BackendError):  # what was pulled before is what there is
                self._collect(steps, run_dir, handle)
            problem = self._release(handle, run_dir)
            seen = outcome(RunDir(run_dir), number, phase.message or "it ended without a word")
            return replace(seen, message="; ".join(filter(None, [seen.message, problem])))
        self._pull_sometimes(steps, run_dir, handle)
        attempt = max(RunDir(run_dir).attempts(), default=number)
        trained = RunDir(run_dir).has_trained(attempt)
        return Observation(RunState.RUNNING if trained else RunState.SETTING_UP, attempt=attempt)

    def _silence(self, handle: str, run_dir: Path, phase: Phase, reason: str) -> Observation | None:
        """No step answers: because no second one may run, because steve has a bad minute, or because all is over."""
        if phase.name == "failed":
            return self._lost(handle, run_dir, phase.message)
        mark = _silent(handle, run_dir)
        if not mark.exists():
            write_atomically(mark, reason)
        waited = time.time() - mark.stat().st_mtime
        if self.assume.overlap and waited > duration_seconds(self.assume.lost):
            return self._lost(handle, run_dir, reason)
        return None

    def _lost(
        self, handle: str, run_dir: Path, reason: str, failure_class: FailureClass = FailureClass.NODE_FAILURE
    ) -> Observation:
        """The allocation is gone, and with it what was not pulled."""
        self._release(handle, run_dir)
        message = f"allocation {_job(handle)} is lost: {reason}"
        return outcome(RunDir(run_dir), _attempt(handle), message, lost=failure_class)

    def _pull_sometimes(self, steps: StepHost, run_dir: Path, handle: str) -> None:
        mark = RunDir(run_dir).attempt(_attempt(handle)) / "pulled"
        if mark.exists() and time.time() - mark.stat().st_mtime < duration_seconds(self.assume.pull):
            return
        with contextlib.suppress(BackendError):  # the next look tries again
            self._collect(steps, run_dir, handle)
            write_atomically(mark, "", durable=False)

    def _collect(self, steps: StepHost, run_dir: Path, handle: str) -> None:
        """Bring all of a run that is worth keeping."""
        fetch_markers(steps, self._root, [run_dir])
        fetch_logs(steps, self._root, [run_dir])
        what = {What.METRICS} if self.shared is not None else {What.METRICS, What.LATEST}
        pull(steps, self._root / run_dir.name, run_dir, what)

    def _release(self, handle: str, run_dir: Path) -> str:
        """Give the allocation back, once; why it could not be, or nothing."""
        if _is_released(handle, run_dir):
            return ""
        problem, folder = "", self._folder(run_dir, _attempt(handle))
        self.host.write(folder / "cancelled", "")  # the process on the host goes no further
        try:
            done = self.host.run(self._words("release", handle, RELEASE), timeout=COMMAND_TIMEOUT)
        except BackendError as error:
            problem = str(error)
        else:
            if done.exit_code != 0:
                problem = done.stderr.strip() or f"exit code {done.exit_code}"
        self.host.run(("rm", "-rf", "--", str(folder / "secrets"), f"{folder}.bundle"))
        write_atomically(_released(handle, run_dir), problem)
        return f"allocation {_job(handle)} could not be released: {problem}" if problem else ""

    def _end(self, handle: str) -> End | None:
        """How the allocation has ended, by the profile's `state` command; None while it stands, or nobody can tell.

        A command that fails says nothing, but for Slurm's way of saying that there is no such job.
        """
        if "state" not in self.commands:
            return None
        done = self.host.run(self._words("state", handle, ()), timeout=COMMAND_TIMEOUT)
        if words := done.stdout.split():
            failure_class = ENDED.get(words[0].rstrip("+"))
            return None if failure_class is None else End(failure_class, f"steve's cluster says {words[0]}")
        if done.exit_code == 0 or "invalid job id" in done.stderr.lower():
            return End(FailureClass.NODE_FAILURE, "steve's cluster does not know it any more")
        return None

    def _phases(self, handles: Mapping[str, Path]) -> dict[str, Phase]:
        if not handles:
            return {}
        folders = [str(self._folder(run_dir, _attempt(handle))) for handle, run_dir in handles.items()]
        done = self.host.run(("bash", "-c", READ_PHASES, "phases", *folders), timeout=COMMAND_TIMEOUT)
        lines = done.stdout.splitlines()
        if len(lines) != len(folders):
            raise BackendError(f"submissions cannot be read: {done.stderr.strip()}")
        phases = {}
        for handle, line in zip(handles, lines, strict=True):
            age, name, message = [*line.split(" ", 2), "", ""][:3]
            phases[handle] = Phase(name, message, float(age))
        return phases

    def _send(self, request: LaunchRequest, here: Path, bundle: Path) -> None:
        """Put on the host what `steve cp` is going to copy."""
        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder)
            shutil.copy2(here / SCRIPT, packed / SCRIPT)
            with tarfile.open(packed / CODE, "w:gz") as archive:
                for upload in request.uploads:
                    name = str(upload.target.relative_to(self._root))
                    if upload.complete:
                        archive.add(upload.source, name)
                    else:
                        for path in _to_go_on_from(here, checkpoints=self.shared is None):
                            archive.add(path, f"{name}/{path.relative_to(here)}")
            self.host.put(packed, bundle)

    def _steps(self, handle: str, run_dir: Path) -> StepHost:
        pid = RunDir(self._root / run_dir.name).attempt(_attempt(handle)) / "pid"
        scratch = self._folder(run_dir, _attempt(handle)) / "pulled"
        return StepHost(self.host, self._steve, _job(handle), pid, scratch)

    def _folder(self, run_dir: Path, attempt: int) -> Path:
        """Of a submission, on the host."""
        root = run_dir.parent if self.assume.staging is None else Path(self.assume.staging)
        return root / "submissions" / f"{run_dir.name}.{attempt}"

    @property
    def _root(self) -> Path:
        """Folder of all runs in a container."""
        return self.shared or Path(self.assume.folder) / "longshore"

    @property
    def _steve(self) -> tuple[str, ...]:
        return tuple(self.commands.get("steve", ("steve",)))

    def _words(self, name: str, handle: str, default: Sequence[str]) -> tuple[str, ...]:
        return tuple(word.replace("{job_id}", _job(handle)) for word in self.commands.get(name, default))


def outcome(run_dir: RunDir, first: int, reason: str, *, lost: FailureClass | None = None) -> Observation:
    """What became of an attempt, by the files that were brought here.

    Args:
        run_dir: Here.
        first: Attempt that the allocation began with.
        reason: What to say where they say nothing.
        lost: Why the allocation is gone; that, and no failure that was followed by another attempt, is the reason.
    """
    attempt = max([first, *run_dir.attempts()])
    code, failure = run_dir.read_exit_code(attempt), None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        failure = run_dir.read_failure()
    if run_dir.success.exists():
        return Observation(RunState.SUCCEEDED, exit_code=code, attempt=attempt)
    if failure is not None and failure.attempt == attempt:
        return Observation(RunState.FAILED, failure.failure_class, code, failure.message, attempt)
    if code == ExitCode.RESUMABLE:
        message = "stopped from outside after saving a checkpoint"
        return Observation(RunState.FAILED, FailureClass.PREEMPTED, code, message, attempt)
    if lost is not None:
        return Observation(RunState.FAILED, lost, code, reason, attempt)
    failure_class = FailureClass.CRASH if run_dir.has_trained(attempt) else FailureClass.SETUP
    return Observation(RunState.FAILED, failure_class, code, reason, attempt)


def _to_go_on_from(here: Path, *, checkpoints: bool) -> list[Path]:
    """What the next attempt gets of a run: its job, and without a shared folder what was pulled before."""
    run = RunDir(here)
    wanted = [run.job, run.plan, run.git]
    latest = run.checkpoints / "latest"
    if checkpoints:
        wanted += [run.metrics]
        if latest.exists():
            wanted += [latest.resolve(), latest]
    return [path for path in wanted if path.exists()]


def _handles(run_dir: Path) -> list[str]:
    """Of the allocations that a run has had."""
    run = RunDir(run_dir)
    found = [_allocation(run_dir, number) for number in run.attempts()]
    return [json.loads(path.read_text(encoding="utf-8"))["handle"] for path in found if path.exists()]


def _job(handle: str) -> str:
    return handle.partition(":")[0]


def _attempt(handle: str) -> int:
    return int(handle.partition(":")[2])


def _allocation(run_dir: Path, attempt: int) -> Path:
    return RunDir(run_dir).attempt(attempt) / "allocation.json"


def _released(handle: str, run_dir: Path) -> Path:
    return RunDir(run_dir).attempt(_attempt(handle)) / "released"


def _is_released(handle: str, run_dir: Path) -> bool:
    return _released(handle, run_dir).exists()


def _silent(handle: str, run_dir: Path) -> Path:
    return RunDir(run_dir).attempt(_attempt(handle)) / "silent"
