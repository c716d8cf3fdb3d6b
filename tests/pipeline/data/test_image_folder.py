import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cfpn.schema import EXPRESSIONS, Description, read
from pipeline.data import image_folder
from pipeline.data.chunks import Cut
from pipeline.data.image_folder import listing
from pipeline.ingest import ingest
from pipeline.process import InputError

FER2013 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # folders by label
SPLITS = ("train", "val", "test")
Pixels = NDArray[np.uint8]


def face(seed: int, shape: tuple[int, ...] = (48, 48)) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: Pixels, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def tree(root: Path, splits: tuple[str, ...] = SPLITS, classes: tuple[str, ...] = ("a", "b"), count: int = 3) -> Path:
    """`count` grey pictures of each class in each split; the seed of a picture is its place in this order."""
    seed = 0
    for split in splits:
        for name in classes:
            for number in range(count):
                save(root / split / name / f"{number}.png", face(seed))
                seed += 1
    return root


def fer2013(root: Path) -> Path:
    """The layout in which FER2013 is downloaded as pictures: PublicTest and PrivateTest lie in test."""
    for label, name in enumerate(FER2013):
        for prefix, folder in (("Training", "train"), ("PublicTest", "test"), ("PrivateTest", "test")):
            save(root / folder / name / f"{prefix}_{label}.png", face(label))
    return root


def refusal(root: Path, folder: Path, cut: Cut | None = None) -> str:
    with pytest.raises(InputError) as caught:
        ingest(root, folder, cut=cut)
    assert not folder.exists() or not list(folder.iterdir())
    return str(caught.value)


def test_a_tree_becomes_the_splits_with_the_folders_as_classes(tmp_path: Path) -> None:
    report = ingest(tree(tmp_path / "in", classes=("no", "maybe", "yes")), tmp_path / "out")
    assert report["written"] == {"train": 9, "val": 9, "test": 9}
    assert report["rows"]["val"] == {"total": 9, "maybe": 3, "no": 3, "yes": 3}
    for split in SPLITS:
        _, labels, _, description = read(tmp_path / "out" / f"{split}.parquet")
        assert description == Description(48, 1, ("maybe", "no", "yes"), drawn=False)
        assert np.bincount(labels).tolist() == [3, 3, 3]


def test_a_row_is_the_picture_of_that_number_in_the_order_of_the_paths(tmp_path: Path) -> None:
    root = tree(tmp_path / "in")
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    ingest(root, tmp_path / "out")
    for split in SPLITS:
        for pixels, label, row, _ in zip(*read(tmp_path / "out" / f"{split}.parquet")[:3], range(9), strict=False):
            assert names[row - 1].startswith(f"{split}/{'ab'[label]}/")
            assert (pixels[0] == np.asarray(Image.open(root / names[row - 1]))).all()


def test_the_first_faces_hold_every_class(tmp_path: Path) -> None:
    ingest(tree(tmp_path / "in", classes=("a", "b", "c", "d"), count=20), tmp_path / "out")
    assert len(set(read(tmp_path / "out" / "train.parquet")[1][:20].tolist())) == 4


def test_file_names_of_fer2013_tell_validation_from_test(tmp_path: Path) -> None:
    ingest(fer2013(tmp_path / "in"), tmp_path / "out")
    for split in SPLITS:
        pixels, labels, _, description = read(tmp_path / "out" / f"{split}.parquet")
        assert description.classes == EXPRESSIONS
        for label in range(7):
            assert (pixels[labels == label] == face(label)).all()
        assert sorted(labels) == list(range(7))


def test_where_there_is_a_validation_folder_the_file_names_do_not_matter(tmp_path: Path) -> None:
    root = fer2013(tmp_path / "in")
    save(root / "validation" / "angry" / "Training_8.png", face(8))
    written = ingest(root, tmp_path / "out")["written"]
    assert written == {"train": 7, "val": 1, "test": 14}


@pytest.mark.parametrize("names", [("Train", "Valid", "TEST"), ("training", "validation", "test")])
def test_splits_have_their_usual_names_in_any_letters(names: tuple[str, ...], tmp_path: Path) -> None:
    assert ingest(tree(tmp_path / "in", names), tmp_path / "out")["written"] == {"train": 6, "val": 6, "test": 6}


def test_the_splits_may_stand_one_folder_below(tmp_path: Path) -> None:
    tree(tmp_path / "in" / "images")
    assert ingest(tmp_path / "in", tmp_path / "out")["written"]["train"] == 6


def test_a_list_of_labels_beside_pictures_is_not_read(tmp_path: Path) -> None:
    (tree(tmp_path / "in") / "train.csv").write_text("image,label\n")
    assert ingest(tmp_path / "in", tmp_path / "out")["written"]["train"] == 6


def test_a_train_csv_without_a_folder_of_training_pictures_is_read(tmp_path: Path) -> None:
    (tree(tmp_path / "in") / "train.csv").write_text("emotion\n")
    (tmp_path / "in" / "train").rename(tmp_path / "in" / "angry")
    assert "no column pixels" in refusal(tmp_path / "in", tmp_path / "out")


def test_a_csv_goes_before_pictures(tmp_path: Path) -> None:
    (tree(tmp_path / "in") / "fer2013.csv").write_text("emotion\n")
    assert "no column pixels" in refusal(tmp_path / "in", tmp_path / "out")


def test_colour_is_three_channels_one_after_the_other(tmp_path: Path) -> None:
    for split in SPLITS:
        save(tmp_path / "in" / split / "a" / "1.png", face(0, (32, 32, 3)))
    ingest(tmp_path / "in", tmp_path / "out")
    pixels, _, _, description = read(tmp_path / "out" / "val.parquet")
    assert (description.side, description.channels) == (32, 3)
    assert (pixels[0] == face(0, (32, 32, 3)).transpose(2, 0, 1)).all()


def test_a_picture_is_turned_as_its_exif_orientation_says(tmp_path: Path) -> None:
    root, exif = tree(tmp_path / "in"), Image.Exif()
    exif[0x0112] = 6
    save(root / "val" / "a" / "turned.png", face(99), exif=exif)
    ingest(root, tmp_path / "out")
    assert any((pixels[0] == np.rot90(face(99), -1)).all() for pixels in read(tmp_path / "out" / "val.parquet")[0])


def test_identical_faces_are_audited_as_in_a_csv_and_rules_drop_them(tmp_path: Path) -> None:
    root = tree(tmp_path / "in")
    save(root / "train" / "a" / "copy.png", face(17))  # the last picture of the test split
    report = ingest(root, tmp_path / "out", ["copies"])
    assert report["identical_faces"]["rows_with_a_copy_in"]["train"] == {"val": 0, "test": 1}
    assert report["dropped"]["copies"] == 1
    assert report["written"]["train"] == len(read(tmp_path / "out" / "train.parquet")[1]) == 6


def test_hidden_files_and_other_files_are_no_pictures(tmp_path: Path) -> None:
    root = tree(tmp_path / "in")
    for name in ("._1.png", ".DS_Store", "Thumbs.db", "notes.txt"):
        (root / "train" / "a" / name).write_bytes(b"\0shadow")
    assert ingest(root, tmp_path / "out")["written"]["train"] == 6


def jpeg(cut: float) -> bytes:
    file = io.BytesIO()
    Image.fromarray(face(0)).save(file, format="JPEG")
    return file.getvalue()[: int(len(file.getvalue()) * cut)]


BAD = {
    "empty": (b"", "no picture; expected one of JPEG"),
    "a page": (b"<html>not found</html>", "no picture; expected one of JPEG"),
    "cut off": (jpeg(0.6), "damaged picture"),
    "another size": (face(0, (64, 64)), "found 64x64 grey; expected 48x48 grey"),
    "no square": (face(0, (48, 40)), "found 40x48; expected a square"),
    "colour": (face(0, (48, 48, 3)), "found 48x48 in colour; expected 48x48 grey"),
    "transparent": (face(0, (48, 48, 4)), "found the mode RGBA; expected grey or colour"),
    "16 bits": (face(0).astype(np.uint16), "found the mode I;16; expected grey or colour"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_picture_that_does_not_fit_is_told_by_its_path_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    content, part = BAD[case]
    path = tree(tmp_path / "in", count=20) / "test" / "b" / "bad.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save(path, content)
    message = refusal(tmp_path / "in", tmp_path / "out")
    assert f"1 fault in 121 pictures; nothing was written\n  test/b/bad.png: {part}" in message


def test_the_first_twenty_faults_are_told_and_the_others_counted(tmp_path: Path) -> None:
    root = tree(tmp_path / "in", count=20)
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"")
    message = refusal(root, tmp_path / "out")
    assert len(message.splitlines()) == 22
    assert message.endswith("and 20 more")


def test_folders_without_a_picture_are_refused(tmp_path: Path) -> None:
    for split in SPLITS:
        (tmp_path / "in" / split / "a").mkdir(parents=True)
    assert "no picture in a folder split/class" in refusal(tmp_path / "in", tmp_path / "out")


def test_only_unreadable_pictures_are_refused_with_the_reason_of_the_first(tmp_path: Path) -> None:
    for path in tree(tmp_path / "in").rglob("*.png"):
        path.write_bytes(b"")
    assert "no picture; expected one of JPEG" in refusal(tmp_path / "in", tmp_path / "out")


def test_a_missing_split_is_told_with_the_folders_that_are_looked_for(tmp_path: Path) -> None:
    message = refusal(tree(tmp_path / "in", ("train", "test")), tmp_path / "out")
    assert "no face for the split val; expected folders train, val and test" in message


def test_more_classes_than_a_label_can_count_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "in", SPLITS, tuple(map(str, range(129))), 1)
    assert "classes: found 129; expected 128 at most" in refusal(root, tmp_path / "out")


def test_votes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave out the votes"):
        ingest(tree(tmp_path / "in"), tmp_path / "out", votes=tmp_path / "fer2013new.csv")


def labels(folder: Path) -> dict[str, list[int]]:
    """How many faces of each label a split holds."""
    return {split: np.bincount(read(folder / f"{split}.parquet")[1]).tolist() for split in SPLITS}


def test_a_cut_takes_the_missing_split_from_the_training_pictures_alone(tmp_path: Path) -> None:
    written = ingest(tree(tmp_path / "in", ("train", "test"), count=50), tmp_path / "out", cut=Cut(0.3, 0.0, 0))[
        "written"
    ]
    assert written["test"] == 100
    assert written["train"] + written["val"] == 100
    assert 15 <= written["val"] <= 45
    assert all(len(found) == 2 for found in labels(tmp_path / "out").values())


def test_a_cut_makes_all_splits_of_folders_that_name_classes_alone(tmp_path: Path) -> None:
    root = tree(tmp_path / "in", count=50)
    written = ingest(root / "train", tmp_path / "out", cut=Cut(0.2, 0.3, 0))["written"]
    assert sum(written.values()) == 100
    assert min(written.values()) >= 10
    assert np.sum(list(labels(tmp_path / "out").values()), axis=0).tolist() == [50, 50]


def test_a_cut_of_pictures_goes_by_face_identity(tmp_path: Path) -> None:
    for copy in range(3):
        for seed in range(30):
            save(tmp_path / "in" / "ab"[seed % 2] / f"{seed}-{copy}.png", face(seed))
    ingest(tmp_path / "in", tmp_path / "out", cut=Cut(0.3, 0.3, 0))
    found = {split: {one.tobytes() for one in read(tmp_path / "out" / f"{split}.parquet")[0]} for split in SPLITS}
    assert sum(map(len, found.values())) == 30 == len(set.union(*found.values()))


@pytest.mark.parametrize(
    ("cut", "told"),
    [(Cut(0.2, 0.2, 0), "val; leave out --validation-share"), (Cut(0, 0.2, 0), "test; leave out --test-share")],
)
def test_a_share_of_a_split_that_has_pictures_is_refused(cut: Cut, told: str, tmp_path: Path) -> None:
    assert told in refusal(tree(tmp_path / "in"), tmp_path / "out", cut)
    assert told in refusal(fer2013(tmp_path / "names"), tmp_path / "out", cut)


def test_classes_without_splits_are_refused_with_the_options_that_cut_them(tmp_path: Path) -> None:
    message = refusal(tree(tmp_path / "in") / "train", tmp_path / "out")
    assert "no folder train; expected folders train, val and test" in message
    assert "--validation-share" in message


def test_a_cut_that_leaves_a_missing_split_without_a_share_is_told(tmp_path: Path) -> None:
    message = refusal(tree(tmp_path / "in", ("train",)), tmp_path / "out", Cut(0.5, 0.0, 0))
    assert "no face for the split test; raise the shares" in message


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    tree(tmp_path / "in")
    for name in ("a", "b"):
        ingest(tmp_path / "in", tmp_path / name)
    for split in SPLITS:
        a, b = (hashlib.sha256((tmp_path / x / f"{split}.parquet").read_bytes()).digest() for x in "ab")
        assert a == b


def test_the_order_does_not_depend_on_where_the_folder_stands(tmp_path: Path) -> None:
    first, second = (listing(tree(tmp_path / name))[0] for name in ("a", "b"))
    assert first == second


def test_the_command_takes_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "pipeline.ingest", tree(tmp_path / "in"), tmp_path / "out"]
    root = Path(image_folder.__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"] == {"train": 6, "val": 6, "test": 6}


def test_files_that_are_left_out_are_told_with_their_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree(tmp_path / "faces")
    save(root / "train/a/deeper/2.png", face(1))
    (root / "train/notes.txt").touch()
    (root / "train/a/.hidden").touch()
    listing(root)
    told = "2 files are no pictures in a folder split/class, among them train/a/deeper/2.png; left out"
    assert told in capsys.readouterr().err


def test_a_jfif_is_a_jpeg(tmp_path: Path) -> None:
    root = tree(tmp_path / "faces")
    Image.fromarray(face(1)).save(root / "train/a/9.jfif", "JPEG")
    assert "train/a/9.jfif" in {one.name for one in listing(root)[0]}


def test_classes_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "faces")
    save(root / "val/B/0.png", face(1))
    assert "classes B and b differ in case alone" in refusal(root, tmp_path / "out")


def test_a_class_whose_name_is_not_utf_8_is_refused_before_hours_of_training(tmp_path: Path) -> None:
    root = tree(tmp_path / "faces")
    try:
        (root / "train" / os.fsdecode(b"\xdcber")).mkdir()
    except OSError:
        pytest.skip("the file system takes no such name")
    save(root / "train" / os.fsdecode(b"\xdcber") / "0.png", face(1))
    assert r"class b'\xdcber': the name of the folder is not UTF-8" in refusal(root, tmp_path / "out")


@pytest.mark.parametrize("name", ["audit.json", "val.parquet"])
def test_an_output_that_is_a_folder_is_refused_before_any_file_is_replaced(tmp_path: Path, name: str) -> None:
    root, out = tree(tmp_path / "faces"), tmp_path / "out"
    (out / name).mkdir(parents=True)
    with pytest.raises(InputError, match=f"{name}: a folder; expected a file"):
        ingest(root, out)
    assert [path.name for path in out.iterdir()] == [name]


def test_the_seven_expressions_may_be_spelt_differently_in_each_split(tmp_path: Path) -> None:
    root = tree(tmp_path / "faces", ("train", "test"), FER2013)
    tree(root, ("val",), tuple(name.capitalize() for name in FER2013))
    pictures, classes = listing(root)
    assert (classes, len(pictures)) == (EXPRESSIONS, 3 * 7 * 3)


def test_a_class_without_a_training_picture_is_refused_by_name(tmp_path: Path) -> None:
    tree(tmp_path / "faces", splits=("train",), classes=("angry", "happy"))
    tree(tmp_path / "faces", splits=("val", "test"), classes=("anger", "happy"))
    assert "no training picture of anger" in refusal(tmp_path / "faces", tmp_path / "out")


@pytest.mark.parametrize(
    "names",
    [
        ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "normal"),
        ("Angry", "Disgusted", "Fearful", "Happy", "Sad", "Surprised", "Neutral"),
    ],
)
def test_each_spelling_of_an_expression_has_its_label(names: tuple[str, ...], tmp_path: Path) -> None:
    pictures, classes = listing(tree(tmp_path / "in", classes=names, count=1))
    assert classes == EXPRESSIONS
    assert {one.name.split("/")[1]: one.label for one in pictures} == {name: i for i, name in enumerate(names)}
