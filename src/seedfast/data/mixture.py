"""`mixture.yaml`: several sources of data, each with a weight.

    sources:
      code:  {path: python, weight: 3}
      books: {path: [books/, more/], weight: {0: 1, 2000: 4}}

A path is relative to the file. A weight is a number, or numbers by step, linear between them. Without any weight, every
source counts as much as it has examples.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seedfast import untrusted
from seedfast.data.mixture_order import Shares, Weights
from seedfast.errors import UserError

_ENDINGS = (".yaml", ".yml")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
_MOST = 1000  # sources
_LARGEST = 1e9  # weight, and the inverse of the smallest: beyond it, sums of weights lose the small ones
_LAST_STEP = 10**12


def is_mixture(path: str) -> bool:
    """Whether a path names a mixture: by its ending, since a text of any other content could be meant."""
    return path.lower().endswith(_ENDINGS)


@dataclass(frozen=True)
class MixedSource:
    """A source of a mixture. options: its further keys. weight: by step; None: as much as it has examples."""

    name: str
    paths: tuple[str, ...]
    weight: Weights | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Mixture:
    """The contents of a mixture's file."""

    file: Path
    sources: tuple[MixedSource, ...]

    def shares(self, sizes: Sequence[int]) -> Shares:
        """The share of each source in the stream. sizes: of the sources, in training examples."""
        weights = [each.weight or {0: float(size)} for each, size in zip(self.sources, sizes, strict=True)]
        try:
            return Shares.of(weights)
        except ValueError as error:
            raise UserError(f"{self.file}: at step {error} every weight is 0: give one source more.") from None


def read_mixture(path: str, options: Mapping[str, type]) -> Mixture:
    """The mixture in a file. options: the keys that a source may have besides path and weight, with their types.

    Raises UserError for a file that is not a mixture, naming the source and the key.
    """
    file = Path(path).expanduser().absolute()
    try:
        content = untrusted.read_yaml(file)
    except (OSError, ValueError) as error:
        why = " ".join((getattr(error, "strerror", None) or str(error)).split())
        raise UserError(f"{file} cannot be read as a mixture of sources in YAML ({why}): fix it.") from None
    sources = content.get("sources") if isinstance(content, dict) else None
    if not isinstance(sources, dict) or not sources or len(content) > 1:
        raise UserError(
            f'{file} is no mixture: it must have one key, "sources", with a path and a weight for each name (to train '
            "on the text of a YAML file, name its folder with --data.include)."
        )
    if len(sources) > _MOST:
        raise UserError(f"{file} has {len(sources)} sources, and {_MOST} are the most: join some.")
    found = tuple(_source(file, name, values, options) for name, values in sources.items())
    weighted = [each for each in found if each.weight is not None]
    if weighted and len(weighted) < len(found):
        bare = next(each.name for each in found if each.weight is None)
        raise UserError(f"{file}: {bare} has no weight, and {weighted[0].name} has one: give all of them one, or none.")
    if len({step for each in weighted for step in each.weight or ()}) > _MOST:
        raise UserError(
            f"{file} names more than {_MOST} different steps: weights are linear between them, so name few."
        )
    mixture = Mixture(file, found)
    mixture.shares([1] * len(found))  # refuses steps without any weight
    return mixture


def _source(file: Path, name: Any, values: Any, options: Mapping[str, type]) -> MixedSource:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"{file}: {name!r:.80} cannot be the name of a source: take letters, digits, -, _ and . (at most 64)."
        )
    if not isinstance(values, dict) or "path" not in values:
        raise UserError(f"{file}: {name} must have a path (and may have a weight), not {values!r:.80}.")
    if unknown := [key for key in values if key not in ("path", "weight", *options)]:
        known = ", ".join(("path", "weight", *options))
        raise UserError(f"{file}: {name} has the unknown key {unknown[0]!r:.80}; known are: {known}.")
    weight = _weight(values["weight"], f"{file}: the weight of {name}") if "weight" in values else None
    given = {
        key: _typed(value, options[key], f"{file}: {name}.{key}") for key, value in values.items() if key in options
    }
    return MixedSource(name, _paths(file, name, values["path"]), weight, given)


def _paths(file: Path, name: str, value: Any) -> tuple[str, ...]:
    """The paths of a source, those of files and folders absolute."""
    paths = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str) and path and "\0" not in path for path in paths):
        raise UserError(f"{file}: the path of {name} must be a path or a list of them, not {value!r:.80}.")
    if nested := [path for path in paths if is_mixture(path)]:
        raise UserError(
            f"{file}: {name} is {nested[0]}, a mixture, and mixtures hold no others: list its sources here."
        )
    return tuple(path if _is_name(path) else str(file.parent / Path(path).expanduser()) for path in paths)


def _is_name(path: str) -> bool:
    """Whether a path names a built-in source or a data set of the hub."""
    return path == "python" or path.startswith("hf:")


def _weight(value: Any, where: str) -> Weights:
    if not isinstance(value, dict):
        if not _is_number(value) or not 1 / _LARGEST <= value <= _LARGEST:
            raise UserError(f"{where} must be a positive number, or numbers by step, not {value!r:.80}.")
        return {0: float(value)}
    for step, number in value.items():
        if type(step) is not int or not 0 <= step <= _LAST_STEP:
            raise UserError(f"{where} is given by step, and {step!r:.80} is no step: take whole numbers from 0.")
        if not _is_number(number) or not (number == 0 or 1 / _LARGEST <= number <= _LARGEST):
            raise UserError(f"{where} at step {step} must be 0 or a positive number, not {number!r:.80}.")
    if not any(value.values()):
        raise UserError(f"{where} is 0 at every step: leave the source out, or give it a positive weight.")
    return {step: float(number) for step, number in value.items()}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _typed(value: Any, kind: type, where: str) -> Any:
    """The value of an option of a source; a tuple is a list of texts in the file."""
    if kind is tuple and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    if kind is tuple or type(value) is not kind:
        wanted = "a list of texts" if kind is tuple else {"str": "a text", "bool": "true or false"}[kind.__name__]
        raise UserError(f"{where} must be {wanted}, not {value!r:.80}.")
    return value
