"""Tokenizers: text to ids and back, without loss. `load` reads every kind from the folder it was saved in.

The special id comes from the tokenizer alone: no string in a text is ever turned into end-of-text.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import tokenizers

from seedfast.errors import UserError
from seedfast.files import to_json

END_OF_TEXT = "<|endoftext|>"
"""How end-of-text is shown when ids are decoded (a pretrained tokenizer shows its own name for it)."""

TokenArray = npt.NDArray[np.uint32]

_SEAM_CONTEXT = 128  # characters on each side of a cut on which it is checked
_SEAM_TRIALS = 16
_CONFIG, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"


class Tokenizer(Protocol):
    """Text to ids 0 … size-1 and back; a lossless one has decode(encode(text)) == text."""

    @property
    def size(self) -> int:
        """The number of ids, specials included."""
        ...

    @property
    def end_of_text(self) -> int:
        """The id that stands before and after every document."""
        ...

    @property
    def silent(self) -> tuple[int, ...]:
        """The ids besides end-of-text that no text has (padding, masks, gaps): nothing may be written with them."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without specials. Raises UserError on a character that cannot be encoded."""
        ...

    def encode_many(self, texts: Sequence[str]) -> list[TokenArray]:
        """The ids of each text (in parallel where the tokenizer can)."""
        ...

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of these ids, end-of-text by its name. Raises ValueError on an id outside 0 … size-1."""
        ...

    def decode_many(self, ids: Sequence[TokenArray]) -> list[str]:
        """The text of each array of ids."""
        ...

    def cut(self, text: str) -> int:
        """A late place where `text` may be cut so that both parts, encoded apart, give the ids of the whole.

        Zero if none was found: more text has to be looked at.
        """
        ...

    def files(self) -> dict[str, str]:
        """The content of each file, by name, from which `load` rebuilds the tokenizer."""
        ...


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json`, and what else `load` needs, into an existing folder."""
    for name, content in tokenizer.files().items():
        (folder / name).write_text(content, "utf-8")


def digest(tokenizer: Tokenizer) -> str:
    """SHA-256 of everything that the tokenizer's ids depend on."""
    return hashlib.sha256(to_json(tokenizer.files()).encode()).hexdigest()


def load(folder: Path) -> Tokenizer:
    """The tokenizer that was saved in `folder`. Raises UserError if there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"There is no tokenizer in {folder}: it should hold a file tokenizer.json.")
    content = json.loads(path.read_text("utf-8"))
    match content.get("kind"):
        case "characters":
            return Characters(content["alphabet"])
        case "bytes":
            return Bytes()
        case _:
            return Subwords.load(folder)


def utf8(text: str) -> bytes:
    """The text in UTF-8. Raises UserError if it holds a lone surrogate, which is half a character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The text has half a character (the lone surrogate U+{ord(text[error.start]):04X}) at position "
            f"{error.start}, which no file can hold: leave it out."
        ) from None


def _checked(ids: Sequence[int] | npt.NDArray[np.integer], size: int) -> npt.NDArray[np.integer]:
    array = np.asarray(ids, dtype=None if len(ids) else np.int64)
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < size:
        raise ValueError(f"token ids lie in 0 … {size - 1}, not in {array.min()} … {array.max()}")
    return array


def _decode_runs(ids: npt.NDArray[np.integer], end: int, decode_run: Callable[[npt.NDArray[np.integer]], str]) -> str:
    """Decode the runs between the end-of-text ids, and show those by name."""
    first, *others = np.split(ids, np.flatnonzero(ids == end))
    return END_OF_TEXT.join([decode_run(first), *(decode_run(run[1:]) for run in others)])


@dataclass(frozen=True)
class Characters:
    """One id for each character of a sorted alphabet; end-of-text is the last id."""

    alphabet: str
    silent: ClassVar[tuple[int, ...]] = ()

    @property
    def size(self) -> int:
        return len(self.alphabet) + 1

    @property
    def end_of_text(self) -> int:
        return len(self.alphabet)

    @cached_property
    def _codes(self) -> npt.NDArray[np.uint32]:
        return np.frombuffer(self.alphabet.encode("utf-32-le"), "<u4")

    @cached_property
    def _table(self) -> npt.NDArray[np.uint32]:
        table = np.full(0x110000, self.size, np.uint32)  # of all Unicode; `size` stands for "not in the alphabet"
        table[self._codes] = np.arange(len(self._codes))
        return table

    def _encode(self, text: str) -> TokenArray:
        utf8(text)
        ids: TokenArray = self._table[np.frombuffer(text.encode("utf-32-le"), "<u4")]
        if (unknown := ids == self.size).any():
            character = text[int(unknown.argmax())]
            raise UserError(
                f"The character {character!r} (U+{ord(character):04X}) is not among the {len(self.alphabet)} "
                "characters that this model was trained on: leave it out."
            )
        return ids

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._encode(text).tolist()
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[TokenArray]:
        return [self._encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        return _decode_runs(
            _checked(ids, self.size),
            self.end_of_text,
            lambda run: self._codes[run].tobytes().decode("utf-32-le"),
        )

    def decode_many(self, ids: Sequence[TokenArray]) -> list[str]:
        return [self.decode(each) for each in ids]

    def cut(self, text: str) -> int:
        return len(text)

    def files(self) -> dict[str, str]:
        return {"tokenizer.json": to_json({"kind": "characters", "alphabet": self.alphabet})}


@dataclass(frozen=True)
class Bytes:
    """The 256 bytes of UTF-8, and end-of-text. Bytes that form no character decode to U+FFFD."""

    size: ClassVar[int] = 257
    end_of_text: ClassVar[int] = 256
    silent: ClassVar[tuple[int, ...]] = ()

    def encode(self, text: str) -> list[int]:
        return list(utf8(text))

    def encode_many(self, texts: Sequence[str]) -> list[TokenArray]:
        return [np.frombuffer(utf8(text), np.uint8).astype(np.uint32) for text in texts]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        return _decode_runs(
            _checked(ids, self.size),
            self.end_of_text,
            lambda run: run.astype(np.uint8).tobytes().decode("utf-8", errors="replace"),
        )

    def decode_many(self, ids: Sequence[TokenArray]) -> list[str]:
        return [self.decode(each) for each in ids]

    def cut(self, text: str) -> int:
        return len(text)

    def files(self) -> dict[str, str]:
        return {"tokenizer.json": to_json({"kind": "bytes"})}


class Subwords:
    """A tokenizer of the `tokenizers` library: the byte-pair encoding trained here, or a pretrained one.

    It is saved in two files as transformers saves it, so that `AutoTokenizer` reads it too.
    """

    def __init__(self, core: tokenizers.Tokenizer, end_of_text: str, about: Mapping[str, str] | None = None) -> None:
        """core: the tokenizer, which becomes ours; the token named `end_of_text` is in its vocabulary.

        about: the other files of a pretrained tokenizer, by name (its configuration and chat template).
        """
        self._about = dict(about or {})
        core.encode_special_tokens = True  # the characters of a special token's name are ordinary text
        core.no_truncation()
        core.no_padding()
        self._core = core
        self._end_name = end_of_text
        end = core.token_to_id(end_of_text)
        assert end is not None, f"{end_of_text} is not in the vocabulary"
        self.end_of_text = end
        # Ids may have gaps: what counts is the largest.
        known = set(core.get_vocab(with_added_tokens=True).values())
        self.size = 1 + max(known)
        special = {id_ for id_, token in core.get_added_tokens_decoder().items() if token.special}
        self.silent = tuple(sorted((special | (set(range(self.size)) - known)) - {end}))
        self._specials = tuple(token.content for token in core.get_added_tokens_decoder().values() if token.special)

    @property
    def template(self) -> str | None:
        """The chat template of a pretrained tokenizer, in Jinja, if it has one."""
        config = json.loads(self._about.get(_CONFIG, "{}"))
        template = self._about.get(_TEMPLATE, config.get("chat_template"))
        return template if isinstance(template, str) else None

    def chat(self, messages: Sequence[Mapping[str, str]], *, asks: bool) -> str:
        """The messages as the chat template writes them; `asks`: up to where the assistant's answer begins.

        Raises UserError if the template refuses them.
        """
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        config = json.loads(self._about.get(_CONFIG, "{}"))
        names = {key: value for key, value in config.items() if key.endswith("_token") and isinstance(value, str)}
        try:
            (text,), _ = render_jinja_template(
                [list(messages)], chat_template=self.template, add_generation_prompt=asks, **names
            )
        except jinja2.TemplateError as error:
            raise UserError(f"The tokenizer's chat template refuses a chat: {error}.") from error
        return str(text)

    def special_in(self, text: str) -> str | None:
        """The first name of a special token that stands in a text, if any."""
        return next((name for name in self._specials if name in text), None)

    @cached_property
    def _reader(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self._core.to_str())

    def encode_chat(self, text: str) -> list[int]:
        """The ids of what `chat` wrote: only here are the names of special tokens such tokens."""
        ids: list[int] = self._reader.encode(text, add_special_tokens=False).ids
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
        return self._core.decode(_checked(ids, self.size).tolist(), skip_special_tokens=False)

    def decode_many(self, ids: Sequence[TokenArray]) -> list[str]:
        return self._core.decode_batch([each.tolist() for each in ids], skip_special_tokens=False)

    def cut(self, text: str) -> int:
        for place in islice(seams(text), _SEAM_TRIALS):
            left, right = text[place - _SEAM_CONTEXT : place], text[place : place + _SEAM_CONTEXT]
            whole, *parts = self.encode_many([left + right, left, right])
            if np.array_equal(whole, np.concatenate(parts)):
                return place
        return 0

    def files(self) -> dict[str, str]:
        plain = to_json({"eos_token": self._end_name, "tokenizer_class": "PreTrainedTokenizerFast"})
        return {"tokenizer.json": self._core.to_str(), _CONFIG: plain, **self._about}

    @staticmethod
    def load(folder: Path) -> "Subwords":
        """The tokenizer whose `files` were saved in `folder`."""
        about = {name: path.read_text("utf-8") for name in (_CONFIG, _TEMPLATE) if (path := folder / name).is_file()}
        core = tokenizers.Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8"))
        return Subwords(core, json.loads(about[_CONFIG])["eos_token"], about)


def seams(text: str) -> Iterator[int]:
    """Places, from the end of `text` on, where GPT-2's pre-tokenizer has a boundary whatever else is around.

    A boundary always lies between a letter or digit and a character that is neither, except after a space
    (which may belong to the word that follows) and after an apostrophe (which may open a contraction). No
    other boundary moves: a run of white space is split by what follows it, from which it is never cut here.
    """
    for place in range(len(text) - _SEAM_CONTEXT, _SEAM_CONTEXT, -1):
        before = text[place - 1]
        if before.isalnum() != text[place].isalnum() and not before.isspace() and before != "'":
            yield place
