"""The pages of docs: complete, in the navigation, and their links lead somewhere."""

import re
from pathlib import Path

import pytest
import yaml

import spikediff

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
CODE_OR_EQUATION = re.compile(r"^```.*?^```|\$[^$\n]+\$", re.M | re.S)


def leaves(tree):
    """The pages of a navigation."""
    if isinstance(tree, str):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree
    return [leaf for part in parts for leaf in leaves(part)]


def test_every_page_is_in_the_navigation():
    nav = re.search(r"^nav:.*", (ROOT / "mkdocs.yml").read_text(), re.M | re.S)[0]
    named = leaves(yaml.safe_load(nav)["nav"])
    notebooks = {f"notebooks/{p.stem}.md" for p in (ROOT / "notebooks").glob("*.ipynb")}
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES}
    assert sorted(named) == sorted(pages | notebooks)


def test_the_reference_has_every_public_name_once():
    named = re.findall(r"^::: spikediff\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.M)
    assert sorted([*named, "__version__"]) == sorted(spikediff.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT / "docs")))
def test_relative_links_lead_somewhere(page):
    text = CODE_OR_EQUATION.sub("", page.read_text())
    links = re.findall(r'(?:\]\(|src=")(?!#|[a-z]+:)([^)#"\s]+)', text)
    assert [link for link in links if not (page.parent / link).exists()] == []
