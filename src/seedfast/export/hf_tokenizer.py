"""Tokenizers of seedfast as tokenizers of transformers with the same ids."""

from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from seedfast import huggingface
from seedfast.data.text.tokenizers import END_OF_TEXT, Bytes, Characters, Subwords, Tokenizer

MASK = "[MASK]"


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, mask: bool) -> None:
    """Write a tokenizer as `AutoTokenizer` reads it. mask: add [MASK], with the id after the last."""
    core = _core(tokenizer)
    end = core.id_to_token(tokenizer.end_of_text)
    names = {"eos_token": end, "bos_token": end}
    if mask:
        core.add_special_tokens([MASK])
        assert core.token_to_id(MASK) == tokenizer.size, "the tokenizer's ids have gaps"
        names["mask_token"] = MASK
    wrapper = huggingface.transformers().PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False, **names
    )
    wrapper.save_pretrained(folder)


def _core(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    if isinstance(tokenizer, Subwords):
        return tokenizers.Tokenizer.from_str(tokenizer.files()["tokenizer.json"])
    if isinstance(tokenizer, Bytes):
        core = tokenizers.Tokenizer(models.BPE(vocab=_byte_names(), merges=[]))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        core.decoder = decoders.ByteLevel()
    else:
        assert isinstance(tokenizer, Characters), "there are no other kinds"
        ids = {letter: id_ for id_, letter in enumerate(tokenizer.alphabet)}
        # Without an unknown token, a character outside the alphabet is an error instead of another token.
        core = tokenizers.Tokenizer(models.WordLevel(vocab=ids))
        core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        core.decoder = decoders.Fuse()
    core.add_special_tokens([END_OF_TEXT])
    return core


def _byte_names() -> dict[str, int]:
    """Each byte by the character that stands for it in byte-level tokenizers (GPT-2's table)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + index): byte for index, byte in enumerate(hidden)}
