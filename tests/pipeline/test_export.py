"""The ONNX file gives PyTorch's probabilities for faces as they are, or it is not written."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cfpn.prediction import predict, unit_log_probabilities
from cfpn.schema import Description, write
from pipeline import export as command
from pipeline.pictures.answers import load_model
from pipeline.process import InputError
from tests.pipeline.pictures.made import face, write_weights

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter's own parts
COUNT = 5


def pixels() -> torch.Tensor:
    return torch.from_numpy(np.stack([face(number) for number in range(COUNT)]))[:, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and the file that is made of them; the conversion takes seconds."""
    folder = tmp_path_factory.mktemp("export")
    model = load_model(str(write_weights(folder / "small.safetensors", training={"seed": 3})))
    assert command.export(model, folder / "small.onnx", pixels()) < 1e-5
    return folder


def session(folder: Path) -> "onnxruntime.InferenceSession":
    return onnxruntime.InferenceSession(folder / "small.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("count", [1, 2, COUNT])
def test_the_file_takes_any_number_of_grey_faces_and_gives_the_vote_and_every_units_opinion(
    folder: Path, count: int
) -> None:
    network = load_model(str(folder / "small.safetensors")).network
    faces = pixels()[:count]
    probabilities, units = session(folder).run(["probabilities", "units"], {"pixels": faces[:, 0].numpy()})
    np.testing.assert_allclose(probabilities, predict(network, faces), atol=1e-5)
    own = torch.stack([*unit_log_probabilities(network, faces).values()], 1).exp()
    np.testing.assert_allclose(units, own, atol=1e-5)


def test_the_metadata_name_classes_units_and_the_weights(folder: Path) -> None:
    model = load_model(str(folder / "small.safetensors"))
    about = {name: json.loads(text) for name, text in session(folder).get_modelmeta().custom_metadata_map.items()}
    assert about["classes"] == list(model.network.names)
    assert about["units"] == [unit.name for unit in model.network.units]
    assert about["weights"]["sha256"] == model.sha256
    assert about["training"] == {"seed": 3}


def test_it_is_one_file(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["small.onnx", "small.safetensors"]
    onnx.checker.check_model(folder / "small.onnx")


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_a_file_that_differs_is_not_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float
) -> None:
    monkeypatch.setattr(command, "convert", lambda model, path: path.write_bytes(b"onnx"))
    monkeypatch.setattr(command, "compare", lambda network, path, pixels: difference)
    with pytest.raises(InputError, match="not written; a probability differs by"):
        command.export(load_model(str(folder / "small.safetensors")), tmp_path / "it.onnx", pixels())
    assert list(tmp_path.iterdir()) == []


def test_in_eight_bits_too_the_message_names_the_file_that_was_to_be(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "convert", lambda model, path: path.write_bytes(b"onnx"))
    monkeypatch.setattr(command, "compare", lambda network, path, pixels: 1.0)
    with pytest.raises(InputError, match=f"^{tmp_path / 'it.onnx'}: not written"):
        command.export_int8(load_model(str(folder / "small.safetensors")), tmp_path / "it.onnx", pixels(), pixels())
    assert list(tmp_path.iterdir()) == []


def test_eight_bits_change_probabilities_a_little_and_say_what_they_cost(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(COUNT) % 7
    write(tmp_path / "split.parquet", pixels().numpy(), labels, np.arange(1, COUNT + 1), Description())
    arguments = ["--weights", folder / "small.safetensors", "--split", tmp_path / "split.parquet"]
    called = ["export", tmp_path / "it.onnx", *arguments, "--int8", tmp_path / "split.parquet"]
    monkeypatch.setattr(sys, "argv", [str(one) for one in called])
    command.main()
    before, after = (command.predicted(path, [pixels()])[0] for path in (folder / "small.onnx", tmp_path / "it.onnx"))
    assert 0 < np.abs(after - before).max() < 0.2
    own = {weight.data_type for weight in onnx.load(tmp_path / "it.onnx").graph.initializer if len(weight.dims) == 4}
    assert own == {onnx.TensorProto.INT8}
    scores = [f"{(found.argmax(1) == labels).mean():.2%}" for found in (after, before)]
    assert f"accuracy {scores[0]} instead of {scores[1]}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it.onnx", "split.parquet"]


@pytest.mark.parametrize("classes", [("cat", "dog"), tuple(reversed(Description().classes))])
def test_eight_bits_tell_no_accuracy_on_faces_of_other_classes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: tuple[str, ...]
) -> None:
    own = Description(classes=classes)
    write(tmp_path / "split.parquet", pixels().numpy(), np.arange(COUNT) % len(classes), np.arange(1, COUNT + 1), own)
    arguments = ["--weights", folder / "small.safetensors", "--split", tmp_path / "split.parquet"]
    called = ["export", tmp_path / "it.onnx", *arguments, "--int8", tmp_path / "split.parquet"]
    monkeypatch.setattr(sys, "argv", [str(one) for one in called])
    with pytest.raises(InputError, match=rf"expected the classes anger, .*, found {', '.join(classes)}"):
        command.main()
    assert not (tmp_path / "it.onnx").exists()


def test_another_network_is_found_to_differ(folder: Path, tmp_path: Path) -> None:
    other = load_model(str(write_weights(tmp_path / "other.safetensors"))).network
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05
    assert command.compare(other, folder / "small.onnx", pixels()) > command.MOST


def test_a_split_that_is_none_is_told(folder: Path, tmp_path: Path) -> None:
    network = load_model(str(folder / "small.safetensors")).network
    (tmp_path / "it.parquet").write_bytes(b"no")
    for path in (tmp_path / "it.parquet", tmp_path / "nothing.parquet"):
        with pytest.raises(InputError, match="--split: "):
            command.compared_faces(path, network)
