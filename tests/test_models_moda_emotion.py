import pytest
import torch

from loquent.models.moda.config import ModaConfig
from loquent.models.moda.emotion import emotion_curve, split_emotions
from loquent.models.moda.network import MotionTransformer
from loquent.models.moda.sampling import WindowedSampler
from loquent.motion.control_track import ControlTrack
from loquent.types import EMOTIONS, Controls

NEUTRAL, SADNESS = EMOTIONS.index("neutral"), EMOTIONS.index("sadness")


def test_weights_sum_to_one_and_go_beyond():
    weights = emotion_curve(Controls(emotion="sadness", emotion_strength=1.5), 8)(70, 5)
    assert weights.shape == (5, 9)
    torch.testing.assert_close(weights.sum(1), torch.ones(5))
    torch.testing.assert_close(weights[:, SADNESS], torch.full((5,), 1.5))
    torch.testing.assert_close(weights[:, NEUTRAL], torch.full((5,), -0.5))
    assert not weights[:, 8].any()


def curve(*rows: dict, frames: int = 80) -> torch.Tensor:
    return emotion_curve(Controls(track=ControlTrack(rows)), 8)(0, frames)


@pytest.mark.parametrize(
    ("weights", "num_states"),
    [
        (curve({"time_s": 0}), 1),
        (curve({"time_s": 0}, frames=1), 1),
        (curve({"time_s": 0}, {"time_s": 1, "emotion": "sadness"}), 2),
        (curve({"time_s": 0, "emotion": "anger", "emotion_strength": 0}, {"time_s": 3, "emotion_strength": 2}), 2),
        (curve({"time_s": 0}, {"time_s": 0.5, "emotion": "fear"}, {"time_s": 2, "emotion": "neutral"}), 2),
        (curve({"time_s": 0}, {"time_s": 0.5, "emotion": "fear"}, {"time_s": 2, "emotion": "anger"}), 3),
    ],
)
def test_few_states_and_their_shares_give_the_curve_back(weights, num_states):
    states, shares = split_emotions(weights)
    assert states.shape == (num_states, 9)
    torch.testing.assert_close(shares.sum(1), torch.ones(len(weights)))
    assert (shares >= 0).all()
    torch.testing.assert_close(shares @ states, weights, rtol=0, atol=0.05)


def test_a_window_that_changes_its_emotion_is_each_emotions_own_before_and_after():
    config = ModaConfig(
        motion_dim=6, identity_dim=3, audio_layers=1, audio_dim=4, hidden_dim=16, num_heads=2, mlp_ratio=2.0,
        four_stream_blocks=1, double_stream_blocks=1, single_stream_blocks=1, num_frames=80, overlap=16,
        smooth_from=0, smooth_to=0,
    )  # fmt: skip
    torch.manual_seed(0)
    network = MotionTransformer(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    audio = torch.randn(80, 1, 4)

    def sample(controls: Controls) -> torch.Tensor:
        random = torch.Generator().manual_seed(1)
        pieces = WindowedSampler(network).sample(
            [audio], previous=torch.zeros(6), emotion=emotion_curve(controls, 8), identity=torch.zeros(3),
            draw_noise=lambda: torch.randn(80, 6, generator=random), steps=2, guidance=1.5,
        )  # fmt: skip
        return torch.cat(list(pieces))

    changing = sample(Controls(track=ControlTrack([{"time_s": 0}, {"time_s": 1.2, "emotion": "fear"}])))
    before, after = sample(Controls()), sample(Controls(emotion="fear"))
    assert (before - after).abs().max() > 1e-2
    torch.testing.assert_close(changing[:30], before[:30], rtol=0, atol=1e-5)
    torch.testing.assert_close(changing[46:], after[46:], rtol=0, atol=1e-5)
