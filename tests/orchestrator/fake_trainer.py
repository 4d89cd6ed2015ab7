"""A trainer package of a few lines that ends as it is told, `behaviour=crash` for example."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

run_dir = Path(os.environ["LONGSHORE_RUN_DIR"])
seen = {"argv": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ), "pid": os.getpid()}
behaviour = dict(word.split("=", 1) for word in sys.argv[1:]).get("behaviour")


def stop(*_):
    (run_dir / "checkpoint").touch()
    sys.exit(75)


if behaviour == "stop when asked":
    signal.signal(signal.SIGTERM, stop)
elif behaviour == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif behaviour == "leave an orphan":
    orphan = subprocess.Popen(["sleep", "100"], start_new_session=True, stdout=subprocess.DEVNULL)
    seen["orphan"] = orphan.pid
(run_dir / "seen.tmp").write_text(json.dumps(seen))
(run_dir / "seen.tmp").rename(run_dir / "seen.json")
if behaviour == "succeed":
    (run_dir / "SUCCESS").write_text("{}")
elif behaviour == "succeed and crash":
    (run_dir / "SUCCESS").write_text("{}")
    os.kill(os.getpid(), signal.SIGSEGV)
elif behaviour == "fail":
    (run_dir / "failure.json").write_text('{"class": "nan", "message": "loss is nan"}')
    sys.exit(1)
elif behaviour == "be killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif behaviour in {"stop when asked", "ignore", "sleep"}:
    time.sleep(100)
elif behaviour == "stop":
    sys.exit(75)
elif behaviour == "crash":
    sys.exit("boom")
