"""The job files of the tree: valid, known to editors, and expanding into the runs that they promise."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from orchestrator.jobfile.document import plain
from orchestrator.jobfile.yaml12 import parse_file
from orchestrator.spec import job_to_yaml, load_job
from orchestrator.sweep import expand

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted((ROOT / "jobs").rglob("*.yaml"))
SCHEMA = json.loads((ROOT / "schemas" / "job.schema.json").read_text(encoding="utf-8"))


def named(path):
    return str(path.relative_to(ROOT / "jobs"))


@pytest.mark.parametrize("path", JOBS, ids=named)
def test_each_job_file_is_valid(path, tmp_path):
    job = load_job(path)
    assert expand(job)
    copy = tmp_path / "job.yaml"
    copy.write_text(job_to_yaml(job), encoding="utf-8")
    assert load_job(copy) == job


@pytest.mark.parametrize("path", JOBS, ids=named)
def test_each_job_file_names_the_schema_and_fits_it(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    named_schema = re.fullmatch(r"# yaml-language-server: \$schema=(.+)", first)
    assert named_schema
    assert (path.parent / named_schema[1]).resolve() == ROOT / "schemas" / "job.schema.json"
    node, _ = parse_file(path)
    jsonschema.validate(plain(node), SCHEMA)


def test_the_schema_itself_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("wrong", [{"gpsu": 1}, {"gpus": -1}, {"gpus": "two"}, {"extra": {"qos": []}}])
def test_the_schema_refuses_what_the_models_refuse(wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "tiny", "backend": "local", "resources": wrong}, SCHEMA)


def test_the_quickstart_needs_no_gpu_and_no_container():
    job = load_job(ROOT / "jobs" / "quickstart.yaml")
    assert (job.backend, job.resources.gpus, job.image) == ("local", 0, None)
    assert job.train["env.name"] == "Mjlab-Cartpole-Balance"


def test_the_sweeps_make_as_many_runs_as_they_say():
    assert len(expand(load_job(ROOT / "jobs" / "sweeps" / "tasks.yaml"))) == 6
    assert len(expand(load_job(ROOT / "jobs" / "sweeps" / "cartpole.yaml"))) == 7
