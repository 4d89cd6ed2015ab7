"""Writes requirements/*.txt from what is installed: run by `make lock`, after `pip install` of what is to change.

    .venv/bin/python tools/lock.py                   # run.txt, torch.txt, dev.txt, installers.txt
    .venv-torch27/bin/python tools/lock.py torch27   # torch27.txt

A lock holds the packages that pyproject.toml's lists lead to, each at the version that the running interpreter has.
Local versions (`+cpu`) are left out, so that any build of the release will do, and so are the packages below.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

# Asked for, but never imported on the way of a run without a window; what it would cost.
LEFT_OUT: Mapping[str, str] = {
    "torchvision": "rsl-rl-lib asks; brings a CUDA build of torch of several GB",
    "onnxscript": "mjlab and rsl-rl-lib ask, for exporting a policy with torch.onnx's newer exporter",
    "torchrunx": "mjlab asks, for its own multi-GPU launcher",
    "debugpy": "ipykernel asks, for breakpoints in notebooks; 20 MB",
    "jedi": "IPython asks, for completion at its prompt; 34 MB",
    "stack-data": "IPython asks, for coloured tracebacks",
    "matplotlib-inline": "IPython asks, for notebooks",
    "pexpect": "IPython asks, for its shell; the tests have it all the same",
    "prompt-toolkit": "IPython asks, for its prompt",
    "shtab": "tyro asks, for shell completion",
}
# Left out besides where torch is 2.7.0: CUDA libraries that nothing loaded on a CPU is linked to, what Isaac Lab's
# image, which that environment stands for, has not got either, and what only the orchestrator's tests need.
LEFT_OUT_OF_TORCH27 = (
    "dm-control",
    "ipykernel",
    "jsonschema",
    "mjlab",
    "mypy",
    "nbclient",
    "nvidia-cuda-nvrtc-cu12",
    "nvidia-cusolver-cu12",
    "nvidia-nvtx-cu12",
    "pandas",
    "pexpect",
    "playwright",
    "ruff",
    "triton",
    "types-jsonschema",
    "types-pyyaml",
)
# What Isaac Lab's package needs to import, with Isaac Sim's modules stubbed (tests/standin). Its own list leads to far
# more than that, and asks for older versions of what the image has newer.
ISAACLAB = ("einops", "flatdict", "prettytable", "scipy", "toml", "trimesh", "warp-lang")
ISAACLAB_ALONE = ("isaaclab", "torchvision")  # without what they ask for
# Installed with the CUDA libraries that its build for this platform asks for, if any.
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
    head = f"# {what}\n# Written by tools/lock.py: `make lock` makes it anew from what is installed.\n"
    pins = "".join(f"{package}=={version}\n" for package, version in sorted(versions.items()))
    (ROOT / "requirements" / name).write_text(head + pins, encoding="utf-8")
    print(f"requirements/{name}: {len(versions)} packages", file=sys.stderr)


def main(arguments: Sequence[str]) -> None:
    """Write the locks that the running interpreter's environment stands for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    skip = [*LEFT_OUT, *INSTALLERS]
    if list(arguments) == ["torch27"]:
        roots = [*extras["trainer"], *extras["isaac"], *extras["dev"], "gymnasium", "rich", *ISAACLAB]
        everything = closure(roots, skip=[*skip, *LEFT_OUT_OF_TORCH27])
        everything |= {name: version(name).partition("+")[0] for name in ISAACLAB_ALONE}
        write(
            "torch27.txt",
            "What Isaac Lab 2.3's image has, for `make test-torch27`. Installed with --no-deps.",
            everything,
        )
        return
    run = closure([*project["dependencies"], *extras["trainer"], *extras["export"]], skip=skip)
    torch = run.pop(TORCH)
    run = {name: version for name, version in run.items() if not name.startswith(CUDA)}
    write("installers.txt", "What installs the rest. Installed first.", closure(INSTALLERS))
    write("torch.txt", "Installed next, with the CUDA libraries of its build, if any.", {TORCH: torch})
    write("run.txt", "What `make demo` needs besides. Installed with --no-deps.", run)
    roots = [*extras["dev"], *extras["ray"]]
    wanted = {canonicalize_name(Requirement(root).name) for root in roots}
    dev = closure(roots, skip=[*run, *INSTALLERS, *(LEFT_OUT.keys() - wanted)])
    write("dev.txt", "What `make test` and `make lint` need besides run.txt. Installed with --no-deps.", dev)


if __name__ == "__main__":
    main(sys.argv[1:])
