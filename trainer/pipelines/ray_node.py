"""A further node of a run's Ray cluster: `python -m trainer.pipelines.ray_node`, in each task of a job but the first.

It ends when the head is gone, and takes no signal for more than that: whoever ends the job asks the first task, which
saves, and its simulators are needed until then.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from trainer.pipelines.ray_cluster import Invitation, RayNode, attempt_is_over
from trainer.role import STOP_SIGNALS
from trainer.run_dir import ATTEMPT_VARIABLE, RUN_DIR_VARIABLE, RunDir

LOOK = 2.0  # seconds between two looks at the head, and at the run directory
SILENT = 5  # looks in a row that find no head, until it is gone
LIVES = 5  # times that the node may die while the head is there
PAUSE = 5.0  # seconds until it is started again


def main() -> int:
    """Join, and stay until the head is gone; the exit status."""
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)  # not ignored: what is started here would ignore it too
    run_dir, attempt = RunDir(Path(os.environ[RUN_DIR_VARIABLE])), int(os.environ[ATTEMPT_VARIABLE])
    while (invitation := Invitation.read(run_dir, attempt)) is None:
        if attempt_is_over(run_dir, attempt):
            _say("the run has ended before there was a cluster to join")
            return 0
        time.sleep(LOOK)
    for life in range(LIVES):
        _say(f"joins the Ray cluster at {invitation.address}" + (", again" if life else ""))
        with RayNode.further(invitation) as node:
            silent = 0
            while not node.has_ended() and silent < SILENT and not attempt_is_over(run_dir, attempt):
                time.sleep(LOOK)
                silent = 0 if invitation.answers() else silent + 1
        if attempt_is_over(run_dir, attempt) or not invitation.answers():
            _say("the head is gone")
            return 0
        _say("the node has ended while the head is there")
        time.sleep(PAUSE)
    return 1


def _say(message: str) -> None:
    print(f"trainer: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
