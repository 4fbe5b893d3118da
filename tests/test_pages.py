"""What each page of a trick has: a formula, a block that runs, a picture, tests that prove it, and what is said of it and wrong."""

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parent.parent
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs/tricks").glob("*.md"))}
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EQUATION = re.compile(r"`[^`\n]*(?: (?:=|<-|[+*/-]) |\^)[^`\n]*`")


def formula(text: str) -> bool:
    """An equation, a step or a term in the text itself."""
    return EQUATION.search(FENCE.sub("", text)) is not None


def block(text: str) -> bool:
    """A job that is validated or a program that is run by the tests of the pages."""
    return any(found[1] in ("json job", "python run") for found in FENCE.finditer(text))


def picture(text: str) -> bool:
    """A picture of ours, which is there, can be read, and is described for those who cannot see it."""
    found = re.findall(r"!\[([^\]]+)\]\(\.\./pictures/([\w-]+\.svg)\)", text)
    return bool(found) and all(len(words) >= 20 and drawn(ROOT / "docs/pictures" / name) for words, name in found)


def drawn(path: Path) -> bool:
    """An SVG with something in it."""
    if not path.is_file():
        return False
    root = ET.fromstring(path.read_bytes())
    return root.tag.endswith("}svg") and sum(1 for part in root.iter() if part.tag.endswith("}path")) > 5


def section(text: str, name: str) -> str:
    """What stands under a heading, or behind a bold word, up to the next one."""
    parts = re.split(r"^(?:## |\*\*)(?=[A-Z])", FENCE.sub("", text), flags=re.MULTILINE)
    return next((part.removeprefix(name) for part in parts if re.match(rf"{name}(?:\.\*\*|$)", part, re.MULTILINE)), "")


def proof(text: str) -> bool:
    """Names of tests, all of which there are."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", section(text, "Tests"))
    return bool(named) and all((ROOT / file).is_file() and f"\ndef {test}(" in (ROOT / file).read_text() for file, test in named)


def refutation(text: str) -> bool:
    """Something that people say, in quotes, and why it is wrong."""
    return re.search(r'"[^"]{10,}"\W?\s+\w', section(text, "Said, and wrong")) is not None


PARTS: dict[str, Callable[[str], bool]] = {
    "a formula": formula, "a block that runs": block, "a picture": picture, "tests": proof, "what is said and wrong": refutation,
}  # fmt: skip


def lacking(text: str) -> list[str]:
    return [name for name, has in PARTS.items() if not has(text)]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_its_parts(page: str) -> None:
    assert lacking(PAGES[page]) == []


@pytest.mark.parametrize("part", PARTS)
def test_a_page_without_a_part_is_found(part: str) -> None:
    """Of a page that has all, each part taken out."""
    without = {
        "a formula": re.sub(r" (<-|[=+*/-]) |\^", " and ", PAGES["dropout"]),
        "a block that runs": PAGES["dropout"].replace("```json job", "```json").replace("```python run", "```text"),
        "a picture": PAGES["dropout"].replace("dropout.svg", "no-such-picture.svg"),
        "tests": PAGES["dropout"].replace("::test_each_unit", "::test_no_unit"),
        "what is said and wrong": PAGES["dropout"].replace("**Said, and wrong.**", "So much for that."),
    }
    assert lacking(without[part]) == [part]


def test_every_page_of_a_trick_is_linked_from_the_architecture() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    assert [page for page in PAGES if f"(tricks/{page}.md)" not in text] == []


def test_every_picture_is_shown() -> None:
    shown = {name for text in PAGES.values() for name in re.findall(r"\.\./pictures/([\w-]+\.svg)", text)}
    assert {path.name for path in (ROOT / "docs/pictures").glob("*.svg")} == shown
