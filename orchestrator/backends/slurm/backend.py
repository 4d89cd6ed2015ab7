"""Slurm: sbatch, squeue, sacct and scancel, typed here or on a login node. A run is a job, a sweep a job array.

What finds an attempt again is the submission's folder on the host (`orchestrator.remote.submission`). Slurm itself
starts the next attempt of a run, under the same job id: after a preemption or the loss of a node by its own decision,
after the time limit or a failure because the batch script asks for it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from orchestrator.backends.base import BATCH_SCRIPT, Launch, LaunchRequest, Observation, Place, in_folder
from orchestrator.backends.slurm.batch_script import array_option, batch_script, folder_of
from orchestrator.backends.slurm.outcomes import STATES, outcome, read_markers
from orchestrator.backends.slurm.queries import (
    IN_TURN,
    NO_ACCOUNTING,
    QUEUE,
    SACCT,
    SQUEUE,
    Entry,
    job_numbers,
    parse_queue,
    parse_sacct,
    parse_squeue,
    waiting_message,
)
from orchestrator.errors import BackendError, UnclearStart, UsageError
from orchestrator.hosts import Completed, Host, LocalHost
from orchestrator.profile import Profile
from orchestrator.remote.mirror import fetch_logs, fetch_markers
from orchestrator.remote.submission import Submitted, adopt, submit_once
from orchestrator.states import RunState
from orchestrator.sweep_files import COMMON, plan_of, sweep_folder
from trainer.run_dir import RunDir

COMMAND_TIMEOUT = 60.0  # seconds; a busy slurmctld answers late
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two questions; they grow while nothing happens
END_TAKES = 90.0  # seconds for Slurm to end by force what it was told to cancel: KillWait, and the nodes' own time


@dataclass
class SlurmBackend:
    """One cluster. Handles are `JOB`, or `JOB_TASK` for a run of a sweep.

    Attributes:
        host: Where Slurm's commands are typed.
        shared: Folder of the host and of all nodes where runs are done; None for where they are here.
        runtime: What starts containers.
        commands: What is typed instead of a command of Slurm's.
    """

    name: ClassVar[str] = "slurm"
    queues: ClassVar[bool] = True

    host: Host = field(default_factory=LocalHost)
    shared: Path | None = None
    runtime: str = "pyxis"
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    _pause: float = field(default=SHORTEST_PAUSE, init=False)
    _asked: float | None = field(default=None, init=False)  # monotonic seconds
    _seen: dict[str, tuple[RunState, int | None]] = field(default_factory=dict, init=False)

    @classmethod
    def at(cls, profile: Profile) -> SlurmBackend:
        """The cluster of a profile.

        Raises:
            UsageError: The profile lacks something.
        """
        runtime = profile.container_runtime or "pyxis"
        if profile.shared is not None and not profile.shared.startswith("/"):
            raise UsageError(f"profile {profile.name}: shared: write an absolute path of the cluster")
        if profile.host is None:
            host: Host = LocalHost()
        elif profile.shared is None:
            raise UsageError(f"profile {profile.name}: host needs `shared`, a folder that it and every node see")
        else:
            from orchestrator.remote.ssh import SshHost

            host = SshHost(profile.host, profile.jump, profile.key)
        return cls(host, Path(profile.shared) if profile.shared else None, runtime, profile.commands)

    def plan(self, request: LaunchRequest) -> Launch:
        array = () if request.place is None else (array_option(range(request.place.size), request.place.max_parallel),)
        command = (*self._command("sbatch"), "--parsable", *array, str(folder_of(request) / BATCH_SCRIPT))
        return Launch(request, (command,), batch_script=batch_script(request, self.runtime))

    def again(self, launch: Launch, attempt: int, words: Sequence[str]) -> Launch:
        """The attempts that Slurm does not start itself: of a run that is resumed, as a job of its own."""
        request = replace(launch.request, attempt=attempt, place=None)
        folder = folder_of(request)
        own = (f"--job-name={request.run_id}", f"--output={folder}/slurm-%j.out")
        script = (str(folder / BATCH_SCRIPT), str(folder), str(attempt), *words)
        return replace(launch, request=request, commands=((*self._command("sbatch"), "--parsable", *own, *script),))

    def following(self, launch: Launch, handles: Sequence[str]) -> Launch:
        [command] = launch.commands
        head = len(self._command("sbatch"))
        wish = (f"--dependency=afterok:{':'.join(handles)}", "--kill-on-invalid-dep=yes")
        return replace(launch, commands=((*command[:head], *wish, *command[head:]),))

    def launch(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        return self.launch_sweep([launch], secrets)[launch.request.run_id]

    def launch_sweep(self, launches: Sequence[Launch], secrets: Mapping[str, str]) -> dict[str, str]:
        first = launches[0].request
        folder = folder_of(first)
        self._upload(folder, launches)
        places = {launch.request.place.index if launch.request.place else 0: launch.request for launch in launches}
        size = first.place.size if first.place else 1
        [command] = launches[0].commands
        if first.place:
            array = array_option(tuple(places), first.place.max_parallel)
            command = tuple(array if word.startswith("--array=") else word for word in command)
        submitted = self._submit(
            folder,
            command,
            _batch_script_of(first).read_text(encoding="utf-8"),
            [str(places[index].run_dir) if index in places else "-" for index in range(size)],
            {name: secrets[name] for name in first.secrets},
        )
        handles = {}
        for index, request in places.items():
            if submitted.runs[index : index + 1] != (str(request.run_dir),):
                raise BackendError(f"{request.run_id} is no part of job {submitted.job_id}; submit it with --again")
            handles[request.run_id] = f"{submitted.job_id}_{index}" if first.place else submitted.job_id
        self._ask_anew()
        return handles

    def poll(self, handles: Mapping[str, Path]) -> dict[str, Observation]:
        now = time.monotonic()
        if self._asked is not None and now < self._asked + self._pause:
            return {}
        entries, complete = self._entries(list(handles))
        ended_or_running = [h for h in handles if h not in entries or STATES.get(entries[h].state) != RunState.QUEUED]
        self._fetch_markers([handles[handle] for handle in ended_or_running])
        places = self._places([entries[handle] for handle in handles if handle in entries], len(handles))
        seen = {}
        for handle, run_dir in handles.items():
            place = places.get(handle.partition("_")[0], "")
            observation = self._observe(entries.get(handle), run_dir, complete, place)
            if observation is not None:
                seen[handle] = observation
        states = {handle: (observation.state, observation.attempt) for handle, observation in seen.items()}
        self._pause = SHORTEST_PAUSE if states != self._seen else min(LONGEST_PAUSE, 1.5 * self._pause)
        self._seen, self._asked = states, now
        return seen

    def cancel(self, handles: Mapping[str, Path], grace: timedelta) -> None:
        deadline = time.monotonic() + grace.total_seconds()
        names = list(handles)
        self._scancel(["--state=PENDING", *names])
        # The script alone is asked: it passes the signal on and waits for the checkpoint.
        self._scancel(["--state=RUNNING", "--signal=USR1", *names])
        pause = 0.1
        while (left := self._active(names)) and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2.0, 1.5 * pause)
        if left:
            self._scancel(left)
            until = time.monotonic() + END_TAKES
            while self._active(left) and time.monotonic() < until:
                time.sleep(pause)
        self._ask_anew()

    def fetch(self, run_dirs: Sequence[Path]) -> None:
        far = [run_dir for run_dir in run_dirs if self._is_far(run_dir)]
        self._fetch_markers(far)
        if far and self.shared is not None:
            fetch_logs(self.host, self.shared, far)

    def place(self, run_dir: Path) -> Place | None:
        return Place(self.host, self._there(run_dir)) if self._is_far(run_dir) else None

    def execute(self, handle: str, run_dir: Path, command: Sequence[str], variables: Mapping[str, str]) -> int:
        number = self._answer(self._run("squeue", "--noheader", f"--jobs={handle}", "--states=RUNNING", "--format=%A"))
        if not number.strip():
            raise BackendError(f"job {handle} does not run")
        step = ("--overlap", f"--jobid={number.strip()}", "--nodes=1", "--ntasks=1", "--quiet")
        words = in_folder(self._there(run_dir), command, variables)
        return self.host.stream((*self._command("srun"), *step, *words))

    def _observe(self, entry: Entry | None, run_dir: Path, complete: bool, place: str) -> Observation | None:
        if entry is not None and STATES.get(entry.state) is RunState.QUEUED:
            in_turn = entry.reason in IN_TURN
            return Observation(RunState.QUEUED, message=waiting_message(entry, place if in_turn else ""))
        markers = read_markers(RunDir(run_dir))
        if entry is not None and STATES.get(entry.state) in {RunState.SETTING_UP, RunState.RUNNING}:
            return Observation(RunState.RUNNING if markers.trained else RunState.SETTING_UP, attempt=markers.attempt)
        if entry is None and not complete and not (markers.success or markers.failure):
            return None
        return outcome(entry, markers)

    def _entries(self, handles: Sequence[str]) -> tuple[dict[str, Entry], bool]:
        """What Slurm knows of jobs, and whether it was asked for all that it may know."""
        entries = parse_squeue(self._answer(self._run(*SQUEUE)))
        if not (missing := [handle for handle in handles if handle not in entries]):
            return entries, True
        done = self._run(*SACCT, f"--jobs={','.join(job_numbers(missing))}")
        if done.exit_code == 0:
            known = parse_sacct(done.stdout).items()
            # Tasks of an array that are cancelled before their start vanish; accounting goes on calling them pending.
            gone = {job: Entry("CANCELLED") for job, entry in known if STATES.get(entry.state) is RunState.QUEUED}
            return {**dict(known), **gone, **entries}, True
        return entries, any(word in done.stderr for word in NO_ACCOUNTING[:1])

    def _places(self, entries: Sequence[Entry], asked: int) -> dict[str, str]:
        """Places in the queue by job, where a job waits for its turn; two commands are enough for one look."""
        if len(entries) < asked or not any(entry.reason in IN_TURN for entry in entries):
            return {}
        done = self._run(*QUEUE)
        return parse_queue(done.stdout) if done.exit_code == 0 else {}

    def _active(self, handles: Sequence[str]) -> list[str]:
        """Those of some jobs that wait or run."""
        entries = parse_squeue(self._answer(self._run(*SQUEUE)))
        going = {RunState.QUEUED, RunState.SETTING_UP, RunState.RUNNING}
        return [handle for handle in handles if handle in entries and STATES.get(entries[handle].state) in going]

    def _scancel(self, words: Sequence[str]) -> None:
        done = self._run("scancel", *words)
        if done.exit_code != 0 and "Invalid job id" not in done.stderr and "already completing" not in done.stderr:
            self._answer(done)

    def _submit(
        self, folder: Path, command: Sequence[str], script: str, runs: Sequence[str], secrets: Mapping[str, str]
    ) -> Submitted:
        try:
            return submit_once(self.host, folder, command, {BATCH_SCRIPT: script}, runs, secrets)
        except UnclearStart as error:
            name = folder.name.rpartition(".")[0]
            try:
                question = ("squeue", "--me", "--noheader", "--states=all", f"--name={name}", "--format=%F")
                ids = set(self._answer(self._run(*question)).split())
            except BackendError:  # the connection is gone
                raise error from None
            if len(ids) != 1:
                raise UnclearStart(
                    f"{name} may have been submitted or not ({error}), and Slurm lists no such job now; it is not "
                    f"submitted again. Submitting again looks again; if it never shows, remove {folder} there"
                ) from error
            adopt(self.host, folder, ids.pop())
            return submit_once(self.host, folder, command, {BATCH_SCRIPT: script}, runs, secrets)

    def _upload(self, folder: Path, launches: Sequence[Launch]) -> None:
        """Copy to the host what the runs need there, unless they were submitted already."""
        uploads = list(dict.fromkeys(upload for launch in launches for upload in launch.request.uploads))
        if not uploads or self.host.run(("test", "-d", str(folder))).exit_code == 0:
            return
        if (first := launches[0].request).attempt > 1:  # resumed: its directory there is newer than what is here
            uploads = [upload for upload in uploads if upload.complete]
            run_dir = RunDir(first.run_dir)
            self.host.run(("rm", "-f", "--", str(run_dir.success), str(run_dir.stop)))
        for upload in uploads:
            if upload.complete and self.host.run(("test", "-d", str(upload.target))).exit_code != 0:
                temporary = upload.target.with_name(f".{upload.target.name}.{time.time_ns():x}.tmp")
                self.host.put(upload.source, temporary)
                moved = self.host.run(("mv", "-T", "--", str(temporary), str(upload.target)))
                if moved.exit_code != 0:  # somebody else was faster
                    self.host.run(("rm", "-rf", "--", str(temporary)))
        root = folder.parents[1]
        if not (folders := [upload for upload in uploads if not upload.complete]):
            return
        with tempfile.TemporaryDirectory() as packed:  # in one go: each trip takes its time
            for upload in folders:
                shutil.copytree(upload.source, Path(packed) / upload.target.relative_to(root))
            self.host.put(Path(packed), root)

    def _fetch_markers(self, run_dirs: Sequence[Path]) -> None:
        far = [run_dir for run_dir in run_dirs if self._is_far(run_dir)]
        if far and self.shared is not None:
            fetch_markers(self.host, self.shared, far)

    def _is_far(self, run_dir: Path) -> bool:
        return self.shared is not None and self.shared != run_dir.parent

    def _there(self, run_dir: Path) -> Path:
        return run_dir if self.shared is None else self.shared / run_dir.name

    def _ask_anew(self) -> None:
        self._asked = None

    def _command(self, name: str) -> tuple[str, ...]:
        return tuple(self.commands.get(name, (name,)))

    def _run(self, name: str, *arguments: str) -> Completed:
        return self.host.run((*self._command(name), *arguments), timeout=COMMAND_TIMEOUT)

    def _answer(self, done: Completed) -> str:
        if done.exit_code != 0:
            reason = done.stderr.strip().splitlines() or [f"exit code {done.exit_code}"]
            raise BackendError(reason[-1])
        return done.stdout


def _batch_script_of(request: LaunchRequest) -> Path:
    """The batch script on this machine."""
    own = request.run_dir
    packed = sweep_folder(own.parent, plan_of(request.run_id))
    here = {upload.target: upload.source for upload in request.uploads}
    paths = (here.get(own, own) / BATCH_SCRIPT, here.get(packed, packed) / COMMON / BATCH_SCRIPT)
    return next((path for path in paths if path.exists()), paths[0])
