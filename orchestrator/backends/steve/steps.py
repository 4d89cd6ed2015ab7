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

_ANSWER = re.compile(r"^longshore-begin([\w ]*)\n(.*?)\n?^longshore-end (\d+)$", re.DOTALL | re.MULTILINE)

# What has become of attempts. A process that has ended and that nobody has waited for counts as gone; the lock is held
# by whoever begins the runs of a sweep, and where that one is no more, what waits is left to nobody.
LOOK = r"""
look() { # ROOT TURNS TIDY ENTRY...
  root=$1 turns=$2 tidy=$3 held= lives=
  shift 3
  if test -e "$turns/lock" && ! flock -n "$turns/lock" true; then held=yes; fi
  for entry in "$@"; do
    turn=$turns/$entry pid=$root/${entry%.*}/attempts/${entry##*.}/pid life=
    if test -n "$turns" && ! test -d "$turn"; then
      life=waiting
      if test -n "$tidy" && test -z "$held" && mkdir -p -- "$turns" && mkdir -- "$turn"; then
        life=stranded
        : >"$turn/stranded"
      fi
    fi
    for word in returned stranded withdrawn; do
      if test -n "$turns" && test -e "$turn/$word"; then life=$word; fi
    done
    if test -z "$life"; then
      life=gone
      if test -n "$turns" && test -e "$turn/done"; then :
      elif ! test -e "$pid" && test -z "$turns"; then life=unborn
      elif ! test -e "$pid"; then life=${held:+alive}
      elif grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$(cat "$pid")/status"; then life=alive
      fi
    fi
    lives="$lives ${life:-gone}"
  done
  echo "longshore-begin$lives"
}
"""
# Prints the entries that were asked to stop, or are never going to begin.
STOP = r"""
root=$1 turns=$2
shift 2
for entry in "$@"; do
  pid=$root/${entry%.*}/attempts/${entry##*.}/pid
  if test -n "$turns" && mkdir -p -- "$turns" && mkdir -- "$turns/$entry" 2>/dev/null; then
    : >"$turns/$entry/withdrawn"
  elif test -e "$turns/$entry/done" || ! kill -TERM "$(cat -- "$pid" 2>/dev/null)" 2>/dev/null; then
    continue
  fi
  printf '%s\n' "$entry"
done
"""
# The script, which would write a last word, and then every process of the run.
END = r"""
root=$1
shift
for entry in "$@"; do
  run=${entry%.*}
  kill -KILL "$(cat -- "$root/$run/attempts/${entry##*.}/pid")"
  for file in $(grep -lzxF -- "LONGSHORE_RUN_ID=$run" /proc/[0-9]*/environ 2>/dev/null); do
    kill -KILL "${file//[!0-9]/}"
  done
done
"""
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
    """What became of an attempt in its allocation."""

    WAITING = "waiting"  # for its turn
    RETURNED = "returned"  # too little time was left for it
    STRANDED = "stranded"  # nobody is there that would begin it
    WITHDRAWN = "withdrawn"  # it was cancelled before it began
    UNBORN = "unborn"  # the detached step has written nothing yet
    ALIVE = "alive"
    GONE = "gone"


@dataclass
class StepHost:
    """The container of an allocation, as a place where commands are typed. Files are not kept there this way.

    Attributes:
        host: Where steve is typed.
        command: `steve`, or what is typed instead.
        job_id: The allocation.
        root: Folder of all runs in the container.
        turns: Folder of the container that says what became of several runs; None where there is but one.
        entries: `RUN.ATTEMPT` of the attempts that are looked at with each command.
        scratch: File of the host that large answers go through.
        tidy: Nobody else is going to begin what waits, unless somebody is there who does.
        lives: What the last command has seen of each entry, in their order.
    """

    host: Host
    command: Sequence[str]
    job_id: str
    root: Path
    turns: Path | None
    entries: Sequence[str]
    scratch: Path
    tidy: bool = False
    lives: tuple[Life, ...] = field(default=(), init=False)

    def stop(self, entries: Sequence[str]) -> list[str]:
        """Ask attempts to save and stop, and keep those that wait from ever beginning; those that heard it.

        Raises:
            BackendError: The step did not run.
        """
        turns = "" if self.turns is None else str(self.turns)
        return self.run(("bash", "-c", STOP, "stop", str(self.root), turns, *entries)).stdout.split()

    def end(self, entries: Sequence[str]) -> None:
        """End attempts by force, and nothing else that is in the allocation.

        Raises:
            BackendError: The step did not run.
        """
        self.run(("bash", "-c", END, "end", str(self.root), *entries))

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
        self.lives = tuple(Life(word) for word in match[1].split())
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
        turns = "" if self.turns is None else str(self.turns)
        look = shlex.join(("look", str(self.root), turns, "yes" if self.tidy else "", *self.entries))
        text = f'{LOOK}{look}\n{shlex.join(argv)}; s=$?; echo; echo "longshore-end $s"'
        return (*self.command, "step", self.job_id, text)
