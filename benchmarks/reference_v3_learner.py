"""TorchRL's DreamerV3 learner: its stepper, optimiser and losses on random batches, in one of several modes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.trainers.algorithms.dreamer_v3 import DreamerV3OptimizationStepper, DreamerV3Optimizer

from benchmarks.reference_v3_networks import KEY, SCAN_UNROLL, make_loss, make_networks, select_scan
from benchmarks.trainer_parts import learner_config
from trainer.config import Config

SCOPES = ("step", "scan")
BATCHES = 4  # that a learner goes round and round
WARM_UP = 5  # forward and backward passes that prepare: the stepper's default; the last one captures


@dataclass(frozen=True)
class Mode:
    """How TorchRL's step runs.

    Attributes:
        scope: `step` compiles forward and backward as a whole, `scan` the recurrence and imagination's step alone (the
            way of the published figure), None nothing.
        captured: Forward and backward are one CUDA graph.
    """

    scope: str | None
    captured: bool

    def __str__(self) -> str:
        words = {"step": "compiled", "scan": "compiled scan", None: "" if self.captured else "eager"}[self.scope]
        return " + ".join(filter(None, (words, "captured" if self.captured else "")))

    def simpler(self) -> Iterator[Mode]:
        """This mode, and those to fall back to."""
        scopes = {"step": ("step", "scan", None), "scan": ("scan", None), None: (None,)}[self.scope]
        yield from (Mode(scope, self.captured) for scope in scopes)
        if self.captured:
            yield Mode(None, False)


class V3Learner:
    """TorchRL's learner on random batches that lie on its device.

    The order is the stepper's: make all modules where they are to stay, `prepare` with a batch of the very shapes and
    keys that are to come, and only then `step`. The preparation runs forward and backward, warm-up by warm-up, and the
    last of them captures; weights, moments and the slow critic stay as they are.

    Args:
        agent: `agent` of the trainer's config, which gives the sizes.
        observation: Numbers of an observation.
        action: Numbers of an action.
        device: Where everything is.
        sequences: Of a batch.
        length: Transitions of a sequence.
        mode: How the step runs.
    """

    def __init__(
        self,
        agent: Config,
        observation: int,
        action: int,
        device: torch.device,
        *,
        sequences: int,
        length: int,
        mode: Mode,
    ) -> None:
        self.mode = mode
        networks = make_networks(agent, observation, action, device)
        self.loss, slow_critic = make_loss(networks, agent, observation, action, device)
        if mode.scope == "scan":
            select_scan(self.loss, networks)
        optimizer = DreamerV3Optimizer(
            self.loss.parameters(),
            **{name: getattr(agent.optimizer, name) for name in ("lr", "agc", "beta1", "beta2", "eps")},
            warmup_steps=agent.optimizer.warmup,
        )
        self.stepper = DreamerV3OptimizationStepper(
            self.loss,
            optimizer,
            slow_critic,
            compile_train_step=mode.scope == "step",
            cudagraph=mode.captured,
            rssm_scan_unroll=SCAN_UNROLL,
            warmup_steps=WARM_UP,
            mixed_precision=device.type == "cuda",  # bfloat16; float32 elsewhere, whatever is asked for
        )
        model = agent.world_model
        widths = {"state": model.stochastic * model.classes, "belief": model.deter, "action": action, KEY: observation}
        self._batches = [random_transitions(sequences, length, widths, device) for _ in range(BATCHES)]
        self._next = 0

    @property
    def parameters(self) -> int:
        """How many are trained."""
        return sum(parameter.numel() for parameter in self.loss.parameters())

    def prepare(self) -> None:
        """Compile and capture, as the mode says. No other thread may use the GPU meanwhile.

        Raises:
            RuntimeError: A CUDA graph was asked for on another device.
        """
        if self.mode != Mode(None, False):
            self.stepper.warmup(self._batches[0])

    def step(self) -> TensorDict:
        """One update; the losses, detached, on the device. The batch gets the refreshed latents, for a replay."""
        batch = self._batches[self._next % BATCHES]
        self._next += 1
        return self.stepper.step(None, batch)


def make_v3_learner(
    observation: int,
    action: int,
    device: torch.device,
    *,
    sequences: int,
    length: int,
    compile: bool,
    capture: bool,
    scope: str = "step",
    overrides: Sequence[str] = (),
) -> V3Learner:
    """TorchRL's learner, still to be prepared, at the sizes of `agent=dreamer_v3`.

    Args:
        observation: Numbers of an observation.
        action: Numbers of an action.
        device: Where everything is.
        sequences: Of a batch.
        length: Transitions of a sequence.
        compile: Compile what `scope` names.
        capture: Make forward and backward one CUDA graph.
        scope: One of `SCOPES`, see `Mode`.
        overrides: Of the trainer's config.
    """
    agent = learner_config("dreamer_v3", sequences * length, length, overrides).agent
    torch.manual_seed(0)
    mode = Mode(scope if compile else None, capture)
    return V3Learner(agent, observation, action, device, sequences=sequences, length=length, mode=mode)


def random_transitions(sequences: int, length: int, widths: dict[str, int], device: torch.device) -> TensorDict:
    """Noise as TorchRL's replay gives it, `[sequences, length]`: no episode begins or ends.

    Args:
        sequences: Of the batch.
        length: Transitions of a sequence.
        widths: Of `state`, `belief`, `action` and the observation.
        device: Where it lies.
    """
    shape = (sequences, length)

    def no() -> Tensor:
        return torch.zeros(*shape, 1, dtype=torch.bool, device=device)

    return TensorDict(
        {
            "state": torch.zeros(*shape, widths["state"], device=device),
            "belief": torch.zeros(*shape, widths["belief"], device=device),
            "action": torch.rand(*shape, widths["action"], device=device) * 2 - 1,
            "is_init": no(),
            "next": TensorDict(
                {
                    KEY: torch.randn(*shape, widths[KEY], device=device),
                    "reward": torch.randn(*shape, 1, device=device),
                    "done": no(),
                    "terminated": no(),
                },
                batch_size=shape,
                device=device,
            ),
        },
        batch_size=shape,
        device=device,
    )
