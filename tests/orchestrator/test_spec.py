"""Job files: what they may hold, what the command line changes, and how a job is written again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from orchestrator.errors import SpecError
from orchestrator.jobfile.overrides import key_error, override_words
from orchestrator.jobfile.train_keys import known_keys
from orchestrator.spec import JobSpec, JobWriter, check_secrets, job_schema, job_to_yaml, load_job, train_arguments

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = "name: tiny\nbackend: local\n"
# The job file that the documentation explains key by key.
WHOLE = """\
name: anymal-flat
backend: steve
profile: default
image: nvcr.io/nvidia/isaac-lab:2.3.0
resources: {gpus: 2, cpus: 16, memory: 128G, time: "24:00:00", partition: h200-high, ntasks: 1, extra: {qos: high}}
setup:
  tensordict: 0.14.3
  torchrl: {git: https://github.com/pytorch/rl, ref: v0.14.1}
  code: []
  pip: [hydra-core, wandb]
  apt: [rsync]
  wheelhouse: null
environment: {WANDB_MODE: online}
secrets: [WANDB_API_KEY]
mounts: [{source: ~/isaac-cache, target: /isaac-sim/kit/cache, cache: true}]
train:
  env.name: Isaac-Velocity-Flat-Anymal-C-v0
  optimization.total_optim_steps: 100_000
retry: {max: 3, on: [preempted, timeout, node-failure, stalled]}
watchdog: {start: 30m, stall: 15m}
sweep:
  env.name: [Isaac-Ant-v0, Isaac-Humanoid-v0]
  seed: [0, 1, 2]
  max_parallel: 4
"""


@pytest.fixture
def job_file(tmp_path):
    def write(text):
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def load(job_file):
    return lambda text, **changes: load_job(job_file(text), **changes)


@pytest.fixture
def problems(job_file):
    """The lines of the error, with FILE for the file's path."""

    def find(text, **changes):
        path = job_file(text)
        with pytest.raises(SpecError) as caught:
            load_job(path, **changes)
        return str(caught.value).replace(str(path), "FILE").splitlines()

    return find


# ---- the file


def test_every_key_of_a_job_file_is_read(load):
    job = load(WHOLE)
    assert (job.name, job.backend, job.profile) == ("anymal-flat", "steve", "default")
    assert job.resources.time_seconds == 24 * 3600
    assert job.resources.memory_mib == 128 * 1024
    assert job.resources.extra == {"qos": "high"}
    assert job.setup.tensordict == "0.14.3"
    assert (job.setup.torchrl.git, job.setup.torchrl.ref) == ("https://github.com/pytorch/rl", "v0.14.1")
    assert job.environment == {"WANDB_MODE": "online"}
    assert job.secrets == ("WANDB_API_KEY",)
    assert job.mounts[0].cache
    assert job.train == {"env.name": "Isaac-Velocity-Flat-Anymal-C-v0", "optimization.total_optim_steps": 100_000}
    assert job.retry.on == ("preempted", "timeout", "node-failure", "stalled")
    assert (job.watchdog.start_seconds, job.watchdog.stall_seconds) == (1800, 900)
    assert job.sweep.max_parallel == 4


def test_a_job_needs_a_name_and_a_backend_and_nothing_else(load):
    job = load(MINIMAL)
    assert (job.resources.gpus, job.setup.torchrl, job.retry.max, job.train) == (1, "0.14.1", 0, {})


def test_a_job_cannot_be_changed(load):
    with pytest.raises(ValueError, match="frozen"):
        load(MINIMAL).name = "other"


def test_settings_of_the_trainer_may_be_nested_or_dotted(load):
    nested = load(MINIMAL + "train: {env: {backend: mjlab, num_envs: 8}, seed: 1}")
    assert nested.train == {"env.backend": "mjlab", "env.num_envs": 8, "seed": 1}
    assert nested == load(MINIMAL + "train: {env.backend: mjlab, env.num_envs: 8, seed: 1}")


def test_one_setting_in_both_forms_is_an_error(problems):
    assert problems(MINIMAL + "train:\n  env.num_envs: 8\n  env: {num_envs: 9}") == [
        "FILE:5:9: train.env.num_envs: stands twice, with dots and nested; the first is in line 4, column 3"
    ]


def test_numbers_are_read_as_written_where_a_text_is_meant(load):
    job = load(
        MINIMAL + "environment: {PORT: 0x10, OLD: 0.10, FLAG: true, WORD: on}\n"
        "resources: {time: 90, memory: 500}\nsetup: {tensordict: 0.10}\n"
    )
    assert job.environment == {"PORT": "0x10", "OLD": "0.10", "FLAG": "true", "WORD": "on"}
    assert (job.resources.time, job.resources.memory, job.setup.tensordict) == ("90", "500", "0.10")


def test_folders_are_seen_from_the_job_file(load, tmp_path):
    job = load(MINIMAL + "setup: {code: [tasks, {path: ../more}], torchrl: {path: rl}}")
    assert [source.path for source in job.setup.code] == [str(tmp_path / "tasks"), str(tmp_path.parent / "more")]
    assert job.setup.torchrl.path == str(tmp_path / "rl")


def test_only_a_job_on_a_plain_machine_needs_no_image(problems):
    assert problems("name: tiny\nbackend: steve") == [
        "FILE:1:1: image: is missing; steve needs one with its tag, like nvcr.io/nvidia/isaac-lab:2.3.0"
    ]


@pytest.mark.parametrize("image", ["a:1", "host:5000/a/b:v1", "a@sha256:" + "0" * 64, "nvcr.io/nvidia/isaac-lab:2.3.0"])
def test_images_have_a_tag_or_a_digest(load, image):
    assert load(MINIMAL + f"image: {image}").image == image


@pytest.mark.parametrize("image", ["/scratch/me/isaac.sqsh", "/scratch/me/isaac-lab+2.3.0.sif"])
def test_slurm_takes_images_in_files(load, problems, image):
    assert load(f"name: tiny\nbackend: slurm\nimage: {image}").image == image
    assert problems(f"name: tiny\nbackend: docker\nimage: {image}") == [
        "FILE:3:8: image: is a file, which slurm alone takes; docker needs a name, like nvcr.io/nvidia/isaac-lab:2.3.0"
    ]


def test_an_image_in_a_file_is_one(problems):
    assert problems("name: tiny\nbackend: slurm\nimage: /scratch/me/isaac.tar") == [
        "FILE:3:8: image: '/scratch/me/isaac.tar' is no image; one in a file ends in .sqsh or .sif"
    ]


# ---- settings that the trainer does not have


def test_an_unknown_setting_is_refused_with_the_nearest_one(problems):
    assert problems(MINIMAL + "train: {optimization.total_optim_stepss: 1}") == [
        "FILE:3:9: train.optimization.total_optim_stepss: the trainer has no such setting; "
        "did you mean 'optimization.total_optim_steps'?"
    ]


def test_the_last_word_of_a_setting_finds_the_whole(problems):
    assert "did you mean 'env.num_envs'?" in problems(MINIMAL + "train: {num_envs: 1}")[0]


def test_an_unknown_option_of_a_group_is_refused_with_those_there_are(problems):
    assert "train.agent: 'dreamer_v4' is not accepted; write " in problems(MINIMAL + "train: {agent: dreamer_v4}")[0]


def test_a_value_of_another_kind_than_the_default_is_refused(problems):
    assert problems(MINIMAL + "train: {optimization.total_optim_steps: many}") == [
        "FILE:3:41: train.optimization.total_optim_steps: 'many' is not accepted; write a whole number, like 100000"
    ]


@pytest.mark.parametrize("key", ["env.cfg.scene.spacing", "+env.cfg.x", "agent", "agent.lr", "extra.deep", "seed"])
def test_known_groups_and_what_lies_below_open_sections_are_accepted(tmp_path, key):
    (tmp_path / "agent").mkdir()
    (tmp_path / "extra").mkdir()
    (tmp_path / "config.yaml").write_text("defaults: [{agent: a}]\nseed: 0\nenv: {cfg: {}}\n")
    (tmp_path / "agent" / "a.yaml").write_text("lr: 1e-4\n")
    (tmp_path / "extra" / "b.yaml").write_text("# @package _global_\nextra: {deep: 1}\n")
    known = known_keys(tmp_path)
    assert known.key_error(key) is None
    assert known.key_error("nothing.like.it") is not None


def test_without_the_trainers_config_settings_are_not_checked(tmp_path):
    assert known_keys(tmp_path) is None


# ---- the command line


def test_a_bare_word_is_a_trainer_override(load):
    job = load(MINIMAL + "train: {seed: 1}", overrides=["seed=2", "env.num_envs=1_000", "optimization.autocast=null"])
    assert job.train == {"seed": 2, "env.num_envs": 1000, "optimization.autocast": None}


def test_set_changes_a_key_of_the_job(load):
    job = load(
        MINIMAL + "environment: {A: x}",
        sets=[
            "resources.time=1:00:00", "environment.B=2", "train.env.num_envs=8", "retry.on=[nan]", "sweep.seed=[1, 2]",
            "name=other", "setup={pip: [numpy]}",
        ],
    )  # fmt: skip
    assert job.resources.time == "1:00:00"
    assert job.environment == {"A": "x", "B": "2"}
    assert job.train == {"env.num_envs": 8}
    assert (job.retry.on, job.name, job.setup.pip) == (("nan",), "other", ("numpy",))
    assert job.sweep.axes == {"seed": (1, 2)}


def test_a_backend_on_the_command_line_counts(load, problems):
    assert load(WHOLE, backend="local").backend == "local"
    assert problems(MINIMAL, backend="pbs") == [
        "<command line>:1:1: backend: 'pbs' is not accepted; write 'steve', 'slurm', 'docker' or 'local'"
    ]


def test_tasks_become_a_sweep(load, tmp_path):
    listed = tmp_path / "tasks.txt"
    listed.write_text("# walkers\nIsaac-Humanoid-v0\n\n", encoding="utf-8")
    job = load(MINIMAL, tasks=[f"Isaac-Ant-v0,@{listed}"])
    assert job.sweep.axes == {"env.name": ("Isaac-Ant-v0", "Isaac-Humanoid-v0")}
    assert load(WHOLE, tasks=["Isaac-Cartpole-v0"]).sweep.axes["env.name"] == ("Isaac-Cartpole-v0",)


def test_an_unknown_task_in_a_list_is_found_where_it_stands(problems, tmp_path):
    listed = tmp_path / "tasks.txt"
    listed.write_text("Isaac-Ant-v0\n  Isaac-Antt-v0\n", encoding="utf-8")
    (found,) = problems(MINIMAL, tasks=[f"@{listed}"])
    assert found.startswith(f"{listed}:2:3: sweep.env.name: isaaclab 2.3.0 has no task 'Isaac-Antt-v0'; did you mean")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"overrides": ["seed"]}, "<command line>:1:1: 'seed' is no KEY=VALUE; write a trainer override"),
        ({"overrides": ["seed="]}, "<command line>:1:6: seed: has no value; write null for none"),
        ({"overrides": ["seed=[1"]}, "<command line>:1:8: seed: is no YAML: "),
        (
            {"overrides": ["sed=1"]},
            "<command line>:1:1: train.sed: the trainer has no such setting; did you mean 'seed'?",
        ),
        ({"overrides": ["seed=one"]}, "<command line>:1:6: train.seed: 'one' is not accepted; write a whole number"),
        ({"overrides": ["a b=1"]}, "<command line>:1:1: train.a b: 'a b' is no trainer override"),
        ({"sets": ["resources.gpsu=1"]}, "<command line>:1:1: resources.gpsu: unknown key; did you mean 'gpus'?"),
        ({"sets": ["resources.gpus=-1"]}, "<command line>:1:16: resources.gpus: -1 is too small; write 0 or more"),
        ({"sets": ["name.x=1"]}, "<command line>:1:1: name: holds no keys"),
        ({"tasks": [","]}, "<command line>:1:1: sweep.env.name: --tasks names no task"),
        ({"tasks": ["@/no/such/file"]}, "/no/such/file:1:1: there is no such file"),
    ],
)
def test_a_wrong_word_is_reported_with_its_own_place(problems, changes, problem):
    assert problems(MINIMAL, **changes)[0].startswith(problem)


def test_what_a_sweep_varies_cannot_be_overridden_by_the_way(problems):
    (found,) = problems(MINIMAL + "sweep: {seed: [1, 2]}", overrides=["seed=3"])
    assert found == (
        "<command line>:1:1: train.seed: the sweep varies this; write --set 'sweep.seed=[VALUE]', "
        "or --set sweep=null for one run"
    )


# ---- secrets


def test_a_missing_secret_is_a_problem_where_the_file_names_it(load):
    job = load(MINIMAL + "secrets: [HERE, GONE]")
    (problem,) = check_secrets(job, {"HERE": "1"})
    assert (problem.line, problem.column, problem.key) == (3, 17, "secrets.1")
    assert problem.message == "GONE is not set here; export GONE=… before submitting, or take it out"
    assert check_secrets(job, {"HERE": "1", "GONE": "2"}) == []


# ---- overrides as Hydra reads them


NASTY = st.text(alphabet="\\'\"${}[](),=: \n\t#a1.-+é@%~*!?|&<>`", max_size=12)
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=15)
SCALARS = NASTY | TEXT | st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1)
VALUES = st.recursive(
    SCALARS | st.floats(allow_nan=False, allow_infinity=False), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


@settings(max_examples=200)
@given(VALUES)
def test_hydra_reads_every_value_as_itself_and_interpolates_nothing(value):
    (word,) = override_words({"group.key": value})
    override = OverridesParser.create().parse_override(word)
    assert not override.is_sweep_override()
    config = OmegaConf.create({})
    OmegaConf.update(config, "group.key", override.value())
    found = OmegaConf.to_container(config, resolve=True)["group"]["key"]
    assert (found, type(found)) == (value, type(value))


@settings(max_examples=100)
@given(st.from_regex(r"\+{0,2}[a-zA-Z_][\w-]{0,3}(\.[\w-]{1,4}){0,2}", fullmatch=True))
def test_what_is_accepted_as_a_key_is_one_for_hydra(key):
    if key_error(key) is None:
        override = OverridesParser.create().parse_override(f"{key}=1")
        assert override.key_or_group == key.lstrip("+")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("Isaac-Ant-v0", ("env.backend=isaaclab", "env.name=Isaac-Ant-v0")),
        ("Mjlab-Cartpole-Balance", ("env.backend=mjlab", "env.name=Mjlab-Cartpole-Balance")),
    ],
)
def test_the_tasks_name_tells_the_trainer_its_simulator(load, task, words):
    assert train_arguments(load(MINIMAL, overrides=[f"env.name={task}"])) == words


def test_a_simulator_that_the_job_names_stays(load):
    job = load(MINIMAL + "train: {env.name: Own-v0, env.backend: debug}")
    assert train_arguments(job) == ("env.name=Own-v0", "env.backend=debug")


# ---- written again


def test_a_job_written_out_is_the_same_job(load):
    job = load(WHOLE)
    assert load(job_to_yaml(job)) == job


def test_jobs_that_are_written_one_after_the_other_are_as_if_each_were_the_only_one(load):
    job, writer = load(WHOLE), JobWriter()
    jobs = [job, job.model_copy(update={"train": {"seed": 3}}), load(MINIMAL), job.model_copy(update={"train": {}})]
    assert [writer.write(one) for one in jobs] == [job_to_yaml(one) for one in jobs]


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,15}", fullmatch=True)
PATHS = st.from_regex(r"/[a-z $'\"\\#-]{1,12}", fullmatch=True)
VARIABLES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
FOLDERS = PATHS.map(lambda path: {"path": path})
PACKAGES = st.one_of(
    st.sampled_from(["0.14.1", "0.10", "1.0+cpu"]),
    FOLDERS,
    st.just({"git": "git@github.com:pytorch/rl", "ref": "1234567"}),
)
KEYS = st.sampled_from(["logger.wandb.project", "logger.wandb.group", "threads"])
JOBS = st.fixed_dictionaries(
    {"name": NAMES, "backend": st.sampled_from(["local", "docker"]), "image": st.just("a/b:1")},
    optional={
        "profile": NAMES,
        "resources": st.fixed_dictionaries(
            {},
            optional={
                "gpus": st.integers(0, 8),
                "time": st.sampled_from(["90", "1-2", "3:00:00", "30m", None]),
                "memory": st.sampled_from(["1G", "500", None]),
                "extra": st.dictionaries(st.sampled_from(["qos", "x11"]), st.integers(-(2**63), 2**63 - 1) | NAMES),
            },
        ),
        "setup": st.fixed_dictionaries(
            {}, optional={"tensordict": PACKAGES, "torchrl": PACKAGES, "code": st.lists(FOLDERS, max_size=2)}
        ),
        "environment": st.dictionaries(VARIABLES.map("E".__add__), NASTY | TEXT, max_size=3),
        "secrets": st.lists(VARIABLES.map("S".__add__), max_size=2, unique=True),
        "train": st.dictionaries(KEYS, NASTY | TEXT, max_size=3),
        "retry": st.fixed_dictionaries({}, optional={"max": st.integers(0, 9), "on": st.sampled_from([[], ["nan"]])}),
        "sweep": st.fixed_dictionaries({"threads": st.lists(NASTY, min_size=1, max_size=3, unique=True)}),
    },
)  # fmt: skip


@settings(max_examples=60)
@given(JOBS)
def test_any_job_written_out_is_the_same_job(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    job = JobSpec.model_validate(data)
    path.write_text(job_to_yaml(job), encoding="utf-8")
    assert load_job(path) == job


# ---- the schema, and the price of all this


def test_the_schema_in_the_tree_is_the_models_own():
    written = json.loads((ROOT / "schemas" / "job.schema.json").read_text(encoding="utf-8"))
    assert written == job_schema(), "run `make schema`"


def test_reading_job_files_imports_nothing_heavy():
    script = "import sys, orchestrator.spec, orchestrator.sweep, orchestrator.profile; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in loaded.stdout.split()}
    assert not modules & {"torch", "numpy", "rich", "jinja2", "docker", "fabric", "hydra", "omegaconf", "mjlab"}
