"""The snapshot: which files ship, what is recorded of their state, and how they are stored."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from orchestrator import snapshot as module
from orchestrator.assets import trainer_folder
from orchestrator.errors import LongshoreError
from orchestrator.snapshot import store_snapshot, take_snapshot


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A committed repository with a trainer package, and files beside it that must not ship."""
    root = tmp_path / "repo"
    package = root / "trainer"
    (package / "conf").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("print('hello')\n")
    (package / "conf" / "config.yaml").write_text("seed: 0\n")
    (root / "README.md").write_text("not shipped\n")
    (root / ".gitignore").write_text("__pycache__/\n*.log\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "Start")
    return root


def shipped(package: Path) -> list[str]:
    return [file.path for file in take_snapshot(package).files]


def test_tracked_and_untracked_files_ship_and_ignored_ones_do_not(repository):
    package = repository / "trainer"
    (package / "new.py").write_text("x = 1\n")
    (package / "debug.log").write_text("noise")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "new.pyc").write_bytes(b"\0")
    assert shipped(package) == ["__init__.py", "__main__.py", "conf/config.yaml", "new.py"]


def test_a_tracked_file_that_was_deleted_does_not_ship(repository):
    (repository / "trainer" / "__main__.py").unlink()
    assert shipped(repository / "trainer") == ["__init__.py", "conf/config.yaml"]


def test_a_file_name_with_a_newline_and_quotes_ships_under_its_own_name(repository):
    name = 'we"ird\nname é.py'
    (repository / "trainer" / name).write_text("x = 1\n")
    assert name in shipped(repository / "trainer")


def test_a_clean_tree_records_commit_and_branch_and_no_diff(repository):
    state = take_snapshot(repository / "trainer").git
    assert state is not None
    assert (state.commit, state.branch) == (git(repository, "rev-parse", "HEAD"), "main")
    assert (state.dirty, state.diff) == (False, "")


def test_a_change_outside_of_the_trainer_does_not_make_the_snapshot_dirty(repository):
    (repository / "README.md").write_text("changed\n")
    state = take_snapshot(repository / "trainer").git
    assert state is not None
    assert not state.dirty


def test_the_recorded_diff_applied_to_the_recorded_commit_gives_what_was_shipped(repository, tmp_path):
    package = repository / "trainer"
    (package / "__main__.py").write_text("print('changed')\n")
    (package / "conf" / "config.yaml").unlink()
    (package / "new.py").write_text("no newline at the end")
    (package / "run.sh").write_text("#!/bin/sh\n")
    (package / "run.sh").chmod(0o755)
    (package / "empty.py").touch()
    taken = take_snapshot(package)
    assert taken.git is not None
    assert taken.git.dirty
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", os.fspath(repository), os.fspath(clone))
    git(clone, "checkout", "-q", taken.git.commit)
    subprocess.run(["git", "apply"], cwd=clone, input=taken.git.diff, text=True, check=True)
    assert take_snapshot(clone / "trainer").digest == taken.digest


def test_before_the_first_commit_everything_counts_as_added(tmp_path):
    package = tmp_path / "trainer"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    state = take_snapshot(package).git
    assert state is not None
    assert (state.commit, state.branch, state.dirty) == ("", "main", True)
    assert "+x = 1" in state.diff


def test_a_huge_diff_is_cut_with_a_note(repository):
    (repository / "trainer" / "table.py").write_text("x = 1\n" * module.DIFF_LIMIT)
    state = take_snapshot(repository / "trainer").git
    assert state is not None
    assert len(state.diff) < module.DIFF_LIMIT + 100
    assert "[cut here: the whole diff has" in state.diff


def test_a_binary_file_ships_and_is_named_in_the_diff(repository):
    (repository / "trainer" / "weights.bin").write_bytes(b"\0\xff" * 10)
    state = take_snapshot(repository / "trainer").git
    assert state is not None
    assert "Binary files /dev/null and b/trainer/weights.bin differ" in state.diff


def test_a_folder_outside_of_git_ships_all_files_but_caches(tmp_path):
    package = tmp_path / "trainer"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"\0")
    (package / "__init__.py").write_text("")
    (package / "notes.log").write_text("ships: nothing says that it should not")
    taken = take_snapshot(package)
    assert [file.path for file in taken.files] == ["__init__.py", "notes.log"]
    assert (taken.git, taken.notes) == (None, ())


def test_a_package_installed_in_an_ignored_environment_inside_a_repository_is_a_plain_folder(repository):
    package = repository / ".venv" / "trainer"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    with (repository / ".gitignore").open("a") as ignored:
        ignored.write(".venv/\n")
    taken = take_snapshot(package)
    assert ([file.path for file in taken.files], taken.git) == (["__init__.py"], None)


def test_without_git_on_the_path_all_files_ship(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    taken = take_snapshot(repository / "trainer")
    assert len(taken.files) == 3
    assert taken.git is None


def test_variables_of_a_git_hook_do_not_lead_to_another_repository(repository, monkeypatch, tmp_path):
    git(tmp_path, "init", "-q", "other")
    monkeypatch.setenv("GIT_DIR", os.fspath(tmp_path / "other" / ".git"))
    assert len(shipped(repository / "trainer")) == 3


def test_a_link_inside_the_package_ships_as_a_link(repository, tmp_path):
    (repository / "trainer" / "alias.py").symlink_to("conf/config.yaml")
    (repository / "trainer" / "settings").symlink_to("conf")
    stored = store_snapshot(take_snapshot(repository / "trainer"), tmp_path / "runs") / "trainer"
    assert os.readlink(stored / "alias.py") == "conf/config.yaml"
    assert (stored / "settings" / "config.yaml").read_text() == "seed: 0\n"


@pytest.mark.parametrize("target", ["../README.md", "/etc/hostname", "conf/../../README.md"])
def test_a_link_out_of_the_package_is_refused(repository, target):
    (repository / "trainer" / "alias").symlink_to(target)
    with pytest.raises(LongshoreError, match=r"alias: links to .* outside of"):
        take_snapshot(repository / "trainer")


def test_a_repository_inside_the_package_is_refused(repository):
    inner = repository / "trainer" / "vendored"
    inner.mkdir()
    (inner / "a.py").write_text("")
    git(inner, "init", "-q")
    with pytest.raises(LongshoreError, match="a git repository of its own cannot ship"):
        take_snapshot(repository / "trainer")


def test_a_missing_or_empty_folder_is_an_error(tmp_path):
    with pytest.raises(LongshoreError, match="no such folder"):
        take_snapshot(tmp_path / "nowhere")
    with pytest.raises(LongshoreError, match="no files to ship"):
        take_snapshot(tmp_path)


def test_the_digest_depends_on_path_mode_and_content_alone(repository, tmp_path):
    package = repository / "trainer"
    first = take_snapshot(package)
    os.utime(package / "__main__.py", (0, 0))
    assert take_snapshot(package).digest == first.digest
    (package / "__main__.py").chmod(0o755)
    executable = take_snapshot(package)
    (package / "__main__.py").rename(package / "main.py")
    renamed = take_snapshot(package)
    assert len({first.digest, executable.digest, renamed.digest}) == 3


def test_the_stored_snapshot_has_the_files_with_their_executable_bits(repository, tmp_path):
    script = repository / "trainer" / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    taken = take_snapshot(repository / "trainer")
    folder = store_snapshot(taken, tmp_path / "runs")
    assert folder == tmp_path / "runs" / "snapshots" / taken.digest
    assert os.access(folder / "trainer" / "run.sh", os.X_OK)
    assert take_snapshot(folder / "trainer").digest == taken.digest


def test_storing_again_changes_nothing_even_when_the_source_has_moved_on(repository, tmp_path):
    taken = take_snapshot(repository / "trainer")
    folder = store_snapshot(taken, tmp_path)
    (repository / "trainer" / "__main__.py").write_text("moved on")
    assert store_snapshot(taken, tmp_path) == folder
    assert (folder / "trainer" / "__main__.py").read_text() == "print('hello')\n"


@pytest.mark.parametrize("change", ["edit", "delete", "make executable"])
def test_a_file_that_changes_between_hashing_and_copying_is_an_error_and_leaves_nothing(repository, tmp_path, change):
    taken = take_snapshot(repository / "trainer")
    path = repository / "trainer" / "__main__.py"
    match change:
        case "edit":
            path.write_text("print('other')\n")
        case "delete":
            path.unlink()
        case _:
            path.chmod(0o755)
    with pytest.raises(LongshoreError, match=r"__main__.py: changed while the snapshot was taken"):
        store_snapshot(taken, tmp_path / "runs")
    assert list((tmp_path / "runs" / "snapshots").iterdir()) == []


def test_a_stored_snapshot_that_somebody_edited_is_an_error(repository, tmp_path):
    taken = take_snapshot(repository / "trainer")
    folder = store_snapshot(taken, tmp_path)
    (folder / "trainer" / "__main__.py").write_text("edited")
    with pytest.raises(LongshoreError, match="differs from what was stored"):
        store_snapshot(taken, tmp_path)


def test_a_home_that_cannot_be_written_is_one_clear_error(repository, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LongshoreError, match="the snapshot cannot be stored"):
        store_snapshot(take_snapshot(repository / "trainer"), tmp_path / "file")


def test_twenty_submitters_at_once_store_one_complete_copy(repository, tmp_path):
    taken = take_snapshot(repository / "trainer")
    start = threading.Barrier(20)
    errors: list[BaseException] = []

    def store() -> None:
        start.wait()
        try:
            store_snapshot(taken, tmp_path / "runs")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=store) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [entry.name for entry in (tmp_path / "runs" / "snapshots").iterdir()] == [taken.digest]


def test_the_projects_own_trainer_is_hashed_quickly():
    """Processor time, git's included: tests share the machine."""
    take_snapshot(trainer_folder())
    before = os.times()
    for _ in range(10):
        take_snapshot(trainer_folder())
    after = os.times()
    assert sum(after[:4]) - sum(before[:4]) < 10 * 0.05  # seconds; `plan` as a whole has 0.6
