"""JSON files that people write: a key twice, a byte order mark and deep nesting are answered in a sentence."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from seedfast.errors import UserError


def load_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError if it cannot be read, or has a key twice in one object."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise UserError(
                f'{path} has the key "{key}" twice in one object, so one of them would be lost: merge them.'
            )
        return found

    try:
        return json.loads(path.read_bytes(), object_pairs_hook=unique)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be a list of examples.") from None
    except ValueError as error:
        raise UserError(f"{path} is not a JSON file ({error}).") from None
