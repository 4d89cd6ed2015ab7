"""How the two roles of `pipeline=async` find each other. Imports no torch."""

from __future__ import annotations

import time

from trainer.errors import PeerLost, Stopped
from trainer.exchange.channel import Channel
from trainer.role import RoleContext
from trainer.run_dir import Phase


def meet(context: RoleContext, peer: str, *, listening: bool) -> Channel:
    """The channel to the other role.

    Args:
        context: Of this role.
        peer: Name of the other role.
        listening: Which of both this one is; the other connects.

    Raises:
        Stopped: This role was asked to stop, as it is where the other one dies before they have met.
        PeerLost: The other role did not come within `watchdog.start`.
    """
    patience: float = context.config["watchdog"]["start"]
    give_up_at = time.monotonic() + patience

    def wait() -> None:
        context.beat(Phase.STARTING, waiting=True)
        if context.should_stop:
            raise Stopped
        if time.monotonic() > give_up_at:
            raise PeerLost(f"the {peer} did not connect within {patience:g} s (watchdog.start)")

    rendezvous = context.rendezvous
    if rendezvous is None:
        raise RuntimeError(f"role {context.role} was started without a rendezvous with the {peer}")
    return Channel(rendezvous.listen(wait) if listening else rendezvous.connect(wait), peer)
