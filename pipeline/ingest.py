"""Stage `ingest`: a FER2013 CSV -> one Parquet file per split and an audit of the data.

`python -m pipeline.ingest FILE.csv OUT_DIR` writes train.parquet (Training), val.parquet (PublicTest), test.parquet
(PrivateTest) and audit.json, all of them or none. It takes Kaggle's fer2013.csv and icml_face_data.csv, either of them
inside .gz, .zip, .tar or .tar.gz (told by content, not by name), or a folder that holds one of them.

Rules for what the layouts leave open:
- Columns are found by name: `emotion`, `pixels`, `Usage`, spaces around them ignored, in any order, among any others.
- A row is a line. Rows count from 1 after the header; blank lines are skipped and not counted.
- `emotion` is one of 0..6, `Usage` one of the three names, spaces around them ignored; `pixels` holds 2,304 integers
  in 0..255 between white space.
- A file without labels (Kaggle's test.csv) is refused: there is nothing to learn from it.
- A file without Usage (Kaggle's train.csv) is refused unless a cut is asked for by `--validation-share` and
  `--test-share`. The cut goes by face identity: a hash of the pixels and the seed decides, so identical faces share a
  split, and neither the order of the rows nor other rows matter. The shares are met on average, not exactly.
"""

import argparse
import csv
import gzip
import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from cfpn.allocator import keep_freed_memory
from pipeline.audit import EXPRESSIONS, RULES, SPLITS, Count, Face, audit
from pipeline.process import InputError, atomic, only_one, run

PIXELS = 48 * 48
USAGES = dict(zip((b"Training", b"PublicTest", b"PrivateTest"), SPLITS, strict=True))
LABELS = {str(label).encode(): label for label in range(len(EXPRESSIONS))}
COMPETITION = "challenges-in-representation-learning-facial-expression-recognition-challenge"
FILE_NAMES = ("fer2013.csv", "fer2013/fer2013.csv", "icml_face_data.csv", "fer2013.csv.gz", "icml_face_data.csv.gz")
FILE_NAMES += ("fer2013.tar.gz", "fer2013.zip", "icml_face_data.csv.zip", f"{COMPETITION}.zip", "train.csv")
SUFFIXES = (".csv", ".csv.gz", ".tar.gz", ".zip")
HOW_TO_GET = (
    f"FER2013 is on Kaggle: download it by hand from https://www.kaggle.com/c/{COMPETITION}/data or with Kaggle's "
    f"client: kaggle competitions download {COMPETITION}"
)
LINE_LIMIT = 1 << 24  # bytes
BUFFER = 1 << 20  # bytes
CHUNK = 32  # rows that are parsed at once: few enough for the work arrays to stay in the cache
ROW_GROUP = 2048
FAULTS_SHOWN = 20
SCHEMA = pa.schema({"pixels": pa.binary(PIXELS), "label": pa.int8(), "row": pa.int32()})


class Columns(NamedTuple):
    """Names in the header and where the three columns stand; usage is None where there is no such column."""

    names: tuple[str, ...]
    emotion: int
    pixels: int
    usage: int | None


class Fault(NamedTuple):
    """A value that is not what it should be; row counts from 1 after the header."""

    row: int
    column: str
    found: str
    expected: str


class Row(NamedTuple):
    """A line of the CSV after the checks of its short fields; None where the value is at fault or absent."""

    number: int
    label: int | None
    split: str | None
    pixels: bytes | None


class Cut(NamedTuple):
    """Shares in 0..1 of the faces that go to the validation and the test split where the file does not say."""

    validation: float
    test: float
    seed: int


class Chunk(NamedTuple):
    """Faces in the order of the file: pixels (n, 2304) uint8 and, for each row of it, what the audit needs."""

    pixels: NDArray[np.uint8]
    faces: list[Face]


def ingest(source: Path, folder: Path, rules: Collection[str] = (), cut: Cut | None = None) -> dict[str, Count]:
    """Write the three splits and the audit into `folder`; returns the audit.

    rules: keys of `pipeline.audit.RULES`, which drop training faces. cut: how to split a file without Usage.
    Raises InputError with every fault found; then nothing is written.
    """
    path = locate(source)
    with only_one(folder), ExitStack() as outputs:
        report_path = outputs.enter_context(atomic(folder / "audit.json"))
        paths = {split: outputs.enter_context(atomic(folder / f"{split}.parquet")) for split in SPLITS}
        with opened(path) as file:
            faces = write_splits(chunks(file, path, cut), paths)
        report, dropped = audit(faces, rules)
        check_splits(path, report["written"], cut)
        if dropped:
            remove_rows(paths["train"], dropped)
        report_path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    return report


def locate(source: Path) -> Path:
    """The file that `source` stands for: itself, itself with a suffix, or a file of Kaggle's in this folder.

    Raises InputError that lists the names looked for, where, and how to get the data.
    """
    folder, names = source.parent, (source.name,)
    if source.is_dir():
        folder, names = source, FILE_NAMES
    elif not source.suffix:
        names += tuple(source.name + suffix for suffix in SUFFIXES)
    for name in names:
        if (folder / name).exists() and not (folder / name).is_dir():
            return folder / name
    where = f"looked in {folder.absolute()} for {', '.join(names)}"
    raise InputError(f"{source}: no FER2013 file found; {where}. {HOW_TO_GET}")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open the CSV, unpacked as often as it is packed; raises InputError where an archive is damaged or lacks a CSV."""
    try:
        with ExitStack() as stack:
            yield unpack(stack.enter_context(path.open("rb", buffering=BUFFER)), path, stack)
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged or cut off archive ({error}); get it again. {HOW_TO_GET}") from error


def unpack(file: io.BufferedReader, path: Path, stack: ExitStack) -> io.BufferedReader:
    """The CSV inside `file`, whatever packing its first bytes announce; `stack` closes what is opened."""
    head = file.peek(512)
    if head.startswith(b"\x1f\x8b"):
        inner = stack.enter_context(gzip.GzipFile(fileobj=file))
    elif head.startswith(b"PK\x03\x04"):
        archive = stack.enter_context(zipfile.ZipFile(file))
        inner = stack.enter_context(archive.open(choose(archive.namelist(), path)))
    elif head[257:262] == b"ustar":
        archive = stack.enter_context(tarfile.TarFile.open(fileobj=file, mode="r|"))
        inner = stack.enter_context(csv_in_tar(archive, path))
    else:
        return file
    return unpack(stack.enter_context(io.BufferedReader(inner, BUFFER)), path, stack)


def choose(names: Sequence[str], path: Path) -> str:
    """The member of an archive that holds the faces: Kaggle's names first, else the first CSV."""
    for wanted in FILE_NAMES:
        for name in names:
            if name == wanted or name.endswith(f"/{wanted}"):
                return name
    return next(filter(is_csv, names), None) or refuse_archive(names, path)


def csv_in_tar(archive: tarfile.TarFile, path: Path) -> IO[bytes]:
    """The first CSV of a tar archive, which is read forwards only."""
    names = []
    for member in archive:
        if member.isfile() and is_csv(member.name):
            return archive.extractfile(member)
        names.append(member.name)
    return refuse_archive(names, path)


def is_csv(name: str) -> bool:
    """Whether a member's name is that of a CSV, and not of the shadow that macOS adds to it."""
    return name.endswith(".csv") and not name.rpartition("/")[2].startswith(".")


def refuse_archive(names: Sequence[str], path: Path) -> NoReturn:
    """Raise InputError for an archive without a CSV."""
    raise InputError(f"{path}: no .csv in the archive; it holds {', '.join(names[:10]) or 'nothing'}. {HOW_TO_GET}")


def chunks(file: IO[bytes], path: Path, cut: Cut | None = None) -> Iterator[Chunk]:
    """Read all rows; after the last one raises InputError with the faults, if there were any.

    No chunk follows the first fault, but all rows are checked.
    """
    lines = read_lines(file, path)
    columns = read_header(next(lines, b""), path)
    check_cut(columns, path, cut)
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
            if not count:
                yield chunk
    if faults:
        raise InputError(describe(path, rows, faults, count))


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
    for name in ("emotion", "pixels", "Usage"):
        if names.count(name) > 1:
            raise InputError(f"{path}: column {name} stands {names.count(name)} times in the header: {shown}")
    if "pixels" not in names:
        raise InputError(f"{path}: no column pixels; expected emotion, pixels and Usage, found {shown}")
    if "emotion" not in names:
        raise InputError(
            f"{path}: no column emotion, found {shown}; faces without labels (Kaggle's test.csv) cannot be trained on "
            "or scored, only predicted"
        )
    usage = names.index("Usage") if "Usage" in names else None
    return Columns(names, names.index("emotion"), names.index("pixels"), usage)


def check_cut(columns: Columns, path: Path, cut: Cut | None) -> None:
    """Refuse a file that says nothing of its splits without a cut, and one that does with a cut."""
    if columns.usage is None and cut is None:
        raise InputError(
            f"{path}: no column Usage (Kaggle's train.csv), so the splits are unknown; take fer2013.csv or "
            "icml_face_data.csv, or ask for a cut by face identity: --validation-share 0.1 --test-share 0.1"
        )
    if columns.usage is not None and cut is not None:
        raise InputError(f"{path}: column Usage names the splits; leave out --validation-share and --test-share")


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
    rows, faults = [], []
    for number, line in lines:
        row, found = parse_row(number, line, columns)
        rows.append(row)
        faults += found
    texts = [row.pixels for row in rows if row.pixels is not None]
    pixels = parse_clean(texts)
    if pixels is None:
        parsed = [parse_pixels(row.pixels, row.number) for row in rows if row.pixels is not None]
        faults += [result for result in parsed if isinstance(result, Fault)]
        pixels = None if faults else np.stack(parsed)
    if faults:
        return None, faults
    return Chunk(pixels, identify(rows, pixels, cut)), faults


def parse_row(number: int, line: bytes, columns: Columns) -> tuple[Row, Sequence[Fault]]:
    """Check the number of fields, the label and the Usage of a line."""
    fields = split_line(line)
    if fields is None or len(fields) != len(columns.names):
        found = "misplaced quotes" if fields is None else f"{len(fields)} fields"
        expected = f"{len(columns.names)} fields: {','.join(columns.names)}"
        return Row(number, None, None, None), [Fault(number, "all", found, expected)]
    faults = []
    label = LABELS.get(fields[columns.emotion].strip())
    if label is None:
        expected = "one of " + ", ".join(f"{label} ({name})" for label, name in enumerate(EXPRESSIONS))
        faults.append(Fault(number, "emotion", quote(fields[columns.emotion]), expected))
    split = None
    if columns.usage is not None:
        split = USAGES.get(fields[columns.usage].strip())
        if split is None:
            expected = "one of " + ", ".join(usage.decode() for usage in USAGES)
            faults.append(Fault(number, "Usage", quote(fields[columns.usage]), expected))
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
    positions = np.flatnonzero(ends)
    if len(positions) != len(texts) * PIXELS:
        return None
    positions = positions.reshape(len(texts), PIXELS)
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


def identify(rows: Iterable[Row], pixels: NDArray[np.uint8], cut: Cut | None) -> list[Face]:
    """What the audit needs of each row; a row without a split gets one by `cut`."""
    constant = pixels.min(axis=1) == pixels.max(axis=1)
    faces = []
    for row, face, flat in zip(rows, pixels, constant.tolist(), strict=True):
        digest = blake2b(face, digest_size=16).digest()
        faces.append(Face(row.number, row.split or split_by_identity(digest, cut), row.label, digest, flat))
    return faces


def split_by_identity(digest: bytes, cut: Cut) -> str:
    """The split of a face of this digest: uniform over seeds, equal for equal faces."""
    drawn = int.from_bytes(blake2b(digest, digest_size=8, key=str(cut.seed).encode()).digest()) / 2**64
    return "test" if drawn < cut.test else "val" if drawn < cut.test + cut.validation else "train"


def describe(path: Path, rows: int, faults: Sequence[Fault], count: int) -> str:
    """The faults, one on a line, and how many more there are."""
    lines = [f"{path}: {count:,} fault{'s' * (count > 1)} in {rows:,} rows; nothing was written"]
    lines += [f"  row {one.row}, column {one.column}: found {one.found}; expected {one.expected}" for one in faults]
    if count > len(faults):
        lines.append(f"  and {count - len(faults):,} more")
    return "\n".join(lines)


def quote(value: bytes) -> str:
    """A value as an error message shows it."""
    return f'"{shorten(value.decode("utf-8", "replace"))}"'


def shorten(text: str) -> str:
    """At most 40 printable characters of a text."""
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:41])
    return printable if len(text) <= 40 else printable[:39] + "…"


def write_splits(faces: Iterable[Chunk], paths: Mapping[str, Path]) -> list[Face]:
    """Write each face to the Parquet file of its split, in the order of the file; returns the faces without pixels."""
    seen: list[Face] = []
    with ExitStack() as stack:
        sinks = {split: stack.enter_context(parquet_sink(path, SCHEMA)) for split, path in paths.items()}
        for chunk in faces:
            seen += chunk.faces
            for split, sink in sinks.items():
                chosen = [index for index, face in enumerate(chunk.faces) if face.split == split]
                if chosen:
                    sink(record_batch(chunk, chosen))
    return seen


def record_batch(chunk: Chunk, chosen: Sequence[int]) -> pa.RecordBatch:
    """The chosen faces of a chunk as columns pixels, label and row."""
    labels = np.array([chunk.faces[index].label for index in chosen], np.int8)
    rows = np.array([chunk.faces[index].row for index in chosen], np.int32)
    columns = zip((chunk.pixels[chosen], labels, rows), SCHEMA.types, strict=True)
    return pa.record_batch([column(values, kind) for values, kind in columns], schema=SCHEMA)


def column(values: NDArray[np.generic], kind: pa.DataType) -> pa.Array:
    """Numbers (n,) or pixels (n, 2304) as a column of n values, not copied; `pa.array` would import pandas."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


@contextmanager
def parquet_sink(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Yield a function that takes record batches; row groups hold a few thousand rows whatever the batches' sizes.

    Text columns are dictionary-encoded; the pixels are not, since hardly a face occurs twice.
    """
    texts = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    pending: list[pa.RecordBatch] = []
    with pq.ParquetWriter(
        path, schema, compression="zstd", compression_level=1, use_dictionary=texts, write_statistics=False
    ) as writer:

        def flush() -> None:
            if pending:
                writer.write_table(pa.Table.from_batches(pending))
            pending.clear()

        def take(batch: pa.RecordBatch) -> None:
            pending.append(batch)
            if sum(part.num_rows for part in pending) >= ROW_GROUP:
                flush()

        yield take
        flush()


def check_splits(path: Path, written: Mapping[str, int], cut: Cut | None) -> None:
    """Raise InputError for splits without a face, which would end the training much later."""
    usages = {split: usage.decode() for usage, split in USAGES.items()}
    empty = [split for split in SPLITS if not written[split]]
    if empty:
        named = ", ".join(f"{split} ({usages[split]})" if cut is None else split for split in empty)
        advice = "raise the shares" if cut else "expected rows of every Usage that --drop leaves"
        raise InputError(f"{path}: no face for the split {named}; {advice}; nothing was written")


def remove_rows(path: Path, rows: Collection[int]) -> None:
    """Rewrite a split without these row numbers."""
    unwanted = column(np.array(sorted(rows), np.int32), pa.int32())
    with atomic(path) as kept, parquet_sink(kept, SCHEMA) as sink:
        for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP):
            sink(batch.filter(pc.invert(pc.is_in(batch["row"], unwanted))))


def parse_rules(text: str) -> tuple[str, ...]:
    """`none`, or names of RULES separated by commas; raises argparse.ArgumentTypeError at another name."""
    names = [name.strip() for name in text.split(",")]
    if names == ["none"]:
        return ()
    unknown = [name for name in names if name not in RULES]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown rule {unknown[0]!r}; expected none or {', '.join(RULES)}")
    return tuple(names)


def parse_share(text: str) -> float:
    """A share in 0..1, both ends excluded but for 0; raises argparse.ArgumentTypeError at anything else."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a share of the faces, 0 or more and less than 1")
    return share


def parse_cut(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Cut | None:
    """The cut that was asked for; ends the program where one share is missing or both leave nothing to train on."""
    cut = Cut(arguments.validation_share, arguments.test_share, arguments.seed)
    if not cut.validation and not cut.test:
        return None
    if not (cut.validation and cut.test and cut.validation + cut.test < 1):
        parser.error("--validation-share and --test-share: expected both above 0 and their sum below 1")
    return cut


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.ingest",
        description="Check a FER2013 CSV and write train.parquet, val.parquet, test.parquet and audit.json.",
        epilog="example: python -m pipeline.ingest data/fer2013.csv data/splits --drop constant,duplicates",
    )
    parser.add_argument(
        "source", type=Path, metavar="FILE.csv", help="the CSV, bare or inside .gz, .zip or .tar.gz, or its folder"
    )
    parser.add_argument("folder", type=Path, metavar="OUT_DIR", help="where the four files go")
    rules = "; ".join(f"{name}: {meaning}" for name, meaning in RULES.items())
    parser.add_argument(
        "--drop", type=parse_rules, default=(), metavar="RULES", help=f"none (default), or some of, by commas: {rules}"
    )
    for name in ("validation", "test"):
        help_text = f"only for a file without Usage: share of the faces for the {name} split, cut by face identity"
        parser.add_argument(f"--{name}-share", type=parse_share, default=0.0, metavar="SHARE", help=help_text)
    parser.add_argument("--seed", type=int, default=0, help="of the cut (default: %(default)s)")
    arguments = parser.parse_args()
    keep_freed_memory()
    report = ingest(arguments.source, arguments.folder, arguments.drop, parse_cut(parser, arguments))
    print(json.dumps({key: report[key] for key in ("written", "dropped")}))


if __name__ == "__main__":
    run(main)
