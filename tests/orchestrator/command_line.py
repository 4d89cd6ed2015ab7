"""The command line as its users have it: a process of its own, in a project folder with a job and a profile.

The profile's Python is a stand-in that answers the set-up script's questions and starts `standin_trainer.py`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
STANDIN = Path(__file__).with_name("standin_trainer.py")
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m trainer" ]; then
  shift 2
  exec {python} {trainer} "$@"
fi
cat >/dev/null
"""
JOB = """\
name: {name}
backend: local
environment: {{STANDIN: {behaviour}}}
train:
  env.backend: mjlab
  env.name: Mjlab-Cartpole-Balance
"""


@dataclass(frozen=True)
class Project:
    """A folder with jobs and a profile, where commands are typed."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, interpreter: str = sys.executable) -> Project:
        """A project whose runs are done by the stand-in trainer."""
        python = folder / "standin-python"
        python.write_text(PYTHON.format(python=shlex.quote(interpreter), trainer=shlex.quote(str(STANDIN))))
        python.chmod(0o755)
        (folder / "profiles.yaml").write_text(f"default:\n  python: {python}\n")
        return cls(folder)

    @property
    def home(self) -> Path:
        return self.folder / "runs"

    def job(self, behaviour: str = "succeed", name: str = "tiny", more: str = "") -> str:
        """Write a job file and return its name."""
        path = self.folder / f"{name}.yaml"
        path.write_text(JOB.format(name=name, behaviour=behaviour) + more)
        return path.name

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(REPOSITORY / "orchestrate.py"), *arguments]

    def variables(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
        # Without a home folder of its own a test would read the profiles of whoever runs it.
        return inherited | {"XDG_CONFIG_HOME": str(self.folder / "config"), "TERM": "xterm"} | dict(self.environment)

    def run(self, *arguments: str, check: int | None = 0, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Type a command without a terminal.

        Args:
            arguments: Words after `python orchestrate.py`.
            check: The exit code that it must have; None for any.
            timeout: Seconds.
        """
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check is not None:
            assert done.returncode == check, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def with_variables(self, **variables: str) -> Project:
        return Project(self.folder, {**self.environment, **variables})
