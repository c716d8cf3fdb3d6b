"""FER2013's CSV -> chunks of faces, every value checked.

Rules for what the layouts leave open:
- Columns are found by name: `emotion`, `pixels`, `Usage`, spaces around them ignored, in any order, among any others.
- A row is a line. Rows count from 1 after the header; blank lines are skipped and not counted.
- `emotion` is one of 0..6, `Usage` one of the three names, spaces around them ignored; `pixels` holds 2,304 integers
  in 0..255 between white space.
- A column `drawn`, which the sample stage writes, marks drawn faces and holds 1 in every row. The mark outlives a copy
  to another name, and readers that look up FER2013's columns by name do not see it.
- A file without labels (Kaggle's test.csv) is refused: there is nothing to learn from it.
- A file without Usage (Kaggle's train.csv) is refused unless a cut is asked for.
"""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cfpn.schema import EXPRESSIONS, Description
from pipeline.data.audit import SPLITS
from pipeline.data.chunks import CHUNK, FAULTS_SHOWN, Chunk, Cut, Row, fault_list, identify
from pipeline.process import InputError

PIXELS = 48 * 48
USAGES = dict(zip((b"Training", b"PublicTest", b"PrivateTest"), SPLITS, strict=True))
LABELS = {str(label).encode(): label for label in range(len(EXPRESSIONS))}
LINE_LIMIT = 1 << 24  # bytes


class Columns(NamedTuple):
    """Names in the header and where the columns stand; None where there is no such column."""

    names: tuple[str, ...]
    emotion: int
    pixels: int
    usage: int | None
    drawn: int | None


class Fault(NamedTuple):
    """A value that is not what it should be; row counts from 1 after the header."""

    row: int
    column: str
    found: str
    expected: str


def read(file: IO[bytes], path: Path, cut: Cut | None = None) -> tuple[Description, Iterator[Chunk]]:
    """What the faces of a CSV are, and the faces in the order of the file; raises InputError where the header is bad.

    After the last row the chunks raise InputError with the faults, if there were any.
    """
    lines = read_lines(file, path)
    columns = read_header(next(lines, b""), path)
    check_cut(columns, path, cut)
    return Description(drawn=columns.drawn is not None), chunks(lines, columns, path, cut)


def chunks(lines: Iterator[bytes], columns: Columns, path: Path, cut: Cut | None) -> Iterator[Chunk]:
    """Parse all rows; no chunk follows the first fault, but all rows are checked."""
    numbered = enumerate(lines, 1)
    faults: list[Fault] = []
    count = rows = 0
    with tqdm(desc="ingest", unit=" faces", disable=None) as progress:
        while batch := list(islice(numbered, CHUNK)):
            chunk, found = parse_chunk(batch, columns, cut)
            count += len(found)
            faults += sorted(found)[: FAULTS_SHOWN - len(faults)]
            rows += len(batch)
            progress.update(len(batch))
            if chunk is not None and not count:
                yield chunk
    if faults:
        shown = [f"row {x.row}, column {x.column}: found {x.found}; expected {x.expected}" for x in faults]
        raise InputError(fault_list(path, rows, "rows", shown, count))


def read_lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """Lines that are not blank, without their ends; raises InputError at one that no CSV of faces can have."""
    while line := file.readline(LINE_LIMIT):
        if len(line) == LINE_LIMIT:
            raise InputError(f"{path}: a line of {LINE_LIMIT:,} bytes or more; expected a CSV with a face on each line")
        stripped = line.rstrip(b"\r\n")
        if stripped and not stripped.isspace():
            yield stripped


def read_header(line: bytes, path: Path) -> Columns:
    """Find the columns by name; raises InputError where one that training needs is missing or stands twice."""
    if not line:
        raise InputError(f"{path}: empty; expected a header with emotion, pixels and Usage")
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path}: encoded as UTF-16; expected UTF-8: save it again as CSV UTF-8")
    fields = split_line(line.removeprefix(b"\xef\xbb\xbf"))
    names = tuple(field.decode("utf-8", "replace").strip() for field in fields or [line])
    shown = ", ".join(shorten(name) for name in names[:10])
    for name in ("emotion", "pixels", "Usage", "drawn"):
        if names.count(name) > 1:
            raise InputError(f"{path}: column {name} stands {names.count(name)} times in the header: {shown}")
    for name in names:
        wanted = next((one for one in ("emotion", "pixels", "Usage") if one.lower() == name.lower()), name)
        if name != wanted and wanted not in names:
            raise InputError(f"{path}: column {name}: expected it spelled {wanted}")
    if "pixels" not in names:
        check_separator(names[0], path)
        raise InputError(f"{path}: no column pixels; expected emotion, pixels and Usage, found {shown}")
    if "emotion" not in names:
        raise InputError(
            f"{path}: no column emotion, found {shown}; faces without labels (Kaggle's test.csv) cannot be trained on "
            "or scored, only predicted"
        )
    usage, drawn = (names.index(name) if name in names else None for name in ("Usage", "drawn"))
    return Columns(names, names.index("emotion"), names.index("pixels"), usage, drawn)


def check_separator(header: str, path: Path) -> None:
    """Raise InputError where the columns are there but other than commas part them."""
    for separator in ";\t|":
        if {"pixels", "emotion"} <= {name.strip(' "') for name in header.split(separator)}:
            raise InputError(f"{path}: the separator is {separator!r}: expected ','; save it again with commas")


def check_cut(columns: Columns, path: Path, cut: Cut | None) -> None:
    """Refuse a file that says nothing of its splits without a cut, and one that does with a cut."""
    if columns.usage is None and cut is None:
        raise InputError(
            f"{path}: no column Usage (Kaggle's train.csv), so the splits are unknown; take fer2013.csv or "
            "icml_face_data.csv, or ask for a cut by face identity: --validation-share 0.1 --test-share 0.1"
        )
    if columns.usage is not None and cut is not None:
        raise InputError(f"{path}: column Usage names the splits; leave out --validation-share and --test-share")
    if cut is not None and not (cut.validation and cut.test):
        raise InputError(f"{path}: no column Usage: expected --validation-share and --test-share, both above 0")


def split_line(line: bytes) -> list[bytes] | None:
    """The fields of a line; None where its quotes are not those of a CSV."""
    if b'"' not in line:
        return line.split(b",")
    try:
        return [field.encode("latin-1") for field in next(csv.reader([line.decode("latin-1")], strict=True))]
    except csv.Error:
        return None


def parse_chunk(
    lines: Sequence[tuple[int, bytes]], columns: Columns, cut: Cut | None
) -> tuple[Chunk | None, list[Fault]]:
    """Parse numbered lines; the chunk is None where there are faults."""
    rows: list[Row] = []
    faults: list[Fault] = []
    for number, line in lines:
        row, found = parse_row(number, line, columns)
        rows.append(row)
        faults += found
    texts = [row.pixels for row in rows if row.pixels is not None]
    pixels = parse_clean(texts)
    slow = rows if pixels is None else ()
    parsed = [parse_pixels(row.pixels, row.number) for row in slow if row.pixels is not None]
    faults += [result for result in parsed if isinstance(result, Fault)]
    if faults:
        return None, faults
    if pixels is None:
        pixels = np.stack([result for result in parsed if not isinstance(result, Fault)])
    return Chunk(pixels, identify(rows, pixels, cut)), faults


def parse_row(number: int, line: bytes, columns: Columns) -> tuple[Row, Sequence[Fault]]:
    """Check the number of fields, the label and the Usage of a line."""
    fields = split_line(line)
    if fields is None or len(fields) != len(columns.names):
        found = "misplaced quotes" if fields is None else f"{len(fields)} fields"
        expected = f"{len(columns.names)} fields: {','.join(columns.names)}"
        return Row(number, -1, None, None), [Fault(number, "all", found, expected)]
    faults = []
    label = LABELS.get(fields[columns.emotion].strip(), -1)
    if label < 0:
        expected = "one of " + ", ".join(f"{label} ({name})" for label, name in enumerate(EXPRESSIONS))
        faults.append(Fault(number, "emotion", quote(fields[columns.emotion]), expected))
    split = None
    if columns.usage is not None:
        split = USAGES.get(fields[columns.usage].strip())
        if split is None:
            expected = "one of " + ", ".join(usage.decode() for usage in USAGES)
            faults.append(Fault(number, "Usage", quote(fields[columns.usage]), expected))
    if columns.drawn is not None and fields[columns.drawn].strip() != b"1":
        faults.append(Fault(number, "drawn", quote(fields[columns.drawn]), "1, since this column marks drawn faces"))
    return Row(number, label, split, fields[columns.pixels]), faults


def parse_clean(texts: Sequence[bytes]) -> NDArray[np.uint8] | None:
    """Pixels (n, 2304) of n texts if all are numbers of one to three digits in 0..255 between spaces; else None.

    Every byte is taken as the last digit of a number that began up to two bytes before; where a number really ends,
    that value is right. This needs no loop over numbers and no text object per number.
    """
    joined = np.frombuffer(b"   " + b" ".join(texts) + b" ", np.uint8)
    digits = joined - np.uint8(ord("0"))
    numeric = digits < 10
    if not (numeric | (joined == ord(" "))).all():
        return None
    digits *= numeric
    before3, before2, before1, here, after = (numeric[k : k - 4 or None] for k in range(5))
    ends = here > after
    hundreds = digits[1:-3] * before1
    rest = digits[2:-2] * np.uint8(10) + digits[3:-1]
    too_large = (hundreds > 2) | ((hundreds == 2) & (rest > 55))
    if (ends & (too_large | (before1 & before2 & before3))).any():
        return None
    found = np.flatnonzero(ends)
    if len(found) != len(texts) * PIXELS:
        return None
    positions = found.reshape(len(texts), PIXELS)
    bounds = np.cumsum([len(text) + 1 for text in texts])
    if (positions[:-1, -1] >= bounds[:-1]).any() or (positions[1:, 0] < bounds[:-1]).any():
        return None
    return (hundreds * np.uint8(100) + rest)[positions]


def parse_pixels(text: bytes, number: int) -> NDArray[np.uint8] | Fault:
    """Pixels (2304,) of one text, or what is wrong with it; slow, but the judge of what `parse_clean` declines."""
    tokens = text.split()
    wrong = [index for index, token in enumerate(tokens) if not is_pixel(token)]
    if wrong:
        more = f" and {len(wrong) - 1:,} more such pixels in this row" if len(wrong) > 1 else ""
        found = f"{quote(tokens[wrong[0]])} as pixel {wrong[0] + 1}{more}"
        return Fault(number, "pixels", found, "an integer in 0..255")
    if len(tokens) != PIXELS:
        return Fault(number, "pixels", f"{len(tokens):,} pixels", f"{PIXELS:,} (48x48)")
    return np.array([int(token) for token in tokens], np.uint8)


def is_pixel(token: bytes) -> bool:
    """Whether a token is an integer in 0..255 in decimal digits."""
    return token.isdigit() and (len(token) <= 3 or not token[:-3].strip(b"0")) and int(token[-3:]) <= 255


def quote(value: bytes) -> str:
    """A value as an error message shows it."""
    return f'"{shorten(value.decode("utf-8", "replace"))}"'


def shorten(text: str) -> str:
    """At most 40 printable characters of a text."""
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:41])
    return printable if len(text) <= 40 else printable[:39] + "…"
