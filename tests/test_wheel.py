"""The wheel has all that predicting needs: code, weights, and nothing of the working tree."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
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


def needed(extra: str) -> set[str]:
    """Distributions that an installation of the wheel with an extra brings, by their canonical names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    left, found = project["dependencies"] + project["optional-dependencies"][extra], set[str]()
    while left:
        requirement = Requirement(left.pop())
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            with contextlib.suppress(metadata.PackageNotFoundError):  # of another system
                found.add(name)
                left += metadata.requires(name) or []
    return found


CLEAN = """
import runpy, sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {absent} else PathFinder.find_spec(name, path, target)
sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv = {arguments}
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


def clean(installed: Path, extra: str, module: str, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a module of the wheel where nothing else is installed than the wheel with an extra brings."""
    here = needed(extra)
    absent = {
        name
        for name, distributions in metadata.packages_distributions().items()
        if not here & {canonicalize_name(one) for one in distributions} and name not in PACKAGES
    }
    code = CLEAN.format(absent=absent, arguments=[module, *arguments], module=module)
    own = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=own, capture_output=True, text=True)


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
    done = clean(installed, "photo", "pipeline.predict", str(tmp_path), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
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
    done = clean(installed, "photo", "pipeline.predict", ".", "--json", cwd=tmp_path)
    answered = {json.loads(line)["picture"] for line in done.stdout.splitlines()}
    told = [line for line in done.stderr.splitlines() if line]
    bad = {"cut off.jpg", "empty.jpg", "page.jpg"}
    assert done.returncode == 2
    assert answered == odd_files().keys() - bad
    assert sorted(line.split(": ")[1] for line in told) == sorted(bad)
    assert all(line.startswith("error: ") for line in told)


@pytest.mark.slow
def test_export_works_from_the_wheel_and_without_its_packages_says_what_to_install(
    installed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    done = clean(installed, "export", "pipeline.export", "it.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "it.onnx").is_file()
    done = clean(installed, "photo", "pipeline.export", "other.onnx", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("not installed; pip install '.[export]'")
