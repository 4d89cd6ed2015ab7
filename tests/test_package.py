"""The wheel: what an installed Longshore brings with it, and that it does without the clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree without what git ignores: setuptools leaves its own files where it builds."""
    folder = tmp_path_factory.mktemp("sources")
    files = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in files:
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    run(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ".", cwd=sources)
    (built,) = folder.glob("longshore-*.whl")
    return built


def test_the_wheel_holds_every_file_that_the_packages_use_and_no_others(sources: Path, wheel: Path) -> None:
    wanted = {
        path.relative_to(sources).as_posix()
        for folder in ("orchestrator", "trainer")
        for path in (sources / folder).rglob("*")
        if path.is_file() and path.suffix in {".py", ".json", ".yaml", ".typed"}
    }
    for folder in ("containers", "templates", "schemas"):
        wanted |= {f"orchestrator/{p.relative_to(sources)}" for p in (sources / folder).rglob("*") if p.is_file()}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == wanted


def test_an_installed_wheel_renders_the_quickstart_far_from_the_clone(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--no-deps", "--target", site, wheel, cwd=tmp_path)
    job = tmp_path / "quickstart.yaml"
    job.write_bytes((ROOT / "jobs" / "quickstart.yaml").read_bytes())
    script = run(site / "bin" / "longshore", "render", job, cwd=tmp_path, PYTHONPATH=str(site))
    assert script.startswith("#!")
    assert "trainer" in script
