"""What `python -m trainer` is in tests of steve: it counts, saves checkpoints, and goes on from the last one.

$STANDIN is `succeed`, `slow`, which takes seconds, `long`, which ends when it is told to, or `deaf`, which does not;
`long/WORD` is long where WORD is among the settings, and succeeds elsewhere.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from trainer.run_dir import ExitCode, Phase, RunDir, Status

FOREVER = 1_000_000  # steps


def main() -> ExitCode:
    run_dir, attempt = RunDir(Path(os.environ["LONGSHORE_RUN_DIR"])), int(os.environ["LONGSHORE_ATTEMPT"])
    with (Path(os.environ["FAKE_STEVE_JOB"]).parents[1] / "begun").open("a") as begun:
        begun.write(f"{run_dir.root.name} {attempt}\n")
    print("words", *sys.argv[1:])
    print("left", round(float(os.environ["LONGSHORE_DEADLINE"]) - time.time()), "seconds")
    print("token of", len(os.environ.get("TINY_TOKEN", "")), "characters")
    signal.signal(signal.SIGTERM, lambda *_: stop())
    latest = run_dir.checkpoints / "latest"
    step = int(latest.resolve().name.removeprefix("step_")) if latest.exists() else 0
    print("from step", step, flush=True)
    behaviour, _, word = os.environ["STANDIN"].partition("/")
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    is_long = behaviour in {"long", "deaf"} and step == 0 and word in {"", *sys.argv}
    goal = FOREVER if is_long else step + (20 if behaviour == "slow" else 3)
    while step < goal:
        step += 1
        run_dir.write_status(Status(Phase.TRAINING, step, goal, attempt=attempt, heartbeat=time.time()))
        save(run_dir, step)
        time.sleep(0.1)
    run_dir.write_success(attempt)
    return ExitCode.DONE


def save(run_dir: RunDir, step: int) -> None:
    folder = run_dir.checkpoints / f"step_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_text(f"after {step} steps")
    link = run_dir.checkpoints / ".latest"
    link.symlink_to(folder.name)
    link.replace(run_dir.checkpoints / "latest")


def stop() -> None:
    print("checkpoint saved", flush=True)
    os._exit(ExitCode.RESUMABLE)


if __name__ == "__main__":
    sys.exit(main())
