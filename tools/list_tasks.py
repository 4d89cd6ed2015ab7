"""Write orchestrator/tasks.json: the tasks that mjlab and Isaac Lab register.

Usage: python tools/list_tasks.py ISAACLAB_WHEEL

mjlab is asked itself, so it must be installed. Isaac Lab needs a GPU to import; its wheel (`pip download --no-deps
isaaclab==2.3.0`) is read instead.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

TASKS_FILE = Path(__file__).resolve().parents[1] / "orchestrator" / "tasks.json"
ISAACLAB_PACKAGE = "isaaclab_tasks/isaaclab_tasks/"
# `isaaclab_tasks/__init__.py` does not import these: they need pinocchio, which a user has to ask for.
ISAACLAB_NOT_IMPORTED = ("utils", ".mdp", "pick_place")
# Names of camera tasks and of their config classes, in Isaac Lab 2.3.
ISAACLAB_PIXELS = re.compile(r"Camera|RGB|Depth|Vision|Visuomotor|Theia|ResNet", re.IGNORECASE)


def mjlab_tasks() -> dict[str, str]:
    """Task names of the installed mjlab, with what each one observes."""
    import mjlab.tasks  # noqa: F401  registers them
    from mjlab.tasks.registry import list_tasks, load_env_cfg

    def kind(task: str) -> str:
        sensors = load_env_cfg(task).scene.sensors
        return "pixels" if any(type(sensor).__name__ == "CameraSensorCfg" for sensor in sensors) else "state"

    return {task: kind(task) for task in sorted(list_tasks())}


def isaaclab_tasks(wheel: Path) -> dict[str, str]:
    """Ids that importing `isaaclab_tasks` of a wheel registers with gymnasium, with what each task observes."""
    tasks = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            _, found, module = name.partition(ISAACLAB_PACKAGE)
            if not found or not module.endswith(".py"):
                continue
            if any(skipped in f".{module.replace('/', '.')}" for skipped in ISAACLAB_NOT_IMPORTED):
                continue
            tasks.update(_registered(archive.read(name).decode()))
    return dict(sorted(tasks.items()))


def _registered(source: str) -> dict[str, str]:
    tasks = {}
    for call in ast.walk(ast.parse(source)):
        if not (isinstance(call, ast.Call) and ast.unparse(call.func) in ("gym.register", "gymnasium.register")):
            continue
        arguments = {keyword.arg: keyword.value for keyword in call.keywords}
        task = ast.literal_eval(arguments["id"])
        kwargs = arguments.get("kwargs")
        config = ""
        if isinstance(kwargs, ast.Dict):
            config = next(
                ast.unparse(value)
                for key, value in zip(kwargs.keys, kwargs.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "env_cfg_entry_point"
            )
        tasks[task] = "pixels" if ISAACLAB_PIXELS.search(f"{task} {config}") else "state"
    return tasks


def main() -> None:
    """Write the file anew."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    wheel = Path(sys.argv[1])
    listed = {
        "isaaclab": {"version": wheel.name.split("-")[1], "tasks": isaaclab_tasks(wheel)},
        "mjlab": {"version": version("mjlab"), "tasks": mjlab_tasks()},
    }
    TASKS_FILE.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
