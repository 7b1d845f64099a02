"""Tasks with some fields replaced, for objectives that are broken on purpose."""

from inspect import signature
from typing import Any, TypeVar

from seedfast.families.text.autoregressive import NextTokenTask
from seedfast.families.text.masked import MaskedTask

TaskT = TypeVar("TaskT", MaskedTask, NextTokenTask)


def changed(task: TaskT, **fields: Any) -> TaskT:
    """The task with these fields replaced and the positions that are derived from them recomputed."""
    kind = type(task)
    return kind.of(**{name: getattr(task, name) for name in signature(kind.of).parameters} | fields)
