"""The page: sections of sentences, pictures and tables as one HTML file that needs nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape as escape_html
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Picture:
    """An inline SVG and the sentence that says what it shows.

    Attributes:
        svg: The element.
        says: Plain text.
        heading: Plain text above it, or empty.
    """

    svg: str
    says: str
    heading: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first column is text, the others are figures.

    Attributes:
        columns: Headings.
        rows: Cells, as many as headings; a single one heads the rows below it.
        says: Plain text below it, or empty.
        marked: Numbers of the rows that stand out.
        beside: Whether it is narrow enough to stand beside a picture.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    says: str = ""
    marked: frozenset[int] = frozenset()
    beside: bool = False


@dataclass
class Section:
    """A part of the page.

    Attributes:
        title: Its heading.
        text: Paragraphs of plain text.
        parts: Pictures and tables in their order; pictures in a row stand side by side where there is room.
        after: A paragraph after the parts, in small print, or empty.
    """

    title: str
    text: list[str] = field(default_factory=list)
    parts: list[Picture | Table] = field(default_factory=list)
    after: str = ""


@dataclass(frozen=True)
class Tile:
    """A figure in large type.

    Attributes:
        name: What it is.
        value: The figure.
        note: Its interval, or what to compare it with.
    """

    name: str
    value: str
    note: str


def render(
    title: str,
    subtitle: str,
    headline: Sequence[str],
    tiles: Sequence[Tile],
    warnings: Sequence[str],
    sections: Sequence[Section],
    facts: dict[str, str],
) -> str:
    """Return the page as HTML.

    Args:
        title: The page's name.
        subtitle: The line under it.
        headline: Sentences, the first in large type.
        tiles: Figures in large type.
        warnings: What a reader has to know before the figures.
        sections: The page's parts.
        facts: What was evaluated: key and value, at the foot.
    """
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    lead, *rest = headline
    body = [
        f"<header><h1>{escape(title)}</h1><p class='subtitle'>{escape(subtitle)}</p></header>",
        f"<section class='headline'><p class='lead'>{escape(lead)}</p>",
        *(f"<p>{escape(text)}</p>" for text in rest),
        "<dl class='tiles'>" + "".join(_tile(tile) for tile in tiles) + "</dl>" if tiles else "",
        _warnings(warnings),
        "</section>",
        *(_section(number, section) for number, section in enumerate(sections)),
        "<footer><h2>What was evaluated</h2><dl>",
        *(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items()),
        "</dl></footer>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # no icon: a browser would ask the server for one and complain
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, body))
        + "\n</main>\n</body>\n</html>\n"
    )


def escape(text: str) -> str:
    r"""Return plain text as HTML, with percent signs that stay with their number.

    Examples:
        >>> escape("50 % < 1") == "50\u00a0% &lt; 1"
        True
    """
    return escape_html(re.sub(r"(?<=\d) %", "\u00a0%", text))


def _tile(tile: Tile) -> str:
    return f"<div><dt>{escape(tile.name)}</dt><dd>{escape(tile.value)}<small>{escape(tile.note)}</small></dd></div>"


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f"<aside class='warnings'><h2>Before you quote these figures</h2><ul>{items}</ul></aside>"


def _section(number: int, section: Section) -> str:
    html = [f"<section id='section-{number}'><h2>{escape(section.title)}</h2>"]
    html += [f"<p>{escape(text)}</p>" for text in section.text]
    beside = False
    for part in section.parts:
        if (isinstance(part, Picture) or part.beside) != beside:
            html.append("</div>" if beside else "<div class='pictures'>")
            beside = not beside
        html.append(_picture(part) if isinstance(part, Picture) else _table(part))
    html.append("</div>" if beside else "")
    html.append(f"<p class='after'>{escape(section.after)}</p>" if section.after else "")
    return "\n".join(filter(None, [*html, "</section>"]))


def _picture(picture: Picture) -> str:
    heading = f"<h3>{escape(picture.heading)}</h3>" if picture.heading else ""
    return f"<figure>{heading}{picture.svg}<figcaption>{escape(picture.says)}</figcaption></figure>"


def _table(table: Table) -> str:
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in table.columns)
    rows = []
    for number, (first, *cells) in enumerate(table.rows):
        if not cells:
            rows.append(
                f"<tr><th class='group' scope='rowgroup' colspan='{len(table.columns)}'>{escape(first)}</th></tr>"
            )
            continue
        mark = " class='marked'" if number in table.marked else ""
        rows.append(
            f"<tr{mark}><th scope='row'>{escape(first)}</th>"
            + "".join(f"<td>{escape(c)}</td>" for c in cells)
            + "</tr>"
        )
    says = f"<p class='after'>{escape(table.says)}</p>" if table.says else ""
    html = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"<div><div class='table'>{html}</div>{says}</div>"
