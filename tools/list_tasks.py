"""Write the lists of tasks that mjlab, dm_control and Isaac Lab register, with what each one shows.

Usage: .venv/bin/python tools/list_tasks.py [PYTHON]

mjlab and dm_control are asked in this interpreter, Isaac Lab in PYTHON (.venv-torch27/bin/python), with stubs in
place of Isaac Sim: see tools/isaaclab_registry.py. Written are orchestrator/jobfile/tasks.json, and for the trainer,
which must know it before Isaac Sim starts, trainer/simulators/isaaclab_tasks.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TASKS_FILE = ROOT / "orchestrator" / "jobfile" / "tasks.json"
CAMERA_FILE = ROOT / "trainer" / "simulators" / "isaaclab_tasks.py"
PYTHON = ROOT / ".venv-torch27" / "bin" / "python"

CAMERA_TASKS = """\
\"\"\"Isaac Lab {version}'s own tasks with cameras, for which Isaac Sim must be started with them. Imports no torch.

Written by tools/list_tasks.py.
\"\"\"

CAMERA_TASKS = frozenset(
    {{
{names}
    }}
)
"""


def mjlab_tasks() -> dict[str, str]:
    """Task names of the installed mjlab, with what each one observes."""
    import mjlab.tasks  # noqa: F401  registers them
    from mjlab.tasks.registry import list_tasks, load_env_cfg

    def kind(task: str) -> str:
        sensors = load_env_cfg(task).scene.sensors
        return "camera" if any(type(sensor).__name__ == "CameraSensorCfg" for sensor in sensors) else "state"

    return {task: kind(task) for task in sorted(list_tasks())}


def dm_control_tasks() -> dict[str, str]:
    """Task names of the installed dm_control; env.from_pixels shows any of them."""
    from dm_control import suite

    return {f"{domain}_{task}": "state" for domain, task in sorted(suite.ALL_TASKS)}


def isaaclab_registry(python: Path) -> dict[str, Any]:
    """What tools/isaaclab_registry.py says in an environment that has Isaac Lab's package."""
    command = [str(python), str(ROOT / "tools" / "isaaclab_registry.py")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        sys.exit(answer.stderr)
    registry: dict[str, Any] = json.loads(answer.stdout)
    return registry


def camera_tasks(release: str, kinds: Mapping[str, str]) -> str:
    """Content of the trainer's list."""
    names = (f'        "{task}",' for task, kind in kinds.items() if kind == "camera")
    return CAMERA_TASKS.format(version=release, names="\n".join(names))


def main() -> None:
    """Write the files anew."""
    registry = isaaclab_registry(Path(sys.argv[1]) if len(sys.argv) > 1 else PYTHON)
    kinds = {task: content["kind"] for task, content in registry["tasks"].items()}
    listed = {
        "isaaclab": {"version": registry["version"], "tasks": kinds},
        "mjlab": {"version": version("mjlab"), "tasks": mjlab_tasks()},
        "dm_control": {"version": version("dm_control"), "tasks": dm_control_tasks()},
    }
    TASKS_FILE.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    CAMERA_FILE.write_text(camera_tasks(registry["version"], kinds), encoding="utf-8")


if __name__ == "__main__":
    main()
