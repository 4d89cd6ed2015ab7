"""Putting a mistake back: tests show that they fail where the code is wrong, by making it wrong for a moment."""

from __future__ import annotations

import contextlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def mistake(owner: Any, name: str, right: str, wrong: str) -> Iterator[None]:
    """Within the block, the function `owner.name` has `wrong` where its source has `right`.

    Args:
        owner: A class, or a module: then the function is replaced wherever the trainer has imported it, too.
        name: One of its functions.
        right: Must occur exactly once in the function's source.
        wrong: Stands there instead.
    """
    original = inspect.getattr_static(owner, name)
    function = inspect.unwrap(original)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(right) == 1, f"{right!r} stands {source.count(right)} times in {name}"
    scope: dict[str, Any] = {}
    wrong_source = "from __future__ import annotations\n" + source.replace(right, wrong)
    exec(compile(wrong_source, f"<{name} with a mistake>", "exec"), vars(sys.modules[function.__module__]), scope)
    importers = [
        module
        for key, module in list(sys.modules.items())
        if key.startswith("trainer.") and vars(module).get(name) is original
    ]
    for place in (owner, *importers):
        setattr(place, name, scope[name])
    try:
        yield
    finally:
        for place in (owner, *importers):
            setattr(place, name, original)


@contextlib.contextmanager
def must_fail() -> Iterator[None]:
    """The block's check has to notice; a check that passes with the mistake in place checks nothing."""
    try:
        yield
    except AssertionError:
        return
    raise AssertionError("the check passed although the mistake was in place")
