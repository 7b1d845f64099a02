"""The file format: a checked header in JSON, the raw bytes, the bits of the entropy coder.

    magic and version, 8 bytes · BLAKE2b of all that follows, 16 bytes · length of the header, 4 bytes, little-endian ·
    the header, deflated JSON · raw bytes, deflated where that is shorter · the bits

Everything is checked before a network computes: sizes are those that the header states, and what is inflated has a
bound.
"""

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from seedfast.errors import UserError
from seedfast.untrusted import JSON_LIMIT

MAGIC = b"\x89SFZ\r\n\x1a"
VERSION = 1
ROWS = 1024
"""The most windows that are computed together."""
_THREADS = 1024
_USUAL = (
    b'{"size":,"sha256":"","recipe":"text-autoregressive","weights":"ema","step":,"model":"","steps":null,"rows":1,'
    b'"tokens":,"before":[],"pieces":[[,0]],"raw":0,"device":"cpu","precision":"fp32","threads":1,"machine":"x86_64 '
    b'AVX512","versions":"torch 2.13.0, tokenizers 0.23.3, constriction 0.5.0","probe":""}'
)
"""The dictionary of deflated headers: what most of them have in common. It is part of the format."""
_CHECK = 16  # bytes


@dataclass(frozen=True, kw_only=True)
class Header:
    """What decompressing needs, and what it checks.

    size, sha256: of the plain file. recipe, weights, step: of the model, for people, and to find it; step is None for a
    bare model. model: digest of all that it computes with. steps: unmasking steps, None for one a token. rows: windows
    that are computed together. tokens: coded by the model. before: the token before the first window of each row but
    the first, where the model reads one. pieces: of each, the number of tokens and of raw bytes after them.
    raw: bytes of the raw section. device, precision, threads, machine, versions: what the probabilities were computed
    by. probe: digest of such probabilities.
    """

    size: int
    sha256: str
    recipe: str
    weights: str
    step: int | None
    model: str
    steps: int | None
    rows: int
    tokens: int
    before: list[int]
    pieces: list[tuple[int, int]]
    raw: int
    device: str
    precision: str
    threads: int
    machine: str
    versions: str
    probe: str

    @property
    def raw_bytes(self) -> int:
        """Raw bytes in the plain file."""
        return sum(gap for _, gap in self.pieces)


@dataclass(frozen=True)
class Container:
    """A compressed file: its header, the raw bytes of the plain file, the bits. overhead: bytes beside raw and bits."""

    header: Header
    raw: bytes
    bits: bytes
    overhead: int


def write(header: Header, raw: bytes, bits: bytes) -> bytes:
    """A compressed file. raw: as `deflated` returns it."""
    values = json.dumps(asdict(header), separators=(",", ":"), ensure_ascii=False).encode()
    stream = zlib.compressobj(9, zdict=_USUAL)
    head = stream.compress(values) + stream.flush()
    body = len(head).to_bytes(4, "little") + head + raw + bits
    return MAGIC + bytes([VERSION]) + _check(body) + body


def deflated(raw: bytes) -> bytes:
    """Raw bytes, deflated where that is shorter."""
    return min(raw, zlib.compress(raw, 9), key=len)  # the reader tells them apart by their lengths


def read(content: bytes, name: str) -> Container:
    """A compressed file, whose header is consistent. Raises UserError for any other; `name` is for messages."""
    start = len(MAGIC)
    if content[:start] != MAGIC:
        raise UserError(f"{name} was not written by seedfast compress: it does not begin as such a file does.")
    if content[start : start + 1] != bytes([VERSION]):
        raise UserError(
            f"{name} has a format that this version of seedfast does not know: decompress it with a later one."
        )
    body = content[start + 1 + _CHECK :]
    if content[start + 1 : start + 1 + _CHECK] != _check(body) or len(body) < 4:
        raise UserError(f"{name} is damaged or incomplete: its checksum does not fit its bytes.")
    length = int.from_bytes(body[:4], "little")
    try:
        header = _header(json.loads(_inflated(body[4 : 4 + length], JSON_LIMIT, _USUAL)))
        stored = body[4 + length : 4 + length + header.raw]
        raw = stored if header.raw == header.raw_bytes else _inflated(stored, header.raw_bytes)
        if len(raw) != header.raw_bytes:
            raise ValueError("raw")
    except (ValueError, KeyError, TypeError, RecursionError, zlib.error):
        raise UserError(
            f"{name} has a header that contradicts itself, so seedfast compress did not write it."
        ) from None
    return Container(header, raw, body[4 + length + header.raw :], len(content) - len(body) + 4 + length)


def _check(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECK).digest()


def _inflated(content: bytes, limit: int, usual: bytes = b"") -> bytes:
    """Raises ValueError for more than `limit` bytes, or a stream that is not whole; zlib.error for no stream."""
    stream = zlib.decompressobj(zdict=usual)
    found = stream.decompress(content, limit + 1)
    if len(found) > limit or not stream.eof or stream.unused_data:
        raise ValueError("deflated bytes")
    return found


def _header(values: Any) -> Header:
    """Raises ValueError or TypeError for values that no header has."""
    if not isinstance(values, dict) or values.keys() != _RULES.keys():
        raise ValueError("keys")
    for name, is_right in _RULES.items():
        if not is_right(values[name]):
            raise ValueError(name)
    header = Header(**values | {"pieces": [(count, gap) for count, gap in values["pieces"]]})
    if sum(count for count, _ in header.pieces) != header.tokens or header.raw_bytes > header.size:
        raise ValueError("pieces")
    return header


def _whole(low: int, high: int = 1 << 62) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _or_none(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or rule(value)


def _word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 200 and value.isprintable()


def _list(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(rule, value))


def _pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_whole(0), value))


_RULES: dict[str, Callable[[Any], bool]] = {f.name: _word for f in fields(Header) if f.type is str} | {
    "size": _whole(0),
    "step": _or_none(_whole(0)),
    "steps": _or_none(_whole(1)),
    "rows": _whole(1, ROWS),
    "tokens": _whole(0),
    "before": _list(_whole(0)),
    "pieces": _list(_pair),
    "raw": _whole(0),
    "threads": _whole(1, _THREADS),
}
