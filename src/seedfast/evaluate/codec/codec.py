"""`compress` and `decompress`: a file through a model and an entropy coder, and back."""

import hashlib
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seedfast.console import Bar
from seedfast.errors import UserError
from seedfast.evaluate.codec import container, pieces
from seedfast.evaluate.codec.container import Container, Header
from seedfast.evaluate.codec.entropy import DamagedError, Decoder, Encoder, ImpossibleError, constriction, pack, trees
from seedfast.evaluate.codec.writer import Plan, TextWriter, device_name, machine, versions
from seedfast.evaluate.journal import Journal, journal
from seedfast.threads import threads

if TYPE_CHECKING:
    from seedfast.evaluate.trained import Trained

_IDEAL = struct.Struct("<d")
_POSITION = struct.Struct("<QQ")


@dataclass(frozen=True)
class Compressed:
    """A compressed file and where its bytes go.

    content: the file. size: bytes of the plain one. text: of these, bytes that the model codes. tokens: of this text.
    ideal: -Σ log₂ p of these tokens, in bits. bits: what they take. raw: bytes of what the model does not code,
    overhead: of the header. decoding: the policy whose likelihood it is, in words.
    """

    content: bytes
    size: int
    text: int
    tokens: int
    ideal: float
    bits: int
    raw: int
    overhead: int
    decoding: str

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "bytes": self.size,
            "compressed": len(self.content),
            "text_bytes": self.text,
            "tokens": self.tokens,
            "ideal_bits": self.ideal,
            "bits": self.bits,
            "raw": self.raw,
            "header": self.overhead,
            "decoding": self.decoding,
        }

    def table(self) -> list[str]:
        """As lines for a terminal."""
        ratio = f" ({8 * len(self.content) / self.size:.4f} bits per byte)" if self.size else ""
        lines = [f"{self.size:,} bytes → {len(self.content):,} bytes{ratio}"]
        if self.tokens:
            lines += [
                f"ideal    {self.ideal:>14,.1f} bits: -log₂ p of {self.tokens:,} tokens, "
                f"{self.ideal / self.text:.4f} bits per byte",
                f"coded    {self.bits:>14,} bits, {self.bits - self.ideal:+.1f}",
            ]
        if self.raw:
            lines.append(f"raw      {self.raw:>14,} bytes, for {self.size - self.text:,} bytes without the model")
        return [*lines, f"header   {self.overhead:>14,} bytes"]


def compress(
    model: "Trained",
    content: bytes,
    *,
    rows: int | None = None,
    steps: int | None = None,
    result: Path | None = None,
) -> Compressed:
    """Compress any bytes: what the tokenizer cannot hold, and what the model would make longer, is stored.

    rows: windows that are computed together (default: by the context and the length). steps: unmasking steps of a
    masked model. result: where the file will be; an interrupted call is continued by the next one with the same
    arguments, from a file beside it. Raises UserError for a model that cannot code a text.
    """
    constriction()
    if rows is not None and not 1 <= rows <= container.ROWS:
        raise UserError(f"rows must be in 1 … {container.ROWS}, not {rows}.")
    writer = TextWriter(model, steps)
    cut = pieces.cut(writer.tokenizer, content)
    rows = rows or writer.rows(len(cut.tokens))
    probe = writer.probe(rows)

    def made(cut: pieces.Pieces, bits: bytes, ideal: float) -> Compressed:
        raw = container.deflated(cut.raw)
        header = Header(
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            recipe=model.run.recipe,
            weights=model.weights,
            step=model.step,
            model=writer.digest,
            steps=steps,
            rows=rows,
            tokens=len(cut.tokens),
            before=_before(writer, cut.tokens, rows),
            pieces=cut.table,
            raw=len(raw),
            device=device_name(model.distributed.device),
            precision=model.distributed.precision,
            threads=torch.get_num_threads(),
            machine=machine(),
            versions=versions(),
            probe=probe,
        )
        file = container.write(header, raw, bits)
        return Compressed(
            content=file,
            size=len(content),
            text=len(content) - len(cut.raw),
            tokens=len(cut.tokens),
            ideal=ideal,
            bits=8 * len(bits),
            raw=len(raw),
            overhead=len(file) - len(raw) - len(bits),
            decoding=writer.decoding,
        )

    if not cut.tokens:
        return made(cut, b"", 0.0)
    whole = pieces.Pieces([], [(0, len(content))], content)
    try:
        coded = made(cut, *_encoded(writer, cut.tokens, Plan(len(cut.tokens), writer.context, rows), probe, result))
    except ImpossibleError:
        return made(whole, b"", 0.0)
    if len(coded.content) <= len(content):
        return coded
    # Longer where the model knows nothing of such text, or where it is cut into many pieces.
    stored = made(whole, b"", 0.0)
    is_longer = len(coded.content) > len(content) + min(stored.overhead, coded.overhead)
    return stored if is_longer else coded


def _before(writer: TextWriter, tokens: list[int], rows: int) -> list[int]:
    """The tokens that the header states: those before each row but the first, where the model reads them."""
    first = Plan(len(tokens), writer.context, rows).first[1:]
    return [tokens[start - 1] for start in first] if writer.reads_before else []


def _encoded(writer: TextWriter, tokens: list[int], plan: Plan, probe: str, result: Path | None) -> tuple[bytes, float]:
    """The bits of tokens, and their ideal number. Raises ImpossibleError for a token without a probability."""
    text = hashlib.sha256(np.array(tokens).tobytes()).hexdigest()
    key = f"compress {text} {writer.digest} {probe} {writer.decoding} {plan} {torch.get_num_threads()}"
    with journal(result, key) as done, Bar("Compressing", len(tokens)) as bar:
        for number, group in enumerate(plan.groups):
            if number >= len(done):
                held = [tokens[start : start + group.length] for start in group.starts]
                done.append(_group(writer, held, [tokens[start - 1] if start else None for start in group.starts], bar))
            else:
                bar.advance(group.length * len(group.starts))
        ideal = math.fsum(_IDEAL.unpack(done[number][: _IDEAL.size])[0] for number in range(len(done)))
        parts = (done[number][_IDEAL.size :] for number in reversed(range(len(done))))
        return pack(np.frombuffer(part, "<u4") for part in parts), ideal


def _group(writer: TextWriter, held: list[list[int]], before: list[int | None], bar: Bar) -> bytes:
    """The journal's record of a group: its ideal bits, and its steps."""
    encoder, ideal = Encoder(), list[float]()

    def choose(probabilities_NV: Tensor, held_N: Tensor) -> Tensor:
        p_NV = probabilities_NV.cpu().numpy()
        numbers = held_N.tolist()
        for sums, token in zip(trees(p_NV), numbers, strict=True):
            encoder.put(sums, token)
        ideal.append(-math.fsum(np.log2(p_NV[np.arange(len(numbers)), numbers])))
        bar.advance(len(numbers))
        return held_N

    writer.write(held, before, choose)
    return _IDEAL.pack(math.fsum(ideal)) + np.array(encoder.packed, "<u4").tobytes()


def decompress(model: "Trained", content: bytes, *, name: str = "The file", result: Path | None = None) -> bytes:
    """The bytes that `compress` was given. name: of the file, in messages. result: as in `compress`.

    Raises UserError for a file that is damaged, a model with other weights, or another arithmetic: the bytes are the
    same, or there are none.
    """
    constriction()
    return restore(model, container.read(content, name), name=name, result=result)


def restore(model: "Trained", file: Container, *, name: str, result: Path | None = None) -> bytes:
    """`decompress` of a file that is read already."""
    header = file.header
    writer = TextWriter(model, header.steps)
    if writer.digest != header.model:
        step = "" if header.step is None else f", step {header.step}"
        raise UserError(
            f"{name} was compressed with other weights ({header.weights} weights{step} of a model of {header.recipe}): "
            "name the run that it was compressed with."
        )
    precision, device = model.distributed.precision, device_name(model.distributed.device)
    with threads(header.threads):
        if (device, precision) != (header.device, header.precision) or writer.probe(header.rows) != header.probe:
            raise UserError(
                f"{name} was compressed with an arithmetic that this machine does not have: by {header.device} "
                f"({header.machine}, {header.precision}, {header.versions}), and here is {device} ({machine()}, "
                f"{precision}, {versions()}); decompress it where the two agree."
            )
        try:
            tokens = _decoded(writer, file, result)
            plain = pieces.joined(writer.tokenizer, pieces.Pieces(tokens, header.pieces, file.raw))
        except (DamagedError, ValueError):
            plain = None
    if plain is None or len(plain) != header.size or hashlib.sha256(plain).hexdigest() != header.sha256:
        raise UserError(
            f"{name} does not decompress to the bytes that were compressed: it was changed, or this machine computes "
            f"otherwise than the one that wrote it ({header.machine}, {header.versions})."
        )
    return plain


def _decoded(writer: TextWriter, file: Container, result: Path | None) -> list[int]:
    """The tokens of a compressed file. Raises DamagedError if its bits are none that `compress` wrote."""
    header = file.header
    plan = Plan(header.tokens, writer.context, header.rows)
    first = plan.first
    if len(header.before) != (len(first[1:]) if writer.reads_before else 0):
        raise DamagedError
    if any(token >= writer.tokenizer.size for token in header.before):
        raise DamagedError
    if not header.tokens:
        return []
    tokens: dict[int, npt.NDArray[np.uint32]] = {}  # of each window, by its start
    last = dict(zip(first[1:], header.before, strict=False))  # the token before a position
    key = f"decompress {hashlib.sha256(file.bits).hexdigest()} {header}"
    with journal(result, key) as done, Bar("Decompressing", header.tokens) as bar:
        decoder = _continued(file.bits, done)
        for number, group in enumerate(plan.groups):
            if number < len(done):
                found_L = np.frombuffer(done[number][_POSITION.size :], "<u4").tolist()
                written = [found_L[i : i + group.length] for i in range(0, len(found_L), group.length)]
                bar.advance(len(found_L))
            else:
                held = [[0] * group.length] * len(group.starts)
                before = [last.get(start) for start in group.starts]
                written = writer.write(held, before, _reader(decoder, bar))
                if any(len(window) != group.length for window in written):
                    raise DamagedError
                done.append(_POSITION.pack(*decoder.position) + np.array(written, "<u4").tobytes())
            for start, window in zip(group.starts, written, strict=True):
                tokens[start] = np.array(window, np.uint32)
                last[start + group.length] = window[-1]
        if not decoder.is_at_end:
            raise DamagedError
    return [token for start in sorted(tokens) for token in tokens[start].tolist()]


def _continued(bits: bytes, done: Journal) -> Decoder:
    """A decoder after the groups that are done."""
    if not len(done):
        return Decoder(bits)
    position, state = _POSITION.unpack(done[len(done) - 1][: _POSITION.size])
    return Decoder(bits, (position, state))


def _reader(decoder: Decoder, bar: Bar) -> Any:
    """A `Choose` that takes the tokens from a decoder."""

    def choose(probabilities_NV: Tensor, held_N: Tensor) -> Tensor:
        found = [decoder.get(sums) for sums in trees(probabilities_NV.cpu().numpy())]
        bar.advance(len(found))
        return torch.tensor(found, dtype=torch.int64, device=held_N.device)

    return choose
