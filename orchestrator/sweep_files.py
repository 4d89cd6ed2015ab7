"""Files of the runs of a sweep, kept together until a run needs its own directory.

A folder for each of hundreds of runs takes a file system longer than everything else about their submission, and most
of them wait for hours. So one archive holds what differs between them, and one folder what they share. On this machine
`unpack` lays that into a run's directory; on a node templates/job.sbatch.j2 does the same.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from orchestrator.errors import LongshoreError
from trainer.run_dir import RunDir, write_atomically

ARCHIVE = "runs.tar"  # members RUN_ID/NAME
COMMON = "common"  # folder of the files that are the same for all of them


def sweep_folder(root: Path, plan_id: str) -> Path:
    """Where the files of the runs of one plan lie; `root` is the folder of all runs."""
    return root / "sweeps" / plan_id


def plan_of(run_id: str) -> str:
    """The plan that a run of a sweep was made by: what stands before its number."""
    return run_id.rpartition("-")[0]


def pack(folder: Path, runs: Mapping[str, Mapping[str, str]], common: Collection[str]) -> None:
    """Write the files of runs and wait until the disk has them.

    Args:
        folder: From `sweep_folder`.
        runs: Text by name by run id.
        common: Names of files that are the same for all runs.

    Raises:
        OSError: There is no room or no right to write, or the folder is there already; nothing is left of it.
    """
    first = next(iter(runs.values()))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    now = int(time.time())
    try:
        (temporary / COMMON).mkdir(parents=True)
        for name in first.keys() & set(common):
            write_atomically(temporary / COMMON / name, first[name])
        with (temporary / ARCHIVE).open("wb") as file:
            for run_id, files in runs.items():
                for name in files.keys() - set(common):
                    file.writelines(_member(f"{run_id}/{name}", files[name].encode(), now))
            file.write(bytes(2 * tarfile.BLOCKSIZE))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _member(name: str, content: bytes, mtime: int) -> Iterator[bytes]:
    """A file in an archive; `TarFile.addfile` makes everything anew for each, which takes four times as long."""
    encoded = name.encode()
    if len(encoded) > tarfile.LENGTH_NAME:
        member = tarfile.TarInfo(name)
        member.size, member.mtime = len(content), mtime
        yield member.tobuf(tarfile.GNU_FORMAT)
    else:
        header = bytearray(_nameless(mtime))
        header[: len(encoded)] = encoded
        header[124:135] = b"%011o" % len(content)
        header[148:156] = b" " * 8  # as which the sum counts in itself
        header[148:155] = b"%06o\0" % sum(header)
        yield bytes(header)
    yield content
    yield bytes(-len(content) % tarfile.BLOCKSIZE)


@lru_cache(maxsize=1)
def _nameless(mtime: int) -> bytes:
    """The header of a file without name and content."""
    member = tarfile.TarInfo()
    member.mtime = mtime
    return member.tobuf(tarfile.GNU_FORMAT)


def unpack(run_dirs: Iterable[Path]) -> None:
    """Lay the files of runs into their directories on this machine, as far as they are missing there.

    Directories of runs that are of no sweep stay as they are.

    Raises:
        LongshoreError: There is no room or no right to write, or the archive is damaged.
    """
    wanted: dict[Path, set[str]] = defaultdict(set)
    for run_dir in run_dirs:
        if not RunDir(run_dir).job.exists():
            wanted[sweep_folder(run_dir.parent, plan_of(run_dir.name))].add(run_dir.name)
    for folder, run_ids in wanted.items():
        if not (folder / ARCHIVE).exists():
            continue
        try:
            _unpack(folder, run_ids)
        except (OSError, tarfile.TarError) as error:
            raise LongshoreError(f"{folder}: files of runs cannot be unpacked: {error}") from error


def _unpack(folder: Path, run_ids: Collection[str]) -> None:
    root = folder.parents[1]
    with tarfile.open(folder / ARCHIVE) as archive:
        for member in archive:
            if member.name.partition("/")[0] in run_ids and (content := archive.extractfile(member)) is not None:
                _write(root / member.name, content.read().decode())
    for path in (folder / COMMON).iterdir():
        for run_id in run_ids:
            _write(root / run_id / path.name, path.read_text(encoding="utf-8"))


def discard(home: Path, plan_ids: Iterable[str]) -> None:
    """Remove the files of plans none of whose runs is left."""
    for plan_id in filter(None, plan_ids):  # a name without a number is of no sweep
        shutil.rmtree(sweep_folder(home, plan_id), ignore_errors=True)


def _write(path: Path, text: str) -> None:
    if not path.exists():  # a node may have been faster
        write_atomically(path, text, durable=False)
