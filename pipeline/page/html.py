"""What the page is made of, how it writes values, and the page itself from page.html."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from pipeline.metrics import DASH


class Picture(NamedTuple):
    """A file beside the page; `wide` pictures take the whole width.

    alt: what the picture shows, for readers who cannot see it. width: its natural width, and text: its smallest text,
    both in pixels of the page.
    """

    name: str
    content: bytes
    caption: str
    alt: str
    width: float
    text: float
    wide: bool = True
    kind: str = "picture"

    @property
    def url(self) -> str:
        """The content as a data URL."""
        return data_url(self.content, "svg+xml" if self.name.endswith(".svg") else "png")

    @property
    def least_width(self) -> int:
        """The width at which the smallest text is 9 pixels high; a narrower page scrolls the picture."""
        return round(self.width * min(1, 9.1 / self.text))


class Cell(NamedTuple):
    """A table cell of text or, where `image` is set, a picture that the text describes; `mark` is a CSS class."""

    text: str = ""
    image: str = ""
    mark: str = ""


class Table(NamedTuple):
    """Rows of texts or Cells; the columns in `left` hold words and are aligned left, the others right."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: Sequence[int] = (0,)
    kind: str = "table"


class Text(NamedTuple):
    """A paragraph; mark "note" or "warning" puts it into a box. link: of a page beside this one, shown at its end."""

    text: str
    mark: str = ""
    link: str = ""
    kind: str = "text"


class Section(NamedTuple):
    """A heading with blocks below it."""

    title: str
    blocks: Sequence[Picture | Table | Text]

    @property
    def anchor(self) -> str:
        """The title as an address within the page."""
        return "-".join("".join(letter if letter.isalnum() else " " for letter in self.title.lower()).split())


def render(**parts: Any) -> str:  # noqa: ANN401 (what page.html asks for)
    """The page of the parts; texts are escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(**parts)


def data_url(content: bytes, kind: str) -> str:
    """A picture inside the page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def flatten(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values of nested mappings."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def method_name(method: str) -> str:
    """A method as the page writes it."""
    return {"nbp": "NBP", "bp": "BP"}.get(method, method)


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """Mean and sample standard deviation; a dash for no value."""
    if not values:
        return DASH
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def percent(value: float | None) -> str:
    """A share in per cent, or a dash."""
    return DASH if value is None else f"{100 * value:.1f} %"


def dropped(columns: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """The columns of a table that hold any value."""
    return {header: cells for header, cells in columns.items() if set(cells) != {DASH}}


def plain(key: str) -> str:
    """A key as words."""
    return str(key).replace("_", " ")


def listed(words: Sequence[str], last: str = "and") -> str:
    """Words in a sentence: a, b and c."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def counted(count: int, noun: str) -> str:
    """A number of things."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show(value: object, name: str = "") -> str:
    """A value of a table: thousands apart, ratios with two digits, a list from first to last, a dash for none."""
    if value is None:
        return DASH
    if name.endswith("quartiles") and isinstance(value, list):
        return " to ".join(f"{quartile:.2f}" for quartile in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return method_name(str(value)) if name == "method" else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if name.endswith("ratio") or abs(value) < 10 else f"{value:,.0f}"
