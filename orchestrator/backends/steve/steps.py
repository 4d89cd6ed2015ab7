"""Commands inside a container of steve's: each is a `steve step`, with its answer told apart from what steve prints."""

from __future__ import annotations

import re
import shlex
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from orchestrator.errors import BackendError
from orchestrator.hosts import Completed, Host

STEP_TIMEOUT = 120.0  # seconds of a step that reads a few files
PULL_TIMEOUT = 3600.0  # seconds; a checkpoint may be gigabytes

_ANSWER = re.compile(r"^longshore-begin (\w+)\n(.*?)\n?^longshore-end (\d+)$", re.DOTALL | re.MULTILINE)

# A process that has ended and that nobody has waited for counts as gone.
ALIVE = (
    "if ! test -e {pid}; then a=unborn; "
    "elif grep -qs '^State:[[:space:]]*[^ZX[:space:]]' /proc/$(cat {pid})/status; then a=alive; else a=gone; fi; "
    'echo "longshore-begin $a"; '
)
# The newest checkpoint and all that is small; what is known already is left out.
PULL = r"""
shopt -s nullglob
cd -- "$1" || exit
latest=$(readlink checkpoints/latest)
files=(metrics.jsonl summary.json config.yaml interface.json tensorboard attempts/*/failure.json)
found=()
for file in "${files[@]}"; do
  if test -e "$file"; then found+=("$file"); fi
done
if test -n "$latest" && test "$latest" != "$2" && test "$2" != all; then
  found+=(checkpoints/latest "checkpoints/$latest")
fi
if ((${#found[@]})); then tar --ignore-failed-read -czf - -- "${found[@]}" 2>/dev/null | base64; fi
"""
ALL = "all"  # in place of a checkpoint's name: none is wanted
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
        life: What the last command has seen of that process.
    """

    host: Host
    command: Sequence[str]
    job_id: str
    pid: Path
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
        raise NotImplementedError("`pull` brings what there is")

    def write(self, path: Path, text: str, *, mode: int = 0o666) -> None:
        raise NotImplementedError("only `steve cp` copies into a container")

    def close(self) -> None:
        self.host.close()

    def pull(self, run_dir: Path, here: Path, scratch: Path, *, checkpoints: bool) -> None:
        """Bring a run's newest checkpoint, metrics and summary.

        Args:
            run_dir: In the container.
            here: The same run's folder on this machine.
            scratch: File of the host.
            checkpoints: Bring them too.

        Raises:
            BackendError: The container cannot be reached, or the archive is broken; what is here stays as it is.
        """
        latest = here / "checkpoints" / "latest"
        known = latest.resolve().name if latest.exists() else ""
        step = self._step(("bash", "-c", PULL, "pull", str(run_dir), known if checkpoints else ALL))
        done = self.host.run(("bash", "-c", KEEP, "keep", str(scratch), *step), timeout=PULL_TIMEOUT)
        try:
            if done.exit_code != 0:
                raise BackendError(f"steve step {self.job_id}: {done.stderr.strip() or 'cannot be pulled from'}")
            with tempfile.TemporaryDirectory() as folder:
                archive = Path(folder) / "pulled"
                self.host.get(scratch, archive)
                if archive.stat().st_size:
                    with tarfile.open(archive) as packed:
                        members = sorted(packed, key=lambda member: member.issym())  # `latest` after what it points to
                        packed.extractall(here, members, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise BackendError(f"what was pulled of {here.name} cannot be read: {error}") from error
        finally:
            self.host.run(("rm", "-f", "--", str(scratch)))

    def _step(self, argv: Sequence[str]) -> tuple[str, ...]:
        text = ALIVE.format(pid=shlex.quote(str(self.pid))) + shlex.join(argv)
        return (*self.command, "step", self.job_id, f'{text}; s=$?; echo; echo "longshore-end $s"')
