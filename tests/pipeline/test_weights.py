"""Weights that come with the library say how they were trained, what they score, and when a face may leave."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import cfpn
from cfpn import checkpoint, weights
from cfpn.anytime import leave
from cfpn.faces import Faces
from cfpn.faces import load as load_split
from cfpn.prediction import accuracy, predict, unit_log_probabilities
from cfpn.schema import EXPRESSIONS, Description, write
from pipeline.process import InputError
from pipeline.runs.about import digest
from pipeline.weights import CARD, TOLERANCE, add, early_enough
from tests.pipeline.pictures.made import BP, VOTING, face, write_weights

COUNT = 40


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run, its evaluation beside it, and validation faces."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_weights(folder / "model.safetensors")
    (folder / "metrics.json").write_text(json.dumps({"accuracy": 0.5, "test_faces": 9}))
    pixels = np.stack([face(number) for number in range(COUNT)])[:, None]
    for name, start in (("val", 1), ("train", 101)):
        rows = np.arange(start, COUNT + start)
        write(tmp_path / f"{name}.parquet", pixels, np.arange(COUNT) % 7, rows, Description())
    files = [tmp_path / "train.parquet", tmp_path / "val.parquet"]
    data = {"fingerprint": digest(files), "faces": COUNT, "drawn": False, "classes": list(EXPRESSIONS)}
    about = {"method": "nbp", "seed": 3, "profile": "sample", "parameters": {"train": {}}, "data": data}
    (folder / "run.json").write_text(json.dumps(about | {"code": {"commit": "abc", "fingerprint": "c"}}))
    return folder


def added(run: Path, **arguments: object) -> Path:
    (run.parent / "out").mkdir(exist_ok=True)
    defaults = {"name": "it", "run_folder": run, "evaluation": run, "validation": run.parent / "val.parquet"}
    return add(**defaults | arguments, folder=run.parent / "out")


def test_added_weights_predict_as_the_runs_and_say_where_they_come_from(run: Path) -> None:
    path = added(run)
    own, before = checkpoint.load(path), checkpoint.load(run / "model.safetensors")
    assert torch.equal(predict(own, face()[None]), predict(before, face()[None]))
    assert own.about["training"]["method"] == "nbp"
    assert own.about["training"]["code"] == {"commit": "abc", "fingerprint": "c"}
    assert own.about["training"]["test"]["accuracy"] == 0.5
    assert own.about["card"] == CARD
    assert own.about["exit"] is None or 0 < own.about["exit"] <= 1


@pytest.mark.parametrize("names", [("cat", "dog"), EXPRESSIONS])
def test_validation_faces_of_other_classes_or_channels_are_refused(run: Path, names: tuple[str, ...]) -> None:
    pixels = np.zeros((4, 1 if len(names) == 2 else 3, 48, 48), np.uint8)
    kind = Description(classes=names, channels=pixels.shape[1])
    write(run.parent / "other.parquet", pixels, np.arange(4) % len(names), np.arange(1, 5), kind)
    with pytest.raises(
        InputError, match=r"other\.parquet: faces of .* in . channels; .*model\.safetensors knows anger"
    ):
        added(run, validation=run.parent / "other.parquet")


@pytest.mark.parametrize("other", ["train.parquet", "elsewhere/val.parquet"])
def test_other_faces_than_the_runs_own_validation_give_no_exit(run: Path, other: str) -> None:
    (run.parent / "elsewhere").mkdir()
    shutil.copy(run.parent / "val.parquet", run.parent / "elsewhere/val.parquet")  # without the faces learnt from
    with pytest.raises(InputError, match="expected the validation faces that chose the run's epoch"):
        added(run, validation=run.parent / other)
    assert list((run.parent / "out").iterdir()) == []


def test_adding_twice_gives_the_same_bytes(run: Path) -> None:
    assert added(run).read_bytes() == added(run).read_bytes()


def test_where_units_do_not_vote_no_exit_is_stored(run: Path) -> None:
    write_weights(run / "model.safetensors", BP)
    assert "exit" not in checkpoint.load(added(run)).about


def test_the_exit_is_the_least_that_costs_no_accuracy(run: Path) -> None:
    network, faces = checkpoint.load(run / "model.safetensors"), load_split(run.parent / "val.parquet")
    said = predict(network, faces.pixels).argmax(1)
    faces = Faces(faces.pixels, said, faces.rows)  # the full vote is always right
    sure = early_enough(network, faces)
    units = unit_log_probabilities(network, faces.pixels)
    assert accuracy(leave(units, sure)[0], said) >= 1 - TOLERANCE
    assert sure == 0.4 or accuracy(leave(units, sure - 0.05)[0], said) < 1 - TOLERANCE


@pytest.mark.parametrize("missing", ["run.json", "metrics.json", "model.safetensors", "../val.parquet"])
def test_a_missing_file_is_told_and_nothing_is_written(run: Path, missing: str) -> None:
    (run / missing).unlink()
    with pytest.raises(InputError, match=Path(missing).name):
        added(run)
    assert list((run.parent / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("file", "change"), [("run.json", {"seed": 4}), ("metrics.json", {"looks": 2})], ids=["another run", "two looks"]
)
def test_the_evaluation_of_another_run_or_of_two_looks_is_refused(
    run: Path, tmp_path: Path, file: str, change: dict[str, int]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / file).write_text(json.dumps(json.loads((run / file).read_text()) | change))
    with pytest.raises(InputError, match=r"expected the evaluation of .*run, with one look at each face"):
        added(run, evaluation=other)


@pytest.mark.parametrize("name", ["../nbp", "a b", "nbp.safetensors"])
def test_a_name_that_load_would_take_for_a_path_is_refused(run: Path, name: str) -> None:
    with pytest.raises(InputError, match="NAME"):
        added(run, name=name)


@pytest.mark.parametrize("name", weights.names())
def test_weights_in_the_repository_say_how_they_were_made(name: str) -> None:
    network = cfpn.load(name)
    training = network.about["training"]
    assert network.names == EXPRESSIONS
    assert training["data"]["drawn"] is False
    assert training["code"]["commit"]
    assert training["test"]["test_faces"] > 1000
    assert training["test"]["accuracy"] > 0.55
    assert network.about["card"] == CARD
    assert network.vote == ("exit" in network.about)


def test_load_without_a_name_gives_the_best_and_an_unknown_name_is_told() -> None:
    assert cfpn.load().about == cfpn.load(weights.BEST).about
    with pytest.raises(FileNotFoundError, match=r"no weights 'nothing' come with cfpn; there are: .*nbp"):
        cfpn.load("nothing")


def test_weights_for_another_preprocessing_are_refused(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "it.safetensors", VOTING, preprocessing={"mean": 0.0})
    with pytest.raises(ValueError, match="preprocessing"):
        cfpn.load(path)
