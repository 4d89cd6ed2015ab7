"""Files of a sweep's runs: together until a run needs its own directory, and then the same as those of any run."""

from __future__ import annotations

import subprocess
import tarfile
from datetime import timedelta
from pathlib import Path

import pytest
from local_runs import BACKEND, COUNT, SUCCEED, WAIT_FOR_GO, backend_for, sweep

from orchestrator.errors import LongshoreError
from orchestrator.prune import candidates, remove
from orchestrator.resume import resume
from orchestrator.runs import RunStore
from orchestrator.states import RunState
from orchestrator.submit import execute
from orchestrator.sweep_files import discard, pack, sweep_folder, unpack
from orchestrator.waiting import wait
from orchestrator.watch import cancel

FILES = {
    f"s-{number:03d}": {"job.yaml": f"name: λ{number}\n", "setup-and-run.sh": f"echo {number}\n", "git.json": "{}\n"}
    for number in range(3)
}


@pytest.fixture
def packed(home: Path) -> Path:
    pack(sweep_folder(home, "s"), FILES, ["git.json", "job.sbatch"])
    return home


def files_of(run_dir: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in run_dir.iterdir()}


def test_a_run_gets_all_its_files_and_no_other_run_does(packed: Path):
    unpack([packed / "s-001"])
    assert files_of(packed / "s-001") == FILES["s-001"]
    assert not (packed / "s-000").exists()


def test_a_node_lays_out_the_same_files_with_tar_and_cp(packed: Path):
    """The commands of templates/job.sbatch.j2."""
    folder = sweep_folder(packed, "s")
    command = ["tar", "-xf", folder / "runs.tar", "--no-same-owner", "-C", packed, "--", "s-002"]
    subprocess.run([str(word) for word in command], check=True)
    subprocess.run(f"cp -- '{folder}'/common/* '{packed}/s-002/'", shell=True, check=True)
    assert files_of(packed / "s-002") == FILES["s-002"]


@pytest.mark.parametrize("length", [80, 120])
def test_the_archive_is_one_that_tar_and_python_read(home: Path, length: int):
    """Names of more than a hundred bytes are written in another way."""
    name = "s" * length + "-000"
    pack(sweep_folder(home, "long"), {name: {"job.yaml": "x" * 513, "empty": ""}}, [])
    archive = sweep_folder(home, "long") / "runs.tar"
    with tarfile.open(archive) as read:
        found = {member.name: (member.size, member.mode, member.isfile()) for member in read}
    assert found == {f"{name}/job.yaml": (513, 0o644, True), f"{name}/empty": (0, 0o644, True)}
    listed = subprocess.run(["tar", "-tf", archive], capture_output=True, text=True, check=True)
    assert (sorted(listed.stdout.split()), listed.stderr) == (sorted(found), "")


def test_what_is_there_already_stays_as_it_is(packed: Path):
    (packed / "s-000").mkdir()
    (packed / "s-000" / "setup-and-run.sh").write_text("echo edited\n")
    unpack([packed / "s-000"])
    assert files_of(packed / "s-000") == FILES["s-000"] | {"setup-and-run.sh": "echo edited\n"}


def test_a_run_of_no_sweep_is_left_alone(packed: Path):
    unpack([packed / "alone", packed / "t-001"])
    assert sorted(path.name for path in packed.iterdir()) == ["sweeps"]
    discard(packed, [""])
    assert sweep_folder(packed, "s").exists()


def test_files_are_never_laid_over_those_of_another_plan(packed: Path):
    with pytest.raises(OSError, match="not empty"):
        pack(sweep_folder(packed, "s"), {"s-000": {"job.yaml": "other"}}, [])
    assert [path.name for path in (packed / "sweeps").iterdir()] == ["s"]
    unpack([packed / "s-000"])
    assert files_of(packed / "s-000") == FILES["s-000"]


def test_a_damaged_archive_is_one_error(packed: Path):
    (sweep_folder(packed, "s") / "runs.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(LongshoreError, match="files of runs cannot be unpacked"):
        unpack([packed / "s-000"])


def test_runs_that_wait_have_no_directory_and_get_it_when_they_start(home: Path):
    store = RunStore(home)
    execute(sweep(home, "s", [COUNT + WAIT_FOR_GO + SUCCEED, COUNT + SUCCEED]), store, BACKEND, {})
    assert (home / "s-000" / "job.yaml").exists()
    assert not (home / "s-001").exists()
    (home / "s-000" / "go").touch()
    ended = wait(store, backend_for, ["s-000", "s-001"], timeout=30, interval=0.05)
    assert [record.state for record in ended] == [RunState.SUCCEEDED] * 2
    assert {"job.yaml", "setup-and-run.sh", "starts"} <= names_in(home / "s-001")


def test_a_run_that_was_cancelled_before_its_start_can_be_resumed(home: Path):
    store = RunStore(home)
    execute(sweep(home, "s", [WAIT_FOR_GO + SUCCEED, COUNT + SUCCEED]), store, BACKEND, {})
    cancel(store, backend_for, [store.get("s-001")], timedelta(0))
    resume(store, store.get("s-001"), [], None)
    (home / "s-000" / "go").touch()
    wait(store, backend_for, ["s-000", "s-001"], timeout=30, interval=0.05)
    assert store.get("s-001").state is RunState.SUCCEEDED


def test_the_files_of_a_sweep_go_with_the_last_of_its_runs(home: Path):
    store = RunStore(home)
    execute(sweep(home, "s", [SUCCEED] * 2), store, BACKEND, {})
    wait(store, backend_for, ["s-000", "s-001"], timeout=30, interval=0.05)
    first, second = candidates(store.list(), store.get("s-001").updated + 1)
    remove(store, [first])
    assert sweep_folder(home, "s").exists()
    remove(store, [second])
    assert not sweep_folder(home, "s").exists()


def names_in(run_dir: Path) -> set[str]:
    return {path.name for path in run_dir.iterdir()}
