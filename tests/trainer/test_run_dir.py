"""The files that both halves read: markers, heartbeat, metrics."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.trainer.conftest import fill
from trainer.run_dir import Failure, FailureClass, Phase, RunDir, Status, read_json, write_atomically


def test_a_status_reads_back_as_it_was_written(run_dir):
    status = Status(Phase.TRAINING, 3, 100, 640, 12.5, 1.5, episode_return=None, attempt=2, heartbeat=1e9)
    run_dir.write_status(status)
    assert run_dir.read_status() == status


def test_nothing_written_yet_reads_as_none(run_dir):
    assert run_dir.read_status() is None
    assert run_dir.read_failure() is None
    assert run_dir.read_summary() is None
    assert run_dir.attempts() == []
    assert list(run_dir.read_metrics()) == []


def test_a_failure_reads_back_and_calls_its_class_class(run_dir):
    failure = Failure(FailureClass.OUT_OF_MEMORY, "ünïcode\nand lines", "Traceback …", 1, 4)
    run_dir.write_failure(failure)
    assert run_dir.read_failure() == failure
    assert json.loads(run_dir.failure.read_text())["class"] == "out-of-memory"


def test_success_takes_the_failure_of_an_earlier_attempt_away(run_dir):
    run_dir.write_failure(Failure(FailureClass.PREEMPTED, "earlier"))
    run_dir.write_success(2)
    assert json.loads(run_dir.success.read_text())["attempt"] == 2
    assert run_dir.read_failure() is None


def test_attempts_are_numbers_in_order(run_dir):
    for name in ("10", "2", "notes"):
        (run_dir.root / "attempts" / name).mkdir(parents=True)
    assert run_dir.attempts() == [2, 10]


def test_a_last_metrics_line_cut_short_is_left_out(run_dir):
    run_dir.root.mkdir()
    run_dir.metrics.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [line["step"] for line in run_dir.read_metrics()] == [1, 2]


def test_a_reader_never_sees_half_a_file(run_dir):
    """Fails when the file is written in place: some read then finds it empty or cut."""
    stop = threading.Event()
    write_atomically(run_dir.status, json.dumps({"n": 0}))

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            write_atomically(run_dir.status, json.dumps({"n": number, "padding": "x" * 20000}), durable=False)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [read_json(run_dir.status)["n"] for _ in range(500)]
    finally:
        stop.set()
        writer.join()
    assert seen == sorted(seen)


def test_a_full_disk_leaves_the_old_content_and_no_temporary_file(small_disk):
    file = small_disk / "status.json"
    write_atomically(file, "old")
    fill(small_disk)
    with pytest.raises(OSError, match="No space left") as error:
        write_atomically(file, "new" * 10_000)
    assert error.value.errno == errno.ENOSPC
    assert file.read_text() == "old"
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "status.json"]


def test_what_is_no_json_object_is_an_error_that_names_the_file(tmp_path):
    file = tmp_path / "plan.json"
    file.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"plan\.json: expected a JSON object"):
        read_json(file)


def test_the_module_needs_nothing_but_the_standard_library():
    """Both halves import it: the orchestrator where there is no torch, the trainer where there is no pydantic."""
    code = "import sys; before = set(sys.modules); import trainer.run_dir; print(*(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=Path(__file__).parents[2],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {name.partition(".")[0] for name in done.stdout.split()} - {"trainer"}
    assert imported <= set(sys.stdlib_module_names)


def test_paths_are_those_of_the_design(run_dir):
    root = Path("/runs/a")
    assert RunDir(root).log(3) == root / "attempts/3/log.txt"
    assert RunDir(root).exit_code(3) == root / "attempts/3/exit_code"
