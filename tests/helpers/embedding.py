"""Small embedding diffusion models: eight letters, windows of twelve tokens."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from seedfast import keys
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Characters
from seedfast.families.family import Family
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.embedding import Embedding, EmbeddingGenerator, EmbeddingNetwork, EmbeddingObjective
from seedfast.families.text.embedding.sampling import EmbeddingRequest
from seedfast.families.text.request import Canvas
from seedfast.keys import Draws
from seedfast.models.transformer import Transformer

LENGTH, LETTERS = 12, "abcdefgh"


def small_family(prompt: int = 0, padded: bool = False, **options: Any) -> Family:
    """The family with these options. prompt: tokens before a window. padded: whether windows hold one document each."""
    assets = TextAssets(
        Characters(LETTERS),
        LENGTH,
        validation_tokens=1,
        validation_bytes=1,
        prompt=prompt,
        one_document_per_window=padded,
    )
    return Embedding(**{"channels": 8, **options}).build(assets)


def small_objective(prompt: int = 0, padded: bool = False, **options: Any) -> EmbeddingObjective:
    """Its objective, as validation uses it."""
    return cast("EmbeddingObjective", small_family(prompt, padded, **options).objective)


def small_generator(prompt: int = 0, padded: bool = False, **options: Any) -> EmbeddingGenerator:
    """Its generator."""
    return cast("EmbeddingGenerator", small_family(prompt, padded, **options).generator)


def new_network(objective: EmbeddingObjective, layers: int = 1) -> EmbeddingNetwork:
    """A network as training starts with it."""
    keys.seed_torch(0, "test")
    return cast("EmbeddingNetwork", objective.network(Transformer(layers=layers, heads=2, width=16)))


def random_network(objective: EmbeddingObjective) -> EmbeddingNetwork:
    """A network in which every weight has an effect: those that start at zero are drawn too."""
    network = new_network(objective, layers=2).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)
    return network


def draws_of(count: int, scope: str = "x") -> Draws:
    """Draws of one global batch."""
    return Draws(seed=1, scope=scope, positions_B=torch.arange(count), group=count)


def random_batch(count: int, prompt: int = 0, padded: bool = False) -> dict[str, Tensor]:
    """Random texts, with prompts and windows of random lengths."""
    tokens_BL = draws_of(count, "text").randint("tokens", LENGTH + 1, high=len(LETTERS) + 1)
    batch = {"tokens": tokens_BL, "scored": torch.ones(count, LENGTH, dtype=torch.bool)}
    if padded:
        real_BL = torch.arange(LENGTH) < draws_of(count, "size").randint("size", 1, high=LENGTH) + 1
        batch |= {"scored": real_BL, "real": real_BL}
    if prompt:
        real_BP = torch.arange(prompt) >= draws_of(count, "real").randint("real", 1, high=prompt + 1)
        batch |= {"prompt": draws_of(count, "before").randint("p", prompt, high=len(LETTERS)), "prompt_real": real_BP}
    return batch


def regular_batch(count: int, prompt: int = 0) -> dict[str, Tensor]:
    """Texts that a network can learn: the alphabet, repeated from a random letter on. Their prompts are absent."""
    tokens_BL = (draws_of(count, "text").randint("first", 1, high=8) + torch.arange(LENGTH + 1)) % 8
    batch = {"tokens": tokens_BL, "scored": torch.ones(count, LENGTH, dtype=torch.bool)}
    absent_BP = torch.zeros(count, prompt, dtype=torch.bool)
    return batch | ({"prompt": absent_BP.long(), "prompt_real": absent_BP} if prompt else {})


def canvas_of(text: str) -> Canvas:
    """A canvas whose dots are open positions."""
    tokens = [max(0, LETTERS.find(letter)) for letter in text]
    return Canvas(torch.tensor(tokens), torch.tensor([letter != "." for letter in text]))


def fill_texts(family: Family, texts: list[str], **options: Any) -> list[str]:
    """The texts with their dots filled by a random network, in six steps unless the options say otherwise."""
    generator = cast("EmbeddingGenerator", family.generator)
    network = random_network(cast("EmbeddingObjective", family.objective))
    request = EmbeddingRequest(**{"steps": 6, **options})
    decoding = Decoding(network=network, request=request, draws=draws_of(len(texts), "sample"))
    filled = generator.fill(decoding, [canvas_of(text) for text in texts])
    return [generator.assets.tokenizer.decode(tokens) for tokens in filled]


def write_files(folder: Path, count: int = 30) -> Path:
    """Source files of different lengths in which no line occurs twice."""
    folder.mkdir()
    for number in range(count):
        lines = [f"x{number}_{line} = {line}\n" for line in range(number % 7 + 1)]
        (folder / f"{number:02}.py").write_text("".join(lines))
    return folder
