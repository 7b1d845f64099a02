"""What stays on the host and what is on the device, of a GPU that need not be there: PyTorch's fake tensors compute
shapes and devices alone, and refuse what a GPU refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.runs import small_run
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from seedfast.data.dataset import Batch
from seedfast.families.family import Objective, Task, Terms
from seedfast.keys import Draws
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.open import open_session
from seedfast.loop.validate import score_examples

GPU = DistributedContext(torch.device("cuda"), "bf16")


class AtHand(Objective[Any]):
    """An objective whose task was made before: its shapes depend on numbers, which fake tensors do not have."""

    def __init__(self, objective: Objective[Any], task: Task) -> None:
        self.objective, self.made = objective, task

    def network(self, model: Any) -> nn.Module:
        return self.objective.network(model)

    def task(self, batch: Batch, draws: Draws) -> Task:
        return self.made

    def loss(self, network: nn.Module, task: Task, state: Any) -> Terms:
        return Terms(total_B=self.objective.loss(network, task, state).total_B)


@pytest.mark.parametrize("recipe", ["text-autoregressive", "text-masked", "image-diffusion"])
def test_a_validation_adds_up_on_the_host(recipe: str, story: Path, tmp_path: Path) -> None:
    with open_session(replace(small_run(recipe, story), eval_examples=None), tmp_path) as opened:
        objective, data, model = opened.family.objective, opened.corpus.validation, opened.run.model
        draws = Draws(seed=1, scope="eval", positions_B=torch.arange(2), group=2)
        prepared = AtHand(objective, objective.task(data.batch([0, 1]), draws))
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = objective.network(model).to("cuda")
        scored = score_examples(prepared, network, {}, data, [0, 1], seed=1, batch_size=2, draws=1, distributed=GPU)
    assert (scored.totals_E.device.type, scored.weights_E.device.type) == ("cpu", "cpu")
    assert (scored.totals_E.dtype, scored.weights_E.dtype) == (torch.float64, torch.float64)
