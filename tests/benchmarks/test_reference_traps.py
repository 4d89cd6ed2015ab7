"""Traps of TorchRL's parts: what the plain use does, and that the reference does otherwise.

Numbers are those of the seed's list. What has no number was found on the way.
"""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from batched_env import ACTION, OBSERVATION, PointEnv
from noise import no_noise
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer, Unbounded
from torchrl.envs import SelectTransform, TensorDictPrimer, TransformedEnv
from torchrl.envs.model_based.dreamer import DreamerEnv
from torchrl.envs.utils import ExplorationType, exploration_type, set_exploration_type
from torchrl.modules import MLP, IndependentNormal
from torchrl.objectives import DreamerActorLoss, DreamerModelLoss

from benchmarks.reference import (
    ReferenceLearner,
    ReferenceNetworks,
    ReferencePipeline,
    ReferenceReplay,
    Settings,
    Sizes,
    make_losses,
    make_networks,
    random_batch,
)
from benchmarks.reference_networks import GAMMA, HORIZON, LAMBDA
from benchmarks.reference_pipeline import TRAJECTORY, with_latents

SIZES = Sizes(state=4, belief=8, embedding=16, width=16)
ENVIRONMENTS = 4
LENGTH = 5


@pytest.fixture
def networks() -> ReferenceNetworks:
    torch.manual_seed(0)
    return make_networks(OBSERVATION, ACTION, sizes=SIZES)


def latents(environments: int) -> TensorDict:
    return TensorDict(
        state=torch.zeros(environments, SIZES.state),
        belief=torch.zeros(environments, SIZES.belief),
        batch_size=[environments],
    )


def make_collector(environment: TransformedEnv, policy: torch.nn.Module) -> Collector:
    return Collector(environment, policy, frames_per_batch=ENVIRONMENTS * LENGTH, auto_register_policy_transforms=False)


def test_trap_5_networks_are_sized_by_the_specs_of_one_environment():
    """Seed, trap 5: specs of batched environments include the batch; `*_spec_unbatched` does not."""
    environment = PointEnv(ENVIRONMENTS)
    naive = MLP(in_features=1, out_features=environment.observation_spec["policy"].shape, depth=0)
    assert naive(torch.zeros(7, 1)).shape == (7, ENVIRONMENTS, OBSERVATION)

    assert environment.observation_spec_unbatched["policy"].shape == (OBSERVATION,)
    pipeline = ReferencePipeline(environment, "cpu", Settings(compile=False), SIZES)
    assert pipeline.networks.decoder[-1].out_features == OBSERVATION
    assert pipeline.networks.model_based_env.action_spec.shape == (ACTION,)


class FlatRewards(PointEnv):
    """Says and gives `[N]`, as the simulators themselves do."""

    def __init__(self, environments: int) -> None:
        super().__init__(environments)
        self.reward_spec = Unbounded((environments,))

    def _step(self, tensordict: TensorDict) -> TensorDict:
        stepped = super()._step(tensordict)
        return stepped.set("reward", stepped["reward"].squeeze(-1))


def test_trap_6_rewards_have_a_last_dimension_of_one(networks: ReferenceNetworks):
    """Seed, trap 6: rewards come as `[N]` and must be `[N, 1]`; today the loss refuses any other shape."""
    naive = FlatRewards(ENVIRONMENTS).rollout(LENGTH)
    assert naive["next", "reward"].shape == (ENVIRONMENTS, LENGTH)
    batch = random_batch(ENVIRONMENTS, LENGTH, OBSERVATION, ACTION, sizes=SIZES)
    loss = make_losses(networks).world_model
    with pytest.raises(RuntimeError, match="incompatible"):
        loss(batch.clone().set(("next", "reward"), naive["next", "reward"]))

    right = PointEnv(ENVIRONMENTS).rollout(LENGTH)
    assert right["next", "reward"].shape == (ENVIRONMENTS, LENGTH, 1)
    loss(batch.clone().set(("next", "reward"), right["next", "reward"]))


def test_trap_10_primers_of_batched_environments_need_expand_specs(networks: ReferenceNetworks):
    """Seed, trap 10: without `expand_specs=True` a primer's shapes do not fit the batch of the environments."""
    missing = TransformedEnv(PointEnv(ENVIRONMENTS), TensorDictPrimer(state=Unbounded(3)))
    with pytest.raises(RuntimeError, match="expand_specs wasn't specified"):
        _ = missing.observation_spec
    wrong = TransformedEnv(PointEnv(3), TensorDictPrimer(state=Unbounded(3), expand_specs=False))
    assert (
        wrong.observation_spec["state"].shape == wrong.reset()["state"].shape == (3,)
    )  # as many environments as numbers: one number each, and no error

    right = with_latents(PointEnv(ENVIRONMENTS), SIZES)
    assert right.reset()["state"].shape == (ENVIRONMENTS, SIZES.state)
    assert right.observation_spec["belief"].shape == (ENVIRONMENTS, SIZES.belief)


def test_trap_11_imagination_has_the_specs_of_one_environment(networks: ReferenceNetworks):
    """Seed, trap 11: specs copied from batched environments make the model-based one batch its actions twice."""
    naive = DreamerEnv(networks.model_based_env.world_model, (SIZES.state,), (SIZES.belief,))
    naive.set_specs_from_env(with_latents(PointEnv(ENVIRONMENTS), SIZES))
    assert naive.rand_action(latents(ENVIRONMENTS))["action"].shape == (ENVIRONMENTS, ENVIRONMENTS, ACTION)

    for environments in (ENVIRONMENTS, 7):
        start = latents(environments)
        assert networks.model_based_env.rand_action(start.clone())["action"].shape == (environments, ACTION)
        imagined = networks.model_based_env.rollout(2, networks.actor, auto_reset=False, tensordict=start)
        assert imagined["next", "reward"].shape == (environments, 2, 1)


def test_trap_12_compiled_parts_give_the_numbers_of_eager_ones():
    """Seed, trap 12: compile the networks one by one, neither the recurrence nor a loss."""
    batch = random_batch(3, LENGTH, OBSERVATION, ACTION, sizes=SIZES)
    outcomes = []
    for compiled in (False, True):
        torch.manual_seed(0)
        networks = make_networks(OBSERVATION, ACTION, sizes=SIZES)
        learner = ReferenceLearner(networks, "cpu", autocast=False, compile=compiled, backend="aot_eager")
        torch.manual_seed(1)
        learner.step(batch)
        outcomes.append({**networks.world_model.state_dict(), **networks.value.state_dict()})
        assert (networks.encoder._compiled_call_impl is not None) == compiled
        assert networks.prior._compiled_call_impl is None
        assert copy.deepcopy(networks.policy)[0].module._compiled_call_impl is None  # the collector's stays eager
    torch.testing.assert_close(*outcomes)


def test_trap_12_a_whole_loss_no_longer_crashes_the_compiler(networks: ReferenceNetworks):
    """Seed, trap 12: today's tensordict can be traced through; the loop over steps is unrolled into the graph."""
    loss = make_losses(networks).world_model
    graphs = []

    def count(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(sum(node.op == "call_function" and "gru_cell" in str(node.target) for node in graph.graph.nodes))
        return graph

    steps = 2
    batch = random_batch(2, steps, OBSERVATION, ACTION, sizes=SIZES)
    torch.manual_seed(1)
    compiled, _ = torch.compile(loss, backend=count)(batch)
    torch.manual_seed(1)
    eager, _ = loss(batch)
    torch.testing.assert_close(compiled, eager)
    assert sum(graphs) == steps


def ragged_chunk() -> TensorDict:
    """`[8, 20]`: the first environment falls every third step, the others never."""
    chunk = random_batch(8, 20, OBSERVATION, ACTION, sizes=SIZES)
    identities = torch.arange(8)[:, None].repeat(1, 20)
    identities[0] = 100 + torch.arange(20) // 3
    return chunk.set(TRAJECTORY, identities)


def rows_of_one_trajectory(batch: TensorDict) -> torch.Tensor:
    identities = batch[TRAJECTORY]
    return (identities == identities[:, :1]).all(-1)


def test_trap_13_short_trajectories_do_not_break_the_batch_shape():
    """Seed, trap 13: with strict_length=False the sampler may return fewer frames than asked for.

    Cutting the sample repairs its shape alone: rows behind a short trajectory begin in one and end in another.
    """
    torch.manual_seed(0)
    settings = Settings(batch_size=8 * LENGTH, batch_length=LENGTH, capacity=400)
    replay = ReferenceReplay(settings, torch.device("cpu"))
    replay.extend(ragged_chunk())
    samples = [replay._buffer.sample() for _ in range(20)]
    uneven = [sample for sample in samples if sample.numel() % LENGTH]
    assert uneven
    with pytest.raises(AssertionError, match="shape"):
        uneven[0].reshape(-1, LENGTH)

    batches = [replay.sample() for _ in range(20)]
    assert all(batch.shape[1:] == (LENGTH,) and batch.shape[0] <= 8 for batch in batches)
    assert min(batch.shape[0] for batch in batches) < 8
    assert not all(rows_of_one_trajectory(batch).all() for batch in batches)


def test_trap_13_strict_lengths_keep_batches_whole():
    """Seed, trap 13: with strict_length=True no batch is ragged and no row leaves its trajectory; falls go unseen."""
    settings = Settings(batch_size=8 * LENGTH, batch_length=LENGTH, capacity=400, strict_length=True)
    replay = ReferenceReplay(settings, torch.device("cpu"))
    replay.extend(ragged_chunk())
    for _ in range(20):
        batch = replay.sample()
        assert batch.shape == (8, LENGTH)
        assert rows_of_one_trajectory(batch).all()
        assert (batch[TRAJECTORY] < 100).all()


def test_trap_14_the_first_chunk_holds_a_whole_sequence():
    """Seed, trap 14: every chunk adds frames_per_batch / environments steps; a sequence needs that many and more."""
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(400, ndim=2),
        sampler=SliceSampler(slice_len=LENGTH, traj_key=TRAJECTORY),
        batch_size=2 * LENGTH,
    )
    buffer.extend(ragged_chunk()[1:, : LENGTH - 1])
    with pytest.raises(RuntimeError, match="sufficient length"):
        buffer.sample()

    settings = Settings(batch_size=2 * LENGTH, batch_length=LENGTH, steps_per_chunk=LENGTH - 1, compile=False)
    with pytest.raises(ValueError, match="raise steps_per_chunk"):
        ReferencePipeline(PointEnv(ENVIRONMENTS), "cpu", settings, SIZES)


def test_weights_reach_the_collector_in_place(networks: ReferenceNetworks):
    """Seed, two-GPU pipeline: `update_policy_weights_` takes `TensorDict.from_module(policy)`, not the module."""
    collector = make_collector(with_latents(PointEnv(ENVIRONMENTS), SIZES), copy.deepcopy(networks.policy))
    weight = collector.policy[0].module[0].weight
    torch.nn.init.normal_(networks.encoder[0].weight)
    with pytest.raises(AttributeError, match="data"):
        collector.update_policy_weights_(networks.policy)
    assert not torch.equal(weight, networks.encoder[0].weight)

    collector.update_policy_weights_(TensorDict.from_module(networks.policy).data)
    assert torch.equal(weight, networks.encoder[0].weight)
    assert collector.policy[0].module[0].weight is weight


def test_select_transforms_drop_the_belief(networks: ReferenceNetworks):
    """SelectTransform keeps what it is told of the next step, and so not what the policy wrote there: no recurrence."""
    naive = with_latents(TransformedEnv(PointEnv(ENVIRONMENTS), SelectTransform("policy")), SIZES)
    chunk = next(iter(make_collector(naive, networks.policy)))
    assert not chunk["belief"].any()

    chunk = next(iter(make_collector(with_latents(PointEnv(ENVIRONMENTS), SIZES), networks.policy)))
    assert not chunk["belief"][:, 0].any()
    assert chunk["belief"][:, 1:].any(-1).all()
    assert torch.equal(chunk["next", "belief"][:, :-1], chunk["belief"][:, 1:])


def test_reconstructions_of_states_are_summed_over_features_alone(networks: ReferenceNetworks):
    """DreamerModelLoss sums over the last three dimensions: of `[B, T, F]` over the batch and the time as well."""
    batch = random_batch(3, LENGTH, OBSERVATION, ACTION, sizes=SIZES)
    naive = DreamerModelLoss(networks.world_model)
    naive.set_keys(pixels="policy", reco_pixels="reco_policy")
    with no_noise(), torch.no_grad():
        right, predicted = make_losses(networks).world_model(batch)
        wrong, _ = naive(batch)
    error = (predicted["next", "reco_policy"] - batch["next", "policy"]).square()  # [B, T, F]
    torch.testing.assert_close(right["loss_model_reco"], error.sum(-1).mean()[None])
    torch.testing.assert_close(wrong["loss_model_reco"], 3 * LENGTH * right["loss_model_reco"])


def test_averaging_every_loss_leaves_the_prior_untrained(networks: ReferenceNetworks):
    """`global_average=True` repairs the reconstruction and frees three nats of every number of the state."""
    batch = random_batch(3, LENGTH, OBSERVATION, ACTION, sizes=SIZES)
    averaged = DreamerModelLoss(networks.world_model, global_average=True)
    averaged.set_keys(pixels="policy", reco_pixels="reco_policy")
    loss, _ = averaged(batch)
    assert loss["loss_model_kl"] == 3.0
    loss["loss_model_kl"].backward()
    assert all(not weight.grad.any() for weight in networks.prior.rnn_to_prior_projector.parameters())


def test_returns_of_imagination_need_the_dimension_of_time(networks: ReferenceNetworks):
    """DreamerActorLoss leaves it out, and its estimator then sees sequences of one step: TD(0) in place of TD(λ)."""
    naive = DreamerActorLoss(networks.actor, networks.value, networks.model_based_env)
    naive.make_value_estimator(gamma=GAMMA, lmbda=LAMBDA)
    reward, value = torch.randn(2, 7, HORIZON, 1)  # [B, H, 1] each
    torch.testing.assert_close(naive.lambda_target(reward, value), reward + GAMMA * value)

    target = make_losses(networks).actor.lambda_target(reward, value)
    later = GAMMA * ((1 - LAMBDA) * value[:, :-1] + LAMBDA * target[:, 1:])
    torch.testing.assert_close(target[:, :-1], reward[:, :-1] + later)
    torch.testing.assert_close(target[:, -1], reward[:, -1] + GAMMA * value[:, -1])


def test_heads_of_unit_variance_would_be_sampled_in_imagination(networks: ReferenceNetworks):
    """DreamerActorLoss asks for random actions and so for random rewards and values of probabilistic heads."""
    naive = ProbabilisticTensorDictModule(
        in_keys=["loc"],
        out_keys=["reward"],
        distribution_class=IndependentNormal,
        distribution_kwargs={"scale": 1.0, "event_dim": 1},
    )
    with set_exploration_type(ExplorationType.RANDOM):
        assert naive(TensorDict(loc=torch.zeros(1000, 1), batch_size=[1000]))["reward"].std() > 0.9
        start = latents(ENVIRONMENTS).set("action", torch.zeros(ENVIRONMENTS, ACTION))
        after = networks.model_based_env.step(start)["next"]
    assert torch.equal(after["reward"], networks.reward(after["state"], after["belief"]))


def test_threads_share_the_exploration_type(networks: ReferenceNetworks):
    """Losses turn exploration off for the whole process while they run; the policy draws all the same."""
    seen = []
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        thread = threading.Thread(target=lambda: seen.append(exploration_type()))
        thread.start()
        thread.join()
        start = latents(ENVIRONMENTS).set("policy", torch.zeros(ENVIRONMENTS, OBSERVATION))
        actions = [networks.policy(start.clone())["action"] for _ in range(2)]
    assert seen == [ExplorationType.DETERMINISTIC]
    assert not torch.equal(*actions)
    assert all(action.abs().max() <= 1 for action in actions)
