"""Text that is longer than the context: autoregressive models slide, diffusion models write window by window."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from tests.helpers import tiny_models
from tests.helpers.quick import slow_but
from torch import nn

from seedfast import keys
from seedfast.families.family import Family
from seedfast.families.text.autoregressive import Autoregressive, AutoregressiveGenerator
from seedfast.families.text.block_diffusion import Block
from seedfast.families.text.categorical import draw
from seedfast.families.text.causal_sampler import AutoregressiveRequest, continue_prompts
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.embedding import Embedding
from seedfast.families.text.masked import Masked
from seedfast.families.text.proofreading import Proofreading
from seedfast.families.text.request import Canvas
from seedfast.keys import Draws
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.sample import generate
from seedfast.models.causal_lm_network import CausalLMNetwork
from seedfast.models.transformer import Transformer
from seedfast.verify.identities.toys import assets

CONTEXT, WORDS = 8, 7
ASSETS = assets(WORDS, CONTEXT)
MODELS = {
    "rotary": Transformer(layers=2, heads=2, width=16),
    "learned positions": Transformer.gpt2(layers=2, heads=2, width=16),
}


def arbitrary(network: nn.Module) -> nn.Module:
    """The network with weights that all have an effect."""
    keys.seed_torch(0, "long text")
    with torch.no_grad():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.4)
    return network.eval()


def draws_of(rows: int) -> Draws:
    return Draws(seed=3, scope="sample", positions_B=torch.arange(rows), group=rows)


# ---- autoregressive models --------------------------------------------------------------------------------------


class Begun(AutoregressiveGenerator):
    """Every text is read after a beginning-of-text."""

    def begin(self, tokens: list[int]) -> list[int]:
        return [5, *tokens]


def causal(model: str) -> nn.Module:
    if model == "gpt2 of transformers":
        return arbitrary(
            CausalLMNetwork(
                tiny_models.model("gpt2", WORDS), causal=True, context=CONTEXT, gradient_checkpointing=False
            )
        )
    return arbitrary(MODELS[model].build(vocabulary=WORDS, context=CONTEXT, causal=True))


@torch.no_grad()
def sliding_window(
    generator: AutoregressiveGenerator, network: nn.Module, prompts: list[list[int]], count: int, *, halves: bool = True
) -> list[list[int]]:
    """The reference: each text by itself, every window read anew for each token."""
    texts = []
    for row, prompt in enumerate(prompts):
        text, window = list(prompt), generator.begin(list(prompt))
        for step in range(count):
            if len(window) > CONTEXT:
                window = generator.begin(text[-CONTEXT // 2 :] if halves else text[-CONTEXT + 1 :])
            logits_1V = network(torch.tensor([window]))[:, -1].double()
            u_1 = draws_of(len(prompts)).at(step).uniform("token", 1, dtype=torch.float64)[row]
            logits_1V[:, generator.end_of_text] = -torch.inf
            token = int(draw(logits_1V.softmax(-1), u_1))
            text, window = [*text, token], [*window, token]
        texts.append(text[len(prompt) :])
    return texts


PROMPTS = {"equal prompts": [[1, 2, 3]] * 3, "unequal prompts": [[], [1] * 7, [2, 3, 4, 1], [1, 2, 3] * 9]}


QUICK = {
    ("rotary", "equal prompts", AutoregressiveGenerator),
    ("learned positions", "unequal prompts", AutoregressiveGenerator),
    ("gpt2 of transformers", "unequal prompts", Begun),
}


@pytest.mark.parametrize(
    ("model", "prompts_named", "kind"),
    slow_but(QUICK, product((*MODELS, "gpt2 of transformers"), PROMPTS, (AutoregressiveGenerator, Begun))),
)
def test_generation_slides_by_half_a_context(
    model: str, prompts_named: str, kind: type[AutoregressiveGenerator]
) -> None:
    generator, network, prompts = kind(ASSETS), causal(model), PROMPTS[prompts_named]
    decoding = Decoding(network=network, request=AutoregressiveRequest(), draws=draws_of(len(prompts)))
    expected = sliding_window(generator, network, prompts, 30)
    for cached in (True, False):
        counts = [30] * len(prompts)
        assert continue_prompts(generator, decoding, prompts, counts, may_end=False, cached=cached) == expected
    twin = sliding_window(generator, network, prompts, 30, halves=False)
    assert twin != expected, "a window that moves by one token writes other texts"


# ---- diffusion models -------------------------------------------------------------------------------------------


def family(options: Any, **changes: Any) -> Family:
    return options.build(replace(assets(26, CONTEXT), **changes))  # most texts are long before they end


DIFFUSION = {
    "masked": family(Masked()),
    "block": family(Block(block=4)),
    "proofreading": family(Proofreading()),
    "embedding": family(Embedding(channels=4)),
    "embedding, prompts before the window": family(Embedding(channels=4), prompt=5),
}


FEW = {"embedding": {"steps": 4}, "proofreading": {"steps": 4, "passes": 4}}
"""Options of requests that would be slow without them."""


def continued(built: Family, prompt: list[int], tokens: int, rows: int, *, scope: str = "sample") -> list[list[int]]:
    """Texts that continue a prompt by so many tokens, with arbitrary weights."""
    network = arbitrary(built.objective.network(MODELS["rotary"]))
    generator: Any = built.generator
    options = next((few for module, few in FEW.items() if module in type(generator).__module__), {})
    decoding = Decoding(
        network=network,
        request=generator.Request(**options),
        draws=replace(draws_of(rows), scope=scope),
        state=built.initial_state(),
    )
    canvas = Canvas.of([(prompt, True), ([25] * tokens, False)])
    return generator.fill_any(decoding, [canvas] * rows)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", DIFFUSION)
def test_each_window_continues_the_end_of_the_text_before_it(name: str) -> None:
    built, prompt = DIFFUSION[name], [1, 2, 3]
    found = continued(built, prompt, 4 * CONTEXT, 24)
    row = max(range(24), key=lambda each: len(found[each]))
    text, number = prompt, 0
    while len(text) < len(prompt) + 4 * CONTEXT:
        scope = f"sample/window-{number}" if number else "sample"
        read, room = built.generator.window(len(text))  # type: ignore[union-attr]
        page = text[len(text) - read :]
        rest = len(prompt) + 4 * CONTEXT - len(text)
        new = continued(built, page, min(room, rest), 24, scope=scope)[row][len(page) :]
        text = text + new
        number += 1
        if len(new) < min(room, rest):
            break
    assert found[row] == text
    assert len(text) > len(prompt) + CONTEXT, "the longest text has several windows"
    assert all(each[:3] == prompt for each in found)


@pytest.mark.parametrize("name", DIFFUSION)
def test_a_long_text_does_not_depend_on_the_others(name: str) -> None:
    built = DIFFUSION[name]
    assert continued(built, [1, 2], 20, 6)[:2] == continued(built, [1, 2], 20, 2)


# ---- requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [Autoregressive(), Masked()], ids=["autoregressive", "masked"])
def test_a_prompt_longer_than_the_context_is_read_from_its_end(
    options: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    built = family(options)
    network = arbitrary(built.objective.network(MODELS["rotary"]))
    texts = {}
    for prompt in ("abcdef" * 4, "cdef"):
        request = built.generator.Request(prompt=(prompt,), tokens=20)  # type: ignore[union-attr]
        samples: Any = generate(
            built.generator,
            network,
            {},
            request,
            seed=1,
            distributed=DistributedContext.single("cpu", "fp32"),  # type: ignore[arg-type]
        )
        assert samples.texts[0].startswith(prompt)
        texts[prompt] = samples.written
        said = capsys.readouterr().err
        expected = (
            "The prompt has 24 tokens, too many for this model: it reads the last 4 of them." if len(prompt) > 4 else ""
        )
        assert said.strip() == expected
    first, second = texts.values()
    assert first == second if isinstance(options, Autoregressive) else len(first[0]) > 0
