"""The seed's list of traps: one more that the trainer avoids by how it is built, and the page that lists them all."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainer.agents import ACTION, CPU, OBSERVATION, debug_config
from trainer.agents import make_agent
from trainer.collection import Collector
from trainer.simulators import make_simulator

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "traps.md"
TRAPS = range(1, 21)
NAME = re.compile(r"test_trap_(\d+)_\w+")
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique")  # operations whose result the host waits for


class Waits(TorchDispatchMode):
    """Notes operations for which the host would have to wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name.startswith(WAITING):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def test_trap_3_collecting_never_waits_for_the_gpu(monkeypatch: pytest.MonkeyPatch):
    """Seed, trap 3: synchronising between the steps of a simulator on CUDA hangs now and then, and costs always."""
    config = debug_config("agent=dreamer")  # on a CPU, and there alone, one_hot looks at what it is given
    collector = Collector(make_simulator(config.env, 0, CPU), make_agent(config.agent, OBSERVATION, ACTION), 0, CPU)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("the device was waited for"))
    with Waits() as naive:
        torch.zeros(2).any().item()
    assert naive.seen, "what waits is noticed"
    with Waits() as waits:
        for _ in range(3):
            collector.collect(10)
    assert waits.seen == []


def named_tests() -> dict[int, dict[str, str]]:
    """Tests that name a trap, with their docstrings, by its number."""
    found: dict[int, dict[str, str]] = defaultdict(dict)
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (match := NAME.fullmatch(node.name)):
                found[int(match[1])][node.name] = ast.get_docstring(node) or ""
    return found


@pytest.mark.parametrize("trap", TRAPS)
def test_every_trap_has_a_test_that_says_which_one_it_is(trap: int):
    tests = named_tests()[trap]
    assert tests
    for name, docstring in tests.items():
        assert docstring.startswith(f"Seed, trap {trap}: "), name


def test_the_page_lists_every_trap_with_all_of_its_tests():
    listed = {int(trap): set(re.findall(r"`(test_trap_\w+)`", row)) for trap, row in rows().items()}
    assert list(listed) == list(TRAPS)
    assert listed == {trap: set(names) for trap, names in named_tests().items()}


def rows() -> dict[str, str]:
    """Lines of the page's table, by the number that they begin with."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {match[1]: line for line in lines if (match := re.match(r"\| (\d+) \|", line))}
