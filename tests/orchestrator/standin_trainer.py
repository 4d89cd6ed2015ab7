"""What `python -m trainer` is in tests of the command line: it keeps the run directory's contract and learns nothing.

What it does is said by the variable STANDIN, which a job sets under `environment`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from trainer.run_dir import ExitCode, Failure, FailureClass, Phase, RunDir, Status, write_atomically

STEPS = 3
SUMMARY = {
    "random_return": 10.9,
    "trained_return": 46.25,
    "max_return": 50.0,
    "frames": 38_400,
    "fps": 812.4,
    "optim_steps": 1_500,
    "steps_per_s": 6.14,
    "seconds": 251.2,
}


def main() -> ExitCode:
    run_dir, attempt = RunDir(Path(os.environ["LONGSHORE_RUN_DIR"])), int(os.environ["LONGSHORE_ATTEMPT"])
    print("overrides", *sys.argv[1:], flush=True)
    behaviour = os.environ.get("STANDIN", "succeed")
    if behaviour == "hang":
        signal.signal(signal.SIGTERM, lambda *_: stop())
    step = 0
    while behaviour == "hang" or step < STEPS:
        step += 1
        run_dir.write_status(
            Status(
                Phase.TRAINING,
                step,
                STEPS,
                frames=step * 64,
                fps=800.0,
                steps_per_s=6.0,
                attempt=attempt,
                heartbeat=time.time(),
            )
        )
        print(f"step {step}", flush=True)
        time.sleep(0.05)
    if behaviour == "fail":
        run_dir.write_failure(Failure(FailureClass.NAN, "the world model's loss is nan", exit_code=1, attempt=attempt))
        return ExitCode.CRASH
    write_atomically(run_dir.summary, json.dumps(SUMMARY))
    run_dir.write_success(attempt)
    return ExitCode.DONE


def stop() -> None:
    print("checkpoint saved", flush=True)
    os._exit(ExitCode.RESUMABLE)


if __name__ == "__main__":
    sys.exit(main())
