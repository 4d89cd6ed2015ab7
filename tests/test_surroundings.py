"""What holds for every test, wherever the tests are started from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHILD = "import signal; print([signal.getsignal(n) is signal.SIG_IGN for n in (signal.SIGINT, signal.SIGHUP)])"


def test_what_is_started_from_a_shells_background_is_told_of_ctrl_c_and_of_a_hangup():
    code = f"import subprocess, sys, tests.conftest; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"
    words = ["sh", "-c", 'trap "" HUP; "$@" & wait $!', "sh", sys.executable, "-c"]
    for program, ignored in ((CHILD, [True, True]), (code, [False, False])):
        done = subprocess.run([*words, program], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == f"{ignored}\n", done.stderr
