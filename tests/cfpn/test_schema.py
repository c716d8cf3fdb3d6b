import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cfpn import schema
from cfpn.schema import (
    EXPRESSIONS,
    KEY,
    Description,
    SplitError,
    arrow_schema,
    column,
    describe,
    read,
    values,
    write,
    writer,
)

ROOT = Path(schema.__file__).parents[1]
COLOUR = Description(side=32, channels=3, classes=tuple("abcdefghij"), drawn=True)


def faces(description: Description, count: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (count, description.channels, description.side, description.side)
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, len(description.classes), count), np.arange(count)


@pytest.mark.parametrize("description", [Description(), COLOUR, Description(side=8, classes=("yes", "no"))])
def test_what_is_written_is_read_with_its_description(description: Description, tmp_path: Path) -> None:
    pixels, labels, rows = faces(description)
    write(tmp_path / "split.parquet", pixels, labels, rows, description)
    *found, described = read(tmp_path / "split.parquet")
    assert described == description
    assert [array.dtype for array in found] == [np.uint8, np.int64, np.int64]
    for array, expected in zip(found, (pixels, labels, rows), strict=True):
        assert array.flags.writeable
        np.testing.assert_array_equal(array, expected)


def test_a_split_longer_than_a_row_group_is_read_whole_and_in_order(tmp_path: Path) -> None:
    description = Description(side=2)
    pixels, labels, rows = faces(description, 2 * schema.ROW_GROUP + 3)
    with writer(tmp_path / "split.parquet", arrow_schema(description)) as sink:
        for start in range(0, len(rows), 100):
            some = (values[start : start + 100] for values in (pixels, labels, rows))
            kinds = arrow_schema(description).types
            sink(pa.record_batch(list(map(column, some, kinds)), schema=arrow_schema(description)))
    for array, expected in zip(read(tmp_path / "split.parquet"), (pixels, labels, rows), strict=False):
        np.testing.assert_array_equal(array, expected)
    assert pq.ParquetFile(tmp_path / "split.parquet").num_row_groups == 2


def test_faces_may_be_written_without_an_axis_for_one_channel(tmp_path: Path) -> None:
    pixels, labels, rows = faces(Description())
    write(tmp_path / "split.parquet", pixels[:, 0], labels, rows, Description())
    np.testing.assert_array_equal(read(tmp_path / "split.parquet")[0], pixels)


def test_a_slice_of_a_column_gives_its_own_values() -> None:
    pixels = faces(Description())[0]
    kind = np.dtype((np.uint8, (1, 48, 48)))
    np.testing.assert_array_equal(values(column(pixels, pa.binary(2304)).slice(3, 4), kind), pixels[3:7])


def test_other_columns_are_ignored(tmp_path: Path) -> None:
    pixels, labels, rows = faces(COLOUR)
    write(tmp_path / "split.parquet", pixels, labels, rows, COLOUR)
    table = pq.read_table(tmp_path / "split.parquet")
    pq.write_table(table.append_column("transform", pa.array(["flip"] * 10)), tmp_path / "more.parquet")
    np.testing.assert_array_equal(read(tmp_path / "more.parquet")[0], pixels)
    assert read(tmp_path / "more.parquet")[3] == COLOUR


def test_48x48_grey_faces_without_a_description_are_those_of_fer2013() -> None:
    assert describe(arrow_schema(Description()).remove_metadata()) == Description(48, 1, EXPRESSIONS, False)


def test_other_pixels_without_a_description_are_refused() -> None:
    with pytest.raises(ValueError, match=r"column pixels: found fixed_size_binary\[3072\]; expected"):
        describe(arrow_schema(COLOUR).remove_metadata())


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b"\xff", b'{"side": 48, "channels": 1, "classes": 7, "drawn": false}'],
)
def test_a_damaged_description_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="metadata cfpn: no description of a split"):
        describe(arrow_schema(Description()).with_metadata({KEY: text}))


def test_a_key_of_a_later_version_is_ignored() -> None:
    text = arrow_schema(COLOUR).metadata[KEY].replace(b"{", b'{"source": "x", ', 1)
    assert describe(arrow_schema(COLOUR).with_metadata({KEY: text})) == COLOUR


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("side", 0),
        ("side", 48.0),
        ("channels", True),
        ("classes", ()),
        ("classes", ("a", "a")),
        ("classes", ("a", 1)),
        ("classes", tuple(map(str, range(129)))),
        ("drawn", "no"),
    ],
)
def test_a_description_that_cannot_be_is_refused_with_the_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        Description(**{field: value})


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("text", "not a Parquet file: Parquet magic bytes not found"),
        ("no column", "column label: found no such column; expected int8"),
        ("another type", "column row: found int64; expected int32"),
        ("missing value", "column label: a value is missing"),
        ("label", "row 3: label 7, but there are 7"),
        ("negative label", "row 3: label -1, but there are 7"),
        ("damaged", "CRC"),
    ],
)
def test_a_file_that_is_no_split_is_refused_with_its_path_and_the_reason(
    case: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "split.parquet"
    write(path, *faces(Description()), Description())
    table, whole = pq.read_table(path), path.read_bytes()
    labels = [0, 1, 2, -1 if case == "negative label" else 7, 0, 0, 0, 0, 0, 0]
    changed = {
        "no column": table.drop_columns("label"),
        "another type": table.set_column(2, "row", pa.array(range(10), pa.int64())),
        "missing value": table.set_column(1, "label", pa.array([None] * 10, pa.int8())),
        "label": table.set_column(1, "label", pa.array(labels, pa.int8())),
        "negative label": table.set_column(1, "label", pa.array(labels, pa.int8())),
    }
    if case in changed:
        pq.write_table(changed[case], path)
    else:
        path.write_bytes(b"emotion,pixels\n" if case == "text" else whole[:9000] + bytes(1) + whole[9001:])
    with pytest.raises(SplitError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert reason in str(caught.value)


def test_a_missing_file_is_told_by_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.parquet")


@pytest.mark.parametrize("case", ["side", "labels", "rows", "type", "class"])
def test_arrays_that_do_not_fit_the_description_are_not_written(case: str, tmp_path: Path) -> None:
    pixels, labels, rows = faces(Description())
    changed = {
        "side": (pixels[..., :40], labels, rows),
        "labels": (pixels, labels[:9], rows),
        "rows": (pixels, labels, rows[:9]),
        "type": (pixels.astype(np.float32), labels, rows),
        "class": (pixels, labels + 7, rows),
    }
    with pytest.raises(ValueError, match=r"split\.parquet"):
        write(tmp_path / "split.parquet", *changed[case], Description())
    assert not (tmp_path / "split.parquet").exists()


def test_a_folder_whose_name_is_not_utf_8_holds_a_split_like_another(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xefve"))
    folder.mkdir()
    pixels, labels, rows = faces(Description())
    write(folder / "split.parquet", pixels, labels, rows, Description())
    np.testing.assert_array_equal(read(folder / "split.parquet")[0], pixels)


def test_neither_torch_nor_pandas_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, numpy as np; from cfpn.schema import *; from cfpn import schema\n"
        "path, faces = pathlib.Path(sys.argv[1]), np.zeros((3, 48, 48), np.uint8)\n"
        "schema.write(path, faces, np.arange(3), np.arange(3), schema.Description()); schema.read(path)\n"
        "assert not {'torch', 'pandas'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "split.parquet"], check=True, cwd=ROOT)


UNFIT = {
    "channels last": {"pixels": np.zeros((4, 32, 32, 3), np.uint8)},
    "two faces in one": {"pixels": np.zeros((4, 96, 32), np.uint8)},
    "labels with a fraction": {"labels": np.array([0.9, 0.4, 0.6, 0.1])},
    "labels in words": {"labels": np.array(["a", "b", "c", "d"])},
    "negative labels": {"labels": np.arange(4) - 1},
    "negative rows": {"rows": np.arange(4) - 1},
    "rows past int32": {"rows": np.arange(4) + 2**32},
    "rows with a fraction": {"rows": np.arange(4) / 2},
}


@pytest.mark.parametrize("what", UNFIT)
def test_arrays_that_do_not_fit_are_refused_and_no_file_is_left(tmp_path: Path, what: str) -> None:
    arrays = {"pixels": np.zeros((4, 3, 32, 32), np.uint8), "labels": np.arange(4), "rows": np.arange(4)} | UNFIT[what]
    with pytest.raises(ValueError, match=r"split\.parquet: .*expected"):
        write(tmp_path / "split.parquet", *arrays.values(), COLOUR)
    assert not list(tmp_path.iterdir())


def test_a_split_that_cannot_be_written_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "split.parquet", *faces(COLOUR), COLOUR)
    before = (tmp_path / "split.parquet").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "split.parquet", *faces(COLOUR, 5), COLOUR)
    assert [path.name for path in tmp_path.iterdir()] == ["split.parquet"]
    assert (tmp_path / "split.parquet").read_bytes() == before
