"""A table as data, and as Markdown."""

from collections.abc import Sequence

Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # header, rows


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the cells hold none of its marks."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))
