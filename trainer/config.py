"""The trainer's config: Hydra's files and overrides in, one plain dictionary out. Imports no torch.

Every override must name a key that trainer/conf has, with a value of the kind that the default has. What Hydra takes
silently otherwise (`++agent.lerning_rate=1`, `seed=abc`, `~seed`) is an error here: nothing would read it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

CONF = Path(__file__).parent / "conf"

PIXEL_ENVIRONMENTS = 256  # env.num_envs with env.from_pixels, where neither the user nor an experiment sets it

# Numbers that only make sense above zero.
POSITIVE = (
    "env.num_envs",
    "env.spacing",
    "env.camera.width",
    "env.camera.height",
    "env.action_repeat",
    "collector.num_collectors",
    "collector.frames_per_batch",
    "replay_buffer.batch_size",
    "replay_buffer.batch_length",
    "replay_buffer.buffer_size",
    "optimization.total_optim_steps",
    "optimization.replay_ratio",
    "logger.interval",
    "video.environments",
    "video.length",
    "checkpoint.interval",
    "checkpoint.keep",
    "pipeline.publish_interval",
    "pipeline.actors",
    "watchdog.start",
    "watchdog.stall",
    "watchdog.grace",
    "watchdog.idle_gpu",
)
# Numbers that may be null, which says nothing about the kind of a value.
NUMBERS_OR_NULL = ("optimization.replay_ratio", "env.spacing", "collector.num_collectors", "pipeline.actors")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "env.camera.view": ("rear", "side", "top"),
    "logger.wandb.mode": ("online", "offline", "disabled"),
}


class Config(SimpleNamespace):
    """The config, or a section of it, read by attribute: `config.env.num_envs`."""

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Config:
        """Nested mappings become nested sections."""
        return cls(**{name: cls.of(value) if isinstance(value, Mapping) else value for name, value in section.items()})


def compose(overrides: Sequence[str], folder: Path = CONF) -> dict[str, Any]:
    """The config with all defaults, groups, overrides and interpolations resolved.

    Args:
        overrides: Words in Hydra's override grammar, `agent=dreamer_v3` or `env.num_envs=512`.
        folder: Where config.yaml and the groups are.

    Returns:
        Nested dictionaries of strings, numbers, booleans, None and lists.

    Raises:
        ConfigError: An override is no override, names an unknown key or group, or has a value of the wrong kind.
    """
    parsed = [_parse(word) for word in overrides]
    groups = [word for word, override in zip(overrides, parsed, strict=True) if _is_group(override, folder)]
    defaults = _compose(groups, folder)
    known = set(_keys(defaults))
    for override in parsed:
        if override.input_line not in groups:
            for key in _named_keys(override):
                _check_key(key, defaults, known, folder)
    words = [
        "++" + word.lstrip("+") if _is_open(override.key_or_group, defaults) else word
        for word, override in zip(overrides, parsed, strict=True)
    ]
    config = _compose(words, folder)
    _check_tree(config, defaults, "")
    named = {key for override in parsed for key in _named_keys(override)}
    if not named & {"env.num_envs", "experiment"} and config["env"]["from_pixels"]:
        config["env"]["num_envs"] = PIXEL_ENVIRONMENTS
    _check_values(config)
    return config


def run_dir_override(overrides: Iterable[str]) -> str | None:
    """The run directory that the words name, readable even where other words are wrong."""
    values = [word.partition("=")[2] for word in overrides if word.startswith("run_dir=")]
    return values[-1].strip("'\"") if values else None


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The known key that was most likely meant, or None where nothing is close.

    Compares whole dotted keys first, then the last part alone: `num_envs` finds `env.num_envs`.
    """
    candidates = sorted(known)
    whole = difflib.get_close_matches(key, candidates, n=1, cutoff=0.75)
    if whole:
        return whole[0]
    last = difflib.get_close_matches(key.rpartition(".")[2], [name.rpartition(".")[2] for name in candidates], n=1)
    return next((name for name in candidates if last and name.rpartition(".")[2] == last[0]), None)


def _parse(word: str) -> Override:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{word!r} is no override ({reason}); write KEY=VALUE, with quotes around special characters"
        ) from None
    key = override.key_or_group
    if override.is_delete():
        raise ConfigError(f"{key}: a key cannot be removed; write KEY=VALUE")
    if override.is_sweep_override():
        value = word.partition("=")[2]
        raise ConfigError(f"{key}: {value!r} is several values; one run takes one value, a list is [1,2]")
    if override.package is not None or key == "hydra" or key.startswith("hydra."):
        raise ConfigError(f"{key}: Hydra's own settings have no effect here; write KEY=VALUE with a key of the trainer")
    return override


def _is_group(override: Override, folder: Path) -> bool:
    key, value = override.key_or_group, override.value()
    group = folder / key.replace(".", "/")
    if not group.is_dir() or isinstance(value, Mapping):
        return False
    options = sorted(path.stem for path in group.glob("*.yaml"))
    chosen = value if isinstance(value, list) else [value]
    for name in chosen:
        if name not in options:  # null neither: Hydra has no override that takes a group away
            raise ConfigError(f"{key}: {name!r} is not one of {', '.join(options)}{_hint(str(name), options)}")
    return True


def _compose(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
            config = hydra_compose("config", list(overrides))
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"{error.full_key}: {reason}" if error.full_key else reason) from None
    except (HydraException, ValueError) as error:
        raise ConfigError(" ".join(str(error).split())) from None
    return cast("dict[str, Any]", resolved)


def _named_keys(override: Override) -> Iterator[str]:
    """`env={name: Ant}` names env.name beside env."""
    key, value = override.key_or_group, override.value()
    yield key
    if isinstance(value, Mapping):
        yield from (f"{key}.{name}" for name, _ in _leaves(value))


def _check_key(key: str, defaults: Mapping[str, Any], known: set[str], folder: Path) -> None:
    if key in known or _is_open(key, defaults):
        return
    groups = {path.name for path in folder.iterdir() if path.is_dir()}
    raise ConfigError(f"{key}: unknown key{_hint(key, known | groups)}")


def _is_open(key: str, defaults: Mapping[str, Any]) -> bool:
    """Whether a key lies below an empty mapping: what it may be is known to the simulator alone."""
    section: Any = defaults
    for part in key.split(".")[:-1]:
        section = section.get(part) if isinstance(section, Mapping) else None
        if section == {}:
            return True
    return False


def _check_tree(config: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> None:
    """Compare kinds with the defaults', in place: a whole float where an integer stands becomes an integer."""
    for name, value in config.items():
        key = prefix + name
        if name not in defaults:
            if defaults:
                raise ConfigError(f"{key}: unknown key{_hint(key, {prefix + other for other in defaults})}")
            continue
        default = defaults[name]
        if isinstance(default, Mapping):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{key}: {value!r} is no value for a group of keys; write {key}.KEY=VALUE")
            _check_tree(value, default, key + ".")
        else:
            config[name] = _converted(key, value, default)  # type: ignore[index]


def _converted(key: str, value: Any, default: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value) and value is not default:
        raise ConfigError(f"{key}: {value} is no finite number")
    match default:
        case None:
            return value
        case bool():
            accepted, kind = isinstance(value, bool), "true or false"
        case int():
            if isinstance(value, float) and value.is_integer():  # 1e6 is how people write a million
                return int(value)
            accepted, kind = isinstance(value, int) and not isinstance(value, bool), "a whole number"
        case float():
            accepted, kind = isinstance(value, int | float) and not isinstance(value, bool), "a number"
        case str():
            if isinstance(value, int | float) and not isinstance(value, bool):  # logger.wandb.group=2024
                return str(value)
            accepted, kind = isinstance(value, str), "a string"
        case list():
            accepted, kind = isinstance(value, list), "a list, as in [1,2]"
        case _:
            accepted, kind = True, ""
    if not accepted:
        raise ConfigError(f"{key}: {value!r} is not {kind} (default: {default!r})")
    return value


def _check_values(config: Mapping[str, Any]) -> None:
    flat = dict(_leaves(config))
    for key in NUMBERS_OR_NULL:
        value = flat.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigError(f"{key}: {value!r} is neither a number nor null")
    for key in POSITIVE:
        value = flat.get(key)
        if isinstance(value, int | float) and value <= 0:
            raise ConfigError(f"{key}: {value} is not above 0")
    for key, choices in CHOICES.items():
        value = flat.get(key)
        if value is not None and value not in choices:
            raise ConfigError(f"{key}: {value!r} is not one of {', '.join(choices)}{_hint(str(value), choices)}")


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        yield prefix + str(name), value
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")


def _keys(config: Mapping[str, Any]) -> Iterator[str]:
    return (key for key, _ in _leaves(config))


def _hint(word: str, known: Iterable[str]) -> str:
    match = nearest(word, known)
    return f"; did you mean {match}?" if match else ""
