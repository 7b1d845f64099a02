"""The journal, copied to TensorBoard as it is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seedfast.errors import UserError
from seedfast.listeners.base import Listener
from seedfast.run_folder.journal import scalars


class Board(Listener):
    """Writes each line of the journal to `tensorboard/` of a run folder: curves, sample pictures, the run's settings.

    step: where the journal stands. Curves that reach beyond are cut there, so a resumed run's have each step once.
    """

    def __init__(self, run_folder: Path, settings: Mapping[str, Any], *, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams as hparams_untyped
        except ImportError as error:
            raise UserError(
                "--tensorboard needs the package tensorboard; install it (pip install 'seedfast[tensorboard]') or "
                "leave the option out: the journal has every number too."
            ) from error
        hparams: Any = hparams_untyped
        self._folder = run_folder
        self._writer: Any = SummaryWriter(str(run_folder / "tensorboard"), purge_step=step + 1)
        plain = {
            name: value if isinstance(value, bool | int | float) else str(value) for name, value in settings.items()
        }
        files = self._writer._get_file_writer()  # type: ignore[no-untyped-call]  # add_hparams would make a run of its own beside this one
        for summary in hparams(plain, {"validation/raw/loss": 0}):
            files.add_summary(summary)

    def line(self, entry: Mapping[str, Any]) -> None:
        """Copy one line of the journal."""
        for name, value in scalars(entry).items():
            self._writer.add_scalar(name, value, entry["step"])
        for name in entry.get("samples", ()):
            self._sample(Path(name), entry["step"])
        self._writer.flush()

    def _sample(self, name: Path, step: int) -> None:
        file = self._folder / name
        if file.suffix == ".png":
            from PIL import Image

            with Image.open(file) as picture:
                self._writer.add_image(
                    f"samples/{name.stem}", np.asarray(picture.convert("RGB")), step, dataformats="HWC"
                )
        elif file.suffix == ".txt":
            indented = "".join(f"    {line}\n" for line in file.read_text().splitlines())  # Markdown's verbatim
            self._writer.add_text(f"samples/{name.stem}", indented, step)

    def close(self, *, finished: bool) -> None:
        """Close the files."""
        self._writer.close()
