"""Image observations: the convolutional networks, both agents on them, and bytes that stay bytes in the replay."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tests.trainer.agents import CPU, debug_config
from trainer.agents import make_agent
from trainer.agents.base import Agent
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.learner import Learner
from trainer.replay import Replay, Rows
from trainer.simulators.base import Space
from trainer.world_model.images import ImageNetworks
from trainer.world_model.rssm import State

PIXELS = Space((16, 16, 3), torch.uint8)
SPACES: Mapping[str, Space] = {"pixels": PIXELS, "policy": Space((5,))}
ACTION = 2


def networks(height: int, width: int, channels: int = 3, dtype: torch.dtype = torch.uint8) -> ImageNetworks:
    torch.manual_seed(0)
    return ImageNetworks(Space((height, width, channels), dtype), 24, 8, "rms_silu")


def random_images(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("height", "width", "smallest"),
    [(64, 64, (4, 4, 64)), (32, 32, (4, 4, 32)), (100, 100, (6, 6, 64)), (80, 57, (10, 7, 32)), (8, 8, (4, 4, 8))],
)
def test_images_of_any_size_are_halved_down_to_some_four_pixels_and_come_back_whole(height, width, smallest):
    nets = networks(height, width)
    assert nets.smallest == smallest
    image = random_images(2, 3, height, width, 3)
    assert nets.encode(image).shape == (2, 3, nets.embedding)
    assert nets.decode(torch.randn(2, 3, 24)).shape == (2, 3, height, width, 3)
    assert nets.loss(torch.randn(2, 3, 24), image).shape == (2, 3)


def test_too_small_images_are_refused():
    with pytest.raises(ConfigError, match="7 x 64 pixels are too small: at least 8"):
        networks(7, 64)


def test_bytes_go_in_around_zero_and_come_out_between_zero_and_one():
    """As DreamerV3 has it: x / 255 - 0.5 into the encoder, a sigmoid against x / 255 out of the decoder."""
    nets, seen = networks(16, 16), []
    nets.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 16, 16, 3)
    nets.encode(image)
    assert seen[0].amin((1, 2, 3)).tolist() == [-0.5, 0.5]
    features = torch.randn(2, 24)
    decoded = nets.decode(features)
    assert 0 < decoded.min() < decoded.max() < 1
    error = (decoded - image.float() / 255).square().sum((1, 2, 3))
    torch.testing.assert_close(nets.loss(features, image), error)


def test_images_of_floats_are_taken_as_the_task_scales_them():
    nets = networks(16, 16, 1, torch.float32)
    image = 5 * torch.randn(2, 16, 16, 1)
    assert nets.scale(image) is image
    error = (nets.decode(torch.zeros(2, 24)) - image).square().sum((1, 2, 3))
    torch.testing.assert_close(nets.loss(torch.zeros(2, 24), image), error)


def test_each_image_is_encoded_for_itself():
    """Norms go over the channels of a pixel, not over the batch."""
    nets, image = networks(16, 16), random_images(4, 16, 16, 3)
    torch.testing.assert_close(nets.encode(image)[2], nets.encode(image[2:3])[0])


def test_the_networks_learn_an_image_by_heart():
    nets, image = networks(16, 16), random_images(4, 16, 16, 3) // 64 * 85
    head = torch.nn.Linear(nets.embedding, 24)
    optimizer = torch.optim.Adam([*nets.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for _ in range(150):
        loss = nets.loss(head(nets.encode(image)), image).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in nets.parameters())


def config_of(name: str) -> Config:
    return debug_config(f"agent={name}")


def agent_on(name: str, spaces: Mapping[str, Space]) -> Agent:
    torch.manual_seed(0)
    return make_agent(config_of(name).agent, spaces, ACTION)


def filled_replay(
    agent: Agent, spaces: Mapping[str, Space], rows: int = 12, environments: int = 3, device: torch.device = CPU
) -> Replay:
    replay = Replay(
        frames=rows * environments,
        environments=environments,
        observation=spaces,
        action=ACTION,
        latent=agent.world_model.rssm.latent,
        deter=agent.world_model.rssm.deter,
        device=device,
    )
    shape = (rows, environments)
    observation = {
        key: random_images(*shape, *space.shape) if space.dtype == torch.uint8 else torch.randn(*shape, *space.shape)
        for key, space in spaces.items()
    }
    no = torch.zeros(shape, dtype=torch.bool)
    state = agent.initial(environments)
    states = State(*(field.expand(rows, *field.shape) for field in state))
    replay.extend(Rows(observation, torch.rand(*shape, ACTION), torch.rand(shape), no, no, no), states)
    return replay


@pytest.mark.parametrize("name", ["dreamer", "dreamer_v3"])
@pytest.mark.parametrize("spaces", [SPACES, {"pixels": PIXELS}], ids=["images and vectors", "images"])
def test_both_agents_learn_from_images(name: str, spaces: Mapping[str, Space]):
    agent = agent_on(name, spaces)
    learner = Learner(agent, filled_replay(agent, spaces), config_of(name), 0, CPU)
    before = {key: value.clone() for key, value in agent.world_model.images.state_dict().items()}
    learner.learn()
    learner.learn()
    assert learner.pop_metrics()["loss/reconstruction"] > 0
    after = agent.world_model.images.state_dict()
    assert all(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["dreamer", "dreamer_v3"])
def test_an_agent_acts_on_images(name: str):
    agent = agent_on(name, SPACES)
    observation = {"pixels": random_images(3, 16, 16, 3), "policy": torch.randn(3, 5)}
    darker = {**observation, "pixels": observation["pixels"] // 2}
    noise = agent.world_model.rssm.latent.draw(3, generator=torch.Generator())
    first = torch.ones(3, dtype=torch.bool)
    state = agent.advance(agent.initial(3), torch.zeros(3, ACTION), observation, first, noise)
    assert agent.act(state, None).shape == (3, ACTION)
    assert not torch.equal(agent.world_model.encode(observation), agent.world_model.encode(darker))


@pytest.mark.parametrize("name", ["dreamer", "dreamer_v3"])
def test_regions_with_images_are_one_graph_each(name: str):
    """What the compiler cannot trace in one piece could not be captured either."""
    model = agent_on(name, SPACES).world_model
    observation = {"pixels": random_images(2, 3, 16, 16, 3), "policy": torch.randn(2, 3, 5)}
    encode = torch.compile(type(model).encode.__wrapped__, fullgraph=True, dynamic=False, backend="eager")
    torch.testing.assert_close(encode(model, observation), model.encode(observation))
    loss = torch.compile(type(model).reconstruction_loss, fullgraph=True, dynamic=False, backend="eager")
    features = torch.randn(2, 3, model.features)
    torch.testing.assert_close(loss(model, features, observation), model.reconstruction_loss(features, observation))


def test_observations_that_are_neither_vectors_nor_images_are_refused():
    with pytest.raises(
        ConfigError, match=r"'grid' has shape \(4, 4\); agents take vectors \[O\] and images \[H, W, C\]"
    ):
        agent_on("dreamer_v3", {"grid": Space((4, 4))})


def test_trap_20_pixels_are_bytes_all_the_way_into_the_replay():
    """Seed, trap 20: float32 pixels of 500,000 frames take 24 GB; kept as bytes, and once, they take 6."""
    space = Space((64, 64, 3), torch.uint8)
    agent = agent_on("dreamer_v3", {"pixels": space})
    replay = filled_replay(agent, {"pixels": space}, rows=12, environments=2)
    images = replay.image_bytes
    assert 500_000 * images / (12 * 2) == pytest.approx(6.1e9, rel=0.01)
    assert replay.nbytes - images < 0.05 * images, "and nothing else of their size is kept"
    sample = replay.sample(2, 8, torch.Generator().manual_seed(0))
    assert sample.rows.observation["pixels"].dtype == torch.uint8
