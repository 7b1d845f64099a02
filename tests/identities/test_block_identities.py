"""Identity 8 on block diffusion, each beside a twin that is broken on purpose and must be refused."""

import pytest
import torch
from torch import Tensor, nn

from seedfast.errors import UserError
from seedfast.families.text import block_diffusion as family_module
from seedfast.families.text.block_diffusion import Block, BlockDiffusion
from seedfast.families.text.masked import MaskedTask
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_sampler import MaskedRequest
from seedfast.keys import Draws
from seedfast.models.attention_mask import AttentionMask
from seedfast.models.transformer import Transformer
from seedfast.verify.identities import block
from seedfast.verify.identities.toys import assets


def test_8_blocks_of_one_token_are_the_chain_rule() -> None:
    assert block.chain_rule().holds


def test_8_one_block_is_masked_diffusion() -> None:
    assert block.whole_window().holds


def test_8_cached_logits_are_uncached_logits() -> None:
    assert block.cached_blocks().holds


def test_8_blocks_do_not_see_each_others_noise() -> None:
    assert block.separate_blocks().holds


OF_BLOCKS = AttentionMask.of_blocks


def leaky(length: int, size: int, documents_BL: Tensor | None, device: torch.device) -> AttentionMask:
    """Noisy tokens also attend to the clean tokens of their own block: their targets."""
    allowed = OF_BLOCKS(length, size, documents_BL, device).allowed
    assert allowed is not None
    allowed[..., length:, :length] = allowed[..., :length, :length]
    return AttentionMask(allowed)


def crowded(length: int, size: int, documents_BL: Tensor | None, device: torch.device) -> AttentionMask:
    """Noisy tokens attend to the noisy tokens of all blocks."""
    allowed = OF_BLOCKS(length, size, documents_BL, device).allowed
    assert allowed is not None
    allowed[..., length:, length:] = True
    return AttentionMask(allowed)


def test_8_twin_a_block_that_sees_its_own_clean_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AttentionMask, "of_blocks", staticmethod(leaky))
    assert not block.chain_rule().holds
    assert not block.cached_blocks().holds
    assert not block.separate_blocks().holds


def test_8_twin_a_block_that_sees_other_blocks_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AttentionMask, "of_blocks", staticmethod(crowded))
    assert not block.cached_blocks().holds
    assert not block.separate_blocks().holds


class ReadsNoise(BlockDiffusion):
    """The blocks before are given as they are masked, not as they are."""

    def inputs(self, task: MaskedTask) -> dict[str, Tensor | None]:
        return {"clean_BL": task.inputs_BL.clamp(max=self.vocabulary - 1)}


def test_8_twin_blocks_that_follow_noisy_blocks() -> None:
    assert not block.chain_rule(ReadsNoise).holds
    assert not block.cached_blocks(ReadsNoise).holds


class HalfBlocks(BlockDiffusion):
    """It masks and sees half the block that it was asked for."""

    def __init__(self, options: Block, home: object) -> None:
        super().__init__(options, home)  # type: ignore[arg-type]
        self.block = self.block // 2 or 1


def test_8_twin_one_block_that_is_two() -> None:
    assert not block.whole_window(HalfBlocks).holds


class RemembersTheQuestion(family_module._Reader):
    """It remembers a finished block as it was before anything was written."""

    def finish(self, tokens_BL: Tensor) -> None:
        self.network(torch.full_like(tokens_BL, 3), cache=self.cache)


def test_8_twin_a_sampler_that_remembers_its_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family_module, "_Reader", RemembersTheQuestion)
    assert not block.chain_rule().holds


# ---- the family as it is used -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def family() -> BlockDiffusion:
    return BlockDiffusion(Block(block=4), assets(6, 16))


@pytest.fixture(scope="module")
def network(family: BlockDiffusion) -> nn.Module:
    return family.network(Transformer(layers=1, heads=2, width=16)).eval()


def draws(count: int) -> Draws:
    return Draws(seed=0, scope="test", positions_B=torch.arange(count))


def test_prompts_of_any_length_are_kept_and_a_sample_does_not_depend_on_its_company(
    family: BlockDiffusion, network: nn.Module
) -> None:
    canvases = [
        Canvas.of([([n % 5 for n in range(given)], True), ([5] * (13 - given), False)]) for given in (0, 3, 4, 9)
    ]
    together = family.fill(network, canvases, MaskedRequest(steps=2), draws(4), None)
    for row, canvas in enumerate(canvases):
        given = canvas.tokens_L[canvas.given_L].tolist()
        assert together[row][: len(given)] == given
        assert family.end_of_text not in together[row]
        alone = Draws(seed=0, scope="test", positions_B=torch.tensor([row]))
        assert family.fill(network, [canvas], MaskedRequest(steps=2), alone, None) == [together[row]]


def test_a_trace_shows_the_whole_text_at_each_step(family: BlockDiffusion, network: nn.Module) -> None:
    canvas = Canvas.of([([1, 2, 3], True), ([5] * 7, False)])
    frames: list[tuple[list[int], list[bool]]] = []
    family.fill(network, [canvas], MaskedRequest(steps=2), draws(1), lambda _, t, o: frames.append((list(t), list(o))))
    assert len(frames) == 2 * 3  # two steps for each of the three blocks
    assert {len(tokens) for tokens, _ in frames} == {10} == {len(opened) for _, opened in frames}
    assert all(tokens[:3] == [1, 2, 3] and not any(opened[:3]) for tokens, opened in frames)
    assert [sum(opened) for _, opened in frames][1::2] == [6, 2, 0]


def test_an_infill_is_refused_in_a_sentence(family: BlockDiffusion, network: nn.Module) -> None:
    canvas = Canvas.of([([1], True), ([5] * 2, False), ([2], True)])
    with pytest.raises(UserError, match="does not see the text after a gap"):
        family.fill(network, [canvas], MaskedRequest(), draws(1), None)


@pytest.mark.parametrize(("context", "size"), [(64, 16), (16, 16), (20, 10), (7, 7), (23, 1), (1, 1)])
def test_the_default_block_divides_the_context(context: int, size: int) -> None:
    assert BlockDiffusion(Block(), assets(6, context)).block == size


@pytest.mark.parametrize("size", [0, 5, 32])
def test_blocks_that_do_not_fill_the_context_are_refused_with_the_nearest(size: int) -> None:
    with pytest.raises(UserError, match=r"must divide the context of 16 tokens; the nearest that do are \d+ and \d+"):
        Block(block=size).build(assets(6, 16))
