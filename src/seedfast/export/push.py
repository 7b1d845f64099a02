"""Upload of a model to the Hugging Face hub: as its export or, if only seedfast can load it, as a run folder."""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from seedfast import huggingface
from seedfast.errors import UserError
from seedfast.evaluate.trained import Trained
from seedfast.export.card import portable, simple_card
from seedfast.export.export import writer
from seedfast.files import FileDigest
from seedfast.loop.plain_config import to_yaml
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.sealed_folder import file_in
from seedfast.untrusted import regular

_TIMEOUT = 120.0  # seconds without an answer of the hub


def write(model: Trained, folder: Path) -> None:
    """Write the files to upload of a trained model into an existing folder."""
    (writer(model, merge=False) or partial(_write_run, model))(folder)


def _write_run(model: Trained, folder: Path) -> None:
    """A run folder whose one checkpoint has the weights of the model, without the files that only training needs."""
    checkpoint, run = model.committed, portable(model.run)
    omitted = {"optimizer.safetensors", f"{'model' if model.weights == 'ema' else 'ema'}.safetensors"}

    def fill(attempt: Path) -> Mapping[str, FileDigest]:
        for name in checkpoint.manifest.files.keys() - omitted:  # and nothing else that may lie in the folder
            copy = attempt.parent / Path(name).name if name.startswith("../") else attempt / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file_in(checkpoint.folder, name), copy)
        (attempt / "run.yaml").write_text(to_yaml(run))
        return checkpoint.shared

    Checkpoints(folder).save(checkpoint.step, fill, checkpoint.manifest.facts())
    (folder / "run.yaml").write_text(to_yaml(run))
    card = simple_card(model, f"A model of the recipe {run.recipe}", "generative", "seedfast sample PATH")
    (folder / "README.md").write_text(card, "utf-8")


def push(folder: Path, name: str, *, private: bool, message: str | None = None) -> str:
    """Upload a folder to the Hugging Face hub and return its address.

    name: of the repository, USER/MODEL. private: if the repository does not exist, create it as a private one.
    Raises UserError if the hub cannot be reached, refuses the upload or does not answer, or if the folder holds a link
    that leads out of it, which would upload what it leads to.
    """
    huggingface.check_repository(name)
    for path in folder.rglob("*"):
        try:
            if path.is_symlink() or not path.is_dir():
                regular(path, folder)
        except ValueError as error:
            raise UserError(f"{folder} cannot be uploaded: {error}.") from None
    huggingface.check_reachable(name)
    import huggingface_hub
    from huggingface_hub import errors

    huggingface_hub.get_session().timeout = _TIMEOUT  # there is none by default
    try:
        repository = huggingface_hub.HfApi().create_repo(name, private=private, exist_ok=True)
        huggingface_hub.HfApi().upload_folder(
            folder_path=folder, repo_id=repository.repo_id, commit_message=message or f"Upload {folder.name}"
        )
    except (errors.HTTPError, OSError, ValueError) as error:
        raise UserError(f"The hub refused the upload to {name} ({huggingface.first_line(error)}).") from error
    return str(repository)
