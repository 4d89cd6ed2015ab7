"""Exported policies: they act as the trainer's do, in a process without torch, and are refused where they do not."""

from __future__ import annotations

import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from torch import Tensor

from tests.trainer.agents import debug_config
from tests.trainer.test_sync_pipeline import make_context, run
from trainer.agents import make_agent
from trainer.checkpoint import save
from trainer.collection import evaluate
from trainer.config import Config, compose
from trainer.export.errors import ExportError
from trainer.export.source import load_source
from trainer.export.step import PolicyStep
from trainer.interface import Interface, read_interface, write_interface
from trainer.run_dir import RunDir, read_json
from trainer.simulators.base import Control, Space
from trainer.simulators.debug import DebugSimulator

missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")

AGENTS = ["dreamer_v3", "dreamer"]
CPU = torch.device("cpu")
ROBOTS = 64
TORCHLESS = Path(__file__).with_name("torchless.py")


@pytest.fixture(scope="module", params=AGENTS)
def exported(request, tmp_path_factory) -> tuple[RunDir, Path]:
    """A trained debug run, and the folder that its policy was exported to."""
    folder = tmp_path_factory.mktemp(request.param)
    context = make_context(folder, f"agent={request.param}")
    RunDir(folder).config.write_text(yaml.safe_dump(context.config))  # the coordinator does
    run(context)
    return RunDir(folder), export(folder)


def export(run_dir: Path, *words: str, refused: bool = False) -> Path:
    """Export as the command line does, in a process of its own."""
    done = start(run_dir, *words)
    assert done.returncode == int(refused), done.stderr
    return Path(done.stdout.splitlines()[0]) if not refused else run_dir / "export"


def start(run_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer.export", str(run_dir), *words], capture_output=True, text=True, timeout=200
    )


def test_the_files_do_what_the_trainers_policy_does(exported):
    run_dir, folder = exported
    assert folder == run_dir.root / "export"
    metadata = json.loads((folder / "policy.json").read_text())
    assert metadata["check"]["observations"] == "recorded"
    assert metadata["check"]["steps"] == 64
    assert set(metadata["check"]["max_difference"]) == {"policy.onnx", "policy.pt"}
    assert max(metadata["check"]["max_difference"].values()) < 1e-5
    assert (metadata["task"], metadata["step"], metadata["checkpoint"]) == ("Debug-Reach", 20, "step_00000020")
    assert metadata["observations"] == {"policy": {"shape": [3], "dtype": "float32"}}
    action = {"width": 2, "low": [-1.0, -1.0], "high": [1.0, 1.0], "joints": None, "scale": None, "offset": None}
    assert metadata["action"] == action


def test_a_process_without_torch_reaches_the_return_of_the_trainers_evaluation(exported):
    """Both begin in the same places; latents are drawn by different generators."""
    run_dir, folder = exported
    source = load_source(run_dir, "latest")
    config = debug_config(f"env.num_envs={ROBOTS}")
    trainers = statistics.fmean(evaluate(DebugSimulator(config.env, 5, CPU), source.agent, ROBOTS, 0, CPU))
    without_torch = statistics.fmean(drive(DebugSimulator(config.env, 5, CPU), folder))
    random = statistics.fmean(evaluate(DebugSimulator(config.env, 5, CPU), source.agent, ROBOTS, 0, CPU, random=True))
    assert without_torch == pytest.approx(trainers, rel=0.02)
    assert random != pytest.approx(trainers, rel=0.02)  # or any policy would do


def drive(simulator: DebugSimulator, folder: Path) -> list[float]:
    """Returns of each robot's first episode, its actions asked for over a pipe."""
    policy = subprocess.Popen(
        [sys.executable, str(TORCHLESS), str(folder), str(ROBOTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with policy:
        observation, first = simulator.reset(), torch.ones(ROBOTS, dtype=torch.bool)
        total, running = torch.zeros(ROBOTS), torch.ones(ROBOTS, dtype=torch.bool)
        while running.any():
            asked = {"first": first.tolist(), "observation": {key: rows.tolist() for key, rows in observation.items()}}
            policy.stdin.write(json.dumps(asked) + "\n")
            policy.stdin.flush()
            answer = policy.stdout.readline()
            assert answer, "the process without torch has ended"
            observation, reward, first, _ = simulator.step(torch.tensor(json.loads(answer)))
            total += reward * running
            running &= ~first
        policy.stdin.close()
    assert policy.returncode == 0
    return total.tolist()


def test_an_episode_that_begins_forgets_the_one_before(exported):
    _, folder = exported
    runner = load_runner(folder)
    first = [runner.act({"policy": [0.1 * step, 0.2, 0.0]}) for step in range(3)]
    runner.reset()
    runner._generator = load_runner(folder)._generator  # the same latents again
    again = [runner.act({"policy": [0.1 * step, 0.2, 0.0]}) for step in range(3)]
    assert [action.tolist() for action in again] == [action.tolist() for action in first]


def test_the_runner_says_which_observation_is_wrong(exported):
    runner = load_runner(exported[1])
    with pytest.raises(ValueError, match="'policy' is missing"):
        runner.act({"actor": [0.0, 0.0, 0.0]})
    with pytest.raises(ValueError, match=r"'policy' has shape \(2,\), not \(3,\)"):
        runner.act({"policy": [0.0, 0.0]})


def load_runner(folder: Path):
    spec = importlib.util.spec_from_file_location("exported_runner", folder / "runner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Runner(folder)


def test_a_policy_that_differs_is_refused_and_nothing_is_written(exported, tmp_path):
    """A step that forgets its state is right on first rows and wrong on all others."""
    run_dir, _ = exported
    code = (
        "import sys, torch\n"
        "from trainer.export import __main__ as command, step\n"
        "advance = step.PolicyStep.forward\n"
        "def forgetful(self, is_first, noise, *rest):\n"
        "    return advance(self, is_first.logical_or(torch.ones_like(is_first)), noise, *rest)\n"
        "step.PolicyStep.forward = forgetful\n"
        f"sys.argv = ['export', {str(run_dir.root)!r}, '--output', {str(tmp_path / 'wrong')!r}]\n"
        "sys.exit(command.main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert "differs from the trainer's policy" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_are_chosen_by_name(exported, tmp_path):
    run_dir, _ = exported
    assert "has no checkpoint step_7; it has" in start(run_dir.root, "--checkpoint", "step_7").stderr
    with pytest.raises(ExportError, match="has no checkpoint"):
        load_source(run_dir, "../..")


def test_a_run_from_before_the_interface_was_written_is_told_what_to_do(exported, tmp_path):
    shutil.copytree(exported[0].root, tmp_path / "old", symlinks=True)
    (tmp_path / "old" / "interface.json").unlink()
    export(tmp_path / "old", refused=True)
    assert "resume the run" in start(tmp_path / "old").stderr


def test_without_torch_the_command_says_what_is_missing(tmp_path):
    """-S leaves out the folder of installed packages."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "trainer.export", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "has no torch and no onnx" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def make_run(folder: Path, simulator: object, *overrides: str) -> RunDir:
    """A run directory with the checkpoint of an agent that has learnt nothing, for one look at its shapes."""
    run_dir, config = RunDir(folder), compose(list(overrides))
    folder.mkdir(parents=True)
    run_dir.config.write_text(yaml.safe_dump(config))
    write_interface(run_dir, simulator)
    interface = read_interface(run_dir)
    agent = make_agent(Config.of(config).agent, interface.observation, interface.action)
    save(run_dir, 1, {"learner": {"agent": dict(agent.state_dict())}}, keep=1)
    return run_dir


class Camera:
    """What a simulator with a camera says of itself."""

    environments, action, max_return = 1, 2, None
    observation: ClassVar = {
        "policy": Space((3,), terms=(("speed", 1), ("angles", 2))),
        "pixels": Space((16, 16, 3), torch.uint8),
    }
    control = Control(0.02, (-2.0, -1.0), (2.0, 1.0), ("hip", "knee"), (0.5, 0.5), (0.1, -0.1))


def test_pixels_are_exported_too_and_what_the_simulator_tells_of_the_robot_comes_along(tmp_path):
    run_dir = make_run(tmp_path / "pixels", Camera(), "experiment=debug")
    folder = export(run_dir.root, "--output", str(tmp_path / "policy"))
    assert sorted(path.name for path in folder.iterdir()) == ["policy.json", "policy.onnx", "policy.pt", "runner.py"]
    metadata = json.loads((folder / "policy.json").read_text())
    assert metadata["check"]["observations"] == "random"
    assert metadata["check"]["max_difference"]["policy.onnx"] < 1e-5
    assert metadata["observations"]["pixels"] == {"shape": [16, 16, 3], "dtype": "uint8"}
    assert metadata["control_period"] == 0.02
    assert metadata["observations"]["policy"]["terms"] == [["speed", 1], ["angles", 2]]
    numbers = {"low": [-2, -1], "high": [2, 1], "scale": [0.5, 0.5], "offset": [0.1, -0.1]}
    assert metadata["action"] == {"width": 2, "joints": ["hip", "knee"], **numbers}
    assert read_interface(run_dir) == Interface(dict(Camera.observation), 2, Camera.control)


class CartPole:
    """What mjlab's cart-pole says of itself."""

    environments, action, max_return, control = 1, 1, None, None
    observation: ClassVar = {"actor": Space((5,))}


def test_a_step_at_the_quickstarts_size_takes_a_fraction_of_a_millisecond(tmp_path):
    """0.10 ms on a busy machine (docs/export.md); the limit leaves room for busier ones."""
    from orchestrator.spec import load_job

    job = load_job(Path(__file__).parents[2] / "jobs" / "quickstart.yaml")
    words = [f"{key}={value}" for key, value in job.train.items()]
    run_dir = make_run(tmp_path / "quickstart", CartPole(), *words)
    check = read_json(export(run_dir.root) / "policy.json")["check"]
    assert check["max_difference"]["policy.onnx"] < 1e-5
    assert check["step_ms"] < 1.0


def test_the_noise_of_an_exported_step_is_that_of_its_latents(exported):
    """Uniform numbers for categoricals, normal ones for Gaussians: the wrong kind would sample the wrong latents."""
    run_dir, folder = exported
    source = load_source(run_dir, "latest")
    step = PolicyStep(source.agent, source.interface.observation)
    drawn: Tensor = source.agent.world_model.rssm.latent.draw(4096, generator=torch.Generator().manual_seed(0))
    runner = load_runner(folder)
    runners = torch.cat([torch.from_numpy(runner._draw()) for _ in range(4096)])
    assert runners.shape[-1] == step.noise_width
    assert float(runners.mean()) == pytest.approx(float(drawn.mean()), abs=0.05)
    assert float(runners.std()) == pytest.approx(float(drawn.std()), abs=0.05)
