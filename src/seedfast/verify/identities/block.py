"""Identity 8: block diffusion (Arriola et al. 2025), between the chain rule and masked diffusion.

With a network whose weights are arbitrary, and texts so short that all of them can be enumerated.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seedfast import keys
from seedfast.data.text.config import TextAssets
from seedfast.families.text.block_diffusion import Block, BlockDiffusion
from seedfast.families.text.masked import Masked, MaskedDiffusion
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_sampler import MaskedRequest
from seedfast.keys import Draws
from seedfast.models.transformer import Transformer
from seedfast.verify.identities.check import LEAST_P_VALUE, ROUNDING, Check, apart, p_value
from seedfast.verify.identities.toys import all_texts, assets, codes, windows_of

Build = Callable[[Block, TextAssets], BlockDiffusion]
_VOCABULARY, _LENGTH = 3, 4
_MODEL = Transformer(layers=2, heads=2, width=16, init="gpt2")
_ROWS = 20_000


def _network(family: MaskedDiffusion) -> nn.Module:
    """The family's network with arbitrary, large weights, the same for every size of block."""
    with torch.random.fork_rng():
        keys.seed_torch(0, "identity 8")
        network = family.network(_MODEL).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(15)
    return network


def _draws(count: int) -> Draws:
    return Draws(seed=0, scope="identity 8", positions_B=torch.arange(count))


@torch.no_grad()
def _losses(family: MaskedDiffusion, network: nn.Module, texts_NL: Tensor) -> Tensor:
    task = family.task(windows_of(texts_NL, family.end_of_text), _draws(len(texts_NL)))
    return family.loss(network, task, {}).total_B.double()


def chain_rule(build: Build = BlockDiffusion) -> Check:
    """8. Blocks of one token are the chain rule: the loss is a negative log-likelihood, and texts are drawn from it."""
    family = build(Block(block=1), assets(_VOCABULARY, _LENGTH))
    network, texts_NL = _network(family), all_texts(_VOCABULARY, _LENGTH)
    probabilities_N = (-_losses(family, network, texts_NL)).exp()
    total = float(probabilities_N.sum())
    letters = Canvas(torch.zeros(_LENGTH, dtype=torch.int64), torch.zeros(_LENGTH, dtype=torch.bool))
    drawn = family.fill(network, [letters] * _ROWS, MaskedRequest(), _draws(_ROWS), None)
    ends = torch.tensor([len(tokens) for tokens in drawn])
    padded_RL = torch.tensor([tokens + [family.end_of_text] * (_LENGTH - len(tokens)) for tokens in drawn])
    # What follows an end is cut off, so all texts that begin with the same ended one are counted together.
    first_N = torch.where(
        (texts_NL == family.end_of_text).any(dim=1), (texts_NL == family.end_of_text).int().argmax(dim=1), _LENGTH
    )
    kept_NL = torch.where(torch.arange(_LENGTH) < first_N[:, None], texts_NL, family.end_of_text)
    expected_N = torch.zeros_like(probabilities_N).index_add(0, codes(kept_NL, _VOCABULARY), probabilities_N)
    counts_N = torch.bincount(codes(padded_RL, _VOCABULARY), minlength=len(texts_NL)).double()
    chance = p_value(counts_N, expected_N / expected_N.sum())
    holds = abs(total - 1) < _LENGTH * ROUNDING and chance > LEAST_P_VALUE and bool((ends <= _LENGTH).all())
    detail = f"Σ exp(-loss) = {total:.7f} over all {len(texts_NL)} texts; {_ROWS:,} drawn texts: χ² p = {chance:.2f}"
    return Check(8, "blocks of one token", holds, detail)


def whole_window(build: Build = BlockDiffusion) -> Check:
    """8. One block of the whole window is masked diffusion: the same tasks, the same loss of every one of them."""
    home, texts_NL = assets(_VOCABULARY, _LENGTH), all_texts(_VOCABULARY, _LENGTH)
    differences = []
    for estimator in ("fixed-k", "continuous"):
        block = build(Block(block=_LENGTH, estimator=estimator), home)
        masked = MaskedDiffusion(Masked(estimator=estimator), home)
        differences.append(
            apart(_losses(block, _network(block), texts_NL), _losses(masked, _network(masked), texts_NL))
        )
    difference = max(differences)
    detail = f"the loss of each of {len(texts_NL)} texts is the masked one's (largest difference {difference:.0e})"
    return Check(8, "one block", difference < ROUNDING, detail)


@torch.no_grad()
def cached_blocks(build: Build = BlockDiffusion) -> Check:
    """8. A block after cached blocks has the logits that it has in one pass over the clean and the noisy text."""
    texts_NL, worst = all_texts(_VOCABULARY, _LENGTH), 0.0
    for size in (1, 2, 4):
        family = build(Block(block=size), assets(_VOCABULARY, _LENGTH))
        network = _network(family)
        task = family.task(windows_of(texts_NL, family.end_of_text), _draws(len(texts_NL)))
        whole_BLV = network(task.inputs_BL, **family.inputs(task))
        cache = network.cache(len(texts_NL), _LENGTH)  # type: ignore[operator]
        for start in range(0, _LENGTH, size):
            here = slice(start, start + size)
            block_BLV = network(task.inputs_BL[:, here], cache=cache)
            worst = max(worst, apart(block_BLV, whole_BLV[:, here]))
            cache.truncate(start)
            network(task.targets_BL[:, here], cache=cache)
    return Check(8, "cached blocks", worst < 1e-5, f"cached logits = uncached logits (largest difference {worst:.0e})")


@torch.no_grad()
def separate_blocks(build: Build = BlockDiffusion) -> Check:
    """8. A block's logits do not depend on the noisy tokens of others, nor on clean tokens from its own block on."""
    family = build(Block(block=2), assets(_VOCABULARY, _LENGTH))
    network, texts_NL = _network(family), all_texts(_VOCABULARY, _LENGTH)
    task = family.task(windows_of(texts_NL, family.end_of_text), _draws(len(texts_NL)))
    inputs = family.inputs(task)
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
    return Check(8, "separate blocks", others == leaks == 0 and reads > 0.1, detail)
