"""Text recipes: language models on files, folders and data sets; by default on the source of the standard library."""

from seedfast.data.text.config import TextData
from seedfast.families.family import FamilyConfig
from seedfast.families.text.autoregressive import Autoregressive
from seedfast.families.text.block_diffusion import Block
from seedfast.families.text.embedding import Embedding
from seedfast.families.text.masked import Masked
from seedfast.families.text.proofreading import Proofreading
from seedfast.loop.config import Run
from seedfast.models.transformer import Transformer
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig


def text_autoregressive() -> Run:
    """Next-token prediction: the reference that the other text families are compared with."""
    return _text("text-autoregressive", Autoregressive())


def text_masked() -> Run:
    """Masked diffusion: predicts masked tokens from both sides, so it infills as well as it continues."""
    return _text("text-masked", Masked())


def text_embedding() -> Run:
    """Diffusion over token embeddings: all positions are denoised together, in any number of steps."""
    return _text("text-embedding", Embedding(), reads_tokens=False)


def text_block() -> Run:
    """Block diffusion: blocks from left to right with a key-value cache, each generated in parallel."""
    return _text("text-block", Block())


def text_proofreading() -> Run:
    """Masked diffusion that also learns to detect wrong words, so that it can correct its own text."""
    return _text("text-proofreading", Proofreading())


_NGRAMS = (16384,) * 4


def _text(recipe: str, objective: FamilyConfig, *, reads_tokens: bool = True) -> Run:
    """The same network, data and optimizer for each family: about three minutes on two CPU cores.

    reads_tokens: whether the network reads tokens, not vectors. One that reads vectors has no n-grams, and windows of
        one document each.
    """
    return Run(
        recipe=recipe,
        objective=objective,
        data=TextData(context=128, one_document_per_window=not reads_tokens),
        model=Transformer(layers=4, heads=4, width=128, ngrams=_NGRAMS if reads_tokens else ()),
        optimizer=OptimizerConfig(kind="muon", lr=1e-2),
        schedule=Schedule(shape="linear", warmup=100),
        ema=EMA(half_life=100),
        clip=None,
        steps=1500,
        batch_size=16,
        eval_examples=128,
    )
