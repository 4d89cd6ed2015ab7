"""Commands about containers alone: `shell` and `image build`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.surroundings import load, plan_of, profile_files, say

image = typer.Typer(help="Build images with a job's set-up baked in.", rich_markup_mode=None, no_args_is_help=True)

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="A job file.", show_default=False)]
MaybeJob = Annotated[Path | None, typer.Argument(metavar="[JOB]", help="A job file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Trainer settings (Hydra overrides).", show_default=False),
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the job.")]


def shell(job: JobFile, overrides: Overrides = None, sets: Sets = None) -> int:
    """Open a shell in a job's container, set up and with the working tree mounted."""
    from orchestrator.docker.shell import open_shell
    from orchestrator.profile import load_profile
    from orchestrator.snapshot import snapshot_folder

    spec = load(job, overrides, sets, "docker")
    made = plan_of(spec)
    command = load_profile(spec.profile, "docker", profile_files()).commands.get("docker", ("docker",))
    if spec.secrets:
        say(f"note: {', '.join(spec.secrets)}: secrets are not passed on to a shell; export them there")
    return open_shell(made.runs[0], snapshot_folder(made.snapshot, made.home), command, Path.cwd())


@image.command()
def build(
    job: MaybeJob = None,
    sets: Sets = None,
    tag: Annotated[str | None, typer.Option("--tag", metavar="NAME:TAG", help="Of the new image.")] = None,
    base: Annotated[str | None, typer.Option("--base", metavar="IMAGE", help="Instead of the job's image.")] = None,
) -> int:
    """Build an image in which a job's set-up is done already; prints its tag."""
    from orchestrator.assets import trainer_folder
    from orchestrator.docker.images import build_image, default_job, default_tag
    from orchestrator.profile import load_profile

    spec = default_job() if job is None else load(job, None, sets, "docker")
    profile = load_profile(spec.profile, "docker", profile_files())
    source = base or str(spec.image)
    made = tag or default_tag(source)
    digest = build_image(spec, profile, trainer_folder(), tag=made, base=source, output=sys.stderr)
    say(f"{made} is {digest}; a job whose image it is starts without a network")
    print(made)
    return 0
