"""What two roles give each other, between real processes: a forked one beside this one, which may die at any moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client, Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trainer.conftest import named_memory
from tests.waiting import PATIENCE, eventually
from trainer.errors import PeerLost
from trainer.exchange.blocks import Layout
from trainer.exchange.channel import Channel
from trainer.exchange.chunks import ChunkReader, ChunkWriter
from trainer.exchange.rendezvous import LONGEST_ADDRESS, Rendezvous
from trainer.exchange.slots import Accepted, Filled, Freed, Slots
from trainer.exchange.weights import WeightReader, WeightWriter

CPU = torch.device("cpu")
FORK = multiprocessing.get_context("fork")


class Ends:
    """Two ends of a channel, and the processes that were given one of them."""

    def __init__(self) -> None:
        mine, theirs = socket.socketpair()
        self.mine, self.theirs = (Channel(Connection(end.detach()), "other") for end in (mine, theirs))
        self._processes: list[BaseProcess] = []

    def fork(self, work: Callable[[Channel], None]) -> BaseProcess:
        """Have another process work with the other end; it alone has it then."""

        def alone() -> None:
            self.mine.close()
            work(self.theirs)

        process = FORK.Process(target=alone)
        process.start()
        self._processes.append(process)
        self.theirs.close()
        return process

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


@pytest.fixture
def ends() -> Iterator[Ends]:
    both = Ends()
    yield both
    both.close()


def until(channel: Channel, kind: type) -> object:
    """The next message, which must be of a kind."""
    assert channel.wait(PATIENCE)
    message = channel.receive()
    assert isinstance(message, kind)
    return message


def nothing() -> None:
    """Waits for ever."""


# Meeting


def test_two_roles_that_know_the_key_meet_and_leave_no_folder():
    rendezvous = Rendezvous.make()
    met: list[Connection] = []
    thread = threading.Thread(target=lambda: met.append(rendezvous.connect(nothing)), daemon=True)
    thread.start()  # before anybody listens
    listening = rendezvous.listen(nothing)
    thread.join()
    listening.send("hello")
    assert met[0].recv() == "hello"
    assert not Path(rendezvous.folder).exists()


def test_whoever_does_not_know_the_key_is_left_out():
    rendezvous = Rendezvous.make()
    met: list[Connection] = []
    thread = threading.Thread(target=lambda: met.append(rendezvous.listen(nothing)), daemon=True)
    thread.start()

    def is_refused() -> bool:
        try:
            Client(rendezvous.address, "AF_UNIX", authkey=b"guessed").close()
        except multiprocessing.AuthenticationError:
            return True
        except OSError:  # nobody listens yet
            return False
        raise AssertionError("whoever guesses is let in")

    eventually(is_refused)
    assert not met
    connection = rendezvous.connect(nothing)
    thread.join()
    connection.send("hello")
    assert met[0].recv() == "hello"


@pytest.mark.parametrize("verb", ["listen", "connect"])
def test_who_waits_for_a_role_that_never_comes_can_give_up(verb: str):
    rendezvous = Rendezvous.make()
    asked = 0

    def give_up() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        getattr(rendezvous, verb)(give_up)
    rendezvous.remove()


def test_the_folder_is_private_and_the_key_is_not_printed():
    rendezvous = Rendezvous.make()
    assert Path(rendezvous.folder).stat().st_mode & 0o777 == 0o700
    assert rendezvous.key not in repr(rendezvous)
    rendezvous.remove()


def test_a_folder_whose_path_is_too_long_for_a_socket_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    rendezvous = Rendezvous.make()
    assert len(rendezvous.address) <= LONGEST_ADDRESS
    assert not list(long.iterdir())
    rendezvous.remove()


# Messages


def test_what_was_sent_before_the_other_role_died_still_arrives(ends: Ends):
    def work(channel: Channel) -> None:
        for number in range(3):
            channel.send(number)
        os.kill(os.getpid(), signal.SIGKILL)

    ends.fork(work).join()
    assert [ends.mine.receive() for _ in range(3)] == [0, 1, 2]
    assert ends.mine.wait(0)
    with pytest.raises(PeerLost, match="the other is gone"):
        ends.mine.receive()
    with pytest.raises(PeerLost):
        ends.mine.send(0)


def test_no_message_is_none_at_once(ends: Ends):
    assert ends.mine.receive() is None
    assert not ends.mine.wait(0)


# Memory


TENSORS = {
    "scalar": torch.tensor(3.5),
    "flags": torch.tensor([[True, False, True]]),
    "bytes": torch.arange(7, dtype=torch.uint8),
    "long": torch.arange(6).view(2, 3),
    "nothing": torch.zeros(0, 4),
    "half": torch.linspace(0, 1, 5, dtype=torch.bfloat16),
}


def test_tensors_of_all_kinds_lie_in_a_block_side_by_side():
    layout = Layout.of(TENSORS)
    block = torch.zeros(layout.nbytes, dtype=torch.uint8)
    views = layout.views(block)
    for name, tensor in TENSORS.items():
        views[name].copy_(tensor)
    for name, tensor in TENSORS.items():
        assert torch.equal(layout.views(block)[name], tensor)
        assert views[name].dtype == tensor.dtype


def test_memory_is_shared_between_processes_and_has_no_name(ends: Ends):
    def work(channel: Channel) -> None:
        slots = Slots.accept(until(channel, object), channel)
        slots.tensors(1)["long"].fill_(7)
        channel.send("written")
        channel.wait(PATIENCE)

    process = ends.fork(work)
    slots = Slots.offer("test", Layout.of(TENSORS), CPU, ends.mine)
    until(ends.mine, Accepted)
    until(ends.mine, str)
    assert slots.tensors(1)["long"].eq(7).all()
    assert slots.tensors(0)["long"].eq(0).all()
    assert not named_memory(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert slots.tensors(1)["long"].eq(7).all()


# Chunks

CHUNKS, ENVIRONMENTS = 3000, 3


def numbered(start: int, rows: int) -> dict[str, Tensor]:
    """Rows that carry their number in every tensor."""
    number = torch.arange(start, start + rows)
    return {
        "number": number.unsqueeze(-1).expand(rows, ENVIRONMENTS),
        "wide": number.float().view(-1, 1, 1).expand(rows, ENVIRONMENTS, 100),
        "odd": (number % 2 == 1).unsqueeze(-1).expand(rows, ENVIRONMENTS),
    }


def write_chunks(channel: Channel) -> None:
    """As fast as slots get free; every seventh chunk has a row more, as where episodes begin."""
    writer = ChunkWriter(channel, numbered(0, 4), rows=5, note="structure")
    row = 0
    for chunk in range(CHUNKS):
        while not writer.free:
            channel.wait(PATIENCE)
            match channel.receive():
                case Accepted() as accepted:
                    writer.slots.accepted(accepted)
                case Freed() as freed:
                    writer.freed(freed)
        rows = 5 if chunk % 7 == 0 else 4
        writer.write(numbered(row, rows), note=chunk)
        row += rows
    channel.wait(PATIENCE)


def test_thousands_of_chunks_arrive_once_in_order_and_whole(ends: Ends):
    ends.fork(write_chunks)
    offer = until(ends.mine, object)
    assert offer.note == "structure"
    reader = ChunkReader(ends.mine, offer, CPU)
    row, notes = 0, []
    while len(notes) < CHUNKS:
        reader.filled(until(ends.mine, Filled))
        tensors, note = reader.poll()
        rows = len(tensors["number"])
        expected = numbered(row, rows)
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
        row += rows
        notes.append(note)
    assert notes == list(range(CHUNKS))
    assert row == 4 * CHUNKS + len(range(0, CHUNKS, 7))


def connected(ends: Ends) -> tuple[ChunkWriter, ChunkReader]:
    writer = ChunkWriter(ends.theirs, numbered(0, 4), rows=4)
    reader = ChunkReader(ends.mine, until(ends.mine, object), CPU)
    assert not writer.free
    writer.slots.accepted(until(ends.theirs, Accepted))
    return writer, reader


def test_a_writer_has_two_slots_and_waits_for_the_reader_then(ends: Ends):
    writer, reader = connected(ends)
    for chunk in range(2):
        assert writer.free
        writer.write(numbered(4 * chunk, 4), note=chunk)
    assert not writer.free
    reader.filled(until(ends.mine, Filled))
    assert reader.pending
    tensors, note = reader.poll()
    assert not reader.pending
    writer.freed(until(ends.theirs, Freed))
    assert writer.free
    writer.write(numbered(100, 4), note=2)
    assert (note, tensors["number"][0, 0]) == (0, 0)  # the reader's own copy


class Unreached:
    """A fence on a GPU that is still busy."""

    def __init__(self) -> None:
        self.busy = True

    def reached(self) -> bool:
        return not self.busy

    def hold(self, stream: object = None) -> None:
        assert not self.busy


def test_a_reader_never_waits_for_a_slot_that_is_still_being_written(ends: Ends):
    writer, reader = connected(ends)
    fence = Unreached()
    reader.slots.other = [fence, fence]
    writer.write(numbered(0, 4), note=0)
    reader.filled(until(ends.mine, Filled))
    assert reader.poll() is None
    assert reader.pending
    assert ends.theirs.receive() is None  # the slot is not given back
    fence.busy = False
    assert reader.poll() is not None
    until(ends.theirs, Freed)


# Weights


def weights(value: float) -> dict[str, Tensor]:
    return {"layer.weight": torch.full((2, 3), value), "steps": torch.tensor(int(value))}


class Exchange:
    """Both ends of a weight exchange in this process."""

    def __init__(self, ends: Ends) -> None:
        self.parameters = weights(-1)
        self._ends = ends
        self.reader = WeightReader(ends.theirs, self.parameters)
        self.writer = WeightWriter(ends.mine, until(ends.mine, object), CPU)
        self.reader.slots.accepted(until(ends.theirs, Accepted))

    def deliver(self) -> None:
        while (message := self._ends.theirs.receive()) is not None:
            self.reader.filled(message)
        while (message := self._ends.mine.receive()) is not None:
            self.writer.freed(message)


def test_weights_arrive_in_place_with_their_version(ends: Ends):
    exchange = Exchange(ends)
    places = [tensor.data_ptr() for tensor in exchange.parameters.values()]
    assert not exchange.reader.take()
    for version in (5, 6, 9):
        assert exchange.writer.publish(version, weights(version))
        exchange.deliver()
        assert exchange.reader.take()
        assert exchange.reader.version == version
        assert all(torch.equal(exchange.parameters[name], tensor) for name, tensor in weights(version).items())
        exchange.deliver()
    assert [tensor.data_ptr() for tensor in exchange.parameters.values()] == places


def test_a_simulator_that_is_slow_gets_the_newest_of_two_and_publishing_never_waits(ends: Ends):
    exchange = Exchange(ends)
    assert [exchange.writer.publish(version, weights(version)) for version in (1, 2, 3)] == [True, True, False]
    assert exchange.writer.version == 2
    exchange.deliver()
    assert exchange.reader.take()
    assert exchange.reader.version == 2
    assert exchange.parameters["steps"] == 2
    assert not exchange.reader.take()
    exchange.deliver()
    assert [exchange.writer.publish(version, weights(version)) for version in (4, 5, 6)] == [True, True, False]


def test_weights_that_are_still_on_their_way_are_not_waited_for_unless_asked(ends: Ends):
    exchange = Exchange(ends)
    on_the_way, there = Unreached(), Unreached()
    there.busy = False
    exchange.reader.slots.other = [there, on_the_way]
    for version in (1, 2):
        exchange.writer.publish(version, weights(version))
    exchange.deliver()
    assert exchange.reader.take()
    assert exchange.reader.version == 1
    assert not exchange.reader.take()
    on_the_way.hold = lambda stream=None: None  # the GPU waits, not this process
    assert exchange.reader.take(wait=True)
    assert exchange.reader.version == 2


def test_the_newest_version_is_never_followed_by_an_older_one(ends: Ends):
    """The older one may be seen to be there only after the newer one was."""
    exchange = Exchange(ends)
    late, there = Unreached(), Unreached()
    there.busy = False
    exchange.reader.slots.other = [late, there]
    for version in (1, 2):
        exchange.writer.publish(version, weights(version))
    exchange.deliver()
    assert exchange.reader.take()
    assert exchange.reader.version == 2
    late.busy = False
    assert not exchange.reader.take()
    exchange.deliver()
    assert [exchange.writer.publish(version, weights(version)) for version in (3, 4)] == [True, True]
