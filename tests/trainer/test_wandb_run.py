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

from tests.trainer.wandb_server import WandbServer
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
    named = {"LONGSHORE_RUN_ID": RUN_ID, "LONGSHORE_RUN_DIR": str(run_dir.root), "PYTHONPATH": str(ROOT)}
    return os.environ | named | {"WANDB_CONFIG_DIR": str(run_dir.root / "wandb-config")} | variables


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
    newest = [aliases for name, aliases in server.artifacts if name == f"{RUN_ID}-checkpoint"][-1]
    assert {"latest", "step_00000028"} <= set(newest)


def test_a_run_online_sends_its_figures_checkpoints_and_exported_policy(run_dir: RunDir, server: WandbServer):
    pytest.importorskip("onnx")
    train(run_dir, "experiment=debug", "logger.wandb.mode=online", **server.variables)
    assert losses(server.history) == pytest.approx(losses(run_dir.read_metrics()))
    assert server.artifacts[-1][0] == f"{RUN_ID}-checkpoint"
    without_id = environment(run_dir, **server.variables)
    del without_id["LONGSHORE_RUN_ID"]  # export is not part of the run
    subprocess.run([sys.executable, "-m", "trainer.export", run_dir.root], env=without_id, check=True, timeout=120)
    name, aliases = server.artifacts[-1]
    assert (name, sorted(aliases)) == (f"{RUN_ID}-policy", ["latest", "step_00000020"])
    assert {run["name"] for run in server.runs} == {RUN_ID}


WITHOUT_NETWORK = """
import json, sys, time
from pathlib import Path
from trainer import wandb_run
from trainer.checkpoint import save
from trainer.run_dir import RunDir
wandb_run.FINISH_SECONDS = 1
run_dir = RunDir(Path(sys.argv[1]))
run_dir.config.write_text("{}")
save(run_dir, 5, {"learner": {"weight": 1}}, keep=1)
run = wandb_run.WandB(run_dir, {"logger": {"wandb": {"mode": "online", "project": "longshore", "group": None}}})
run.log(0, {"loss": 1.0})
print("begun", flush=True)
sys.stdin.readline()
slowest = 0.0
for step in range(1, 1001):
    begun = time.monotonic()
    run.log(step, {"loss": 1.0})
    slowest = max(slowest, time.monotonic() - begun)
begun = time.monotonic()
run.add_checkpoints()
ended = run.close()
print(json.dumps([slowest, time.monotonic() - begun, ended]), flush=True)
__import__("os")._exit(0)
"""


def test_a_network_that_goes_silent_holds_neither_the_training_nor_its_end_up(run_dir: RunDir, server: WandbServer):
    """Connections stay open and nothing is answered any more, which is worse than an error."""
    process = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_NETWORK, run_dir.root],
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
    slowest, closing, ended = json.loads(output)
    assert slowest < 0.5, "seconds that one line of figures took"
    assert closing < 5
    assert not ended
    assert "is left to `wandb sync --include-online" in errors
