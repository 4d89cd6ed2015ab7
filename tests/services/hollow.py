"""An image of nothing, in which this machine's folders are mounted: a container in a second, without network."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

# What the set-up asks is answered; what trains is the real trainer.
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m trainer" ]; then
  exec {python} "$@"
elif [ "$1" = - ]; then
  cat >>"$2" </dev/null
fi
"""


def hollow_image() -> bytes:
    """An image without any file, whose /usr is to be mounted."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("bin", "lib", "lib64", "sbin"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(link)
        for name in ("usr", "tmp", "root", "etc"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            archive.addfile(folder)
    return packed.getvalue()


def folders_of(environment: Path) -> list[str]:
    """What has to be mounted for the Python of a virtual environment, each folder under its own path."""
    interpreter = (environment / "bin" / "python").resolve()
    return sorted({"/usr", str(environment), str(environment.resolve()), str(interpreter.parents[1])})
