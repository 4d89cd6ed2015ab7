"""The seed's Dreamer (DreamerV1 on states) out of TorchRL's modules: networks, policy, imagination, losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.model_based.dreamer import DreamerEnv
from torchrl.modules import MLP, DreamerActor, RSSMPosterior, RSSMPrior, RSSMRollout, TanhNormal, WorldModelWrapper
from torchrl.objectives import DreamerActorLoss, DreamerModelLoss, DreamerValueLoss

HORIZON = 15  # imagined steps
GAMMA = 0.99
LAMBDA = 0.95
FREE_NATS = 3.0
EXPLORATION = 0.3  # standard deviation of what is added to actions in the simulator, of a range of [-1, 1]


@dataclass(frozen=True)
class Sizes:
    """Widths of the networks; the defaults are the seed's, those of TorchRL's Dreamer on Isaac Lab."""

    state: int = 30
    belief: int = 200
    embedding: int = 1024
    width: int = 400


@dataclass(frozen=True)
class ReferenceNetworks:
    """All networks, once as plain modules and once wrapped for TensorDicts; the wrappers share the plain ones' weights.

    Attributes:
        key: Name of the observation; the decoder writes `reco_<key>`.
        sizes: Widths that the networks were made with.
        encoder: Observation to embedding.
        decoder: State and belief to observation.
        prior: State, belief, action to the next belief and a prior of the next state.
        posterior: Belief and embedding to a posterior of the state.
        reward: State and belief to the mean of the reward on arriving there.
        actor_body: State and belief to location and scale of the action.
        value_body: State and belief to the value.
        world_model: Sequences `[B, T]` to losses' inputs; `next` holds what follows an action.
        model_based_env: Imagination; accepts any batch shape, its specs are those of one environment.
        actor: Policy in imagination: `state`, `belief` to `action`, by reparametrised sampling.
        value: `state`, `belief` to `state_value`.
        policy: Policy in the simulator: `key`, `belief` to `state`, `action` and the next `belief`.
    """

    key: str
    sizes: Sizes
    encoder: MLP
    decoder: MLP
    prior: RSSMPrior
    posterior: RSSMPosterior
    reward: MLP
    actor_body: DreamerActor
    value_body: MLP
    world_model: WorldModelWrapper
    model_based_env: DreamerEnv
    actor: TensorDictSequential
    value: TensorDictModule
    policy: TensorDictSequential


@dataclass(frozen=True)
class ReferenceLosses:
    """TorchRL's three losses of Dreamer."""

    world_model: DreamerModelLoss
    actor: DreamerActorLoss
    value: DreamerValueLoss


class SampledAction(nn.Module):
    """Draws from the actor's squashed Gaussian, whatever the process's exploration type.

    TorchRL's probabilistic modules ask a switch that all threads share, and the losses of the learner's thread turn it:
    the collector's thread would stop exploring for as long as they run.

    Args:
        exploration: Standard deviation of noise on top; the sum is clamped to [-1, 1].
    """

    def __init__(self, exploration: float = 0.0) -> None:
        super().__init__()
        self.exploration = exploration

    def forward(self, loc: Tensor, scale: Tensor) -> Tensor:
        action = TanhNormal(loc, scale, tanh_loc=True).rsample()
        if not self.exploration:
            return action
        return (action + self.exploration * torch.randn_like(action)).clamp(-1.0, 1.0)


class AsImage(nn.Module):
    """Views `[..., F]` as `[..., 1, 1, F]`.

    DreamerModelLoss sums over the last three dimensions, those of an image; of states it would sum batch and time too.
    """

    def forward(self, features: Tensor) -> Tensor:
        return features[..., None, None, :]


def make_networks(
    observation: int,
    action: int,
    key: str = "policy",
    device: torch.device | str = "cpu",
    sizes: Sizes | None = None,
) -> ReferenceNetworks:
    """Networks for observations of `observation` and actions of `action` numbers in [-1, 1].

    Reward and value are the means of unit Gaussians and stand as such. As probabilistic modules they would be sampled
    in imagination, where DreamerActorLoss asks for random actions: noise of variance one on every reward and value.
    """
    sizes = sizes or Sizes()
    device = torch.device(device)
    features = sizes.state + sizes.belief
    action_spec = Bounded(-1.0, 1.0, (action,), device=device)

    encoder = _mlp(observation, sizes.embedding, 2, sizes, device)
    decoder = _mlp(features, observation, 2, sizes, device)
    reward = _mlp(features, 1, 2, sizes, device)
    value_body = _mlp(features, 1, 3, sizes, device)
    actor_body = DreamerActor(action, depth=3, num_cells=sizes.width, device=device)
    prior = RSSMPrior(
        action_spec,
        hidden_dim=sizes.belief,
        rnn_hidden_dim=sizes.belief,
        state_dim=sizes.state,
        action_dim=action,
        device=device,
    )
    posterior = RSSMPosterior(
        hidden_dim=sizes.belief,
        state_dim=sizes.state,
        rnn_hidden_dim=sizes.belief,
        obs_embed_dim=sizes.embedding,
        device=device,
    )
    with torch.no_grad():  # the actor's first layer learns its width from its first input
        actor_body(torch.zeros(1, sizes.state, device=device), torch.zeros(1, sizes.belief, device=device))
    return ReferenceNetworks(
        key=key,
        sizes=sizes,
        encoder=encoder,
        decoder=decoder,
        prior=prior,
        posterior=posterior,
        reward=reward,
        actor_body=actor_body,
        value_body=value_body,
        world_model=_world_model(key, encoder, decoder, prior, posterior, reward),
        model_based_env=_model_based_env(sizes, action_spec, prior, reward, device),
        actor=TensorDictSequential(*_acting(actor_body, SampledAction())),
        value=TensorDictModule(value_body, in_keys=["state", "belief"], out_keys=["state_value"]),
        policy=_policy(key, encoder, prior, posterior, actor_body),
    )


def make_losses(networks: ReferenceNetworks) -> ReferenceLosses:
    """The losses with the seed's constants; the reconstruction is a sum over features and a mean over steps.

    DreamerActorLoss hands its estimator tensors `[B, H, 1]` without saying which dimension is time. Left to guess, it
    takes the last one, and every return ends after a single step.
    """
    world_model = DreamerModelLoss(networks.world_model, free_nats=FREE_NATS)
    world_model.set_keys(pixels=f"{networks.key}_image", reco_pixels=f"reco_{networks.key}_image")
    actor = DreamerActorLoss(networks.actor, networks.value, networks.model_based_env, imagination_horizon=HORIZON)
    actor.make_value_estimator(gamma=GAMMA, lmbda=LAMBDA, time_dim=-2)
    return ReferenceLosses(world_model, actor, DreamerValueLoss(networks.value, gamma=GAMMA))


def _mlp(inputs: int, outputs: int, depth: int, sizes: Sizes, device: torch.device) -> MLP:
    """`depth` hidden layers with ELUs; several inputs are concatenated."""
    return MLP(
        in_features=inputs,
        out_features=outputs,
        depth=depth,
        num_cells=sizes.width,
        activation_class=nn.ELU,
        device=device,
    )


def _acting(actor_body: DreamerActor, sample: SampledAction) -> tuple[TensorDictModule, TensorDictModule]:
    return (
        TensorDictModule(actor_body, in_keys=["state", "belief"], out_keys=["loc", "scale"]),
        TensorDictModule(sample, in_keys=["loc", "scale"], out_keys=["action"]),
    )


def _world_model(
    key: str, encoder: MLP, decoder: MLP, prior: RSSMPrior, posterior: RSSMPosterior, reward: MLP
) -> WorldModelWrapper:
    features = [("next", "state"), ("next", "belief")]
    rollout = RSSMRollout(
        TensorDictModule(
            prior,
            in_keys=["state", "belief", "action"],
            out_keys=[("next", "prior_mean"), ("next", "prior_std"), "_", ("next", "belief")],
        ),
        TensorDictModule(
            posterior,
            in_keys=[("next", "belief"), ("next", "encoded_latents")],
            out_keys=[("next", "posterior_mean"), ("next", "posterior_std"), ("next", "state")],
        ),
    )
    transition = TensorDictSequential(
        TensorDictModule(encoder, in_keys=[("next", key)], out_keys=[("next", "encoded_latents")]),
        rollout,
        TensorDictModule(decoder, in_keys=features, out_keys=[("next", f"reco_{key}")]),
        TensorDictModule(AsImage(), in_keys=[("next", key)], out_keys=[("next", f"{key}_image")]),
        TensorDictModule(AsImage(), in_keys=[("next", f"reco_{key}")], out_keys=[("next", f"reco_{key}_image")]),
    )
    return WorldModelWrapper(transition, TensorDictModule(reward, in_keys=features, out_keys=[("next", "reward")]))


def _model_based_env(
    sizes: Sizes, action_spec: Bounded, prior: RSSMPrior, reward: MLP, device: torch.device
) -> DreamerEnv:
    """Imagination with the specs of one environment, never with those of a batched one (the seed's trap 11)."""
    env = DreamerEnv(
        world_model=WorldModelWrapper(
            TensorDictModule(prior, in_keys=["state", "belief", "action"], out_keys=["_", "_", "state", "belief"]),
            TensorDictModule(reward, in_keys=["state", "belief"], out_keys=["reward"]),
        ),
        prior_shape=(sizes.state,),
        belief_shape=(sizes.belief,),
        device=device,
    )
    env.observation_spec = latent_specs(sizes, device)
    env.state_spec = latent_specs(sizes, device)
    env.action_spec = action_spec
    env.reward_spec = Unbounded(1, device=device)
    return env


def latent_specs(sizes: Sizes, device: torch.device | str) -> Composite:
    """Specs of the latents of one environment, without a batch dimension."""
    return Composite(
        state=Unbounded(sizes.state, device=device), belief=Unbounded(sizes.belief, device=device), device=device
    )


def _policy(
    key: str, encoder: MLP, prior: RSSMPrior, posterior: RSSMPosterior, actor_body: DreamerActor
) -> TensorDictSequential:
    """Filters one step and acts: the posterior of what is seen, an action, the belief that follows."""
    return TensorDictSequential(
        TensorDictModule(encoder, in_keys=[key], out_keys=["encoded_latents"]),
        TensorDictModule(posterior, in_keys=["belief", "encoded_latents"], out_keys=["_", "_", "state"]),
        *_acting(actor_body, SampledAction(EXPLORATION)),
        TensorDictModule(prior, in_keys=["state", "belief", "action"], out_keys=["_", "_", "_", ("next", "belief")]),
        # What random actions lack cannot be stored beside what the policy writes.
        selected_out_keys=["state", "action", ("next", "belief")],
    )
