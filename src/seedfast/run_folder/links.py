"""Links in a run folder. Folders of strangers may hold links to files of the user, which must not be written to."""

from pathlib import Path

from seedfast.errors import UserError
from seedfast.untrusted import leads_out

WRITTEN = (
    "lock", "run.yaml", "journal.jsonl", "events.jsonl", "checkpoints", "latest.json", "best.json", "samples", "report",
    "report.html", "captions.html", "tensorboard", "wandb", "wandb.id", "hub.json",
)  # fmt: skip
"""What seedfast writes into a run folder, except data that were given as Python values."""


def refuse_links(run_folder: Path, *names: str) -> None:
    """Raise UserError if one of these paths (default: all that are written) is a link that leads out of the folder."""
    for name in names or WRITTEN:
        if leads_out(run_folder / name, run_folder):
            raise UserError(
                f"{run_folder / name} leads out of the run folder through a link, so it is neither read nor written: "
                "put the whole run folder there, and link that."
            )
