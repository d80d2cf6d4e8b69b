"""Filters of the published video-driven path. Sequences run along the first axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROCESS_VARIANCE = 1e-5
# The published value; so far below the process variance that little is smoothed. More smooths more.
OBSERVATION_VARIANCE = 3e-7


def kalman_smooth(
    x: NDArray[np.floating],
    observation_variance: float = OBSERVATION_VARIANCE,
    process_variance: float = PROCESS_VARIANCE,
) -> NDArray[np.float64]:
    """Every coordinate of (T, ...) as a random walk seen through noise, filtered forwards, then smoothed backwards.

    It starts at the first observation with unit variance. All coordinates share the gains.

    Source: Rauch, Tung and Striebel 1965, "Maximum Likelihood Estimates of Linear Dynamic Systems".
    """
    means = np.array(x, np.float64)
    variances = np.empty(len(means))
    variance = 1.0
    for t in range(len(means)):
        if t:
            variance = variances[t - 1] + process_variance
            gain = variance / (variance + observation_variance)
            means[t] = means[t - 1] + gain * (means[t] - means[t - 1])
        variances[t] = variance * observation_variance / (variance + observation_variance)
    for t in reversed(range(len(means) - 1)):
        means[t] += variances[t] / (variances[t] + process_variance) * (means[t + 1] - means[t])
    return means


def exponential_average(x: NDArray[np.floating], alpha: float = 0.01) -> NDArray[np.float64]:
    """alpha·new + (1 − alpha)·before along (T, ...), from the first value on."""
    out = np.array(x, np.float64)
    for t in range(1, len(out)):
        out[t] = alpha * out[t] + (1 - alpha) * out[t - 1]
    return out
