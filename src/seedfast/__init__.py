"""seedfast: train generative models that you can trust to the last bit.

    import seedfast

    run = seedfast.recipe("text-autoregressive", steps=500, **{"data.path": "book.txt"})
    model = seedfast.train(run, "runs/book")
    print(model.sample(prompt="Once upon a time", tokens=200))
    print(model.evaluate()["bits_per_byte"])

The command line is built on the same functions. A user's mistake raises `UserError`. Heavy imports wait for use.
"""

from typing import TYPE_CHECKING, Any

from seedfast.errors import TrainingStopped, UserError
from seedfast.version import VERSION

if TYPE_CHECKING:
    from seedfast.api import compare, diff, journal, load, recipe, replay, train
    from seedfast.scaling.front import study

__version__ = VERSION
__all__ = [
    "TrainingStopped",
    "UserError",
    "__version__",
    "compare",
    "diff",
    "journal",
    "load",
    "recipe",
    "replay",
    "study",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in ("compare", "diff", "journal", "load", "recipe", "replay", "train"):
        from seedfast import api

        return getattr(api, name)
    if name == "study":
        from seedfast.scaling.front import study

        return study
    raise AttributeError(f"module 'seedfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
