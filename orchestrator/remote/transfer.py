"""A run's files brought here from where the run is: what is here is not brought again, half a file is gone on with.

Small files come together in one command; a large one is written beside its place, under a name that says which version
of the file it is of, and put there when it is whole.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePosixPath

from orchestrator.errors import BackendError
from orchestrator.hosts import Host

SMALL = 256 << 10  # bytes; what is larger comes alone
BATCH = 4 << 20  # bytes of small files in one command
LIST_TAKES = 120.0  # seconds

# Lines: TYPE MODE SIZE MTIME RUN/PATH, and behind a tabulator where a link points to.
LIST = r"""
cd -- "$1" || exit
shift
find "$@" -mindepth 1 \( -type f -o -type l \) ! -name $'*\n*' -printf '%y %m %s %T@ %p\t%l\n'
"""
# Base64, because what a host prints is text.
PACK = r"""
cd -- "$1" || exit
shift
tar --ignore-failed-read -czf - -- "$@" 2>/dev/null | base64
"""


class What(StrEnum):
    """Parts of a run directory."""

    CHECKPOINTS = "checkpoints"
    LATEST = "latest"
    LOGS = "logs"
    METRICS = "metrics"
    ALL = "all"


# Small, and needed to make anything of the rest.
ALWAYS = ("config.yaml", "interface.json", "status.json", "summary.json", "failure.json", "SUCCESS")
FOLDERS = {What.LOGS: ("attempts/",), What.METRICS: ("metrics.jsonl", "tensorboard/", "wandb/")}
LINKS = {What.CHECKPOINTS: ("latest", "best"), What.LATEST: ("latest",)}


@dataclass(frozen=True)
class File:
    """A file or a link of a run directory elsewhere.

    Attributes:
        run: Name of the run directory.
        path: Within the run directory.
        size: Bytes.
        changed: Unix seconds.
        mode: Permissions.
        link: Name of what a link points to, beside it; None for a file.
    """

    run: str
    path: str
    size: int
    changed: int
    mode: int
    link: str | None = None

    @property
    def name(self) -> str:
        """Its path in the folder of all runs."""
        return f"{self.run}/{self.path}"


@dataclass(frozen=True)
class Pulled:
    """What a pull has done."""

    files: int
    size: int  # bytes
    known: int  # files that were here already


def parse_listing(text: str) -> list[File]:
    """Files from what LIST prints. What would lie outside of the run directory is no part of a run.

    Raises:
        BackendError: A line has another shape.
    """
    found = []
    for line in text.splitlines():
        fields, _, link = line.partition("\t")
        try:
            kind, mode, size, changed, name = fields.split(" ", 4)
            run, _, path = name.partition("/")
            file = File(run, path, int(size), int(float(changed)), int(mode, 8), link if kind == "l" else None)
        except ValueError as error:
            raise BackendError(f"the list of a run's files cannot be read: {line!r}") from error
        hidden = any(part.startswith(".") for part in PurePosixPath(path).parts)  # `..`, and what is being written
        if not (hidden or name.startswith("/") or path.startswith("/") or "/" in link):
            found.append(file)
    return found


def chosen(files: Sequence[File], what: Collection[What]) -> list[File]:
    """Those of a run that belong to the parts that are asked for; of checkpoints the ones that a link points to."""
    links = {file.path.rpartition("/")[2]: file for file in files if file.link and file.path.startswith("checkpoints/")}
    wanted = [links[name] for part in what for name in LINKS.get(part, ()) if name in links]
    starts = [start for part in what for start in FOLDERS.get(part, ())]
    starts += [f"checkpoints/{link.link}/" for link in wanted]
    names = {*ALWAYS, *(link.path for link in wanted)}
    return [
        file
        for file in files
        if What.ALL in what or file.path in names or any(file.path.startswith(start) for start in starts)
    ]


def pull(
    host: Host,
    root: Path,
    run_dirs: Mapping[str, Path],
    what: Collection[What],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pulled:
    """Bring parts of run directories; small files of all of them come together.

    Args:
        host: Where they are.
        root: Folder of the host that holds them.
        run_dirs: The same on this machine, by name; what is in one and not there stays.
        what: Which parts.
        progress: Is told of the bytes that were brought, and of those that there are to bring.

    Raises:
        BackendError: The host cannot be reached, or a file changed meanwhile. What was brought stays; ask again.
    """
    done = host.run(("bash", "-c", LIST, "list", str(root), *run_dirs), timeout=LIST_TAKES)
    if done.exit_code != 0:
        raise BackendError(f"{root}: {(done.stderr.strip().splitlines() or ['cannot be listed'])[-1]}")
    listed = parse_listing(done.stdout)
    files = [file for run in run_dirs for file in chosen([one for one in listed if one.run == run], what)]
    missing = [file for file in files if file.link is None and not _is_here(file, run_dirs[file.run])]
    total, moved = sum(file.size for file in missing), 0
    for batch in batches([file for file in missing if file.size <= SMALL]):
        _bring_small(host, root, run_dirs, batch)
        moved += sum(file.size for file in batch)
        progress(moved, total)
    for file in missing:
        if file.size > SMALL:
            _bring_large(host, root, run_dirs[file.run], file, partial(_tell, progress, moved, total))
            moved += file.size
    for file in files:
        if file.link is not None:
            _point(run_dirs[file.run] / file.path, file.link)
    return Pulled(len(missing), total, sum(file.link is None for file in files) - len(missing))


def _tell(progress: Callable[[int, int], None], before: int, total: int, size: int) -> None:
    progress(before + size, total)


def batches(files: Iterable[File]) -> Iterator[list[File]]:
    """Files in groups of at most BATCH bytes."""
    batch: list[File] = []
    for file in files:
        if batch and sum(one.size for one in batch) + file.size > BATCH:
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _is_here(file: File, here: Path) -> bool:
    try:
        known = (here / file.path).stat()
    except OSError:
        return False
    return known.st_size == file.size and int(known.st_mtime) == file.changed


def _bring_small(host: Host, root: Path, run_dirs: Mapping[str, Path], batch: Sequence[File]) -> None:
    done = host.run(("bash", "-c", PACK, "pack", str(root), *(file.name for file in batch)), timeout=LIST_TAKES)
    try:
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(done.stdout)), mode="r:gz") as archive:
            packed = {member.name: member for member in archive}
            for file in batch:  # a file that has gone in the meantime is in the archive no more
                if file.name in packed and (content := archive.extractfile(packed[file.name])) is not None:
                    part = _part(run_dirs[file.run], file)
                    part.write_bytes(content.read())
                    changed = int(packed[file.name].mtime)
                    _put(part, run_dirs[file.run] / file.path, changed, file.mode)
    except (tarfile.TarError, binascii.Error, EOFError) as error:
        raise BackendError(f"{root}: what was packed there cannot be read: {error}") from error


def _bring_large(host: Host, root: Path, here: Path, file: File, progress: Callable[[int], None]) -> None:
    part = _part(here, file)
    host.append(root / file.name, part, progress)
    if part.stat().st_size != file.size:
        part.unlink()
        raise BackendError(f"{root / file.name} has changed while it was copied; pull again")
    _put(part, here / file.path, file.changed, file.mode)


def _part(here: Path, file: File) -> Path:
    """Where a file grows; what is there of another version of it goes."""
    target = here / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{file.size}-{file.changed}.part")
    for other in target.parent.glob(f".{_literal(target.name)}.*.part"):
        if other != part:
            other.unlink(missing_ok=True)
    part.touch(mode=0o600)
    return part


def _literal(name: str) -> str:
    """A name as a pattern that nothing else matches."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _put(part: Path, target: Path, changed: int, mode: int) -> None:
    part.chmod(mode)
    os.utime(part, (changed, changed))
    part.replace(target)


def _point(path: Path, link: str) -> None:
    """Make a link, as a whole, unless what it points to did not come."""
    if (path.parent / link).exists() and not (path.is_symlink() and os.readlink(path) == link):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(link)
        temporary.replace(path)
