"""The trainer's config: what Hydra takes, and what is an error here."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.agents import AGENTS, make_agent
from trainer.config import CONF, Config, compose, nearest, run_dir_override
from trainer.errors import ConfigError

CONFIG = """
defaults:
  - agent: large
  - _self_
seed: 0
run_dir: ${oc.env:TEST_RUN_DIR,runs/manual}
env: {name: Ant, num_envs: 64, dt: 0.1, from_pixels: false, kwargs: {}, sizes: [1, 2]}
device: null
watchdog: {stall: 900}
logger: {wandb: {mode: disabled, group: none}}
"""


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conf")
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "agent").mkdir()
    (folder / "agent" / "large.yaml").write_text("lr: 1e-4\nunits: 400\n")
    (folder / "agent" / "small.yaml").write_text("lr: 1e-3\nunits: 4\nonly_small: 1\n")
    return folder


def test_without_overrides_the_defaults_are_resolved_into_plain_values(conf, monkeypatch):
    monkeypatch.delenv("TEST_RUN_DIR", raising=False)
    config = compose([], conf)
    assert config["agent"] == {"lr": 1e-4, "units": 400}
    assert config["run_dir"] == "runs/manual"
    assert type(config["env"]) is dict
    assert type(config["env"]["sizes"]) is list


def test_interpolations_read_the_environment(conf, monkeypatch):
    monkeypatch.setenv("TEST_RUN_DIR", "/runs/x")
    assert compose([], conf)["run_dir"] == "/runs/x"


def test_overrides_change_values_and_groups(conf):
    config = compose(["agent=small", "agent.lr=6e-4", "env.name=Isaac-Ant-v0", "env.num_envs=1_024"], conf)
    assert config["agent"] == {"lr": 6e-4, "units": 4, "only_small": 1}
    assert (config["env"]["name"], config["env"]["num_envs"]) == ("Isaac-Ant-v0", 1024)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("env.num_envs=1e3", 1000),  # how people write a thousand
        ("env.dt=1", 1),
        ("env.from_pixels=true", True),
        ("env.sizes=[3]", [3]),
        ("logger.wandb.group=2024", "2024"),
        ("device=cuda:0", "cuda:0"),
        ("env.name='two words, and a comma'", "two words, and a comma"),
        ("+env.kwargs.render=true", True),  # an empty mapping takes any key, …
        ("env.kwargs.sim.dt=0.01", 0.01),  # … at any depth
    ],
)
def test_values_that_fit_the_default_are_taken(conf, override, value):
    config = compose([override], conf)
    for part in override.partition("=")[0].lstrip("+").split("."):
        config = config[part]
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env.nume_envs=3", "env.nume_envs: unknown key; did you mean env.num_envs?"),
        ("num_envs=3", "num_envs: unknown key; did you mean env.num_envs?"),
        ("agnt=small", "agnt: unknown key; did you mean agent?"),
        ("agent=smal", "agent: 'smal' is not one of large, small; did you mean small?"),
        ("agent.only_small=2", "agent.only_small: unknown key"),
        ("+new=1", "new: unknown key"),
        ("++env.name.deep=1", "env.name.deep: unknown key; did you mean env.name?"),
        ("env={nme: 1}", "env.nme: unknown key; did you mean env.name?"),
        ("~seed", "seed: a key cannot be removed; write KEY=VALUE"),
        ("seed=abc", "seed: 'abc' is not a whole number (default: 0)"),
        ("seed=1.5", "seed: 1.5 is not a whole number (default: 0)"),
        ("seed=true", "seed: True is not a whole number (default: 0)"),
        ("seed=null", "seed: None is not a whole number (default: 0)"),
        ("env.dt=fast", "env.dt: 'fast' is not a number (default: 0.1)"),
        ("env.dt=nan", "env.dt: nan is no finite number"),
        ("env.from_pixels=1", "env.from_pixels: 1 is not true or false (default: False)"),
        ("env.name=[a]", "env.name: ['a'] is not a string (default: 'Ant')"),
        ("env.sizes=3", "env.sizes: 3 is not a list, as in [1,2] (default: [1, 2])"),
        ("env=3", "env: 3 is no value for a group of keys; write env.KEY=VALUE"),
        ("env.num_envs=-1", "env.num_envs: -1 is not above 0"),
        ("watchdog.stall=0", "watchdog.stall: 0 is not above 0"),
        (
            "logger.wandb.mode=ofline",
            "logger.wandb.mode: 'ofline' is not one of online, offline, disabled; did you mean",
        ),
        ("seed=1,2", "seed: '1,2' is several values; one run takes one value, a list is [1,2]"),
        ("hydra.run.dir=x", "hydra.run.dir: Hydra's own settings have no effect here"),
        ("seed=${nothing}", "seed: Interpolation key 'nothing' not found"),
        ("seed=???", "seed: Missing mandatory value"),
        ("seed", "'seed' is no override"),
        ("--verbose", "'--verbose' is no override"),
        ("env.name=$(reboot)", "'env.name=$(reboot)' is no override"),
    ],
)
def test_what_nothing_would_read_is_an_error_of_one_line(conf, override, message):
    with pytest.raises(ConfigError) as error:
        compose([override], conf)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@settings(max_examples=40)
@given(st.lists(st.text(max_size=30) | st.builds("env.name={}".format, st.text(max_size=30)), min_size=1, max_size=2))
def test_no_text_whatsoever_is_a_traceback(conf, words):
    with contextlib.suppress(ConfigError):
        assert isinstance(compose(words, conf)["env"]["name"], str)


def test_the_defaults_that_the_trainer_ships_compose_with_every_group():
    config = compose(["experiment=debug", "pipeline=sync", "agent=dreamer_v3"])
    assert config["pipeline"]["name"] == "sync"
    assert compose([])["env"]["backend"] == "mjlab"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimization.replay_ratio=fast", "optimization.replay_ratio: 'fast' is neither a number nor null"),
        ("optimization.replay_ratio=true", "optimization.replay_ratio: True is neither a number nor null"),
        ("optimization.replay_ratio=0", "optimization.replay_ratio: 0 is not above 0"),
        ("pipeline.publish_interval=0", "pipeline.publish_interval: 0 is not above 0"),
    ],
)
def test_a_ratio_that_no_run_could_keep_is_refused(override, words):
    with pytest.raises(ConfigError) as error:
        compose(["pipeline=async", override])
    assert str(error.value) == words


def test_a_replay_ratio_is_a_number_or_none():
    assert compose(["optimization.replay_ratio=0.5"])["optimization"]["replay_ratio"] == 0.5
    assert compose([])["optimization"]["replay_ratio"] is None


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("more", [[], ["experiment=debug"]])
def test_every_agent_composes_under_its_own_name_at_any_place(name, more):
    assert compose([f"agent={name}", *more]) == compose([*more, f"agent={name}"])
    assert compose([f"agent={name}", *more])["agent"]["name"] == name


def test_every_agent_that_the_trainer_knows_has_a_file_and_the_other_way_round():
    assert sorted(path.stem for path in (CONF / "agent").glob("*.yaml")) == sorted(AGENTS)


def test_an_agent_of_another_name_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"agent\.name: 'dreamer_v4' is none of dreamer, dreamer_v3"):
        make_agent(Config(name="dreamer_v4"), {}, 1)


def test_attributes_stand_for_keys():
    config = Config.of({"env": {"num_envs": 3}, "seed": 1})
    assert (config.env.num_envs, config.seed, vars(config.env)) == (3, 1, {"num_envs": 3})
    with pytest.raises(AttributeError, match="nm"):
        _ = config.nm


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["seed=1", "run_dir=/runs/a"], "/runs/a"),
        (["run_dir='/runs/a b'", "nonsense"], "/runs/a b"),
        (["run_dir=a", "run_dir=b"], "b"),
        (["seed=1"], None),
    ],
)
def test_the_run_directory_is_known_even_where_other_words_are_wrong(words, found):
    assert run_dir_override(words) == found


@pytest.mark.parametrize(
    ("word", "found"),
    [("sed", "seed"), ("num_env", "env.num_envs"), ("env.nam", "env.name"), ("zzz", None)],
)
def test_the_nearest_key_is_that_of_most_likely_intent(word, found):
    assert nearest(word, ["seed", "env.name", "env.num_envs"]) == found


def test_pixels_have_a_number_of_environments_of_their_own_unless_one_is_set():
    """Rendering is what costs: 256 pictures a step are enough for a GPU."""
    assert compose([])["env"]["num_envs"] == 64
    assert compose(["env.from_pixels=true"])["env"]["num_envs"] == 256
    assert compose(["env.from_pixels=true", "env.num_envs=64"])["env"]["num_envs"] == 64
    assert compose(["env={from_pixels: true, num_envs: 32}"])["env"]["num_envs"] == 32
    assert compose(["env.from_pixels=true", "experiment=debug"])["env"]["num_envs"] == 4


def test_settings_of_isaac_labs_own_may_have_any_name():
    config = compose(["env.cfg.scene.ground.size=[1,2]", "env.cfg.events.push_robot=null"])
    assert config["env"]["cfg"] == {"scene": {"ground": {"size": [1, 2]}}, "events": {"push_robot": None}}


def test_a_camera_has_one_of_three_views():
    with pytest.raises(ConfigError, match=r"env.camera.view: 'rera' is not one of rear, side, top; did you mean rear"):
        compose(["env.camera.view=rera"])
