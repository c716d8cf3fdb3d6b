"""The Parquet format of a split: one row per face, and a description of the data set in the file's metadata.

The columns are `pixels` (channels x side x side bytes), `label` and `row` (the number in the source). The description
is JSON under the key `cfpn`. A file of 48x48 grey faces without it is taken for FER2013.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import DTypeLike, NDArray

EXPRESSIONS = ("anger", "disgust", "fear", "happy", "sad", "surprise", "normal")  # paper Table I
KEY, COLUMNS = b"cfpn", ("pixels", "label", "row")
ROW_GROUP, BATCH, MOST_CLASSES = 2048, 256, 128  # rows, rows; a label is an int8


@dataclass(frozen=True)
class Description:
    """What the faces of a split are; `classes` are the names by label, `drawn` tells them from photographs."""

    side: int = 48
    channels: int = 1
    classes: tuple[str, ...] = EXPRESSIONS
    drawn: bool = False

    def __post_init__(self) -> None:
        for name in ("side", "channels"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise ValueError(f"{name}: found {value!r}; expected an integer, 1 or more")
        if type(self.drawn) is not bool:
            raise ValueError(f"drawn: found {self.drawn!r}; expected true or false")
        names = self.classes
        if not (type(names) is tuple and all(isinstance(n, str) for n in names) and 0 < len({*names}) == len(names)):
            raise ValueError(f"classes: found {names!r:.80}; expected names, none of them twice")
        if len(names) > MOST_CLASSES:
            raise ValueError(f"classes: found {len(names)}; expected {MOST_CLASSES} at most")


def arrow_schema(description: Description) -> pa.Schema:
    """The columns of a split with this description, which stands in the metadata."""
    kinds = (pa.binary(description.channels * description.side**2), pa.int8(), pa.int32())
    fields = dict(zip(COLUMNS, kinds, strict=True))
    return pa.schema(fields, {KEY: json.dumps(asdict(description)).encode()})


def describe(schema: pa.Schema) -> Description:
    """The description of a split, whose further columns are ignored; raises ValueError where it does not fit."""
    text = (schema.metadata or {}).get(KEY)
    description = Description() if text is None else parse(text)
    for field in arrow_schema(description):
        found = schema.field(field.name).type if field.name in schema.names else "no such column"
        if found != field.type:
            raise ValueError(f"column {field.name}: found {found}; expected {field.type}")
    return description


def parse(text: bytes) -> Description:
    """The description as it stands in the metadata; keys that a later version may add are ignored."""
    try:
        values = json.loads(text)
        known = {name: values[name] for name in Description.__dataclass_fields__}
        return Description(**known | {"classes": tuple(known["classes"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"metadata {KEY.decode()}: no description of a split ({error})") from error


class SplitError(ValueError):
    """A file that is no split, is damaged, or holds a label without a class; the message begins with its path."""


class Batch(NamedTuple):
    """Faces of a split: pixels (n, channels, side, side), labels (n,), rows (n,)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int8]
    rows: NDArray[np.int32]


def read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], Description]:
    """Pixels (n, channels, side, side), labels (n,), rows (n,) and the description; raises SplitError for no split."""
    with reader(path) as (parquet, description, batches):
        count = parquet.metadata.num_rows
        pixels = np.empty((count, description.channels, description.side, description.side), np.uint8)
        labels, rows = np.empty((2, count), np.int64)
        start = 0
        for batch in batches:
            here = slice(start, start := start + len(batch.rows))
            pixels[here], labels[here], rows[here] = batch
    return pixels, labels, rows, description


@contextmanager
def reader(path: Path, size: int = BATCH) -> Iterator[tuple[pq.ParquetFile, Description, Iterator[Batch]]]:
    """Open a split, whose faces come in batches of at most `size`; opening and batches raise as `read` does."""
    with path.open("rb") as file:  # Arrow itself cannot open a name that is not UTF-8
        with told(path, "not a Parquet file: "):
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
        with told(path):
            description = describe(parquet.schema_arrow)
        stream = parquet.iter_batches(size, columns=list(COLUMNS))
        yield parquet, description, checked(path, (unpack(columns, description) for columns in stream))


def checked(path: Path, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, with every error told by the path."""
    with told(path):
        yield from batches


@contextmanager
def told(path: Path, kind: str = "") -> Iterator[None]:
    """Name the file in errors of Arrow's, which come as ValueError or as OSError without a number."""
    try:
        yield
    except (ValueError, pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise SplitError(f"{path}: {kind}{reason}; expected a split written by the ingest stage") from error


def unpack(columns: pa.RecordBatch, description: Description) -> Batch:
    """The arrays of a batch, not copied; raises ValueError where a value is missing or a label has no class."""
    if missing := [name for name in COLUMNS if columns[name].null_count]:
        raise ValueError(f"column {missing[0]}: a value is missing")
    face = np.dtype((np.uint8, (description.channels, description.side, description.side)))
    kinds: tuple[DTypeLike, ...] = (face, np.int8, np.int32)
    pixels, labels, rows = (values(columns[name], kind) for name, kind in zip(COLUMNS, kinds, strict=True))
    wrong = np.flatnonzero((labels < 0) | (labels >= len(description.classes)))
    if len(wrong):
        raise ValueError(f"row {rows[wrong[0]]}: label {labels[wrong[0]]}, but there are {len(description.classes)}")
    return Batch(pixels, labels, rows)


def values(column: pa.Array, kind: DTypeLike) -> NDArray[Any]:
    """A column without missing values as an array of n elements, not copied; `to_numpy` would import pandas."""
    return np.frombuffer(column.buffers()[1], kind, column.offset + len(column))[column.offset :]


def write(
    path: Path, pixels: NDArray[np.uint8], labels: NDArray[Any], rows: NDArray[Any], description: Description
) -> None:
    """Write pixels (n, channels, side, side), (n, side, side) or flat, labels (n,) and rows (n,) as a split.

    Raises ValueError where the arrays do not fit the description or each other.
    """
    count, each = len(pixels), (description.channels, description.side, description.side)
    shapes = [(count, *each), (count, int(np.prod(each)))] + [(count, *each[1:])] * (description.channels == 1)
    if pixels.dtype != np.uint8 or pixels.shape not in shapes or labels.shape != (count,) or rows.shape != (count,):
        raise ValueError(f"{path}: {pixels.shape} {pixels.dtype}, {labels.shape}, {rows.shape}; expected {description}")
    for name, numbers, end in (("labels", labels, len(description.classes)), ("rows", rows, 2**31)):
        if count and (numbers.dtype.kind not in "iu" or not 0 <= numbers.min() <= numbers.max() < end):
            raise ValueError(f"{path}: {name} {numbers} {numbers.dtype}; expected whole numbers, 0 to {end - 1}")
    schema, part = arrow_schema(description), path.with_name(f"{path.name}.part")
    try:
        with writer(part, schema) as sink:
            sink(record_batch(schema, pixels, labels, rows))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def record_batch(schema: pa.Schema, *arrays: NDArray[Any]) -> pa.RecordBatch:
    """One array for each column of `schema` as a batch."""
    return pa.record_batch([*map(column, arrays, schema.types)], schema=schema)


def column(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Numbers (n,), or pixels (n, ...) uint8, as a column of n values; `pa.array` would import pandas."""
    numbers = values if pa.types.is_fixed_size_binary(kind) else values.astype(str(kind), copy=False)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(numbers))])


@contextmanager
def writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Yield a function that takes record batches; a row group holds a few thousand rows whatever the batches' sizes."""
    texts = [field.name for field in schema if pa.types.is_dictionary(field.type)]  # hardly a face occurs twice
    how = {"compression": "zstd", "compression_level": 1, "write_statistics": False, "write_page_checksum": True}
    pending: list[pa.RecordBatch] = []
    with path.open("wb") as file, pq.ParquetWriter(file, schema, use_dictionary=texts, **how) as parquet:

        def flush() -> None:
            if pending:
                parquet.write_table(pa.Table.from_batches(pending))
            pending.clear()

        def take(batch: pa.RecordBatch) -> None:
            pending.append(batch)
            if sum(part.num_rows for part in pending) >= ROW_GROUP:
                flush()

        yield take
        flush()
