"""A Slurm of the tests' own on this machine: munged, slurmctld, two slurmd, and slurmdbd on a MariaDB where wanted.

Everything of it lies in one folder, listens on ports of its own and is ended by process id. Its nodes `gpu1` and `gpu2`
have eight GPUs each, which are character devices that swallow everything. The partition `high` takes nodes away from
`normal`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.services.sshd import free_port

NEEDED = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "mariadb-install-db")
START_TAKES = 60.0  # seconds
STOP_TAKES = 20.0  # seconds, then by force

SLURM_CONF = """\
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort={ctld_port}
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin={task}
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=6
InactiveLimit=0
KillWait=20
OverTimeLimit=0
MinJobAge={min_job_age}
MaxArraySize=2001
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
{gather}
AccountingStorageType={accounting}
AccountingStoragePass={folder}/munge.socket
AccountingStorageHost=localhost
AccountingStoragePort={dbd_port}
NodeName={nodes}[1-2] NodeHostname=localhost Port=[{node1_port},{node2_port}] CPUs=8 RealMemory=16000 Gres=gpu:h200:8
PartitionName=normal Nodes={nodes}[1-2] Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=high Nodes={nodes}[1-2] PriorityTier=10 MaxTime=INFINITE PreemptMode=OFF State=UP
"""
GRES_CONF = "NodeName={nodes}[1-2] Name=gpu Type=h200 File={folder}/gpu[0-7]\n"
CGROUP_CONF = "CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\n"
# Who keeps jobs to their memory: nobody, slurmd by looking every second, or the kernel. `task` and `gather` above.
MEMORY = {
    None: ("task/none", "JobAcctGatherType=jobacct_gather/none"),
    "linux": (
        "task/none",
        "JobAcctGatherType=jobacct_gather/linux\nJobAcctGatherFrequency=task=1\nJobAcctGatherParams=OverMemoryKill",
    ),
    "cgroup": ("task/cgroup", "JobAcctGatherType=jobacct_gather/none"),
}
CGROUPS = Path("/sys/fs/cgroup/memory")  # of version 1
DBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdPort={dbd_port}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""


@dataclass
class SlurmCluster:
    """One Slurm with all that is its own below one folder.

    Attributes:
        folder: Empty, and not too long a path: sockets lie there.
        accounting: With slurmdbd; `sacct` answers then.
        min_job_age: Seconds for which slurmctld remembers a job that has ended.
        memory: Who keeps jobs to their memory, of MEMORY.
        nodes: What its nodes are called, before their numbers. With cgroups no other cluster's may be called so.
    """

    folder: Path
    accounting: bool = True
    min_job_age: int = 300
    memory: str | None = None
    nodes: str = "gpu"
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def variables(self) -> Mapping[str, str]:
        """Of whoever types Slurm's commands."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *words: str, check: bool = True, timeout: float = 60) -> str:
        """Type a command; returns its output."""
        done = subprocess.run(words, env=os.environ | self.variables, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0 or not check, f"{words}: {done.stderr}"
        return done.stdout

    def start(self) -> None:
        """Start everything and wait until both nodes are idle."""
        self._configure()
        self._spawn("munged", "--foreground", "--force", *self._munge_options())
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
        if self.accounting:
            self._start_accounting()
        self._spawn("slurmctld", "-D", "-c", "-f", f"{self.folder}/slurm.conf")
        for number in (1, 2):
            self.start_node(f"{self.nodes}{number}")
        self._wait(lambda: self.run("sinfo", "-h", "-o", "%D %t", "-p", "normal", check=False) == "2 idle\n", "slurm")

    def start_node(self, node: str) -> None:
        self._spawn("slurmd", "-D", "-N", node, "-f", f"{self.folder}/slurm.conf", name=node)

    def kill_daemon(self, node: str) -> None:
        """End a node's slurmd at once; what it has started goes on."""
        process = self._running.pop(node)
        process.kill()
        process.wait()

    def kill_node(self, node: str) -> None:
        """What a node does that loses its power: slurmd and everything that it had started are gone at once."""
        self.kill_daemon(node)
        mark = f"SLURMD_NODENAME={node}\0".encode()
        below = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_of(entry, mark)]
        daemons = {parent for entry in below if (parent := _parent(entry)) and _name(parent) == "slurmstepd"}
        for entry in (*daemons, *below):  # its daemons first, which would still tell how their processes ended
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry.name), signal.SIGKILL)

    def stop(self) -> None:
        """End everything; what hangs is killed."""
        if "slurmctld" in self._running:
            self.run("scancel", "--user=root", check=False)
            deadline = time.monotonic() + STOP_TAKES
            while self.run("squeue", "-h", check=False) and time.monotonic() < deadline:
                time.sleep(0.1)
        for name in reversed([*self._running]):
            process = self._running.pop(name)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=STOP_TAKES)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self.memory == "cgroup":
            for folder in sorted(CGROUPS.glob(f"slurm_{self.nodes}[12]/**/"), reverse=True):
                folder.rmdir()

    def _is_of(self, process: Path, mark: bytes) -> bool:
        """Whether a process was started by a node of this cluster."""
        with contextlib.suppress(OSError):
            environment = (process / "environ").read_bytes()
            return mark in environment and f"SLURM_CONF={self.folder}/slurm.conf\0".encode() in environment
        return False

    def _configure(self) -> None:
        for name in ("state", f"spool-{self.nodes}1", f"spool-{self.nodes}2", "munge"):
            (self.folder / name).mkdir(mode=0o700)
        task, gather = MEMORY[self.memory]
        values = {
            "folder": self.folder,
            "min_job_age": self.min_job_age,
            "nodes": self.nodes,
            "task": task,
            "gather": gather,
            "accounting": "accounting_storage/slurmdbd" if self.accounting else "accounting_storage/none",
            **{f"{name}_port": free_port() for name in ("ctld", "dbd", "sql", "node1", "node2")},
        }
        self._sql_port = values["sql_port"]
        files = {"slurm.conf": SLURM_CONF, "gres.conf": GRES_CONF, "slurmdbd.conf": DBD_CONF}
        files["cgroup.conf"] = CGROUP_CONF
        for name, text in files.items():
            (self.folder / name).write_text(text.format(**values))
            (self.folder / name).chmod(0o600 if name == "slurmdbd.conf" else 0o644)
        for index in range(8):
            os.mknod(self.folder / f"gpu{index}", 0o666 | 0o020000, os.makedev(1, 3))
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)

    def _munge_options(self) -> list[str]:
        names = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid"}
        names |= {"log-file": "munged.log", "seed-file": "munge/seed"}
        return [f"--{option}={self.folder}/{name}" for option, name in names.items()]

    def _start_accounting(self) -> None:
        data = self.folder / "sql"
        words = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db"]
        with (self.folder / "mariadb-install.log").open("wb") as log:
            subprocess.run(words, check=True, stdout=log, stderr=log)
        self._spawn(
            "mariadbd",
            "--no-defaults",
            "--user=root",
            f"--datadir={data}",
            f"--socket={self.folder}/sql.socket",
            f"--pid-file={self.folder}/mariadbd.pid",
            f"--port={self._sql_port}",
            "--bind-address=127.0.0.1",
            "--skip-grant-tables",
            "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900",
        )
        self._wait(lambda: (self.folder / "mariadbd.pid").exists(), "mariadbd")
        self._spawn("slurmdbd", "-D")
        self._wait(lambda: self.run("sacctmgr", "-n", "list", "user", "root"), "slurmdbd")
        self.run("sacctmgr", "--immediate", "add", "cluster", "tests")

    def _spawn(self, *words: str, name: str | None = None) -> None:
        with (self.folder / f"{name or words[0]}.out").open("ab") as log:
            self._running[name or words[0]] = subprocess.Popen(
                words,
                env=os.environ | self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait(self, ready, what: str) -> None:
        deadline = time.monotonic() + START_TAKES
        while True:
            with contextlib.suppress(AssertionError):
                if ready():
                    return
            for name, process in self._running.items():
                assert process.poll() is None, f"{name} has ended: {(self.folder / f'{name}.out').read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"{what} does not answer"
            time.sleep(0.1)


def missing() -> list[str]:
    """Programs of it that are not installed."""
    return [name for name in NEEDED if shutil.which(name) is None]


def _parent(process: Path) -> Path | None:
    with contextlib.suppress(OSError):
        return process.with_name((process / "stat").read_text().rpartition(")")[2].split()[1])
    return None


def _name(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "comm").read_text().strip()
    return ""
