"""AdamW in one kernel for all parameters."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from seedfast.optim.shards import local
from seedfast.optim.update_rule import UpdateRule


class AdamW(UpdateRule):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), by torch's fused kernel.

    The bits are those of `torch.optim.AdamW(fused=True)`.
    """

    name = "adamw"
    quantities = frozenset({"step", "exp_avg", "exp_avg_sq"})

    def __init__(self, groups: Sequence[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        """groups: each with its "params" and "weight_decay"."""
        super().__init__([{"lr": lr, "betas": betas, "eps": eps, **group} for group in groups])

    @torch.no_grad()
    def step(self, finite: Tensor) -> None:
        found_inf = (~finite).float()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            states = [self._state(p) for p in parameters]
            rows, gradients = [local(p) for p in parameters], [local(cast("Tensor", p.grad)) for p in parameters]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            lr = group["lr"]
            torch._fused_adamw_(
                rows,
                gradients,
                [local(state["exp_avg"]) for state in states],
                [local(state["exp_avg_sq"]) for state in states],
                [],
                steps,
                lr=lr.float() if isinstance(lr, Tensor) else lr,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                found_inf=found_inf,
            )
            torch._foreach_sub_(steps, [found_inf] * len(steps))

    def _state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state
