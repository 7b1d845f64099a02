"""What a model took: parameters, tokens, epochs, operations and time of its training, from its run folder alone.

FLOPs of training = steps × FLOPs of the matrix products of a step's forward and backward pass (`loop/flops.py`),
attention included: 2mkn for a product of an m × k and a k × n matrix, three times that where both factors are trained.
Of a step whose shapes depend on its data they are those of the first batch. For a plain transformer that is about
6 × parameters without embeddings × tokens, and more for attention and the output layer.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seedfast.data.dataset import Corpus
from seedfast.data.text.corpus import TextAssets
from seedfast.evaluate.trained import Trained
from seedfast.families.family import Objective
from seedfast.keys import Draws
from seedfast.loop.config import Run
from seedfast.loop.flops import model_flops
from seedfast.models.network import Network
from seedfast.report import history as histories
from seedfast.run_folder.choice import run_folder_of


@dataclass(frozen=True, kw_only=True)
class Effort:
    """The size and the training of a model, up to its checkpoint.

    parameters: all; without_embeddings: without tables of tokens, n-grams and positions, and the output layer of a text
    model. unit: what `seen` counts ("tokens", scored ones; "images"), over `epochs` of the training data. flops: of the
    training; None where they cannot be counted. seconds: of its steps, without validations and saves.
    """

    parameters: int
    without_embeddings: int
    unit: str
    seen: float
    epochs: float | None
    steps: int
    flops: float | None
    seconds: float
    device: str

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def effort(model: Trained) -> Effort:
    """The effort of a model of a run. Raises UserError for a folder without a journal."""
    checkpoint = model.committed
    history = histories.read(run_folder_of(checkpoint.folder))
    until = history.weight.steps <= checkpoint.step
    topology = checkpoint.manifest.topology
    per_step = flops_of_a_step(model)
    return Effort(
        parameters=_count(model.network),
        without_embeddings=_count(model.network) - _count_embeddings(model),
        unit=model.family.objective.measure.weight_unit,
        seen=float(history.weight.values[until].sum()),
        epochs=checkpoint.manifest.epoch,
        steps=checkpoint.step,
        flops=None if per_step is None else per_step * checkpoint.step,
        seconds=float(np.nansum(history.seconds.values[until])),
        device=str(topology.get("device", "?")),
    )


def _count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def _count_embeddings(model: Trained) -> int:
    tables = [
        each for module in model.network.modules() if isinstance(module, nn.Embedding) for each in module.parameters()
    ]
    network = model.network
    if isinstance(model.assets, TextAssets) and isinstance(network, Network) and network.output_layer is not None:
        tables += network.output_layer.parameters()
    own = {id(each) for each in network.parameters()}
    return sum(each.numel() for each in {id(each): each for each in tables if id(each) in own}.values())


def flops_of_a_step(model: Trained) -> float | None:
    """FLOPs of the matrix products of one training step, over all processes; None where they cannot be counted."""
    model.network.train()
    try:
        return step_flops(model.run, model.family.objective, model.corpus, model.network, model.state)
    finally:
        model.network.eval()


def step_flops(
    run: Run, objective: Objective[Any], corpus: Corpus, network: nn.Module, state: Mapping[str, Tensor]
) -> float | None:
    """The same of a network in training mode, which may be on PyTorch's meta device: nothing is computed."""
    meta = torch.device("meta")
    size = min(run.forward_examples, run.batch_size, len(corpus.train))
    draws = Draws(seed=run.seed, scope="train", positions_B=torch.arange(size), group=size)
    first = objective.for_step(0)
    task = first.task(corpus.train.batch(list(range(size))), draws).to(meta)
    on_meta = {name: tensor.to(meta) for name, tensor in state.items()}
    found = model_flops(network, lambda each: first.loss(each, task, on_meta))
    return None if found is None else found * run.batch_size / size
