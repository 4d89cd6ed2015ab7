"""Writes the lock files beside it from what is installed: run by `make lock`, after `pip install` of what is to change.

A lock holds the packages that pyproject.toml's lists lead to, each at the version that the running interpreter has.
Local versions (`+cpu`) are left out, so that any build of the release will do, and so are the packages below.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent

# Asked for, but never imported on the way of a run without a window; what it would cost.
LEFT_OUT: Mapping[str, str] = {
    "torchvision": "rsl-rl-lib asks; brings a CUDA build of torch of several GB",
    "onnxscript": "mjlab and rsl-rl-lib ask, for exporting a policy with torch.onnx's newer exporter",
    "torchrunx": "mjlab asks, for its own multi-GPU launcher",
    "jedi": "IPython asks, for completion at its prompt; 34 MB",
    "stack-data": "IPython asks, for coloured tracebacks",
    "matplotlib-inline": "IPython asks, for notebooks",
    "pexpect": "IPython asks, for its shell; the tests have it all the same",
    "prompt-toolkit": "IPython asks, for its prompt",
    "shtab": "tyro asks, for shell completion",
}
# Installed last, with the CUDA libraries that its build for this platform asks for, if any.
TORCH = "torch"
CUDA = ("cuda-", "nvidia-", "triton")
# Installed first: pip, and what builds the one package that has no wheel.
INSTALLERS = ("pip", "setuptools")


def closure(roots: Iterable[str], skip: Iterable[str] = ()) -> dict[str, str]:
    """Versions, by canonical name, of the installed packages that `roots` lead to.

    Args:
        roots: Requirements as in pyproject.toml.
        skip: Names to leave out, with what only they lead to.

    Raises:
        SystemExit: One of them is not installed.
    """
    skipped = {canonicalize_name(name) for name in skip}
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(Requirement(root), "pyproject.toml") for root in roots]
    while waiting:
        requirement, wanted_by = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in skipped or (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name}, which {wanted_by} asks for, is not installed in {sys.prefix}") from None
        found[name] = package.version.partition("+")[0]
        for line in package.requires or ():
            child = Requirement(line)
            extras = requirement.extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append((child, name))
    return found


def write(name: str, what: str, versions: Mapping[str, str]) -> None:
    """Replace the lock `name`, sorted, with a head that says what it is for."""
    head = f"# {what}\n# Written by requirements/lock.py: `make lock` makes it anew from what is installed.\n"
    pins = "".join(f"{package}=={version}\n" for package, version in sorted(versions.items()))
    (HERE / name).write_text(head + pins, encoding="utf-8")
    print(f"requirements/{name}: {len(versions)} packages", file=sys.stderr)


def main() -> None:
    """Write all locks of the running interpreter's environment."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    run = closure([*project["dependencies"], *extras["trainer"]], skip=[*LEFT_OUT, *INSTALLERS])
    torch = run.pop(TORCH)
    run = {name: version for name, version in run.items() if not name.startswith(CUDA)}
    dev = closure(extras["dev"], skip=[*run, *INSTALLERS])
    write("installers.txt", "What installs the rest. Installed first.", closure(INSTALLERS))
    write("run.txt", "What `make demo` needs, torch aside. Installed with --no-deps.", run)
    write("torch.txt", "Installed last, with the CUDA libraries of its build, if any.", {TORCH: torch})
    write("dev.txt", "What `make test` and `make lint` need besides run.txt. Installed with --no-deps.", dev)


if __name__ == "__main__":
    main()
