"""Two users of one machine with one folder of runs: what each submits, sees, and cannot do to the other's runs."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.registry import REGISTRY
from tests.orchestrator.command_line import REPOSITORY, Project
from tests.orchestrator.local_runs import home_of_runs
from tests.waiting import eventually
from trainer.run_dir import RunDir

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become two other users"),
]

GROUP = 61_000  # nobody's, like the numbers of both users: they need no names
ALICE, BOB = 61_001, 61_002
SWEEP = "sweep:\n  seed: [0, 1, 2, 3]\n  max_parallel: 2\n"


@dataclass(frozen=True)
class Person(Project):
    """A project that somebody else types commands in."""

    number: int = 0
    interpreter: str = sys.executable

    @property
    def home(self) -> Path:
        return Path(self.environment["LONGSHORE_HOME"])

    def command(self, *arguments: str) -> list[str]:
        return [*becoming(self.number), self.interpreter, str(REPOSITORY / "orchestrate.py"), *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(self.command(*arguments), cwd=self.folder, env=self.variables(), text=True, **pipes)

    def runs(self) -> list[dict[str, object]]:
        return json.loads(self.run("runs", "--json").stdout)


def becoming(number: int) -> list[str]:
    """Words before a command: somebody else types it, with the umask that Debian gives everybody."""
    umask = ("sh", "-c", 'umask 022; exec "$@"', "sh")
    return ["setpriv", f"--reuid={number}", f"--regid={GROUP}", "--clear-groups", "--", *umask]


@pytest.fixture(scope="module")
def interpreter() -> str:
    """A Python that others can start too: that of the tests may lie in a folder of root's own."""
    for python in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        probe = [*becoming(ALICE), python, "-c", "import pydantic, typer, orchestrator.entry"]
        if subprocess.run(probe, env=packages(), capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip("no Python and no clone that other users can read")


def packages() -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY), sysconfig.get_paths()["purelib"]])
    return {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def people(interpreter: str) -> Iterator[tuple[Person, Person]]:
    """Alice and Bob, with the same profile and a folder of runs that is their group's."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, home_of_runs(Path(name)) as home:
        root = Path(name)
        root.chmod(0o755)
        os.chown(home, 0, GROUP)
        home.chmod(0o2775)  # chmod g+ws
        Project.make(root, interpreter)
        found = []
        for number in (ALICE, BOB):
            folder = root / str(number)
            folder.mkdir()
            shutil.copy(root / "profiles.yaml", folder)
            variables = {**packages(), "LONGSHORE_HOME": str(home), "HOME": str(folder)}
            os.chown(folder, number, GROUP)
            found.append(Person(folder, variables, number, interpreter))
        yield found[0], found[1]


def test_a_sweep_that_two_users_submit_at_once_is_one_sweep_and_each_of_its_runs_is_started_once(people):
    for person in people:
        person.job(more=SWEEP)
    submits = [person.start("submit", "tiny.yaml") for person in people]
    printed = [submit.communicate(timeout=120) for submit in submits]
    assert [submit.returncode for submit in submits] == [0, 0], printed
    assert printed[0][0] == printed[1][0]
    ids = printed[0][0].split()
    waits = [person.start("wait", *ids) for person in people]
    assert [wait.wait(timeout=120) for wait in waits] == [0, 0]

    rows = people[0].runs()
    assert [(row["run_id"], row["state"], row["attempt"]) for row in rows] == [(i, "succeeded", 1) for i in ids]
    assert len({row["sweep_id"] for row in rows}) == 1
    [owner] = {row["owner"] for row in rows}
    home = people[0].home
    assert {str((home / run_id).stat().st_uid) for run_id in ids} == {owner}
    logs = [RunDir(home / run_id).log(1).read_text() for run_id in ids]
    assert [log.count("overrides ") for log in logs] == [1] * 4
    with sqlite3.connect(home / REGISTRY) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def test_all_that_is_written_is_the_groups_whatever_the_umask(people):
    for person in people:
        person.job(name=f"of-{person.number}", more=SWEEP)
        ids = person.run("submit", f"of-{person.number}.yaml").stdout.split()
        person.run("wait", *ids)
    home = people[0].home
    found = [home / REGISTRY, *home.rglob("*")]
    assert {path.stat().st_gid for path in found} == {GROUP}
    closed = [path for path in found if path.is_dir() and not path.stat().st_mode & stat.S_IWGRP]
    assert closed == []
    assert {path.stat().st_uid for path in found} >= {ALICE, BOB}


def test_each_sees_the_others_run_but_does_not_start_cancel_resume_or_remove_it(people):
    alice, bob = people
    alice.job("hang", more=SWEEP.replace("max_parallel: 2", "max_parallel: 1"))
    ids = alice.run("submit", "tiny.yaml").stdout.split()
    eventually(lambda: "step 1" in bob.run("logs", ids[0]).stdout)
    assert json.loads(bob.run("status", ids[0], "--json").stdout)["owner"] == str(ALICE)
    done = bob.run("cancel", ids[0], check=2)
    assert done.stderr == f"error: {ids[0]} is {ALICE}'s, who alone can cancel it\n"

    alice.run("cancel", ids[0])  # its place is free now, and it is Bob who looks
    assert [run["state"] for run in bob.runs()] == ["cancelled", "queued", "queued", "queued"]
    done = bob.run("resume", ids[0], check=2)
    assert done.stderr == f"error: {ids[0]} is {ALICE}'s, who alone can resume it\n"
    assert bob.run("prune").stdout == ""
    bob.run("runs")
    assert [run["state"] for run in bob.runs()] == ["cancelled", "queued", "queued", "queued"]
    assert [run["state"] for run in alice.runs()] == ["cancelled", "setting-up", "queued", "queued"]


def test_a_run_that_proc_hides_from_the_other_goes_on(people):
    """Mounted with hidepid, /proc shows nothing of what others run."""
    alice, bob = people
    alice.job("hang")
    [run_id] = alice.run("submit", "tiny.yaml").stdout.split()
    eventually(RunDir(alice.home / run_id).status.exists)
    hiding = ["unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"]
    words = [*hiding, *bob.command("runs", "--json")]
    done = subprocess.run(words, cwd=bob.folder, env=bob.variables(), capture_output=True, text=True, check=True)
    assert [run["state"] for run in json.loads(done.stdout)] == ["running"]


def test_while_one_waits_the_other_ones_runs_are_started_all_the_same(people):
    alice, bob = people
    alice.job("hang")
    [first] = alice.run("submit", "tiny.yaml").stdout.split()
    waiting = alice.start("wait", first)
    try:
        eventually((alice.home / f".keeper-{ALICE}").exists)
        bob.job(name="bobs", more=SWEEP.replace("max_parallel: 2", "max_parallel: 1"))
        ids = bob.run("submit", "bobs.yaml").stdout.split()
        eventually(lambda: {r["state"] for r in bob.runs() if r["run_id"] in ids} == {"succeeded"})
    finally:
        waiting.kill()
        waiting.communicate()
