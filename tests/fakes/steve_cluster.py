"""A cluster behind steve, as far as its three commands go: containers are folders, and die with their allocation.

`$FAKE_STEVE` is its folder. `settings.json` there says how it behaves: `container`, the path that a container's own
folder has (of one allocation at a time); `path`, put before PATH in containers; `slow`, seconds until an id is
printed; `warnings`, lines before it; `loses`, whether a job is gone as soon as its id is printed; `pending`, whether
jobs wait for their allocation; `overlap`, whether a step may run beside another one. Each command typed is a line of
`calls`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CLUSTER = Path(os.environ["FAKE_STEVE"])
JOBS = CLUSTER / "jobs"
DEFAULTS = {"slow": 0, "warnings": [], "loses": False, "pending": False, "overlap": True}


def main(program: str, words: list[str]) -> int:
    settings = DEFAULTS | json.loads((CLUSTER / "settings.json").read_text())
    with (CLUSTER / "calls").open("a") as calls:
        calls.write(json.dumps([program, *words]) + "\n")
    if program == "scancel":
        [job] = words
        return end(job)
    arguments = parser().parse_args(words)
    if arguments.verb == "job":
        return allocate(settings)
    if not (JOBS / arguments.job).is_dir():
        return refuse(f"job {arguments.job} is not there")
    if settings["pending"]:
        return refuse(f"job {arguments.job} is pending")
    container = Path(settings["container"])
    if arguments.verb == "cp":
        target = JOBS / arguments.job / "root" / Path(arguments.target.removeprefix(":")).relative_to(container)
        target.write_bytes(Path(arguments.source).read_bytes())
        return 0
    return step(arguments.job, arguments.command, arguments.detached, settings)


def parser() -> argparse.ArgumentParser:
    """The command lines of the document that the project starts from, and no others."""
    steve = argparse.ArgumentParser("steve", allow_abbrev=False)
    verbs = steve.add_subparsers(dest="verb", required=True)
    job = verbs.add_parser("job", allow_abbrev=False)
    for option in ("--partition", "--job-name", "--container-image", "--time"):
        job.add_argument(option, required=True)
    for option in ("--gpus-per-task", "--ntasks"):
        job.add_argument(option, type=int, required=True)
    job.add_argument("--jobid-only", action="store_true", required=True)
    copy = verbs.add_parser("cp", allow_abbrev=False)
    for word in ("job", "source", "target"):
        copy.add_argument(word)
    run = verbs.add_parser("step", allow_abbrev=False)
    run.add_argument("-d", dest="detached", action="store_true")
    run.add_argument("job")
    run.add_argument("command")
    return steve


def allocate(settings: dict) -> int:
    time.sleep(settings["slow"])
    JOBS.mkdir(exist_ok=True)
    number = 4711 + len((CLUSTER / "calls").read_text().splitlines())
    root = JOBS / str(number) / "root"
    root.mkdir(parents=True)
    container = Path(settings["container"])
    container.unlink(missing_ok=True)
    container.symlink_to(root)
    for line in settings["warnings"]:
        print(line)
    print(number)
    return end(str(number)) if settings["loses"] else 0


def step(job: str, command: str, detached: bool, settings: dict) -> int:
    if not settings["overlap"] and any(processes_of(job)):
        return refuse("another step is running")
    root = JOBS / job / "root"
    environment = os.environ | {
        "FAKE_STEVE_JOB": str(JOBS / job),
        "PATH": f"{settings['path']}:{os.environ['PATH']}",
        "HOME": str(root),
        "LONGSHORE_STATE": str(root / "state"),
    }
    output = subprocess.DEVNULL if detached else None
    process = subprocess.Popen(
        ["sh", "-c", command],
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    return 0 if detached else process.wait()


def processes_of(job: str) -> list[int]:
    """Numbers of the processes of a job's steps."""
    mark, found = f"FAKE_STEVE_JOB={JOBS / job}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


def end(job: str) -> int:
    if not (JOBS / job).is_dir():
        return refuse(f"job {job} is not there")
    for _ in range(100):
        if not (pids := processes_of(job)):
            break
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
    shutil.rmtree(JOBS / job)
    return 0


def refuse(reason: str) -> int:
    print(f"steve: error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
