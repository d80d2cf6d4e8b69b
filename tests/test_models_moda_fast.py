"""The generator arranged for sampling gives what the plain one gives."""

from dataclasses import replace

import pytest
import torch

from loquent.models.moda import ModaConfig, MotionTransformer
from loquent.models.moda.config import get_preset
from loquent.models.moda.fast import FastMotionTransformer
from loquent.models.moda.sampling import WindowedSampler

PUBLISHED = ModaConfig(
    hidden_dim=32,
    num_heads=2,
    audio_layers=2,
    audio_dim=6,
    four_stream_blocks=2,
    double_stream_blocks=2,
    single_stream_blocks=2,
    num_frames=12,
    overlap=4,
)
STARTER = replace(get_preset("tiny"), num_frames=12, single_stream_blocks=2)


def networks(config: ModaConfig) -> tuple[MotionTransformer, FastMotionTransformer]:
    torch.manual_seed(0)
    network = MotionTransformer(config).eval()
    for weight in network.parameters():  # zero gates would hide everything
        torch.nn.init.normal_(weight, std=0.2)
    return network, FastMotionTransformer(network)


@pytest.mark.parametrize("config", [PUBLISHED, STARTER], ids=["published", "starter"])
def test_the_same_velocity(config):
    network, fast = networks(config)
    random = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=random)

    emotion = draw(2, config.num_emotions + 1).softmax(1)
    given = (draw(2, config.num_frames, config.audio_layers, config.audio_dim), emotion, draw(2, config.identity_dim))
    motion, sigma = draw(2, config.num_frames, config.motion_dim), torch.tensor([0.3, 0.9])
    previous = draw(2, config.motion_dim)
    with torch.no_grad():
        wanted = network(motion, sigma, previous, *given)
        torch.testing.assert_close(
            fast.velocity(motion, sigma, previous, fast.embed(*given)), wanted, atol=2e-4, rtol=2e-4
        )


def test_the_same_motion_and_a_tenth_of_the_steps_can_be_saved():
    network, fast = networks(PUBLISHED)
    calls = []
    velocity = fast.velocity
    fast.velocity = lambda *arguments: calls.append(0) or velocity(*arguments)

    def sample(sampler):
        random = torch.Generator().manual_seed(3)
        pieces = sampler.sample(
            [torch.randn(20, 2, 6, generator=torch.Generator().manual_seed(4))],
            previous=torch.zeros(70),
            emotion=torch.nn.functional.one_hot(torch.tensor(4), 9).float(),
            identity=torch.ones(63),
            draw_noise=lambda: torch.randn(12, 70, generator=random),
            steps=10,
            guidance=1.2,
        )
        return torch.cat(list(pieces))

    wanted = sample(WindowedSampler(network))
    torch.testing.assert_close(sample(WindowedSampler(fast)), wanted, atol=1e-3, rtol=1e-3)
    assert len(calls) == 10 * 2
    fewer = sample(WindowedSampler(fast, reuse_below=0.002))
    assert len(calls) == 19 * 2
    assert (fewer - wanted).abs().max() < 2e-3 * wanted.abs().max()  # 0.001 times what the velocity changes by
