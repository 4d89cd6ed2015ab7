"""GPUs of this machine, and who gets which of them."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import TypeAlias

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
QUERY = ("nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader")
TIMEOUT = 20.0  # seconds; a driver in trouble answers late or never

Site: TypeAlias = tuple[str, str]  # a backend and a profile


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: HOST/UUID, or HOST/ and what CUDA_VISIBLE_DEVICES calls it where the driver does not answer.
        visible: What CUDA_VISIBLE_DEVICES calls it.
    """

    name: str
    visible: str


def of_this_machine(environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The GPUs that a process with this environment may use; none where there are none."""
    return visible_gpus(environment.get(VISIBLE), _installed(), socket.gethostname())


def visible_gpus(visible: str | None, installed: Sequence[tuple[str, str]], host: str) -> tuple[Gpu, ...]:
    """GPUs that CUDA_VISIBLE_DEVICES leaves of those of a machine.

    Args:
        visible: The variable's value; None where it is not set.
        installed: Index and UUID of each GPU.
        host: Name of the machine.
    """
    if visible is None:
        return tuple(Gpu(f"{host}/{uuid}", index) for index, uuid in installed)
    uuids = dict(installed)
    # CUDA reads as far as the first entry that means nothing.
    words = takewhile(lambda word: word and not word.startswith("-"), map(str.strip, visible.split(",")))
    return tuple(Gpu(f"{host}/{uuids.get(word, word)}", word) for word in dict.fromkeys(words))


def visible_names(leased: Collection[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES calls leased GPUs; one that this environment does not show goes by its UUID."""
    known = {gpu.name: gpu.visible for gpu in of_this_machine(environment)}
    return tuple(known.get(name, name.partition("/")[2]) for name in leased)


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Index and UUID of each GPU, as the driver says; one that came later is seen by the next process."""
    if shutil.which(QUERY[0]) is None:
        return ()
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines()]
    return tuple((index, uuid) for index, uuid in (row for row in rows if len(row) == 2))


class Leases:
    """Gives GPUs to runs that wait, the oldest first; no run of many GPUs waits for ever behind small ones."""

    def __init__(self, pools: Mapping[Site, Sequence[Gpu]], taken: Collection[str]) -> None:
        """Start from what is taken.

        Args:
            pools: GPUs that the runs of a site may be given; sites of one machine have the same ones.
            taken: Names of those that other runs have.
        """
        self._pools = {site: [gpu.name for gpu in gpus] for site, gpus in pools.items()}
        self._gone = set(taken)

    def take(self, site: Site, wanted: int) -> tuple[str, ...] | None:
        """Names of as many GPUs as are wanted.

        Returns:
            None where the run has to wait; nothing where its site has not as many, which whoever starts it says.
        """
        if wanted == 0:
            return ()
        if site not in self._pools:  # it came while the driver was asked
            return None
        pool = self._pools[site]
        if wanted > len(pool):
            return ()
        free = [name for name in pool if name not in self._gone][:wanted]
        if len(free) < wanted:
            self._gone.update(pool)  # what gets free is for this one
            return None
        self._gone.update(free)
        return tuple(free)
