"""Block diffusion: twins that are broken on purpose and fail the identities, and the generator itself."""

import pytest
import torch
from torch import Tensor, nn

from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.families.text import block_diffusion as family_module
from seedfast.families.text.block_diffusion import Block, BlockGenerator, block_objective, block_size
from seedfast.families.text.decoding import Decoding, Trace
from seedfast.families.text.masked import MaskedObjective, MaskedTask
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_policy import MaskedRequest
from seedfast.keys import Draws
from seedfast.models.attention_mask import AttentionMask
from seedfast.models.transformer import Transformer
from seedfast.verify.identities import block
from seedfast.verify.identities.toys import assets

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


def test_twin_whose_blocks_attend_to_their_own_clean_text_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AttentionMask, "of_blocks", staticmethod(leaky))
    assert not block.chain_rule(rows=2000).holds
    assert not block.cached_blocks().holds
    assert not block.separate_blocks().holds


def test_twin_whose_blocks_attend_to_the_noise_of_others_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AttentionMask, "of_blocks", staticmethod(crowded))
    assert not block.cached_blocks().holds
    assert not block.separate_blocks().holds


class ReadsNoise(MaskedObjective):
    """Its network receives the blocks before as they are masked."""

    def inputs(self, task: MaskedTask) -> dict[str, Tensor | None]:
        return {"clean_BL": task.inputs_BL.clamp(max=self.vocabulary - 1)}


def reads_noise(options: Block, home: TextAssets) -> MaskedObjective:
    return ReadsNoise(options, home, block=block_size(options, home))


def test_twin_whose_blocks_follow_noisy_blocks_fails() -> None:
    assert not block.chain_rule(reads_noise, rows=2000).holds
    assert not block.cached_blocks(reads_noise).holds


def half_blocks(options: Block, home: TextAssets) -> MaskedObjective:
    """Its blocks are half as long as requested."""
    return MaskedObjective(options, home, block=block_size(options, home) // 2 or 1)


def test_twin_whose_one_block_is_two_fails() -> None:
    assert not block.whole_window(half_blocks).holds


def test_twin_whose_sampler_caches_masks_instead_of_finished_blocks_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = family_module.append_block

    def append_masks(network: nn.Module, tokens_BL: Tensor, cache: object) -> None:
        whole(network, torch.full_like(tokens_BL, 3), cache)

    monkeypatch.setattr(family_module, "append_block", append_masks)
    assert not block.chain_rule(rows=2000).holds


# ---- generation -------------------------------------------------------------------------------------------------

HOME = assets(6, 16)
OPTIONS = Block(block=4)
GENERATOR = BlockGenerator(OPTIONS, HOME)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return block_objective(OPTIONS, HOME).network(Transformer(layers=1, heads=2, width=16)).eval()


def decoding(
    network: nn.Module, rows: list[int], steps: int | None = 2, trace: Trace | None = None
) -> Decoding[MaskedRequest]:
    draws = Draws(seed=0, scope="test", positions_B=torch.tensor(rows))
    return Decoding(network=network, request=MaskedRequest(steps=steps), draws=draws, trace=trace)


def test_prompts_of_any_length_are_kept_and_a_sample_does_not_depend_on_the_others(network: nn.Module) -> None:
    canvases = [
        Canvas.of([([n % 5 for n in range(fixed)], True), ([5] * (13 - fixed), False)]) for fixed in (0, 3, 4, 9)
    ]
    together = GENERATOR.fill(decoding(network, [0, 1, 2, 3]), canvases)
    for row, canvas in enumerate(canvases):
        prompt = canvas.tokens_L[canvas.fixed_L].tolist()
        assert together[row][: len(prompt)] == prompt
        assert GENERATOR.end_of_text not in together[row]
        assert GENERATOR.fill(decoding(network, [row]), [canvas]) == [together[row]]


def test_a_trace_shows_the_whole_text_at_each_step(network: nn.Module) -> None:
    canvas = Canvas.of([([1, 2, 3], True), ([5] * 7, False)])
    frames: list[tuple[list[int], list[bool]]] = []
    GENERATOR.fill(decoding(network, [0], trace=lambda _, t, o: frames.append((list(t), list(o)))), [canvas])
    assert len(frames) == 2 * 3  # two steps for each of the three blocks
    assert {len(tokens) for tokens, _ in frames} == {10} == {len(is_open) for _, is_open in frames}
    assert all(tokens[:3] == [1, 2, 3] and not any(is_open[:3]) for tokens, is_open in frames)
    assert [sum(is_open) for _, is_open in frames][1::2] == [6, 2, 0]


def test_an_infill_is_refused_in_a_sentence(network: nn.Module) -> None:
    canvas = Canvas.of([([1], True), ([5] * 2, False), ([2], True)])
    with pytest.raises(UserError, match="does not see the text after a gap"):
        GENERATOR.fill(decoding(network, [0], steps=None), [canvas])


@pytest.mark.parametrize(("context", "size"), [(64, 16), (16, 16), (20, 10), (7, 7), (23, 1), (1, 1)])
def test_the_default_block_divides_the_context(context: int, size: int) -> None:
    assert block_size(Block(), assets(6, context)) == size


@pytest.mark.parametrize("size", [0, 5, 32])
def test_blocks_that_do_not_fill_the_context_are_refused_with_the_nearest(size: int) -> None:
    with pytest.raises(UserError, match=r"must divide the context of 16 tokens; the nearest divisors are \d+ and \d+"):
        Block(block=size).build(assets(6, 16))
