"""Tokenizers in files without transformers' configuration: tokenizer.json alone, or vocab.json with merges.txt."""

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from seedfast.data.text.tokenizers.plain import plain_tokenizer
from seedfast.data.text.tokenizers.protocol import END_OF_TEXT, Tokenizer
from seedfast.data.text.tokenizers.subwords import Subwords
from seedfast.errors import UserError

_DESCRIPTIONS = ("tokenizer_config.json", "config.json")
"""Files in which transformers finds out more about a tokenizer."""

_ENDS = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "<|eos|>", "[EOS]", "<|im_end|>", "[SEP]")
"""Usual names of end-of-text."""


def from_files(path: Path) -> Tokenizer | None:
    """The tokenizer in the file tokenizer.json, or in a folder with only that or with vocab.json and merges.txt.

    End-of-text is the special token with the first of the usual names; a tokenizer without one gets a new last id.
    None if there are no such files, or transformers knows more about them. Raises UserError for invalid files.
    """
    if path.is_file():
        return _from_json(path)
    if any((path / name).is_file() for name in _DESCRIPTIONS):
        return None
    if (path / "tokenizer.json").is_file():
        return _from_json(path / "tokenizer.json")
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return _from_merges(path)
    return None


def _from_json(path: Path) -> Tokenizer:
    try:
        text = path.read_text("utf-8-sig")
        if plain := plain_tokenizer(json.loads(text)):
            return plain
        core = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more specific
        raise UserError(
            f"{path} is no tokenizer of the library tokenizers ({' '.join(str(error).split())[:80]}): name a "
            "tokenizer.json, or a folder."
        ) from error
    return _with_end(core, {token.content for token in core.get_added_tokens_decoder().values() if token.special})


def _from_merges(folder: Path) -> Tokenizer:
    """A byte-level byte-pair encoding, as GPT-2's files hold it. What no merge makes are special tokens."""
    try:
        vocabulary, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        model = models.BPE(vocabulary, merges)
    except Exception as error:  # the library raises nothing more specific
        raise UserError(
            f"vocab.json and merges.txt in {folder} are no byte-pair encoding ({' '.join(str(error).split())[:80]})."
        ) from error
    made = {left + right for left, right in merges}
    letters = {name for name in vocabulary if len(name) == 1}
    if foreign := sorted((letters | set("".join(made))) - set(pre_tokenizers.ByteLevel.alphabet())):
        raise UserError(
            f"The tokenizer in {folder} is not byte-level ({foreign[0]!r} stands for no byte): convert it to "
            "tokenizer.json with transformers."
        )
    core = tokenizers.Tokenizer(model)
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = vocabulary.keys() - made - letters
    core.add_special_tokens([_special(name) for name in sorted(special, key=vocabulary.__getitem__)])
    return _with_end(core, special)


def _with_end(core: tokenizers.Tokenizer, special: set[str]) -> Subwords:
    """The tokenizer, whose special tokens are given, with an end-of-text."""
    end = next((name for name in _ENDS if name in special), None)
    if end is None:
        end = END_OF_TEXT
        core.add_special_tokens([_special(end)])
    return Subwords(core, end)


def _special(name: str) -> AddedToken:
    return AddedToken(name, special=True, normalized=False)
