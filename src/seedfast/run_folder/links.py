"""Links in a run folder. Folders of strangers may hold links to files of the user, which must not be written to."""

from pathlib import Path

from seedfast.errors import UserError
from seedfast.untrusted import leads_out

WRITTEN = (
    "lock", "run.yaml", "journal.jsonl", "events.jsonl", "train.log", "checkpoints", "latest.json", "best.json",
    "samples", "report", "report.html", "captions.html", "tensorboard", "wandb", "wandb.id",
    "trackio.id", "hub.json",
)  # fmt: skip
"""What seedfast writes into a run folder, except data that were given as Python values."""


def refuse_links(run_folder: Path, *names: str) -> None:
    """Raise UserError if one of these paths (default: all that are written) leads out of the folder through a link, or
    is neither a file nor a folder: opening a named pipe would wait for its other end."""
    for path in (run_folder / name for name in names or WRITTEN):
        if leads_out(path, run_folder):
            raise UserError(
                f"{path} leads out of the run folder through a link, so it is neither read nor written: put the whole "
                "run folder there, and link that."
            )
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is neither a file nor a folder: remove it.")
