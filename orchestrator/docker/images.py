"""Images with a job's set-up baked in: containers/Dockerfile.isaac, and what is beside it when the engine builds it."""

from __future__ import annotations

import io
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO

from orchestrator.assets import containers_folder
from orchestrator.docker.engine import address, connected, ensure_image, explain, follow_messages, image_digest
from orchestrator.environment import script_context
from orchestrator.script import ScriptContext, render_script

if TYPE_CHECKING:
    from orchestrator.profile import Profile
    from orchestrator.spec import JobSpec

DOCKERFILE = "Dockerfile.isaac"
INSIDE = Path("/opt/longshore")  # of the image
FOLDER = "longshore"  # of the build context
PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"})  # variables of a profile that a build gets too
DEFAULT_BASE = "nvcr.io/nvidia/isaac-lab:2.3.0"


def default_job() -> JobSpec:
    """What is baked in where no job says: the defaults of a job that trains on Isaac Lab."""
    from orchestrator.spec import JobSpec

    return JobSpec(name="isaac-lab", backend="docker", image=DEFAULT_BASE, train={"env.backend": "isaaclab"})


def default_tag(base: str) -> str:
    """`longshore/isaac-lab:2.3.0` for NVIDIA's image of that name and version."""
    name, _, tag = base.partition("@")[0].rpartition("/")[2].partition(":")
    return f"longshore/{name}:{tag or 'latest'}"


def build_context(job: JobSpec, profile: Profile) -> ScriptContext:
    """What the script of a build is made of: what is kept between runs, and no GPU, because a build has none."""
    context = script_context(
        job, profile, run_id="image", run_dir=INSIDE / "run", snapshot=INSIDE / "code", python="python3"
    )
    container = context.container
    assert container is not None, "an image is for containers"
    kept = tuple(install for install in container.installs if install.kept)
    wheels = None if container.wheelhouse is None else str(INSIDE / "wheels")
    return replace(
        context,
        gpus=0,
        time_limit=None,
        secrets=False,
        container=replace(container, installs=kept, wheelhouse=wheels, visible_devices=""),
    )


def build_image(
    job: JobSpec,
    profile: Profile,
    trainer: Path,
    *,
    tag: str,
    base: str,
    output: TextIO,
) -> str:
    """Build an image and return its digest.

    Args:
        job: Whose set-up is baked in.
        profile: Settings of the site; its `engine` builds.
        trainer: Folder of the trainer package.
        tag: Of the new image.
        base: The image that it is made from.
        output: Where the build's output and the progress are shown.

    Raises:
        BackendError: The engine cannot be reached, or the build failed.
    """
    import docker

    def show_text(text: str) -> None:
        output.write(text)

    script = render_script(build_context(job, profile))
    with connected(address(profile.engine)) as client, tempfile.TemporaryFile() as archive:
        user = ensure_image(client, base, output)["Config"].get("User") or "root"
        _write_archive(archive, script, trainer, job.setup.wheelhouse)
        proxies = {name: value for name, value in profile.environment.items() if name.upper() in PROXIES}
        try:
            messages = client.build(
                fileobj=archive,
                custom_context=True,
                dockerfile=DOCKERFILE,
                tag=tag,
                buildargs={"BASE_IMAGE": base, "RUN_USER": user, **proxies},
                network_mode="none" if job.setup.wheelhouse else "host",
                rm=True,
                forcerm=True,
                decode=True,
                timeout=3600,
            )
            follow_messages(messages, f"building {tag}", output, show_text)
            return image_digest(client.inspect_image(tag))
        except docker.errors.APIError as error:
            raise explain(f"{tag} cannot be built", error) from error


def _write_archive(archive: IO[bytes], script: str, trainer: Path, wheelhouse: str | None) -> None:
    """What the engine gets: the Dockerfile, and the folder `longshore` with script, trainer and wheels."""

    def without_caches(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in entry.name else entry

    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(containers_folder() / DOCKERFILE, DOCKERFILE)
        text = script.encode()
        entry = tarfile.TarInfo(f"{FOLDER}/setup-and-run.sh")
        entry.size, entry.mode = len(text), 0o755
        tar.addfile(entry, io.BytesIO(text))
        tar.add(trainer, f"{FOLDER}/code/trainer", filter=without_caches)
        if wheelhouse is not None:
            for path in sorted(Path(wheelhouse).iterdir()):
                tar.add(path, f"{FOLDER}/wheels/{path.name}")
    archive.seek(0)
