"""Profiles: which file and which section count, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.profile import Profile, load_profile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def profiles(tmp_path):
    def write(text, name="profiles.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refused(name, *paths):
    with pytest.raises(SpecError) as caught:
        load_profile(name, "slurm", paths)
    return str(caught.value).replace(str(paths[0].parent), "HERE")


def test_without_a_file_the_default_is_built_in(tmp_path):
    assert load_profile("default", "local", [tmp_path / "none.yaml"]) == Profile(name="default")


def test_the_example_in_the_tree_changes_nothing():
    assert load_profile("default", "slurm", [ROOT / "profiles.yaml"]) == Profile(name="default")


def test_the_first_file_that_has_the_section_counts(profiles):
    project = profiles("a: {partition: one}", "project.yaml")
    own = profiles("a: {partition: two}\nb: {partition: three}", "own.yaml")
    assert load_profile("a", "slurm", [project, own]).partition == "one"
    assert load_profile("b", "slurm", [project, own]).partition == "three"


def test_a_backends_own_settings_are_laid_over_the_section(profiles):
    path = profiles(
        "site:\n"
        "  environment: {A: 1, B: 2}\n"
        "  partition: cpu\n"
        "  slurm: {environment: {B: 3}, partition: gpu, commands: {sbatch: [ssh, login, sbatch]}}\n"
    )
    slurm = load_profile("site", "slurm", [path])
    assert (slurm.environment, slurm.partition) == ({"A": "1", "B": "3"}, "gpu")
    assert slurm.commands == {"sbatch": ("ssh", "login", "sbatch")}
    assert load_profile("site", "local", [path]).partition == "cpu"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("site: {partitoin: gpu}", "HERE/profiles.yaml:1:8: site.partitoin: unknown key; did you mean 'partition'?"),
        ("site: {slrum: {}}", "HERE/profiles.yaml:1:8: site.slrum: unknown key; did you mean 'slurm'?"),
        ("site: {slurm: {cash: /x}}", "HERE/profiles.yaml:1:16: site.slurm.cash: unknown key; did you mean 'cache'?"),
        ("site: {container_runtime: lxc}", "HERE/profiles.yaml:1:27: site.container_runtime: 'lxc' is not accepted"),
        ("site: 3", "HERE/profiles.yaml:1:7: site: 3 is no mapping; write SETTING: VALUE pairs"),
        ("[]", "HERE/profiles.yaml:1:1: is no profile file"),
        ("site: {a: 1, a: 2}", "HERE/profiles.yaml:1:14: site.a: stands twice"),
        ("sight: {}", "HERE/profiles.yaml:1:1: site: there is no such profile; did you mean 'sight'?"),
        ("", "HERE/profiles.yaml:1:1: site: there is no such profile; there are default"),
    ],
)
def test_a_wrong_profile_is_refused_with_its_place(profiles, text, problem):
    assert refused("site", profiles(text)).startswith(problem)
