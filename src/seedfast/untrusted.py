"""Reading folders that may come from a stranger: names stay inside, files are regular, sizes are bounded."""

import json
import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as FastLoader  # in C, ten times as fast
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader as FastLoader  # type: ignore[assignment]

JSON_LIMIT = 64 << 20
"""Largest size in bytes of a JSON file that describes a model or a folder. The largest ones list a file each line."""
YAML_LIMIT = 1 << 20
_YAML_NODES = 20_000  # of a document with every alias written out; a run has about a hundred
_YAML_DEPTH = 50


class UntrustedError(ValueError):
    """A file that is refused for what it is. The message, which names it, is the first part of a sentence."""


def plain_path(folder: Path, name: Any) -> Path:
    """The path of a file inside `folder`, by the name that another file gives it.

    Raises ValueError for a name that leads out of the folder, by itself or through a link, and for anything but a
    regular file.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) and "\0" not in name else ()
    if not parts or name.startswith("/") or ".." in parts:
        raise UntrustedError(f"{name!r} is no name of a file inside {folder}")
    return regular(folder.joinpath(*parts), folder)


def regular(path: Path, root: Path) -> Path:
    """The same path. Raises ValueError if a link leads out of `root`, or if it exists and is no regular file."""
    try:
        if leads_out(path, root):
            raise UntrustedError(f"{path} is a link that leads out of {root}: put the file itself there")
        if not stat.S_ISREG(path.stat().st_mode):
            raise UntrustedError(f"{path} is no regular file")
    except FileNotFoundError:
        pass
    return path


def leads_out(path: Path, root: Path) -> bool:
    """Whether a path below `root` is, through links, that of a place outside."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def read_bytes(path: Path, *, limit: int, root: Path | None = None) -> bytes:
    """The contents of a regular file inside `root` (default: its folder), of at most `limit` bytes.

    Raises OSError, or ValueError for another kind of file, a link that leads out, or a larger file.
    """
    regular(path, root or path.parent)  # opening a named pipe would block
    with path.open("rb") as file:
        # Python allocates what it is asked to read, so no more than the file is asked for.
        content = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    if len(content) > limit:
        raise UntrustedError(f"{path} has more than {limit} bytes")
    return content


def read_json(path: Path, *, limit: int = JSON_LIMIT, root: Path | None = None) -> Any:
    """The value in a JSON file. Errors as in `read_bytes`; ValueError for what is no JSON, or nested too deeply."""
    try:
        return json.loads(read_bytes(path, limit=limit, root=root))
    except RecursionError:
        raise UntrustedError(f"{path} is nested too deeply") from None


def read_yaml(path: Path, *, root: Path | None = None) -> Any:
    """The value in a YAML file.

    Errors as in `read_bytes`; ValueError for what is no YAML, has a key twice, is nested too deeply, or would be too
    large with its aliases written out.
    """
    text = read_bytes(path, limit=YAML_LIMIT, root=root).decode("utf-8-sig")
    try:
        depth, kind = 0, _Slow if _RARE_BREAKS.intersection(text) else _Fast
        for number, event in enumerate(yaml.parse(text, kind)):  # as it is read, so that it can end early
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if number > _YAML_NODES or depth > _YAML_DEPTH:
                raise UntrustedError(
                    f"{path} has more than {_YAML_NODES} values, or is nested more than {_YAML_DEPTH} deep"
                )
        loader = kind(text)
        node = loader.get_single_node()
        if node is not None and _nodes(node, {}) > _YAML_NODES:
            raise UntrustedError(f"{path} has more than {_YAML_NODES} values")
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UntrustedError(" ".join(str(error).split()).replace('in "<unicode string>", line', "at line")) from error
    except RecursionError:
        raise UntrustedError(f"{path} contains itself") from None


class _Strict(yaml.constructor.SafeConstructor):
    """YAML without keys that occur twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f'the key "{key.value}" occurs twice', key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
"""Dates stay texts."""


class _Fast(_Strict, FastLoader):
    yaml_implicit_resolvers = _RESOLVERS


class _Slow(_Strict, yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS


_RARE_BREAKS = frozenset("\x85\u2028\u2029")
"""Line breaks of YAML 1.1 that libyaml does not give back."""


def _nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of values of a YAML node, an alias counted as what it stands for. RecursionError for a cycle."""
    if id(node) not in known:
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        inner = [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_nodes(each, known) for each in inner)
    return known[id(node)]
