"""A cluster behind steve on a real Slurm: allocations, steps, time limits and lost nodes are Slurm's own.

A container is what enroot makes of one: processes are the node's, files are its own, and go when the allocation does.
`$FAKE_STEVE` holds `settings.json`: `overlap`, whether a step may run beside another one; `waits`, whether `steve job`
returns only when the allocation stands. With `engine`, the address of a Docker Engine, a container is one of that
engine's, of the image that is asked for; steps enter it, and `mounts` are folders of the node that it sees under the
same path. Without, it is a mount namespace in which `container` is another folder for each allocation, and `path` is
put before PATH.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from steve_cluster import CLUSTER, JOBS, parser, refuse

DEFAULTS = {"overlap": True, "waits": False, "engine": "", "mounts": []}
HOLD = "#!/bin/sh\nexec sleep infinity\n"
# The container is there for as long as this runs; a node that dies takes along what has its name.
HOLD_CONTAINER = """\
#!/bin/sh
exec docker run --rm --name="steve-$SLURM_JOB_ID" --pull=never --pid=host --network=none --env=SLURMD_NODENAME \
  --entrypoint=sleep {options} {image} infinity
"""
IMAGE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# $1 is the container's folder on the node, $2 where it is in the container.
ENTER = 'mount --bind -- "$1" "$2" && cd -- "$2" && exec sh -c "$3"'


def main(words: list[str]) -> int:
    settings = DEFAULTS | json.loads((CLUSTER / "settings.json").read_text())
    with (CLUSTER / "calls").open("a") as calls:
        calls.write(json.dumps(["steve", *words]) + "\n")
    if settings["engine"]:
        os.environ["DOCKER_HOST"] = settings["engine"]
    arguments = parser().parse_args(words)
    if arguments.verb == "job":
        return allocate(arguments, settings)
    if (state := state_of(arguments.job)) != "RUNNING":
        if state != "PENDING":
            shutil.rmtree(JOBS / arguments.job, ignore_errors=True)
        return refuse(f"job {arguments.job} is {state or 'not there'}")
    if arguments.verb == "cp":
        return copy(arguments.job, Path(arguments.source), arguments.target.removeprefix(":"), settings)
    return step(arguments.job, arguments.command, arguments.detached, settings)


def allocate(arguments, settings: dict) -> int:
    words = [f"--partition={arguments.partition}", f"--ntasks={arguments.ntasks}", f"--time={arguments.time}"]
    words += [f"--gpus-per-task={arguments.gpus_per_task}", f"--job-name={arguments.job_name}"]
    if settings["waits"]:
        done = subprocess.run(["salloc", "--no-shell", *words], capture_output=True, text=True)
        job = re.search(r"Granted job allocation (\d+)", done.stderr)
    else:
        held = ["sbatch", "--parsable", "--no-requeue", "--output=/dev/null", *words]
        done = subprocess.run(held, input=hold(arguments.container_image, settings), capture_output=True, text=True)
        job = re.match(r"(\d+)", done.stdout)
    if done.returncode != 0 or job is None:
        return refuse(done.stderr.strip())
    folder = JOBS / job[1]
    (folder / "root").mkdir(parents=True)
    (folder / "gpus").write_text(str(arguments.gpus_per_task))
    print(job[1])
    return 0


def hold(image: str, settings: dict) -> str:
    """What an allocation runs from its beginning to its end."""
    if not settings["engine"]:
        return HOLD
    options = [f"--volume={folder}:{folder}:ro" for folder in settings["mounts"]]
    return HOLD_CONTAINER.format(options=shlex.join(options), image=shlex.quote(image))


def state_of(job: str) -> str:
    listed = subprocess.run(["squeue", "--noheader", f"--jobs={job}", "--format=%T"], capture_output=True, text=True)
    return listed.stdout.strip()


def copy(job: str, source: Path, target: str, settings: dict) -> int:
    if not settings["engine"]:
        return step(job, f"cp -- '{source.absolute()}' '{target}'", False, settings)
    words = ["docker", "cp", "--quiet", str(source), f"steve-{job}:{target}"]
    return subprocess.run(words, stdin=subprocess.DEVNULL).returncode


def step(job: str, command: str, detached: bool, settings: dict) -> int:
    try:
        inside = enter_container(job) if settings["engine"] else enter_folder(job, settings)
    except subprocess.CalledProcessError as error:
        return refuse(error.stderr.strip())
    words = ["srun", f"--jobid={job}", "--nodes=1", "--ntasks=1", "--quiet", "--chdir=/", "--export=PATH"]
    words += [f"--gpus-per-task={(JOBS / job / 'gpus').read_text()}"]
    words += ["--overlap"] if settings["overlap"] else ["--immediate=2"]
    words += [*inside, command]
    if not detached:
        return subprocess.run(words, stdin=subprocess.DEVNULL).returncode
    subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return 0


def enter_container(job: str) -> list[str]:
    """What comes before a command of a step's, to have it run in the job's container."""
    words = ["docker", "inspect", "--format={{.State.Pid}} {{json .Config.Env}}", f"steve-{job}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    pid, _, variables = done.stdout.partition(" ")
    own = [variable for variable in json.loads(variables) if not variable.startswith("SLURMD_NODENAME=")]
    enter = ["nsenter", f"--target={pid}", "--mount", "--net", "--root", "--wd"]
    return [*enter, "env", f"PATH={IMAGE_PATH}", "HOME=/root", *own, "sh", "-c"]


def enter_folder(job: str, settings: dict) -> list[str]:
    """The same, for a container that is a folder."""
    container = Path(settings["container"])
    container.mkdir(exist_ok=True)
    variables = {"PATH": f"{settings['path']}:{os.environ['PATH']}", "HOME": container}
    variables["LONGSHORE_STATE"] = container / "state"
    own = ["env", *(f"{name}={value}" for name, value in variables.items())]
    return ["unshare", "--mount", *own, "sh", "-c", ENTER, "enter", str(JOBS / job / "root"), str(container)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
