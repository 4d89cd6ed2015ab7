"""Chunks and weights over CUDA IPC between two real processes, on one GPU and on two. Prints what a chunk's copy takes.

Everything is checked on the GPU, in the order of its streams: a host that waits for them would hide what is missing.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.exchange_peer import ENVIRONMENTS, PATIENCE, ROWS, numbered, take_weights, write_chunks
from trainer.errors import PeerLost
from trainer.exchange.channel import Channel
from trainer.exchange.chunks import ChunkReader
from trainer.exchange.rendezvous import Rendezvous
from trainer.exchange.slots import Freed, Offer
from trainer.exchange.streams import Fence, Lane
from trainer.exchange.weights import WeightWriter
from trainer.run_dir import RunDir

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

ROOT = Path(__file__).parents[2]
SPAWN = multiprocessing.get_context("spawn")
SIMULATOR = torch.device("cuda", 0)
LEARNERS = [
    pytest.param(torch.device("cuda", 0), id="one-gpu"),
    pytest.param(
        torch.device("cuda", 1),
        id="two-gpus",
        marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU alone"),
    ),
]


class Peer:
    """The simulator's process, and the channel to it."""

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        rendezvous = Rendezvous.make()
        self.process: BaseProcess = SPAWN.Process(target=work, args=(rendezvous, SIMULATOR, *arguments))
        self.process.start()
        self.channel = Channel(rendezvous.listen(self._alive), "simulator")

    def next(self) -> Any:
        assert self.channel.wait(PATIENCE)
        return self.channel.receive()

    def drain(self) -> None:
        """Receive until there is nobody to receive from."""
        while True:
            self.channel.receive()

    def close(self) -> None:
        self.channel.close()
        self.process.join(10)
        self.process.kill()
        self.process.join()

    def _alive(self) -> None:
        assert self.process.is_alive(), "the simulator's process has died; see its output"


@pytest.fixture
def start() -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def starting(work: Callable[..., None], *arguments: Any) -> Peer:
        peers.append(Peer(work, *arguments))
        return peers[-1]

    yield starting
    torch.cuda.set_sync_debug_mode("default")
    for peer in peers:
        peer.close()


def reader_of(peer: Peer, device: torch.device) -> ChunkReader:
    torch.cuda.set_device(device)
    offer = peer.next()
    assert isinstance(offer, Offer)
    return ChunkReader(peer.channel, offer, device)


@pytest.mark.parametrize("device", LEARNERS)
def test_chunks_arrive_once_in_order_and_whole(start: Callable[..., Peer], device: torch.device):
    chunks, width = 400, 512
    peer = start(write_chunks, chunks, width, 500_000)
    reader = reader_of(peer, device)
    wrong = torch.zeros((), dtype=torch.long, device=device)
    row, early = 0, 0
    for chunk in range(chunks):
        reader.filled(peer.next())
        torch.cuda.set_sync_debug_mode("error")
        while (arrived := reader.poll()) is None:
            early += 1
        tensors, note = arrived
        assert note == chunk
        torch.cuda._sleep(200_000)  # a learner that is slow to use them
        rows = len(tensors["number"])
        for name, expected in numbered(row, rows, width, device).items():
            wrong += (tensors[name] != expected).sum()
        torch.cuda.set_sync_debug_mode("default")
        row += rows
    assert wrong.item() == 0
    assert row == ROWS * chunks + len(range(0, chunks, 7))
    assert early > chunks, "chunks were never announced before they were there: nothing was tested"


@pytest.mark.parametrize("device", LEARNERS)
def test_weights_arrive_whole_while_training_goes_on(start: Callable[..., Peer], device: torch.device):
    shapes = {"large": (2048, 4096), "small": (7,), "scalar": ()}
    last = 300
    peer = start(take_weights, shapes, last)
    torch.cuda.set_device(device)
    writer = WeightWriter(peer.channel, peer.next(), device)
    parameters = {name: torch.zeros(shape, device=device) for name, shape in shapes.items()}
    published = []

    def attend() -> Any:
        while (message := peer.channel.receive()) is not None:
            if not isinstance(message, Freed):
                return message
            writer.freed(message)
        return None

    version = 0
    while version < last:
        version += 1
        attend()
        torch.cuda.set_sync_debug_mode("error")
        for tensor in parameters.values():
            tensor.fill_(version)
        if writer.publish(version, parameters):
            published.append(version)
        for tensor in parameters.values():
            tensor.fill_(-1)  # the next optimiser step
        torch.cuda._sleep(300_000)
        torch.cuda.set_sync_debug_mode("default")
        time.sleep(0.001)  # the GPU keeps up
        if version == last and published[-1] != last:
            version -= 1  # the last one must be sent
    deadline = time.monotonic() + PATIENCE
    while (seen := attend()) is None:
        assert time.monotonic() < deadline
    versions, wrong = seen
    assert wrong == 0
    assert versions == sorted(set(versions))
    assert set(versions) <= set(published)
    assert versions[-1] == last
    assert len(versions) > 10


@pytest.mark.parametrize("device", LEARNERS)
def test_what_the_copy_of_a_chunk_takes(
    start: Callable[..., Peer], device: torch.device, capsys: pytest.CaptureFixture[str]
):
    chunks, width = 60, 1 << 17  # 268 MB of float32 a chunk
    peer = start(write_chunks, chunks, width, 0)
    reader = reader_of(peer, device)
    nbytes = reader.slots.layout.nbytes
    started = 0.0
    for chunk in range(chunks):
        reader.filled(peer.next())
        while reader.poll() is None:
            pass
        if chunk == 9:
            torch.cuda.synchronize()
            started = time.perf_counter()
    through = (chunks - 10) * nbytes / (time.perf_counter() - started)

    lane, target = Lane(SIMULATOR, device), torch.empty(nbytes, dtype=torch.uint8, device=device)
    before, after = Fence(SIMULATOR), Fence(SIMULATOR)
    for repetitions in (3, 20):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(repetitions):
            lane.copy(target, reader.slots.bytes[0], before, after)
        while not lane.idle():
            pass
        alone = repetitions * nbytes / (time.perf_counter() - started)
    with capsys.disabled():
        print(
            f"\nchunk of {nbytes / 1e6:.0f} MB, {SIMULATOR} to {device}: copy {alone / 1e9:.0f} GB/s, "
            f"{nbytes / alone * 1e3:.2f} ms; whole exchange {through / 1e9:.0f} GB/s"
        )
    assert alone > 1e9
    assert 4 * ENVIRONMENTS * width * ROWS < nbytes


@pytest.mark.parametrize("device", LEARNERS)
def test_a_writer_that_is_killed_in_the_middle_of_a_chunk_leaves_no_torn_one(
    start: Callable[..., Peer], device: torch.device
):
    """Whether such a chunk ever comes is up to the driver; if it does, it must be whole."""
    width = 512
    peer = start(write_chunks, 1_000_000, width, 50_000_000)
    reader = reader_of(peer, device)
    wrong = torch.zeros((), dtype=torch.long, device=device)
    row = 0

    def take(seconds: float) -> None:
        nonlocal row
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            arrived = reader.poll()
            if arrived is not None:
                tensors, _ = arrived
                rows = len(tensors["number"])
                for name, expected in numbered(row, rows, width, device).items():
                    wrong.add_((tensors[name] != expected).sum())
                row += rows
                return

    for _ in range(10):
        reader.filled(peer.next())
        take(PATIENCE)
    reader.filled(peer.next())
    assert reader.poll() is None, "the chunk was there already: nothing was tested"
    peer.process.kill()
    peer.process.join()
    with contextlib.suppress(PeerLost):  # in giving back the slot
        take(2.0)
    assert wrong.item() == 0
    assert row >= 10 * ROWS
    with pytest.raises(PeerLost):
        peer.drain()
    assert torch.ones(1000, device=SIMULATOR).sum().item() == 1000


@pytest.mark.parametrize("captured", [False, True])
def test_a_whole_run(tmp_path: Path, captured: bool):
    """On as many GPUs as there are: a small agent, the debug simulator, and weights that go back."""
    run_dir = RunDir(tmp_path / "run")
    path = os.pathsep.join([str(ROOT), *sys.path])
    coupled = "optimization.replay_ratio=2"  # so that no learner is done before new weights have collected anything
    overrides = ["optimization.total_optim_steps=60", coupled, f"optimization.compile.enabled={str(captured).lower()}"]
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "experiment=debug", "pipeline=async", *overrides],
        env=os.environ | {"PYTHONPATH": path, "LONGSHORE_RUN_DIR": str(run_dir.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    two = torch.cuda.device_count() > 1
    assert ("simulator on cuda:0, learner on cuda:1" if two else "share cuda:0") in done.stderr
    assert json.loads(run_dir.summary.read_text())["optim_steps"] == 60
    lags = [line["pipeline/policy_lag"] for line in run_dir.read_metrics()]
    assert max(lags) < 60
