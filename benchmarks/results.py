"""Figures with what they were measured on, as JSON: benchmarks/results/<name>-<GPU>.json."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Machine:
    """What a benchmark ran on; `gpus` is empty where it used none."""

    cores: int | None
    cpu: str
    system: str
    gpus: tuple[str, ...] = ()

    @classmethod
    def here(cls) -> Machine:
        """This machine. GPUs are looked for where the benchmark has imported torch or jax, and nowhere else."""
        gpus: tuple[str, ...] = ()
        if torch := sys.modules.get("torch"):
            gpus = tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        elif jax := sys.modules.get("jax"):
            gpus = tuple(device.device_kind for device in jax.devices() if device.platform == "gpu")
        return cls(os.cpu_count(), _cpu(), _system(), gpus)

    @property
    def label(self) -> str:
        """For a file's name: the first GPU, as in `h200`, or `cpu`; not its memory, of which some names tell."""
        name = self.gpus[0].lower().removeprefix("nvidia ") if self.gpus else "cpu"
        return re.sub(r"[^a-z0-9]+", "-", re.sub(r" \d+gb\b.*", "", name)).strip("-")


def result_path(name: str) -> Path:
    """Where the figures of a benchmark belong that depends on the GPU."""
    return RESULTS / f"{name}-{Machine.here().label}.json"


def write_result(
    path: Path,
    figures: Sequence[DataclassInstance],
    packages: Sequence[str],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write figures with date, machine, and versions of Python and of `packages`."""
    machine = asdict(Machine.here())
    if not machine["gpus"]:
        del machine["gpus"]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        **({"settings": dict(settings)} if settings else {}),
        "figures": [asdict(figure) for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def save_result(
    option: Path | None,
    name: str,
    figures: Sequence[DataclassInstance],
    packages: Sequence[str],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write figures where `--json` says: to its FILE, to `result_path(name)` without one, nowhere where it is None."""
    if option is None:
        return
    path = option if option.name else result_path(name)
    write_result(path, figures, packages, settings)
    print(f"written to {path}", file=sys.stderr)


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line for line in lines if line.startswith("model name")), "")
    return model.partition(": ")[2]


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()
