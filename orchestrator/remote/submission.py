"""A submission that happens once, however often it is asked for and whenever the connection to the host is lost.

A submission is a folder on the host. Whoever puts it there, and a file system lets only one, has the submission done by
a process of the host's own, which outlives the connection and writes the job's id beside it. Everybody else, and
whoever comes back later, finds the id there. Where there is a folder and no id, nothing is submitted again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import BackendError, RefusedStart, UnclearStart
from orchestrator.hosts import Host

PATIENCE = 60  # seconds that the submitting command may take
AMBIGUOUS = 75
BUNDLE = "bundle"  # folder of a submission: what its command hands on
SECRETS = "secrets"  # file of a submission, NAME=VALUE words each ended by a NUL, and an empty one

# A folder appears with all that is in it: renaming one onto another that holds something fails.
CLAIM = r"""
set -u
folder=$1 prepared=$2 patience=$3 detached=$4
shift 4
if mv -T -- "$prepared" "$folder" 2>/dev/null; then
  setsid --fork bash -c "$detached" submit "$folder" "$@" </dev/null >/dev/null 2>&1
elif ! test -d "$folder"; then
  printf '%s cannot be made\n' "$folder" >&2
  exit 1
fi
rm -rf -- "$prepared"
for ((left = patience * 50; left > 0; left--)); do
  if test -e "$folder/id"; then
    exec cat -- "$folder/id" "$folder/runs"
  elif test -e "$folder/refused"; then
    cat -- "$folder/refused" >&2
    mv -T -- "$folder" "$folder.refused.$$" && rm -f -- "$folder.refused.$$/secrets"
    exit 1
  elif test -e "$folder/unclear"; then
    cat -- "$folder/unclear" >&2
    exit 75
  fi
  sleep 0.02
done
exit 75
"""
# The command may have been understood although its answer did not arrive.
DETACHED = r"""
cd -- "$1" || exit
shift
if "$@" >answer 2>errors && grep -oE '^[0-9]+' answer >id.tmp; then
  sync id.tmp && mv -- id.tmp id
elif grep -qiE 'timed out|zero bytes|unexpected message|connection reset' errors; then
  mv -- errors unclear
else
  mv -- errors refused
fi
"""


@dataclass(frozen=True)
class Submitted:
    """A job's id, and what its table of runs says: the lines with which it was submitted, by whomever."""

    job_id: str
    runs: tuple[str, ...]


def submit_once(
    host: Host,
    folder: Path,
    command: Sequence[str],
    files: Mapping[str, str],
    runs: Sequence[str],
    secret_values: Mapping[str, str],
    patience: int = PATIENCE,
    bundle: Path | None = None,
) -> Submitted:
    """Submit, or find out what became of the submission that there was.

    Args:
        host: Where `command` is typed.
        folder: The submission's own, on the host.
        command: Submits, and prints the job's id at the beginning of a line; run in `folder`.
        files: What the folder holds besides, text by name.
        runs: Lines of its file `runs`.
        secret_values: By name; they are in a file that only its owner can read.
        patience: Seconds to wait for the id; the command goes on all the same.
        bundle: Folder of this machine that the submission's folder gets, as `bundle`.

    Raises:
        UnclearStart: It may have been submitted or not, and is not submitted again.
        RefusedStart: It was refused; asking again is safe.
        BackendError: This call has submitted nothing; an earlier one may have.
    """
    prepared = folder.with_name(f"{folder.name}.{os.urandom(4).hex()}.tmp")
    words = "".join(f"{name}={value}\0" for name, value in secret_values.items())
    for name, text in {**files, "runs": "".join(f"{line}\n" for line in runs)}.items():
        host.write(prepared / name, text)
    if bundle is not None:
        host.put(bundle, prepared / BUNDLE)
    if words:
        host.write(prepared / SECRETS, f"{words}\0", mode=0o600)
    claim = ("bash", "-c", CLAIM, "claim", str(folder), str(prepared), str(patience), DETACHED)
    try:
        done = host.run((*claim, *command), timeout=patience + 30)
    except BackendError as error:
        raise UnclearStart(str(error)) from error
    if done.exit_code == AMBIGUOUS:
        raise UnclearStart(done.stderr.strip() or f"{command[0]} did not answer within {patience} s")
    if done.exit_code != 0:
        reason = done.stderr.strip().splitlines() or [f"exit code {done.exit_code}"]
        raise RefusedStart("; ".join(line.removeprefix(f"{command[0]}: error: ") for line in reason))
    job_id, *table = done.stdout.splitlines()
    return Submitted(job_id, tuple(table))


def adopt(host: Host, folder: Path, job_id: str) -> None:
    """Write down the id that a submission without one was found to have."""
    host.write(folder / "id", f"{job_id}\n")
