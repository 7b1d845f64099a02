"""The messages of a chat: the text of each, and the images in their contents."""

import re
from base64 import b64decode
from binascii import Error as NoBase64Error
from collections.abc import Mapping
from typing import Any

from seedfast.serve.body import Body, WireError, items, object_, short, text

_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def read_messages(values: list[Any]) -> tuple[tuple[Mapping[str, str], ...], tuple[bytes, ...]]:
    """The messages of a chat with their texts, and the images in them."""
    if not values:
        raise WireError('messages is missing: give a list such as [{"role": "user", "content": "Hello"}].', "messages")
    messages, images = [], []
    for number, value in enumerate(values):
        where = f"messages[{number}]"
        body = Body(object_(where, value))
        role = body.take("role", text, "")
        if not role:
            raise WireError(f"{where} has no role, such as user, assistant or system.", "messages")
        if not _ROLE.fullmatch(role):  # a template writes it between its own special tokens
            raise WireError(f"{where} has a role that is no word ({short(role)}), such as user.", "messages")
        content = body.take("content", lambda _name, found: found, "")
        body.take("name", text, "")
        body.refuse_rest(["role", "content"], [])
        texts = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else items(where, content):
            kind = object_(f"{where}.content", part).get("type")
            if kind == "text":
                texts.append(text(f"{where}.content", part.get("text")))
            elif kind == "image_url":
                images.append(_image(where, part.get("image_url")))
            else:
                raise WireError(f"{where} has a part of the type {short(kind)}; there are text and image_url.", where)
        messages.append({"role": role, "content": "".join(texts)})
    return tuple(messages), tuple(images)


def _image(where: str, value: Any) -> bytes:
    """The file of an image content part."""
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str) or not url.startswith("data:"):
        raise WireError(
            f"{where} names an image that is no data: URL. This server fetches nothing: send the file itself, as "
            "data:image/png;base64,….",
            "messages",
        )
    head, _, data = url.partition(",")
    if not head.endswith(";base64"):
        raise WireError(f"{where} has an image that is not in base64: send data:image/png;base64,….", "messages")
    try:
        return b64decode(data, validate=True)
    except (NoBase64Error, ValueError):
        raise WireError(f"{where} has an image that is not valid base64.", "messages") from None
