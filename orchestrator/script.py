"""The set-up script of a run: templates/setup-and-run.sh.j2 with every value quoted for the shell."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING

from orchestrator.assets import templates_folder

if TYPE_CHECKING:
    import jinja2

TEMPLATE = "setup-and-run.sh.j2"
GRACE = 90  # seconds from TERM to KILL; the trainer's own `watchdog.grace` of 60 lies within

# Stand in a script for what is one run's own; no job can hold these words.
_RUN_ID, _RUN_DIR, _WORD = (f"own_{os.urandom(16).hex()}" for _ in range(3))
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class Install:
    """One `pip install` in a container.

    Attributes:
        label: Name of the step in the log, and of the file that says it is done.
        packages: Requirements as pip takes them.
        flags: Options of pip.
        folder: Source of a package, instead of `packages`; a copy of it is installed, because building writes there.
        kept: Done once for all runs that install the same on the same image. What may change under the same name is
            installed anew by each run.
    """

    label: str
    packages: tuple[str, ...]
    flags: tuple[str, ...] = ()
    folder: str | None = None
    kept: bool = True


@dataclass(frozen=True)
class ContainerSetup:
    """What a script does in a container, and never on a plain machine: that Python is its owner's.

    Attributes:
        installs: In order.
        own: Names of the packages among them; all others of the image are held at its versions.
        apt: Debian packages.
        wheelhouse: Folder of wheels that pip takes instead of an index.
        visible_devices: CUDA_VISIBLE_DEVICES where nothing is inherited; empty leaves the image's choice.
        kill_all: End every Python process first: the whole node is the run's own.
    """

    installs: tuple[Install, ...] = ()
    own: tuple[str, ...] = ()
    apt: tuple[str, ...] = ()
    wheelhouse: str | None = None
    visible_devices: str = ""
    kill_all: bool = False


@dataclass(frozen=True)
class ScriptContext:
    """All that a script is made of. Paths are as the machine or container that runs it sees them.

    Attributes:
        run_id: Also in the environment of every process of the run.
        run_dir: Absolute; working directory of the trainer.
        snapshot: Absolute; folder that holds the trainer package, put on PYTHONPATH.
        python: Command that starts Python, one word or more.
        environment: Variables by name.
        train: Hydra overrides, one word each.
        imports: Modules that must import before training starts.
        modules: Modules that must be there; not imported, because Isaac's must not be before its app runs.
        gpus: How many PyTorch must see.
        time_limit: Seconds from the start of an attempt to LONGSHORE_DEADLINE.
        grace: Seconds from TERM to KILL.
        container: None on a plain machine.
        tasks: How many of the job's tasks run it at once, on a Ray cluster of theirs.
        secrets: The backend may hand over secrets through standard input.
        given: File of what an attempt is given; such a script keeps its own log and its process id.
        last_attempt: Number of the last attempt that this script may start; the backend may start further ones.
        retry_on: Failure classes after which the script starts the next attempt itself, in the same place.
        backoff: Seconds before that, by failure class; twice as long before each further one.
    """

    run_id: str
    run_dir: str
    snapshot: str
    python: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    train: tuple[str, ...] = ()
    imports: tuple[str, ...] = ("torch", "tensordict", "torchrl")
    modules: tuple[str, ...] = ()
    gpus: int = 0
    time_limit: int | None = None
    grace: int = GRACE
    container: ContainerSetup | None = None
    tasks: int = 1
    secrets: bool = False
    given: str | None = None
    last_attempt: int = 1
    retry_on: tuple[str, ...] = ()
    backoff: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Variable:
    """An environment variable, NAME=VALUE in a script."""

    name: str
    value: str


def render_script(context: ScriptContext) -> str:
    """The text of setup-and-run.sh.

    Raises:
        ValueError: A value cannot stand in a script: a NUL, or a variable whose name is none.
    """
    values = {name: getattr(context, name) for name in context.__dataclass_fields__}
    values["environment"] = [Variable(name, value) for name, value in context.environment.items()]
    values["waits"] = [f"{name}={context.backoff.get(name, 0.0):.0f}" for name in context.retry_on]
    return shell_environment().get_template(TEMPLATE).render(values)


class ScriptWriter:
    """Writes scripts; where they differ in nothing but what is each run's own, the rest is rendered once."""

    def __init__(self) -> None:
        self._common: ScriptContext | None = None
        self._text = ""

    def write(self, context: ScriptContext) -> str:
        """As `render_script`."""
        if not context.train:
            return render_script(context)
        common = replace(context, run_id=_RUN_ID, run_dir=_RUN_DIR, train=(_WORD,))
        if common != self._common:
            self._common, self._text = common, render_script(common)
        words = "".join(f"  {shell_words(word)}\n" for word in context.train)
        text = self._text.replace(f"  {_WORD}\n", words)
        return text.replace(_RUN_ID, shell_words(context.run_id)).replace(_RUN_DIR, shell_words(context.run_dir))


def shell_words(value: object) -> str:
    """A value as the shell reads it back: a string as one word, a list as one word for each element.

    Raises:
        ValueError: It holds a NUL, which no argument or variable can, or is a variable whose name is none.
        TypeError: It is neither text, a number, a path, a variable nor a list of those.
    """
    if isinstance(value, (list, tuple)):
        return " ".join(shell_words(element) for element in value)
    if isinstance(value, Variable):
        if not _VARIABLE.fullmatch(value.name):
            raise ValueError(f"{value.name!r} is no name of an environment variable; use letters, digits and _")
        return f"{value.name}={shell_words(value.value)}"
    if isinstance(value, bool) or not isinstance(value, (str, int, float, PurePath)):
        raise TypeError(f"{value} cannot stand in a shell script")  # an undefined name raises an error of its own here
    text = str(value)
    if "\0" in text:
        raise ValueError(f"{text!r} holds a NUL; no argument or variable can")
    return shlex.quote(text)


@lru_cache(maxsize=1)
def shell_environment() -> jinja2.Environment:
    """The Jinja environment of shell templates: quotes whatever is interpolated, knows no undefined names."""
    import jinja2  # takes longer to import than most commands of the command line, which render nothing

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_folder()),
        finalize=shell_words,
        undefined=jinja2.StrictUndefined,
        comment_start_string="<#",  # Jinja's own begins in the middle of the shell's ${#list[@]}
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
        autoescape=False,
    )
