"""Generation: tokens/s beside nanoGPT's sampling loop, and of masked diffusion by its number of network evaluations.

The reference is nanoGPT's model (LayerNorm, learned positions, GELU, tied embedding, no bias) and its sampling loop, in
our words: every token reads the last `context` tokens anew, takes the softmax of the last logits and draws with
`torch.multinomial`. seedfast has the same network. Each row alternates between both and prints medians of the rounds,
because other load on the machine slows both.

A context of 64 writes from one token until two contexts are full, so that most tokens have a whole context before
them, as in `nanoGPT/sample.py`; a context of 1024 writes a few tokens after a prompt that leaves room for them.

    python bench/generation.py [--rounds 5] [--context 64 1024] [--batch 1 16 64]
    python bench/generation.py --memory          peak memory of masked diffusion, vocabulary 50,000
"""

import resource
import statistics
import time
from collections.abc import Callable

import torch

from common import parse, parser
from nanogpt import HEADS, LAYERS, WIDTH, NanoGPT
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Characters
from seedfast.families.text.autoregressive import AutoregressiveGenerator
from seedfast.families.text.causal_sampler import AutoregressiveRequest, continue_prompts
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.masked import Masked, MaskedGenerator
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_policy import MaskedRequest
from seedfast.keys import Draws
from seedfast.models.transformer import Transformer

VOCABULARY = 65


def assets(context: int) -> TextAssets:
    """Assets of a text of 64 letters and end-of-text."""
    letters = "".join(chr(48 + n) for n in range(VOCABULARY - 1))
    return TextAssets(Characters(letters), context, validation_tokens=1, validation_bytes=1)


def draws_of(batch: int) -> Draws:
    """Random streams of a batch."""
    return Draws(seed=1, scope="sample", positions_B=torch.arange(batch), group=batch)


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def autoregressive(context: int, batch: int, rounds: int) -> None:
    """One row of the table, the same network and the recipes' own network beside nanoGPT's loop."""
    count = 2 * context if context <= 64 else 32
    prompt = 1 if context <= 64 else context - count
    tokens = torch.randint(0, VOCABULARY - 1, (batch, prompt))
    plain = NanoGPT(context, VOCABULARY).eval()
    kinds = {
        "same network": Transformer.gpt2(layers=LAYERS, heads=HEADS, width=WIDTH, bias=False, mlp="gelu-erf"),
        "default network": Transformer(layers=LAYERS, heads=HEADS, width=WIDTH),
    }
    generator = AutoregressiveGenerator(assets(context))
    work: dict[str, Callable[[], object]] = {"nanoGPT": lambda: plain.generate(tokens, count)}
    for name, config in kinds.items():
        network = config.build(vocabulary=VOCABULARY, context=context, causal=True).eval()
        decoding = Decoding(network=network, request=AutoregressiveRequest(num=batch), draws=draws_of(batch))
        work[name] = lambda decoding=decoding: continue_prompts(  # type: ignore[misc]
            generator, decoding, tokens.tolist(), [count] * batch, may_end=False
        )
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, each in work.items():
            found[name].append(seconds(each))
    cells = {name: batch * count / statistics.median(times) for name, times in found.items()}
    ratios = {
        name: statistics.median(p / t for p, t in zip(found["nanoGPT"], times, strict=True))
        for name, times in found.items()
    }
    row = "".join(f"{cells[name]:12.0f}{f' ({ratios[name]:.1f}×)':<9}" for name in work)
    print(f"{context:7} {batch:5} {row}", flush=True)


def masked(context: int, batch: int, rounds: int) -> None:
    """Masked diffusion: tokens/s of a whole context by the number of network evaluations, beside the same shape of
    network writing it token by token with a cache."""
    shape = Transformer(layers=LAYERS, heads=HEADS, width=WIDTH)
    causal = shape.build(vocabulary=VOCABULARY, context=context, causal=True).eval()
    network = shape.build(vocabulary=VOCABULARY + 1, outputs=VOCABULARY, context=context, causal=False).eval()
    generator, draws = MaskedGenerator(Masked(), assets(context)), draws_of(batch)
    blank = Canvas(torch.zeros(context, dtype=torch.int64), torch.zeros(context, dtype=torch.bool))
    by_token = Decoding(network=causal, request=AutoregressiveRequest(num=batch), draws=draws)
    work: dict[int, Callable[[], object]] = {
        context: lambda: continue_prompts(
            AutoregressiveGenerator(assets(context)), by_token, [[0]] * batch, [context] * batch, may_end=False
        )
    }
    for steps in (4, 8, 16, 32, 64):
        decoding = Decoding(network=network, request=MaskedRequest(num=batch, steps=steps), draws=draws)
        work[-steps] = lambda decoding=decoding: generator.fill(decoding, [blank] * batch)  # type: ignore[misc]
    found: dict[int, list[float]] = {steps: [] for steps in work}
    for _ in range(rounds):
        for steps, each in work.items():
            found[steps].append(seconds(each))
    cells = []
    for times in found.values():
        ratio = statistics.median(token / each for token, each in zip(found[context], times, strict=True))
        cells.append(f"{batch * context / statistics.median(times):8.0f} ({ratio:.2f}×)")
    print(f"{context:7} {batch:5} " + "".join(f"{cell:>18}" for cell in cells), flush=True)


def memory(vocabulary: int = 50_000, context: int = 256, batch: int = 4) -> None:
    """Peak memory of masked sampling beyond what is there before it."""
    network = Transformer(layers=1, heads=2, width=32).build(
        vocabulary=vocabulary + 1, outputs=vocabulary, context=context, causal=False
    )
    letters = "".join(chr(0x4E00 + n) for n in range(20_000)) + "".join(
        chr(0x20000 + n) for n in range(vocabulary - 20_001)
    )
    generator = MaskedGenerator(
        Masked(), TextAssets(Characters(letters), context, validation_tokens=1, validation_bytes=1)
    )
    blank = Canvas(torch.zeros(context, dtype=torch.int64), torch.zeros(context, dtype=torch.bool))
    for order in ("random", "confidence"):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        request = MaskedRequest(num=batch, steps=4, order=order)  # type: ignore[arg-type]
        generator.fill(Decoding(network=network.eval(), request=request, draws=draws_of(batch)), [blank] * batch)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"masked, order {order}: peak {peak / 1024:.0f} MiB, {(peak - before) / 1024:.0f} MiB more than before")


if __name__ == "__main__":
    made = parser(__doc__, threads=2)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--context", type=int, nargs="*", default=[64, 1024])
    made.add_argument("--batch", type=int, nargs="*", default=[1, 16, 64])
    made.add_argument("--masked", action="store_true", help="masked diffusion alone")
    made.add_argument("--memory", action="store_true", help="measure peak memory instead of speed")
    options = parse(made)
    torch.manual_seed(0)
    if options.memory:
        memory()
        raise SystemExit
    if not options.masked:
        print("context batch   tokens/s:    nanoGPT           same network         default network")
        for context in options.context:
            for batch in options.batch:
                autoregressive(context, batch, options.rounds)
    print(
        "context batch   tokens/s: token by token" + "".join(f"{n} evaluations".rjust(18) for n in (4, 8, 16, 32, 64))
    )
    for context in options.context:
        for batch in options.batch:
            masked(context, batch, options.rounds)
