"""The loop itself, on networks of a few numbers."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from loquent.errors import LoquentError
from loquent.training.checkpoint import load_checkpoint
from loquent.training.loop import Learner, TrainSettings, train, train_together
from loquent.training.optimizers import OptimizerSettings

SETTINGS = TrainSettings(steps=12, learning_rate=0.02, warmup_steps=2, save_every=4, log_every=4)
JUDGE = OptimizerSettings(optimizer="adam", learning_rate=0.05, betas=(0.5, 0.999))


@dataclass(frozen=True, eq=False)
class Batch:
    x: torch.Tensor
    y: torch.Tensor


def make_batch(number: int) -> Batch:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(number))
    return Batch(x, x.sum(1, keepdim=True))


def squared_error(network, batch, random):
    noise = 0.01 * torch.randn(batch.x.shape, generator=random)
    return {"loss": (network(batch.x + noise) - batch.y).square().mean()}


def small_network(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))


def values(network: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in network.state_dict().values()])


def read_log(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "s_per_step"} for line in lines]


def stops_at(step: int):
    def make(number):
        if number == step:
            raise KeyboardInterrupt
        return make_batch(number)

    return make


def adversarial_turns(networks, batch, random, step):
    """The drawing network wants its numbers to be taken for x; the judge comes in at step 3."""
    made = networks["drawing"](torch.randn(batch.x.shape, generator=random))
    yield "drawing", {"loss": -networks["judge"](made).mean() + (made - batch.y).square().mean(), "size": made.std()}
    if step >= 3:
        logits_real, logits_made = networks["judge"](batch.y), networks["judge"](made.detach())
        yield "judge", {"loss": (1 - logits_real).relu().mean() + (1 + logits_made).relu().mean()}


def adversarial_learners() -> dict[str, Learner]:
    drawing = small_network()
    return {"drawing": Learner(drawing, SETTINGS), "judge": Learner(nn.Linear(1, 1), JUDGE)}


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "adan"])
def test_every_optimizer_lowers_the_loss_and_resumes_exactly(tmp_path, optimizer):
    betas = (0.02, 0.08, 0.01) if optimizer == "adan" else (0.9, 0.98)
    settings = replace(SETTINGS, steps=40, optimizer=optimizer, betas=betas, save_every=16)
    whole = train(small_network(dropout=0.1), squared_error, make_batch, settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(small_network(dropout=0.1), squared_error, stops_at(30), settings, tmp_path / "stopped")
    resumed = train(small_network(seed=9, dropout=0.1), squared_error, make_batch, settings, tmp_path / "stopped")
    torch.testing.assert_close(values(resumed), values(whole), rtol=0, atol=0)
    log = read_log(tmp_path / "whole")
    assert log == read_log(tmp_path / "stopped")
    assert [line["step"] for line in log] == [4, 8, 12, 16, 20, 24, 28, 32, 36, 40]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]


def test_two_networks_take_turns_and_resume_exactly(tmp_path):
    whole, stopped = adversarial_learners(), adversarial_learners()
    train_together(whole, adversarial_turns, make_batch, SETTINGS, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_together(stopped, adversarial_turns, stops_at(9), SETTINGS, tmp_path / "stopped")
    resumed = adversarial_learners()
    train_together(resumed, adversarial_turns, make_batch, SETTINGS, tmp_path / "stopped")
    for name, learner in whole.items():
        torch.testing.assert_close(values(resumed[name].network), values(learner.network), rtol=0, atol=0)
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "stopped")
    assert set(load_checkpoint(tmp_path / "whole") or {}) == {
        "step", "ema", "network", "optimizer", "judge.network", "judge.optimizer",
    }  # fmt: skip
    assert {"loss", "size", "gradient", "judge.loss", "judge.gradient"} <= set(read_log(tmp_path / "whole")[0])


def test_a_turn_moves_its_own_network_alone(tmp_path):
    learners = adversarial_learners()
    before = {name: values(learner.network).clone() for name, learner in learners.items()}
    train_together(learners, adversarial_turns, make_batch, replace(SETTINGS, steps=3), tmp_path)
    assert not torch.equal(values(learners["drawing"].network), before["drawing"])
    torch.testing.assert_close(values(learners["judge"].network), before["judge"], rtol=0, atol=0)


def test_several_small_batches_are_one_large_one(tmp_path):
    def exact_error(network, batch, random):
        return {"loss": (network(batch.x) - batch.y).square().mean()}

    def large_batch(number):
        parts = [make_batch(3 * number + part) for part in range(3)]
        return Batch(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))

    settings = replace(SETTINGS, batches_per_step=3)
    several = train(small_network(), exact_error, make_batch, settings, tmp_path / "several")
    one = train(small_network(), exact_error, large_batch, SETTINGS, tmp_path / "one")
    torch.testing.assert_close(values(several), values(one), rtol=1e-4, atol=1e-6)


def test_batches_made_ahead_are_the_same(tmp_path):
    settings = replace(SETTINGS, steps=4)
    plain = train(small_network(), squared_error, make_batch, settings, tmp_path / "plain")
    ahead = train(small_network(), squared_error, make_batch, replace(settings, loader_workers=1), tmp_path / "ahead")
    torch.testing.assert_close(values(ahead), values(plain), rtol=0, atol=0)


def test_frozen_weights_stay(tmp_path):
    network = small_network()
    network[0].requires_grad_(False)
    before = values(network[0]).clone()
    train(network, squared_error, make_batch, SETTINGS, tmp_path)
    torch.testing.assert_close(values(network[0]), before, rtol=0, atol=0)


def test_hooks_get_the_averaged_network_in_time(tmp_path):
    saved, sampled = [], []
    settings = replace(SETTINGS, sample_every=5)
    mean = train(
        small_network(), squared_error, make_batch, settings, tmp_path,
        lambda ema, step: saved.append(step), lambda ema, step: sampled.append((step, ema)),
    )  # fmt: skip
    assert saved == [4, 8, 12]
    assert [step for step, _ in sampled] == [5, 10]
    assert sampled[0][1] is mean


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
    def spoilt(network, batch, random):
        return {"loss": network(batch.x).mean() / 0}

    with pytest.raises(LoquentError, match="lower the learning rate"):
        train(small_network(), spoilt, make_batch, SETTINGS, tmp_path)
    assert load_checkpoint(tmp_path) is None


class Scaled(nn.Module):
    """A network with a constant of its own, such as statistics of the data."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner = small_network()
        self.register_buffer("scale", torch.tensor([scale]))

    def forward(self, x):
        return self.scale * self.inner(x)


def test_a_run_in_bfloat16_goes_on_with_the_constants_of_its_checkpoint(tmp_path):
    settings = replace(SETTINGS, bfloat16=True)

    def loss(network, batch, random):
        return {"loss": (network(batch.x.to(network.scale)) - batch.y).float().square().mean()}

    whole = train(Scaled(3.0), loss, make_batch, settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Scaled(3.0), loss, stops_at(6), settings, tmp_path / "stopped")
    resumed = train(Scaled(1.0), loss, make_batch, settings, tmp_path / "stopped")
    torch.testing.assert_close(values(resumed), values(whole), rtol=0, atol=0)
    assert read_log(tmp_path / "stopped") == read_log(tmp_path / "whole")


def test_networks_with_batch_norm_are_not_trained_wholly_in_bfloat16(tmp_path):
    network = nn.Sequential(nn.Linear(4, 1), nn.BatchNorm1d(1))
    with pytest.raises(LoquentError, match="autocast"):
        train(network, squared_error, make_batch, replace(SETTINGS, bfloat16=True), tmp_path)
    train(network, squared_error, make_batch, replace(SETTINGS, autocast=True), tmp_path)
    assert (network[1].running_mean != 0).all()


def test_curves_reach_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    train(small_network(), squared_error, make_batch, replace(SETTINGS, tensorboard=True), tmp_path)
    assert list((tmp_path / "curves").glob("events*"))


@pytest.mark.parametrize(
    ("values", "message"), [({"optimizer": "sgd"}, "choose one of adamw"), ({"optimizer": "adan"}, "takes 3 betas")]
)
def test_wrong_optimizers_are_refused(values, message):
    with pytest.raises(LoquentError, match=message):
        OptimizerSettings(**values)


def test_rate_warms_up_and_falls():
    settings = OptimizerSettings(learning_rate=1.0, warmup_steps=10, decay_share=0.5)
    assert settings.rate_at(0, 100) == pytest.approx(0.1)
    assert settings.rate_at(30, 100) == 1.0
    assert settings.rate_at(75, 100) == pytest.approx(0.5)
    assert settings.rate_at(99, 100) == pytest.approx(0.05)
