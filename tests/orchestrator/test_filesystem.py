"""Where WAL is unsafe is read off the table of mounts."""

from pathlib import Path

import pytest

from orchestrator.filesystem import MOUNTS, network_file_system

TABLE = """\
/dev/sda1 / ext4 rw,relatime 0 0
server:/export /home nfs4 rw,vers=4.2 0 0
//nas/share /mnt/nas cifs rw 0 0
alice@box:/data /mnt/box fuse.sshfs rw 0 0
/dev/sdb1 /mnt/stick fuseblk rw 0 0
10.0.0.1@tcp:/scratch /scratch lustre rw 0 0
fast /gpfs/fast gpfs rw 0 0
beegfs_nodev /beegfs beegfs rw 0 0
tmpfs /home/alice/ram tmpfs rw 0 0
server:/a\\040b /mnt/a\\040b nfs rw 0 0
/dev/sdc1 /over ext4 rw 0 0
server:/over /over nfs rw 0 0
server:/under /under nfs rw 0 0
/dev/sdd1 /under ext4 rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/alice/runs", "nfs4"),
        ("/mnt/nas", "cifs"),
        ("/mnt/box/runs", "fuse.sshfs"),
        ("/scratch/x", "lustre"),
        ("/gpfs/fast/x", "gpfs"),
        ("/beegfs/x", "beegfs"),
        ("/mnt/a b/x", "nfs"),
        ("/over/x", "nfs"),
        ("/root/runs", None),
        ("/mnt/stick/runs", None),
        ("/homework", None),
        ("/home/alice/ram/runs", None),
        ("/under/x", None),
    ],
)
def test_a_path_lies_on_the_mount_that_is_nearest_and_latest(path: str, kind: str | None):
    assert network_file_system(Path(path), TABLE) == kind


def test_a_table_that_says_nothing_means_a_local_disk():
    assert network_file_system(Path("/home"), "") is None
    assert network_file_system(Path("/home"), "garbage\n\n") is None


def test_the_table_of_this_machine_can_be_read():
    assert network_file_system(Path("/proc"), MOUNTS.read_text()) is None
