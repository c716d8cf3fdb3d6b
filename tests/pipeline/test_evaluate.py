"""A run is scored once, on every test face, and never with weights that do not belong to it."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn import metrics as reference
from torch import Tensor

from cfpn import anytime, checkpoint, training
from cfpn.network import CFPN, Network
from cfpn.prediction import opinions, predict
from cfpn.recipe import Recipe
from cfpn.schema import EXPRESSIONS, Description, read, write
from cfpn.training import Method
from pipeline import evaluate as stage
from pipeline import networks
from pipeline.networks import Baseline
from pipeline.process import InputError

MODEL = CFPN(input_size=16, width=16, blocks=2, layers=1, pyramids=1)
BP = Method(units="network")
CPU = torch.device("cpu")
FILES = ("metrics.json", "predictions.parquet", "confusion.csv")


def write_split(path: Path, pixels: np.ndarray, labels: list[int], first_row: int = 1) -> None:
    """A split as the ingest stage writes it, of pixels (n, 2304) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.arange(first_row, first_row + len(labels))
    write(path, pixels.reshape(-1, 1, 48, 48), np.array(labels), rows, Description())


def network(model: CFPN | Baseline = MODEL, method: Method = BP, seed: int = 3) -> Network:
    """A network with weights and heads drawn from a seed."""
    return training.start(networks.build(model, seed), method, Recipe(), model.input_size, seed, CPU).network


def write_weights(
    path: Path, own: Network, model: CFPN | Baseline = MODEL, tensors: dict[str, Tensor] | None = None
) -> None:
    """Weights as the train stage writes them; tensors: others than the network's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = own.predicting() if tensors is None else tensors
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path, checkpoint.about(own, asdict(model)))


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    """A run and splits: 70 test faces, the first 10 with a copy among the 21 training faces."""
    random = np.random.default_rng(0)
    test = random.integers(0, 256, (70, 2304), np.uint8)
    train = random.integers(0, 256, (21, 2304), np.uint8)
    train[5:15] = test[:10]
    write_split(tmp_path / "splits/test.parquet", test, [i % 6 for i in range(70)], 101)
    write_split(tmp_path / "splits/train.parquet", train, [0] * 21)
    write_weights(tmp_path / "run/model.safetensors", network())
    return tmp_path / "run", tmp_path / "splits"


def random_probabilities(count: int, labels: int = 7) -> tuple[Tensor, Tensor]:
    """Probabilities (count, 7) and labels (count,) below `labels`, right more often than by chance."""
    random = torch.Generator().manual_seed(0)
    truth = torch.randint(labels, (count,), generator=random)
    logits = torch.randn(count, 7, generator=random) + 1.5 * torch.eye(7)[truth]
    return logits.softmax(1), truth


def test_metrics_agree_with_scikit_learn() -> None:
    probabilities, labels = random_probabilities(500)
    predicted, exact = probabilities.argmax(1), probabilities.double() / probabilities.double().sum(1, keepdim=True)
    report = stage.metrics(probabilities, labels, torch.zeros(500, dtype=torch.bool))
    assert report["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert report["macro_f1"] == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    recalls = reference.recall_score(labels, predicted, average=None)
    assert list(report["recall"].values()) == pytest.approx(recalls.tolist())
    assert list(report["recall"]) == list(EXPRESSIONS)
    assert report["negative_log_likelihood"] == pytest.approx(reference.log_loss(labels, exact), rel=1e-6)
    assert report["majority_accuracy"] == pytest.approx(np.bincount(labels).max() / 500)


def test_the_calibration_error_is_the_sum_of_its_definition() -> None:
    probabilities, labels = random_probabilities(500)
    confidence, predicted = (value.numpy() for value in probabilities.max(1))
    bins = np.ceil(confidence * 15)
    expected = 0.0
    for one in np.unique(bins):
        inside = bins == one
        expected += inside.mean() * abs(confidence[inside].mean() - (predicted == labels.numpy())[inside].mean())
    report = stage.metrics(probabilities, labels, torch.zeros(500, dtype=torch.bool))
    assert report["expected_calibration_error"] == pytest.approx(expected, abs=1e-6)


def test_a_probability_of_one_shares_the_last_bin_of_the_calibration_error() -> None:
    sure = [1.0] * 50 + [0.94] * 50
    probabilities = torch.tensor([[one, 1 - one] for one in sure])
    labels = torch.tensor([0] * 40 + [1] * 10 + [0] * 50)  # of the surest faces ten are wrong
    report = stage.metrics(probabilities, labels, torch.zeros(100, dtype=torch.bool), ("a", "b"))
    assert report["expected_calibration_error"] == pytest.approx(0.97 - 0.9, abs=1e-6)


def test_the_standard_error_is_that_of_a_share() -> None:
    probabilities = torch.eye(7)[torch.tensor([0] * 70 + [1] * 30)]
    labels = torch.tensor([0] * 50 + [1] * 50)
    report = stage.metrics(probabilities, labels, torch.zeros(100, dtype=torch.bool))
    assert report["accuracy"] == 0.8
    assert report["accuracy_standard_error"] == pytest.approx(math.sqrt(0.8 * 0.2 / 100))


def test_a_class_that_the_split_lacks_has_no_recall_and_leaves_macro_f1_alone() -> None:
    probabilities, labels = torch.eye(7)[[0, 0, 1, 1]], torch.tensor([0, 1, 1, 1])
    report = stage.metrics(probabilities, labels, torch.zeros(4, dtype=torch.bool))
    assert set(report["recall"]) == {"anger", "disgust"}
    assert report["macro_f1"] == pytest.approx(reference.f1_score(labels, [0, 0, 1, 1], average="macro"))
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("predicted", [0, 4])
def test_a_network_that_predicts_one_class_has_collapsed(predicted: int) -> None:
    probabilities = torch.eye(7)[[predicted] * 100]
    labels = torch.tensor([0] * 25 + [1, 2, 3, 4, 5] * 15)
    assert stage.metrics(probabilities, labels, torch.zeros(100, dtype=torch.bool))["collapsed"]


def test_a_network_that_beats_the_majority_share_has_not_collapsed() -> None:
    probabilities, labels = random_probabilities(500)
    assert not stage.metrics(probabilities, labels, torch.zeros(500, dtype=torch.bool))["collapsed"]


def test_accuracy_without_copies_counts_the_other_faces_only() -> None:
    probabilities, labels = torch.eye(7)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 2])
    report = stage.metrics(probabilities, labels, torch.tensor([True, True, False, False]))
    assert (report["accuracy"], report["accuracy_without_copies"]) == (0.75, 0.5)
    assert report["test_faces_without_copies"] == 2


def test_accuracy_without_copies_is_null_where_every_face_is_a_copy() -> None:
    probabilities, labels = random_probabilities(20)
    report = stage.metrics(probabilities, labels, torch.ones(20, dtype=torch.bool))
    assert report["accuracy_without_copies"] is None
    assert report["test_faces_without_copies"] == 0


def test_faces_with_a_copy_in_training_are_found_across_parts(
    inputs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "ROWS_AT_ONCE", 7)
    faces = stage.load_faces(inputs[1] / "test.parquet")
    assert stage.copies(faces, inputs[1] / "train.parquet").tolist() == [True] * 10 + [False] * 60


def test_a_second_evaluation_writes_the_same_bytes(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    for name in "ab":
        stage.evaluate(*inputs, tmp_path / name, CPU)
    for file in FILES:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(FILES)


def test_an_evaluation_says_what_it_evaluated_and_which_faces_are_copies(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    (inputs[0] / "run.json").write_text('{"method": "bp"}')
    stage.evaluate(*inputs, tmp_path / "out", CPU)
    assert (tmp_path / "out/run.json").read_text() == '{"method": "bp"}'
    assert pd.read_parquet(tmp_path / "out/predictions.parquet")["copy"].tolist() == [True] * 10 + [False] * 60


def test_an_evaluation_of_weights_without_run_json_does_not_keep_that_of_another(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    (inputs[0] / "run.json").write_text('{"method": "bp"}')
    stage.evaluate(*inputs, tmp_path / "out", CPU)
    (inputs[0] / "run.json").unlink()
    stage.evaluate(*inputs, tmp_path / "out", CPU)
    assert not (tmp_path / "out/run.json").exists()


def test_an_evaluation_into_the_runs_own_folder_is_refused_and_changes_nothing(inputs: tuple[Path, Path]) -> None:
    (inputs[0] / "metrics.json").write_text("{}")
    before = sorted(inputs[0].iterdir())
    with pytest.raises(InputError, match="expected another folder than the run's"):
        stage.evaluate(*inputs, inputs[0] / "../" / inputs[0].name, CPU)
    assert (inputs[0] / "metrics.json").read_text() == "{}"
    assert sorted(inputs[0].iterdir()) == before


@pytest.mark.parametrize("batch", [1, 9, 70, 1000])
def test_every_face_counts_once_whatever_the_batch(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr("cfpn.faces.per_pass", lambda side: batch)
    report = stage.evaluate(*inputs, tmp_path / "out", CPU)
    table = pd.read_parquet(tmp_path / "out/predictions.parquet")
    assert table["row"].tolist() == list(range(101, 171))
    assert report["accuracy"] == pytest.approx((table["label"] == table["predicted"]).mean())
    assert table[[f"p{i}" for i in range(7)]].sum(axis=1).to_numpy() == pytest.approx(np.ones(70), abs=1e-5)
    confusion = pd.read_csv(tmp_path / "out/confusion.csv")
    assert confusion["actual"].tolist() == [EXPRESSIONS[label] for label in table["label"]]
    assert confusion["predicted"].tolist() == [EXPRESSIONS[label] for label in table["predicted"]]
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == report


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_weights_saved_from_a_wrapped_network_give_the_same_predictions(
    inputs: tuple[Path, Path], tmp_path: Path, prefix: str
) -> None:
    tensors = load_file(inputs[0] / "model.safetensors")
    wrapped = {prefix + name: value for name, value in tensors.items()}
    write_weights(tmp_path / "wrapped/model.safetensors", network(), tensors=wrapped)
    plain = stage.evaluate(*inputs, tmp_path / "plain", CPU)
    assert stage.evaluate(tmp_path / "wrapped", inputs[1], tmp_path / "out", CPU) == plain


def test_a_baseline_is_built_from_its_name(tmp_path: Path) -> None:
    model = Baseline("alexnet", input_size=64)
    write_weights(tmp_path / "model.safetensors", network(model), model)
    found = stage.load_network(tmp_path / "model.safetensors")
    assert found.input_size == 64
    assert list(found.nodes) == ["alexnet"]


@pytest.mark.parametrize("vote", [True, False])
def test_units_with_classifiers_are_scored_one_by_one_and_together(
    inputs: tuple[Path, Path], tmp_path: Path, vote: bool
) -> None:
    own = network(method=Method(units=["block1"], vote=vote))
    for head in own.heads.values():
        torch.nn.init.normal_(head.classifier.weight, generator=torch.Generator().manual_seed(0))
    write_weights(tmp_path / "run2/model.safetensors", own)
    found = stage.evaluate(tmp_path / "run2", inputs[1], tmp_path / "out", CPU)
    nodes = {name: tensor for name, tensor in own.predicting().items() if not name.startswith("heads.")}
    write_weights(tmp_path / "run3/model.safetensors", network(), tensors=nodes)
    alone = stage.evaluate(tmp_path / "run3", inputs[1], tmp_path / "out3", CPU)
    assert found["accuracy_by_unit"].keys() == {"block1", "block2-classifier"}
    assert found["accuracy_by_unit"]["block2-classifier"] == pytest.approx(alone["accuracy"])
    assert found["accuracy"] == pytest.approx(found["accuracy_of_vote"] if vote else alone["accuracy"])
    assert "accuracy_by_unit" not in alone


def test_faces_that_leave_early_cost_less_and_are_scored_as_the_library_answers(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    own = network(method=Method(units=["block1"], vote=True))
    for head in own.heads.values():
        torch.nn.init.normal_(head.classifier.weight, std=3, generator=torch.Generator().manual_seed(0))
    write_weights(tmp_path / "run2/model.safetensors", own)
    found = stage.evaluate(tmp_path / "run2", inputs[1], tmp_path / "out", CPU)
    faces, costs = stage.load_faces(inputs[1] / "test.parquet"), anytime.multiply_adds(own)
    assert [one["exit"] for one in found["early"]] == pytest.approx(torch.arange(0.4, 0.96, 0.05).tolist())
    for one in found["early"]:
        said = opinions(own, faces.pixels, one["exit"])
        assert one["accuracy"] == pytest.approx((said.vote().argmax(1) == faces.labels).double().mean().item())
        asked = [costs[count - 1] for count in said.asked.tolist()]
        assert one["multiply_adds"] == pytest.approx(sum(asked) / len(asked))
    assert found["early"][0]["multiply_adds"] < costs[-1]
    assert found["multiply_adds"] == costs[-1]


def test_a_look_at_the_mirror_image_has_the_same_say_and_costs_as_much(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    once = stage.evaluate(*inputs, tmp_path / "once", CPU)
    twice = stage.evaluate(*inputs, tmp_path / "twice", CPU, mirror=True)
    own, pixels = (
        stage.load_network(inputs[0] / "model.safetensors"),
        stage.load_faces(inputs[1] / "test.parquet").pixels,
    )
    product = predict(own, pixels).double() * predict(own, torch.from_numpy(pixels.numpy()[..., ::-1].copy())).double()
    table = pd.read_parquet(tmp_path / "twice/predictions.parquet")[[f"p{label}" for label in range(7)]]
    wanted = product.sqrt() / product.sqrt().sum(1, keepdim=True)
    torch.testing.assert_close(torch.tensor(table.to_numpy()).double(), wanted, rtol=0, atol=1e-6)
    assert not np.allclose(table, pd.read_parquet(tmp_path / "once/predictions.parquet")[table.columns])
    assert twice["multiply_adds"] == 2 * once["multiply_adds"]
    assert (once["looks"], twice["looks"]) == (1, 2)


def test_an_answer_without_a_vote_has_one_cost(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    found = stage.evaluate(inputs[0], inputs[1], tmp_path / "out", CPU)
    assert found["multiply_adds"] > 0
    assert "early" not in found


@pytest.mark.parametrize("damage", ["missing", "misshaped", "unknown"])
def test_heads_that_do_not_fit_are_refused_naming_the_tensor(
    inputs: tuple[Path, Path], tmp_path: Path, damage: str
) -> None:
    own, name = network(method=Method(units=["block1"])), "heads.block1.classifier.bias"
    tensors = own.predicting()
    if damage == "missing":
        del tensors[name]
    else:
        tensors[name if damage == "misshaped" else "heads.block1.classifier.extra"] = torch.zeros(9)
    write_weights(tmp_path / "run2/model.safetensors", own, tensors=tensors)
    with pytest.raises(InputError, match=r"model\.safetensors: .*heads\.block1\.classifier\."):
        stage.evaluate(tmp_path / "run2", inputs[1], tmp_path / "out", CPU)


def rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("classifier.", "other."): value for name, value in tensors.items()}


def leave_out(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if "classifier" not in name}


def reshape(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    name = next(name for name in tensors if name.startswith("nodes.classifier."))
    return {f"module.{key}": value[:1] if key == name else value for key, value in tensors.items()}


def spoil(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    name = next(name for name in tensors if name.startswith("nodes.classifier."))
    return tensors | {name: torch.full_like(tensors[name], math.nan)}


@pytest.mark.parametrize("change", [rename, leave_out, reshape, spoil])
def test_weights_that_do_not_fit_are_refused_naming_the_tensor(
    inputs: tuple[Path, Path], tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    path = inputs[0] / "model.safetensors"
    write_weights(path, network(), tensors=change(load_file(path)))
    with pytest.raises(InputError, match=r"model\.safetensors: .*'nodes\.(classifier|other)\."):
        stage.evaluate(*inputs, tmp_path / "out", CPU)
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_an_error_that_names_the_file(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/model\.safetensors: no such file"):
        stage.evaluate(tmp_path / "nowhere", inputs[1], tmp_path / "out", CPU)


@pytest.mark.parametrize("content", [b"", b"<html>", bytes(100)])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: .*; expected the weights"):
        stage.load_network(path)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "{",
        "[]",
        '{"model": {"name": "cfpn"}}',
        '{"model": {"name": "vgg"}, "settings": SETTINGS, "classes": []}',
        '{"model": {"name": "cfpn", "x": 1}, "settings": SETTINGS, "classes": []}',
        '{"model": {"name": "cfpn"}, "settings": SETTINGS, "classes": null}',
        '{"model": {"name": "cfpn"}, "settings": {"cuts": "block"}, "classes": []}',
        '{"model": {"name": "cfpn"}, "settings": {"cuts": ["block9"], "head": {}, "input_size": 48}, "classes": []}',
    ],
)
def test_a_checkpoint_of_an_unknown_model_or_method_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "model.safetensors"
    settings = '{"cuts": "network", "head": {}, "input_size": 48}'
    save_file({"weight": torch.zeros(1)}, path, text and {"network": text.replace("SETTINGS", settings)})
    with pytest.raises(InputError, match=r"model\.safetensors: .*network"):
        stage.load_network(path)


@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize("damage", ["missing", "garbage", "columns", "page"])
def test_a_split_that_cannot_be_read_is_refused_naming_the_file(
    inputs: tuple[Path, Path], tmp_path: Path, split: str, damage: str
) -> None:
    path = inputs[1] / f"{split}.parquet"
    content = path.read_bytes()
    path.unlink()
    if damage == "page":  # the footer is whole
        path.write_bytes(b"," * 64 + content[64:])
    if damage == "garbage":
        path.write_bytes(b"no parquet at all")
    elif damage == "columns":
        pq.write_table(pa.table({"label": pa.array([1], pa.int8())}), path)
    with pytest.raises(InputError, match=rf"{split}\.parquet"):
        stage.evaluate(*inputs, tmp_path / "out", CPU)
    assert not (tmp_path / "out").exists()


def test_an_empty_test_split_is_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    write_split(inputs[1] / "test.parquet", np.zeros((0, 2304), np.uint8), [])
    with pytest.raises(InputError, match=r"test\.parquet: no face"):
        stage.evaluate(*inputs, tmp_path / "out", CPU)


def test_constant_faces_give_finite_metrics(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    write_split(inputs[1] / "test.parquet", np.repeat(np.array([[0], [255]], np.uint8), 2304, 1), [1, 2])
    report = stage.evaluate(*inputs, tmp_path / "out", CPU)
    assert all(math.isfinite(value) for value in report.values() if isinstance(value, float))


def test_a_folder_whose_name_is_not_utf_8_takes_an_evaluation(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"\xfcber")
    try:
        out.mkdir()
    except OSError:
        pytest.skip("the file system takes no such name")
    stage.evaluate(*inputs, out, CPU)
    assert {"metrics.json", "predictions.parquet", "confusion.csv"} <= {path.name for path in out.iterdir()}


def test_weights_of_other_classes_are_refused_and_nothing_is_scored(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    path = inputs[1] / "test.parquet"
    pixels, labels, rows, _ = read(path)
    write(path, pixels, labels, rows, Description(classes=EXPRESSIONS[::-1]))
    with pytest.raises(InputError, match=r"trained on anger, .*; the test split has normal, "):
        stage.evaluate(*inputs, tmp_path / "out", CPU)
    assert not (tmp_path / "out").exists()
