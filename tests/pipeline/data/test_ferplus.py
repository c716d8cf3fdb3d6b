from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cfpn.schema import EXPRESSIONS
from pipeline.data.chunks import Cut
from pipeline.data.ferplus import VOTED, read
from pipeline.ingest import ingest
from pipeline.process import InputError

HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
ORDER = HEADER.split(",")[2:]
USAGES = ("Training", "Training", "PublicTest", "PrivateTest")


def votes(**counts: int) -> list[str]:
    return [str(counts.get(name, 0)) for name in ORDER]


def write_votes(path: Path, rows: Iterable[list[str]], usages: Iterable[str] = USAGES, end: str = "\n") -> Path:
    pairs = enumerate(zip(usages, rows, strict=False))
    lines = [",".join([usage, f"fer{row:07d}.png", *counts]) for row, (usage, counts) in pairs]
    path.write_bytes(end.join([HEADER, *lines, ""]).encode())
    return path


def write_faces(path: Path, usages: Iterable[str] = USAGES) -> Path:
    """Faces that are all happy."""
    rows = [
        f"3,{' '.join(map(str, np.random.default_rng(n).integers(0, 256, 2304)))},{u}" for n, u in enumerate(usages)
    ]
    path.write_text("\n".join(["emotion,pixels,Usage", *rows]))
    return path


def labels(folder: Path) -> list[int]:
    return [
        label for s in ("train", "val", "test") for label in pq.read_table(folder / f"{s}.parquet")["label"].to_pylist()
    ]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"neutral": 6, "sadness": 4}, "normal"),
        ({"happiness": 10}, "happy"),
        ({"surprise": 5, "fear": 4, "NF": 1}, "surprise"),
        ({"sadness": 3, "anger": 2, "neutral": 2, "unknown": 2}, "sad"),
        ({"anger": 1}, "anger"),
        ({"disgust": 4, "contempt": 3}, "disgust"),
        ({"fear": 200}, "fear"),
        ({"anger": 5, "sadness": 5}, None),
        ({"contempt": 6, "anger": 4}, None),
        ({"unknown": 5, "neutral": 4}, None),
        ({"NF": 10}, None),
        ({"neutral": 5, "NF": 5}, None),
        ({}, None),
    ],
)
def test_the_label_is_the_expression_with_more_votes_than_every_other_column(
    counts: dict[str, int], expected: str | None, tmp_path: Path
) -> None:
    (found,) = read(write_votes(tmp_path / "v.csv", [votes(**counts)]))
    assert found.label == (None if expected is None else EXPRESSIONS.index(expected))


def test_votes_change_labels_by_row_and_the_audit_says_how_many(tmp_path: Path) -> None:
    counts = [votes(sadness=9, anger=1), votes(happiness=10), votes(NF=10), votes(neutral=6, happiness=4)]
    report = ingest(
        write_faces(tmp_path / "f.csv"), tmp_path / "out", votes=write_votes(tmp_path / "v.csv", counts, end="\r\n")
    )
    assert labels(tmp_path / "out") == [4, 3, 3, 6]
    assert report["labels_changed"] == {"total": 2, "train": 1, "val": 0, "test": 1}
    assert report["rows"]["train"]["sad"] == 1


def test_without_votes_no_label_is_said_to_change(tmp_path: Path) -> None:
    report = ingest(write_faces(tmp_path / "f.csv"), tmp_path / "out")
    assert report["labels_changed"] == {"total": 0, "train": 0, "val": 0, "test": 0}


def refusal(tmp_path: Path, path: Path) -> str:
    with pytest.raises(InputError) as caught:
        ingest(write_faces(tmp_path / "f.csv"), tmp_path / "out", votes=path)
    assert not list((tmp_path / "out").iterdir())
    return str(caught.value)


@pytest.mark.parametrize(
    ("count", "message"),
    [(3, "more rows than the 3 of"), (5, r"4 rows, but .*v\.csv has 5; expected the full fer2013\.csv")],
)
def test_another_number_of_rows_is_refused(count: int, message: str, tmp_path: Path) -> None:
    path = write_votes(tmp_path / "v.csv", [votes(anger=10)] * count, [*USAGES, "PrivateTest"])
    with pytest.raises(InputError, match=message):
        ingest(write_faces(tmp_path / "f.csv"), tmp_path / "out", votes=path)
    assert not list((tmp_path / "out").iterdir())


def test_votes_are_refused_beside_a_cut_which_would_name_other_splits(tmp_path: Path) -> None:
    path = write_votes(tmp_path / "v.csv", [votes(anger=10)] * 4)
    with pytest.raises(InputError, match=r"v\.csv: its votes are for the splits of the full fer2013\.csv"):
        ingest(write_faces(tmp_path / "f.csv"), tmp_path / "out", cut=Cut(0.2, 0.2, 0), votes=path)
    assert not list((tmp_path / "out").iterdir())


def test_votes_in_another_order_than_the_faces_are_refused(tmp_path: Path) -> None:
    path = write_votes(tmp_path / "v.csv", [votes(anger=10)] * 4, USAGES[::-1])
    assert "row 1 is in the split train, but not in" in refusal(tmp_path, path)


@pytest.mark.parametrize("value", ["-1", "x", "", "1.5", "1000", "٣"])
def test_a_count_that_is_no_number_of_votes_is_refused_with_row_and_column(value: str, tmp_path: Path) -> None:
    counts = [votes(anger=10), [value, *votes()[1:]], votes(), votes()]
    message = refusal(tmp_path, write_votes(tmp_path / "v.csv", counts))
    assert f"row 2, column neutral: found {value!r}; expected a number of votes" in message


@pytest.mark.parametrize("content", [b"", b"emotion,pixels,Usage\n", b"\xff\xfe\0", b'Usage,"a\n'])
def test_a_file_without_votes_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_bytes(content)
    assert "expected fer2013new.csv of FER+" in refusal(tmp_path, tmp_path / "v.csv")


def test_a_short_line_is_refused(tmp_path: Path) -> None:
    assert "row 2, column NF: found ''" in refusal(
        tmp_path, write_votes(tmp_path / "v.csv", [votes(), votes()[:-1], votes(), votes()])
    )


def test_every_column_of_votes_counts() -> None:
    assert sorted(VOTED) == sorted(ORDER)
