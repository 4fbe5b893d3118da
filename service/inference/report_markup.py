"""HTML of a report: text that is always escaped, numbers, tables, pictures and the page around them."""

import base64
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What the page may load, which is nothing (Content-Security-Policy)."""
STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2128; --soft: #59616d; --line: #d9dee5; --card: #f6f8fa; --accent: #2f7fc1; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0f1216; --ink: #dfe4ea; --soft: #98a2b0; --line: #2a313b; --card: #151a20; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 3rem; font: 15px/1.5 system-ui, sans-serif;
  background: var(--page); color: var(--ink); }
h1 { margin: 0; font-size: 1.7rem; overflow-wrap: anywhere; }
h2 { margin: 0 0 .5rem; font-size: 1.05rem; }
header { margin-bottom: 1.5rem; border-bottom: 2px solid var(--accent); padding-bottom: .75rem; }
p { margin: .5rem 0 0; max-width: 48rem; overflow-wrap: anywhere; }
p, figcaption, summary { color: var(--soft); }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 31rem), 1fr)); gap: 1.25rem; }
section { min-width: 0; border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; }
section.wide { grid-column: 1 / -1; }
.scroll { overflow: auto; max-height: 26rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .25rem; }
th, td { padding: .25rem .65rem .25rem 0; text-align: right; white-space: nowrap; unicode-bidi: isolate;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
th:first-child { text-align: left; white-space: normal; }
thead th { color: var(--soft); font-weight: 400; vertical-align: bottom; }
.scroll + .scroll, figure + .scroll { margin-top: 1rem; }
figure { margin: 0; }
img { display: block; width: 100%; max-width: 34rem; height: auto; margin: 0 auto; }
pre { overflow: auto; max-height: 40rem; margin: .75rem 0 0; padding: .75rem; border-radius: .35rem; font-size: 13px;
  background: var(--card); }
details + details { margin-top: .5rem; }
summary { cursor: pointer; }
@media (max-width: 30rem) {
  body { padding: 1rem .65rem 2rem; }
  section { padding: .75rem; }
  table { font-size: 13px; }
  th, td { padding-right: .4rem; }
}
"""


class Html(str):
    """Markup. Every other string is text, and is escaped where it meets markup."""

    __slots__ = ()


def element(name: str, *content: str, **attributes: str) -> Html:
    """An element with its content; `class_` stands for `class`."""
    shown = "".join(f' {key.rstrip("_")}="{_escaped(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{shown}>{join(content)}</{name}>")


def join(content: Iterable[str]) -> Html:
    """Pieces of markup and text one after the other."""
    return Html("".join(piece if isinstance(piece, Html) else _escaped(piece) for piece in content))


def _escaped(text: str) -> str:
    """Text for a page: nothing in it is markup, a control character or half a surrogate pair."""
    return escape("".join("\ufffd" if unicodedata.category(mark) in ("Cc", "Cs") and mark != "\n" else mark for mark in text))


def number(value: object) -> str:
    """A number for people to read, a dash for what is not known, and any other value as its text."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    size = abs(value)
    if size == 0:
        return "0"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}" if size >= 1 else f"{value:.4f}" if size >= 0.001 else f"{value:.1e}"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> Html:
    """A table that scrolls where it is too wide; the first cell of a row names it."""
    top = element("tr", *(element("th", head, scope="col") for head in heads))
    body = [element("tr", element("th", str(row[0]), scope="row"), *(element("td", number(cell)) for cell in row[1:])) for row in rows]
    title = element("caption", caption) if caption else Html()
    # A box that scrolls must be within reach of the keyboard.
    return element("div", element("table", title, element("thead", top), element("tbody", *body)), class_="scroll", tabindex="0")


def figure(svg: bytes, alternative: str, caption: str) -> Html:
    """A picture inside the page; as an image nothing in it can run or load."""
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return element("figure", Html(f'<img alt="{_escaped(alternative)}" src="{source}">'), element("figcaption", caption))


def section(title: str, *content: str, wide: bool = False) -> Html:
    """A part of the page under its heading."""
    body = element("h2", title), *content
    return element("section", *body, class_="wide") if wide else element("section", *body)


def folded(title: str, *content: str) -> Html:
    """What is shown when asked for."""
    return element("details", element("summary", title), *content)


def document(title: str, *body: str) -> bytes:
    """The whole page, which needs nothing from anywhere and says so to the browser."""
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{_escaped(POLICY)}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<link rel="icon" href="data:,">'),
            element("title", title),
            element("style", Html(STYLE)),
        ]
    )
    page = element("html", element("head", head), element("body", *body), lang="en")
    return f"<!doctype html>\n{page}\n".encode()
