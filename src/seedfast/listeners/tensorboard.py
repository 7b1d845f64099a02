"""The journal, copied to TensorBoard as it is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seedfast.listeners.base import Listener, require
from seedfast.run_folder.journal import Entry, sample_files, scalars

_FLUSH_SECONDS = 5


class TensorBoardListener(Listener):
    """Writes each line of the journal to `tensorboard/` in the run folder: curves, samples, settings of the run.

    step: step of the newest checkpoint. Existing curves are cut there, so each step appears once in a resumed run.
    Files are flushed at validations and samples, and every few seconds in between.
    """

    def __init__(self, run_folder: Path, settings: Mapping[str, Any], *, step: int) -> None:
        """Raises UserError if the package is missing."""
        require("tensorboard")
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams as hparams_untyped

        hparams: Any = hparams_untyped
        self._folder = run_folder
        self._writer: Any = SummaryWriter(
            str(run_folder / "tensorboard"), purge_step=step + 1, flush_secs=_FLUSH_SECONDS
        )
        plain = {
            name: value if isinstance(value, bool | int | float) else str(value) for name, value in settings.items()
        }
        # add_hparams would create a second run beside this one.
        file_writer = self._writer._get_file_writer()  # type: ignore[no-untyped-call]
        losses = ["validation/raw/loss", *(["validation/ema/loss"] if plain.get("ema.half_life") else [])]
        for summary in hparams(plain, dict.fromkeys(losses, 0)):
            file_writer.add_summary(summary)

    def on_entry(self, entry: Entry) -> None:
        """Copy one line of the journal."""
        for name, value in scalars(entry).items():
            self._writer.add_scalar(name, value, entry["step"])
        self._add_samples(sample_files(self._folder, entry), entry["step"])
        if "loss" not in entry:  # the line of a validation or of samples
            self._writer.flush()

    def _add_samples(self, files: Mapping[str, Path], step: int) -> None:
        for name, file in files.items():
            if file.suffix == ".png":
                from PIL import Image

                with Image.open(file) as picture:
                    pixels_HWC = np.asarray(picture.convert("RGB"))
                self._writer.add_image(name, pixels_HWC, step, dataformats="HWC")
            elif file.suffix == ".txt":
                indented = "".join(f"    {line}\n" for line in file.read_text().splitlines())  # verbatim in Markdown
                self._writer.add_text(name, indented, step)

    def close(self, *, finished: bool) -> None:
        """Flush and close the files."""
        self._writer.close()
