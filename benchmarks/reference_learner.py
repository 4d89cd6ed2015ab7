"""One optimiser step of the reference: TorchRL's three Dreamer losses, an Adam and a clip for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from benchmarks.reference_networks import ReferenceNetworks, Sizes, make_losses
from benchmarks.timing import Stopwatch

WORLD_MODEL_RATE = 6e-4
ACTOR_RATE = 8e-5
VALUE_RATE = 8e-5
CLIP = 100.0  # norm of each of the three gradients


@dataclass(frozen=True)
class StepLosses:
    """Losses of one step, each a detached scalar on the learner's device."""

    kl: Tensor
    reconstruction: Tensor
    reward: Tensor
    actor: Tensor
    value: Tensor


class ReferenceLearner:
    """Trains the networks where they are.

    Args:
        networks: Changed in place.
        device: Where the networks and the batches are.
        autocast: Forward passes under bfloat16 autocast. There is no gradient scaler: bfloat16 has float32's range.
        compile: Compile encoder, decoder, reward and value, each on its own. A whole loss handles TensorDicts, and the
            recurrence is a loop of small steps: both stay eager (the seed's trap 12).
        backend: Compiler that torch.compile is asked for.
    """

    def __init__(
        self,
        networks: ReferenceNetworks,
        device: torch.device | str,
        *,
        autocast: bool = True,
        compile: bool = True,
        backend: str = "inductor",
    ) -> None:
        self.networks = networks
        self.device = torch.device(device)
        self.losses = make_losses(networks)
        self.watch = Stopwatch(self.device)
        self._autocast = autocast
        if compile:
            for module in (networks.encoder, networks.decoder, networks.reward, networks.value_body):
                module.compile(backend=backend)  # in place: names of weights stay, copies are eager again
        self._world_model_optimizer = self._adam(networks.world_model, WORLD_MODEL_RATE)
        self._actor_optimizer = self._adam(networks.actor, ACTOR_RATE)
        self._value_optimizer = self._adam(networks.value, VALUE_RATE)

    def step(self, batch: TensorDict) -> StepLosses:
        """Train the world model on sequences `[B, T]`, then actor and value on what is imagined from all B·T states."""
        with self.watch.part("world model"):
            with self._precision():
                world_model, latents = self.losses.world_model(batch)
                loss = world_model["loss_model_kl"] + world_model["loss_model_reco"] + world_model["loss_model_reward"]
            self._update(self._world_model_optimizer, self.networks.world_model, loss)
        with self.watch.part("actor"):
            with self._precision():
                actor, imagined = self.losses.actor(latents.reshape(-1))  # [B·T] starts; imagined is [B·T, H]
            self._update(self._actor_optimizer, self.networks.actor, actor["loss_actor"])
        with self.watch.part("value"):
            with self._precision():
                value, _ = self.losses.value(imagined)
            self._update(self._value_optimizer, self.networks.value, value["loss_value"])
        return StepLosses(
            kl=world_model["loss_model_kl"].detach().squeeze(),
            reconstruction=world_model["loss_model_reco"].detach().squeeze(),
            reward=world_model["loss_model_reward"].detach().squeeze(),
            actor=actor["loss_actor"].detach(),
            value=value["loss_value"].detach(),
        )

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)

    def _adam(self, module: nn.Module, rate: float) -> torch.optim.Adam:
        return torch.optim.Adam(module.parameters(), lr=rate, fused=self.device.type == "cuda")

    @staticmethod
    def _update(optimizer: torch.optim.Adam, module: nn.Module, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()


def random_batch(
    sequences: int,
    length: int,
    observation: int,
    action: int,
    device: torch.device | str = "cpu",
    key: str = "policy",
    sizes: Sizes | None = None,
) -> TensorDict:
    """Noise in the shape of what the replay gives, `[sequences, length]`: actions in [-1, 1], the rest Gaussian."""
    sizes = sizes or Sizes()
    shape = (sequences, length)
    return TensorDict(
        {
            "state": torch.randn(*shape, sizes.state, device=device),
            "belief": torch.randn(*shape, sizes.belief, device=device),
            "action": torch.rand(*shape, action, device=device) * 2 - 1,
            "next": TensorDict(
                {
                    key: torch.randn(*shape, observation, device=device),
                    "reward": torch.randn(*shape, 1, device=device),
                    "done": torch.zeros(*shape, 1, dtype=torch.bool, device=device),
                },
                batch_size=shape,
            ),
        },
        batch_size=shape,
        device=device,
    )
