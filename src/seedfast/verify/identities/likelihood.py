"""Next-token losses, bits per byte, languages of known entropy, packed documents.

See docs/identities.md#autoregressive, #bits-per-byte, #known-entropy and #packing.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seedfast.data.dataset import Corpus, Dataset, Fingerprint
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Bytes
from seedfast.data.text.windows import Windows
from seedfast.families.text.autoregressive import (
    Autoregressive,
    AutoregressiveGenerator,
    AutoregressiveObjective,
    NextTokenTask,
)
from seedfast.families.text.base import TextObjective
from seedfast.families.text.causal_sampler import AutoregressiveRequest, continue_prompts
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.masked import Masked, MaskedObjective
from seedfast.keys import Draws
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.validate import Score, validate
from seedfast.models.transformer import Transformer
from seedfast.verify.identities.check import ROUNDING, Check, relative_error
from seedfast.verify.identities.masked import Build
from seedfast.verify.identities.sources import (
    Answer,
    CausalSource,
    Copy,
    Markov,
    SecondOrder,
    Source,
    Tokens,
    Zipf,
    blurred,
)
from seedfast.verify.identities.toys import IndependentWindows, all_texts, arbitrary_history, assets, windows_of

BuildCausal = Callable[[Autoregressive, TextAssets], AutoregressiveObjective]
BuildWindows = Callable[[Tokens, int], Windows]
_LIKELY = 40.0  # a logit whose symbol is e^40 times as likely as the others
_TEXT = "Ünïcödé, 数学 and 🙂: a byte is no character.\n" * 3


def _draws(rows: int) -> Draws:
    return Draws(seed=0, scope="identity", positions_B=torch.arange(rows))


def next_token_loss(build: BuildCausal = AutoregressiveObjective) -> Check:
    """The loss is the explicit Σ -log q(x_i | x_<i), shifted exactly once.

    A network that copies its input must have a loss, one that knows the successor must not. A loss without a shift
    rewards the first network, one with two shifts neither.
    """
    vocabulary, length = 3, 4
    objective, texts_NL = build(Autoregressive(), assets(vocabulary, length)), all_texts(vocabulary, length)
    scored_L = torch.tensor([False, True, True, True])
    differences = []
    network = arbitrary_history(vocabulary, length)
    for scored in (torch.ones(length, dtype=torch.bool), scored_L):
        task = objective.task(windows_of(texts_NL, objective.end_of_text, scored), _draws(len(texts_NL)))
        by_hand_N = _chain_rule(network, windows_of(texts_NL, objective.end_of_text)["tokens"], scored)
        differences.append(relative_error(objective.loss(network, task, {}).total_B, by_hand_N))
    cycle_BL = (torch.arange(vocabulary)[:, None] + torch.arange(length + 1)) % vocabulary
    task = objective.task({"tokens": cycle_BL, "scored": torch.ones_like(cycle_BL[:, 1:]).bool()}, _draws(vocabulary))
    copies = Answer(lambda tokens_BL: _LIKELY * nn.functional.one_hot(tokens_BL, vocabulary).double())
    knows = Answer(lambda tokens_BL: _LIKELY * nn.functional.one_hot((tokens_BL + 1) % vocabulary, vocabulary).double())
    paid, spared = (float(objective.loss(each, task, {}).total_B.min()) / length for each in (copies, knows))
    holds = max(differences) < ROUNDING and paid > _LIKELY / 2 and spared < ROUNDING
    detail = (
        f"differs from the chain rule by {max(differences):.0e}; on a cycle a copying network pays {paid:.1f} nats per "
        f"token and one that knows the successor {spared:.1f}"
    )
    return Check("autoregressive", "next-token loss", holds, detail)


def _chain_rule(network: nn.Module, tokens_NL: Tensor, scored_L: Tensor) -> Tensor:
    total_N = torch.zeros(len(tokens_NL), dtype=torch.float64)
    for i in range(1, tokens_NL.shape[1]):
        log_q_NV = network(tokens_NL[:, :i])[:, -1].log_softmax(dim=-1).detach()
        total_N -= log_q_NV.gather(1, tokens_NL[:, i, None])[:, 0] * bool(scored_L[i - 1])
    return total_N


def windows_score_once(windows: BuildWindows = Windows) -> Check:
    """Windows score every token but the first exactly once, each after the token that precedes it."""
    cases, wrong = 0, []
    for targets in (1, 2, 7, 8, 9, 16, 17, 100):
        for context in (length for length in (1, 2, 3, 4, 8, 16, 100) if length <= targets):
            data = windows(np.arange(targets + 1, dtype=np.uint16), context)
            batch = data.batch(list(range(len(data))))
            scored_BL, tokens_BL = batch["scored"], batch["tokens"]
            once = torch.equal(tokens_BL[:, 1:][scored_BL].sort().values, torch.arange(1, targets + 1))
            cases += 1
            if not once or not torch.equal(tokens_BL[:, 1:], tokens_BL[:, :-1] + 1):
                wrong.append(f"{targets} targets in windows of {context}")
    detail = f"NOT for {', '.join(wrong)}" if wrong else f"each token once, in {cases} sizes of text and window"
    return Check("autoregressive", "windows cover the text", not wrong, detail)


def context_only_helps(build: BuildCausal = AutoregressiveObjective, windows: BuildWindows = Windows) -> Check:
    """With exact conditionals the expected loss with full context is never above that of shorter windows.

    Checked on all texts of a chain of order 2, weighted by their probabilities; both ends have a closed form.
    """
    source, targets = SecondOrder(), 5
    texts_NL = all_texts(source.vocabulary, targets + 1)
    probability_N = source.pairs[texts_NL[:, 0], texts_NL[:, 1]]
    for i in range(2, targets + 1):
        probability_N = probability_N * source.transition[texts_NL[:, i - 2], texts_NL[:, i - 1], texts_NL[:, i]]
    expected: dict[int, float] = {}
    counted = set()
    for context in (1, 2, 3, targets):
        objective = build(Autoregressive(), assets(source.vocabulary, context))
        each = [windows(text, context) for text in texts_NL.numpy().astype(np.uint16)]
        batches = [data.batch(list(range(len(data)))) for data in each]
        batch = {name: torch.cat([part[name] for part in batches]) for name in batches[0]}
        task = objective.task(batch, _draws(len(batch["tokens"])))
        total_N = objective.loss(source.causal(), task, {}).total_B.double().view(len(texts_NL), -1).sum(dim=1)
        counted.add(float(task.weight_B.sum()) / len(texts_NL))
        expected[context] = float((total_N * probability_N).sum()) / targets
    difference = max(
        relative_error(expected[1], source.short_rate),
        relative_error(expected[targets], source.causal_entropy(targets)),
    )
    best = expected[targets]
    holds = difference < ROUNDING and counted == {targets} and all(best <= e + ROUNDING for e in expected.values())
    losses = ", ".join(f"{loss:.4f} (context {context})" for context, loss in expected.items())
    return Check(
        "autoregressive",
        "context only helps",
        holds,
        f"{losses} nats per token; the ends differ from theory by {difference:.0e}",
    )


def small_transformer() -> nn.Module:
    """A causal transformer with arbitrary weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Transformer(layers=2, heads=2, width=16).build(vocabulary=7, context=16, causal=True)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5)
    return network.eval()


def cached_generation(
    network: Callable[[], nn.Module] = small_transformer,
    sampler: Callable[..., list[list[int]]] = continue_prompts,
) -> Check:
    """Generation with a key-value cache yields the same tokens as without, for prompts of unequal lengths too."""
    generator = AutoregressiveGenerator(assets(7, 16))
    decoding = Decoding(network=network(), request=AutoregressiveRequest(), draws=_draws(8))
    cases: dict[str, list[list[int]]] = {
        "equal prompts": [[1, 2, 3]] * 8,
        "no prompts": [[]] * 8,
        "unequal prompts": [[n % 6] * (n % 5) for n in range(8)],
    }
    different = []
    for name, prompts in cases.items():
        counts = [10 - n % 3 for n in range(8)]
        one, other = (sampler(generator, decoding, prompts, counts, cached=cached) for cached in (True, False))
        if one != other:
            different.append(name)
    detail = f"NOT for {', '.join(different)}" if different else f"the same tokens for {', '.join(cases)}"
    return Check("autoregressive", "cached generation = uncached", not different, detail)


def byte_corpus(text: str = _TEXT) -> Corpus:
    """A text as validation split, in bytes."""
    tokenizer = Bytes()
    stream = np.array([tokenizer.end_of_text, *tokenizer.encode(text)], np.uint16)
    split = Windows(stream, 16)
    return Corpus(
        train=split,
        validation=split,
        assets=TextAssets(tokenizer, 16, validation_tokens=len(stream) - 1, validation_bytes=len(text.encode())),
        fingerprint=Fingerprint(""),
    )


@torch.no_grad()
def packing(
    build: BuildCausal = AutoregressiveObjective, network: Callable[[], nn.Module] = small_transformer
) -> Check:
    """Of two documents in a window, permuting one changes no logit of the other; the losses are those of each alone."""
    objective, built = build(Autoregressive(document_mask=True), assets(7, 16)), network()
    one, permuted, other = [0, 3, 1, 4], [4, 1, 0, 3], [2, 5, 2, 0, 1]

    def packed(*documents: list[int]) -> NextTokenTask:
        tokens_1L = torch.tensor([[token for each in documents for token in (*each, objective.end_of_text)]])
        return objective.task(windows_of(tokens_1L, objective.end_of_text), _draws(1))

    def logits(task: NextTokenTask) -> Tensor:
        answer: Tensor = built(task.inputs_BL, documents_BL=task.documents_BL)
        return answer[:, len(one) + 1 :]

    moved = float((logits(packed(one, other)) - logits(packed(permuted, other))).abs().max())
    together, *alone = (objective.loss(built, packed(*each), {}).total_B for each in ([one, other], [one], [other]))
    difference = relative_error(together, sum(alone))
    detail = f"the other document's logits change by {moved}; packed and unpacked losses differ by {difference:.0e}"
    return Check("packing", "packing", moved == 0 and difference < 1e-5, detail)


def bits_per_byte(
    build: BuildCausal = AutoregressiveObjective, corpus: Corpus | None = None, text: str = _TEXT
) -> Check:
    """Bits per byte = nats of all scored tokens / (ln 2 · UTF-8 bytes of the raw text); uniform bytes cost 8.

    corpus: its validation split is `text`, in bytes. Its scored tokens must decode to the text, byte for byte.
    """
    corpus = corpus or byte_corpus()
    split = corpus.validation
    objective = build(Autoregressive(), corpus.assets)
    batch = split.batch(list(range(len(split))))
    decoded = corpus.assets.tokenizer.decode(batch["tokens"][:, 1:][batch["scored"]].numpy())
    uniform = Answer(lambda tokens_BL: torch.zeros(*tokens_BL.shape, 257).index_fill(2, torch.tensor(256), -torch.inf))
    bits = _validated(objective, uniform, split).loss * objective.measure.conversions["bits_per_byte"]
    holds = decoded == text and relative_error(bits, 8.0) < ROUNDING
    size = len(text.encode())
    detail = (
        f"uniform bytes cost {bits:.6f} bits on {len(text)} characters in {size} bytes; round trip {decoded == text}"
    )
    return Check("bits-per-byte", "bits per byte", holds, detail)


def _validated(objective: TextObjective[Any], network: nn.Module, split: Dataset) -> Score:
    return validate(
        objective,
        network,
        {},
        split,
        range(len(split)),
        seed=0,
        batch_size=512,
        draws=objective.measure.draws or 1,
        distributed=DistributedContext(torch.device("cpu")),
    )


_LENGTH, _WINDOWS = 16, 600


def known_entropy_causal(build: BuildCausal = AutoregressiveObjective) -> Check:
    """The exact model's held-out loss is the entropy of a known language; no other model's is below it.

    Both within the standard error of validation, which is checked too: for independent symbols it has a closed form.
    """
    sources: Sequence[CausalSource] = (Zipf(), Markov(), SecondOrder(), Copy())
    results = []
    for source in sources:
        objective = build(Autoregressive(), assets(source.vocabulary, _LENGTH))
        split = Windows(source.tokens(_WINDOWS * _LENGTH, _LENGTH), _LENGTH)
        results.append(_never_below(source.name, objective, source.causal(), split, source.causal_entropy(_LENGTH)))
    zipf = Zipf()
    objective = build(Autoregressive(), assets(zipf.vocabulary, _LENGTH))
    split = IndependentWindows(zipf.tokens(_WINDOWS * _LENGTH, _LENGTH), _LENGTH)
    surprise_V = -zipf.probabilities.log()
    variance = float((zipf.probabilities * (surprise_V - zipf.causal_entropy(1)).square()).sum())
    ratio = _validated(objective, zipf.causal(), split).standard_error / math.sqrt(variance / split.targets)
    # The relative error of a standard error estimated from n windows is 1 / sqrt(2 n), here 3 percent.
    holds = all(holds for holds, _ in results) and abs(ratio - 1) < 4 / math.sqrt(2 * _WINDOWS)
    detail = "; ".join(detail for _, detail in results)
    return Check(
        "known-entropy", "known entropy, autoregressive", holds, f"{detail}; standard error / theory = {ratio:.3f}"
    )


def known_entropy_masked(build: Build = MaskedObjective) -> Check:
    """With exact conditionals the masked bound is tight, so the same holds; its windows do not use their past."""
    sources: Sequence[Source] = (Zipf(), Markov(), Copy())
    results = []
    for source in sources:
        objective = build(Masked(), assets(source.vocabulary, _LENGTH))
        split = Windows(source.tokens(_WINDOWS * _LENGTH, _LENGTH), _LENGTH)
        results.append(
            _never_below(source.name, objective, source.bidirectional(), split, source.window_entropy(_LENGTH))
        )
    detail = "; ".join(detail for _, detail in results)
    return Check("known-entropy", "known entropy, masked", all(holds for holds, _ in results), detail)


def _never_below(
    name: str, objective: TextObjective[Any], exact: nn.Module, split: Windows, entropy: float
) -> tuple[bool, str]:
    uniform = Answer(lambda tokens_BL: torch.zeros(*tokens_BL.shape, objective.vocabulary))
    score = _validated(objective, exact, split)
    others = [_validated(objective, other, split) for other in (blurred(exact, 0.1), blurred(exact, 0.5), uniform)]
    near = abs(score.loss - entropy) < 4 * score.standard_error + ROUNDING
    above = all(other.loss > entropy - 4 * other.standard_error - ROUNDING for other in others)
    least = min(other.loss for other in others)
    return (
        near and above,
        f"{name} {entropy:.4f} nats: exact {score.loss:.4f} ± {score.standard_error:.4f}, others from {least:.4f}",
    )
