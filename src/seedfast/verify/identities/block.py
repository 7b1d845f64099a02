"""Block diffusion (Arriola et al. 2025), between the chain rule and masked diffusion.

See docs/identities.md#block-diffusion. The networks have arbitrary weights, and the texts are so short that all
of them can be enumerated.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seedfast.data.text.corpus import TextAssets
from seedfast.families.text.block_diffusion import Block, BlockGenerator, block_objective
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.masked import Masked, MaskedObjective
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_policy import MaskedRequest
from seedfast.keys import Draws
from seedfast.models.transformer import Transformer
from seedfast.verify.identities.check import LEAST_P_VALUE, ROUNDING, Check, p_value, relative_error
from seedfast.verify.identities.masked import ESTIMATORS
from seedfast.verify.identities.toys import all_texts, assets, codes, seeded_network, windows_of

Build = Callable[[Block, TextAssets], MaskedObjective]
BuildGenerator = Callable[[Block, TextAssets], BlockGenerator]
_VOCABULARY, _LENGTH = 3, 4
_MODEL = Transformer(layers=2, heads=2, width=16, init="gpt2")
_ROWS = 8_000


def _network(objective: MaskedObjective) -> nn.Module:
    """The objective's network with arbitrary, large weights, the same for every block size."""
    return seeded_network(objective, _MODEL)


def _draws(count: int) -> Draws:
    return Draws(seed=0, scope="identity 8", positions_B=torch.arange(count))


@torch.no_grad()
def _losses(objective: MaskedObjective, network: nn.Module, texts_NL: Tensor) -> Tensor:
    task = objective.task(windows_of(texts_NL, objective.end_of_text), _draws(len(texts_NL)))
    return objective.loss(network, task, {}).total_B.double()


def chain_rule(
    build: Build = block_objective, generator: BuildGenerator = BlockGenerator, *, rows: int = _ROWS
) -> Check:
    """Blocks of one token are the chain rule: the loss is a negative log-likelihood, and texts are drawn from it."""
    options, home = Block(block=1), assets(_VOCABULARY, _LENGTH)
    objective = build(options, home)
    network, texts_NL = _network(objective), all_texts(_VOCABULARY, _LENGTH)
    probabilities_N = (-_losses(objective, network, texts_NL)).exp()
    total = float(probabilities_N.sum())
    sums = f"Σ exp(-loss) = {total:.7f} over all {len(texts_NL)} texts"
    if not abs(total - 1) < _LENGTH * ROUNDING:  # no distribution to draw from
        return Check("block-diffusion", "blocks of one token", False, sums)
    letters = Canvas(torch.zeros(_LENGTH, dtype=torch.int64), torch.zeros(_LENGTH, dtype=torch.bool))
    decoding = Decoding(network=network, request=MaskedRequest(), draws=_draws(rows))
    drawn = generator(options, home).fill(decoding, [letters] * rows)
    ends = torch.tensor([len(tokens) for tokens in drawn])
    padded_RL = torch.tensor([tokens + [objective.end_of_text] * (_LENGTH - len(tokens)) for tokens in drawn])
    # Texts are cut at their end, so all texts with the same beginning up to it are counted together.
    first_N = torch.where(
        (texts_NL == objective.end_of_text).any(dim=1), (texts_NL == objective.end_of_text).int().argmax(dim=1), _LENGTH
    )
    kept_NL = torch.where(torch.arange(_LENGTH) < first_N[:, None], texts_NL, objective.end_of_text)
    expected_N = torch.zeros_like(probabilities_N).index_add(0, codes(kept_NL, _VOCABULARY), probabilities_N)
    counts_N = torch.bincount(codes(padded_RL, _VOCABULARY), minlength=len(texts_NL)).double()
    chance = p_value(counts_N, expected_N / expected_N.sum())
    holds = chance > LEAST_P_VALUE and bool((ends <= _LENGTH).all())
    detail = f"{sums}; {rows:,} drawn texts: χ² p = {chance:.2f}"
    return Check("block-diffusion", "blocks of one token", holds, detail)


def whole_window(build: Build = block_objective) -> Check:
    """One block of the whole window is masked diffusion: the same tasks, the same loss of every one of them."""
    home, texts_NL = assets(_VOCABULARY, _LENGTH), all_texts(_VOCABULARY, _LENGTH)
    differences = []
    for estimator in ESTIMATORS:
        block = build(Block(block=_LENGTH, estimator=estimator), home)
        masked = MaskedObjective(Masked(estimator=estimator), home)
        differences.append(
            relative_error(_losses(block, _network(block), texts_NL), _losses(masked, _network(masked), texts_NL))
        )
    difference = max(differences)
    detail = f"the loss of each of {len(texts_NL)} texts is the masked one's (largest difference {difference:.0e})"
    return Check("block-diffusion", "one block", difference < ROUNDING, detail)


@torch.no_grad()
def cached_blocks(build: Build = block_objective) -> Check:
    """A block after cached blocks has the logits that it has in one pass over the clean and the noisy text."""
    texts_NL, worst = all_texts(_VOCABULARY, _LENGTH), 0.0
    for size in (1, 2, 4):
        objective = build(Block(block=size), assets(_VOCABULARY, _LENGTH))
        network = _network(objective)
        task = objective.task(windows_of(texts_NL, objective.end_of_text), _draws(len(texts_NL)))
        whole_BLV = network(task.inputs_BL, **objective.inputs(task))
        cache = network.cache(len(texts_NL), _LENGTH)  # type: ignore[operator]
        for start in range(0, _LENGTH, size):
            here = slice(start, start + size)
            block_BLV = network(task.inputs_BL[:, here], cache=cache)
            worst = max(worst, relative_error(block_BLV, whole_BLV[:, here]))
            cache.truncate(start)
            network(task.targets_BL[:, here], cache=cache)
    return Check(
        "block-diffusion",
        "cached blocks",
        worst < 1e-5,
        f"cached logits = uncached logits (largest difference {worst:.0e})",
    )


@torch.no_grad()
def separate_blocks(build: Build = block_objective) -> Check:
    """A block's logits do not depend on the noisy tokens of others, nor on clean tokens from its own block on."""
    objective = build(Block(block=2), assets(_VOCABULARY, _LENGTH))
    network, texts_NL = _network(objective), all_texts(_VOCABULARY, _LENGTH)
    task = objective.task(windows_of(texts_NL, objective.end_of_text), _draws(len(texts_NL)))
    inputs = objective.inputs(task)
    before_BLV = network(task.inputs_BL, **inputs)
    noisy_BL, clean_BL = task.inputs_BL.clone(), inputs["clean_BL"]
    noisy_BL[:, 2:] = (noisy_BL[:, 2:] + 1) % (_VOCABULARY + 1)
    assert clean_BL is not None
    later_BL = torch.cat([clean_BL[:, :2], (clean_BL[:, 2:] + 1) % _VOCABULARY], dim=1)
    others = float((network(noisy_BL, **inputs) - before_BLV)[:, :2].abs().max())
    leaks = float((network(task.inputs_BL, **(inputs | {"clean_BL": later_BL})) - before_BLV).abs().max())
    earlier_BL = torch.cat([(clean_BL[:, :2] + 1) % _VOCABULARY, clean_BL[:, 2:]], dim=1)
    reads = float((network(task.inputs_BL, **(inputs | {"clean_BL": earlier_BL})) - before_BLV)[:, 2:].abs().max())
    detail = (
        f"other blocks' noise moves logits by {others}, its own clean text by {leaks}, clean text before by {reads:.1f}"
    )
    return Check("block-diffusion", "separate blocks", others == leaks == 0 and reads > 0.1, detail)
