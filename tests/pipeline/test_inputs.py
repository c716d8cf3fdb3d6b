"""inputs.json: it changes with the faces that a profile learns from and with nothing else of the data."""

from pathlib import Path

import pytest

from pipeline.inputs import describe, files
from pipeline.process import InputError


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
