"""Tokenizers of the `tokenizers` library: the byte-pair encoding trained here, or a pretrained tokenizer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers

from seedfast.data.text.tokenizers.chat import CONFIG_FILE, DATE_FILE, TEMPLATE_FILE, ChatTemplate
from seedfast.data.text.tokenizers.protocol import TokenArray, checked_ids, utf8
from seedfast.files import to_json

_CUT_CONTEXT = 128  # characters on each side of a cut that decide whether it changes tokens
_CUT_TRIALS = 16


class Subwords:
    """A tokenizer of the `tokenizers` library. It is saved as transformers saves it, so `AutoTokenizer` reads it."""

    def __init__(self, core: tokenizers.Tokenizer, end_of_text: str, about: Mapping[str, str] | None = None) -> None:
        """core: the library's tokenizer, which is modified. end_of_text: the name of a token in its vocabulary.

        about: the other files of a pretrained tokenizer, by name (its configuration and chat template).
        """
        self._about = dict(about or {})
        core.encode_special_tokens = True  # the name of a special token in a text is ordinary text
        core.no_truncation()
        core.no_padding()
        self._core = core
        self._end_name = end_of_text
        end = core.token_to_id(end_of_text)
        assert end is not None, f"{end_of_text} is not in the vocabulary"
        self.end_of_text = end
        self.beginning_of_text = _beginning(core)
        known = set(core.get_vocab(with_added_tokens=True).values())
        self.size = 1 + max(known)  # ids may have gaps
        added = core.get_added_tokens_decoder()
        special = {id_ for id_, token in added.items() if token.special}
        self.never_generate = tuple(sorted((special | (set(range(self.size)) - known)) - {end}))
        self._special_names = tuple(token.content for token in added.values() if token.special)

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The chat template of a pretrained tokenizer, if it has one."""
        return ChatTemplate.of(self._about)

    def on_date(self, date: str) -> "Subwords":
        """The same tokenizer with a chat template that takes this day, YYYY-MM-DD, for the present one."""
        return Subwords(self._core, self._end_name, {**self._about, DATE_FILE: date})

    def special_token_in(self, text: str) -> str | None:
        """The name of a special token that occurs in a text, if any."""
        return next((name for name in self._special_names if name in text), None)

    @cached_property
    def _with_special_tokens(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self._core.to_str())

    def encode_chat(self, text: str) -> list[int]:
        """The ids of a rendered chat. Only here are the names of special tokens encoded as these tokens.

        Raises UserError for half a character, as `encode`.
        """
        utf8(text)
        ids: list[int] = self._with_special_tokens.encode(text, add_special_tokens=False).ids
        return ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subwords) and self.files() == other.files()

    def __hash__(self) -> int:
        return hash(self._core.to_str())

    def encode(self, text: str) -> list[int]:
        utf8(text)
        ids: list[int] = self._core.encode(text, add_special_tokens=False).ids
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[TokenArray]:
        for text in texts:
            utf8(text)
        encodings = self._core.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        return self._core.decode(checked_ids(ids, self.size).tolist(), skip_special_tokens=False)

    def decode_many(self, ids: Sequence[TokenArray]) -> list[str]:
        return self._core.decode_batch([each.tolist() for each in ids], skip_special_tokens=False)

    def byte_count(self, ids: Sequence[int]) -> int:
        ids = [id_ for id_ in ids if id_ != self.end_of_text]
        if self._is_byte_level:  # each character of a token's name stands for a byte (Radford et al. 2019)
            added = self._core.get_added_tokens_decoder()
            names = [added[id_].content.encode() if id_ in added else self._core.id_to_token(id_) for id_ in ids]
            return sum(len(name or "") for name in names)
        text = self.decode(ids)
        return len(text.encode()) - 2 * text.count("\ufffd")  # three bytes that stand for one without a character

    @cached_property
    def _is_byte_level(self) -> bool:
        decoder = json.loads(self._core.to_str())["decoder"] or {}
        return any(each["type"] == "ByteLevel" for each in [decoder, *decoder.get("decoders", [])] if "type" in each)

    def cut(self, text: str) -> int:
        for place in islice(safe_cuts(text), _CUT_TRIALS):
            left, right = text[place - _CUT_CONTEXT : place], text[place : place + _CUT_CONTEXT]
            whole, *parts = self.encode_many([left + right, left, right])
            if np.array_equal(whole, np.concatenate(parts)):
                return place
        return 0

    def files(self) -> dict[str, str]:
        plain = to_json({"eos_token": self._end_name, "tokenizer_class": "PreTrainedTokenizerFast"})
        return {"tokenizer.json": self._core.to_str(), CONFIG_FILE: plain, **self._about}

    @staticmethod
    def load(folder: Path) -> "Subwords":
        """The tokenizer whose `files` were saved in `folder`."""
        names = (CONFIG_FILE, TEMPLATE_FILE, DATE_FILE)
        about = {name: path.read_text("utf-8") for name in names if (path := folder / name).is_file()}
        core = tokenizers.Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8"))
        return Subwords(core, json.loads(about[CONFIG_FILE])["eos_token"], about)


def _beginning(core: tokenizers.Tokenizer) -> int | None:
    """The id that the tokenizer's own convention puts before a text (the last of several); None if there is none."""
    added = {token.content for token in core.get_added_tokens_decoder().values()}
    word = min(core.get_vocab(with_added_tokens=False).keys() - added, default="")
    encoding = core.encode(word, add_special_tokens=True)
    special = list(takewhile(lambda pair: pair[1], zip(encoding.ids, encoding.special_tokens_mask, strict=True)))
    return special[-1][0] if special else None


def safe_cuts(text: str) -> Iterator[int]:
    """Positions, from the end of `text` backwards, where GPT-2's pre-tokenizer has a boundary in every context.

    A boundary always lies between a letter or digit and a character that is neither, except after a space (which may
    belong to the following word) and after an apostrophe (which may open a contraction). No other boundary moves: how a
    run of white space is split depends on what follows it, and no cut separates the two.
    """
    for place in range(len(text) - _CUT_CONTEXT, _CUT_CONTEXT, -1):
        before = text[place - 1]
        if before.isalnum() != text[place].isalnum() and not before.isspace() and before != "'":
            yield place
