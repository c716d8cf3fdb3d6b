import gzip
import io
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from cfpn.schema import describe
from pipeline import ingest as module
from pipeline.data import csv_reader
from pipeline.data.archive import locate
from pipeline.data.audit import RULES
from pipeline.data.chunks import Cut
from pipeline.ingest import ingest, parse_rules
from pipeline.process import InputError

USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
ROOT = Path(module.__file__).parents[1]
Pixels = NDArray[np.uint8]


def face(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, 2304, dtype=np.uint8)


def text(pixels: Pixels) -> str:
    return " ".join(map(str, pixels.tolist()))


def fields(count: int = 10) -> list[tuple[str, str, str]]:
    """Label, pixels and Usage of rows; every tenth row is PublicTest, every tenth PrivateTest."""
    usages = ["Training"] * 8 + ["PublicTest", "PrivateTest"]
    return [(str(row % 7), text(face(row)), usages[row % 10]) for row in range(count)]


def lines(rows: Iterable[Iterable[str]], header: str = "emotion,pixels,Usage") -> str:
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def columns(path: Path) -> tuple[Pixels, list[int], list[int]]:
    table = pq.read_table(path)
    pixels = np.frombuffer(b"".join(table["pixels"].to_pylist()), np.uint8).reshape(-1, 2304)
    return pixels, table["label"].to_pylist(), table["row"].to_pylist()


def outputs(folder: Path) -> dict[str, bytes]:
    return (
        {path.name: path.read_bytes() if path.is_file() else b"" for path in sorted(folder.iterdir())}
        if folder.exists()
        else {}
    )


def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-W", "error", "-m", "pipeline.ingest", *map(str, arguments)]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, **options)


def refusal(tmp_path: Path, content: str | bytes, **options: object) -> str:
    source = write(tmp_path / "bad.csv", content)
    with pytest.raises(InputError) as caught:
        ingest(source, tmp_path / "out", **options)
    assert outputs(tmp_path / "out") == {}
    assert str(caught.value).startswith(str(source))
    return str(caught.value)


@pytest.fixture
def usual(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A CSV in the usual layout and what the stage makes of it."""
    source = write(tmp_path / "usual" / "faces.csv", lines(fields()))
    ingest(source, tmp_path / "expected")
    return source, outputs(tmp_path / "expected")


# What is written


def test_each_face_lands_in_its_split_with_its_pixels_label_and_row_number(tmp_path: Path) -> None:
    ingest(write(tmp_path / "f.csv", lines(fields(100))), tmp_path / "out")
    for offset, split in ((range(8), "train"), ([8], "val"), ([9], "test")):
        expected = [row for row in range(100) if row % 10 in offset]
        pixels, labels, rows = columns(tmp_path / "out" / f"{split}.parquet")
        assert (pixels == np.stack([face(row) for row in expected])).all()
        assert labels == [row % 7 for row in expected]
        assert rows == [row + 1 for row in expected]


def test_the_schema_is_fixed_size_pixels_an_int8_label_and_an_int32_row(usual: object, tmp_path: Path) -> None:
    schema = pq.read_schema(tmp_path / "expected" / "train.parquet")
    assert [(field.name, str(field.type)) for field in schema] == [
        ("pixels", "fixed_size_binary[2304]"),
        ("label", "int8"),
        ("row", "int32"),
    ]


def drawn(folder: Path) -> set[bool]:
    return {describe(pq.read_schema(folder / f"{split}.parquet")).drawn for split in USAGES.values()}


def test_drawn_faces_are_called_drawn_whatever_the_name_of_the_file(tmp_path: Path) -> None:
    source = write(tmp_path / "fer2013.csv", lines([(*row, "1") for row in fields()], "emotion,pixels,Usage,drawn"))
    ingest(source, tmp_path / "out")
    assert drawn(tmp_path / "out") == {True}


def test_a_file_of_real_faces_is_not_called_drawn_for_its_name(tmp_path: Path) -> None:
    ingest(write(tmp_path / "sample_drawn.csv", lines(fields())), tmp_path / "out")
    assert drawn(tmp_path / "out") == {False}


def test_a_file_that_is_drawn_in_part_is_refused(tmp_path: Path) -> None:
    rows = [(*row, "10"[number == 3]) for number, row in enumerate(fields(), 1)]
    message = refusal(tmp_path, lines(rows, "emotion,pixels,Usage,drawn"))
    assert 'row 3, column drawn: found "0"; expected 1' in message


def test_the_mark_of_drawn_faces_stays_where_a_rule_drops_some(tmp_path: Path) -> None:
    rows = [(*row, "1") for row in [*fields(), ("0", "7 " * 2304, "Training")]]
    ingest(write(tmp_path / "f.csv", lines(rows, "emotion,pixels,Usage,drawn")), tmp_path / "out", ["constant"])
    assert drawn(tmp_path / "out") == {True}


def test_the_outputs_are_three_splits_and_the_audit_which_is_strict_json(usual: tuple[Path, dict[str, bytes]]) -> None:
    names = ["audit.json", "test.parquet", "train.parquet", "val.parquet"]
    assert list(usual[1]) == names
    assert json.loads(usual[1]["audit.json"])["written"] == {"train": 8, "val": 1, "test": 1}


def test_two_runs_give_the_same_bytes(usual: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    ingest(usual[0], tmp_path / "again")
    assert outputs(tmp_path / "again") == usual[1]


def test_row_groups_hold_a_few_thousand_rows_so_that_a_split_can_be_streamed(tmp_path: Path) -> None:
    zero = text(np.zeros(2304, np.uint8))
    rows = [("0", zero, "Training")] * 5000 + [("0", zero, "PublicTest"), ("0", zero, "PrivateTest")]
    ingest(write(tmp_path / "f.csv", lines(rows)), tmp_path / "out")
    metadata = pq.read_metadata(tmp_path / "out" / "train.parquet")
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert sum(sizes) == 5000
    assert all(2000 <= size <= 4000 for size in sizes[:-1])


# Layouts


def usage_second(rows: list[tuple[str, str, str]]) -> str:
    return lines([(label, usage, pixels) for label, pixels, usage in rows], "emotion, Usage, pixels")


def more_columns(rows: list[tuple[str, str, str]]) -> str:
    return lines([("7", *row, '"a, ""b"""') for row in rows], "id,emotion,pixels,Usage,note")


LAYOUTS: dict[str, Callable[[list[tuple[str, str, str]]], str | bytes]] = {
    "spaces in the header and another order": usage_second,
    "quoted pixels": lambda rows: lines([(a, f'"{b}"', c) for a, b, c in rows]),
    "everything quoted": lambda rows: lines([[f'"{x}"' for x in row] for row in rows], '"emotion","pixels","Usage"'),
    "a byte order mark": lambda rows: b"\xef\xbb\xbf" + lines(rows).encode(),
    "a byte order mark before a quoted header": lambda rows: (
        b'\xef\xbb\xbf"emotion",pixels,Usage\n' + lines(rows).encode().partition(b"\n")[2]
    ),
    "CRLF": lambda rows: lines(rows).replace("\n", "\r\n"),
    "CRLF and quotes": lambda rows: lines([(a, f'"{b}"', c) for a, b, c in rows]).replace("\n", "\r\n"),
    "no newline at the end": lambda rows: lines(rows).rstrip("\n"),
    "extra columns with quotes and commas": more_columns,
    "double and trailing spaces between pixels": lambda rows: lines(
        [(a, f"  {b.replace(' ', '  ', 9)} ", c) for a, b, c in rows]
    ),
    "tabs between pixels": lambda rows: lines([(a, b.replace(" ", "\t"), c) for a, b, c in rows]),
    "leading zeros": lambda rows: lines(
        [(a, b.replace(" 7 ", " 007 ").replace(" 8 ", " 0008 "), c) for a, b, c in rows]
    ),
    "spaces around labels and Usage": lambda rows: lines([(f" {a} ", b, f"  {c} ") for a, b, c in rows]),
    "blank lines": lambda rows: lines(rows).replace("\n", "\n\n") + " \n\r\n",
    "bytes that are no UTF-8 in an extra column": lambda rows: lines(
        [(*row, "é") for row in rows], "emotion,pixels,Usage,x"
    ).encode("latin-1"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_bytes_as_the_usual_one(
    layout: str, usual: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    ingest(write(tmp_path / "other.csv", LAYOUTS[layout](fields())), tmp_path / "out")
    assert outputs(tmp_path / "out") == usual[1]


def tar(content: bytes, mode: str, name: str = "fer2013/fer2013.csv") -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=mode) as file:
        for member, data in (("fer2013/README", b"read me"), ("fer2013/._fer2013.csv", b"\0shadow"), (name, content)):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return archive.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return archive.getvalue()


def members(*contents: tuple[str, bytes], mode: str = "w") -> bytes:
    """A tar archive of these members in this order."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=mode) as file:
        for name, data in contents:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return archive.getvalue()


VOTES = b"Usage,Image name,neutral\n"

PACKINGS: dict[str, tuple[str, str, Callable[[bytes], bytes]]] = {
    "gzip in gzip": ("faces.csv.gz", "faces.csv.gz", lambda data: gzip.compress(gzip.compress(data))),
    "a tar archive with the votes of FER+ before it": (
        "fer2013.tar",
        "fer2013.tar",
        lambda data: members(("fer2013new.csv", VOTES), ("fer2013.csv", data)),
    ),
    "a tar archive in which only the second-best name comes first": (
        "a.tar.gz",
        "a.tar.gz",
        lambda data: members(("a.csv", VOTES), ("x/icml_face_data.csv", data), ("train.csv", b""), mode="w:gz"),
    ),
    "such a tar archive in a zip archive": (
        "a.zip",
        "a.zip",
        lambda data: zipped({"a/fer2013.tar.gz": members(("b.csv", VOTES), ("train.csv", data), mode="w:gz")}),
    ),
    "gzip": ("faces.csv.gz", "faces.csv.gz", gzip.compress),
    "gzip under another name": ("faces.csv", "faces.csv", gzip.compress),
    "the official archive": ("fer2013.tar.gz", "fer2013.tar.gz", lambda data: tar(data, "w:gz")),
    "a tar archive": ("fer2013.tar", "fer2013.tar", lambda data: tar(data, "w")),
    "a zip archive": ("archive.zip", "archive.zip", lambda data: zipped({"example.csv": b"x", "fer2013.csv": data})),
    "an archive in an archive": ("a.zip", "a.zip", lambda data: zipped({"data/fer2013.tar.gz": tar(data, "w:gz")})),
    "a folder": ("faces/fer2013.csv", "faces", lambda data: data),
    "an unpacked archive in a folder": ("faces/fer2013/fer2013.csv", "faces", lambda data: data),
    "an archive in a folder": ("faces/fer2013.tar.gz", "faces", lambda data: tar(data, "w:gz")),
    "a name whose suffix is left out": ("fer2013.csv", "fer2013", lambda data: data),
    "an archive's name whose suffix is left out": ("fer2013.tar.gz", "fer2013", lambda data: tar(data, "w:gz")),
    "a file without suffix": ("fer2013", "fer2013", lambda data: data),
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_packing_gives_the_same_bytes_as_the_bare_file(
    packing: str, usual: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    stored, given, pack = PACKINGS[packing]
    write(tmp_path / "in" / stored, pack(usual[0].read_bytes()))
    ingest(tmp_path / "in" / given, tmp_path / "out")
    assert outputs(tmp_path / "out") == usual[1]


def test_in_a_folder_the_file_with_splits_goes_before_the_one_without(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv", "icml_face_data.csv"):
        write(tmp_path / name, "")
    assert locate(tmp_path).name == "icml_face_data.csv"


# Places without data


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("missing.csv", ["missing.csv"]),
        ("missing", ["missing", "missing.csv", "missing.csv.gz", "missing.tar.gz"]),
        (".", ["fer2013.csv", "icml_face_data.csv", "fer2013.tar.gz", "train.csv"]),
    ],
)
def test_a_missing_file_is_told_with_the_names_the_place_and_the_way_to_get_it(
    given: str, names: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        ingest(tmp_path / given, tmp_path / "out")
    _, place, looked_for = str(caught.value).partition(f"looked in {tmp_path} for ")
    assert place
    assert set(names) <= set(looked_for.split(". FER2013")[0].split(", "))
    assert "kaggle competitions download" in looked_for


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: tar(data, "w:gz"), lambda data: tar(data, "w")])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_cut_off_archive_is_told_and_nothing_is_written(
    pack: Callable[[bytes], bytes], keep: float, tmp_path: Path
) -> None:
    packed = pack(lines(fields(200)).encode())
    message = refusal(tmp_path, packed[: int(len(packed) * keep)])
    assert "cut off" in message or "fields" in message or "pixels" in message


def protected(data: bytes) -> bytes:
    """A zip archive whose member is marked as encrypted, in both of its headers."""
    packed = bytearray(zipped({"fer2013.csv": data}))
    packed[6] |= 1
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    return bytes(packed)


def of_another_method(data: bytes) -> bytes:
    """A zip archive packed in a way that Python does not know (9, Deflate64)."""
    packed = bytearray(zipped({"fer2013.csv": data}))
    packed[8] = packed[packed.index(b"PK\x01\x02") + 10] = 9
    return bytes(packed)


def too_deep(data: bytes) -> bytes:
    for _ in range(8):
        data = gzip.compress(data)
    return data


@pytest.mark.parametrize(
    ("pack", "reason"),
    [
        (protected, "fer2013.csv is protected by a password; unpack it first"),
        (of_another_method, "That compression method is not supported; unpack it first"),
        (too_deep, "packed more than 5 times; unpack it first"),
        (lambda data: zipped({"train/angry/Training_1.jpg": data}), "pictures; unpack it and give the folder"),
    ],
)
def test_an_archive_that_cannot_be_read_is_told_in_one_line_with_the_way_out(
    pack: Callable[[bytes], bytes], reason: str, tmp_path: Path
) -> None:
    message = refusal(tmp_path, pack(lines(fields()).encode()))
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_a_zip_archive_is_told_whatever_its_method(method: int, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr("fer2013.csv", lines(fields(200)))
    packed = bytearray(archive.getvalue())
    packed[len(packed) // 2 : len(packed) // 2 + 64] = bytes(64)
    assert re.search("damaged or cut off archive|fields|pixels|column", refusal(tmp_path, bytes(packed)))


def test_a_zip_archive_whose_directory_lies_about_its_place_is_told(tmp_path: Path) -> None:
    packed = bytearray(zipped({"fer2013.csv": lines(fields()).encode()}))
    end = packed.rindex(b"PK\x05\x06")
    packed[end + 16 : end + 20] = (2**31).to_bytes(4, "little")
    assert "damaged or cut off archive" in refusal(tmp_path, bytes(packed))


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(lines(fields(200)).encode()))
    packed[len(packed) // 2 : len(packed) // 2 + 64] = bytes(64)
    assert "damaged" in refusal(tmp_path, bytes(packed))


@pytest.mark.parametrize("packed", [tar(b"", "w:gz", "fer2013/faces.txt"), zipped({"faces.txt": b""})])
def test_an_archive_without_a_csv_is_told_with_what_it_holds(packed: bytes, tmp_path: Path) -> None:
    assert "faces.txt" in refusal(tmp_path, packed)


# Headers


HEADERS = {
    "no labels": ("pixels", ["no column emotion", "test.csv", "predicted"]),
    "labels under another name": ("label,pixels,Usage", ["no column emotion", "found label, pixels, Usage"]),
    "no pixels": ("emotion,Usage", ["no column pixels", "found emotion, Usage"]),
    "no Usage": ("emotion,pixels", ["no column Usage", "train.csv", "--validation-share", "face identity"]),
    "pixels twice": ("emotion,pixels,pixels,Usage", ["column pixels stands 2 times"]),
    "semicolons": ("emotion;pixels;Usage", ["the separator is ';': expected ','"]),
    "no header": ("0,1 2 3,Training", ["no column pixels", "found 0, 1 2 3, Training"]),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_without_the_columns_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    header, parts = HEADERS[case]
    message = refusal(tmp_path, lines(fields(), header))
    assert all(part in message for part in parts)


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_another_separator_than_the_comma_is_named(separator: str, quote: str, tmp_path: Path) -> None:
    content = lines(fields(), f"{quote}emotion{quote},pixels,Usage").replace(",", separator)
    assert f"the separator is {separator!r}: expected ','" in refusal(tmp_path, content)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"  \r\n"])
def test_an_empty_file_is_refused(content: bytes, tmp_path: Path) -> None:
    assert "empty" in refusal(tmp_path, content)


def test_utf_16_is_refused_by_its_name(tmp_path: Path) -> None:
    assert "UTF-16" in refusal(tmp_path, lines(fields()).encode("utf-16"))


def test_a_file_that_is_no_csv_is_refused_with_a_short_message(tmp_path: Path) -> None:
    message = refusal(tmp_path, b"PAR1" + face(0).tobytes() * 100)
    assert "no column pixels" in message
    assert len(message) < 1000
    assert message.isprintable()


def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_reader, "LINE_LIMIT", 50_000)
    assert "a line of 50,000 bytes" in refusal(tmp_path, lines([("0", "1 " * 60_000, "Training")]))


# Rows


def with_row(number: int, label: str = "0", pixels: str | None = None, usage: str = "Training") -> str:
    rows = fields(40)
    rows[number - 1] = (label, text(face(0)) if pixels is None else pixels, usage)
    return lines(rows)


@pytest.mark.parametrize("label", ["7", "8", "-1", "3.0", "happy", "", "00", "+3", "٣", "1e0", "nan"])
@pytest.mark.parametrize("number", [3, 37])
def test_a_label_outside_0_to_6_is_refused_with_its_row_and_the_codes(label: str, number: int, tmp_path: Path) -> None:
    message = refusal(tmp_path, with_row(number, label=label))
    assert f'row {number}, column emotion: found "{label}"; expected one of 0 (anger), 1 (disgust)' in message
    assert "6 (normal)" in message


@pytest.mark.parametrize("usage", ["training", "Foo", "", "TRAINING", "Public Test", "val"])
def test_an_unknown_usage_is_refused_with_its_row_and_the_names(usage: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, with_row(12, usage=usage))
    assert f'row 12, column Usage: found "{usage}"; expected one of Training, PublicTest, PrivateTest' in message


@pytest.mark.parametrize("count", [0, 1, 2303, 2305, 4608])
def test_a_row_with_another_number_of_pixels_is_refused_with_what_was_found(count: int, tmp_path: Path) -> None:
    message = refusal(tmp_path, with_row(5, pixels=" ".join(["7"] * count)))
    assert f"row 5, column pixels: found {count:,} pixels; expected 2,304 (48x48)" in message


def test_a_row_too_short_is_not_made_up_for_by_the_next_one_too_long(tmp_path: Path) -> None:
    rows = fields(40)
    values = [text(face(0)).split(), text(face(1)).split()]
    rows[4] = ("0", " ".join(values[0][:-1]), "Training")
    rows[5] = ("0", " ".join([values[0][-1], *values[1]]), "Training")
    message = refusal(tmp_path, lines(rows))
    assert "2 faults" in message
    assert "row 5, column pixels: found 2,303" in message
    assert "row 6, column pixels: found 2,305" in message


BAD_PIXELS = ["300", "256", "999", "1000", "0256", "-3", "3.7", "x", "1e2", "0x1", "+5", "²", "12a", "NaN", "1;2", "\0"]


@pytest.mark.parametrize("value", BAD_PIXELS)
@pytest.mark.parametrize("place", [1, 1000, 2304])
def test_a_value_that_is_no_pixel_is_refused_with_row_place_and_value(value: str, place: int, tmp_path: Path) -> None:
    values = text(face(3)).split()
    values[place - 1] = value
    message = refusal(tmp_path, with_row(6, pixels=" ".join(values)))
    shown = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    assert (
        f'1 fault in 40 rows; nothing was written\n  row 6, column pixels: found "{shown}" as pixel {place};' in message
    )
    assert "expected an integer in 0..255" in message


def test_many_bad_pixels_of_a_row_are_one_fault_with_a_count(tmp_path: Path) -> None:
    message = refusal(tmp_path, with_row(6, pixels=" ".join(["300"] * 2304)))
    assert "1 fault in" in message
    assert "and 2,303 more such pixels in this row" in message


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("0," + text(face(0)), "2 fields"),
        ("0", "1 fields"),
        ("0,1,2,3", "4 fields"),
        ('0,"1 2,Training', "misplaced quotes"),
    ],
)
def test_a_row_with_another_number_of_fields_is_refused_with_the_columns(line: str, found: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, lines(fields(10)) + line + "\n" + lines(fields(10)).partition("\n")[2])
    assert "1 fault in 21 rows" in message
    assert f"row 11, column all: found {found}; expected 3 fields: emotion,pixels,Usage" in message


def test_a_file_whose_last_line_is_cut_off_is_refused(tmp_path: Path) -> None:
    assert "row 40," in refusal(tmp_path, lines(fields(40))[:-200])


def test_all_faults_of_a_row_are_told(tmp_path: Path) -> None:
    message = refusal(tmp_path, with_row(6, label="9", pixels="1 2", usage="x"))
    assert "3 faults in" in message
    assert all(f"row 6, column {column}:" in message for column in ("emotion", "pixels", "Usage"))


def test_the_first_twenty_faults_are_shown_in_the_order_of_rows_and_the_others_counted(tmp_path: Path) -> None:
    rows = [("9", "300 " + pixels.partition(" ")[2], usage) for _, pixels, usage in fields(1000)]
    message = refusal(tmp_path, lines(rows))
    shown = [line.partition(":")[0] for line in message.splitlines()[1:-1]]
    assert shown == [f"  row {row}, column {column}" for row in range(1, 11) for column in ("emotion", "pixels")]
    assert message.startswith(f"{tmp_path / 'bad.csv'}: 2,000 faults in 1,000 rows")
    assert message.endswith("and 1,980 more")


def test_a_very_long_value_is_shortened_in_the_message(tmp_path: Path) -> None:
    message = refusal(tmp_path, with_row(6, label="happy" * 1000))
    assert len(message) < 500


def test_rows_are_counted_without_header_and_blank_lines(tmp_path: Path) -> None:
    assert "row 6, column emotion" in refusal(tmp_path, with_row(6, label="9").replace("\n", "\n\n"))


# Splits


@pytest.mark.parametrize("missing", USAGES)
def test_a_split_without_a_row_is_an_error(missing: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, lines(row for row in fields(20) if row[2] != missing))
    assert f"{USAGES[missing]} ({missing})" in message


def test_a_header_alone_lacks_all_splits(tmp_path: Path) -> None:
    message = refusal(tmp_path, "emotion,pixels,Usage\n")
    assert all(usage in message for usage in USAGES)


def without_usage(count: int, copies: int = 1) -> list[tuple[str, str]]:
    return [(str(row % 7), text(face(row))) for row in range(count) for _ in range(copies)]


def splits(folder: Path) -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    for split in USAGES.values():
        for pixels in pq.read_table(folder / f"{split}.parquet")["pixels"].to_pylist():
            assert found.setdefault(pixels, split) == split
    return found


def test_a_cut_keeps_identical_faces_together_whatever_the_order_of_rows(tmp_path: Path) -> None:
    rows = without_usage(200, copies=3)
    cut = Cut(0.2, 0.2, seed=0)
    ingest(write(tmp_path / "a.csv", lines(rows, "emotion,pixels")), tmp_path / "a", cut=cut)
    random.Random(0).shuffle(rows)
    ingest(write(tmp_path / "b.csv", lines(rows[100:], "emotion,pixels")), tmp_path / "b", cut=cut)
    first, second = splits(tmp_path / "a"), splits(tmp_path / "b")
    assert second.items() <= first.items()
    assert len(first) == 200


def test_a_cut_meets_its_shares_within_chance_and_depends_on_the_seed(tmp_path: Path) -> None:
    source = write(tmp_path / "f.csv", lines(without_usage(1000), "emotion,pixels"))
    found = []
    for seed in (0, 1):
        written = ingest(source, tmp_path / str(seed), cut=Cut(0.1, 0.3, seed))["written"]
        assert abs(written["val"] - 100) < 4 * np.sqrt(1000 * 0.1 * 0.9)
        assert abs(written["test"] - 300) < 4 * np.sqrt(1000 * 0.3 * 0.7)
        found.append(splits(tmp_path / str(seed)))
    assert found[0] != found[1]


def test_a_cut_that_leaves_a_split_empty_is_an_error(tmp_path: Path) -> None:
    message = refusal(tmp_path, lines(without_usage(5), "emotion,pixels"), cut=Cut(0.001, 0.001, 0))
    assert "no face for the split val, test; raise the shares" in message


def test_a_cut_is_refused_for_a_file_that_names_its_splits(tmp_path: Path) -> None:
    assert "--validation-share" in refusal(tmp_path, lines(fields()), cut=Cut(0.1, 0.1, 0))


@pytest.mark.parametrize("shares", [(0.1, 0), (0, 0.1), (0.5, 0.5), (-0.1, 0.1), (1, 0.1), ("nan", 0.1), ("x", 0.1)])
def test_shares_that_make_no_three_splits_are_refused(shares: tuple[object, object], tmp_path: Path) -> None:
    source = write(tmp_path / "f.csv", lines(without_usage(9), "emotion,pixels"))
    done = command(source, tmp_path / "out", f"--validation-share={shares[0]}", f"--test-share={shares[1]}")
    assert done.returncode == 2
    assert "share" in done.stderr
    assert outputs(tmp_path / "out") == {}


# Dropping


def flawed() -> str:
    """Train: 2 black faces, 3 copies of face 0, face 1 under two labels, face 2 as in val, faces 3 and 4."""
    black = text(np.zeros(2304, np.uint8))
    pixels = [black, black, *(text(face(k)) for k in (0, 0, 0, 1, 1, 2, 3, 4))]
    rows = [(label, one, "Training") for label, one in zip("0011112345", pixels, strict=True)]
    rows += [("3", text(face(2)), "PublicTest"), ("0", black, "PublicTest"), ("0", black, "PrivateTest")]
    return lines([*rows, ("0", text(face(9)), "PrivateTest"), ("0", text(face(9)), "PrivateTest")])


DROPPED = {
    "none": [],
    "constant": [1, 2],
    "duplicates": [2, 4, 5, 7],
    "conflicting": [6, 7],
    "copies": [1, 2, 8],
    "constant,duplicates": [1, 2, 4, 5, 7],
    "constant, duplicates,copies,conflicting": [1, 2, 4, 5, 6, 7, 8],
}


@pytest.mark.parametrize("rules", DROPPED)
def test_rules_drop_training_faces_only_and_the_audit_counts_them(rules: str, tmp_path: Path) -> None:
    source = write(tmp_path / "f.csv", flawed())
    ingest(source, tmp_path / "whole")
    report = ingest(source, tmp_path / "out", parse_rules(rules))
    rows = [row for row in range(1, 11) if row not in DROPPED[rules]]
    assert columns(tmp_path / "out" / "train.parquet")[2] == rows
    whole = columns(tmp_path / "whole" / "train.parquet")[0]
    assert (columns(tmp_path / "out" / "train.parquet")[0] == whole[np.array(rows) - 1]).all()
    for name in ("val.parquet", "test.parquet"):
        assert outputs(tmp_path / "out")[name] == outputs(tmp_path / "whole")[name]
    assert report["dropped"]["total"] == len(DROPPED[rules])
    assert report["written"] == {"train": len(rows), "val": 2, "test": 3}
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == report


def test_dropping_every_training_face_is_an_error(tmp_path: Path) -> None:
    zero = text(np.zeros(2304, np.uint8))
    message = refusal(tmp_path, lines([("0", zero, usage) for usage in USAGES]), rules=("constant",))
    assert "train (Training)" in message


def test_an_unknown_rule_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    done = command("f.csv", tmp_path, "--drop", "constant,blurred")
    assert done.returncode == 2
    assert "'blurred'" in done.stderr
    assert all(rule in done.stderr for rule in RULES)


# Whole outputs or none


def test_a_refusal_leaves_older_outputs_as_they_were_and_no_other_file(
    usual: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        ingest(write(tmp_path / "bad.csv", with_row(40, label="9")), tmp_path / "expected")
    assert outputs(tmp_path / "expected") == usual[1]


def test_a_killed_run_leaves_older_outputs_and_the_next_run_clears_its_files(
    usual: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    pipe, folder = tmp_path / "pipe", tmp_path / "expected"
    os.mkfifo(pipe)
    process = subprocess.Popen([sys.executable, "-m", "pipeline.ingest", pipe, folder], cwd=ROOT)
    with pipe.open("wb", buffering=0) as writer:
        writer.write(lines(fields()).encode())
        deadline = time.monotonic() + 60
        while len(outputs(folder)) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = outputs(folder)
    assert len(left) == 8
    assert left.items() >= usual[1].items()
    ingest(usual[0], folder)
    assert outputs(folder) == usual[1]


def test_a_second_process_on_the_same_folder_is_refused(usual: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    with module.only_one(tmp_path / "expected"), pytest.raises(InputError, match="another process"):
        ingest(usual[0], tmp_path / "expected")


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


def test_a_full_disk_is_one_line_with_the_name_of_the_split(
    usual: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    done = command(usual[0], tmp_path / "expected", preexec_fn=limit_files)
    assert done.returncode == 2
    assert done.stderr == f"error: [Errno 27] File too large: '{tmp_path / 'expected/train.parquet'}'\n"
    assert outputs(tmp_path / "expected") == usual[1]


def test_a_folder_whose_name_is_not_utf_8_is_a_folder_like_another(
    usual: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xefve"))
    done = command(write(folder / "fer2013.csv", usual[0].read_bytes()), folder / "out")
    assert done.returncode == 0, done.stderr
    assert outputs(folder / "out") == usual[1]


# The command


def test_the_command_writes_and_says_how_many(usual: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    done = command(usual[0], tmp_path / "out", "--drop", "none")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"] == {"train": 8, "val": 1, "test": 1}
    assert outputs(tmp_path / "out") == usual[1]
    assert done.stderr == ""


def test_the_command_ends_with_2_and_one_message_for_bad_data(tmp_path: Path) -> None:
    done = command(write(tmp_path / "bad.csv", with_row(6, label="9")), tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "row 6" in done.stderr
    assert "Traceback" not in done.stderr
    assert outputs(tmp_path / "out") == {}


def test_help_shows_an_example() -> None:
    done = command("--help")
    assert done.returncode == 0
    assert "example: python -m pipeline.ingest" in done.stdout


def large(path: Path, count: int) -> Path:
    """A file of some MB: the same ten rows again and again."""
    header, _, rows = lines(fields()).partition("\n")
    with path.open("w") as file:
        file.write(header + "\n")
        file.writelines(rows for _ in range(count // 10))
    return path


def limit_address_space() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce the limit")
def test_a_gigabyte_of_address_space_is_enough(tmp_path: Path) -> None:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    source = large(tmp_path / "f.csv", 3000)
    done = command(source, tmp_path / "out", preexec_fn=limit_address_space, env=environment)
    assert done.returncode == 0, done.stderr


def peak(source: Path, folder: Path) -> int:
    """Peak resident memory of the stage in KB, as the kernel counts it since the start of the program."""
    code = (
        "import sys, pathlib; from pipeline.ingest import ingest; ingest(*map(pathlib.Path, sys.argv[1:]));"
        "print(pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    return int(subprocess.check_output([sys.executable, "-c", code, source, folder], cwd=ROOT))


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    small, big = (peak(large(tmp_path / "f.csv", count), tmp_path / "out") for count in (4000, 12000))
    assert big < small + 20_000  # the pixels of 8,000 faces are 18 MB as bytes, 66 MB as text
    assert big < 400_000


def test_neither_torch_nor_pandas_is_imported(usual: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from pipeline.ingest import ingest; ingest(*map(pathlib.Path, sys.argv[1:]));"
        "sys.exit(', '.join({'torch', 'pandas'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, usual[0], tmp_path / "out"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_command_does_what_its_options_say(tmp_path: Path) -> None:
    flaws = write(tmp_path / "f.csv", flawed())
    bare = write(tmp_path / "b.csv", lines(without_usage(200), "emotion,pixels"))
    cut = ["--validation-share", ".1", "--test-share", ".3", "--seed", "5"]
    for source, words, options in (
        (flaws, ["--drop", "constant,duplicates"], {"rules": ("constant", "duplicates")}),
        (bare, cut, {"cut": Cut(0.1, 0.3, 5)}),
    ):
        assert command(source, tmp_path / "command", *words).returncode == 0
        ingest(source, tmp_path / "function", **options)
        assert outputs(tmp_path / "command") == outputs(tmp_path / "function")
