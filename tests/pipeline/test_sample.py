import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cfpn.schema import EXPRESSIONS
from pipeline import sample
from pipeline.data.drawing import draw_face
from pipeline.process import InputError, run
from pipeline.sample import BLOCK, face_of_row


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "sample.csv"
    write(path)
    return path


def write(path: Path, *options: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sample", str(path), *(options or ("--rows", "200"))])
        sample.main()


def fields(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()]


def test_two_runs_give_identical_bytes(made: Path, tmp_path: Path) -> None:
    write(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == made.read_bytes()


def test_bytes_do_not_depend_on_threads_or_hash_seed(made: Path, tmp_path: Path) -> None:
    environment = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-m", "pipeline.sample", str(tmp_path / "other.csv"), "--rows", "200"]
    subprocess.run(command, check=True, env=environment, cwd=Path(sample.__file__).parents[1])
    assert (tmp_path / "other.csv").read_bytes() == made.read_bytes()


def test_a_longer_file_begins_with_the_shorter_one(made: Path, tmp_path: Path) -> None:
    write(tmp_path / "longer.csv", "--rows", "211")
    assert (tmp_path / "longer.csv").read_bytes().startswith(made.read_bytes())


def test_another_seed_gives_other_faces_and_another_order() -> None:
    assert (draw_face(3, 0, 5) != draw_face(3, 1, 5)).any()
    assert sample.schedule(0, 0) != sample.schedule(1, 0)


def test_the_file_has_the_layout_of_fer2013_and_a_column_that_says_drawn(made: Path) -> None:
    header, *rows = fields(made)
    assert header == ["emotion", "pixels", "Usage", "drawn"]
    assert len(rows) == 200
    assert made.read_bytes().count(b"\r") == 0
    for emotion, pixels, usage, drawn in rows:
        values = [int(value) for value in pixels.split(" ")]
        assert len(values) == 48 * 48
        assert 0 <= min(values) <= max(values) <= 255
        assert emotion in "0123456"
        assert usage in ("Training", "PublicTest", "PrivateTest")
        assert drawn == "1"


def test_every_block_of_rows_has_every_expression_in_every_split_80_10_10() -> None:
    for block in range(5):
        cells = Counter(sample.schedule(3, block))
        assert len(cells) == 21
        assert Counter(usage for _, usage in cells.elements()) == {"Training": 160, "PublicTest": 20, "PrivateTest": 20}
        labels = Counter(label for label, _ in cells.elements())
        assert labels.most_common(1)[0][0] == EXPRESSIONS.index("happy")
        assert labels.most_common()[-1][0] == EXPRESSIONS.index("disgust")


def test_the_csv_holds_the_faces_and_labels_of_its_rows(made: Path) -> None:
    rows = fields(made)[1:]
    for index in (0, 17, 199):
        label, usage = sample.schedule(0, 0)[index]
        assert rows[index][::2] == [str(label), usage]
        assert (np.array(rows[index][1].split(), dtype=int) == face_of_row(0, index).ravel()).all()


def test_the_last_row_of_a_block_is_the_flaw_that_the_docstring_names() -> None:
    for block, flaw in enumerate(sample.FLAWS):
        last = block * BLOCK + BLOCK - 1
        face, rows = face_of_row(0, last), sample.schedule(0, block)
        twins = [i for i in range(BLOCK - 1) if (face_of_row(0, block * BLOCK + i) == face).all()]
        assert (face.max() == 0) == (flaw == "black")
        assert len(twins) == (flaw != "black")
        assert all((rows[twin][0] == rows[-1][0]) == (flaw == "copy") for twin in twins)


def test_happy_is_the_commonest_and_disgust_the_rarest_expression_as_in_fer2013(made: Path) -> None:
    labels = [int(line.split(",")[0]) for line in made.read_text().splitlines()[1:]]
    counts = Counter(EXPRESSIONS[label] for label in labels)
    assert counts.most_common()[0][0] == "happy"
    assert counts.most_common()[-1][0] == "disgust"
    assert len(counts) == 7


def test_flawless_data_have_no_copies_and_no_constant_faces() -> None:
    faces = [face_of_row(0, 4 * BLOCK + i, flawless=True) for i in range(BLOCK)]
    assert len({face.tobytes() for face in faces}) == BLOCK
    assert min(np.ptp(face) for face in faces) > 30


def test_the_picture_shows_seven_rows_of_twelve_faces(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "--rows", "200", "--picture", str(tmp_path / "sheet.png"))
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size == (70 + 12 * 96, 7 * 96)
        tiles = np.asarray(picture)[:, 70:].reshape(7, 96, 12, 96)
    assert tiles.std(axis=(1, 3)).min() > 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sample.csv", "sheet.png"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--rows", "0"], "--rows 0: expected 200 or more"),
        (["--rows", "199"], "--rows 199: expected 200 or more"),
        (["--seed", "-1"], "--seed -1: expected 0 or more"),
        (["--picture", "."], "expected the name of a file"),
        (["--picture", "new/out.csv"], "expected another file"),
        (["--rows", "many"], "invalid int value"),
    ],
)
def test_wrong_options_exit_2_say_why_and_write_nothing(
    options: list[str],
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sample", "new/out.csv", *options])
    with pytest.raises(SystemExit) as exit_:
        run(sample.main)
    assert exit_.value.code == 2
    assert part in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_as_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found a folder"):
        write(tmp_path)


def test_a_failure_half_way_leaves_the_old_files_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_late(seed: int, index: int, flawless: bool) -> NDArray[np.uint8]:
        if index == 5:
            raise OSError("no space left on device")
        return np.zeros((48, 48), dtype=np.uint8)

    (tmp_path / "sample.csv").write_text("old")
    monkeypatch.setattr(sample, "face_of_row", fail_late)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path / "sample.csv", "--rows", "200", "--picture", str(tmp_path / "sheet.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["sample.csv"]
    assert (tmp_path / "sample.csv").read_text() == "old"
