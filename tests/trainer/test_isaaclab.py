"""Isaac Lab as far as its door: the real package and its AppLauncher, a stand-in for Isaac Sim behind them."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.trainer.standin import TASK, answer_inside, needs_isaaclab, run_inside, train
from trainer.checkpoint import load_latest
from trainer.config import Config, compose
from trainer.errors import ConfigError
from trainer.run_dir import RunDir
from trainer.simulators.isaaclab_app import importers_of_torch, launch_arguments, refuse_torch, simulation_device


def config(*overrides: str) -> Config:
    return Config.of(compose(["env.backend=isaaclab", "env.name=Isaac-Ant-v0", *overrides]))


def module(name: str, **names: object) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(names)
    return made


# What can be said before Isaac Sim starts.


def test_trap_1_torch_before_isaac_sim_is_refused_with_what_imported_it():
    """Seed, trap 1: AppLauncher first, then torch; the other way round gives errors that say nothing."""
    torch = module("torch")
    layers = module("torch.nn", Module=type("Module", (), {"__module__": "torch.nn"}))
    early = {"numpy": module("numpy"), "wandb_plugin": module("wandb_plugin", torch=torch), "torch": torch}
    late = {"mine": module("mine", Module=layers.Module)}
    with pytest.raises(RuntimeError, match=r"wandb_plugin has imported it, and so have mine$"):
        refuse_torch(early | late)
    assert importers_of_torch({"outer": module("outer", torch=torch), **early}) == ["wandb_plugin", "outer"]
    with pytest.raises(RuntimeError, match="it is not known by what"):
        refuse_torch({"torch": torch})
    refuse_torch({"numpy": module("numpy")})


def test_trap_7_there_is_never_a_window_and_cameras_only_where_something_is_to_be_seen():
    """Seed, trap 7: `--headless` always; with it, cameras render only under `--enable_cameras`."""
    assert launch_arguments(config()) == ["--headless", "--device", "cuda:0"]
    pixels = ["--headless", "--enable_cameras", "--device", "cuda:0"]
    assert launch_arguments(config("env.from_pixels=true")) == pixels
    assert launch_arguments(config("env.name=Isaac-Cartpole-RGB-v0")) == pixels, "the task has a camera of its own"
    assert launch_arguments(config("video.enabled=true")) == pixels, "there is a film to be made"


def test_isaac_lab_runs_on_the_first_gpu_alone(tmp_path: Path):
    no_driver, driver = tmp_path / "none", tmp_path
    assert simulation_device(config(), no_driver) == "cuda:0"
    assert simulation_device(config("device=cuda:0"), driver) == "cuda:0"
    assert simulation_device(config("pipeline=async", "device=cuda:1", "pipeline.simulator_device=cuda:0")) == "cuda:0"
    with pytest.raises(ConfigError, match=r"^device: Isaac Lab runs on cuda:0, not on cuda:1; write auto or cuda:0"):
        simulation_device(config("device=cuda:1"))
    with pytest.raises(ConfigError, match=r"^pipeline.simulator_device: .* not on cpu"):
        simulation_device(config("pipeline=async", "pipeline.simulator_device=cpu"))
    with pytest.raises(ConfigError, match="not on cpu"):
        simulation_device(config("device=cpu"))
    assert simulation_device(config("device=cpu", "env.allow_cpu=true")) == "cpu"
    assert simulation_device(config("env.allow_cpu=true"), no_driver) == "cpu"
    assert simulation_device(config("env.allow_cpu=true"), driver) == "cuda:0"


def test_without_isaac_lab_the_error_says_where_it_is(tmp_path: Path):
    code = "sys.modules['isaaclab'] = None\nimport importlib.util\nimportlib.util.find_spec = lambda name: None\n"
    done = run_inside(tmp_path, code + "start_before_torch(context)", simulate=False)
    assert "no isaaclab; run in Isaac Lab's image, nvcr.io/nvidia/isaac-lab:2.3.0" in done.stderr


def test_other_simulators_start_nothing(tmp_path: Path):
    code = "start_before_torch(context)\nassert 'isaaclab' not in sys.modules and not context.exits_at_once"
    done = run_inside(tmp_path, code, "env.backend=debug", simulate=False)
    assert done.returncode == 0, done.stderr


# Inside of a started app.

SEEING = ("env.from_pixels=true", "env.num_envs=4", "env.observation_key=policy")


@needs_isaaclab
@pytest.mark.parametrize("role", ["sync", "simulation"])
def test_trap_1_no_role_imports_torch_before_its_main_function(tmp_path: Path, role: str):
    """Seed, trap 1: what simulates is imported, and started up to Isaac Sim, without torch."""
    code = f"import trainer.pipelines.{role}\nassert 'torch' not in sys.modules\nstart_before_torch(context)"
    done = run_inside(tmp_path, code, simulate=False)
    assert done.returncode == 0, done.stderr


@needs_isaaclab
def test_trap_1_a_role_with_torch_already_there_says_what_imported_it(tmp_path: Path):
    """Seed, trap 1: the error names the culprit instead of what would follow from it."""
    (tmp_path / "culprit.py").write_text("import torch\n")
    code = "sys.path.insert(0, '.')\nimport culprit\nstart_before_torch(context)"
    done = run_inside(tmp_path, code, simulate=False)
    assert "torch was imported before Isaac Sim's AppLauncher, which must come first: culprit has imported it" in (
        done.stderr
    )


@needs_isaaclab
def test_a_simulator_without_a_started_app_says_so(tmp_path: Path):
    code = "import torch\nfrom trainer.simulators.isaaclab import IsaacLabSimulator\nIsaacLabSimulator(None, 0, None)"
    done = run_inside(tmp_path, code, simulate=False)
    assert "Isaac Sim does not run: trainer.simulators.launch must start it before torch is imported" in done.stderr


@needs_isaaclab
def test_the_app_gets_a_bare_argv_and_one_gpu_and_the_roles_signals_are_its_own_again(tmp_path: Path):
    code = """
sys.argv += ["--/renderer/multiGpu/enabled=true", "env.name=x"]
start_before_torch(context)
import signal
from tests.standin.kit_stubs import SimulationApp
app = SimulationApp.instance
handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)]
answer = {
    "argv": sys.argv[1:],
    "headless": app.config["headless"],
    "multi_gpu": app.config["multi_gpu"],
    "cameras": app.enable_cameras,
    "signals": all(handler == context._request_stop for handler in handlers),
    "exits_at_once": context.exits_at_once,
}
print(json.dumps(answer))
"""
    done = run_inside(tmp_path, code, simulate=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "argv": [],
        "headless": True,
        "multi_gpu": False,
        "cameras": False,
        "signals": True,
        "exits_at_once": True,
    }


@needs_isaaclab
def test_a_crash_prints_its_stack_though_app_launcher_wants_to_close_the_app(tmp_path: Path):
    """AppLauncher's handler of segmentation faults is one of Python's, which never gets to run: the process hangs."""
    code = "start_before_torch(context)\nimport os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"
    done = run_inside(tmp_path, code, simulate=False)
    assert done.returncode == -11
    assert "Fatal Python error: Segmentation fault" in done.stderr


STATE = """
simulator = make()
task = simulator._raw.cfg
answer = {"task": [type(task).__name__, task.scene.num_envs, task.scene.env_spacing, task.seed, task.sim.device,
                   task.sim.dt]}

first = simulator.reset()
kept = first["policy"].clone()
seen = []
raw, step = simulator._raw, simulator._raw.step
raw.step = lambda action: (seen.append(action.tolist()), step(action))[1]
steps = [simulator.step(torch.full((4, 2), float(sign))) for sign in (1, -1)]
answer["rows"] = {
    "spaces": {key: [space.shape, str(space.dtype)] for key, space in simulator.observation.items()},
    "shapes": [list(field.shape) for field in steps[0][1:]],
    "types": [str(field.dtype) for field in steps[0][1:]],
    "kept": torch.equal(first["policy"], kept),
    "rewards differ": not torch.equal(steps[0].reward, steps[1].reward),
    "environments": simulator.environments,
    "action": simulator.action,
}

simulator.reset()
raw._position[1] = torch.tensor([1.97, 0.0])
raw.episode_length_buf[2] = raw.max_episode_length - 1
simulator.pop_log()
ended = simulator.step(torch.tensor([[0.0, 0], [1, 0], [0, 0], [0, 0]]))
answer["ends"] = {
    "last": ended.is_last.tolist(),
    "terminal": ended.is_terminal.tolist(),
    "fall": ended.reward[1].item() < -9,
    "finite": all(torch.isfinite(value).all().item() for value in ended.observation.values()),
    "new": ended.observation["policy"][1, :2].abs().max().item() <= 1,
}
after = simulator.step(torch.zeros(4, 2))
answer["log"] = simulator.pop_log()
answer["ends"]["flags are the caller's"] = (
    ended.is_last.tolist() == answer["ends"]["last"] and not after.is_last.any().item()
)

from gymnasium.spaces import Box, Discrete
import numpy as np
from trainer.simulators.isaaclab import _action_bounds
bounds = _action_bounds(config.env, Box(np.array([0.0, -np.inf]), np.array([4.0, np.inf])), torch.device("cpu"))
answer["actions"] = {"given": seen[0][0], "bounds": [part.tolist() for part in bounds]}
try:
    _action_bounds(config.env, Discrete(3), torch.device("cpu"))
except Exception as error:
    answer["actions"]["discrete"] = str(error)

from trainer.simulators.isaaclab_app import start_app
answer["again"] = []
for again in (make, lambda: start_app(config)):
    try:
        again()
    except RuntimeError as error:
        answer["again"].append(str(error))
"""

PIXELS = """
simulator = make()
task, camera = simulator._raw.cfg, simulator._raw.cfg.scene.tiled_camera
answer = {"camera": [type(camera).__name__, camera.prim_path, camera.width, camera.height, camera.data_types,
                     task.scene.env_spacing, task.rerender_on_reset, list(camera.offset.pos)]}
first = simulator.reset()
kept = first["pixels"].clone()
for _ in range(6):
    step = simulator.step(torch.ones(4, 2))
answer["pictures"] = {
    "space": [simulator.observation["pixels"].shape, str(simulator.observation["pixels"].dtype)],
    "keys": sorted(step.observation),
    "groups": sorted(simulator._raw.reset()[0]),
    "kept": torch.equal(first["pixels"], kept),
    "moved": not torch.equal(step.observation["pixels"], kept),
}
answer["pictures"]["now"] = torch.equal(
    simulator.step(torch.ones(4, 2)).observation["pixels"], simulator._raw.scene["tiled_camera"].data.output["rgb"]
)
"""

REFUSED = {
    "env.name=Standin-Reech-v0": "no task 'Standin-Reech-v0'; did you mean Standin-Reach-v0?",
    "env.name=Isaac-Shadow-Hand-Over-Direct-v0": "several agents (right_hand, left_hand)",
    "env.cfg.sim.dtt=0.01": "env.cfg.sim.dtt: unknown key; did you mean env.cfg.sim.dt?",
    "env.cfg.sim.dt=fast": "env.cfg.sim.dt: 'fast' is not a number (the task's own: 0.01)",
    "env.cfg.scene.num_envs=8": "set env.num_envs instead",
    "env.packages=[no_such_tasks]": "env.packages: 'no_such_tasks' cannot be imported",
    "env.allow_cpu=false": "Isaac Lab runs on cuda:0, not on cpu",
    "env.observation_key=critic": "env.observation_key: Standin-Reach-v0 has policy, not 'critic'",
}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one simulation of vectors says of itself."""
    overrides = ("env.spacing=3", "seed=5", "env.cfg.sim.dt=0.02", "env.action_limit=0.5")
    return answer_inside(tmp_path_factory.mktemp("state"), STATE, *overrides)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one simulation with a camera says of itself."""
    return answer_inside(tmp_path_factory.mktemp("pictures"), PIXELS, *SEEING)


@needs_isaaclab
def test_trap_2_a_second_simulation_is_refused_with_that_reason(state: Any):
    """Seed, trap 2: one simulation a process."""
    second, app = state["again"]
    assert second.startswith("this process has a simulation already, and Isaac Sim holds")
    assert "started in this process already" in app


@needs_isaaclab
def test_trap_17_a_task_is_made_with_the_configuration_that_the_registry_names(state: Any):
    """Seed, trap 17: `gymnasium.make` alone has no `cfg`; settings of the task are set on it by dotted names."""
    assert state["task"] == ["ReachEnvCfg", 4, 3.0, 5, "cpu", 0.02]


@needs_isaaclab
def test_rows_have_the_interfaces_shapes_and_are_the_callers_own(state: Any):
    assert state["rows"] == {
        "spaces": {"policy": [[4], "torch.float32"]},
        "shapes": [[4], [4], [4]],
        "types": ["torch.float32", "torch.bool", "torch.bool"],
        "kept": True,
        "rewards differ": True,
        "environments": 4,
        "action": 2,
    }


@needs_isaaclab
def test_falls_keep_their_reward_and_time_limits_are_no_falls(state: Any):
    """The observation of the row is the new episode's; nothing stands for the one that is lost."""
    assert state["ends"] == {
        "last": [False, True, True, False],
        "terminal": [False, True, False, False],
        "fall": True,
        "finite": True,
        "new": True,
        "flags are the caller's": True,
    }


@needs_isaaclab
def test_a_tasks_report_of_a_reset_counts_once(state: Any):
    """Two steps have shown it: Isaac Lab leaves it in place until the next reset."""
    assert state["log"]["task/Episode_Termination/fell"] == [1.0]
    assert len(state["log"]["task/Episode_Reward/near"]) == 1


@needs_isaaclab
def test_actions_without_bounds_get_those_of_the_config(state: Any):
    assert state["actions"] == {
        "given": [0.5, 0.5],
        "bounds": [[2.0, 0.0], [2.0, 0.5]],
        "discrete": "env.name: actions of Standin-Reach-v0 are Discrete(3); agents act with a vector of numbers",
    }


@needs_isaaclab
def test_trap_18_pixels_are_those_of_a_camera_that_was_added_to_the_scene(pictures: Any):
    """Seed, trap 18: `from_pixels` of the wrappers adds nothing; the trainer's puts a sensor into the scene."""
    sensor = ["TiledCameraCfg", "{ENV_REGEX_NS}/Camera", 64, 64, ["rgb"]]
    assert pictures["camera"] == [*sensor, 8.0, True, [-3.0, 0.0, 2.0]]


@needs_isaaclab
def test_trap_19_pictures_are_read_from_the_scene_after_every_step(pictures: Any):
    """Seed, trap 19: no group of observations holds them; they are bytes, and the next step writes over them."""
    assert pictures["pictures"] == {
        "space": [[64, 64, 3], "torch.uint8"],
        "keys": ["pixels", "policy"],
        "groups": ["policy"],
        "kept": True,
        "moved": True,
        "now": True,
    }


@needs_isaaclab
def test_what_isaac_lab_does_not_have_is_refused(tmp_path: Path):
    code = f"""
answer = {{}}
for override in {list(REFUSED)!r}:
    config = Config.of(compose([*{list(TASK)!r}, override]))
    try:
        make()
    except Exception as error:
        answer[override] = f"{{type(error).__name__}}: {{error}}"
"""
    answer = answer_inside(tmp_path, code)
    for override, words in REFUSED.items():
        assert answer[override].startswith("ConfigError: "), answer[override]
        assert words in answer[override]


# Whole runs.


@needs_isaaclab
@pytest.mark.parametrize(
    "overrides", [(), ("pipeline=async",), (*SEEING, "agent=dreamer")], ids=["sync", "async", "pixels"]
)
def test_a_run_trains_and_succeeds_though_closing_hangs(tmp_path: Path, overrides: tuple[str, ...]):
    done = train(tmp_path, *overrides, STANDIN_HANG_IN_CLOSE="1")
    assert done.returncode == 0, done.stderr
    run = RunDir(tmp_path / "run")
    assert run.success.exists()
    assert load_latest(run).step == 20
    assert "does not end: killed" not in done.stderr


@needs_isaaclab
def test_an_error_in_a_task_is_an_error_of_the_run_whatever_closing_would_say(tmp_path: Path):
    """Isaac Sim ends the process with status 0 when it is closed, and may hang instead; neither must happen."""
    done = train(tmp_path, "env.cfg.sim.dtt=1", STANDIN_HANG_IN_CLOSE="1")
    assert done.returncode == 2
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert (failure["class"], failure["message"].partition(":")[0]) == ("spec", "env.cfg.sim.dtt")
