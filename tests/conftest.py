"""What holds for every test: no window, no network, one thread a process, nothing of the caller's own runs."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Before anything imports torch or MuJoCo, and inherited by every process that a test starts.
for name in [name for name in os.environ if name.startswith("LONGSHORE_")]:
    del os.environ[name]
os.environ["MUJOCO_GL"] = "disable"
os.environ["OMP_NUM_THREADS"] = "1"  # tests run in parallel, one process a core
os.environ["WANDB_MODE"] = "disabled"

# A shell has what it starts in the background ignore SIGINT, nohup SIGHUP, and programs hand that on to all that they
# start. With a handler that does nothing the tests go on ignoring it, but what they start is told as anywhere else.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

settings.register_profile("longshore", deadline=None)  # a loaded machine is not a wrong answer
settings.load_profile("longshore")


def pytest_addoption(parser):
    parser.addoption("--need-services", action="store_true", help="a test that lacks a service has failed")
    parser.addoption("--pictures", action="store_true", help="write the pictures of docs/ anew")
