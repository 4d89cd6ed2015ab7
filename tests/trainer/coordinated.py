"""A real coordinator in a process of its own, with small roles whose source a test writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.waiting import PATIENCE, eventually
from trainer.run_dir import Failure, RunDir

ROOT = Path(__file__).parents[2]

# Coordinates one role, whose source is in role.py; a real coordinator in all but which command it starts.
DRIVER = """
import json, sys
from pathlib import Path
from trainer.coordinator import Limits, launch_roles
from trainer.run_dir import RunDir
folder, limits, deadline = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
files = sorted((folder / "roles").iterdir())  # not called trainer.py: that would hide the package
commands = {path.stem.removesuffix("_role"): [sys.executable, str(path)] for path in files}
sys.exit(launch_roles(commands, {"seed": 0}, RunDir(Path(sys.argv[4])), 1, Limits(**limits), deadline=deadline))
"""

PREAMBLE = """
import os, signal, sys, time
from pathlib import Path
from trainer.errors import NotFinite, Stopped
from trainer.role import run_role
from trainer.run_dir import Phase

def ready(context):
    context.beat(Phase.TRAINING, optim_step=7)
    (context.run_dir.root / f"ready-{context.role}").write_text(str(os.getpid()))

def work(context):
    while not context.should_stop:
        context.beat(Phase.TRAINING)
        time.sleep(0.01)
"""

STOPPABLE = """
def main(context):
    ready(context)
    work(context)
    (context.run_dir.root / "saved").touch()
    raise Stopped
run_role(main)
"""
HANGING = "run_role(lambda context: (ready(context), time.sleep(600)))"


class Coordinator:
    """A coordinator in a process of its own, and what it leaves."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.run_dir = folder, RunDir(root)
        (folder / "roles").mkdir()
        self.process: subprocess.Popen[str] | None = None
        self.stderr = ""

    def start(self, source: str, *, deadline: float | None = None, name: str = "trainer", **limits: float) -> None:
        self.add_role(name, source)
        all_limits = {"start": PATIENCE, "stall": PATIENCE, "grace": PATIENCE, "margin": 120, "poll": 0.02} | limits
        arguments = [str(self.folder), json.dumps(all_limits), json.dumps(deadline), str(self.run_dir.root)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *arguments], env=environment, stderr=subprocess.PIPE, text=True
        )

    def add_role(self, name: str, source: str) -> None:
        (self.folder / "roles" / f"{name}_role.py").write_text(PREAMBLE + textwrap.dedent(source))

    def ready(self, name: str = "trainer") -> int:
        """Wait until the role works; its process id."""
        file = self.run_dir.root / f"ready-{name}"
        eventually(lambda: self.process.poll() is not None or (file.exists() and file.read_text() != ""))
        return int(file.read_text())

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        _, self.stderr = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode

    def failure(self) -> Failure:
        assert not self.run_dir.success.exists()
        failure = self.run_dir.read_failure()
        assert failure is not None
        return failure
