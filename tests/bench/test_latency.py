"""Rows of what an answer costs say what predict does; times themselves are not tested."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import latency
from cfpn.faces import Faces
from cfpn.prediction import opinions, predict
from pipeline.pictures.answers import load_model
from pipeline.process import InputError
from tests.pipeline.pictures.made import face, write_weights

for needed in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(needed)
pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter's own parts
COUNT = 12


def test_rows_count_what_the_full_vote_and_faces_that_leave_early_cost_and_get_right(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "small.safetensors", training={"seed": 3}, exit=0.5)
    model = load_model(str(path))
    pixels = torch.from_numpy(np.stack([face(number) for number in range(COUNT)]))[:, None]
    faces = Faces(pixels, torch.arange(COUNT) % 7, torch.arange(COUNT))
    splits = {"train": faces, "val": faces.first(5), "test": faces}
    full, *early = latency.measure([model], splits, [0.3], {1: 3, 4: 2})["rows"]
    assert [(row["exit"], row.get("stored")) for row in (full, *early)] == [(None, None), (0.3, False), (0.5, True)]
    right = predict(model.network, pixels).argmax(1) == faces.labels
    assert full["scores"]["test"] == {"faces": COUNT, "correct": int(right.sum())}
    assert full["scores"]["val"] == {"faces": 5, "correct": int(right[:5].sum())}
    assert full["multiply_adds"] == model.costs[-1]
    assert full["ms"].keys() == {"torch", "onnx", "int8"}
    assert full["int8_scores"].keys() == full["scores"].keys() == {"val", "test"}
    assert full["bytes"]["safetensors"] < path.stat().st_size  # which has metadata too
    for row in early:
        own = opinions(model.network, pixels, row["exit"])
        assert row["scores"]["test"]["correct"] == int((own.vote().argmax(1) == faces.labels).sum())
        assert row["multiply_adds"] == np.mean([model.costs[asked - 1] for asked in own.asked])
        assert row["ms"].keys() == {"torch"}
        assert row["ms"]["torch"].keys() == {"1", "4"}
        assert 0 < row["ms"]["torch"]["4"]["low"] <= row["ms"]["torch"]["4"]["high"]


def test_a_comparison_network_answers_faces_and_has_no_accuracy() -> None:
    model = latency.compared("resnet18")
    assert "training" not in model.network.about
    assert predict(model.network, face()[None]).shape == (1, 7)
    assert model.costs == [141_626_880]


def test_fewer_test_faces_than_the_largest_batch_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.zeros(127, 1, 48, 48, dtype=torch.uint8)
    few = Faces(pixels, torch.arange(127) % 7, torch.arange(127))
    monkeypatch.setattr(latency.evaluate, "load_faces", lambda _: few)
    monkeypatch.setattr(sys, "argv", ["latency", "--out", str(tmp_path)])
    with pytest.raises(InputError, match="expected 128 test faces or more, the largest batch, found 127"):
        latency.main()
    assert not [*tmp_path.iterdir()]


def test_numbers_are_milliseconds() -> None:
    assert latency.milliseconds([0.001, 0.002, 0.003, 0.006]) == {"mean": 3.0, "low": 1.75, "median": 2.5, "high": 3.75}
