"""`seedfast import`."""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make a run out of a nanoGPT checkpoint (ckpt.pt) or a folder with a transformers GPT-2.

    The new run starts at step 0 with the imported weights: evaluate it, sample from it, or train it on.
    """

    source: tyro.conf.Positional[Path]
    """The file ckpt.pt (read with weights_only: nothing in it is executed), or a folder that save_pretrained wrote."""
    out: Path
    """The run folder to make."""
    data: str
    """The text to evaluate and train on."""
    tokenizer: str = "characters"
    """How the model's tokens are made: characters (sorted, as nanoGPT's shakespeare_char), or a tokenizer's folder."""


def import_run(words: list[str]) -> int:
    """Import weights; see `Import` for the flags."""
    asked = tyro.cli(Import, args=words, prog="seedfast import")
    from seedfast import recipes
    from seedfast.data.text.config import TextData
    from seedfast.errors import UserError
    from seedfast.loop.open import open_session
    from seedfast.models import import_gpt2

    if (asked.out / "run.yaml").exists():
        raise UserError(f"{asked.out} holds a run already; choose a new folder for --out.")
    folder = asked.source.is_dir()
    source = import_gpt2.from_gpt2(asked.source) if folder else import_gpt2.from_nanogpt(asked.source)
    run = replace(
        recipes.make("text-autoregressive"),
        data=TextData(path=asked.data, tokenizer=asked.tokenizer, context=source.context),
        model=source.config,
    )
    known, size = source.tokens.num_embeddings, run.data.load().assets.tokenizer.size
    if size > known + 1:  # our end-of-text may be one that the model never had
        raise UserError(
            f"The tokenizer of {asked.data} has {size} tokens, but {asked.source} was trained on {known}; "
            "name the text or the tokenizer that it was trained with."
        )
    with open_session(run, asked.out, initialise=lambda network: import_gpt2.copy_weights(network, source)):
        pass
    print(f"{asked.out} is a run at step 0: seedfast evaluate {asked.out}")
    return 0
