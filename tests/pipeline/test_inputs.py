"""inputs.json: it changes with the faces that a profile learns from and with nothing else of the data."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from cfpn import schema
from cfpn.schema import Description
from pipeline import inputs
from pipeline.inputs import describe, files
from pipeline.process import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    for name in ("train", "val", "test", "augmented"):
        (tmp_path / f"{name}.parquet").write_text(name)
    return tmp_path


def found(splits: Path, faces: str) -> dict[str, object]:
    return describe(*files(faces, splits, splits / "augmented.parquet"))


@pytest.mark.parametrize(("faces", "name"), [("original", "train"), ("augmented", "augmented")])
def test_only_the_file_that_is_learnt_from_and_the_validation_count(splits: Path, faces: str, name: str) -> None:
    before = found(splits, faces)
    for other in {"train", "augmented", "test"} - {name}:
        (splits / f"{other}.parquet").write_text("changed")
    assert found(splits, faces) == before
    for own in (name, "val"):
        (splits / f"{own}.parquet").write_text(f"changed {own}")
        now = found(splits, faces)
        assert now != before
        before = now


def test_a_missing_file_is_named_with_the_stages_that_write_it(splits: Path) -> None:
    (splits / "augmented.parquet").unlink()
    assert found(splits, "original")
    with pytest.raises(InputError, match=r"augmented\.parquet: no such file; the ingest and augment stages write it"):
        found(splits, "augmented")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's parameters in a folder of their own."""
    for name in ("params.yaml", "methods.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["inputs", "data/inputs.json"])
    return tmp_path


def write_faces(folder: Path, drawn: bool) -> None:
    pixels, labels, rows = np.zeros((2, 1, 48, 48), np.uint8), np.arange(2), np.arange(2)
    for name in ("splits/train", "splits/val", "augmented"):
        (folder / "data/splits").mkdir(parents=True, exist_ok=True)
        schema.write(folder / f"data/{name}.parquet", pixels, labels, rows, Description(drawn=drawn))


def set_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("profile", ["fer2013-cpu", "paper"])
@pytest.mark.parametrize("source", ["data/sample.csv", "data/raw/fer2013.csv"])
def test_drawn_faces_in_a_profile_for_photographs_are_refused_whatever_their_file_is_called(
    profile: str, source: str, project: Path
) -> None:
    write_faces(project, drawn=True)
    set_text(project / "params.yaml", "profile: sample", f"profile: {profile}")
    set_text(project / "params.yaml", "source: data/sample.csv", f"source: {source}")
    with pytest.raises(InputError, match=rf"{source} are drawn.*-S profiles/{profile}\.yaml:photographs=false"):
        inputs.main()
    assert not (project / "data/inputs.json").exists()
    set_text(project / f"profiles/{profile}.yaml", "photographs: true", "photographs: false")
    inputs.main()


@pytest.mark.parametrize(("profile", "drawn"), [("sample", True), ("sample", False), ("fer2013-cpu", False)])
def test_faces_that_suit_the_profile_pass(profile: str, drawn: bool, project: Path) -> None:
    write_faces(project, drawn)
    set_text(project / "params.yaml", "profile: sample", f"profile: {profile}")
    inputs.main()
    assert (project / "data/inputs.json").exists()
