"""What the page of the report is made of, and how it writes values."""

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.process import InputError

DASH = "–"


class Picture(NamedTuple):
    """A file beside the page; `wide` pictures take the whole width."""

    name: str
    content: bytes
    caption: str
    wide: bool = True
    kind: str = "picture"

    @property
    def url(self) -> str:
        """The content as a data URL."""
        return data_url(self.content, "svg+xml" if self.name.endswith(".svg") else "png")


class Cell(NamedTuple):
    """A table cell of text or, where `image` is set, a picture; `mark` is a CSS class."""

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
    """A paragraph; mark "note" or "warning" puts it into a box."""

    text: str
    mark: str = ""
    kind: str = "text"


class Section(NamedTuple):
    """A heading with blocks below it."""

    title: str
    blocks: Sequence[Picture | Table | Text]

    @property
    def anchor(self) -> str:
        """The title as an address within the page."""
        return "-".join("".join(letter if letter.isalnum() else " " for letter in self.title.lower()).split())


def data_url(content: bytes, kind: str) -> str:
    """A picture inside the page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises InputError where the file holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except ValueError as error:
        raise InputError(f"{path}: no JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def flatten(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values of nested mappings."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """Mean and sample standard deviation; a dash for no value."""
    if not values:
        return DASH
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def plain(key: str) -> str:
    """A key as words."""
    return str(key).replace("_", " ")
