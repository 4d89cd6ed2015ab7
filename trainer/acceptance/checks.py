"""Checks of a container from inside, around the start of Isaac Sim. Imports no torch before that.

Run by `trainer.pipelines.acceptance` as a process of its own, with a bare argv: `python -m trainer.acceptance.checks`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from trainer.role import ROLE_CONFIG_VARIABLE, RoleConfig, RoleContext
from trainer.run_dir import write_atomically

PACKAGES = ("isaaclab", "isaacsim", "torch", "numpy", "gymnasium", "tensordict", "torchrl", "hydra-core", "wandb")
# Variables that the set-up script exports, by the trap that they are there for, None for those that have none.
VARIABLES: Mapping[str, tuple[int | None, tuple[str, ...]]] = {
    "OMNI_KIT_ACCEPT_EULA": (4, ("yes", "y", "1", "true")),
    "TERM": (15, ()),
    "PYTHONNOUSERSITE": (None, ("1",)),
    "TD_GET_DEFAULTS_TO_NONE": (None, ("1",)),
}


@dataclass(frozen=True)
class Check:
    """What was looked at.

    Attributes:
        name: For people.
        passed: None for what is only told.
        found: In words.
        trap: Number in docs/traps.md, where it is one of those.
        seconds: How long it took.
    """

    name: str
    passed: bool | None
    found: str
    trap: int | None = None
    seconds: float = 0.0


class Missing(Exception):
    """A check failed; says what was found, and what to do."""


def checked(name: str, look: Callable[[], str], trap: int | None = None) -> Check:
    """Outcome of a check.

    Args:
        name: For people.
        look: Says what it found, or raises what is wrong.
        trap: Number in docs/traps.md.
    """
    started = time.monotonic()
    try:
        passed, found = True, look()
    except Exception as error:
        words = " ".join(str(error).split())
        passed, found = False, words if isinstance(error, Missing) else f"{type(error).__name__}: {words}"
    return Check(name, passed, found, trap, round(time.monotonic() - started, 1))


def before_start(environment: Mapping[str, str]) -> Iterator[Check]:
    """What can be seen before Isaac Sim runs."""
    yield Check("Python", None, f"{sys.version.split()[0]}, {sys.executable}")
    for package in PACKAGES:
        yield Check(package, None, _version(package))
    for name, (trap, accepted) in VARIABLES.items():
        yield checked(f"${name}", lambda name=name, accepted=accepted: _variable(environment, name, accepted), trap)
    yield checked("numpy is below 2, as in the image", _old_numpy, 9)
    yield checked("no display is needed", lambda: f"HEADLESS={environment.get('HEADLESS', '')}, --headless", 7)
    yield Check("rsync", None, shutil.which("rsync") or "not there; setup.apt: [rsync] installs it", 16)


def start(context: RoleContext) -> Iterator[Check]:
    """Isaac Sim's start, and what it leaves behind."""
    from trainer.simulators.launch import start_before_torch

    def begin() -> str:
        start_before_torch(context)
        return "AppLauncher has started it, before torch"

    yield checked("Isaac Sim starts", begin, 1)
    yield checked("signals are the trainer's again", lambda: _signals(context))


def after_start(context: RoleContext) -> Iterator[Check]:
    """What needs Isaac Sim to run."""
    yield checked("GPUs", _gpus)
    yield checked("Isaac Lab's tasks", _tasks, 17)
    yield checked("a second Isaac Sim is refused", lambda: _second(context), 2)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "no package of that name is installed"


def _variable(environment: Mapping[str, str], name: str, accepted: tuple[str, ...]) -> str:
    value = environment.get(name)
    if not value or (accepted and value.lower() not in accepted):
        raise Missing(f"is {value!r}; setup-and-run.sh exports it: start the trainer with that")
    return value


def _old_numpy() -> str:
    found = version("numpy")
    if int(found.partition(".")[0]) >= 2:
        raise Missing(f"is {found}; something in setup.pip has replaced the image's")
    return found


def _signals(context: RoleContext) -> str:
    handler = signal.getsignal(signal.SIGTERM)
    if getattr(handler, "__self__", None) is not context:
        raise Missing(f"SIGTERM is handled by {handler!r}: a stop would not be saved")
    return "SIGTERM saves"


def _gpus() -> str:
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if not names:
        raise Missing("PyTorch sees none; compare with nvidia-smi in the container")
    return f"{', '.join(names)}; torch {torch.__version__}, CUDA {torch.version.cuda}"


def _tasks() -> str:
    import gymnasium

    from trainer.errors import ConfigError
    from trainer.simulators.isaaclab_config import ENTRY_POINT, task_config
    from trainer.simulators.task_packages import import_packages

    import_packages([])
    names = [spec.id for spec in gymnasium.registry.values() if ENTRY_POINT in spec.kwargs]
    refused: list[str] = []
    broken: list[str] = []
    for name in names:
        try:
            task_config(name)
        except ConfigError:
            refused.append(name)
        except Exception as error:  # a task may need what the image lacks; the others still count
            broken.append(f"{name} ({type(error).__name__}: {error})")
    if not names:
        raise Missing("gymnasium's registry has none")
    told = f"{len(names)}, of which {len(refused)} have several agents"
    return told + (f"; no configuration can be made of {'; '.join(broken)}" if broken else "")


def _second(context: RoleContext) -> str:
    from trainer.config import Config
    from trainer.simulators.isaaclab_app import start_app

    try:
        start_app(Config.of(context.config))
    except RuntimeError as error:
        return str(error)
    raise Missing("it was started")


def main() -> None:
    """Look, and write what was found to where the role's last word would go."""
    role = RoleConfig.read(Path(os.environ[ROLE_CONFIG_VARIABLE]))
    context = RoleContext(role)
    context.reinstall_signals()
    checks: list[Check] = []
    for stage in (before_start(os.environ), start(context), after_start(context)):
        for check in stage:
            checks.append(check)
            # At once: what comes next may take the process with it.
            write_atomically(Path(role.outcome), json.dumps([asdict(each) for each in checks], indent=1))
    sys.stdout.flush()
    os._exit(0)  # Isaac Sim may hang when it is closed


if __name__ == "__main__":
    main()
