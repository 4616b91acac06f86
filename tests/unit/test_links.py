# SPDX-License-Identifier: Apache-2.0
"""Documentation leads somewhere: links between files, headings that they name, and paths in any text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^()\s]+)(?: \"[^\"]*\")?\)|^\[[^\]\n]+\]: (\S+)", re.MULTILINE)
_OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return what a page's headings are reached by: lower case, hyphens for spaces, no other marks."""
    headings = _HEADING.findall(_FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def dead_links(page: Path, text: str) -> Iterator[str]:
    """Yield the relative links of a page whose file, or heading, is not there."""
    for target in map("".join, _LINK.findall(_CODE.sub("", _FENCE.sub("", text)))):
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
    begins = "|".join(map(re.escape, sorted(tops)))
    words = re.findall(rf"(?<![\w./~*<-])(?:{begins})(?:/[\w.*-]+)+/?", text)
    for path in dict.fromkeys(word.rstrip("./") if not word.endswith("*") else word for word in words):
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


@pytest.fixture(scope="module")
def texts(root: Path, project_files: tuple[Path, ...]) -> dict[Path, str]:
    """All that may name a path: not tests, which make names up, nor what is no text."""
    others = (".png", ".gz", ".ko")
    files = [
        root / each for each in project_files
        if each.parts[0] != "tests" and each.suffix not in others and each.name != ".gitignore"
    ]  # fmt: skip
    return {each: each.read_text() for each in files}


def test_paths_in_the_text_are_there(root: Path, texts: dict[Path, str], tops: frozenset[str]) -> None:
    assert {"docs", "harness", "patches", "probes", "tests", "vm-images"} <= tops
    assert {".py", ".c", ".toml", ".md", ".8"} <= {each.suffix for each in texts}
    found = [(page, each) for page, text in texts.items() for each in dead_paths(root, page, text, tops)]
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
        ('docs/gone.md "a title"', True),
        ('docs/there.md "a title"', False),
    ],
)
def test_a_dead_link_is_noticed(checkout: Path, link: str, is_dead: bool) -> None:
    text = f"# This\n[words]({link}), `[code](gone.md)`\n```\n[fenced](gone.md)\n```\n"
    assert list(dead_links(checkout / "README.md", text)) == ([link.partition(" ")[0]] if is_dead else [])
    by_name = f"[words][name]\n\n[name]: {link}\n# This\n"
    assert bool(list(dead_links(checkout / "README.md", by_name))) is is_dead


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
