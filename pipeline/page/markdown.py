"""The page as Markdown, which git hosts show: the same texts and tables, and links to the pictures beside it."""

import re
from collections.abc import Iterator, Sequence
from html import escape

from pipeline.page import tables
from pipeline.page.heading import Heading
from pipeline.page.html import Cell, Picture, Section, Table, Text


def markdown(head: Heading, sections: Sequence[Section]) -> str:
    """Heading and sections in the order of the page."""
    return "\n\n".join([*heading(head), *(part for section in sections for part in of_section(section))]) + "\n"


def heading(head: Heading) -> Iterator[str]:
    """Title, introduction, what to know first, the headline and the facts."""
    yield f"# {plain(head.title)}"
    yield from map(plain, head.introduction)
    yield from map(block, head.alerts)
    yield "\n".join(
        f"- {plain(name)}, test accuracy: **{plain(value)}** {plain(below)}" for name, value, below in head.cards
    )
    yield table(["", ""], head.facts)


def of_section(section: Section) -> Iterator[str]:
    """Title and blocks."""
    yield f"## {plain(section.title)}"
    yield from map(block, section.blocks)


def block(one: Picture | Table | Text) -> str:
    """A paragraph, a quotation for a box, a table below its caption or a picture above it."""
    if isinstance(one, Table):
        return f"{plain(one.caption)}\n\n{table(one.header, one.rows)}"
    if isinstance(one, Picture):
        return f"![{plain(one.alt)}]({one.name})\n\n{plain(one.caption)}"
    text = plain(one.text) + (f" [{one.link}]({one.link})" if one.link else "")
    return f"> {text}" if one.mark else text


def table(header: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> str:
    """A table; of a cell with a face only the words."""
    words = [[cell.text if isinstance(cell, Cell) else cell for cell in row] for row in (header, *rows)]
    first, *others = ([plain(word).replace("|", "\\|") for word in row] for row in words)
    return tables.markdown(first, others)


def plain(text: str) -> str:
    """A text in one line, without mark-up of its own: a class of a foreign data set may be named like a link."""
    return escape(re.sub(r"([\\\[\]])", r"\\\1", " ".join(text.split())), quote=False)
