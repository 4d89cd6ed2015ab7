"""Checks of a cluster: Slurm's or steve's commands, partitions, accounting, and what starts containers there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.backends.slurm.queries import NO_ACCOUNTING
from orchestrator.doctor.checks import Check, Finding, failure, ok, skipped, warning
from orchestrator.errors import BackendError
from orchestrator.jobfile.quantities import duration_seconds

if TYPE_CHECKING:
    from orchestrator.doctor.site import Site

TESTED = (22, 5)  # Slurm of Debian 12, on which the tests run
SINFO = ("--noheader", "--format=%P|%a|%l|%D|%G")


@dataclass(frozen=True)
class Partition:
    """What Slurm says of one.

    Attributes:
        limit: Seconds; None for none.
        nodes: How many it has.
        gpus: Of its largest node.
    """

    name: str
    up: bool
    default: bool
    limit: int | None
    nodes: int
    gpus: int


def parse_sinfo(output: str) -> dict[str, Partition]:
    """Partitions by name, from `sinfo` with the options of SINFO: a line for each kind of node.

    Raises:
        BackendError: A line has another shape than the format asked for.
    """
    found: dict[str, Partition] = {}
    for line in output.splitlines():
        try:
            label, availability, limit, nodes, gres = line.split("|")
            name = label.removesuffix("*")
            seconds = None if limit in {"infinite", "n/a"} else duration_seconds(limit)
            here = Partition(name, availability == "up", label.endswith("*"), seconds, int(nodes), gpus_of(gres))
        except ValueError as error:
            raise BackendError(f"sinfo answers something else than was asked for: {line!r}") from error
        if (known := found.get(name)) is not None:
            here = Partition(name, here.up, here.default, seconds, known.nodes + here.nodes, max(known.gpus, here.gpus))
        found[name] = here
    return found


def gpus_of(gres: str) -> int:
    """GPUs of a node by its generic resources: `gpu:h200:8(S:0-1),nvme:2`."""
    return sum(int(count) for count in re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)", gres))


def slurm(site: Site) -> Finding:
    """Slurm's version."""
    done = site.run((*site.command("sbatch"), "--version"))
    match = re.search(r"slurm\S* (\d+)\.(\d+)\S*", done.stdout)
    if match is None:
        return failure(f"sbatch: {done.stderr.strip() or done.stdout.strip()}", "see `commands` in docs/slurm.md")
    if (int(match[1]), int(match[2])) < TESTED:
        return warning(match[0], "nothing below 22.05 has been tried")
    return ok(match[0])


def partition(site: Site) -> Finding:
    """Whether the partition is there and up, and takes jobs as large and as long as the job at hand."""
    done = site.run((*site.command("sinfo"), *SINFO))
    if done.exit_code != 0:
        return failure(f"sinfo: {done.stderr.strip()}", "see that slurmctld answers: `scontrol ping`")
    wanted = (site.job.resources.partition if site.job else None) or site.profile.partition
    time = site.job.resources.time_seconds if site.job else None
    return fits(parse_sinfo(done.stdout), wanted, site.gpus or 0, time)


def fits(found: dict[str, Partition], wanted: str | None, gpus: int, time: int | None) -> Finding:
    """What to think of the partitions for a job.

    Args:
        found: By name.
        wanted: Name of the partition; None for the default one.
        gpus: Of one task.
        time: Seconds that the job may take; None for no limit of its own.
    """
    there = ", ".join(sorted(found)) or "none"
    chosen = found.get(wanted) if wanted else next((one for one in found.values() if one.default), None)
    if chosen is None and wanted:
        return failure(f"there is no partition {wanted}", f"name one of these: {there}")
    if chosen is None:
        return failure("there is no default partition", f"name one of these as `partition` in the profile: {there}")
    if not chosen.up:
        return failure(f"{chosen.name} is down", f"choose another: {there}")
    if gpus > chosen.gpus:
        best = [one.name for one in found.values() if one.gpus >= gpus]
        return failure(
            f"{chosen.name} has {chosen.gpus} GPUs a node, and the job wants {gpus} for a task",
            f"choose {', '.join(best)}" if best else "lower `resources.gpus`",
        )
    if time is not None and chosen.limit is not None and time > chosen.limit:
        return failure(
            f"{chosen.name} allows {chosen.limit / 3600:g} h, and the job asks for {time / 3600:g}",
            "lower `resources.time`: with `retry: {on: [timeout]}` the run goes on in another attempt",
        )
    limit = "no time limit" if chosen.limit is None else f"up to {chosen.limit / 3600:g} h"
    return ok(f"{chosen.name}: {chosen.nodes} nodes, {chosen.gpus} GPUs a node, {limit}")


def accounting(site: Site) -> Finding:
    """Whether Slurm remembers jobs that have ended."""
    done = site.run((*site.command("sacct"), "--noheader", "--allocations", "--parsable2", "--format=JobID"))
    if done.exit_code == 0:
        return ok("sacct answers")
    said = " ".join(done.stderr.split())
    off = any(words in said.lower() for words in NO_ACCOUNTING)
    return warning(
        "there is none" if off else f"sacct: {said}",
        "none is needed: where squeue has forgotten a job, its run directory says what became of it",
    )


def container(site: Site) -> Finding:
    """What starts containers on the nodes, as far as it shows on the host."""
    kind = site.profile.container_runtime or "pyxis"
    if kind == "none" or (site.job is not None and site.job.image is None):
        return skipped("runs have none")
    if kind == "pyxis":
        shown = site.run((*site.command("srun"), "--help")).stdout
        if "--container-image" in shown:
            return ok("srun knows pyxis")
        return failure("srun has no --container-image", "have pyxis installed, or set `container_runtime: apptainer`")
    done = site.script('command -v "$1" >/dev/null && "$1" --version', kind)
    if done.exit_code == 0:
        return ok(done.stdout.strip())
    return warning(f"{kind} is not on the host", "see that it is on the nodes: `srun apptainer --version`")


def steve(site: Site) -> Finding:
    """Whether steve and the command that releases an allocation can be typed."""
    release = site.command("release")[0] if "release" in site.profile.commands else "scancel"
    for name in (site.command("steve")[0], release):
        if site.script('command -v -- "$1"', name).exit_code != 0:
            where = "here" if site.is_here else "there"
            return failure(f"{name} is not on the PATH {where}", "name it in full under `commands` in the profile")
    done = site.run((*site.command("steve"), "--version"))
    said = done.stdout.strip().splitlines()
    return ok(said[0] if done.exit_code == 0 and said else "it is there, and tells no version")


CHECKS = (
    Check("slurm", slurm, remedy="name sbatch in full under `commands` in the profile", backends=("slurm",)),
    Check("partition", partition, remedy="name sinfo in full under `commands` in the profile", backends=("slurm",)),
    Check("accounting", accounting, remedy="name sacct in full under `commands` in the profile", backends=("slurm",)),
    Check("container", container, remedy="name srun in full under `commands` in the profile", backends=("slurm",)),
    Check("steve", steve, remedy="name steve in full under `commands` in the profile", backends=("steve",)),
)
