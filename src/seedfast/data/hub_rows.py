"""Rows of a data set of the Hugging Face hub, or of a folder of its library `datasets`: an optional extra."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from seedfast import huggingface
from seedfast.errors import UserError

_SHOWN = 200  # characters of the library's message


def hub_rows(name: str) -> tuple[Any, Path, tuple[str, ...]]:
    """The rows of the data set's training split, and the folder and names of the files that hold them.

    Raises UserError if it is neither on this machine nor reachable.
    """
    title = f"hf:{name}"
    try:
        import datasets
    except ModuleNotFoundError:
        raise UserError(f"Reading {title} needs datasets: pip install 'seedfast[hub]'.") from None
    path, _, configuration = name.partition(":")
    folder = Path(path).expanduser()
    why: str | None = None
    is_here = False
    try:
        is_here = folder.exists()
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            rows = datasets.load_from_disk(str(folder))
            if isinstance(rows, datasets.DatasetDict):
                if "train" not in rows:
                    raise UserError(
                        f"The data set {title} has no split called train (it has {', '.join(rows)}): name the folder "
                        f"of a split, such as hf:{path}/{next(iter(rows), 'SPLIT')}."
                    )
                rows = rows["train"]
        else:
            # Without this the library retries an unreachable hub many times before it looks into its cache.
            why = huggingface.unreachable()
            with huggingface.offline(datasets.config) if why else nullcontext():
                rows = datasets.load_dataset(path, configuration or None, split="train")
    except UserError:
        raise
    except Exception as error:  # the library raises any exception on malformed files, and some of its own
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:_SHOWN].rstrip(".") or type(cause).__name__
        if is_here:
            raise UserError(
                f"The data set {title} cannot be loaded ({reason}): check its files and its configuration, or name "
                "one of the files without hf:."
            ) from error
        raise UserError(
            f"The data set {title} cannot be loaded ({why or reason}): check the name or, without "
            "network, download it elsewhere, store it with save_to_disk and name that folder."
        ) from error
    files = [Path(entry["filename"]) for entry in rows.cache_files]
    if not files:
        raise UserError(f"The data set {title} has no rows on the disk: choose another split or data set.")
    return rows, files[0].parent, tuple(file.name for file in files)


def hub_images(name: str, image: str, other: str | None, other_option: str) -> tuple[Any, Path, tuple[str, ...]]:
    """The rows of a data set of images, undecoded, and the folder and names of the files that hold them.

    image, other: the columns that it must have. other_option: the option that names the other one. Raises UserError as
    `hub_rows`, and if a column is missing or the images are none.
    """
    rows, root, names = hub_rows(name)
    import datasets

    for column in (image, other):
        if column is not None and column not in rows.column_names:
            raise UserError(
                f'The data set hf:{name} lacks the column "{column}" (it has {", ".join(rows.column_names)}): '
                f"name its columns in data.image_field and {other_option}."
            )
    if not isinstance(rows.features[image], datasets.Image):
        raise UserError(f'The column "{image}" of hf:{name} has the type {rows.features[image]}, not Image.')
    return rows.cast_column(image, datasets.Image(decode=False)), root, names
