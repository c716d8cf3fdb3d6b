"""The wheel has all that predicting needs: code, weights, and nothing of the working tree."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.drawing import draw_face
from tests.pipeline.pictures.made import HTML, coloured, encoded, turned_jpeg

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cfpn", "pipeline", "tune", "bench")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a wheel of the sources was unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    subprocess.run(build, cwd=folder, check=True)
    (wheel,) = (folder / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_the_wheel_holds_every_module_and_what_modules_read(installed: Path) -> None:
    wanted = [
        path.relative_to(ROOT)
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.suffix in (".py", ".html", ".js", ".safetensors")
    ]
    assert [path for path in wanted if not (installed / path).is_file()] == []


def test_predict_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    faces = [draw_face(label, 0, label) for label in range(2)]
    Image.fromarray(faces[0]).save(tmp_path / "얼굴 😀.png")
    Image.fromarray(faces[1].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    own = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "pipeline.predict", str(tmp_path), "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(record["picture"]).name for record in found] == ["deep.png", "얼굴 😀.png"]
    assert {record["weights"]["name"] for record in found} == {"nbp"}
    assert all(record["units"] for record in found)


def odd_files() -> dict[str, bytes]:
    """Every kind of file that broke somebody's program, by name."""
    picture, grey = coloured(), Image.fromarray(draw_face(3, 0, 3))
    palette = grey.convert("RGB").quantize(16)
    return {
        "plain.png": encoded(grey, "PNG"),
        "orientation 6.jpg": turned_jpeg(picture, 6),
        "palette.png": encoded(palette, "PNG", transparency=palette.getpixel((0, 0))),
        "16 bit.png": encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG"),
        "two frames.gif": encoded(grey, "GIF", save_all=True, append_images=[Image.new("L", grey.size)]),
        "café.png": encoded(grey, "PNG"),
        "얼굴.png": encoded(grey, "PNG"),
        "😀.png": encoded(grey, "PNG"),
        "cut off.jpg": encoded(picture, "JPEG")[:900],
        "empty.jpg": b"",
        "page.jpg": HTML,
    }


def test_every_odd_file_gets_an_answer_or_one_line_and_no_traceback(installed: Path, tmp_path: Path) -> None:
    for name, data in odd_files().items():
        (tmp_path / name).write_bytes(data)
    own = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "pipeline.predict", ".", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True)
    answered = {json.loads(line)["picture"] for line in done.stdout.splitlines()}
    told = [line for line in done.stderr.splitlines() if line]
    bad = {"cut off.jpg", "empty.jpg", "page.jpg"}
    assert done.returncode == 2
    assert answered == odd_files().keys() - bad
    assert sorted(line.split(": ")[1] for line in told) == sorted(bad)
    assert all(line.startswith("error: ") for line in told)
