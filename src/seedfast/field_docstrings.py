"""The docstrings below the fields of a dataclass, which Python does not keep."""

import ast
import inspect
import textwrap
from dataclasses import is_dataclass
from itertools import pairwise
from typing import Any


def field_docstrings(kind: type[Any]) -> dict[str, str]:
    """The docstring below each field of a dataclass and its bases, in one line."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not is_dataclass(base) or "__dataclass_fields__" not in vars(base):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError):  # the source is not at hand
            continue
        for field, text in pairwise(getattr(body, "body", [])):
            is_named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if is_named and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found
