"""Answers in JSON of ASCII characters, in which half a character (of a file name, or in a request) is escaped."""

import json
from typing import Any

from starlette.responses import JSONResponse


class ASCIIResponse(JSONResponse):
    """A value as JSON. Raises ValueError for a number that is not finite."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
