"""Every face gets an answer that names the weights, and what is none costs one line and the exit code."""

import csv
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cfpn import load
from cfpn.anytime import multiply_adds
from cfpn.prediction import opinions, predict, unit_log_probabilities
from pipeline import predict as command
from pipeline.pictures import annotate, camera, detect, sources
from pipeline.pictures import open as pictures
from pipeline.pictures.answers import load_model
from pipeline.process import InputError
from tests.pipeline.pictures.made import BP, HTML, coloured, encoded, face, grey, turned_jpeg, write_weights

ROOT = Path(__file__).resolve().parents[2]
COUNT = 5
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "small.safetensors", exit=0.3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Drawn faces under names of many scripts."""
    names = ["café.png", "얼굴.png", "😀.png", "two words.png", "plain.png"]
    (tmp_path / "faces").mkdir()
    for number, name in enumerate(names):
        grey(number=number).save(tmp_path / "faces" / name)
    return tmp_path / "faces"


@pytest.fixture
def call(weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command in this process; returns exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["predict", "--weights", str(weights), *map(str, arguments)])
        code = 0
        try:
            command.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def expected(weights: Path, *numbers: int) -> torch.Tensor:
    return predict(load(weights), np.stack([face(number) for number in numbers]))


def probabilities(record: dict, weights: Path) -> list[float]:
    return [record["probabilities"][name] for name in load(weights).names]


def test_a_folders_faces_are_answered_one_per_line_in_the_order_of_their_names(
    call: Call, folder: Path, weights: Path
) -> None:
    code, text, _ = call(folder, "--json", "--top", 7)
    found = records(text)
    names = sorted(path.name for path in folder.iterdir())
    assert code == 0
    assert [Path(record["picture"]).name for record in found] == names
    by_name = {
        name: number for number, name in enumerate(["café.png", "얼굴.png", "😀.png", "two words.png", "plain.png"])
    }
    values = torch.tensor([probabilities(record, weights) for record in found])
    torch.testing.assert_close(values, expected(weights, *(by_name[name] for name in names)), rtol=0, atol=1e-6)


def test_the_answer_names_the_weights_and_each_units_opinion(call: Call, folder: Path, weights: Path) -> None:
    record = records(call(folder / "plain.png", "--json", "--top", 2)[1])[0]
    units = unit_log_probabilities(load(weights), face(4)[None])
    assert record["weights"]["name"] == str(weights)
    assert len(record["weights"]["sha256"]) == 64
    assert len(record["probabilities"]) == 2
    assert record["expression"] == next(iter(record["probabilities"]))
    assert list(record["units"]) == list(units)
    for name, own in record["units"].items():
        logs = dict(zip(load(weights).names, units[name][0].exp().tolist(), strict=True))
        assert own == pytest.approx(logs, abs=1e-6)


def test_a_table_has_a_row_per_face_and_a_column_per_class(call: Call, folder: Path, weights: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(call(folder, "--csv")[1])))
    assert len(rows) == COUNT
    values = [[float(row[name]) for name in load(weights).names] for row in rows]
    np.testing.assert_allclose(np.sum(values, 1), 1, atol=1e-5)
    assert all(row["expression"] == load(weights).names[np.argmax(own)] for row, own in zip(rows, values, strict=True))


def test_text_says_how_the_face_was_found(call: Call, folder: Path) -> None:
    _, text, told = call(folder / "plain.png")
    assert text.count("\n") == 1
    assert "taken as a face crop" in text
    assert "sha256" in told


BAD = {
    "broken.jpg": encoded(coloured(), "JPEG")[:900],
    "empty.jpg": b"",
    "page.jpg": HTML,
    "tiny.png": encoded(Image.new("L", (20, 20)), "PNG"),
}


def test_bad_files_are_told_and_the_rest_is_done(call: Call, folder: Path) -> None:
    for name, data in BAD.items():
        (folder / name).write_bytes(data)
    code, text, told = call(folder, folder / "nothing.png", "--json")
    assert code == 2
    assert len(records(text)) == COUNT
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert [Path(line.split(": ")[1]).name for line in errors] == [*sorted(BAD), "nothing.png"]


def test_a_folder_without_pictures_is_an_error(call: Call, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    code, text, told = call(tmp_path / "none")
    assert (code, text) == (2, "")
    assert "no picture in this folder" in told


def test_the_same_face_as_png_turned_and_in_a_csv_has_one_answer(call: Call, tmp_path: Path, weights: Path) -> None:
    grey().save(tmp_path / "face.png")
    Image.fromarray((face().astype(int) * 257).astype(np.uint16)).save(tmp_path / "deep.png")
    grey().convert("RGB").quantize(256).save(tmp_path / "palette.png")
    (tmp_path / "faces.csv").write_text("pixels\n" + " ".join(map(str, face().ravel())) + "\n")
    names = ["face.png", "deep.png", "palette.png", "faces.csv"]
    found = records(call(*(tmp_path / name for name in names), "--json", "--top", 7)[1])
    values = torch.tensor([probabilities(record, weights) for record in found])
    torch.testing.assert_close(values, expected(weights, 0, 0, 0, 0), rtol=0, atol=1e-6)
    assert found[-1]["picture"].endswith("faces.csv:1")


def test_a_turned_jpeg_has_the_answer_of_the_upright_one(call: Call, tmp_path: Path) -> None:
    picture = grey(96).convert("RGB")
    (tmp_path / "1.jpg").write_bytes(encoded(picture, "JPEG", quality=95))
    (tmp_path / "6.jpg").write_bytes(turned_jpeg(picture, 6))
    upright, turned = records(call(tmp_path / "1.jpg", tmp_path / "6.jpg", "--json", "--faces", "crop", "--top", 7)[1])
    assert upright["probabilities"] == pytest.approx(turned["probabilities"], abs=0.02)


def test_of_an_oblong_picture_the_middle_square_is_taken_and_told(call: Call, tmp_path: Path) -> None:
    wide = Image.new("L", (96, 48), 90)
    wide.paste(grey(), (24, 0))
    wide.save(tmp_path / "wide.png")
    grey().save(tmp_path / "face.png")
    whole, face_alone = records(call(tmp_path / "wide.png", tmp_path / "face.png", "--json")[1])
    assert whole["notes"] == ["middle square of 96x48"]
    assert whole["box"] == [24, 0, 48, 48]
    assert whole["probabilities"] == face_alone["probabilities"]


def test_bad_rows_of_a_csv_are_told_by_number(call: Call, tmp_path: Path) -> None:
    good = " ".join(["7"] * 2304)
    (tmp_path / "f.csv").write_text(
        f"emotion,pixels\n0,{good}\n0,{good[:-2]}\nx,{good}\n0,{good.replace('7', '300', 1)}\n"
    )
    code, text, told = call(tmp_path / "f.csv", "--json")
    assert code == 2
    assert [record["picture"].rsplit(":", 1)[1] for record in records(text)] == ["1", "3"]
    assert "f.csv, row 2, column pixels: found 2,303 pixels" in told
    assert 'f.csv, row 4, column pixels: found "300"' in told


@pytest.mark.parametrize("kind", ["picture", "csv"])
def test_standard_input_is_a_picture_or_a_csv(call: Call, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(grey(), "PNG") if kind == "picture" else b"pixels\r\n" + b" ".join([b"9"] * 2304) + b"\r\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, text, _ = call("-", "--json")
    assert code == 0
    assert records(text)[0]["picture"] == "standard input" + ("" if kind == "picture" else ":1")


def test_without_a_detector_every_picture_is_a_crop_and_says_so(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "available", lambda: False)
    coloured(200, 150).save(tmp_path / "large.png")
    assert records(call(tmp_path / "large.png", "--json")[1])[0]["how"] == "taken as a face crop"
    with pytest.raises(InputError, match="OpenCV is not installed"):
        call(tmp_path / "large.png", "--faces", "detect")


def test_an_opencv_that_does_not_work_is_told_and_costs_no_crop(
    call: Call, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "available", lambda: True)
    monkeypatch.setitem(sys.modules, "cv2", None)  # so that importing it fails
    coloured(200, 150).save(tmp_path / "large.png")
    detect.cascade.cache_clear()
    code, text, error = call(tmp_path / "large.png", folder)
    assert (code, len(text.splitlines())) == (2, COUNT)
    assert "error: OpenCV is installed and does not load" in error


def test_an_opencv_without_its_detector_is_told(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    monkeypatch.setattr(detect, "CASCADE", "nothing.xml")
    coloured(200, 150).save(tmp_path / "large.png")
    detect.cascade.cache_clear()
    code, text, error = call(tmp_path / "large.png")
    assert (code, text) == (2, "")
    assert "nothing.xml: OpenCV's detector of faces is not there" in error


def test_with_a_detector_faces_have_boxes_and_a_picture_without_one_is_told(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    from matplotlib import cbook

    hopper = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    coloured(200, 150).save(tmp_path / "none.png")
    code, text, told = call(hopper, tmp_path / "none.png", "--json")
    (record,) = records(text)
    x, y, width, height = record["box"]
    assert code == 0
    assert record["how"] == "found by the detector"
    assert x < 215 < x + width  # the nose
    assert y < 235 < y + height
    assert "none.png: no face found" in told


class Camera:
    """Takes the place of OpenCV's: dark at first, then coloured; its frames are blue, green, red."""

    def __init__(self, frames: int) -> None:
        self.frames, self.released = frames, False

    def __call__(self, number: int) -> "Camera":
        return self

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.frames -= 1
        picture = np.asarray(coloured(64, 48))[..., ::-1]
        return (self.frames >= 0, picture * (self.frames < 1) if self.frames >= 0 else None)

    def release(self) -> None:
        self.released = True


def test_the_camera_is_asked_for_a_picture_as_pixels_of_a_file_are(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2 = pytest.importorskip("cv2")
    taken = Camera(camera.FRAMES)
    monkeypatch.setattr(cv2, "VideoCapture", taken)
    coloured(64, 48).save(tmp_path / "same.png")
    code, text, _ = call(tmp_path / "same.png", "--camera", "--json")
    seen, same = records(text)
    assert code == 0
    assert seen["picture"] == "camera"
    assert seen["probabilities"] == same["probabilities"]
    assert taken.released


def test_without_a_camera_or_opencv_a_line_says_so_and_files_are_answered(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2 = pytest.importorskip("cv2")
    none = Camera(0)
    monkeypatch.setattr(cv2, "VideoCapture", none)
    code, text, told = call(folder, "--camera", "--json")
    assert (code, len(records(text)), none.released) == (2, COUNT, True)
    assert "error: --camera: no camera gives a picture" in told.splitlines()
    monkeypatch.setattr(camera, "available", lambda: False)
    code, text, told = call("--camera", "--json")
    assert (code, text) == (2, "")
    assert "error: --camera: OpenCV is not installed; pip install '.[photo]'" in told.splitlines()


def test_faces_leave_early_at_the_probability_given_or_stored(call: Call, folder: Path, weights: Path) -> None:
    found = records(call(folder / "plain.png", "--json", "--exit", 0.3, "--top", 7)[1])[0]
    stored = records(call(folder / "plain.png", "--json", "--top", 7, "--exit")[1])[0]
    own = opinions(load(weights), face(4)[None], 0.3)
    assert found == stored
    assert probabilities(found, weights) == pytest.approx(own.vote()[0].tolist(), abs=1e-6)
    assert len(found["units"]) == int(own.asked)
    assert found["multiply_adds"] > 0
    soon = records(call(folder / "plain.png", "--json", "--exit", 0.15)[1])[0]
    assert (len(soon["units"]), soon["multiply_adds"]) == (1, multiply_adds(load(weights))[0])


def test_leaving_early_is_refused_where_units_do_not_vote(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_weights(tmp_path / "bp.safetensors", BP)
    monkeypatch.setattr(sys, "argv", ["predict", "--weights", str(path), str(folder), "--exit", "0.5"])
    with pytest.raises(InputError, match="--exit: the units of this network do not vote"):
        command.main()


@pytest.mark.parametrize("arguments", [["--explain"], ["--top", "0"], ["--exit", "2"], ["--csv", "--top", "1"]])
def test_arguments_that_make_no_sense_are_refused(call: Call, folder: Path, arguments: list[str]) -> None:
    with pytest.raises(InputError, match="expected"):
        call(folder, *arguments)


def test_pictures_are_not_written_where_they_are_read(call: Call, folder: Path) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match="pictures are read there"):
        call(folder, "--out", folder / ".." / folder.name)
    assert sorted(folder.iterdir()) == before


def test_linked_folders_are_read_once_each(call: Call, tmp_path: Path, folder: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (top / "linked").symlink_to(folder)
    (top / "again").symlink_to(folder)
    (folder / "back").symlink_to(top)
    code, text, _ = call(top, "--json", "--top", 7)
    assert code == 0
    assert len(records(text)) == 5


def test_a_table_without_a_row_is_told(call: Call, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("emotion,pixels\n")
    code, _, error = call(tmp_path / "none.csv", "--csv")
    assert (code, "none.csv: no row after the header" in error) == (2, True)


@pytest.mark.parametrize("channels", [2, 4])
def test_weights_of_neither_grey_nor_coloured_faces_are_refused(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    load_model = command.load_model

    def other(name: str) -> object:
        model = load_model(name)
        model.network.channels = channels
        return model

    monkeypatch.setattr(command, "load_model", other)
    with pytest.raises(InputError, match=rf"{channels} channels; expected 1 \(grey\) or 3 \(coloured\)"):
        call(folder)


def test_without_a_picture_the_command_asks_for_one(call: Call) -> None:
    with pytest.raises(InputError, match="expected a PATH or --camera"):
        call()


@pytest.mark.parametrize("name", ["nothing", "nothing.safetensors"])
def test_missing_weights_are_an_error(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["predict", "--weights", name, str(folder)])
    with pytest.raises(InputError, match="nothing"):
        command.main()


def test_annotated_pictures_are_written_beside_each_other_and_not_read_again(call: Call, folder: Path) -> None:
    (folder / "below").mkdir()
    grey(number=6).save(folder / "below" / "plain.png")
    code, text, _ = call(folder, "--out", folder / "seen", "--explain", "--json")
    again = call(folder, "--out", folder / "seen")[1]
    assert code == 0
    assert np.shape(records(text)[0]["importance"]) == (48, 48)
    assert len(text.splitlines()) == len(again.splitlines()) == COUNT + 1
    written = sorted(path.name for path in (folder / "seen").iterdir())
    assert len(written) == 2 * (COUNT + 1)
    assert {"plain.png", "plain-2.png"} <= set(written)
    with Image.open(folder / "seen" / "plain.png") as picture:
        assert (picture.mode, max(picture.size)) == ("RGB", 480)


def test_the_command_imports_neither_ray_nor_dvc_nor_wandb(weights: Path, folder: Path) -> None:
    code = (
        "import sys\nfrom pipeline import predict\n"
        f"sys.argv = ['predict', '--weights', {str(weights)!r}, {str(folder)!r}]\npredict.main()\n"
        "found = {'ray', 'dvc', 'wandb', 'pandas', 'pydantic', 'matplotlib', 'scipy'} & sys.modules.keys()\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0


def test_a_fault_ends_the_process_with_code_2_and_no_traceback(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_bytes(HTML)
    arguments = [sys.executable, "-m", "pipeline.predict", "--weights", str(weights), str(tmp_path / "page.jpg")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2
    assert "Traceback" not in done.stderr


def test_a_name_that_the_terminal_cannot_show_is_written_with_escapes(weights: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "pipeline.predict", "--weights", str(weights), str(folder / "얼굴.png")]
    own = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=True)
    assert "\\uc5bc\\uad74.png: " in done.stdout


@pytest.mark.parametrize("kind", ["csv", "picture", "pipe"])
def test_what_comes_through_a_pipe_is_read_whole_or_refused(
    call: Call, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pictures, "STREAM_LIMIT", 2**10)
    csv_text = "emotion,pixels\n" + "".join(f"0,{' '.join(map(str, face().ravel()))}\n" for _ in range(3))
    data = csv_text.encode() if kind == "csv" else encoded(coloured(200, 200), "BMP")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    if kind == "pipe":
        os.mkfifo(tmp_path / "fifo")
        writer = threading.Thread(target=lambda: write_as_far_as_read(tmp_path / "fifo", data))
        writer.start()
    code, text, error = call(tmp_path / "fifo" if kind == "pipe" else "-")
    assert (code, text) == (2, "")
    assert "come through a pipe; name the file instead" in error
    if kind == "pipe":
        writer.join()


def write_as_far_as_read(path: Path, data: bytes) -> None:
    with suppress(BrokenPipeError), path.open("wb") as file:
        file.write(data)


def test_a_folder_that_cannot_be_entered_is_told(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "secret").mkdir()
    scandir = os.scandir

    def refusing(path: object = ".") -> Iterator[os.DirEntry]:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    code, text, error = call(folder)
    assert (code, len(text.splitlines())) == (2, COUNT)
    assert f"{folder / 'secret'}: Permission denied" in error


def test_a_file_whose_folder_cannot_be_entered_costs_the_others_nothing(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_file = Path.is_file

    def refusing(path: Path) -> bool:
        if path.name == "plain.png":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refusing)
    code, text, _ = call(folder)
    assert (code, len(text.splitlines())) == (0, COUNT)


def test_weights_that_may_not_be_read_are_not_called_missing(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refusing)
    with pytest.raises(PermissionError, match=f"Permission denied: '{weights}'"):
        load_model(str(weights))


def test_a_link_that_leads_to_itself_costs_the_others_nothing(call: Call, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    code, text, error = call(tmp_path / "loop", folder / "plain.png", "--out", tmp_path / "seen")
    assert (code, len(text.splitlines())) == (2, 1)
    assert f"error: {tmp_path / 'loop'}: Too many levels" in error


def test_of_pictures_with_one_name_that_are_written_at_once_none_is_lost(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        saved = list(pool.map(lambda _: annotate.save(grey(), tmp_path, "photo.jpg"), range(40)))
    assert sorted(saved) == sorted(tmp_path.glob("*.png"))
    assert len(set(saved)) == 40


def test_a_full_disk_is_told_also_beside_a_picture_that_cannot_be_read(weights: Path, folder: Path) -> None:
    (folder / "page.jpg").write_bytes(HTML)
    command = [sys.executable, "-m", "pipeline.predict", "--weights", str(weights), str(folder)]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, env=own, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: [Errno 28] No space left on device: 'standard output'"


@pytest.mark.parametrize("size", [(60000, 24), (24, 60000)])
@pytest.mark.parametrize("how", ["auto", "crop"])
def test_a_long_thin_picture_costs_no_other_its_answer(
    call: Call, tmp_path: Path, size: tuple[int, int], how: str
) -> None:
    Image.new("L", size, 90).save(tmp_path / "a.png")
    grey().save(tmp_path / "b.png")
    code, text, error = call(
        tmp_path / "a.png", tmp_path / "b.png", "--faces", how, "--explain", "--out", tmp_path / "o"
    )
    assert "Traceback" not in error and "b.png" in text
    assert code == (0 if how == "crop" or detect.available() else 2)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("fer2013.csv:4", "fer2013.csv-4.png"),
        ("a/photo.jpg", "photo.png"),
        ("v1.2", "v1.2.png"),
        (".png", "png.png"),
        ("漢" * 80 + ".jpg", "漢" * 66 + ".png"),
    ],
)
def test_an_annotated_picture_keeps_its_name_and_the_number_of_its_row(tmp_path: Path, name: str, file: str) -> None:
    assert annotate.save(grey(), tmp_path, name).name == file


def test_faces_of_another_side_are_asked_as_the_network_learnt_them(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "wide.safetensors", side=96)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    network = load(path)
    found = sources.faces(tmp_path / "face.png", side=detect.side_of(network))
    assert (found[0, 0].numpy() == pixels).all()
    assert detect.side_of(load("nbp")) == 48


def test_the_command_and_the_library_answer_alike_at_another_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_weights(tmp_path / "wide.safetensors", side=96)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    monkeypatch.setattr(
        sys, "argv", ["predict", "--weights", str(path), str(tmp_path / "face.png"), "--json", "--top", "7"]
    )
    with suppress(SystemExit):
        command.main()
    (record,) = records(capsys.readouterr().out)
    expected = predict(load(path), pixels[None, None])[0].tolist()
    assert probabilities(record, path) == pytest.approx(expected, abs=1e-6)


@pytest.mark.skipif(not detect.available(), reason="needs OpenCV")
def test_threads_that_ask_the_detector_at_once_are_answered_alike() -> None:
    pictures = [grey(size, number).convert("RGB") for number, size in enumerate((200, 300, 400))]
    alone = [detect.find(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detect.find, pictures * 20)) == alone * 20


@pytest.mark.parametrize("bad", ["", "x" * 300 + ".png"])
def test_a_path_that_no_file_can_have_costs_the_others_nothing(call: Call, folder: Path, bad: str) -> None:
    code, out, err = call(bad, folder / "plain.png")
    assert (code, len(out.splitlines())) == (2, 1)
    assert "Traceback" not in err


def test_files_below_hidden_folders_are_neither_read_nor_told(call: Call, folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git/config").touch()
    code, out, err = call(folder)
    assert (code, len(out.splitlines())) == (0, COUNT)
    assert "left out" not in err


def test_files_that_are_no_pictures_are_told_and_dangling_links_are_faults(call: Call, folder: Path) -> None:
    (folder / "IMG_1.HEIC").touch()
    code, out, err = call(folder)
    assert (code, len(out.splitlines())) == (0, COUNT)
    assert "other files than pictures left out, among them IMG_1.HEIC" in err
    (folder / "gone.png").symlink_to("nowhere.png")
    code, out, err = call(folder)
    assert (code, len(out.splitlines())) == (2, COUNT)
    assert "gone.png" in err


def test_a_closed_standard_input_is_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, _, err = call("-")
    assert (code, "standard input: closed" in err) == (2, True)
