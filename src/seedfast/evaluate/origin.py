"""Where weights come from: a step of a run. The folder of an export has it as `checkpoint.json`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seedfast.files import to_json
from seedfast.run_folder.choice import Weights
from seedfast.untrusted import read_json

RECORD = "checkpoint.json"


@dataclass(frozen=True)
class Origin:
    """The weights of one step of a run.

    weights: "ema" or "raw" ("base": those that training began with). best: whether the run's best validation of these
    weights is that of this step. run: the run folder. seal: of the checkpoint.
    """

    weights: Weights
    step: int
    best: bool
    run: str
    seal: str

    def __str__(self) -> str:
        return f"{self.weights} weights, step {self.step}{' (best)' if self.best else ''} of {self.run}"

    def as_json(self) -> dict[str, Any]:
        """The record in an export, with the run folder's name alone: exports are published."""
        return {**asdict(self), "run": Path(self.run).absolute().name}

    def write(self, folder: Path) -> None:
        """Write the record into an export. Raises OSError."""
        (folder / RECORD).write_text(to_json(self.as_json()), "utf-8")

    @staticmethod
    def read(folder: Path) -> "Origin | None":
        """The record in a model's folder; None if it has none, or one that nothing here has written."""
        try:
            origin = Origin(**read_json(folder / RECORD))
        except (OSError, ValueError, TypeError):
            return None
        kinds = {"weights": str, "step": int, "best": bool, "run": str, "seal": str}
        are_right = all(isinstance(getattr(origin, name), kind) for name, kind in kinds.items())
        return origin if are_right and origin.weights in ("ema", "raw") and origin.run.isprintable() else None
