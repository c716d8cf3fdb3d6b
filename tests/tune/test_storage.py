"""A sweep is continued only where the same sweep is kept."""

from pathlib import Path

import pytest
from pyarrow import fs

from pipeline.process import InputError
from tune import storage
from tune.storage import Storage

ABOUT = {"sweep": "name"}


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_folders_and_uris_keep_a_specification(tmp_path: Path, prefix: str) -> None:
    kept = storage.at(f"{prefix}{tmp_path}/deep/er", "name")
    assert storage.found(kept) is None
    storage.begin(kept, ABOUT)
    assert storage.found(kept) == ABOUT
    assert not storage.finished(kept)
    storage.finish(kept)
    assert storage.finished(kept)
    assert (tmp_path / "deep/er/name/specification.json").exists()
    assert storage.uri(kept) == f"{prefix}{tmp_path}/deep/er/name"


def test_beginning_anew_leaves_nothing_of_the_old_sweep(tmp_path: Path) -> None:
    kept = storage.at(str(tmp_path), "name")
    storage.begin(kept, ABOUT)
    (tmp_path / "name/old").touch()
    storage.finish(kept)
    storage.begin(kept, ABOUT)
    assert [path.name for path in (tmp_path / "name").iterdir()] == ["specification.json"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a/", "/a"])
def test_a_name_that_is_not_of_one_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="expected the name of a sweep, without '/'"):
        storage.at(str(tmp_path), name)


def test_a_folder_whose_clearing_was_killed_is_still_the_sweeps_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = storage.at(str(tmp_path), "name")
    storage.begin(kept, ABOUT)
    (tmp_path / "name/outcomes").mkdir()
    (tmp_path / "name/tuner.pkl").touch()

    class Killed(fs.LocalFileSystem):
        def delete_dir(self, path: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.begin(kept._replace(system=Killed()), ABOUT)
    storage.begin(kept, ABOUT)
    assert [path.name for path in (tmp_path / "name").iterdir()] == ["specification.json"]


@pytest.mark.parametrize("strange", ["notes.txt", "specification.json", "folder/notes.txt"])
def test_files_that_are_of_no_sweep_are_refused_and_kept(tmp_path: Path, strange: str) -> None:
    path = tmp_path / "name" / strange
    path.parent.mkdir(parents=True)
    path.write_text("[1]")
    with pytest.raises(InputError, match="of no sweep"):
        storage.begin(storage.at(str(tmp_path), "name"), ABOUT)
    assert path.read_text() == "[1]"


def test_a_folder_whose_first_specification_was_cut_off_is_taken(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    (tmp_path / "name/specification.json.part").write_text("{")
    kept = storage.at(str(tmp_path), "name")
    storage.begin(kept, ABOUT)
    assert storage.found(kept) == ABOUT


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    kept = storage.at(str(tmp_path), "name")
    storage.begin(kept, ABOUT)
    assert storage.found(kept) == ABOUT


@pytest.mark.parametrize("root", ["results", "file://{}/results", "results/name", "link", "."])
def test_state_is_never_kept_among_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "link").symlink_to("results")
    kept = storage.at(root.format(tmp_path), "results" if root == "." else "name")
    with pytest.raises(InputError, match="need another folder"):
        storage.apart(kept, Path("results/name"))
    storage.apart(storage.at("ray", "name"), Path("results/name"))


def test_the_options_of_a_uri_stay_behind_the_sweeps_name(tmp_path: Path) -> None:
    root = "s3://bucket/sweeps?endpoint_override=localhost:9000&scheme=http"
    kept = Storage(root, fs.LocalFileSystem(), "bucket/sweeps/name")
    assert storage.uri(kept) == "s3://bucket/sweeps/name?endpoint_override=localhost:9000&scheme=http"
    assert storage.uri(storage.at(str(tmp_path / "what?"), "name")) == f"{tmp_path}/what?/name"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--storage.*file"):
        storage.begin(storage.at(str(tmp_path / "file"), "name"), ABOUT)


def test_a_full_disk_is_named_and_leaves_no_probe(tmp_path: Path) -> None:
    kept = storage.at(str(tmp_path), "name")
    storage.begin(kept, ABOUT)
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


def test_the_checkpoint_of_most_epochs_comes_first_whatever_number_ray_gave_it(tmp_path: Path) -> None:
    kept = storage.at(str(tmp_path), "name")
    places = {"a=1-x_0/checkpoint_000009": "[1, 2]", "a=1-y_0/checkpoint_000000": "[1, 2, 3]",
              "a=1-z_0/checkpoint_000010": "[1, 2, 3, 4", "a=1-z_0/checkpoint_000011": "7"}  # fmt: skip
    for folder, content in places.items():
        (tmp_path / "name" / folder).mkdir(parents=True)
        (tmp_path / "name" / folder / storage.PLACES).write_text(content)
    first, second, *_ = (Path(checkpoint.path).name for checkpoint in storage.checkpoints(kept, "a=1"))
    assert (first, second) == ("checkpoint_000000", "checkpoint_000009")


def test_checkpoints_that_are_forgotten_leave_those_of_other_points(tmp_path: Path) -> None:
    kept = storage.at(str(tmp_path), "name")
    for folder in ("a=1-x_0/checkpoint_000001", "a=1-x_0/other", "a=2-x_1/checkpoint_000001"):
        (tmp_path / "name" / folder).mkdir(parents=True)
    storage.forget(kept, "a=1")
    assert storage.checkpoints(kept, "a=1") == []
    assert len(storage.checkpoints(kept, "a=2")) == 1
    assert (tmp_path / "name/a=1-x_0/other").exists()
