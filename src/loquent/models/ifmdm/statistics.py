"""Motion statistics as a control: how the wanted mean and spread of each window are chosen.

A window is told the mean and the standard deviation that its motion shall have. Zeros leave them open, which the
network knows from training: a standard deviation of zero does not ask for stillness.

The five published settings, by our names:

| name | mean | standard deviation | published column |
|---|---|---|---|
| free | open | open | No Control Signal |
| mean_portrait | the portrait's own motion | open | Mean as Input |
| mean_last | last frame of the window before, the portrait's for the first | open | Mean as Last Frame |
| std_0.1 | open | 0.1 in every number | Std as 0.1 |
| std_0.3 | open | 0.3 in every number | Std as 0.3 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from loquent.errors import ControlsError

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.types import Controls


class Statistics(NamedTuple):
    """Of one window's motion, (M,) each, or (B, M) for a batch; zeros are open."""

    mean: Tensor
    std: Tensor


class WindowStart(NamedTuple):
    """What is known when a window begins."""

    window: int  # its number, from 0
    portrait: Tensor  # motion of the portrait, (M,)
    last: Tensor  # motion right before the window, (M,); the portrait's before the first


StatisticsRule = Callable[[WindowStart], Statistics]


def measure(motion: Tensor) -> Statistics:
    """Mean and unbiased standard deviation over the frames: (..., N, M) to (..., M) each.

    Training takes them over a window together with its hint frame.
    """
    return Statistics(motion.mean(-2), motion.std(-2))


def free(start: WindowStart) -> Statistics:
    return Statistics(torch.zeros_like(start.portrait), torch.zeros_like(start.portrait))


def mean_of_portrait(start: WindowStart) -> Statistics:
    """Stays around the portrait's pose; good for portraits in unusual poses."""
    return Statistics(start.portrait, torch.zeros_like(start.portrait))


def mean_of_last_frame(start: WindowStart) -> Statistics:
    """Stays around where the window before ended, so that the pose wanders."""
    return Statistics(start.last, torch.zeros_like(start.last))


def mean_towards_last_frame(start: WindowStart) -> Statistics:
    """Half way from the portrait to the last frame, for networks that meet the wish in full.

    The pose of `mean_of_last_frame` is then a walk that wanders further than with no control at all; published clips do not.
    """
    return Statistics((start.portrait + start.last) / 2, torch.zeros_like(start.last))


def fixed_std(std: float) -> StatisticsRule:
    """The same standard deviation in every motion number."""
    return lambda start: Statistics(torch.zeros_like(start.portrait), torch.full_like(start.portrait, std))


def per_window(values: list[Statistics]) -> StatisticsRule:
    """Values of one's own for each window; the last ones stay.

    Raises:
        ControlsError: there are none.
    """
    if not values:
        raise ControlsError("no motion statistics were given; give the mean and std of one window or more")
    return lambda start: values[min(start.window, len(values) - 1)]


def of_controls(
    controls: Controls,
    window_s: float,
    otherwise: StatisticsRule = free,
    settings: Mapping[str, StatisticsRule] | None = None,
) -> StatisticsRule:
    """What a control track says in the middle of each window: a published setting by name, and over it, where they are
    not 0, a mean and a standard deviation of one's own; one number counts for every dimension.

    Args:
        controls: with a track or without.
        window_s: length of a window.
        otherwise: the setting where the track names none.
        settings: by name; None: as published.

    Raises:
        ControlsError: (when used) as many numbers as the motion has no dimensions.
    """
    track = controls.track
    if track is None:
        return otherwise

    def rule(start: WindowStart) -> Statistics:
        time_s = (start.window + 0.5) * window_s
        name = track.label_at("statistics", time_s)
        setting = (otherwise if name is None else get_setting(name, settings))(start)
        mean = _of_dimensions("motion_mean", track.label_at("motion_mean", time_s, 0.0), start.portrait)
        std = _of_dimensions("motion_std", track.label_at("motion_std", time_s, 0.0), start.portrait)
        return Statistics(mean if mean.any() else setting.mean, std if std.any() else setting.std)

    return rule


def _of_dimensions(name: str, value: float | tuple[float, ...], like: Tensor) -> Tensor:
    numbers = torch.as_tensor(value).to(like)
    if numbers.ndim and len(numbers) != len(like):
        raise ControlsError(
            f"the control track's {name} holds {len(numbers)} numbers, the motion has {len(like)} dimensions; give as "
            "many, or one for all"
        )
    return numbers.expand_as(like)


SETTINGS: dict[str, StatisticsRule] = {
    "free": free,
    "mean_portrait": mean_of_portrait,
    "mean_last": mean_of_last_frame,
    "std_0.1": fixed_std(0.1),
    "std_0.3": fixed_std(0.3),
}


STARTER_SETTINGS = SETTINGS | {"mean_last": mean_towards_last_frame}


def get_setting(name: str, settings: Mapping[str, StatisticsRule] | None = None) -> StatisticsRule:
    """The setting called `name`, of the published ones or of others.

    Raises:
        ControlsError: there is none.
    """
    settings = SETTINGS if settings is None else settings
    if name not in settings:
        raise ControlsError(f"unknown motion statistics {name!r}; choose one of {', '.join(settings)}")
    return settings[name]
