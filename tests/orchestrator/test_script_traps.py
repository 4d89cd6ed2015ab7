"""The seed's traps that the set-up script has to avoid."""

from __future__ import annotations

import re

import pytest
from test_plan import ISAAC, planned, read_job


@pytest.fixture
def script(tmp_path):
    """Of a job in Isaac Lab's image."""
    return planned(read_job(tmp_path, ISAAC)).runs[0].files["setup-and-run.sh"]


def array(script, name):
    """Words of an array of the script."""
    return re.search(rf"^{name}=\(([^)]*)\)", script, re.MULTILINE)[1].split()


def test_trap_1_what_is_imported_to_verify_the_set_up_is_not_what_must_come_before_torch(script):
    """Seed, trap 1: AppLauncher must be initialised before `import torch`."""
    assert array(script, "verify_imports") == ["torch", "tensordict", "torchrl"]
    assert "isaaclab.app" in array(script, "verify_modules")
    assert "importlib.util.find_spec(name)" in script


def test_on_this_machine_nothing_is_imported_before_the_trainer_does_it(tmp_path):
    """Nothing was installed that could have gone wrong, and half of a short run would go by with it."""
    job = read_job(tmp_path, "name: a\nbackend: local\ntrain: {env.backend: debug}\n")
    script = planned(job).runs[0].files["setup-and-run.sh"]
    assert array(script, "verify_imports") == []
    assert array(script, "verify_modules") == ["torch", "tensordict", "torchrl", "trainer.simulators.debug"]


def test_trap_4_the_licence_is_accepted(script):
    """Seed, trap 4: without OMNI_KIT_ACCEPT_EULA=yes the simulation does not start."""
    assert "export OMNI_KIT_ACCEPT_EULA=yes\n" in script
    assert "export ACCEPT_EULA=Y\n" in script


def test_trap_4_a_plain_machine_accepts_nothing(tmp_path):
    """Seed, trap 4: it is Isaac Sim's licence, and nobody else's."""
    job = read_job(tmp_path, "name: a\nbackend: local\ntrain: {env.backend: debug}\n")
    assert "EULA" not in planned(job).runs[0].files["setup-and-run.sh"]


def test_trap_7_there_is_no_display(script):
    """Seed, trap 7: a server has no display; AppLauncher reads HEADLESS where no flag reaches it."""
    assert "export HEADLESS=1\n" in script


def test_trap_8_leftovers_are_ended_before_anything_is_started(script):
    """Seed, trap 8: Isaac Lab leaves orphans, which hold the GPU; nobody else's processes are touched."""
    ended = script.index('\nend_processes 30 "${run_marks[@]}"\n')
    assert ended < script.index("\n# ---- install") < script.index("-m trainer")
    assert "pkill" not in script


def test_trap_8_the_whole_node_is_cleared_where_the_job_says_that_it_is_its_own(tmp_path):
    """Seed, trap 8: `pkill -9 python` before relaunching, on request."""
    script = planned(read_job(tmp_path, ISAAC.replace("setup:\n", "setup:\n  kill: all\n"))).runs[0].files
    assert "\npkill -9 python || true" in script["setup-and-run.sh"]


@pytest.mark.parametrize("package", ["tensordict", "torchrl"])
def test_trap_9_nothing_moves_the_images_torch_and_numpy(script, package):
    """Seed, trap 9: torchrl is installed with --no-build-isolation --no-deps."""
    [line] = [line for line in script.splitlines() if line.startswith(f"  once {package} ")]
    assert {"--no-build-isolation", "--no-deps"} <= set(line.split())
    assert 'PIP+=(--constraint "$constraints")' in script
    assert not {"torch", "numpy"} & set(array(script, "own"))


def test_trap_9_not_even_a_job_that_names_torch_moves_it(tmp_path):
    """Seed, trap 9: a package that would replace the container's torch is refused by pip, not installed."""
    job = read_job(tmp_path, ISAAC.replace("pip: [hydra-core, wandb]", "pip: ['torch==2.9.0', 'Numpy>=2', wandb]"))
    held = array(planned(job).runs[0].files["setup-and-run.sh"], "own")
    assert "wandb" in held
    assert not {"torch", "numpy"} & set(held)


def test_trap_15_isaaclab_sh_has_a_terminal_type(script):
    """Seed, trap 15: without TERM, isaaclab.sh prints `'': unknown terminal type`."""
    assert script.index('\nexport TERM="${TERM:-xterm}"') < script.index('"${PYTHON[@]}" -')


def test_trap_16_rsync_is_installed_where_a_job_asks_for_it(script):
    """Seed, trap 16: the container does not ship with rsync."""
    assert array(script, "apt") == ["rsync"]
    assert 'apt-get install -y --no-install-recommends -- "${apt[@]}"' in script
