"""The Hugging Face hub: what is on this machine first, the hub only if it can be reached, or else one sentence."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from safetensors import SafetensorError

from seedfast.errors import UserError

T = TypeVar("T")
_REFUSALS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)


def transformers() -> Any:
    """The library, which is an extra. Raises UserError if it is missing."""
    try:
        import transformers
    except ImportError as error:
        raise UserError("Pretrained models need transformers: pip install 'seedfast[hub]'.") from error
    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and notices; errors are ours to say."""
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
    """`read(source, local_files_only=…)`: what is on this machine first, and the hub only if it can be reached.

    what: for the message, such as "The model". Raises UserError if it cannot be loaded.
    """
    folder = Path(name).expanduser()
    with quiet():
        try:
            return read(str(folder) if folder.exists() else name, local_files_only=True)
        except _REFUSALS as error:
            if folder.exists():
                raise UserError(f"{what} in {name} cannot be read ({first_line(error)}).") from error
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise UserError(f'{what} "{name}" cannot be loaded: there is no such folder.')
        if why := unreachable():
            raise UserError(
                f'{what} "{name}" cannot be loaded (it is no folder, it is not in the cache of the hub, and '
                f"{why}): where there is no network, name a folder that holds it."
            )
        try:
            return read(name, local_files_only=False)
        except _REFUSALS as error:
            raise UserError(
                f'{what} "{name}" cannot be loaded from the Hugging Face hub ({first_line(error)}).'
            ) from error


def check_repository(name: str) -> None:
    """Raises UserError if no repository of the hub can have this name, or the hub's package is missing."""
    try:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id
    except ImportError as error:
        raise UserError("To upload needs the package huggingface_hub: pip install 'seedfast[hub]'.") from error
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{name} is no name for the hub ({first_line(error)}): it should be like USER/MODEL.") from None


def unreachable() -> str | None:
    """Why the hub cannot be reached, if that shows at once: its client would try for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask the hub"
    if getproxies():
        return None  # only the client knows whether the proxy lets it through
    host = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((host.hostname or "", host.port or 443), timeout=5).close()
    except OSError as error:
        return f"{host.hostname} cannot be reached from this machine ({error.strerror or error})"
    return None


@contextmanager
def only_here(*offline: ModuleType) -> Iterator[None]:
    """Ask no hub meanwhile: its own library and these, each of which keeps the setting for itself."""
    from huggingface_hub import constants

    before = [(module, module.HF_HUB_OFFLINE) for module in (constants, *offline)]
    for module, _ in before:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in before:
            module.HF_HUB_OFFLINE = value


def first_line(error: BaseException) -> str:
    """The message of an error, on one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
