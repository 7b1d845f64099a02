"""The pages of the documentation: their blocks of code, their commands, their links."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


class Command(NamedTuple):
    """The words of a command after `seedfast`, and the recipe of each run folder that its page trains."""

    page: str
    words: tuple[str, ...]
    trained: tuple[tuple[str, str], ...]


def blocks(page: Path, *languages: str) -> list[str]:
    """The blocks of code of a page in some languages ("" for a block without one)."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def commands() -> list[Command]:
    """Each command of seedfast in the shell blocks of all pages, also behind torchrun."""
    found = []
    for page in PAGES:
        words = [each for block in blocks(page, "sh", "") for each in _of_block(block)]
        trained = tuple((_out(each), each[1]) for each in words if each[0] == "train" and len(each) > 1)
        found += [Command(str(page.relative_to(ROOT)), each, trained) for each in words]
    return found


def _of_block(block: str) -> Iterator[tuple[str, ...]]:
    for line in block.replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            if match := re.match(r"\s*(?:.*? -m )?seedfast (\S.*)", part):
                words = shlex.split(match[1], comments=True)
                end = next((i for i, word in enumerate(words) if word in ("|", "<", ">")), len(words))
                yield tuple(words[:end])


def _out(words: tuple[str, ...]) -> str:
    return words[words.index("--out") + 1] if "--out" in words else f"runs/{words[1]}"


def links(page: Path) -> list[str]:
    """The targets of the links and pictures of a page that lie in the repository."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found: list[str] = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in found if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The names by which the headings of a page are linked to, as GitHub and Python-Markdown make them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    kept = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[\s]+", "-", heading) for heading in kept}
