"""Checkpoints: whole or not there. Written aside, hashed, made durable, renamed; verified before they are believed.

`checkpoints/step_<n>/` holds one file a part and manifest.json with each file's size and hash. `latest` points to the
newest and `best` to the one with the highest score. Whatever a crash or a full disk leaves behind is a temporary folder
that the next save sweeps away.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from trainer.errors import disk_full
from trainer.run_dir import RunDir

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
_TEMPORARY = ".tmp-"
_REPLACED = ".replaced-"  # an older save of the same step, until the new one has its name
_COMPRESSED = ".gz"
_CHUNK = 1 << 20
_PACKAGES = ("torch", "tensordict", "torchrl", "numpy")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been verified and loaded."""

    step: int  # optimiser steps done when it was saved
    parts: dict[str, Any]
    path: Path
    manifest: Mapping[str, Any]  # format, step, score, time, versions, config (its hash), files


class CorruptCheckpoint(Exception):
    """A checkpoint is not what its manifest says."""


def save(
    run_dir: RunDir,
    step: int,
    parts: Mapping[str, Any],
    keep: int,
    *,
    score: float | None = None,
    compress: Collection[str] = (),
) -> Path:
    """Write a checkpoint, point `latest` to it, and remove older ones but the best.

    Args:
        run_dir: Of the run.
        step: Optimiser steps done.
        parts: Name -> tensors, numbers, strings, None, and lists, tuples and dicts of them. One file each.
        keep: How many checkpoints stay, this one included; the best one stays beside them.
        score: How good the policy is, the more the better; None where nobody knows.
        compress: Names of the parts to compress.

    Returns:
        The checkpoint's folder.

    Raises:
        TypeError: A part holds what could not be loaded again.
        OSError: The disk is full or not writable; the checkpoints and `latest` are as they were.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; at least the checkpoint just written stays")
    for name, part in parts.items():
        _check_loadable(part, name)
    folder = run_dir.checkpoints
    folder.mkdir(parents=True, exist_ok=True)
    sweep(run_dir)
    temporary = folder / f"{_TEMPORARY}step_{step:08d}"
    final = folder / f"step_{step:08d}"
    try:
        temporary.mkdir()
        files = {}
        for name, part in parts.items():
            file = f"{name}.pt{_COMPRESSED if name in compress else ''}"
            files[file] = _write_part(temporary / file, part)
        _write_manifest(temporary / MANIFEST, run_dir, step, score, files)
        _sync_folder(temporary)
        if final.exists():  # before learning begins, or after the run went back behind a corrupt one
            final.rename(folder / f"{_REPLACED}{final.name}")
        temporary.rename(final)
        run_dir.point_checkpoint("latest", final.name)
        if score is not None and score >= _best_score(folder, step):
            run_dir.point_checkpoint("best", final.name)
        _sync_folder(folder)
    except OSError:
        sweep(run_dir)
        raise
    _prune(folder, step, keep)
    return final


def load_latest(run_dir: RunDir, map_location: Any = None) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None. Those that are not are logged and left out.

    For the process that writes the checkpoints, when it starts: what unfinished saves have left is cleared away.
    `latest` counts as the newest, so that pointing it to an older one takes the run back there.

    Args:
        run_dir: Of the run.
        map_location: Where tensors go, as in `torch.load`; by default where they were.
    """
    sweep(run_dir)
    for path in _candidates(run_dir.checkpoints):
        try:
            return load(path, map_location)
        except CorruptCheckpoint as error:
            log.warning("checkpoint %s is left out: %s", path.name, error)
    return None


def load(path: Path, map_location: Any = None, *, only: Collection[str] | None = None) -> Checkpoint:
    """The checkpoint in one folder.

    Args:
        path: The folder.
        map_location: Where tensors go, as in `torch.load`; by default where they were.
        only: Names of the parts to load; those of them that are not there are left out. By default all.

    Raises:
        CorruptCheckpoint: It is not what its manifest says.
    """
    manifest = verify(path)
    parts: dict[str, Any] = {}
    for file in manifest["files"]:
        name = file.split(".")[0]
        if only is not None and name not in only:
            continue
        try:
            parts[name] = _read_part(path / file, map_location)
        except OSError as error:
            raise CorruptCheckpoint(f"{file}: {error.strerror}") from error
    return Checkpoint(manifest["step"], parts, path, manifest)


def verify(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are exactly what it says.

    Raises:
        CorruptCheckpoint: A file is missing, cut short or changed.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version, files = manifest["format"], manifest["files"]
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in files.items()}
        int(manifest["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(f"{MANIFEST}: {type(error).__name__}") from error
    if version != FORMAT:
        raise CorruptCheckpoint(f"{MANIFEST}: format {version}, this version reads format {FORMAT}")
    for name, (size, digest) in expected.items():
        try:
            found = (path / name).stat().st_size
            if found != size:
                raise CorruptCheckpoint(f"{name}: {found} bytes, {size} were written")
            if _sha256(path / name) != digest:
                raise CorruptCheckpoint(f"{name}: its content has changed since it was written")
        except OSError as error:
            raise CorruptCheckpoint(f"{name}: {error.strerror}") from error
    return dict(manifest)


def sweep(run_dir: RunDir) -> None:
    """Remove what saves that never finished have left. For the one process that writes here."""
    for path in run_dir.checkpoints.glob(_REPLACED + "*"):
        original = path.with_name(path.name.removeprefix(_REPLACED))
        if original.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(original)
    for path in run_dir.checkpoints.glob(_TEMPORARY + "*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class _HashingFile:
    """A file that hashes what is written to it and keeps its error to itself.

    PyTorch's zip writer is C++ and ends the process on some exceptions out of `write`: after the first error the rest
    is thrown away, and the error raised once the writer is done.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None
        self._file = file

    def write(self, data: bytes | memoryview) -> int:
        length = len(data)
        self.sha256.update(data)
        self.size += length
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return length

    def flush(self) -> None:
        """`torch.save` asks for it; the file is flushed once, at its end."""


def _write_part(path: Path, part: Any) -> dict[str, Any]:
    import torch

    try:
        with path.open("wb") as file:
            sink = _HashingFile(file)
            target = cast("IO[bytes]", sink)  # of a file's methods these two are needed
            if path.suffix == _COMPRESSED:
                with gzip.GzipFile(fileobj=target, mode="wb", compresslevel=1, mtime=0) as packed:
                    torch.save(part, cast("IO[bytes]", packed))
            else:
                torch.save(part, target)
            if sink.error is not None:
                raise sink.error
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        full = disk_full(error)
        raise OSError(error.errno, error.strerror, str(path)) if full else error from None
    return {"size": sink.size, "sha256": sink.sha256.hexdigest()}


def _read_part(path: Path, map_location: Any) -> Any:
    import torch

    if path.suffix != _COMPRESSED:
        return torch.load(path, map_location=map_location, weights_only=True)
    with tempfile.TemporaryFile(dir=path.parent) as plain:  # it is read from its end, and may be larger than memory
        with gzip.open(path) as packed:
            shutil.copyfileobj(packed, plain, _CHUNK)
        plain.seek(0)
        return torch.load(plain, map_location=map_location, weights_only=True)


def _write_manifest(path: Path, run_dir: RunDir, step: int, score: float | None, files: Mapping[str, Any]) -> None:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    manifest = {
        "format": FORMAT,
        "step": step,
        "score": score,
        "time": time.time(),
        "versions": versions,
        "config": _sha256(run_dir.config) if run_dir.config.exists() else None,
        "files": files,
    }
    with path.open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _best_score(folder: Path, step: int) -> float:
    """Score of what `best` points to, if that was on the way to `step`."""
    try:
        manifest = json.loads((folder / "best" / MANIFEST).read_text(encoding="utf-8"))
        return float(manifest["score"]) if manifest["step"] <= step else -math.inf
    except (OSError, ValueError, KeyError, TypeError):
        return -math.inf


def _prune(folder: Path, step: int, keep: int) -> None:
    """Keep the newest up to `step`, and the best. Later ones are corrupt, or the run would not be here: they go too."""
    steps = _steps(folder)
    best = (folder / "best").resolve()
    stay = [number for number in steps if number <= step][:keep]
    for number, path in steps.items():
        if number not in stay and (path != best or number > step):
            # Renamed first: a folder that is half removed must not be taken for a checkpoint.
            doomed = path.with_name(_TEMPORARY + path.name)
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
    if not best.exists():
        (folder / "best").unlink(missing_ok=True)
    shutil.rmtree(folder / f"{_REPLACED}step_{step:08d}", ignore_errors=True)


def _candidates(folder: Path) -> Iterator[Path]:
    """What `latest` points to, then all others, newest first."""
    paths = list(_steps(folder).values())
    latest = (folder / "latest").resolve()
    if latest in paths:
        yield latest
    yield from (path for path in paths if path != latest)


def _steps(folder: Path) -> dict[int, Path]:
    """Checkpoint folders by step, newest first."""
    found = {}
    for path in folder.resolve().glob("step_*"):
        number = path.name.removeprefix("step_")
        if number.isdigit() and path.is_dir():
            found[int(number)] = path
    return dict(sorted(found.items(), reverse=True))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_loadable(value: Any, where: str) -> None:
    """`torch.load(weights_only=True)` refuses other types: better to hear of it now than when the run resumes."""
    import torch

    if value is None or isinstance(value, torch.Tensor | torch.Size | torch.dtype):
        return
    if type(value) in (bool, int, float, str, bytes):
        return
    if isinstance(value, Mapping) and type(value).__module__ in ("builtins", "collections"):
        for key, item in value.items():
            _check_loadable(key, f"{where}: the key {key!r}")
            _check_loadable(item, f"{where}.{key}")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _check_loadable(item, f"{where}.{index}")
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{where}: {kind} cannot be loaded again from a checkpoint; save tensors, numbers and strings")
