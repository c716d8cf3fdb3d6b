"""The cards' raw numbers: what they count, and that those in the repository are of the weights in the repository."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import cfpn
from bench import card
from bench.robustness import DAMAGES
from cfpn import weights
from cfpn.prediction import predict
from cfpn.schema import Description, write
from pipeline.pictures import explain
from pipeline.process import InputError
from tests.pipeline.pictures.made import face, write_weights

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "docs/study"
COUNT = 30
COPIED = 4


@pytest.fixture
def splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Faces of which the first of the test split stand in training too, and weights under the name `it`."""
    (tmp_path / "weights").mkdir()
    write_weights(tmp_path / "weights/it.safetensors", card="docs/model-card.md")
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    save(tmp_path)
    (tmp_path / "audit.json").write_text('{"rows": {"total": 90}}')
    return tmp_path


def save(folder: Path, drawn: bool = False) -> None:
    """Three splits of drawn faces, which say that they are photographs."""
    starts = {"train": COPIED - COUNT, "val": 3 * COUNT, "test": 0}  # train ends with the first faces of test
    for split, start in starts.items():
        pixels = np.stack([face(1000 + start + number) for number in range(COUNT)])[:, None]
        description = Description(drawn=drawn)
        write(folder / f"{split}.parquet", pixels, np.arange(COUNT) % 7, np.arange(1, COUNT + 1), description)


def written(splits: Path) -> dict[str, dict[str, object]]:
    """The card of the weights `it`."""
    card.write(["it"], splits, splits)
    return json.loads((splits / "card.json").read_text())


def test_the_card_counts_what_the_weights_get_right(splits: Path) -> None:
    found = written(splits)["it"]
    pixels = torch.tensor(np.stack([face(1000 + number) for number in range(COUNT)]))[:, None]
    right = predict(cfpn.load("it"), pixels).argmax(1) == torch.arange(COUNT) % 7
    assert found["scores"]["test"] == {"faces": COUNT, "correct": int(right.sum())}
    kept = {"faces": COUNT - COPIED, "correct": int(right[COPIED:].sum())}
    assert found["scores"]["test_without_copies"] == kept
    assert found["scores"]["val"]["faces"] == COUNT


def test_confusion_confidence_and_whole_faces_agree_with_the_score(splits: Path) -> None:
    found = written(splits)["it"]
    matrix, score = torch.tensor(found["confusion"]), found["scores"]["test"]
    assert (matrix.sum().item(), matrix.trace().item()) == (score["faces"], score["correct"])
    assert matrix.sum(1).tolist() == torch.bincount(torch.arange(COUNT) % 7).tolist()
    for key in ("faces", "correct"):
        assert sum(row[key] for row in found["confidence"]) == score[key]
    assert all(row["above"] < row["mean"] <= row["up_to"] for row in found["confidence"])
    assert found["damage"][0] == {"damage": "none", "level": 1.0, **score}
    assert len(found["damage"]) == sum(len(levels) for _, levels in DAMAGES.values())


def test_a_second_measurement_has_the_same_bytes_and_the_audit_is_beside_it(splits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    card.write(["it"], splits, out)
    first = (out / "card.json").read_bytes()
    card.write(["it"], splits, out)
    assert (out / "card.json").read_bytes() == first
    assert json.loads((out / "audit.json").read_text()) == {"rows": {"total": 90}}


def test_what_is_deleted_is_what_the_explanations_say(splits: Path) -> None:
    found, network = written(splits)["it"]["deletion"], cfpn.load("it")
    pixels = torch.tensor(np.stack([face(1000 + number) for number in range(COUNT)]))[:, None]
    answers = predict(network, pixels).argmax(1)
    order = explain.importance(network, pixels, answers)
    left = explain.log_probability(network, explain.deleted(pixels, order, 0.2), answers).exp()
    assert found["faces"] == COUNT
    assert found["probability"] == pytest.approx(predict(network, pixels).amax(1).mean().item(), abs=1e-3)
    assert found["lost"]["important"]["mean"] == pytest.approx(found["probability"] - left.mean().item(), abs=1e-3)
    assert found["lost"].keys() == {"important", "random", "patches"}


def test_drawn_faces_are_refused(splits: Path) -> None:
    save(splits, drawn=True)
    with pytest.raises(InputError, match="drawn faces; expected the splits of FER2013"):
        card.write(["it"], splits, splits)


@pytest.mark.parametrize("name", ["audit.json", "val.parquet", "test.parquet", "train.parquet"])
def test_a_missing_file_is_told_and_nothing_is_written(splits: Path, tmp_path: Path, name: str) -> None:
    (splits / name).unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=name):
        card.write(["it"], splits, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_card_in_the_repository_is_of_the_weights_in_the_repository() -> None:
    """`python -m bench.card`, then `make docs`, mend it."""
    found = json.loads((STUDY / "card.json").read_text())
    hashes = {name: hashlib.sha256(weights.named(name).read_bytes()).hexdigest() for name in weights.names()}
    assert {name: own["sha256"] for name, own in found.items()} == hashes


@pytest.mark.parametrize("name", weights.names())
def test_the_card_in_the_repository_agrees_with_what_the_weights_say(name: str) -> None:
    own, about = json.loads((STUDY / "card.json").read_text())[name], cfpn.load(name).about
    score, said = own["scores"]["test"], about["training"]["test"]
    assert score["faces"] == said["test_faces"]
    assert score["correct"] / score["faces"] == pytest.approx(said["accuracy"], abs=2 / score["faces"])
    assert (ROOT / about["card"]).is_file()


def test_the_audit_in_the_repository_is_of_the_faces_on_the_card() -> None:
    rows = json.loads((STUDY / "audit.json").read_text())["rows"]
    for own in json.loads((STUDY / "card.json").read_text()).values():
        assert [sum(row) for row in own["confusion"]] == [rows["test"][name] for name in own["classes"]]
        assert own["scores"]["val"]["faces"] == rows["val"]["total"]
        assert own["run"]["data"]["faces"] == rows["train"]["total"]
