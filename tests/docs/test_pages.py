"""Every page of the documentation is on the site, its links lead somewhere, and its Python is valid."""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.pages import PAGES, ROOT, anchors, blocks, links

DOCS = ROOT / "docs"
COMPLETE = ("concepts/keys.md",)
"""Pages whose Python runs as it stands; other tests of this folder run those that need a file or a run."""
NAMES = {str(page.relative_to(ROOT)): page for page in PAGES}


def navigation(part: Any) -> list[str]:
    """The pages of the navigation in mkdocs.yml, in its order."""
    if isinstance(part, str):
        return [part]
    inner = part if isinstance(part, list) else list(part.values())
    return [page for each in inner for page in navigation(each)]


def test_every_page_is_in_the_navigation_once() -> None:
    named = navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    found = [str(page.relative_to(DOCS)) for kind in ("*.md", "*.ipynb") for page in DOCS.rglob(kind)]
    assert sorted(named) == sorted(found)


def broken(page: Path) -> list[str]:
    """The links of a page without a file, or without a heading in it; on the site, also those that leave docs/."""
    wrong = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        leaves = page.is_relative_to(DOCS) and not file.is_relative_to(DOCS)
        if leaves or not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    assert broken(NAMES[name]) == []


def test_broken_links_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# A page\n[here](#a-page), [not](#another), [nor](other.md), [code](../x)\n")
    assert broken(tmp_path / "page.md") == ["#another", "other.md", "../x"]


@pytest.mark.parametrize("name", [name for name, page in NAMES.items() if blocks(page, "python", "py")])
def test_python_is_valid_and_imports_what_there_is(name: str) -> None:
    for block in blocks(NAMES[name], "python", "py"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seedfast"):
                module = import_module(node.module or "")
                assert all(hasattr(module, each.name) for each in node.names), ast.unparse(node)


@pytest.mark.parametrize("name", COMPLETE)
def test_a_complete_page_runs(name: str) -> None:
    names: dict[str, Any] = {}
    for block in blocks(DOCS / name, "python"):
        exec(block, names)
    assert names
