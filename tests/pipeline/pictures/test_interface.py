"""The Python of README runs as it stands there, and opens a picture as predict does."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.pictures import detect
from pipeline.pictures.sources import faces
from pipeline.process import InputError
from tests.pipeline.pictures.made import HTML, coloured, face, grey

README = Path(__file__).resolve().parents[3] / "README.md"


def test_readme_loads_weights_opens_a_picture_predicts_and_explains_in_few_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    grey().save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(code, found)
    assert len([line for line in code.splitlines() if line and not re.match("import|from", line)]) <= 5
    assert found["probabilities"].shape == (1, 7)
    assert found["seen"].shape == (1, 48, 48)


def test_a_face_that_is_cut_out_comes_as_it_is(tmp_path: Path) -> None:
    grey().save(tmp_path / "face.png")
    assert torch.equal(faces(tmp_path / "face.png")[0, 0], torch.from_numpy(face()))
    assert faces(str(tmp_path / "face.png"), channels=3).shape == (1, 3, 48, 48)


def test_a_picture_that_is_none_or_without_a_face_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.jpg").write_bytes(HTML)
    with pytest.raises(InputError, match=r"page\.jpg: no picture"):
        faces(tmp_path / "page.jpg")
    coloured(200, 150).save(tmp_path / "none.png")
    monkeypatch.setattr(detect, "available", lambda: True)
    monkeypatch.setattr(detect, "find", lambda image: [])
    with pytest.raises(InputError, match=r"none\.png: no face found"):
        faces(tmp_path / "none.png")


def test_all_faces_of_a_picture_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = Image.new("L", (200, 100))
    two.paste(grey(), (10, 20))
    two.paste(grey(number=4), (120, 20))
    two.save(tmp_path / "two.png")
    monkeypatch.setattr(detect, "available", lambda: True)
    monkeypatch.setattr(detect, "find", lambda image: [detect.Box(10, 20, 48, 48), detect.Box(120, 20, 48, 48)])
    assert torch.equal(faces(tmp_path / "two.png")[:, 0], torch.stack([torch.from_numpy(face(n)) for n in (0, 4)]))
