"""One role as the coordinator sees it: a process to watch, to ask and to kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from trainer.outcome import Outcome, OutcomeKind, RoleEnd
from trainer.role import DUMP_SIGNAL, ROLE_CONFIG_VARIABLE, RoleConfig
from trainer.run_dir import write_atomically


class RoleProcess:
    """One role while it runs: a process that leads its own group, and the file of its last word."""

    def __init__(self, name: str, command: Sequence[str], config: RoleConfig, file: Path) -> None:
        self.name = name
        self.killed = False
        self._asked = False
        self._outcome = Path(config.outcome)
        self._last_word: float | None = None  # when it was first seen
        write_atomically(file, json.dumps(asdict(config), indent=1), mode=0o600)  # it may hold the rendezvous' key
        environment = os.environ | {ROLE_CONFIG_VARIABLE: str(file)}
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, process_group=0)

    def ended(self) -> bool:
        """Whether the process is gone; what it left in its group is ended then."""
        if self._process.returncode is not None:
            return True
        # Its number, and with it the group's, stays taken until `wait` collects it: nobody else's group can be hit.
        if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        self._signal_group(signal.SIGKILL)
        self._process.wait()
        return True

    def end(self, memory_kill: bool) -> RoleEnd:
        outcome = None
        with suppress(OSError, ValueError, KeyError):
            outcome = Outcome.read(self._outcome)
        status = self._process.returncode
        if outcome is None:
            ours = (self._asked and status == -signal.SIGTERM) or (self.killed and status == -signal.SIGKILL)
        else:
            ours = self._asked and outcome.kind is OutcomeKind.STOPPED
        return RoleEnd(self.name, status, outcome, ours, memory_kill)

    def closing_since(self, now: float) -> float | None:
        """When the role gave its last word; None while it works."""
        if self._last_word is None and self._outcome.exists():
            self._last_word = now
        return self._last_word

    def ask_to_stop(self) -> None:
        """SIGTERM to the role alone: its helpers (W&B, compilers) are needed until it has saved."""
        self._asked = not self._outcome.exists()  # else it ends of itself
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def print_stacks(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(DUMP_SIGNAL)

    def kill(self) -> None:
        self.killed = True
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
