"""A model to the Hugging Face hub: as others load it or, if its network is seedfast's own, as a run to sample from."""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from seedfast import huggingface
from seedfast.errors import UserError
from seedfast.evaluate.trained import Trained
from seedfast.export.export import plain_card, writer
from seedfast.files import FileDigest
from seedfast.loop.config import Run, from_mapping, to_yaml
from seedfast.run_folder.checkpoint import Checkpoints
from seedfast.sealed_folder import MANIFEST

_PATIENCE = 120.0  # seconds without a word from the hub


def write(model: Trained, folder: Path) -> None:
    """Write what is uploaded of a trained model into a folder that is there."""
    (writer(model, merge=False) or partial(_write_run, model))(folder)


def _write_run(model: Trained, folder: Path) -> None:
    """A run folder whose one checkpoint has the model's weights, and nothing that only training needs."""
    checkpoint, run = model.committed, _portable(model.run)
    omitted = {MANIFEST, "optimizer.safetensors", f"{'model' if model.weights == 'ema' else 'ema'}.safetensors"}

    def fill(attempt: Path) -> Mapping[str, FileDigest]:
        for path in checkpoint.folder.iterdir():
            if path.is_dir():
                shutil.copytree(path, attempt / path.name)
            elif path.name not in omitted:
                shutil.copyfile(path, attempt / path.name)
        (attempt / "run.yaml").write_text(to_yaml(run))
        for name in checkpoint.state.shared:
            shutil.copyfile(checkpoint.folder.parent / name, attempt.parent / name)
        return checkpoint.state.shared

    Checkpoints(folder).save(checkpoint.step, fill, checkpoint.manifest.facts())
    (folder / "run.yaml").write_text(to_yaml(run))
    card = plain_card(model, f"A model of the recipe {run.recipe}", "generative", "seedfast sample PATH")
    (folder / "README.md").write_text(card, "utf-8")


def _portable(run: Run) -> Run:
    """The run without the folders of this machine: of each path its last part."""

    def portable(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: portable(part) for key, part in value.items()}
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return from_mapping(run, portable(yaml.safe_load(to_yaml(run))), where="run.yaml")


def push(folder: Path, name: str, *, private: bool, message: str | None = None) -> str:
    """Upload a folder to the Hugging Face hub and return its address.

    private: if the repository has to be made. Raises UserError if the hub cannot be reached, refuses or is silent.
    """
    huggingface.check_repository(name)
    if why := huggingface.unreachable():
        raise UserError(f"{name} cannot be pushed to: {why}.")
    import huggingface_hub
    from huggingface_hub import errors

    huggingface_hub.get_session().timeout = _PATIENCE  # by default it would wait for ever
    try:
        repository = huggingface_hub.HfApi().create_repo(name, private=private, exist_ok=True)
        huggingface_hub.HfApi().upload_folder(
            folder_path=folder, repo_id=repository.repo_id, commit_message=message or f"Upload {folder.name}"
        )
    except (errors.HTTPError, OSError, ValueError) as error:
        raise UserError(f"The hub does not take it as {name} ({huggingface.first_line(error)}).") from error
    return str(repository)
