"""The flags that choose the state of a trained model and the device, and that say whether its own code may run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from seedfast.cli.arguments import Trust

if TYPE_CHECKING:
    from seedfast.evaluate.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The state of a run or model that a command works with."""

    weights: Literal["ema", "raw", "base"] | None = None
    """Which weights to use (default: the averaged ones where there are some); base: the pretrained ones that a
    fine-tuned model began with."""
    at: int | Literal["best", "newest"] = "best"
    """Which checkpoint: the best (by the run's validations; the newest where it has none), the newest, or a step's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    trust: Trust = False

    def load(self, run: Path, **changed: Any) -> "Trained":
        """The model of a run, as `seedfast.load` gives it. changed: its arguments that are not these flags."""
        import seedfast

        asked = {"step": self.at, "weights": self.weights, "device": self.device, "trust": self.trust}
        return seedfast.load(run, **(asked | changed))


ChosenFlags = Annotated[Chosen, tyro.conf.arg(name="")]
"""The type of a command's field `chosen`, whose flags have no prefix."""
