"""The code that a run ships: the trainer's files as they are at submit time, frozen under their digest."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orchestrator.errors import LongshoreError

PACKAGE = "trainer"  # name of the shipped package, whatever the folder that it comes from is called
DIFF_LIMIT = 256 * 1024  # characters of the recorded diff; git.json holds it once for every run

_FILE, _EXECUTABLE, _LINK = 0o100644, 0o100755, 0o120000  # as git records them
_CACHES = frozenset({"__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache"})


@dataclass(frozen=True)
class SnapshotFile:
    """One file of a snapshot.

    Attributes:
        path: Relative to the package's folder, with forward slashes.
        mode: 0o100644, 0o100755 for an executable file, 0o120000 for a symbolic link.
        sha256: Of the content; of the target's name for a link.
        size: Bytes of that content.
    """

    path: str
    mode: int
    sha256: str
    size: int


@dataclass(frozen=True)
class GitState:
    """Where the shipped files stand against their repository.

    Attributes:
        commit: Full hash, empty before the first commit.
        branch: Empty on a detached head.
        dirty: The shipped folder differs from the commit, untracked files counted.
        diff: That difference as a patch, untracked files included, cut at `DIFF_LIMIT` with a note.
    """

    commit: str
    branch: str
    dirty: bool
    diff: str


@dataclass(frozen=True)
class Snapshot:
    """What ships, by content. Equal digests are equal files.

    Attributes:
        source: Folder that the files were read from.
        files: Sorted by path.
        digest: SHA-256 over path, mode and content of all files.
        git: None where the folder is in no git work tree, as in an installed package.
        notes: What the submitter should know of how the files were found.
    """

    source: Path
    files: tuple[SnapshotFile, ...]
    digest: str
    git: GitState | None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def take_snapshot(source: Path) -> Snapshot:
    """Hash the files of `source` that ship.

    In a git work tree these are the tracked files and the untracked ones that are not ignored, as they are on disk;
    elsewhere all files but caches.

    Args:
        source: Folder of the trainer package.

    Raises:
        LongshoreError: There are no files, one cannot be read, or a link leads out of the folder.
    """
    source = source.resolve()
    if not source.is_dir():
        raise LongshoreError(f"{source}: no such folder; a snapshot needs the trainer package")
    listing, note = _list_with_git(source)
    # A package installed into an ignored environment inside somebody's repository is not that repository's code.
    in_git = bool(listing)
    paths = sorted(listing) if in_git else sorted(_walk(source))
    files = tuple(_describe(source, path) for path in paths)
    if not files:
        raise LongshoreError(f"{source}: no files to ship; is it the trainer package?")
    return Snapshot(
        source=source,
        files=files,
        digest=_digest(files),
        git=_git_state(source, listing) if in_git else None,
        notes=(note,) if note else (),
    )


def snapshot_folder(snapshot: Snapshot, home: Path) -> Path:
    """Where `store_snapshot` puts it; PYTHONPATH of the run."""
    return home / "snapshots" / snapshot.digest


def store_snapshot(snapshot: Snapshot, home: Path) -> Path:
    """Copy the files to `<home>/snapshots/<digest>/trainer/`, once however many runs and submitters need them.

    Args:
        snapshot: Files are copied from its source and hashed on the way.
        home: Folder of all runs.

    Returns:
        The folder that holds the package.

    Raises:
        LongshoreError: A file changed since the snapshot was taken; the stored copy is damaged or cannot be written.
    """
    target = snapshot_folder(snapshot, home)
    try:
        if not target.exists():
            _publish(snapshot, target)
        _verify(snapshot, target)
    except OSError as error:
        raise LongshoreError(f"{target}: the snapshot cannot be stored: {error}") from error
    return target


def _publish(snapshot: Snapshot, target: Path) -> None:
    """Make a complete copy under a temporary name and rename it; whoever comes second throws his copy away."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".storing-", dir=target.parent) as temporary:
        copy = Path(temporary) / target.name
        for file in snapshot.files:
            _copy(snapshot.source, copy / PACKAGE, file)
        try:
            copy.rename(target)
        except OSError:
            if not target.exists():
                raise


def _copy(source: Path, package: Path, file: SnapshotFile) -> None:
    destination = package / file.path
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        mode, content = _read(source / file.path)
    except FileNotFoundError:
        mode, content = 0, b""
    if (mode, hashlib.sha256(content).hexdigest()) != (file.mode, file.sha256):
        raise LongshoreError(f"{source / file.path}: changed while the snapshot was taken; submit again")
    if mode == _LINK:
        destination.symlink_to(os.fsdecode(content))
    else:
        destination.write_bytes(content)
        destination.chmod(stat.S_IMODE(mode))


def _verify(snapshot: Snapshot, target: Path) -> None:
    """A content-addressed folder that somebody edited would lie to every run that names it."""
    for file in snapshot.files:
        path = target / PACKAGE / file.path
        try:
            intact = hashlib.sha256(_read(path)[1]).hexdigest() == file.sha256
        except FileNotFoundError:
            intact = False
        if not intact:
            raise LongshoreError(f"{path}: differs from what was stored; remove {target} and submit again")


def _describe(source: Path, path: str) -> SnapshotFile:
    full = source / path
    try:
        mode, content = _read(full)
    except OSError as error:
        raise LongshoreError(f"{full}: cannot be read: {error.strerror}") from error
    if mode == _LINK:
        goal = os.fsdecode(content)
        if os.path.isabs(goal) or not (full.parent / goal).resolve().is_relative_to(source):
            raise LongshoreError(f"{full}: links to {goal}, outside of {source}; only files inside can ship")
    return SnapshotFile(path, mode, hashlib.sha256(content).hexdigest(), len(content))


def _read(path: Path) -> tuple[int, bytes]:
    """Mode as git has it, and content; of a link the name that it points to."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return _LINK, os.fsencode(os.readlink(path))
    if not stat.S_ISREG(mode):
        kind = "a git repository of its own" if (path / ".git").exists() else "neither a file nor a link"
        raise LongshoreError(f"{path}: {kind} cannot ship; move it out or ignore it")
    return _EXECUTABLE if mode & stat.S_IXUSR else _FILE, path.read_bytes()


def _digest(files: Iterable[SnapshotFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(b"%o %s %s\0" % (file.mode, file.sha256.encode(), os.fsencode(file.path)))
    return digest.hexdigest()


def _walk(source: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(source):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = [name for name in folders if name not in _CACHES and name not in links]
        for name in [*names, *links]:
            if not name.endswith(".pyc"):
                yield PurePosixPath(os.path.relpath(os.path.join(folder, name), source)).as_posix()


def _list_with_git(source: Path) -> tuple[dict[str, bool], str]:
    """Files that git knows or would add, each with whether it is tracked, and a note where git could not be used."""
    # -t marks untracked files with "?"; a file in the middle of a merge is listed once a side, the dict keeps one.
    answer = _git(source, "ls-files", "-t", "--cached", "--others", "--exclude-standard", "-z", "--", ".")
    if answer is None:
        return {}, ""
    if answer.returncode != 0:
        reason = answer.stderr.strip().splitlines()[0] if answer.stderr.strip() else "no reason given"
        if "not a git repository" in reason:
            return {}, ""
        return {}, f"git does not read {source} ({reason}): all its files ship, and no commit is recorded"
    entries = [(entry[2:].rstrip("/"), entry[0] != "?") for entry in answer.stdout.split("\0") if entry]
    return {path: tracked for path, tracked in entries if os.path.lexists(source / path)}, ""


def _git_state(source: Path, listing: Mapping[str, bool]) -> GitState:
    status = _git(
        source, "status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules", "-z", "--", "."
    )
    if status is None or status.returncode != 0:
        raise LongshoreError(f"{source}: git status failed: {status.stderr.strip() if status else 'git is gone'}")
    lines = status.stdout.split("\0")
    header = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
    commit = header["branch.oid"] if header["branch.oid"] != "(initial)" else ""
    branch = header["branch.head"] if header["branch.head"] != "(detached)" else ""
    changed = any(line and not line.startswith("# ") for line in lines)
    diff = _tracked_diff(source) if changed and commit else ""
    added = sorted(path for path, tracked in listing.items() if not (tracked and commit))
    diff += "".join(_addition(source, path) for path in added)
    if len(diff) > DIFF_LIMIT:
        diff = diff[:DIFF_LIMIT] + f"\n[cut here: the whole diff has {len(diff)} characters]\n"
    return GitState(commit=commit, branch=branch, dirty=changed or bool(added), diff=diff)


def _tracked_diff(source: Path) -> str:
    answer = _git(
        source,
        *("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv", "--ignore-submodules", "--relative"),
        *(f"--src-prefix=a/{PACKAGE}/", f"--dst-prefix=b/{PACKAGE}/", "--", "."),
    )
    if answer is None or answer.returncode != 0:
        raise LongshoreError(f"{source}: git diff failed: {answer.stderr.strip() if answer else 'git is gone'}")
    return answer.stdout.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _addition(source: Path, path: str) -> str:
    """An untracked file as a patch that adds it: git itself would take a process for each."""
    mode, content = _read(source / path)
    name = f"{PACKAGE}/{path}"
    header = f"diff --git a/{name} b/{name}\nnew file mode {mode:o}\n"
    if not content:
        return header
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return f"{header}Binary files /dev/null and b/{name} differ\n"
    lines = text.split("\n")
    ends = lines[-1] == ""
    lines = lines[:-1] if ends else lines
    body = "".join(f"+{line}\n" for line in lines) + ("" if ends else "\\ No newline at end of file\n")
    return f"{header}--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{body}"


def _git(source: Path, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """Answer of git about the folder, or None where there is no git."""
    # Variables such as GIT_DIR, set while a hook runs, would turn the question to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        return subprocess.run(
            ["git", "-C", os.fspath(source), *arguments],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        return None
