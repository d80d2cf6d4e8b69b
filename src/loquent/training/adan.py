"""The Adan optimizer.

Source: Xie et al. 2022, "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models", algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.optim import Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor


class Adan(Optimizer):
    """Adan with proximal weight decay, as AToM was trained.

    Every `betas` is the share of the new value. The first step has no gradient to compare with: it only decays.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 4e-4,
        betas: tuple[float, float, float] = (0.02, 0.08, 0.01),
        eps: float = 1e-8,
        weight_decay: float = 0.02,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: Tensor, group: dict) -> None:
        b1, b2, b3 = group["betas"]
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["step"] = 0
            state |= {name: torch.zeros_like(weight) for name in ("mean", "change", "power", "gradient")}
        if state["step"]:
            change = gradient - state["gradient"]
            state["mean"].lerp_(gradient, b1)
            state["change"].lerp_(change, b2)
            state["power"].lerp_((gradient + (1 - b2) * change).square(), b3)
        state["gradient"].copy_(gradient)
        state["step"] += 1
        c1, c2, c3 = (1 / (1 - (1 - beta) ** state["step"]) for beta in (b1, b2, b3))
        rate = group["lr"] / ((state["power"] * c3).sqrt() + group["eps"])
        weight.sub_(rate * (state["mean"] * c1 + (1 - b2) * c2 * state["change"]))
        weight.div_(1 + group["weight_decay"] * group["lr"])
