"""Isaac Lab's own environments, on a stand-in's stage: scenes of a configuration, and scenes that are built in code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.standin import WALKS, answer_inside, needs_isaaclab

pytestmark = needs_isaaclab

ENVIRONMENTS = 12

# A picture of the stand-in's is of one colour: the environment's number, how often was rendered, the camera's x.
PIXELS = """
from tests.standin.kit_stubs.stage import app
simulator = make()
before, seen = app.renders, []
for _ in range(25):  # an episode has ten steps
    step = simulator.step(torch.zeros(12, 2))
    seen.append([app.renders - before, bool((step.observation["pixels"][..., 1] == app.renders % 256).all())])
answer = {
    "environments": step.observation["pixels"][:, 0, 0, 0].tolist(),
    "shape": list(step.observation["pixels"].shape),
    "renders": [renders for renders, _ in seen],
    "now": all(now for _, now in seen),
    "spacing": simulator._raw.cfg.scene.env_spacing,
}
"""

# One environment, stepped by TorchRL's wrapper; what it returned goes to the trainer's simulator.
WRAPPED = """
from torchrl.envs.libs.isaac_lab import IsaacLabWrapper
simulator = make()
raw, real = simulator._raw, simulator._raw.step
wrapped = IsaacLabWrapper(raw, device=torch.device("cpu"), native_autoreset=True, allow_done_after_reset=True)
kept = []
def step(action):
    kept.append(real(action))
    return kept[-1]
raw.step = step
now, answer = wrapped.reset(), []
for number in range(25):
    tensors, now = wrapped.step_and_maybe_reset(now.set("action", wrapped.action_spec.rand()))
    next_ = tensors["next"]
    raw.step = lambda action: kept[-1]
    row = simulator.step(torch.zeros(12, 2))
    raw.step = step
    answer.append([
        list(next_["reward"].shape),
        torch.equal(row.reward, next_["reward"].squeeze(-1)),
        torch.equal(row.is_last, next_["done"].squeeze(-1)),
        torch.equal(row.is_terminal, next_["terminated"].squeeze(-1)),
        torch.equal(row.observation["policy"], now["policy"]),
        bool(row.is_last.any()),
    ])
"""


@pytest.fixture(scope="module", params=WALKS)
def pixels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a simulation says of itself whose agent sees through a camera."""
    words = [f"env.name={request.param}", f"env.num_envs={ENVIRONMENTS}", "env.from_pixels=true"]
    return answer_inside(tmp_path_factory.mktemp("pixels"), PIXELS, *words)


def test_every_environment_has_a_camera_and_its_own_picture(pixels: Any):
    """Isaac Lab's quick way of copying environments leaves no trace of the copies where cameras are looked for."""
    assert pixels["environments"] == list(range(ENVIRONMENTS))
    assert pixels["shape"] == [ENVIRONMENTS, 64, 64, 3]
    assert pixels["spacing"] == 8.0


def test_pictures_are_of_the_step_that_they_come_with(pixels: Any):
    """One rendering a step, and another one where episodes have begun."""
    assert pixels["now"]
    steps = [after - before for before, after in zip([0, *pixels["renders"]], pixels["renders"], strict=False)]
    assert steps == [2 if step % 10 == 0 else 1 for step in range(1, 26)]


def test_rows_are_what_torchrls_wrapper_makes_of_the_same_steps(tmp_path: Path):
    """It is not gone through, but agreed with: rewards (`[N, 1]` there), ends, and observations after them."""
    rows = answer_inside(tmp_path, WRAPPED, f"env.name={WALKS[0]}", f"env.num_envs={ENVIRONMENTS}")
    assert {ended for *_, ended in rows} == {True, False}
    for shape, *same, _ in rows:
        assert shape == [ENVIRONMENTS, 1]
        assert same == [True] * 4


def test_a_task_with_managers_tells_what_observations_and_actions_are_made_of(tmp_path: Path):
    code = """
simulator = make()
answer = [simulator.observation["policy"].terms, simulator.control._asdict()]
"""
    terms, control = answer_inside(tmp_path, code, f"env.name={WALKS[0]}", "env.action_limit=2")
    assert terms == [["place", 3], ["last", 2]]
    assert (control["low"], control["high"]) == ([-2.0, -2.0], [2.0, 2.0])
    assert (control["joints"], control["scale"]) == (["left", "right"], [0.5, 0.5])
    assert control["offset"] == pytest.approx([0.3, -0.3])


def test_a_task_that_builds_its_scene_in_code_tells_none_of_that(tmp_path: Path):
    code = """
simulator = make()
answer = [simulator.observation["policy"].terms, simulator.control.joints, simulator.control.scale]
"""
    assert answer_inside(tmp_path, code, f"env.name={WALKS[1]}") == [[], None, None]
