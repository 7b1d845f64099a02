"""Caption metrics (docs/identities.md#cider) and beam search (docs/identities.md#beam) in closed form."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from seedfast import keys
from seedfast.families.caption.beam_search import Hypothesis, NextLogits, beam_search, length_penalty
from seedfast.families.caption.metrics import BleuCounts, Frequencies, Words, cider, rouge_l, words
from seedfast.models.transformer import Transformer
from seedfast.models.transformer_network import TransformerNetwork
from seedfast.verify.identities.check import Check, relative_error

Cider = Callable[[Words, Sequence[Words], Frequencies], float]
Bleu = Callable[[Sequence[tuple[Words, Sequence[Words]]]], Sequence[float]]
Search = Callable[..., list[list[Hypothesis]]]
_ALPHAS = (0.0, 0.7, 2.0)
_MISLEADING = 6  # the seed of a tree in which the greedy text is not the likeliest


def cider_by_hand(metric: Cider = cider) -> Check:
    """CIDEr-D of captions whose value is known by hand."""
    one, other = words("a dog runs over the grass"), words("two people sit on benches")
    corpus, small = Frequencies.of([[one], [other]]), Frequencies.of([[["dog"]], [["cat"]]])
    a_word_more = math.exp(-1 / 72)  # the penalty for another length, with σ = 6
    cases = {
        "one image": (metric(one, [one], Frequencies.of([[one]])), 0.0),  # every n-gram is in all images: idf 0
        "itself": (metric(one, [one], corpus), 10.0),
        "another image's": (metric(other, [one], corpus), 0.0),
        # One n-gram of each order is in no reference: the cosines by hand.
        "a word more": (
            metric([*one, "zebra"], [one], corpus),
            10 * a_word_more * sum(math.sqrt((7 - n) / (8 - n)) for n in range(1, 5)) / 4,
        ),
        # Clipping: a repeated word counts once if the reference has it once.
        "a word twice": (metric(["dog", "dog"], [["dog"]], small), 10 * a_word_more / 2 / 4),
        # A caption of three words has no 4-grams: three orders of four.
        "three words": (metric(one[:3], [one[:3]], corpus), 7.5),
        # Equal to one of two references.
        "two references": (metric(one, [one, other], corpus), 5.0),
    }
    wrong = {name: relative_error(value, expected) for name, (value, expected) in cases.items()}
    detail = f"{len(cases)} values by hand (largest difference {max(wrong.values()):.0e})"
    return Check("cider", "CIDEr-D", max(wrong.values()) < 1e-12, detail)


def corpus_bleu(pairs: Sequence[tuple[Words, Sequence[Words]]]) -> Sequence[float]:
    """BLEU-1 … 4 of a corpus, as `seedfast captions` computes it."""
    counts = [BleuCounts.of(*pair) for pair in pairs]
    return sum(counts[1:], counts[0]).scores()


def bleu_and_rouge_by_hand(
    bleu: Bleu = corpus_bleu, rouge: Callable[[Words, Sequence[Words]], float] = rouge_l
) -> Check:
    """BLEU of a corpus from its summed, clipped counts with one brevity penalty; ROUGE-L by hand."""
    whole, part = (words("a b c d"), [words("a b c d")]), (words("a c"), [words("a b c d e f")])
    repeated = (words("the the the the"), [words("the cat sat here")])
    cases = [
        *((value, 1.0) for value in bleu([whole])),
        (bleu([whole, part])[0], math.exp(1 - 10 / 6)),  # six words, all matched, and ten in the references
        (bleu([whole, part])[1], math.exp(1 - 10 / 6) * math.sqrt(3 / 4)),  # "a c" is not a bigram of its reference
        (bleu([repeated])[0], 1 / 4),
        # "a c" is the longest common subsequence: precision 2/4, recall 2/3, β = 1.2.
        (rouge(words("a b c d"), [words("a c e")]), (1 + 1.44) / (1.44 / (2 / 3) + 1 / (2 / 4))),
        (rouge(words("a b"), [words("b a"), words("a b")]), 1.0),
    ]
    worst = max(relative_error(value, expected) for value, expected in cases)
    # The reference implementation adds 1e-9 to counts that may be zero.
    detail = f"{len(cases)} values by hand (largest difference {worst:.0e})"
    return Check("cider", "BLEU and ROUGE-L", worst < 1e-7, detail)


@cache
def _conditionals(seed: int, problem: int, prefix: tuple[int, ...]) -> Tensor:
    key = keys.derive(seed, "tree", problem, *prefix)
    return 1.5 * keys.normal(key, torch.zeros(1, dtype=torch.int64), Tree.symbols)[0].double()


class Tree:
    """Arbitrary conditional distributions after every prefix, a different tree for each problem."""

    symbols, length, end, start = 4, 4, 0, 1

    def __init__(self, problems: int, seed: int = 0) -> None:
        self.seed = seed
        self.rows: list[tuple[int, tuple[int, ...]]] = [(row, ()) for row in range(problems)]

    def logits(self, problem: int, prefix: tuple[int, ...]) -> Tensor:
        """The next token's logits after a prefix, float64 [V]."""
        return _conditionals(self.seed, problem, prefix)

    def next_logits(self, rows_N: Tensor, tokens_N: Tensor) -> Tensor:
        """The `NextLogits` of the trees."""
        pairs = zip(rows_N.tolist(), tokens_N.tolist(), strict=True)
        self.rows = [(self.rows[row][0], (*self.rows[row][1], token)) for row, token in pairs]
        return torch.stack([self.logits(problem, prefix) for problem, prefix in self.rows])

    def search(self, search: Search = beam_search, *, problems: int = 1, **options: object) -> list[list[Hypothesis]]:
        """The result of a search in this number of trees."""
        start_B = torch.full((problems,), self.start)
        return search(self.next_logits, start_B=start_B, end=self.end, length=self.length, **options)

    def log_p(self, problem: int, tokens: tuple[int, ...]) -> float:
        """The log-probability of a text."""
        prefix: tuple[int, ...] = (self.start,)
        total = 0.0
        for token in tokens:
            total += float(self.logits(problem, prefix).log_softmax(0)[token])
            prefix = (*prefix, token)
        return total

    def texts(self) -> list[tuple[int, ...]]:
        """Every text that a search can return: up to the first end, or of the full length."""
        others = range(1, self.symbols)
        finished = [(*each, self.end) for n in range(self.length) for each in itertools.product(others, repeat=n)]
        return [*itertools.product(others, repeat=self.length), *finished]

    def greedy(self, problem: int = 0) -> tuple[int, ...]:
        """The greedy text: the likeliest token at each step."""
        text: tuple[int, ...] = ()
        while len(text) < self.length and self.end not in text:
            text = (*text, int(self.logits(problem, (self.start, *text)).argmax()))
        return text

    def with_end(self, found: Hypothesis) -> tuple[int, ...]:
        """A hypothesis as one of `texts`."""
        return (*found.tokens, self.end) if found.finished else tuple(found.tokens)


def greedy_search(search: Search = beam_search) -> Check:
    """One beam is greedy decoding with any length penalty, and problems do not affect each other."""
    different = 0
    for seed, alpha in itertools.product(range(8), _ALPHAS):
        tree = Tree(3, seed)
        for problem, (only,) in enumerate(tree.search(search, problems=3, beams=1, alpha=alpha)):
            different += tree.with_end(only) != tree.greedy(problem)
    return Check(
        "beam", "one beam", not different, f"{different} of {24 * len(_ALPHAS)} captions differ from greedy ones"
    )


def exhaustive_search(search: Search = beam_search) -> Check:
    """With as many beams as prefixes the search finds every text with its own probability, the best first.

    This holds only if finished beams stay unchanged.
    """
    tree, error, ordered = Tree(1, _MISLEADING), 0.0, True
    everything = {text: tree.log_p(0, text) for text in tree.texts()}
    total = sum(map(math.exp, everything.values()))
    for alpha in _ALPHAS:
        (found,) = Tree(1, _MISLEADING).search(search, beams=tree.symbols**tree.length, alpha=alpha)
        values = {tree.with_end(each): each.log_probability for each in found}
        error = max([error, *(abs(values.get(text, math.inf) - value) for text, value in everything.items())])
        ranks = {text: value / length_penalty(len(text), alpha) for text, value in everything.items()}
        ordered &= [tree.with_end(each) for each in found] == sorted(ranks, key=lambda text: -ranks[text])
    best = max(everything.values()) - everything[tree.greedy()]
    detail = (
        f"all {len(everything)} texts, Σ p = {total:.6f}, with their own probabilities (largest difference "
        f"{error:.0e}) and in order; the best is {best:.2f} nats likelier than the greedy one"
    )
    return Check("beam", "exhaustive beam", error < 1e-9 and ordered and abs(total - 1) < 1e-9, detail)


def arbitrary_captioner() -> TransformerNetwork:
    """A decoder with arbitrary weights and cross-attention to a memory."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = Transformer(layers=2, heads=2, width=16, init="gpt2").build(
            vocabulary=7, context=12, causal=True, memory_width=6
        )
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5)
    return network.eval()


def cached(network: TransformerNetwork, memory_BMD: Tensor) -> NextLogits:
    """Logits with a key-value cache: one new position for each call."""
    past, started = network.cache(len(memory_BMD)), False

    def next_logits(rows_N: Tensor, tokens_N: Tensor) -> Tensor:
        nonlocal started
        if started:
            past.select(rows_N)
        memory, started = (None if started else memory_BMD), True
        answer: Tensor = network(tokens_N[:, None], memory_BMD=memory, cache=past)
        return answer[:, -1]

    return next_logits


def uncached(network: TransformerNetwork, memory_BMD: Tensor) -> NextLogits:
    """Logits without a cache: all positions for each call."""
    tokens_NL, memory = torch.empty(len(memory_BMD), 0, dtype=torch.int64), memory_BMD

    def next_logits(rows_N: Tensor, tokens_N: Tensor) -> Tensor:
        nonlocal tokens_NL, memory
        tokens_NL, memory = torch.cat([tokens_NL[rows_N], tokens_N[:, None]], dim=1), memory[rows_N]
        answer: Tensor = network(tokens_NL, memory_BMD=memory)
        return answer[:, -1]

    return next_logits


@torch.no_grad()
def cached_search(make: Callable[[TransformerNetwork, Tensor], NextLogits] = cached) -> Check:
    """A search with a cache, whose rows are reordered with the beams, equals a search without."""
    network, memory_BMD = arbitrary_captioner(), keys.normal(1, torch.arange(3), 5, 6)
    same, error = True, 0.0
    for beams in (1, 4):
        options = {"start_B": torch.tensor([6, 6, 6]), "end": 6, "beams": beams, "length": 12, "alpha": 0.6}
        one, other = (beam_search(each(network, memory_BMD), **options) for each in (make, uncached))  # type: ignore[arg-type]
        pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
        same &= all(a.tokens == b.tokens for a, b in pairs)
        error = max([error, *(abs(a.score - b.score) for a, b in pairs)])
    detail = f"{'the same' if same else 'NOT the same'} captions (largest difference of scores {error:.0e})"
    return Check("beam", "cached beam", same and error < 1e-5, detail)
