"""Packages of the user's own that register tasks: found where the set-up has installed them, and imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trainer.errors import ConfigError
from trainer.run_dir import CODE_VARIABLE
from trainer.simulators.task_packages import import_packages, installed_code


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the set-up installs to, on the path; Isaac Lab's own tasks are an empty module here."""
    (tmp_path / "isaaclab_tasks.py").write_text("")
    monkeypatch.setenv(CODE_VARIABLE, str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("isaaclab_tasks", "my_tasks", "mine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def install(folder: Path, name: str, files: dict[str, str]) -> None:
    """As pip leaves a package."""
    record = folder / f"{name}-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (record / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)


def test_what_a_package_has_at_the_top_is_found_and_what_lies_below_is_not(code: Path):
    install(
        code, "My-Tasks", {"my_tasks/__init__.py": "", "my_tasks/deep/__init__.py": "", "mine.py": "", "a/b.txt": ""}
    )
    install(code, "torchrl", {"torchrl/__init__.py": "raise RuntimeError"})
    assert installed_code() == ["mine", "my_tasks"]


def test_packages_of_the_set_up_are_imported_unless_the_job_names_others(code: Path):
    install(code, "my-tasks", {"my_tasks/__init__.py": "", "mine.py": ""})
    import_packages(["mine"])
    assert "mine" in sys.modules
    assert "my_tasks" not in sys.modules
    import_packages(None)
    assert "my_tasks" in sys.modules


def test_a_package_that_cannot_be_imported_is_the_jobs_fault_and_the_way_round_it_is_said(code: Path):
    install(code, "my-tasks", {"my_tasks/__init__.py": "import not_there"})
    with pytest.raises(
        ConfigError, match=r"setup\.code: 'my_tasks' cannot be imported: .*not_there.*env\.packages names"
    ):
        import_packages(None)


def test_without_packages_of_ones_own_there_are_none(code: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(CODE_VARIABLE)
    assert installed_code() == []
