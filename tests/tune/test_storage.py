"""A sweep is continued only where the same sweep is kept."""

from pathlib import Path

import pytest

from pipeline.stage import InputError
from tune import storage


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_folders_and_uris_keep_a_specification(tmp_path: Path, prefix: str) -> None:
    kept = storage.at(f"{prefix}{tmp_path}/deep/er", "name")
    assert storage.found(kept) is None
    storage.begin(kept, {"a": 1})
    assert storage.found(kept) == {"a": 1}
    assert not storage.finished(kept)
    storage.finish(kept)
    assert storage.finished(kept)
    assert (tmp_path / "deep/er/name/specification.json").exists()
    assert storage.uri(kept) == f"{prefix}{tmp_path}/deep/er/name"


def test_beginning_anew_leaves_nothing_of_the_old_sweep(tmp_path: Path) -> None:
    kept = storage.at(str(tmp_path), "name")
    storage.begin(kept, {})
    (tmp_path / "name/old").touch()
    storage.finish(kept)
    storage.begin(kept, {})
    assert [path.name for path in (tmp_path / "name").iterdir()] == ["specification.json"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--storage.*file"):
        storage.begin(storage.at(str(tmp_path / "file"), "name"), {})


def test_a_full_disk_is_named_and_leaves_no_probe(tmp_path: Path) -> None:
    kept = storage.at(str(tmp_path), "name")
    storage.begin(kept, {})
    storage.probe(kept)
    assert [path.name for path in (tmp_path / "name").iterdir()] == ["specification.json"]
    (tmp_path / "name/probe").symlink_to("/dev/full")
    with pytest.raises(InputError, match="No space left on device"):
        storage.probe(kept)


def test_an_unknown_kind_of_storage_is_named() -> None:
    with pytest.raises(InputError, match="nfs5://"):
        storage.at("nfs5://somewhere", "name")


def test_differences_name_what_changed_and_both_values() -> None:
    old, new = {"a": {"b": [1, 2], "c": 1}, "d": 1}, {"a": {"b": [1, 3], "c": 1}, "e": None}
    assert storage.differences(old, new) == ["a.b: [1, 2] there, [1, 3] now", "d: 1 there, null now"]
    assert storage.differences(old, old) == []


def test_checkpoints_of_a_point_are_found_whatever_ray_called_its_trial(tmp_path: Path) -> None:
    kept = storage.at(str(tmp_path), "name")
    for folder in ("a=1-x_0/checkpoint_000001", "a=1-y_0/checkpoint_000002", "a=1-x_0/other", "a=11-x_1/checkpoint_9"):
        (tmp_path / "name" / folder).mkdir(parents=True)
    found = [Path(checkpoint.path).parts[-2:] for checkpoint in storage.checkpoints(kept, "a=1")]
    assert found == [("a=1-y_0", "checkpoint_000002"), ("a=1-x_0", "checkpoint_000001")]
    assert storage.checkpoints(storage.at(str(tmp_path), "none"), "a=1") == []
