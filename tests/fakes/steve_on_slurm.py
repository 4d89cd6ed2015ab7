"""A cluster behind steve on a real Slurm: allocations, steps, time limits and lost nodes are Slurm's own.

A container is what enroot makes of one: processes and network are the node's, its folder is its own. Here that is a
mount namespace in which `container` is another folder for each allocation; the folder goes when the allocation does.
`$FAKE_STEVE` holds them, and `settings.json`: `container` and `path` as in steve_cluster.py; `overlap`, whether a step
may run beside another one; `waits`, whether `steve job` returns only when the allocation stands.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from steve_cluster import CLUSTER, JOBS, parser, refuse

DEFAULTS = {"overlap": True, "waits": False}
HOLD = "#!/bin/sh\nexec sleep infinity\n"
# $1 is the container's folder on the node, $2 where it is in the container.
ENTER = 'mount --bind -- "$1" "$2" && cd -- "$2" && exec sh -c "$3"'


def main(words: list[str]) -> int:
    settings = DEFAULTS | json.loads((CLUSTER / "settings.json").read_text())
    with (CLUSTER / "calls").open("a") as calls:
        calls.write(json.dumps(["steve", *words]) + "\n")
    arguments = parser().parse_args(words)
    if arguments.verb == "job":
        return allocate(arguments, settings)
    if (state := state_of(arguments.job)) != "RUNNING":
        if state != "PENDING":
            shutil.rmtree(JOBS / arguments.job, ignore_errors=True)
        return refuse(f"job {arguments.job} is {state or 'not there'}")
    if arguments.verb == "cp":
        source, target = Path(arguments.source).absolute(), arguments.target.removeprefix(":")
        return step(arguments.job, f"cp -- '{source}' '{target}'", False, settings)
    return step(arguments.job, arguments.command, arguments.detached, settings)


def allocate(arguments, settings: dict) -> int:
    words = [f"--partition={arguments.partition}", f"--ntasks={arguments.ntasks}", f"--time={arguments.time}"]
    words += [f"--gpus-per-task={arguments.gpus_per_task}", f"--job-name={arguments.job_name}"]
    if settings["waits"]:
        done = subprocess.run(["salloc", "--no-shell", *words], capture_output=True, text=True)
        job = re.search(r"Granted job allocation (\d+)", done.stderr)
    else:
        held = ["sbatch", "--parsable", "--no-requeue", "--output=/dev/null", *words]
        done = subprocess.run(held, input=HOLD, capture_output=True, text=True)
        job = re.match(r"(\d+)", done.stdout)
    if done.returncode != 0 or job is None:
        return refuse(done.stderr.strip())
    folder = JOBS / job[1]
    (folder / "root").mkdir(parents=True)
    (folder / "gpus").write_text(str(arguments.gpus_per_task))
    print(job[1])
    return 0


def state_of(job: str) -> str:
    listed = subprocess.run(["squeue", "--noheader", f"--jobs={job}", "--format=%T"], capture_output=True, text=True)
    return listed.stdout.strip()


def step(job: str, command: str, detached: bool, settings: dict) -> int:
    folder, container = JOBS / job, Path(settings["container"])
    container.mkdir(exist_ok=True)
    variables = os.environ | {
        "PATH": f"{settings['path']}:{os.environ['PATH']}",
        "HOME": str(container),
        "LONGSHORE_STATE": str(container / "state"),
    }
    words = ["srun", f"--jobid={job}", "--nodes=1", "--ntasks=1", "--quiet", "--chdir=/"]
    words += [f"--gpus-per-task={(folder / 'gpus').read_text()}"]
    words += ["--overlap"] if settings["overlap"] else ["--immediate=2"]
    words += ["unshare", "--mount", "sh", "-c", ENTER, "enter", str(folder / "root"), str(container), command]
    if not detached:
        return subprocess.run(words, env=variables, stdin=subprocess.DEVNULL).returncode
    subprocess.Popen(
        words,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
