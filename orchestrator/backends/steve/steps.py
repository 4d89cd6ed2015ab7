"""Commands inside a container of steve's: each is a `steve step`, with its answer told apart from what steve prints."""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from orchestrator.errors import BackendError
from orchestrator.hosts import Completed, Host, append_blocks

STEP_TIMEOUT = 120.0  # seconds of a step that reads a few files
PIECE_TIMEOUT = 900.0  # seconds
EXECUTE_TIMEOUT = 86400.0  # seconds of a command that somebody watches

_ANSWER = re.compile(r"^longshore-begin (\w+)\n(.*?)\n?^longshore-end (\d+)$", re.DOTALL | re.MULTILINE)

# A process that has ended and that nobody has waited for counts as gone.
ALIVE = (
    "if ! test -e {pid}; then a=unborn; "
    "elif grep -qs '^State:[[:space:]]*[^ZX[:space:]]' /proc/$(cat {pid})/status; then a=alive; else a=gone; fi; "
    'echo "longshore-begin $a"; '
)
PIECE = 'tail -c "+$(($2 + 1))" -- "$1" | head -c "$3" | base64'
PIECE_SIZE = 64 << 20  # bytes of a large file that come with one step: no more than that is lost with it
# On the host: gigabytes go through a file and not through the answer.
KEEP = r"""
set -o pipefail
file=$1
shift
"$@" </dev/null | sed -n '/^longshore-begin /,/^longshore-end /{//!p}' | base64 -d >"$file"
"""


class Life(StrEnum):
    """What became of the process that runs the script."""

    UNBORN = "unborn"
    ALIVE = "alive"
    GONE = "gone"


@dataclass
class StepHost:
    """The container of one attempt, as a place where commands are typed. Files are not kept there this way.

    Attributes:
        host: Where steve is typed.
        command: `steve`, or what is typed instead.
        job_id: The allocation.
        pid: File of the container that holds the script's process id.
        scratch: File of the host that large answers go through.
        life: What the last command has seen of that process.
    """

    host: Host
    command: Sequence[str]
    job_id: str
    pid: Path
    scratch: Path
    life: Life = field(default=Life.UNBORN, init=False)

    def run(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Completed:
        """Run a command in the container.

        Raises:
            BackendError: The step did not run, or did not end.
        """
        done = self.host.run(self._step(argv), timeout=timeout or STEP_TIMEOUT)
        match = _ANSWER.search(done.stdout)
        if match is None:
            reason = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.exit_code}"]
            raise BackendError(f"steve step {self.job_id}: {reason[-1]}")
        self.life = Life(match[1])
        return Completed(tuple(argv), int(match[3]), match[2], done.stderr)

    def put(self, source: Path, target: Path) -> None:
        raise NotImplementedError("only `steve cp` copies into a container")

    def get(self, source: Path, target: Path) -> None:
        raise NotImplementedError("`append` brings what there is")

    def write(self, path: Path, text: str, *, mode: int = 0o666) -> None:
        raise NotImplementedError("only `steve cp` copies into a container")

    def close(self) -> None:
        self.host.close()

    def append(self, source: Path, target: Path, progress: Callable[[int], None]) -> None:
        """As of every host, in pieces: each is a step, and goes through a file of the host."""
        while True:
            have = target.stat().st_size if target.exists() else 0
            step = self._step(("bash", "-c", PIECE, "piece", str(source), str(have), str(PIECE_SIZE)))
            try:
                done = self.host.run(("bash", "-c", KEEP, "keep", str(self.scratch), *step), timeout=PIECE_TIMEOUT)
                if done.exit_code != 0:
                    raise BackendError(f"steve step {self.job_id}: {done.stderr.strip() or f'{source} cannot be read'}")
                with tempfile.TemporaryDirectory() as folder:
                    piece = Path(folder) / "piece"
                    self.host.get(self.scratch, piece)
                    with piece.open("rb") as file, target.open("ab") as copy:
                        append_blocks(file.read, copy, progress)
                    if piece.stat().st_size < PIECE_SIZE:
                        return
            finally:
                self.host.run(("rm", "-f", "--", str(self.scratch)))

    def stream(self, argv: Sequence[str]) -> int:
        """As of every host, but for the output, which comes when the step has ended: steve's own lines are among it."""
        done = self.run(argv, timeout=EXECUTE_TIMEOUT)
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        return done.exit_code

    def _step(self, argv: Sequence[str]) -> tuple[str, ...]:
        text = ALIVE.format(pid=shlex.quote(str(self.pid))) + shlex.join(argv)
        return (*self.command, "step", self.job_id, f'{text}; s=$?; echo; echo "longshore-end $s"')
