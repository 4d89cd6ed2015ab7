"""The settings of a site: what is the same for every job that runs there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, StrictBool

from orchestrator.jobfile.fields import Duration, Name, Partition, PathText, Target, Variable, VariableValue
from orchestrator.jobfile.model import Model, Mount


class Assumptions(Model):
    """What is taken for granted of steve, which documents three commands and no more; see docs/steve.md."""

    folder: PathText = Field("/root", description="Folder of the container that files are copied to")
    staging: PathText | None = Field(None, description="Folder of `host` for what is to be copied; needed with `host`")
    answer: Duration = Field("1m", description="How long a submission waits for `steve job` before it says so")
    ready: Duration = Field("30m", description="From a job's id to the first copy that succeeds; longer is lost")
    lost: Duration = Field("10m", description="No step answers for this long: the allocation is lost")
    pull: Duration = Field("10m", description="Between two pulls of checkpoints and metrics")
    overlap: StrictBool = Field(True, description="A step may run beside another one")


class Profile(Model):
    """One section of profiles.yaml, as it is for one backend."""

    name: Name
    python: PathText | None = Field(None, description="Interpreter of local runs; by default Longshore's own")
    environment: dict[Variable, VariableValue] = Field(
        default_factory=dict, description="Variables of every run; a job's own come on top"
    )
    mounts: tuple[Mount, ...] = Field((), description="Mounts of every run; a job's own come on top")
    cache: PathText | None = Field(None, description="Folder of the host for caches that outlive a run")
    partition: Partition | None = Field(None, description="Partition for jobs that name none")
    host: Target | None = Field(
        None, description="Where the cluster's commands are typed: [USER@]HOST[:PORT]; by default this machine"
    )
    jump: Target | None = Field(None, description="Host to go through on the way there; by default ~/.ssh/config's")
    key: PathText | None = Field(None, description="Private key to log in with, besides those of ~/.ssh/config")
    shared: PathText | None = Field(
        None, description="Folder that the host and every node see; runs are done there. By default $LONGSHORE_HOME"
    )
    container_runtime: Literal["pyxis", "apptainer", "none"] | None = Field(
        None, description="What starts containers on Slurm: pyxis (the default), apptainer or none"
    )
    engine: PathText | None = Field(
        None, description="Address of the container engine: unix:///PATH, ssh://USER@HOST; by default DOCKER_HOST's"
    )
    commands: dict[Name, tuple[PathText, ...]] = Field(
        default_factory=dict, description="What to type instead of a cluster's command, word by word"
    )
    assume: Assumptions = Field(default_factory=Assumptions, description="What is taken for granted of steve")


def load_profile(name: str, backend: str, paths: Sequence[Path]) -> Profile:
    """The profile of a name, for one backend.

    Args:
        name: A section of a profile file.
        backend: Whose subsection, where there is one, is laid over the section.
        paths: Profile files; the first that has the section counts, and those that do not exist count for nothing.

    Returns:
        The profile; `default` without any section is what the program itself comes with.

    Raises:
        SpecError: A file is wrong, or none has the section.
    """
    there = [path for path in paths if path.exists()]
    if name == "default" and not there:
        return Profile(name=name)
    from orchestrator.profile_file import read_profile  # what reads YAML takes a while to import

    return read_profile(name, backend, there, paths[0] if paths else Path("profiles.yaml"))
