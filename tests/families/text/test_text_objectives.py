"""What all text families promise: a task with every index, a preview, and samples that stream and fill gaps."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seedfast.families.family import Family
from seedfast.families.text.autoregressive import Autoregressive
from seedfast.families.text.block_diffusion import Block
from seedfast.families.text.causal_sampler import AutoregressiveRequest
from seedfast.families.text.mask_counts import MEASURED
from seedfast.families.text.masked import Masked, MaskedObjective
from seedfast.families.text.proofreading import Proofreading
from seedfast.families.text.proofreading.loss_weights import Weights
from seedfast.keys import Draws
from seedfast.models.transformer import Transformer
from seedfast.verify.identities.toys import arbitrary_history, assets, windows_of

WORDS, LENGTH = 7, 16
OPTIONS: dict[str, Any] = {
    "autoregressive": Autoregressive(),
    "autoregressive, documents": Autoregressive(document_mask=True),
    "masked": Masked(document_mask=True),
    "masked, uniform": Masked(estimator="fixed-k"),
    "masked, continuous": Masked(estimator="continuous"),
    "block": Block(block=4),
    "proofreading": Proofreading(weights=Weights(entropy=0.5, mask_ratio=0.5, state_dependent=True)),
    "proofreading, edits": Proofreading(version="edit"),
}
SCORED = {"all tokens": torch.ones(LENGTH).bool(), "some tokens": torch.arange(LENGTH) >= 5}


class NoDataDependentShapes(TorchDispatchMode):
    """Raises AssertionError at an operation that has to read values: on a GPU it would stop the program."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = args[1] if func is torch.ops.aten.index.Tensor else ()
        reads = func in (torch.ops.aten.nonzero.default, torch.ops.aten._local_scalar_dense.default)
        by_mask = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)
        assert not reads, f"{func} depends on the data"
        assert not by_mask, "an index that is a mask depends on the data"
        return func(*args, **(kwargs or {}))


def test_a_bound_that_is_only_measured_has_uniform_numbers_of_masks() -> None:
    bound = Proofreading().build(assets(WORDS, LENGTH)).evaluated
    assert isinstance(bound, MaskedObjective)
    assert bound.options.estimator == MEASURED


def task_of(family: Family, scored_L: Tensor, step: int | None) -> tuple[Any, Any, Any]:
    draws = Draws(seed=1, scope="train", positions_B=torch.arange(6), group=6)
    tokens_BL = draws.randint("text", LENGTH, high=WORDS)
    objective = family.objective if step is None else family.objective.for_step(step)
    batch = windows_of(tokens_BL, WORDS - 1, scored_L)
    return objective, batch, objective.task(batch, draws)


@pytest.mark.parametrize("scored_L", SCORED.values(), ids=SCORED.keys())
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("step", [None, 100], ids=["validation", "training"])
def test_the_loss_has_no_shape_that_depends_on_the_data(options: Any, step: int | None, scored_L: Tensor) -> None:
    family: Family = options.build(assets(WORDS, LENGTH))
    objective, _, task = task_of(family, scored_L, step)
    network = objective.network(Transformer(layers=1, heads=2, width=16)).train(step is not None)
    with NoDataDependentShapes():
        terms = objective.loss(network, task, family.initial_state())
    assert terms.total_B.shape == (6,)


def test_twin_that_searches_for_the_masked_positions_in_the_loss_is_found() -> None:
    with pytest.raises(AssertionError, match="depends on the data"), NoDataDependentShapes():
        torch.ones(3).bool().nonzero()
    with pytest.raises(AssertionError, match="depends on the data"), NoDataDependentShapes():
        torch.ones(3)[torch.ones(3).bool()]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_preview_shows_each_example_of_the_task(options: Any) -> None:
    family: Family = options.build(assets(WORDS, LENGTH))
    _, batch, task = task_of(family, SCORED["some tokens"], 100)
    assert family.preview is not None
    shown = family.preview(batch, task)
    assert len(shown) == 6
    for example in shown:
        assert sum(len(text) for text, _ in example.source) == LENGTH
        assert sum(len(text) for text, _ in example.inputs) == LENGTH
        assert "nothing" in {kind for _, kind in example.targets}, "unscored tokens have no target"


def test_a_streamed_text_is_the_text() -> None:
    generator: Any = Autoregressive().build(assets(WORDS, LENGTH)).generator
    draws = Draws(seed=4, scope="s", positions_B=torch.arange(1))
    network = arbitrary_history(WORDS, 5)
    pieces: list[str] = []
    request = AutoregressiveRequest(prompt=("ab",), tokens=3, on_token=pieces.append)
    (text,) = generator.generate(network, request, draws, {}).texts
    assert "".join(pieces) == text
    assert pieces[0] == "ab"


def test_an_infill_keeps_its_text_and_its_gap_lengths() -> None:
    generator: Any = Autoregressive().build(assets(WORDS, LENGTH)).generator
    draws = Draws(seed=4, scope="s", positions_B=torch.arange(3))
    request = AutoregressiveRequest(infill="a<gap:2>b<gap:1>", num=3, candidates=4)
    samples = generator.generate(arbitrary_history(WORDS, 6), request, draws, {})
    for text in samples.texts:
        assert (len(text), text[0], text[3]) == (5, "a", "b")
    one = Draws(seed=4, scope="s", positions_B=torch.tensor([2]))
    alone = generator.generate(
        arbitrary_history(WORDS, 6), AutoregressiveRequest(infill="a<gap:2>b<gap:1>", candidates=4), one, {}
    )
    assert alone.texts == samples.texts[2:], "a sample does not depend on the others"
