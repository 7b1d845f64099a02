"""Texts that UTF-8 cannot hold: file names of other encodings, and half characters of JSON."""


def is_utf8(text: str) -> bool:
    """Whether a text can be written: not with half a character, as JSON's \\ud800 and some file names have."""
    return escaped(text) == text


def escaped(text: str) -> str:
    """The text, with escapes for what UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()
