"""Shell completion, asked for by a real bash: commands, options, and the names of runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.orchestrator.command_line import REPOSITORY, Project

START = """\
#!{python}
import sys
sys.path.insert(0, {folder!r})
from orchestrator.entry import main
sys.exit(main())
"""
COMPLETE = """\
eval "$(longshore --show-completion bash)"
COMP_WORDS=({words}) COMP_CWORD={index}
_longshore_completion longshore
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def offered(tmp_path):
    """What bash offers for the last of some words, typed in a project's folder."""
    project = Project.make(tmp_path)
    program = tmp_path / "bin" / "longshore"
    program.parent.mkdir()
    program.write_text(START.format(python=sys.executable, folder=str(REPOSITORY)))
    program.chmod(0o755)

    def ask(*words):
        script = COMPLETE.format(words=" ".join(("longshore", *words)), index=len(words))
        variables = project.variables()
        variables["PATH"] = f"{program.parent}:{variables['PATH']}"
        variables["SHELL"] = "/bin/bash"
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60
        )
        assert done.stderr == ""
        return done.stdout.split()

    ask.project = project
    return ask


def test_commands_are_offered(offered):
    assert offered("sta") == ["status"]
    assert {"submit", "shell", "schema", "status"} == set(offered("s"))


def test_runs_and_sweeps_are_offered_the_newest_first(offered):
    assert offered("status", "''") == []
    first = offered.project.run("submit", offered.project.job()).stdout.split()
    members = offered.project.run("submit", offered.project.job(more="sweep:\n  seed: [0, 1]\n")).stdout.split()
    offered.project.run("wait", *first, "last")
    sweep = members[0].rpartition("-")[0]
    assert offered("status", "tiny") == [sweep, *reversed(members), *first]
    assert offered("wait", first[0][:-1]) == first
    assert offered("report", "la") == ["last"]
