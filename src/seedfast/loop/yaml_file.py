"""Reading YAML files of users: plain values only, and no key twice."""

from pathlib import Path
from typing import Any

import yaml

from seedfast.errors import UserError


class _Loader(yaml.SafeLoader):
    """A YAML reader that refuses a key that stands twice, of which YAML's own keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node. Raises yaml.YAMLError for a duplicate key."""
        names = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, key in enumerate(names):
            if any(key.value == earlier.value for earlier in names[:index]):
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} stands twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError if there is none."""
    try:
        content = yaml.load(path.read_text("utf-8-sig"), _Loader)  # a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as a YAML file: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UserError(f"{path} cannot be read as a YAML file: it is nested too deeply.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of a run's fields to values.")
    return content
