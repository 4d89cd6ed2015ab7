"""Folders of submissions on the host: what is to be copied, how far it has come, and which attempts it has to do.

A single run has a submission for each attempt. A sweep has one for each of its allocations, `SWEEP.NUMBER`, with the
attempts that are done there in its table. The next number is only taken by somebody who has read all tables before
it, and a folder appears together with its table: so no attempt stands in two of them.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.base import Launch, LaunchRequest, SweepPlace
from orchestrator.backends.steve.commands import (
    ALLOCATE,
    CODE,
    IN_TURN,
    SCRIPT,
    allocation_script,
    in_turn_script,
)
from orchestrator.backends.steve.turns import Turn, entry_of
from orchestrator.errors import BackendError, RefusedStart
from orchestrator.hosts import Host
from orchestrator.jobfile.quantities import duration_seconds
from orchestrator.profile import Assumptions
from orchestrator.remote.submission import BUNDLE, SECRETS, Submitted, submit_once
from orchestrator.sweep_files import unpack
from trainer.run_dir import RunDir

COMMAND_TIMEOUT = 60.0  # seconds
CANCELLED = "cancelled"  # file: its allocation is given back, or about to be
WITHDRAWN = "withdrawn"  # folder of files: attempts that are not to begin

# Lines: AGE PHASE of each submission, the age in seconds.
READ_PHASES = r"""
for folder in "$@"; do
  printf '%d %s\n' "$((EPOCHSECONDS - $(stat -c %Y -- "$folder/phase" 2>/dev/null || echo "$EPOCHSECONDS")))" \
    "$(head -n 1 -- "$folder/phase" 2>/dev/null || echo unknown)"
done
"""
# Lines: NUMBER open|over ENTRY… of each submission of a sweep.
READ_TABLES = r"""
shopt -s extglob nullglob
for folder in "$1".+([0-9]); do
  if test -e "$folder/$2"; then state=over; else state=open; fi
  printf '%s %s %s\n' "${folder##*.}" "$state" "$(tr '\n' ' ' <"$folder/runs")"
done
"""
WITHDRAW = r"""
cd -- "$1" && mkdir -p withdrawn && cd withdrawn && shift && touch -- "$@"
"""


@dataclass(frozen=True)
class Phase:
    """How far the process on the host has come."""

    name: str
    message: str
    age: float  # seconds


@dataclass(frozen=True)
class Table:
    """The attempts that an allocation of a sweep was given.

    Attributes:
        number: Of the submission, from 1.
        open: The allocation has not been given back.
        entries: `RUN.ATTEMPT`, in order.
    """

    number: int
    open: bool
    entries: tuple[str, ...]


@dataclass(frozen=True)
class Submissions:
    """All submissions on a host.

    Attributes:
        host: Where steve is typed.
        folder: That holds them.
        root: Folder of all runs in a container.
        assume: What is taken for granted of steve.
        keeps: What is in `root` outlives an allocation.
    """

    host: Host
    folder: Path
    root: Path
    assume: Assumptions
    keeps: bool

    def submit(self, name: str, launches: Sequence[Launch], secrets: Mapping[str, str]) -> Submitted:
        """Make a submission, or find the one of this name; attempts of several runs are of one sweep.

        Raises:
            BackendError: As of `submit_once`.
        """
        first, folder = launches[0].request, self.folder / name
        requests = [launch.request for launch in launches]
        with tempfile.TemporaryDirectory() as packed:
            bundle = None
            if self.host.run(("test", "-d", str(folder))).exit_code != 0:
                bundle = Path(packed)
                self._pack(requests, bundle)
                self._go_on(requests)
            inside = self.assume.folder
            return submit_once(
                self.host,
                folder,
                ("bash", f"./{ALLOCATE}"),
                {
                    ALLOCATE: allocation_script(
                        first, launches[0].commands, folder=inside, ready=duration_seconds(self.assume.ready)
                    )
                },
                [entry_of(request.run_id, request.attempt) for request in requests],
                {secret: secrets[secret] for secret in first.secrets},
                duration_seconds(self.assume.answer),
                bundle,
            )

    def share(self, launches: Sequence[Launch], place: SweepPlace, secrets: Mapping[str, str]) -> list[Turn]:
        """Give attempts of a sweep to its allocations, new ones where it may have more; none twice.

        Returns:
            Those that were given to one, by this call or before; the others have to wait until one is given back.

        Raises:
            BackendError: As of `submit_once`.
        """
        wanted = {entry_of(launch.request.run_id, launch.request.attempt): launch for launch in launches}
        jobs: dict[str, str] = {}  # by the name of a submission
        while True:
            tables = self._tables(place.sweep_id)
            taken = {entry for table in tables for entry in table.entries}
            missing = [entry for entry in wanted if entry not in taken]
            room = (place.max_parallel or 1) - sum(table.open for table in tables)
            if not missing or room <= 0:
                break
            # Where no step may run beside another one, a second run would hide what became of the first.
            part = missing[:: min(room, len(missing))] if self.assume.overlap else missing[:1]
            name = f"{place.sweep_id}.{1 + max((table.number for table in tables), default=0)}"
            try:
                jobs[name] = self.submit(name, [wanted[entry] for entry in part], secrets).job_id
            except RefusedStart:
                if taken.isdisjoint(wanted):
                    raise
                break  # fewer allocations will do
        turns = []
        for table in tables:
            name = f"{place.sweep_id}.{table.number}"
            for entry in (entry for entry in table.entries if entry in wanted):
                request = wanted[entry].request
                if name not in jobs:  # somebody else's, or of a submitter that has died
                    jobs[name] = self.submit(name, [wanted[entry]], secrets).job_id
                handle = f"{jobs[name]}:{request.attempt}:{request.run_id}"
                turns.append(Turn(handle, here_of(request), name, table.entries))
        return turns

    def _tables(self, sweep_id: str) -> list[Table]:
        """What the allocations of a sweep have been given so far, in order.

        Raises:
            BackendError: They cannot be read.
        """
        done = self._bash(READ_TABLES, str(self.folder / sweep_id), CANCELLED)
        lines = [line.split() for line in done.splitlines()]
        return sorted(
            (Table(int(number), state == "open", tuple(entries)) for number, state, *entries in lines),
            key=lambda table: table.number,
        )

    def phases(self, names: Sequence[str]) -> dict[str, Phase]:
        """How far submissions have come, by name.

        Raises:
            BackendError: They cannot be read.
        """
        if not names:
            return {}
        lines = self._bash(READ_PHASES, *(str(self.folder / name) for name in names)).splitlines()
        if len(lines) != len(names):
            raise BackendError("submissions cannot be read")
        phases = {}
        for name, line in zip(names, lines, strict=True):
            age, phase, message = [*line.split(" ", 2), "", ""][:3]
            phases[name] = Phase(phase, message, float(age))
        return phases

    def withdraw(self, name: str, entries: Iterable[str]) -> None:
        """Have attempts never begin that have not been copied yet."""
        self._bash(WITHDRAW, str(self.folder / name), *entries)

    def halt(self, name: str) -> None:
        """Have the process on the host go no further."""
        self.host.write(self.folder / name / CANCELLED, "")

    def clear(self, name: str) -> None:
        """Remove what was to be copied, and secrets."""
        self.host.run(("rm", "-rf", "--", *(str(self.folder / name / one) for one in (SECRETS, BUNDLE))))

    def _bash(self, script: str, *words: str) -> str:
        done = self.host.run(("bash", "-c", script, "submissions", *words), timeout=COMMAND_TIMEOUT)
        if done.exit_code != 0:
            raise BackendError(f"submissions: {done.stderr.strip() or f'exit code {done.exit_code}'}")
        return done.stdout

    def _pack(self, requests: Sequence[LaunchRequest], folder: Path) -> None:
        """Write what `steve cp` is going to copy."""
        uploads = dict.fromkeys(upload for request in requests for upload in request.uploads)
        unpack(upload.source for upload in uploads if not upload.complete)
        with tarfile.open(folder / CODE, "w:gz") as archive:
            for upload in uploads:
                name = str(upload.target.relative_to(self.root))
                if upload.complete:
                    archive.add(upload.source, name)
                else:
                    for path in self._to_go_on_from(upload.source):
                        archive.add(path, f"{name}/{path.relative_to(upload.source)}")
        if requests[0].place is None:
            [here] = (upload.source for upload in uploads if not upload.complete)
            shutil.copy2(here / SCRIPT, folder / SCRIPT)
        else:
            (folder / IN_TURN).write_text(in_turn_script(requests, self.assume.folder), encoding="utf-8")

    def _go_on(self, requests: Sequence[LaunchRequest]) -> None:
        """Have runs go on whose directories outlive their attempts: nothing is done where one is marked as done."""
        later = [RunDir(request.run_dir) for request in requests if self.keeps and request.attempt > 1]
        if later:
            self.host.run(("rm", "-f", "--", *(str(mark) for run in later for mark in (run.success, run.stop))))

    def _to_go_on_from(self, here: Path) -> list[Path]:
        """What an attempt gets of its run: script and job, and what was pulled before where that is not there."""
        run = RunDir(here)
        wanted = [run.script, run.job, run.plan, run.git]
        latest = run.checkpoints / "latest"
        if not self.keeps:
            wanted += [run.metrics]
            if latest.exists():
                wanted += [latest.resolve(), latest]
        return [path for path in wanted if path.exists()]


def here_of(request: LaunchRequest) -> Path:
    """The run directory on this machine."""
    return next(upload.source for upload in request.uploads if upload.target == request.run_dir)
