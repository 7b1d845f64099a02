"""The exact likelihood of an unmasking policy, and bounds of the any-order mixture from both sides.

See docs/identities.md#deployed-likelihood and #bracket. The networks are arbitrary tables: their predictions are the
conditionals of no distribution, so the order in which a text is written matters.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from seedfast.data.text.corpus import TextAssets
from seedfast.evaluate import bracket
from seedfast.families.text.base import TextGenerator
from seedfast.families.text.block_diffusion import Block, BlockGenerator
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.masked import Masked, MaskedGenerator, MaskedObjective
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_policy import MaskedRequest
from seedfast.keys import Draws
from seedfast.models.transformer import Transformer
from seedfast.verify.identities.check import LEAST_P_VALUE, Check, p_value, relative_error
from seedfast.verify.identities.masked import LENGTH, VOCABULARY, BuildGenerator, any_order_log_probs
from seedfast.verify.identities.toys import (
    Law,
    ToyTable,
    all_texts,
    arbitrary_table,
    assets,
    codes,
    numbers,
    seeded_network,
    windows_of,
)

REQUESTS = {
    "one token a step": MaskedRequest(order="confidence"),
    "2 steps": MaskedRequest(order="confidence", steps=2),
    "3 steps, temperature 0.7": MaskedRequest(order="confidence", steps=3, temperature=0.7),
    "top-k 2": MaskedRequest(order="confidence", top_k=2),
    "top-p 0.8 in 2 steps": MaskedRequest(order="confidence", steps=2, top_p=0.8),
    "temperature 0": MaskedRequest(order="confidence", temperature=0.0),
    "random order of one seed": MaskedRequest(order="random", steps=3),
}
_ROWS = 12_000
SEEDS = 100
_ORDERS, _COPIES = 8, 4


def _draws(count: int, seed: int = 0) -> Draws:
    return Draws(seed=seed, scope="bracket", positions_B=torch.arange(count))


def _open(texts_NL: Tensor) -> list[Canvas]:
    return [Canvas(text_L, torch.zeros_like(text_L, dtype=torch.bool)) for text_L in texts_NL]


def deployed_nats(
    generator: TextGenerator[MaskedRequest], network: nn.Module, request: MaskedRequest, texts_NL: Tensor
) -> Tensor:
    """-log p of each text under the policy of a request, float64 [N]; the numbers of a random order are the same."""
    draws = Draws(seed=0, scope="bracket", positions_B=torch.zeros(len(texts_NL), dtype=torch.int64))
    ledger = generator.forced(network, request, _open(texts_NL), draws, {})
    return -ledger.page("log_p_N", *texts_NL.shape).sum(dim=1)


def deployed_likelihood(build: BuildGenerator = MaskedGenerator) -> Check:
    """Σ exp(-deployed) = 1 over all texts, for every request; and the sampler's texts have these probabilities."""
    generator, network = build(Masked(), assets(VOCABULARY, LENGTH)), arbitrary_table(VOCABULARY, LENGTH)
    texts_NL = all_texts(VOCABULARY, LENGTH)
    sums = {
        name: float((-deployed_nats(generator, network, request, texts_NL)).exp().sum())
        for name, request in REQUESTS.items()
    }
    worst = max(abs(total - 1) for total in sums.values())
    request = REQUESTS["3 steps, temperature 0.7"]
    probabilities_N = (-deployed_nats(generator, network, request, texts_NL)).exp()
    chance = _frequencies(generator, network, request, probabilities_N) if worst < 1e-9 else 0.0
    detail = (
        f"|Σ exp(-deployed) - 1| ≤ {worst:.0e} over all {len(texts_NL)} texts for {len(sums)} requests; "
        f"{_ROWS:,} drawn texts: χ² p = {chance:.2f}"
    )
    return Check("deployed-likelihood", "unmasking policies", worst < 1e-9 and chance > LEAST_P_VALUE, detail)


def _frequencies(
    generator: TextGenerator[MaskedRequest], network: nn.Module, request: MaskedRequest, probabilities_N: Tensor
) -> float:
    """The χ² test of drawn texts; those that are cut at an end-of-text are counted together."""
    texts_NL, end = all_texts(VOCABULARY, LENGTH), VOCABULARY - 1
    blank = _open(torch.zeros(_ROWS, LENGTH, dtype=torch.int64))
    drawn = generator.fill(Decoding(network=network, request=request, draws=_draws(_ROWS)), blank)
    padded_RL = torch.tensor([text + [end] * (LENGTH - len(text)) for text in drawn])
    ended_NL = (texts_NL == end).cumsum(dim=1) > 0
    expected_N = torch.zeros_like(probabilities_N).index_add(
        0, codes(texts_NL.masked_fill(ended_NL, end), VOCABULARY), probabilities_N
    )
    counts_N = torch.bincount(codes(padded_RL, VOCABULARY), minlength=len(texts_NL)).double()
    return p_value(counts_N, expected_N / expected_N.sum())


def deployed_blocks(build: Callable[[Block, TextAssets], BlockGenerator] = BlockGenerator) -> Check:
    """The same for block diffusion, whose blocks are written one after the other with a key-value cache."""
    options, home = Block(block=2), assets(VOCABULARY, LENGTH)
    generator, texts_NL = build(options, home), all_texts(VOCABULARY, LENGTH)
    network = seeded_network(
        MaskedObjective(options, home, block=2), Transformer(layers=2, heads=2, width=16, init="gpt2")
    ).double()
    sums = [float((-deployed_nats(generator, network, request, texts_NL)).exp().sum()) for request in REQUESTS.values()]
    worst = max(abs(total - 1) for total in sums)
    detail = f"|Σ exp(-deployed) - 1| ≤ {worst:.0e} over all {len(texts_NL)} texts for {len(sums)} requests"
    return Check("deployed-likelihood", "blocks", worst < 1e-9, detail)


def explained(build: BuildGenerator = MaskedGenerator) -> Check:
    """The log-probabilities that a sampler records of its own tokens sum to the deployed likelihood of its texts."""
    generator, network = build(Masked(), assets(VOCABULARY, LENGTH)), arbitrary_table(VOCABULARY, LENGTH)
    blank, worst = Canvas(torch.zeros(LENGTH, dtype=torch.int64), torch.zeros(LENGTH, dtype=torch.bool)), 0.0
    for plain in REQUESTS.values():
        request = replace(plain, canvas=blank, order="confidence", num=100, explain=True)
        samples = generator.generate(network, request, _draws(100), {})
        whole_NL = torch.zeros(100, LENGTH, dtype=torch.int64)
        for row, choices in enumerate(samples.choices):
            for choice in choices:
                whole_NL[row, choice.place] = choice.token
        deployed_N = -deployed_nats(generator, network, request, whole_NL)
        worst = max(worst, relative_error(torch.tensor(samples.log_probs, dtype=torch.float64), deployed_N))
    detail = f"Σ log p of the written tokens = -deployed for 100 texts of each request (difference {worst:.0e})"
    return Check("deployed-likelihood", "explained samples", worst < 1e-9, detail)


Reference = Callable[[Tensor], Tensor]
Gaps = Callable[[Tensor, Tensor], Tensor]


def _inconsistent() -> ToyTable:
    """Exact conditionals with errors: the orders of a text differ by a nat or two."""
    exact = Law(VOCABULARY, LENGTH).network().logits_MLV.detach()
    return ToyTable(exact + 0.9 * numbers("inconsistent", *exact.shape), VOCABULARY + 1)


def inside(
    build: Callable[[Masked, TextAssets], MaskedObjective] = MaskedObjective,
    reference: Reference = bracket.reference,
    gaps: Gaps = bracket.gaps,
) -> Check:
    """The exact likelihood of the any-order mixture lies between the bounds in every one of 100 seeds.

    Each seed draws for every text four times eight orders for the lower bound, and as many masks for the upper one.
    """
    network, texts_NL, home = _inconsistent(), all_texts(VOCABULARY, LENGTH), assets(VOCABULARY, LENGTH)
    log_p_ON = any_order_log_probs(network, VOCABULARY, texts_NL, tuple(range(LENGTH)))
    exact = math.log(len(log_p_ON)) - float(log_p_ON.logsumexp(dim=0).mean())
    objective = build(Masked(), home)
    draws, parts = _ORDERS * _COPIES, _COPIES * len(texts_NL)
    batch = windows_of(texts_NL.repeat_interleave(draws, dim=0), objective.end_of_text)
    bounds = []
    for seed in range(SEEDS):
        with torch.no_grad():
            task = objective.task(batch, replace(_draws(draws * len(texts_NL), seed), group=draws))
            upper = float(objective.loss(network, task, {}).total_B.double().mean())
        order_RP = _draws(_ORDERS, seed).randint("order", parts, high=len(log_p_ON))
        log_p_RP = log_p_ON.repeat(1, _COPIES).gather(0, order_RP)
        bounds.append((upper - float(gaps(log_p_RP, reference(log_p_RP)).mean()), upper))
    hits = sum(lower <= exact <= upper for lower, upper in bounds)
    mean_lower, mean_upper = (sum(each) / SEEDS for each in zip(*bounds, strict=True))
    same = _random_order(network, texts_NL, log_p_ON)
    detail = (
        f"{mean_lower:.4f} ≤ {exact:.4f} ≤ {mean_upper:.4f} nats a text: inside in {hits} of {SEEDS} seeds; the "
        f"sampler in random order is the chain rule (difference {same:.0e})"
    )
    return Check("bracket", "bounds on both sides", hits == SEEDS and same < 1e-12, detail)


def _random_order(network: nn.Module, texts_NL: Tensor, log_p_ON: Tensor) -> float:
    """The largest difference of what the sampler records in random order from the chain rule along that order."""
    generator, length = MaskedGenerator(Masked(), assets(VOCABULARY, LENGTH)), texts_NL.shape[1]
    ledger = generator.forced(network, MaskedRequest(order="random"), _open(texts_NL), _draws(len(texts_NL)), {})
    log_p_N = ledger.page("log_p_N", *texts_NL.shape).sum(dim=1)
    step_NL = torch.zeros_like(texts_NL)
    for each in ledger.entries:
        step_NL[each.rows_N, each.places_N] = each.step
    orders = list(itertools.permutations(range(length)))
    order_N = torch.tensor([orders.index(tuple(steps)) for steps in step_NL.argsort(dim=1).tolist()])
    return relative_error(log_p_N, log_p_ON.gather(0, order_N[None])[0])
