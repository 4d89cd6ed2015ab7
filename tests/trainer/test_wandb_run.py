"""W&B with the real package, and a server that notes what it is sent and can go silent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from orchestrator.spec import load_job, train_arguments
from tests.trainer.wandb_server import WandbServer
from tests.waiting import eventually
from trainer.run_dir import RunDir

pytest.importorskip("wandb")

ROOT = Path(__file__).parents[2]
RUN_ID = "cartpole-250101-000000-abcd-001"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server
        for process in psutil.process_iter(["environ"]):  # the package's own, which outlives a killed parent
            if (process.info["environ"] or {}).get("WANDB_BASE_URL") == server.variables["WANDB_BASE_URL"]:
                process.kill()


@pytest.fixture
def run_dir(run_dir: RunDir) -> RunDir:
    """As the orchestrator leaves it, for a run of a sweep."""
    run_dir.root.mkdir()
    run_dir.git.write_text(json.dumps({"commit": COMMIT, "branch": "main", "dirty": True, "diff": "+1"}))
    run_dir.plan.write_text(json.dumps({"sweep_id": "cartpole-250101-000000-abcd"}))
    return run_dir


def environment(run_dir: RunDir, **variables: str) -> dict[str, str]:
    """For a process of its own; where this one has used the package, it has left it an address and folders."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    named = {"LONGSHORE_RUN_ID": RUN_ID, "LONGSHORE_RUN_DIR": str(run_dir.root), "PYTHONPATH": str(ROOT)}
    return inherited | named | {"WANDB_CONFIG_DIR": str(run_dir.root / "wandb-config")} | variables


def train(run_dir: RunDir, *overrides: str, **variables: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *overrides],
        cwd=run_dir.root,
        env=environment(run_dir, **variables),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "W&B" not in done.stderr


def losses(lines: Iterable[Mapping[str, float]]) -> dict[float, float]:
    return {line["step"]: line["loss/total"] for line in lines}


def sync(run_dir: RunDir, server: WandbServer) -> None:
    """Have the package's own command read what is there, and send it."""
    folders = sorted((run_dir.root / "wandb").glob("offline-run-*"))
    synced = subprocess.run(
        [Path(sys.executable).with_name("wandb"), "sync", *folders],
        env=environment(run_dir, **server.variables),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert synced.returncode == 0, synced.stderr


def test_wandb_reads_back_what_two_attempts_have_left_offline(run_dir: RunDir, server: WandbServer):
    """The second goes on in the same run, and `wandb sync` joins them."""
    train(run_dir, "experiment=debug", "logger.wandb.mode=offline")
    run_dir.success.unlink()
    more = "optimization.total_optim_steps=28"
    train(run_dir, "experiment=debug", "logger.wandb.mode=offline", more, LONGSHORE_ATTEMPT="2")
    sync(run_dir, server)
    assert losses(server.history) == pytest.approx(losses(run_dir.read_metrics()))
    assert [row["step"] for row in server.history] == [4, 8, 12, 16, 20, 24, 28]
    assert {run["name"] for run in server.runs} == {RUN_ID}
    told = server.runs[0]
    assert told["groupName"] == "cartpole-250101-000000-abcd"
    assert told["commit"] == COMMIT
    config = json.loads(told["config"])
    assert config["git"]["value"] == {"commit": COMMIT, "branch": "main", "dirty": True, "diff": "+1"}
    assert config["env"]["value"]["name"] == "Debug-Reach"
    versions = server.artifacts.named(f"{RUN_ID}-checkpoint")
    assert [version.metadata["step"] for version in versions if "latest" in version.given] == [20, 28]
    assert "latest" in versions[-1].aliases
    assert set(versions[-1].files) == {"learner.pt", "manifest.json"}, "and no replay"


def test_wandb_reads_back_the_quickstart_that_was_kept_offline(run_dir: RunDir, server: WandbServer):
    """The job as it is; its first steps are enough."""
    pytest.importorskip("mjlab")
    job = load_job(ROOT / "jobs" / "quickstart.yaml")
    steps = ["optimization.total_optim_steps=32", "logger.interval=16", "eval.episodes=0"]
    fewer = [*steps, "collector.init_random_frames=8192", "optimization.optim_steps_per_batch=32"]
    train(run_dir, *train_arguments(job), *fewer, "logger.wandb.mode=offline")
    sync(run_dir, server)
    assert losses(server.history) == pytest.approx(losses(run_dir.read_metrics()))
    assert [row["step"] for row in server.history] == [16, 32]
    assert json.loads(server.runs[0]["config"])["env"]["value"]["name"] == "Mjlab-Cartpole-Balance"
    [version] = server.artifacts.named(f"{RUN_ID}-checkpoint")
    assert (version.metadata["step"], version.aliases) == (32, {"latest"})


def test_a_run_online_sends_its_figures_checkpoints_and_exported_policy(run_dir: RunDir, server: WandbServer):
    pytest.importorskip("onnx")
    train(run_dir, "experiment=debug", "logger.wandb.mode=online", **server.variables)
    assert losses(server.history) == pytest.approx(losses(run_dir.read_metrics()))
    assert "latest" in server.artifacts.named(f"{RUN_ID}-checkpoint")[-1].aliases
    without_id = environment(run_dir, **server.variables)
    del without_id["LONGSHORE_RUN_ID"]  # export is not part of the run
    subprocess.run([sys.executable, "-m", "trainer.export", run_dir.root], env=without_id, check=True, timeout=120)
    [policy] = server.artifacts.named(f"{RUN_ID}-policy")
    assert policy.aliases == {"latest", "step_00000020"}
    assert "policy.onnx" in policy.files
    assert {run["name"] for run in server.runs} == {RUN_ID}


START = """
import json, sys, time
from pathlib import Path
from trainer import wandb_artifacts, wandb_run
from trainer.checkpoint import save
from trainer.run_dir import RunDir
wandb_run.FINISH_SECONDS, wandb_artifacts.LOOK_SECONDS = {finish}, 0.05
run_dir = RunDir(Path(sys.argv[1]))
run_dir.config.write_text("{{}}")
run = wandb_run.WandB(run_dir, {{"logger": {{"wandb": {{"mode": "{mode}", "project": "longshore", "group": None}}}}}})
run.follow_checkpoints()
def saved(step, score=None):
    save(run_dir, step, {{"learner": {{"weight": step}}, "replay": [step] * 1000}}, keep=2, score=score)
"""

WITHOUT_NETWORK = """
run.log(0, {"loss": 1.0})
print("begun", flush=True)
sys.stdin.readline()
slowest = 0.0
for step in range(1, 1001):
    if step % 100 == 0:
        saved(step)
    begun = time.monotonic()
    run.log(step, {"loss": 1.0})
    slowest = max(slowest, time.monotonic() - begun)
    time.sleep(0.001)
staged = len(list(Path(sys.argv[1], "wandb", "artifacts", "staging").glob("*")))
begun = time.monotonic()
ended = run.close()
print(json.dumps([slowest, staged, time.monotonic() - begun, ended]), flush=True)
__import__("os")._exit(0)
"""


def test_a_network_that_goes_silent_holds_neither_the_training_nor_its_end_up(run_dir: RunDir, server: WandbServer):
    """Connections stay open and nothing is answered any more, which is worse than an error."""
    process = subprocess.Popen(
        [sys.executable, "-c", START.format(mode="online", finish=1) + WITHOUT_NETWORK, run_dir.root],
        env=environment(run_dir, **server.variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    assert server.runs, "the connection works"
    server.silent = True
    output, errors = process.communicate("\n", timeout=60)
    slowest, staged, closing, ended = json.loads(output)
    assert slowest < 0.5, "seconds that one line of figures took"
    assert staged <= 4, "files of ten checkpoints that wait to be sent"
    assert closing < 5
    assert not ended
    assert "is left to `wandb sync --include-online" in errors


CHECKPOINTS = """
for step, score in ((1, 5.0), (2, 9.0), (3, 1.0), (4, 2.0), (5, 3.0)):
    saved(step, score)
    print(step, flush=True)
    sys.stdin.readline()
print(json.dumps(run.close()), flush=True)
"""


def files_of_newest(server: WandbServer) -> dict[str, int]:
    return server.artifacts.versions[-1].files if server.artifacts.versions else {}


def test_checkpoints_are_sent_when_they_are_saved_and_kept_as_on_the_disk(run_dir: RunDir, server: WandbServer):
    """Of five the last two, and the second because it was the best; without their replays."""
    process = subprocess.Popen(
        [sys.executable, "-c", START.format(mode="online", finish=20) + CHECKPOINTS, run_dir.root],
        env=environment(run_dir, **server.variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for step, aliases in ((1, {"best", "latest"}), (2, {"best", "latest"}), (3, {"latest"}), (4, {"latest"})):
        assert process.stdout.readline() == f"{step}\n"
        eventually(lambda: len(files_of_newest(server)) == 2 and len(server.artifacts.versions) == step, 30)  # noqa: B023
        assert set(files_of_newest(server)) == {"learner.pt", "manifest.json"}
        version = server.artifacts.versions[-1]
        assert (version.metadata["step"], version.given) == (step, aliases)
        process.stdin.write("go on\n")
        process.stdin.flush()
    output, _ = process.communicate("go on\n", timeout=60)
    assert output.split() == ["5", "true"]
    versions = server.artifacts.versions
    there = {version.metadata["step"]: version.aliases for version in versions if not version.deleted}
    assert there == {2: {"best"}, 4: set(), 5: {"latest"}}
    assert sorted(path.name for path in run_dir.checkpoints.glob("step_*"))[0] == "step_00000002"
    assert list((run_dir.root / "wandb" / "artifacts" / "staging").iterdir()) == []


def test_offline_the_newest_and_the_best_are_kept_when_the_attempt_ends(run_dir: RunDir, server: WandbServer):
    """Each checkpoint would be copied, and lie there until somebody sends it."""
    code = START.format(mode="offline", finish=20) + CHECKPOINTS
    words = [sys.executable, "-c", code, run_dir.root]
    done = subprocess.run(words, env=environment(run_dir), input="\n" * 5, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1", "2", "3", "4", "5", "true"], done.stderr
    sync(run_dir, server)
    versions = server.artifacts.named(f"{RUN_ID}-checkpoint")
    assert {version.metadata["step"]: version.aliases for version in versions} == {2: {"best"}, 5: {"latest"}}
