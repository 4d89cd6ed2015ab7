"""The simulator's side of the exchange, as a process of its own; started by the tests beside this file."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.errors import PeerLost
from trainer.exchange.channel import Channel
from trainer.exchange.chunks import ChunkWriter
from trainer.exchange.rendezvous import Rendezvous
from trainer.exchange.slots import Accepted, Filled, Freed
from trainer.exchange.weights import WeightReader

PATIENCE = 120.0  # seconds
ROWS, ENVIRONMENTS = 8, 64


def numbered(start: int, rows: int, width: int, device: torch.device) -> dict[str, Tensor]:
    """Rows that carry their number in every tensor."""
    number = torch.arange(start, start + rows, device=device)
    return {
        "number": number.unsqueeze(-1).expand(rows, ENVIRONMENTS),
        "wide": number.float().view(-1, 1, 1).expand(rows, ENVIRONMENTS, width),
        "odd": (number % 2 == 1).unsqueeze(-1).expand(rows, ENVIRONMENTS),
    }


def write_chunks(rendezvous: Rendezvous, device: torch.device, chunks: int, width: int, busy: int) -> None:
    """Write chunks as fast as slots get free, and stay until the reader hangs up.

    Args:
        rendezvous: With the reader.
        device: Where the chunks are made.
        chunks: How many.
        width: Of the rows; a row has `4 * ENVIRONMENTS * width` bytes and a few.
        busy: Cycles that the GPU spends before each chunk, so that chunks are announced before they are there.
    """
    torch.cuda.set_device(device)
    channel = Channel(rendezvous.connect(lambda: None), "reader")
    writer = ChunkWriter(channel, numbered(0, ROWS, width, device), rows=ROWS + 1, note="structure")

    def attend() -> None:
        channel.wait(PATIENCE)
        match channel.receive():
            case Accepted() as accepted:
                writer.slots.accepted(accepted)
            case Freed() as freed:
                writer.freed(freed)

    row = 0
    for chunk in range(chunks):
        while not writer.free:
            attend()
        rows = ROWS + 1 if chunk % 7 == 0 else ROWS
        torch.cuda._sleep(busy)
        torch.cuda.set_sync_debug_mode("error")
        writer.write(numbered(row, rows, width, device), note=chunk)
        torch.cuda.set_sync_debug_mode("default")
        row += rows
    try:
        while True:
            attend()
    except PeerLost:
        return


def take_weights(rendezvous: Rendezvous, device: torch.device, shapes: dict[str, tuple[int, ...]], last: int) -> None:
    """Take weights until the last version has come, and say what was seen: versions and how many numbers were wrong."""
    torch.cuda.set_device(device)
    channel = Channel(rendezvous.connect(lambda: None), "learner")
    parameters = {name: torch.zeros(shape, device=device) for name, shape in shapes.items()}
    places = [tensor.data_ptr() for tensor in parameters.values()]
    reader = WeightReader(channel, parameters)
    wrong = torch.zeros((), dtype=torch.long, device=device)
    versions: list[int] = []
    while not versions or versions[-1] < last:
        channel.wait(0.001)
        while (message := channel.receive()) is not None:
            match message:
                case Accepted():
                    reader.slots.accepted(message)
                case Filled():
                    reader.filled(message)
        torch.cuda.set_sync_debug_mode("error")
        taken = reader.take()
        torch.cuda.set_sync_debug_mode("default")
        if taken and reader.version is not None:
            versions.append(reader.version)
            torch.cuda._sleep(1_000_000)  # a policy step that uses them
            for tensor in parameters.values():
                wrong += (tensor != reader.version).sum()
    assert [tensor.data_ptr() for tensor in parameters.values()] == places
    channel.send((versions, wrong.item()))
    channel.wait(PATIENCE)
