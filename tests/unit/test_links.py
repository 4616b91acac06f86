# SPDX-License-Identifier: Apache-2.0
"""Documentation leads somewhere: links between files, headings that they name, and paths in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return what a page's headings are reached by: lower case, hyphens for spaces, no other marks."""
    headings = _HEADING.findall(_FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def dead_links(page: Path, text: str) -> Iterator[str]:
    """Yield the relative links of a page whose file, or heading, is not there."""
    for target in _LINK.findall(_CODE.sub("", _FENCE.sub("", text))):
        if _OUTSIDE.match(target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if (path and not file.exists()) or (
            anchor and anchor not in anchors(text if file == page else file.read_text())
        ):
            yield target


def dead_paths(root: Path, page: Path, text: str, tops: frozenset[str]) -> Iterator[str]:
    """Yield the paths that a page names, from the project's root or its own folder, and that are not there.

    A path is any word that begins with a folder of the project, in commands and trees of files as well.
    """
    for word in re.findall(r"(?<![\w./~*<-])\.{0,2}[\w-][\w.*-]*(?:/[\w.*-]+)+/?", text):
        path = word.rstrip("./") if not word.endswith("*") else word
        if path.split("/")[0] not in tops:
            continue
        if not any(any(folder.glob(path)) for folder in (root, page.parent)):
            yield path


@pytest.fixture(scope="module")
def pages(root: Path, project_files: tuple[Path, ...]) -> dict[Path, str]:
    found = [root / each for each in project_files if each.suffix == ".md"]
    assert len(found) > 8
    return {each: each.read_text() for each in found}


@pytest.fixture(scope="module")
def tops(project_files: tuple[Path, ...]) -> frozenset[str]:
    """The folders at the project's root."""
    return frozenset(each.parts[0] for each in project_files if len(each.parts) > 1)


def test_links_lead_somewhere(root: Path, pages: dict[Path, str]) -> None:
    dead = [
        f"{page.relative_to(root)}: {each}"
        for page, text in pages.items()
        for each in dead_links(page, text)
    ]
    assert dead == []


def test_paths_in_the_text_are_there(root: Path, pages: dict[Path, str], tops: frozenset[str]) -> None:
    assert {"docs", "harness", "patches", "probes", "tests", "vm-images"} <= tops
    found = [(page, each) for page, text in pages.items() for each in dead_paths(root, page, text, tops)]
    assert [f"{page.relative_to(root)}: {each}" for page, each in found] == []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small project: a page beside a folder with a page that has headings."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/there.md").write_text("# A heading, with `code`\n```sh\n# a comment\n```\n")
    return tmp_path


@pytest.mark.parametrize(
    ("link", "is_dead"),
    [
        ("docs/there.md", False),
        ("docs", False),
        ("docs/there.md#a-heading-with-code", False),
        ("#this", False),
        ("https://example.org/gone.md", False),
        ("docs/gone.md", True),
        ("there.md", True),
        ("docs/there.md#gone", True),
        ("docs/there.md#a-comment", True),
        ("#gone", True),
    ],
)
def test_a_dead_link_is_noticed(checkout: Path, link: str, is_dead: bool) -> None:
    text = f"# This\n[words]({link}), `[code](gone.md)`\n```\n[fenced](gone.md)\n```\n"
    assert list(dead_links(checkout / "README.md", text)) == ([link] if is_dead else [])


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        ("`docs/there.md`, docs/there.md. And `docs/`", []),
        ("docs/*.md", []),
        ("klp check docs/gone -k 6.12", ["docs/gone"]),
        ("`docs/gone.md`, (docs/gone/x.py).", ["docs/gone.md", "docs/gone/x.py"]),
        ("docs/*.rst", ["docs/*.rst"]),
        ("not ours: tools/docs/x, ~/docs/x, /docs/x, other/gone.md", []),
    ],
)
def test_a_path_that_is_not_there_is_noticed(checkout: Path, text: str, dead: list[str]) -> None:
    assert list(dead_paths(checkout, checkout / "README.md", text, frozenset({"docs"}))) == dead
