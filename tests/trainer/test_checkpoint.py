"""Checkpoints: whole or not there."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.conftest import fill
from trainer.checkpoint import MANIFEST, CorruptCheckpoint, load, load_latest, save, verify
from trainer.run_dir import RunDir


def parts(value: float = 1.0) -> dict[str, object]:
    weights = torch.nn.Linear(4, 3)
    torch.nn.init.constant_(weights.weight, value)
    optimizer = torch.optim.Adam(weights.parameters())
    weights(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return {
        "learner": {"weights": weights.state_dict(), "optimizer": optimizer.state_dict(), "step": 3, "note": None},
        "random": {"python": random.getstate(), "torch": torch.get_rng_state()},
        "replay": {"rows": torch.full((100, 16), value), "shape": torch.Size([100]), "done": [True, False]},
    }


def steps(run_dir: RunDir) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in run_dir.checkpoints.glob("step_*"))


def leftovers(run_dir: RunDir) -> list[str]:
    return [path.name for path in run_dir.checkpoints.iterdir() if path.name.startswith(".")]


def test_what_is_saved_loads_bit_for_bit(run_dir):
    saved = parts(0.1)
    folder = save(run_dir, 7, saved, keep=2)
    loaded = load_latest(run_dir)
    assert (loaded.step, loaded.path) == (7, folder.resolve())
    assert loaded.parts["random"]["python"] == random.getstate()
    assert torch.equal(loaded.parts["replay"]["rows"], saved["replay"]["rows"])
    torch.testing.assert_close(loaded.parts["learner"], saved["learner"], rtol=0, atol=0)


def test_the_manifest_says_with_what_it_was_written(run_dir):
    run_dir.root.mkdir()
    run_dir.config.write_text("seed: 0\n")
    manifest = verify(save(run_dir, 1, {"a": 1}, keep=1))
    assert torch.__version__.startswith(manifest["versions"]["torch"])  # +cu126 is not in every build's metadata
    assert len(manifest["config"]) == 64
    assert set(manifest["files"]) == {"a.pt"}


def test_no_checkpoint_is_none(run_dir):
    assert load_latest(run_dir) is None


def test_the_last_k_are_kept_and_latest_is_the_newest(run_dir):
    for step in (10, 20, 30, 40):
        save(run_dir, step, {"a": step}, keep=2)
    assert steps(run_dir) == [30, 40]
    assert os.readlink(run_dir.checkpoints / "latest") == "step_00000040"
    assert not leftovers(run_dir)


def best(run_dir: RunDir) -> str | None:
    link = run_dir.checkpoints / "best"
    return os.readlink(link) if link.is_symlink() else None


def test_the_best_stays_beside_the_newest(run_dir):
    for step, score in ((10, 1.0), (20, 5.0), (30, None), (40, 4.0), (50, 3.0)):
        save(run_dir, step, {"a": step}, keep=2, score=score)
    assert (steps(run_dir), best(run_dir)) == ([20, 40, 50], "step_00000020")
    save(run_dir, 60, {"a": 60}, keep=2, score=5.0)
    assert (steps(run_dir), best(run_dir)) == ([50, 60], "step_00000060")


def test_the_best_of_a_past_that_the_run_went_back_behind_does_not_count(run_dir):
    for step, score in ((10, 1.0), (20, 5.0)):
        save(run_dir, step, {"a": step}, keep=2, score=score)
    save(run_dir, 15, {"a": 15}, keep=2, score=0.5)
    assert (steps(run_dir), best(run_dir)) == ([10, 15], "step_00000015")
    save(run_dir, 16, {"a": 16}, keep=2)
    assert (steps(run_dir), best(run_dir)) == ([15, 16], "step_00000015")


def test_compressed_parts_are_smaller_load_bit_for_bit_and_are_verified(run_dir):
    saved = {**parts(), "replay": {"rows": torch.randint(9, (1000, 16))}}
    folder = save(run_dir, 1, saved, keep=1, compress=("replay",))
    assert (folder / "replay.pt.gz").stat().st_size < saved["replay"]["rows"].nbytes / 4
    assert torch.equal(load(folder).parts["replay"]["rows"], saved["replay"]["rows"])
    os.truncate(folder / "replay.pt.gz", 1000)
    with pytest.raises(CorruptCheckpoint, match=r"replay\.pt\.gz: 1000 bytes"):
        load(folder)


@pytest.mark.parametrize("compress", [(), ("replay",)], ids=["plain", "compressed"])
def test_a_full_disk_is_told_whatever_was_being_written(small_disk, compress):
    run_dir = RunDir(small_disk)
    with pytest.raises(OSError, match="No space left on device"):
        save(run_dir, 1, {"replay": torch.randn(1 << 20)}, keep=1, compress=compress)
    assert not leftovers(run_dir)


def test_a_broken_or_missing_latest_gives_the_newest(run_dir):
    for step in (10, 20):
        save(run_dir, step, {"a": step}, keep=2)
    link = run_dir.checkpoints / "latest"
    link.unlink()
    assert load_latest(run_dir).step == 20
    link.symlink_to("step_00000099")
    assert load_latest(run_dir).step == 20


def test_latest_may_be_pointed_to_an_older_one(run_dir):
    for step in (10, 20):
        save(run_dir, step, {"a": step}, keep=2)
    link = run_dir.checkpoints / "latest"
    link.unlink()
    link.symlink_to("step_00000010")
    assert load_latest(run_dir).step == 10


@pytest.mark.parametrize("name", ["learner.pt", "random.pt", "replay.pt", MANIFEST])
def test_a_file_cut_anywhere_is_noticed_and_the_one_before_is_used(run_dir, name, caplog):
    """At every tenth of its length, as a crash of the machine leaves it."""
    save(run_dir, 10, parts(), keep=2)
    file = save(run_dir, 20, parts(), keep=2) / name
    whole = file.read_bytes()
    for tenth in range(10):
        file.write_bytes(whole[: len(whole) * tenth // 10])
        with pytest.raises(CorruptCheckpoint):
            verify(file.parent)
        assert load_latest(run_dir).step == 10
    assert "step_00000020 is left out" in caplog.text
    file.write_bytes(whole)
    assert load_latest(run_dir).step == 20


def test_a_changed_byte_is_noticed(run_dir):
    file = save(run_dir, 10, parts(), keep=1) / "replay.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=r"replay\.pt: its content has changed"):
        load(file.parent)


def test_a_missing_file_is_noticed(run_dir):
    folder = save(run_dir, 10, parts(), keep=1)
    (folder / "replay.pt").unlink()
    with pytest.raises(CorruptCheckpoint, match=r"replay\.pt: No such file"):
        load(folder)


def test_corrupt_checkpoints_of_later_steps_do_not_push_out_good_ones(run_dir):
    """The run went back behind step 30 and saves again: with keep=1 the new one stays, not the corrupt one."""
    save(run_dir, 20, {"a": 20}, keep=2)
    (save(run_dir, 30, {"a": 30}, keep=2) / "a.pt").write_bytes(b"")
    save(run_dir, 25, {"a": 25}, keep=1)
    assert steps(run_dir) == [25]
    assert load_latest(run_dir).parts == {"a": 25}


def test_saving_a_step_again_replaces_it(run_dir):
    save(run_dir, 0, {"a": "first"}, keep=1)
    save(run_dir, 0, {"a": "second"}, keep=1)
    assert load_latest(run_dir).parts == {"a": "second"}
    assert not leftovers(run_dir)


def test_a_crash_while_a_step_is_replaced_loses_nothing(run_dir):
    folder = save(run_dir, 5, {"a": "first"}, keep=1)
    folder.rename(folder.with_name(f".replaced-{folder.name}"))  # and here the machine went down
    assert load_latest(run_dir).parts == {"a": "first"}


def test_what_a_crash_left_unfinished_is_swept_at_the_start(run_dir):
    folder = save(run_dir, 5, {"a": 1}, keep=2)
    shutil.copytree(folder, run_dir.checkpoints / ".tmp-step_00000009")
    assert load_latest(run_dir).step == 5
    assert not leftovers(run_dir)


@pytest.mark.parametrize("step", [10, 20])
def test_a_full_disk_leaves_the_older_checkpoint_and_latest_as_they_were(small_disk, step):
    run_dir = RunDir(small_disk)
    save(run_dir, 10, parts(), keep=1)
    big = {**parts(), "replay": torch.zeros(1 << 20)}  # 4 MiB on a disk of 2 MiB
    with pytest.raises(OSError, match=r"No space left on device: .*replay\.pt"):
        save(run_dir, step, big, keep=1)
    assert steps(run_dir) == [10]
    assert not leftovers(run_dir)
    assert load_latest(run_dir).step == 10
    save(run_dir, 30, parts(), keep=1)  # and there is room again


def test_a_disk_without_a_byte_left_is_an_error_too(small_disk):
    run_dir = RunDir(small_disk)
    save(run_dir, 10, parts(), keep=1)
    fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        save(run_dir, 20, parts(), keep=1)
    assert load_latest(run_dir).step == 10


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"rng": np.random.RandomState(0).get_state()}, r"a\.rng\.1: numpy\.ndarray"),
        ({"x": [np.float64(1.0)]}, r"a\.x\.0: numpy\.float64"),
        ({"x": Path("/")}, r"a\.x: pathlib\.PosixPath"),
        (torch.nn.Linear(1, 1), r"a: torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_what_could_not_be_loaded_again_is_refused_when_it_is_saved(run_dir, part, where):
    """`torch.load(weights_only=True)` would refuse it, but only after the crash that it was saved for."""
    with pytest.raises(TypeError, match=where):
        save(run_dir, 1, {"a": part}, keep=1)


def test_what_is_not_refused_loads(run_dir):
    """Every type that `save` lets through."""
    value = {
        "none": None, "bool": True, "int": 2**100, "float": float("inf"), "str": "ü", "bytes": b"\0\xff", 3: (1, [2]),
        "dtype": torch.bfloat16, "size": torch.Size([2]), "parameter": torch.nn.Parameter(torch.ones(2)),
        "half": torch.ones(2, dtype=torch.bfloat16), "bool tensor": torch.tensor([True]),
    }  # fmt: skip
    save(run_dir, 1, {"a": value}, keep=1)
    loaded = load_latest(run_dir).parts["a"]
    assert {key: type(item) for key, item in loaded.items()} == {key: type(item) for key, item in value.items()}
    assert loaded["bytes"] == value["bytes"]
    assert loaded["int"] == value["int"]


def test_tensors_go_where_they_are_told(run_dir):
    save(run_dir, 1, {"a": torch.ones(2)}, keep=1)
    assert load_latest(run_dir, map_location="meta").parts["a"].is_meta


def test_at_least_the_one_just_written_is_kept(run_dir):
    with pytest.raises(ValueError, match="keep is 0"):
        save(run_dir, 1, {"a": 1}, keep=0)
