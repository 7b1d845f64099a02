"""What stays on the host and what is on the device, of a GPU that need not be there: PyTorch's fake tensors have shapes
and devices and no numbers, and refuse to compute with tensors of two devices as a GPU does."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from seedfast.data.dataset import Batch
from seedfast.families.family import Objective, Task, Terms
from seedfast.keys import Draws
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.validate import score_examples


@dataclass(frozen=True, kw_only=True)
class Vectors(Task):
    """x_B3: vectors of three numbers."""

    x_B3: Tensor


class Squares(Objective[Vectors]):
    """The square of what a linear network makes of three ones."""

    def network(self, model: Any) -> nn.Module:
        return nn.Linear(3, 1, device="cuda")

    def task(self, batch: Batch, draws: Draws) -> Vectors:
        return Vectors(weight_B=batch["weight"], x_B3=batch["x"])

    def loss(self, network: nn.Module, task: Vectors, state: Any) -> Terms:
        return Terms(total_B=network(task.x_B3).squeeze(1).square())


class Ones:
    """Seven examples."""

    def __len__(self) -> int:
        return 7

    def batch(self, ids: list[int]) -> Batch:
        return {"x": torch.ones(len(ids), 3), "weight": torch.full((len(ids),), 2)}


def test_a_validation_on_a_gpu_adds_up_on_the_host() -> None:
    gpu = DistributedContext(torch.device("cuda"), "fp32")
    with FakeTensorMode():
        objective = Squares()
        scored = score_examples(
            objective, objective.network(None), {}, Ones(), range(7), seed=1, batch_size=3, draws=2, distributed=gpu
        )
    assert {each.device.type for each in (scored.totals_E, scored.weights_E)} == {"cpu"}
