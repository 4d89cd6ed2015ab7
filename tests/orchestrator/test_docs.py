"""What the README and docs/ say is true: each command in them is typed, each job file read, each link followed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from orchestrator.spec import load_job
from tests.orchestrator.command_line import REPOSITORY, Project
from trainer.run_dir import FailureClass

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
IDS = [page.name for page in PAGES]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands(page):
    """Words of each command of a page, in order."""
    lines = [line for text in blocks(page, "console") for line in text.splitlines()]
    return [shlex.split(line[2:]) for line in lines if line.startswith("$ ")]


@pytest.fixture
def project(tmp_path):
    """A folder with the project's own jobs, whose runs are done by the stand-in trainer in a second."""
    project = Project.make(tmp_path)
    shutil.copytree(REPOSITORY / "jobs", tmp_path / "jobs")
    return project


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_each_command_works(page, project):
    for program, *words in commands(page):
        if program == "make":
            assert_is_target(words)
        else:
            assert (program, words[0]) == ("python", "orchestrate.py"), f"no test knows how to run {program}"
            project.run(*words[1:])


def assert_is_target(words):
    """What a target does takes minutes and has tests of its own; here it must exist."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in words:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"the Makefile has no target {target}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_each_job_file_is_one(page, tmp_path):
    for text in blocks(page, "yaml"):
        if re.search(r"^name:", text, re.MULTILINE):
            path = tmp_path / "job.yaml"
            path.write_text(text, encoding="utf-8")
            load_job(path)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_each_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_command_is_described(project):
    listed = project.run("--help").stdout.split("Commands:")[1]
    page = (REPOSITORY / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)", page, re.MULTILINE)) == set(re.findall(r"^  (\w+)", listed, re.MULTILINE))


def test_every_failure_class_is_described():
    page = (REPOSITORY / "docs" / "run-directory.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)`", page, re.MULTILINE)) == set(FailureClass)


def test_the_picture_is_drawn_from_the_files_of_a_run(project, tmp_path):
    [run_id] = project.run("submit", project.job()).stdout.split()
    project.run("wait", run_id)
    tool, picture = REPOSITORY / "tools" / "demo_picture.py", tmp_path / "demo.svg"
    subprocess.run([sys.executable, tool, project.home / run_id, picture], check=True)
    text = "".join(ElementTree.parse(picture).getroot().itertext()).replace("\xa0", " ")
    assert "$ make demo" in text
    assert "step 3" in text
    assert "46.2 of 50.0" in text
