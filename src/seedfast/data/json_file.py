"""JSON that people write: a key twice, half a character and deep nesting are answered in a sentence."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from seedfast.errors import UserError

_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


class JSONMistake(ValueError):
    """JSON that is valid but cannot be used. The message is the reason, in a few words."""


def parse_json(text: str) -> Any:
    """The content of a JSON text. Raises ValueError for text that is not JSON, and JSONMistake with the reason.

    Mistakes are a key that is twice in one object, of which one would be lost; half a character (a lone surrogate),
    which no file can hold; and nesting without end.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise JSONMistake(f'the key "{key}" twice in one object')
        return found

    try:
        content = json.loads(text, object_pairs_hook=unique)
        if _HALF_CHARACTER.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise JSONMistake("too many levels of nesting") from None
    except UnicodeEncodeError:
        raise JSONMistake("half a character (a lone surrogate)") from None
    return content


def load_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8. Raises UserError if it cannot be read or used."""
    try:
        return parse_json(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    except JSONMistake as error:
        raise UserError(f"{path} has {error}: correct it.") from None
    except ValueError as error:
        raise UserError(f"{path} is not a JSON file ({error}).") from None
