"""Checks of a job file against the site, and of the login at Weights & Biases that it needs."""

from __future__ import annotations

import base64
import json
import netrc
import re
import secrets
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.backends.base import BATCH_SCRIPT
from orchestrator.doctor.checks import Check, Finding, failure, ok, skipped, warning
from orchestrator.environment import host_folders, in_container
from orchestrator.spec import check_secrets

if TYPE_CHECKING:
    from orchestrator.doctor.site import Site
    from orchestrator.plan import Plan

WANDB = "https://api.wandb.ai"
ANSWER_TAKES = 10.0  # seconds
VIEWER = "query Viewer { viewer { username } }"

# Lines: what the host does not have.
MISSING = r"""
for path in "$@"; do
  test -e "${path/#\~\//$HOME/}" || printf '%s\n' "$path"
done
"""


def job(site: Site) -> Finding:
    """Whether the job can be submitted as it stands: its plan, its secrets, and the folders that it names."""
    if site.job is None or site.plan is None:
        return skipped("none was named")
    if problems := check_secrets(site.job, site.environment):
        return failure(problems[0].message.partition(";")[0], f"export {problems[0].message.split()[0]}=…")
    paths = [mount.source for mount in (*site.profile.mounts, *site.job.mounts) if not mount.cache]
    if site.backend in {"docker", "slurm"} and (paths := [*paths, *host_folders(site.job)]):
        lost = site.script(MISSING, *paths).stdout.split("\n")[0]
        if lost:
            return failure(f"there is no {lost} on the host", "make it, or take it out of the job")
    runs = "a sweep of " + str(len(site.plan.runs)) if site.plan.is_sweep else "one run"
    if site.plan.warnings:
        return warning("; ".join(site.plan.warnings), "see `plan`; it can be submitted all the same")
    return ok(f"{site.job.name}, {runs}")


def accepted(site: Site) -> Finding:
    """Whether Slurm itself takes the job; `sbatch --test-only` submits nothing."""
    if site.plan is None or site.host is None:
        return skipped("no job was named")
    return _tried(site, site.plan)


def _tried(site: Site, plan: Plan) -> Finding:
    assert site.host is not None, "asked before"
    launch = plan.runs[0].launch
    path = Path("/tmp") / f"longshore-{secrets.token_hex(4)}-{BATCH_SCRIPT}"
    site.host.write(path, launch.batch_script or "", mode=0o600)
    try:
        done = site.run((*launch.commands[0][:-1], "--test-only", str(path)))
    finally:
        site.run(("rm", "-f", "--", str(path)))
    said = " ".join((done.stderr or done.stdout).split()).removeprefix("sbatch: ")
    if done.exit_code != 0:
        remedy = "change the job's `resources` as Slurm says"
        return failure(said.removeprefix("error: ").removeprefix("allocation failure: "), remedy)
    start = re.search(r"to start at (\S+)", said)
    return ok(f"Slurm takes it, to start at {start[1]}" if start else "Slurm takes it")


def wandb(site: Site) -> Finding:
    """Whether the runs can log in at W&B."""
    url = (site.job.environment if site.job else {}).get("WANDB_BASE_URL") or site.environment.get(
        "WANDB_BASE_URL", WANDB
    )
    key = site.environment.get("WANDB_API_KEY") or _netrc_key(site, urlsplit(url).hostname or "")
    if site.job is not None:
        mode = site.job.train.get("logger.wandb.mode") or site.job.environment.get("WANDB_MODE")
        if mode is None and "WANDB_API_KEY" in site.job.secrets:
            mode = "online"
        if mode != "online":
            return skipped(f"the job logs {mode}" if mode else "the job does not log there")
        if "WANDB_API_KEY" not in site.job.secrets and in_container(site.job, site.profile):
            return failure("the container does not get a key", "add `secrets: [WANDB_API_KEY]` to the job")
    elif not key:
        return skipped("there is no key here")
    if not key:
        return failure("there is no key here", "export WANDB_API_KEY=…, from https://wandb.ai/authorize")
    return _login(url, key)


def _login(url: str, key: str) -> Finding:
    request = urllib.request.Request(
        f"{url.rstrip('/')}/graphql",
        data=json.dumps({"query": VIEWER}).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Basic {base64.b64encode(f'api:{key}'.encode()).decode()}",
        },
    )
    remedy = "export a key that is valid, from https://wandb.ai/authorize"
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_TAKES) as answer:
            viewer = (json.load(answer).get("data") or {}).get("viewer")
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            return failure(f"{url} refuses the key", remedy)
        return warning(f"{url} answers {error.code}", "try again later")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return warning(f"{url} cannot be asked from here: {reason}", "see that the nodes reach it, or log offline")
    return ok(f"logged in as {viewer['username']}") if viewer else failure(f"{url} does not know the key", remedy)


def _netrc_key(site: Site, host: str) -> str | None:
    """Where `wandb login` keeps it."""
    path = Path(site.environment.get("NETRC") or Path(site.environment.get("HOME", "/")) / ".netrc")
    try:
        found = netrc.netrc(path).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return found[2] if found else None


CHECKS = (
    Check("job", job),
    Check("sbatch", accepted, remedy="name sbatch in full under `commands` in the profile", backends=("slurm",)),
    Check("wandb", wandb, needs=""),
)
