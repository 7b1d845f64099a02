"""`seedfast import`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from seedfast.cli.arguments import parse


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make a run out of a nanoGPT checkpoint (ckpt.pt) or a folder with a transformers GPT-2.

    The new run starts at step 0 with the imported weights: evaluate it, sample from it, or train it on. A checkpoint of
    masked diffusion (with a mask_token_id) becomes a run of text-masked or text-proofreading.
    """

    source: tyro.conf.Positional[Path]
    """The file ckpt.pt (read with weights_only: nothing in it is executed), or a folder that save_pretrained wrote."""
    out: Path
    """The run folder to make."""
    data: str
    """The text to evaluate and train on."""
    tokenizer: str | None = None
    """The tokenizer of the model: characters, bytes, or a tokenizer's folder or hub name (default: that of the folder,
    or else characters: those of a meta.pkl beside the checkpoint or the text, or those of the text, sorted, as
    nanoGPT's shakespeare_char)."""


def import_run(words: list[str]) -> int:
    """Import weights; see `Import` for the flags."""
    asked = parse(Import, words, prog="seedfast import")
    from seedfast.console import put, tell
    from seedfast.recipes.imported import import_checkpoint

    made = import_checkpoint(asked.source, asked.out, data=asked.data, tokenizer=asked.tokenizer)
    for note in made.notes:
        tell(note)
    put(f"{asked.out} is a run of {made.run.recipe} at step 0: seedfast evaluate {asked.out}")
    return 0
