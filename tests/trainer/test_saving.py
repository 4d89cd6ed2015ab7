"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from trainer import saving
from trainer.checkpoint import load_latest
from trainer.run_dir import RunDir
from trainer.saving import BackgroundSaver


def save(saver: BackgroundSaver, step: int, part: object, *, background: bool = True) -> None:
    saver.save(step, {"replay": part}, score=None, compress=("replay",), background=background)


def test_what_is_written_is_what_was_there_when_it_was_saved(run_dir, monkeypatch):
    may_write, write = threading.Event(), saving.save
    monkeypatch.setattr(saving, "save", lambda *arguments, **words: (may_write.wait(30), write(*arguments, **words)))
    saver, rows = BackgroundSaver(run_dir, 2), torch.zeros(5)
    save(saver, 1, {"rows": [rows], "count": 3})
    rows.fill_(7)  # the step that comes next
    assert saver.busy
    may_write.set()
    saver.wait()
    assert not saver.busy
    loaded = load_latest(run_dir)
    assert loaded.parts["replay"]["count"] == 3
    assert not loaded.parts["replay"]["rows"][0].any()


@pytest.mark.parametrize("background", [True, False])
def test_of_a_ring_that_is_not_full_only_what_it_holds_is_written(run_dir, background):
    saver, ring = BackgroundSaver(run_dir, 1), torch.randn(1 << 20)  # 4 MiB
    saver.save(1, {"replay": [ring[:10]]}, score=None, compress=(), background=background)
    saver.wait()
    assert load_latest(run_dir).parts["replay"][0].equal(ring[:10])
    assert sum(path.stat().st_size for path in (run_dir.checkpoints / "latest").iterdir()) < 1 << 14


def test_one_checkpoint_is_written_at_a_time(run_dir):
    saver = BackgroundSaver(run_dir, 3)
    for step in (1, 2, 3):
        save(saver, step, torch.randn(1 << 18))
    saver.wait()
    assert load_latest(run_dir).step == 3
    assert len(list(run_dir.checkpoints.glob("step_*"))) == 3


def test_saving_takes_the_caller_a_fraction_of_what_writing_takes(run_dir):
    saver, rows = BackgroundSaver(run_dir, 1), torch.randn(1 << 24)  # 64 MiB
    started = time.monotonic()
    save(saver, 1, rows)
    saved = time.monotonic() - started
    saver.wait()
    assert saved < (time.monotonic() - started) / 4


def test_a_disk_that_was_full_in_the_background_is_told_when_the_next_one_is_due(small_disk):
    run_dir = RunDir(small_disk)
    saver = BackgroundSaver(run_dir, 1)
    save(saver, 1, torch.randn(1 << 20))
    with pytest.raises(OSError, match="No space left on device"):
        save(saver, 2, torch.randn(4))
    save(saver, 3, torch.randn(4))  # there is room again
    saver.wait()
    assert load_latest(run_dir).step == 3


def test_the_last_word_is_written_even_if_the_checkpoint_before_it_could_not_be(small_disk):
    run_dir = RunDir(small_disk)
    saver = BackgroundSaver(run_dir, 1)
    save(saver, 1, torch.randn(1 << 20))
    save(saver, 2, torch.randn(4), background=False)
    assert os.readlink(run_dir.checkpoints / "latest") == "step_00000002"
    assert [path.name for path in (run_dir.checkpoints / "latest").glob("replay*")] == ["replay.pt"]


def test_what_gzip_would_be_busy_with_for_long_is_written_as_it_is(run_dir, monkeypatch):
    monkeypatch.setattr(saving, "COMPRESSED", 400)
    saver = BackgroundSaver(run_dir, 2)
    for step, rows in ((1, 100), (2, 101)):
        save(saver, step, {"rows": [torch.zeros(rows, dtype=torch.int32)]})
        saver.wait()
    files = {path.parent.name: path.name for path in run_dir.checkpoints.glob("step_*/replay*")}
    assert files == {"step_00000001": "replay.pt.gz", "step_00000002": "replay.pt"}
