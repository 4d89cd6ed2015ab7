"""Pulling a run's files: what is brought, what is left where it is, and how a broken pull is gone on with."""

from __future__ import annotations

import os
import shutil
import stat

import pytest

from orchestrator.errors import BackendError
from orchestrator.hosts import LocalHost
from orchestrator.remote.transfer import BATCH, SMALL, File, Pulled, What, batches, parse_listing, pull

LARGE = bytes(range(256)) * (3 * SMALL // 256)


@pytest.fixture
def there(tmp_path):
    """A run directory of another machine."""
    root = tmp_path / "there" / "run-1"
    files = {
        "status.json": b"{}",
        "job.yaml": b"name: x\n",
        "metrics.jsonl": b"{}\n" * 9,
        "tensorboard/events": b"e",
        "attempts/1/log.txt": b"line\n",
        "attempts/1/role-trainer.json": b"{}",
        "checkpoints/step_1/model.pt": b"old",
        "checkpoints/step_2/model.pt": LARGE,
        "checkpoints/step_2/manifest.json": b"{}",
        "checkpoints/.step_3/model.pt": b"half",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        os.utime(root / name, (1e9, 1e9))
    (root / "attempts/1/role-trainer.json").chmod(0o600)
    (root / "checkpoints/latest").symlink_to("step_2")
    return root


def names(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink())


def bring(there, here, what, host=LocalHost()):  # noqa: B008
    return pull(host, there.parent, {there.name: here}, what)


def test_the_newest_checkpoint_logs_and_metrics_come_with_times_modes_and_links(there, tmp_path):
    here = tmp_path / "here"
    done = bring(there, here, {What.CHECKPOINTS, What.LOGS, What.METRICS})
    wanted = [name for name in names(there) if not name.startswith(("checkpoints/step_1", "checkpoints/.", "job"))]
    assert names(here) == wanted
    assert (here / "checkpoints/latest/model.pt").read_bytes() == LARGE
    assert os.readlink(here / "checkpoints/latest") == "step_2"
    assert (here / "metrics.jsonl").stat().st_mtime == 1e9
    assert stat.S_IMODE((here / "attempts/1/role-trainer.json").stat().st_mode) == 0o600
    assert done == Pulled(7, sum((there / n).stat().st_size for n in wanted if n != "checkpoints/latest"), 0)


def test_what_is_here_is_not_brought_again_and_what_has_changed_is(there, tmp_path):
    here = tmp_path / "here"
    bring(there, here, {What.ALL})
    assert bring(there, here, {What.ALL}).files == 0
    with (there / "metrics.jsonl").open("ab") as file:
        file.write(b"{}\n")
    assert bring(there, here, {What.ALL}) == Pulled(1, 30, 8)
    assert (here / "metrics.jsonl").read_bytes() == b"{}\n" * 10


def test_small_files_of_several_runs_come_in_one_command(there, tmp_path):
    shutil.copytree(there, there.with_name("run-2"), symlinks=True)
    (there / "status.json").write_text("{1}")

    class Counted(LocalHost):
        commands: list[str] = []  # noqa: RUF012

        def run(self, argv, **options):
            self.commands.append(argv[3])
            return super().run(argv, **options)

    here = {name: tmp_path / "here" / name for name in ("run-1", "run-2")}
    pull(Counted(), there.parent, here, {What.METRICS})
    assert Counted.commands == ["list", "pack"]
    assert [(run / "status.json").read_text() for run in here.values()] == ["{1}", "{}"]
    assert all((run / "metrics.jsonl").exists() for run in here.values())


class Breaks(LocalHost):
    """A host whose connection is lost in the middle of a large file."""

    def append(self, source, target, progress):
        target.write_bytes(LARGE[: SMALL + 5])
        raise BackendError("the connection was lost")


class Counts(LocalHost):
    """A host that notes what large files had when they were gone on with."""

    seen: list[int] = []  # noqa: RUF012

    def append(self, source, target, progress):
        self.seen.append(target.stat().st_size)
        super().append(source, target, progress)


def test_half_a_file_is_gone_on_with_unless_it_is_of_another_version(there, tmp_path):
    here = tmp_path / "here"
    for changed in (False, True):
        with pytest.raises(BackendError, match="lost"):
            bring(there, here, {What.LATEST}, Breaks())
        assert not (here / "checkpoints/step_2/model.pt").exists()
        assert not (here / "checkpoints/latest/model.pt").exists()
        if changed:
            os.utime(there / "checkpoints/step_2/model.pt", (2e9, 2e9))
        bring(there, here, {What.LATEST}, Counts())
        assert (here / "checkpoints/latest/model.pt").read_bytes() == LARGE
        assert list(here.rglob(".*")) == []
        (here / "checkpoints/step_2/model.pt").unlink()
    assert Counts.seen == [SMALL + 5, 0]


def test_a_link_to_a_checkpoint_that_did_not_come_is_not_made(there, tmp_path):
    here = tmp_path / "here"
    bring(there, here, {What.CHECKPOINTS})
    (there / "checkpoints/latest").unlink()
    (there / "checkpoints/latest").symlink_to("step_9")
    bring(there, here, {What.CHECKPOINTS})
    assert os.readlink(here / "checkpoints/latest") == "step_2"


def test_a_run_directory_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(BackendError, match="No such file or directory"):
        bring(tmp_path / "gone", tmp_path / "here", {What.ALL})


def test_what_would_lie_elsewhere_is_no_part_of_a_run():
    lines = ["f 644 1 2.5 r/a", "f 644 1 2 r/../b", "f 644 1 2 /etc/c", "l 777 1 2 r/d\t../../etc", "f 644 1 2 r//y"]
    assert parse_listing("\n".join(lines)) == [File("r", "a", 1, 2, 0o644)]
    with pytest.raises(BackendError, match="cannot be read"):
        parse_listing("steve: 2 nodes are down")


def test_small_files_come_in_groups_that_an_answer_can_hold():
    files = [File("run-1", str(number), BATCH // 3, 0, 0o644) for number in range(7)]
    assert [len(batch) for batch in batches(files)] == [3, 3, 1]


def test_progress_ends_at_all_there_is_to_bring(there, tmp_path):
    told = []
    done = pull(
        LocalHost(),
        there.parent,
        {there.name: tmp_path / "here"},
        {What.ALL},
        lambda now, total: told.append((now, total)),
    )
    assert told[-1] == (done.size, done.size)
    assert sorted(told) == told
