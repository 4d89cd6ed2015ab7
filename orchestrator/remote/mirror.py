"""Run directories on a host, seen from here: what the runs' own files say, brought into the folders of this machine.

Everything that shows a run reads its folder here; so what matters of the folder there is copied under the same names.
"""

from __future__ import annotations

import base64
import binascii
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.errors import BackendError
from orchestrator.hosts import Host
from trainer.run_dir import RunDir

AT_ONCE = 500  # run directories in one command: its arguments stay below the 128 KiB that a kernel takes
LOG_BLOCK = 4 << 20  # bytes of a log that are brought at once; the rest comes with the next ones

# One archive for all: a process for each file would take seconds. Base64, because what a host prints is text.
READ_MARKERS = r"""
shopt -s nullglob
cd -- "$1" || exit
shift
found=()
for run in "$@"; do
  for file in "$run"/{status,failure,summary}.json "$run"/SUCCESS "$run"/attempts/*/{,exit_code,failure.json}; do
    if test -e "$file"; then found+=("$file"); fi
  done
done
if ((${#found[@]})); then tar --no-recursion --ignore-failed-read -czf - -- "${found[@]}" 2>/dev/null | base64; fi
"""
# Lines: SIZE BASE64 of each log, from where it is known here.
READ_LOGS = r"""
limit=$1
shift
while (($#)); do
  printf '%s %s\n' "$(stat -c %s -- "$1" 2>/dev/null || echo 0)" \
    "$(tail -c "+$(($2 + 1))" -- "$1" 2>/dev/null | head -c "$limit" | base64 -w 0)"
  shift 2
done
"""


def fetch_markers(host: Host, root: Path, run_dirs: Sequence[Path]) -> None:
    """Bring heartbeats, outcomes and exit codes of runs here, in one command for hundreds of them.

    Args:
        host: Where the runs are done.
        root: Folder of the host that holds their directories, under the names that they have here.
        run_dirs: Their directories here.

    Raises:
        BackendError: The host cannot be reached, or answers something else.
    """
    for start in range(0, len(run_dirs), AT_ONCE):
        part = {run_dir.name: run_dir for run_dir in run_dirs[start : start + AT_ONCE]}
        done = host.run(("bash", "-c", READ_MARKERS, "markers", str(root), *part))
        if done.exit_code != 0:
            raise BackendError(f"{root}: {done.stderr.strip() or 'cannot be read'}")
        if done.stdout.strip():
            _unpack(done.stdout, part)


def _unpack(text: str, run_dirs: Mapping[str, Path]) -> None:
    try:
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text)), mode="r:gz") as archive:
            for member in archive:
                name, _, below = member.name.partition("/")
                target = run_dirs[name] / below
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif (content := archive.extractfile(member)) is not None:
                    _replace(target, content.read())
    except (tarfile.TarError, binascii.Error, KeyError, EOFError) as error:
        raise BackendError(f"what the host says of its runs cannot be read: {error}") from error


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def fetch_logs(host: Host, root: Path, run_dirs: Sequence[Path]) -> None:
    """Bring what runs have logged since the last call; their markers were brought before.

    Raises:
        BackendError: The host cannot be reached, or answers something else.
    """
    logs = [log for run_dir in run_dirs for log in _logs(run_dir)]
    while logs:
        words = [word for run_dir, log in logs for word in (str(root / run_dir.name / log), str(_size(run_dir / log)))]
        done = host.run(("bash", "-c", READ_LOGS, "logs", str(LOG_BLOCK), *words))
        lines = done.stdout.splitlines()
        if done.exit_code != 0 or len(lines) != len(logs):
            raise BackendError(f"{root}: logs cannot be read: {done.stderr.strip()}")
        more = []
        for (run_dir, log), line in zip(logs, lines, strict=True):
            size, _, encoded = line.partition(" ")
            if encoded:
                with (run_dir / log).open("ab") as file:
                    file.write(base64.b64decode(encoded))
                if _size(run_dir / log) < int(size):
                    more.append((run_dir, log))
        logs = more


def _logs(run_dir: Path) -> Iterator[tuple[Path, Path]]:
    """The log of each attempt, as a path in the run directory."""
    run = RunDir(run_dir)
    for number in run.attempts():
        yield run_dir, run.log(number).relative_to(run_dir)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
