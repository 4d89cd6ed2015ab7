"""What is examined: a backend with its profile, the host where its commands are typed, and perhaps a job."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.docker.engine import address
from orchestrator.errors import BackendError
from orchestrator.hosts import Completed, Host, LocalHost
from orchestrator.profile import Profile

if TYPE_CHECKING:
    from orchestrator.plan import Plan
    from orchestrator.spec import JobSpec

PATIENCE = 20.0  # seconds for one command


@dataclass(frozen=True)
class Site:
    """Everything that a check may ask.

    Attributes:
        backend: Who would run jobs.
        profile: The settings of the site, for that backend.
        host: Where commands are typed; None where only a container engine answers, as at tcp://HOST.
        home: Folder of all runs on this machine.
        job: What is to be run there, if anything.
        plan: Of that job.
        environment: Variables of this process.
    """

    backend: str
    profile: Profile
    host: Host | None
    home: Path
    job: JobSpec | None = None
    plan: Plan | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def is_cluster(self) -> bool:
        return self.backend in {"slurm", "steve"}

    @property
    def is_here(self) -> bool:
        return isinstance(self.host, LocalHost)

    @property
    def runs(self) -> Path:
        """Folder of the host that what runs need is put into."""
        staging = self.profile.assume.staging if self.backend == "steve" else self.profile.shared
        return Path(staging) if self.is_cluster and staging else self.home

    @property
    def gpus(self) -> int | None:
        """GPUs that the job wants; None without a job."""
        return None if self.job is None else self.job.resources.gpus

    def command(self, name: str) -> tuple[str, ...]:
        """What is typed for a command, by the profile."""
        return tuple(self.profile.commands.get(name, (name,)))

    def run(self, argv: Sequence[str]) -> Completed:
        """Type a command on the host.

        Raises:
            BackendError: There is no such command, or it does not answer.
        """
        if self.host is None:
            raise BackendError("there is no host to type commands on")
        return self.host.run(argv, timeout=PATIENCE)

    def script(self, text: str, *words: str) -> Completed:
        """Run a shell script on the host."""
        return self.run(("bash", "-c", text, "doctor", *words))


def site_of(
    backend: str,
    profile: Profile,
    home: Path,
    job: JobSpec | None = None,
    plan: Plan | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Site:
    """The site of a backend and a profile; nothing is connected yet."""
    return Site(backend, profile, _host(backend, profile, environment), home, job, plan, environment)


def _host(backend: str, profile: Profile, environment: Mapping[str, str]) -> Host | None:
    target, jump, key = profile.host, profile.jump, profile.key
    if backend == "docker":
        scheme, _, rest = address(profile.engine, environment).partition("://")
        if scheme not in {"unix", "ssh"}:
            return None
        target, jump, key = (rest.rstrip("/") if scheme == "ssh" else None), None, None
    if target is None or backend == "local":
        return LocalHost()
    from orchestrator.remote.ssh import SshHost

    return SshHost(target, jump, key)
