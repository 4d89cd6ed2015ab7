"""TorchRL's DreamerV3 out of TorchRL's modules, for vectors: world model, imagination, actor, critic, and their losses.

The widths are read from the trainer's own `agent=dreamer_v3` config, so that both learners are of one size. How the
parts go together follows TorchRL's recipe, sota-implementations/dreamer_v3 of pytorch/rl.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.model_based import DreamerEnv
from torchrl.modules import (
    DreamerV3MLP,
    RSSMPosteriorV3,
    RSSMPriorV3,
    RSSMRolloutV3,
    SymExpTwoHot,
    WorldModelWrapper,
)
from torchrl.modules.distributions import IndependentNormal
from torchrl.objectives import (
    DreamerV3ActorLoss,
    DreamerV3Loss,
    DreamerV3ModelLoss,
    DreamerV3ValueLoss,
    SoftUpdate,
    ValueEstimators,
    symexp,
    symlog,
)

from trainer.config import Config

KEY = "observation"
SCAN_UNROLL = 8  # steps of the recurrence in one iteration of the scan: the recipe's, and the stepper's default
LATENTS = ["state", "belief"]  # TorchRL's names of the categorical latents and of the recurrent state
FEATURES = ["belief", "state"]
NEXT_FEATURES = [("next", "belief"), ("next", "state")]


@dataclass(frozen=True)
class V3Networks:
    """Networks as plain modules; the losses wrap them for TensorDicts and share their weights.

    Attributes:
        encoder: Squashed observation `[..., O]` to embedding; its last hidden layer is the embedding.
        prior: State, belief, action to the prior's logits, a sample of it, and the next belief.
        posterior: Belief and embedding to the posterior's logits and a sample of it.
        decoder: Belief and state to the squashed observation.
        reward: Belief and state to logits over the reward's bins.
        continuation: Belief and state to the logit of an episode's going on.
        actor: Belief and state to location and scale of the action.
        value: Belief and state to logits over the return's bins.
    """

    encoder: DreamerV3MLP
    prior: RSSMPriorV3
    posterior: RSSMPosteriorV3
    decoder: DreamerV3MLP
    reward: DreamerV3MLP
    continuation: DreamerV3MLP
    actor: BoundedNormalActor
    value: DreamerV3MLP


class BoundedNormalActor(nn.Module):
    """Belief and state to the mean, within [-1, 1], and the deviation of a normal, in float32 whatever the autocast."""

    def __init__(self, network: DreamerV3MLP, min_std: float, max_std: float) -> None:
        super().__init__()
        self.network, self.min_std, self.max_std = network, min_std, max_std

    def forward(self, belief: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.network(belief, state).float().chunk(2, -1)
        return torch.tanh(mean), self.min_std + (self.max_std - self.min_std) * torch.sigmoid(raw + 2.0)


def make_networks(agent: Config, observation: int, action: int, device: torch.device) -> V3Networks:
    """Networks of the widths that `agent=dreamer_v3` has.

    Args:
        agent: `agent` of the trainer's config.
        observation: Numbers of an observation.
        action: Numbers of an action.
        device: Where their weights are made.
    """
    model, behaviour = agent.world_model, agent.behaviour
    features = model.deter + model.stochastic * model.classes
    latents = {"num_categoricals": model.stochastic, "num_classes": model.classes, "unimix": model.unimix}

    def mlp(inputs: int, outputs: int | None, depth: int, scale: float = 1.0) -> DreamerV3MLP:
        return DreamerV3MLP(inputs, outputs, depth=depth, num_cells=model.units, outscale=scale, device=device)

    return V3Networks(
        encoder=mlp(observation, None, model.encoder_layers),
        prior=RSSMPriorV3(
            action_shape=(action,),
            action_dim=action,
            hidden_dim=model.hidden,
            rnn_hidden_dim=model.deter,
            recurrent_model="block_gru",
            num_blocks=model.blocks,
            prior_num_layers=model.prior_layers,
            device=device,
            **latents,
        ),
        posterior=RSSMPosteriorV3(
            hidden_dim=model.hidden,
            rnn_hidden_dim=model.deter,
            obs_embed_dim=model.units,
            use_rms_norm=True,
            device=device,
            **latents,
        ),
        decoder=mlp(features, observation, model.decoder_layers),
        reward=mlp(features, model.bins, model.head_layers, 0.0),
        continuation=mlp(features, 1, model.head_layers),
        actor=BoundedNormalActor(
            mlp(features, 2 * action, behaviour.layers, 0.01), behaviour.min_std, behaviour.max_std
        ),
        value=mlp(features, model.bins, behaviour.layers, 0.0),
    )


def make_loss(
    networks: V3Networks, agent: Config, observation: int, action: int, device: torch.device
) -> tuple[DreamerV3Loss, SoftUpdate]:
    """The composed loss with the constants of `agent`, and what moves the slow critic after each step.

    Several of TorchRL's defaults are not the paper's: `kl_mode`, `unimix`, `use_reinforce`, `detach_output`,
    `lambda_continue` and `slow_critic_regularization` are set here.
    """
    behaviour, share = agent.behaviour, agent.loss_scale
    horizon = behaviour.return_horizon
    model_loss = DreamerV3ModelLoss(
        _world_model(networks, agent.world_model.bins).to(device),
        lambda_reco=share.reconstruction,
        lambda_reward=share.reward,
        lambda_continue=share.continuation,
        kl_mode="separate",
        lambda_dynamic=share.dynamics,
        lambda_representation=share.representation,
        free_bits=agent.free_nats,
        unimix=agent.world_model.unimix,
        continue_target_scale=1 - 1 / horizon,
        num_reward_bins=agent.world_model.bins,
        detach_output=False,  # the critic's loss on replayed states trains the world model too
    ).to(device)
    model_loss.set_keys(pixels=KEY, reco_pixels=f"reco_{KEY}")
    value = _value(networks, agent.world_model.bins).to(device)
    actor_loss = DreamerV3ActorLoss(
        _actor(networks),
        value,
        _imagination(networks, agent, action, device),
        continuation_model=_continuation(networks),
        imagination_horizon=behaviour.imagination_horizon,
        entropy_bonus=behaviour.entropy_scale,
        use_reinforce=True,
        return_normalization_rate=1 - behaviour.return_scale.decay,
        return_normalization_quantiles=(behaviour.return_scale.low, behaviour.return_scale.high),
        return_normalization_min_scale=behaviour.return_scale.limit,
    )
    # The discount is in the continuation's target, and nowhere else.
    actor_loss.make_value_estimator(ValueEstimators.TDLambda, gamma=1.0, lmbda=behaviour.lambda_)
    actor_loss.to(device)  # the estimator's constants too
    value_loss = DreamerV3ValueLoss(
        value,
        value_loss="two_hot",
        num_value_bins=agent.world_model.bins,
        actor_loss=actor_loss,
        slow_critic_regularization=behaviour.slow_critic.scale,
    ).to(device)
    loss = DreamerV3Loss(
        model_loss,
        actor_loss,
        value_loss,
        replay_value_loss_weight=share.replay_critic,
        continuation_horizon=horizon,
        lmbda=behaviour.lambda_,
    )
    return loss, SoftUpdate(value_loss, tau=behaviour.slow_critic.rate)


def select_scan(loss: DreamerV3Loss, networks: V3Networks) -> None:
    """Compile the recurrence as a scan, and imagination's step; all else stays eager.

    What the recipe calls its compiled scan. The whole step must not be compiled as well.
    """
    for module in loss.modules():
        if isinstance(module, RSSMRolloutV3):
            module.compile_rollout("scan", unroll=SCAN_UNROLL)
    transition = loss.actor_loss.model_based_env.world_model.get_transition_model_operator()
    transition.module = torch.compile(networks.prior)


def _world_model(networks: V3Networks, bins: int) -> TensorDictSequential:
    """Sequences `[B, T]` to what the losses read under `next`.

    RSSMRolloutV3 takes its fast path, the one that can be compiled, for these very keys alone.
    """
    rollout = RSSMRolloutV3(
        TensorDictModule(
            networks.prior,
            in_keys=[*LATENTS, "action"],
            out_keys=[("next", "prior_logits"), ("next", "state"), ("next", "belief")],
        ),
        TensorDictModule(
            networks.posterior,
            in_keys=[("next", "belief"), ("next", "encoded_latents")],
            out_keys=[("next", "posterior_logits"), ("next", "state")],
        ),
        reset_key="is_init",
    )
    return TensorDictSequential(
        TensorDictModule(symlog, in_keys=[("next", KEY)], out_keys=[("next", "squashed")]),
        TensorDictModule(networks.encoder, in_keys=[("next", "squashed")], out_keys=[("next", "encoded_latents")]),
        rollout,
        *_float_head(networks.decoder, NEXT_FEATURES, ("next", f"squashed_{KEY}")),
        # The loss squashes what is decoded.
        TensorDictModule(symexp, in_keys=[("next", f"squashed_{KEY}")], out_keys=[("next", f"reco_{KEY}")]),
        *_float_head(networks.reward, NEXT_FEATURES, ("next", "reward_logits")),
        TensorDictModule(SymExpTwoHot(bins), in_keys=[("next", "reward_logits")], out_keys=[("next", "reward")]),
        *_float_head(networks.continuation, NEXT_FEATURES, ("next", "continue_pred")),
    )


def _imagination(networks: V3Networks, agent: Config, action: int, device: torch.device) -> DreamerEnv:
    stoch, deter = agent.world_model.stochastic * agent.world_model.classes, agent.world_model.deter
    reward = TensorDictSequential(
        *_float_head(networks.reward, FEATURES, "reward_logits"),
        TensorDictModule(SymExpTwoHot(agent.world_model.bins), in_keys=["reward_logits"], out_keys=["reward"]),
    )
    transition = TensorDictModule(networks.prior, in_keys=[*LATENTS, "action"], out_keys=["_", *LATENTS])
    env = DreamerEnv(
        world_model=WorldModelWrapper(transition, reward).to(device),
        prior_shape=(stoch,),
        belief_shape=(deter,),
        device=device,
    )
    latents = Composite(state=Unbounded(stoch, device=device), belief=Unbounded(deter, device=device), device=device)
    env.observation_spec, env.state_spec = latents, latents.clone()
    env.action_spec = Bounded(-1.0, 1.0, (action,), device=device)
    env.reward_spec = Unbounded((1,), device=device)
    with torch.no_grad():
        env.rollout(2)  # fills caches that a compiled step would be compiled once more for
    return env


def _actor(networks: V3Networks) -> ProbabilisticTensorDictSequential:
    return ProbabilisticTensorDictSequential(
        TensorDictModule(networks.actor, in_keys=FEATURES, out_keys=["loc", "scale"]),
        ProbabilisticTensorDictModule(
            in_keys=["loc", "scale"],
            out_keys=["action"],
            default_interaction_type=InteractionType.RANDOM,
            distribution_class=IndependentNormal,
            return_log_prob=True,
            log_prob_key="action_log_prob",
        ),
    )


def _value(networks: V3Networks, bins: int) -> TensorDictSequential:
    return TensorDictSequential(
        *_float_head(networks.value, FEATURES, "state_value_logits"),
        TensorDictModule(SymExpTwoHot(bins), in_keys=["state_value_logits"], out_keys=["state_value"]),
    )


def _continuation(networks: V3Networks) -> TensorDictSequential:
    return TensorDictSequential(
        *_float_head(networks.continuation, FEATURES, "continue_logits"),
        TensorDictModule(nn.Sigmoid(), in_keys=["continue_logits"], out_keys=["continuation"]),
    )


def _float_head(
    network: nn.Module, in_keys: list[str] | list[tuple[str, str]], out_key: str | tuple[str, str]
) -> tuple[TensorDictModule, TensorDictModule]:
    """A head whose output is float32 whatever the autocast: losses and symexp are."""
    return (
        TensorDictModule(network, in_keys=in_keys, out_keys=[out_key]),
        TensorDictModule(Tensor.float, in_keys=[out_key], out_keys=[out_key]),
    )
