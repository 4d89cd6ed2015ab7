"""What kind of file system a folder lies on, read off the kernel's table of mounts."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

MOUNTS = Path("/proc/self/mounts")

# Shared between machines: locks may be slow or missing there, and memory maps are not coherent.
NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "panfs"),
        *("pvfs2", "smb", "smb2", "smb3", "smbfs", "wekafs"),
    }
)
NETWORK_FUSE = frozenset(
    {
        *("beegfs", "ceph", "ceph-fuse", "gcsfuse", "glusterfs", "goofys", "juicefs", "moosefs", "mount-s3"),
        *("rclone", "s3fs", "smbnetfs", "sshfs"),
    }
)


def network_file_system(path: Path, mounts: str) -> str | None:
    """Type of the network file system that a path lies on, None on a disk of this machine.

    Args:
        path: An absolute path without symbolic links; it need not exist.
        mounts: Text in the form of /proc/mounts.
    """
    kind, best = "", -1
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = PurePosixPath(_unescape(fields[1]))
        # Of two mounts at the same point the later one hides the earlier.
        if path.is_relative_to(point) and len(point.parts) >= best:
            kind, best = fields[2], len(point.parts)
    on_network = kind in NETWORK_FILE_SYSTEMS or kind.removeprefix("fuse.") in NETWORK_FUSE
    return kind if on_network else None


def _unescape(field: str) -> str:
    """The kernel writes space, tab, newline and backslash as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
