"""The Hugging Face hub: local files first, then the hub if it is reachable, otherwise an error in one sentence."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from safetensors import SafetensorError

from seedfast.errors import UserError

T = TypeVar("T")
_LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)


def transformers() -> Any:
    """The optional package transformers. Raises UserError if it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise UserError("Pretrained models need transformers: pip install 'seedfast[hub]'.") from error
    return transformers


def blocks(model: Any) -> list[Any]:
    """The modules of a model of transformers (or of one inside it) that its authors list as not to be split."""
    modules = [] if model is None else list(model.modules())
    names = {name for module in modules for name in getattr(module, "_no_split_modules", None) or ()}
    return [module for module in modules if type(module).__name__ in names]


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the progress bars and notices of transformers."""
    logging = transformers().utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def fetch(what: str, name: str, read: Callable[..., T]) -> T:
    """The result of `read(source, local_files_only=…)`: local files first, then the hub if it is reachable.

    Code that comes with a model is never run: without `trust_remote_code=False` transformers asks on the terminal.
    what: the subject of error messages, such as "The model". Raises UserError if it cannot be loaded.
    """
    folder = Path(name).expanduser()
    read = partial(read, trust_remote_code=False)
    with quiet():
        try:
            return read(str(folder) if folder.exists() else name, local_files_only=True)
        except _LOADING_ERRORS as error:
            if folder.exists():
                raise UserError(f"{what} in {name} cannot be read ({first_line(error)}).") from error
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise UserError(f'{what} "{name}" cannot be loaded: there is no such folder.')
        if why := unreachable():
            raise UserError(
                f'{what} "{name}" cannot be loaded (it is not a folder, it is not in the cache of the hub, and '
                f"{why}): without a network, name a folder that contains it."
            )
        try:
            return read(name, local_files_only=False)
        except _LOADING_ERRORS as error:
            raise UserError(
                f'{what} "{name}" cannot be loaded from the Hugging Face hub ({first_line(error)}).'
            ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, such as a model's config.json. Raises UserError if there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({first_line(error)}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object.")
    return content


def check_repository(name: str) -> None:
    """Raise UserError for an invalid repository name, or if the package of the hub is not installed."""
    try:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id
    except ImportError as error:
        raise UserError("Uploading needs the package huggingface_hub: pip install 'seedfast[hub]'.") from error
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{name} is not a repository name ({first_line(error)}): use USER/MODEL.") from None


def check_reachable(name: str) -> None:
    """Raise UserError if the hub of a repository is unreachable."""
    if reason := unreachable():
        raise UserError(f"{name} cannot be pushed to: {reason}.")


def unreachable() -> str | None:
    """The reason why the hub is unreachable, or None. A quick test: the hub's client retries for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids access to the hub"
    if getproxies():
        return None  # only the client can tell whether the proxy forwards it
    host = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((host.hostname or "", host.port or 443), timeout=5).close()
    except OSError as error:
        return f"{host.hostname} cannot be reached from this machine ({error.strerror or error})"
    return None


@contextmanager
def offline(*modules: ModuleType) -> Iterator[None]:
    """Disable access to the hub in its own library and in these modules, each of which has a copy of the setting."""
    from huggingface_hub import constants

    before = [(module, module.HF_HUB_OFFLINE) for module in (constants, *modules)]
    for module, _ in before:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in before:
            module.HF_HUB_OFFLINE = value


def first_line(error: BaseException) -> str:
    """The first line of an error message, or the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
