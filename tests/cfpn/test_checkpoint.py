"""Trainings that go on bit for bit, and networks that predict the same in another process."""

import json
import os
import re
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cfpn.checkpoint import FORMAT, about, load, read, restore, set_weights, tensors
from cfpn.graph import IMAGE, Cuts, Node
from cfpn.heads import ClassMeans, Head
from cfpn.network import CFPN, Network, build
from cfpn.prediction import predict
from cfpn.recipe import Optimizer
from cfpn.schema import EXPRESSIONS
from cfpn.training import Method
from tests.cfpn.small import (
    ALONE,
    BP,
    LOSS,
    MODEL,
    ONE_CYCLE,
    RECIPE,
    SIZE,
    VOTING,
    begin,
    differing,
    epochs,
    faces,
    method,
    nodes_of,
    partition,
    saved,
    snapshot,
    steps,
    trained,
    weights,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("missing", ["averaged/nodes.", "averaged/heads."])
def test_a_state_without_its_averages_is_refused(missing: str) -> None:
    how = method(["block1"])
    state = begin(how, average=0.9)
    kept = {name: tensor for name, tensor in saved(state).items() if not name.startswith(missing)}
    with pytest.raises((KeyError, RuntimeError)):
        restore(begin(how, average=0.9), kept, 0)


@partition
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_two_epochs_and_one_more_after_resuming_are_three_bit_for_bit(
    cuts: Cuts, average: float, optimizer: Literal["adam", "sgd"]
) -> None:
    how = method(cuts, schedule=replace(ONE_CYCLE, first_unit_stops_at=0.5))
    recipe = replace(RECIPE, average=average, optimizer=Optimizer(optimizer, 0.01))
    straight, first, second = (begin(how, seed, recipe=recipe) for seed in (0, 0, 7))
    records = epochs(straight, how, recipe)
    epochs(first, how, recipe, 2)
    restore(second, saved(first), 2)
    torch.manual_seed(123)
    last = epochs(second, how, recipe)
    assert [record.scalars for record in last] == [records[2].scalars]
    assert not differing(tensors(straight), tensors(second))
    assert second.epoch == 3


@pytest.mark.parametrize(("name", "moments"), [("adam", {"exp_avg", "exp_avg_sq"}), ("sgd", {"momentum_buffer"})])
def test_resumed_moments_lie_in_memory_as_their_parameters_do(name: Literal["adam", "sgd"], moments: set[str]) -> None:
    how, recipe = method(["block1"]), replace(RECIPE, optimizer=Optimizer(name))
    first, second = begin(how, recipe=recipe), begin(how, recipe=recipe)
    steps(first, how, 1)
    restore(second, saved(first), 1)
    for learner in second.learners:
        assert learner.optimizer.state
        for parameter, found in learner.optimizer.state.items():
            assert {found[moment].stride() for moment in moments} == {parameter.stride()}
            assert found.get("step", 1) == 1


def test_a_loaded_state_shares_nothing_with_what_it_was_loaded_from() -> None:
    how = method(["block1"])
    first, second = begin(how), begin(how)
    steps(first, how, 1)
    given = tensors(first)
    kept = snapshot(given)
    restore(second, given, 1)
    steps(second, how, 2)
    assert not differing(given, kept)


@pytest.mark.parametrize(("written", "read"), [("block", "network"), ("network", "block"), ("layer", "block")])
def test_the_state_of_another_partition_is_refused(written: Cuts, read: Cuts) -> None:
    first = begin(method(written))
    steps(first, method(written), 1)
    with pytest.raises((KeyError, RuntimeError)):
        restore(begin(method(read)), saved(first), 1)


def test_every_tensor_of_the_state_has_a_name_of_its_own() -> None:
    how = method(["block1/0", "block1/1", "block2"])
    state = begin(how)
    steps(state, how, 1)
    moments = sum(len(values) for learner in state.learners for values in learner.optimizer.state.values())
    heads = sum(len(learner.head.state_dict()) for learner in state.learners if learner.head)
    assert len(tensors(state)) == len(weights(nodes_of(state.network))) + heads + moments


@pytest.mark.parametrize("how", [VOTING, method("block"), BP, method("block", local_loss=ALONE)], ids=str)
def test_loaded_weights_predict_as_those_they_were_taken_from(how: Method) -> None:
    source, some = trained(how), faces(11, seed=5)
    target = begin(how, seed=9)
    set_weights(target.averaged, snapshot(source.averaged.predicting()))
    assert torch.equal(predict(source.averaged, some.pixels), predict(target.averaged, some.pixels))


Spoil = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: {name: tensor for name, tensor in t.items() if not name.startswith("heads.block1/0")},
        lambda t: t | {"heads.block9.trunk.0.weight": torch.zeros(1)},
        lambda t: t | {"heads.block1/0-block1/1.classifier.bias": torch.zeros(8)},
    ],
    ids=["missing", "unknown", "misshaped"],
)
def test_weights_with_other_heads_are_refused_naming_the_unit(
    spoil: Spoil,
) -> None:
    with pytest.raises((KeyError, ValueError), match=r"head.*block"):
        set_weights(begin(VOTING).averaged, spoil(trained(VOTING).averaged.predicting()))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_of_wrapped_networks_load(prefix: str) -> None:
    source, target = trained().network, begin(BP, seed=9).network
    set_weights(target, {prefix + name: tensor for name, tensor in source.state_dict().items()})
    assert not differing(source.state_dict(), target.state_dict())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_module_inside_a_name_is_no_prefix(prefix: str) -> None:
    def network() -> Network:
        inner = nn.Sequential(OrderedDict(flat=nn.Flatten(), module=nn.Linear(SIZE**2, 7), _orig_mod=nn.Linear(7, 7)))
        return Network([Node("a_module", inner, (IMAGE,))], "network", input_size=SIZE, head=Head())

    source, target = network(), network()
    set_weights(target, {prefix + name: tensor for name, tensor in source.state_dict().items()})
    assert "nodes.a_module.module.weight" in target.state_dict()
    assert not differing(source.state_dict(), target.state_dict())


def renamed(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("block1/1", "block1/9"): tensor for name, tensor in found.items()}


def short(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in found.items() if name != "nodes.fusion3.f1.2.bias"}


def extra(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return found | {"nodes.block9/0.weight": torch.zeros(1)}


def reshaped(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return found | {"nodes.classifier.full.bias": torch.zeros(8)}


@pytest.mark.parametrize(
    ("spoil", "named"),
    [(renamed, "block1/1"), (short, "fusion3.f1.2.bias"), (extra, "block9/0.weight"), (reshaped, "full.bias")],
)
def test_weights_of_another_network_are_refused_by_name(spoil: Spoil, named: str) -> None:
    with pytest.raises((KeyError, ValueError), match=named):
        set_weights(begin(BP).network, spoil(begin(BP).network.predicting()))


def test_the_moments_of_a_unit_that_there_is_not_are_refused_by_name() -> None:
    found = saved(trained(BP)) | {"optimizer/block9/0/exp_avg": torch.zeros(1)}
    with pytest.raises(KeyError, match="'optimizer/block9/0/exp_avg' belongs to none of the units"):
        restore(begin(BP), found, 1)


@pytest.mark.parametrize(("name", "shape"), [("exp_avg", (1,)), ("exp_avg_sq", ()), ("step", (1,))])
def test_moments_of_another_shape_are_refused_by_name_and_not_spread(name: str, shape: tuple[int, ...]) -> None:
    found = saved(trained(BP))
    found[next(key for key in found if key.endswith(f"/0/{name}"))] = torch.zeros(shape)
    with pytest.raises(ValueError, match=rf"moment '0/{name}' has the shape {re.escape(str(shape))}; expected"):
        restore(begin(BP), found, 1)


ADAM, SGD = Optimizer("adam"), Optimizer("sgd")
Spoiled = Callable[[str], str | None]


@pytest.mark.parametrize(
    ("written", "read", "rename", "said"),
    [
        (ADAM, SGD, lambda name: name, "is no moment of SGD"),
        (SGD, ADAM, lambda name: name, "is no moment of Adam"),
        (ADAM, ADAM, lambda name: name.replace("optimizer/", "adam/"), "belongs to none of the units"),
        (ADAM, ADAM, lambda name: None if name.endswith("/exp_avg_sq") else name, "exp_avg_sq' is missing"),
        (ADAM, ADAM, lambda name: None if name.endswith("/step") else name, "step' is missing"),
    ],
)
def test_moments_of_another_optimizer_or_by_other_names_are_refused_by_name(
    written: Optimizer, read: Optimizer, rename: Spoiled, said: str
) -> None:
    first, second = (begin(BP, recipe=replace(RECIPE, optimizer=one)) for one in (written, read))
    steps(first, BP, 1)
    found = {new: tensor for name, tensor in saved(first).items() if (new := rename(name)) is not None}
    with pytest.raises(KeyError, match=said):
        restore(second, found, 1)


def write(path: Path, network: Network, **changes: object) -> Path:
    """A weights file; changes: of its metadata."""
    text = json.loads(about(network, asdict(MODEL))["network"]) | changes
    kept = {name: tensor.contiguous() for name, tensor in network.predicting().items()}
    save_file(kept, path, metadata={"network": json.dumps(text)})
    return path


MEANS = method("block", local_loss=replace(LOSS, classifier=ClassMeans()))


@pytest.mark.parametrize("how", [VOTING, method("block"), BP, method("layer", local_loss=ALONE), MEANS], ids=str)
def test_a_loaded_network_predicts_what_the_written_one_did(how: Method, tmp_path: Path) -> None:
    source, some = trained(how).averaged, faces(11, seed=5)
    found = load(write(tmp_path / "x.safetensors", source))
    assert torch.equal(predict(found, some.pixels), predict(source, some.pixels))
    assert found.settings == source.settings
    assert [unit.name for unit in found.units] == [unit.name for unit in source.units]
    assert found.names == EXPRESSIONS
    assert not found.training
    assert not differing(found.predicting(), source.predicting())


def test_a_loaded_network_predicts_the_same_in_a_fresh_process(tmp_path: Path) -> None:
    source, some = trained(VOTING).averaged, faces(11, seed=5)
    write(tmp_path / "x.safetensors", source)
    np.save(tmp_path / "pixels.npy", some.pixels[:, 0].numpy())
    code = (
        "import numpy, sys; from cfpn import load, predict\n"
        "found = predict(load(sys.argv[1] + '/x.safetensors'), numpy.load(sys.argv[1] + '/pixels.npy'))\n"
        "numpy.save(sys.argv[1] + '/found.npy', found.numpy())"
    )
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT, env=one)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), predict(source, some.pixels).numpy())


def test_a_network_for_other_data_is_loaded_with_its_classes(tmp_path: Path) -> None:
    model, names = replace(MODEL, channels=3, classes=10), tuple("abcdefghij")
    network = Network(build(model, 0), "block", input_size=SIZE, channels=3, classes=10, head=Head(1, 8))
    kept = {name: tensor.contiguous() for name, tensor in network.predicting().items()}
    save_file(kept, tmp_path / "x.safetensors", metadata=about(network, asdict(model), names))
    found = load(str(tmp_path / "x.safetensors"))
    assert (found.names, found.channels, found.classes, found.input_size) == (names, 3, 10, SIZE)
    assert predict(found, np.zeros((2, 3, 32, 32), np.uint8)).shape == (2, 10)


@pytest.mark.parametrize(("names", "said"), [("ab", "2 names for 7 classes"), ("abcdefa", "7 names .* stands twice")])
def test_names_that_are_not_those_of_the_classes_are_neither_written_nor_read(
    names: str, said: str, tmp_path: Path
) -> None:
    network = begin(VOTING).network
    with pytest.raises(ValueError, match=said):
        about(network, asdict(MODEL), tuple(names))
    with pytest.raises(ValueError, match=said):
        load(write(tmp_path / "x.safetensors", network, classes=[*names]))


def test_a_network_that_is_no_cfpn_is_loaded_by_a_function_that_makes_its_nodes(tmp_path: Path) -> None:
    def one_layer(model: dict[str, object]) -> list[Node]:
        assert model == {"name": "flat"}
        return [Node("flat", nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, 7)), (IMAGE,))]

    network = Network(one_layer({"name": "flat"}), "network", input_size=SIZE, head=Head())
    path = write(tmp_path / "x.safetensors", network, model={"name": "flat"})
    pixels = faces(3).pixels
    assert torch.equal(predict(load(path, one_layer), pixels), predict(network, pixels))
    with pytest.raises(ValueError, match=r"x\.safetensors: .*model 'flat' is not the CFPN; load\(path, nodes="):
        load(path)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_file_of_a_wrapped_network_is_loaded(prefix: str, tmp_path: Path) -> None:
    network = trained(VOTING).averaged
    kept = {prefix + name: tensor.contiguous() for name, tensor in network.predicting().items()}
    save_file(kept, tmp_path / "x.safetensors", metadata=about(network, asdict(MODEL)))
    assert not differing(load(tmp_path / "x.safetensors").state_dict(), network.state_dict())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "cfpn-network-0"}, "format 'cfpn-network-0', but this version knows 'cfpn-network-1'"),
        ({"format": None}, "format None, but"),
        ({"model": {"name": "cfpn", "width": 32, "input_size": SIZE}}, "is (missing|not part of this network)"),
        ({"model": {"depth": 3}}, "depth"),
        ({"model": {"width": 17}}, r"model\.width"),
        ({"settings": {"cuts": "block"}}, "head"),
        ({"settings": []}, ""),
        ({"classes": ["a", "b"]}, "2 names for 7 classes"),
    ],
    ids=str,
)
def test_a_file_of_another_network_or_format_is_refused_by_its_name(
    changes: dict[str, object], reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.safetensors", begin(BP).network, **changes)
    with pytest.raises(ValueError, match=rf"x\.safetensors: .*{reason}.*; expected the weights of a trained network"):
        load(path)


@pytest.mark.parametrize("metadata", [None, {"network": "{"}, {"network": "[1]"}, {"other": "{}"}], ids=str)
def test_a_file_without_the_metadata_of_a_network_is_refused_by_its_name(
    metadata: dict[str, str] | None, tmp_path: Path
) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"x\.safetensors: .*; expected the weights of a trained network"):
        load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("spoil", [renamed, short, extra, reshaped])
def test_a_file_with_other_tensors_is_refused_by_its_name(spoil: Spoil, tmp_path: Path) -> None:
    network = begin(BP).network
    kept = {name: tensor.contiguous() for name, tensor in spoil(network.predicting()).items()}
    save_file(kept, tmp_path / "x.safetensors", metadata=about(network, asdict(MODEL)))
    with pytest.raises(ValueError, match=r"x\.safetensors: .*; expected the weights of a trained network"):
        load(tmp_path / "x.safetensors")


def test_weights_that_are_not_finite_are_refused_by_the_tensors_name(tmp_path: Path) -> None:
    network = begin(BP).network
    network.nodes["classifier"].full.bias.data[3] = torch.nan
    with pytest.raises(ValueError, match=r"x\.safetensors: tensor 'nodes\.classifier\.full\.bias' holds values"):
        load(write(tmp_path / "x.safetensors", network))


@pytest.mark.parametrize("damage", ["empty", "text", "cut short", "header"])
def test_a_damaged_file_is_refused_by_its_name(damage: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", begin(BP).network)
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"emotion,pixels\n", "cut short": whole[:-9], "header": whole[:8] + b"?" + whole[9:]}[
            damage
        ]
    )
    with pytest.raises(ValueError, match=r"x\.safetensors: .*; expected the weights of a trained network"):
        load(path)


def test_a_missing_file_is_told_by_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "x.safetensors")


def test_a_file_tells_format_model_settings_classes_and_preprocessing(tmp_path: Path) -> None:
    network = begin(VOTING).network
    found = json.loads(read(write(tmp_path / "x.safetensors", network))[1]["network"])
    assert found["format"] == FORMAT
    assert CFPN(**found["model"]) == MODEL
    assert found["settings"] == network.settings
    assert found["classes"] == list(EXPRESSIONS)
    assert found["preprocessing"] == {"mean": 0.5, "deviation": 0.25, "resize": "bilinear"}


@pytest.mark.parametrize("path", ["", "."])
def test_a_folder_is_no_weights_file(path: str) -> None:
    with pytest.raises(ValueError, match="a folder; expected the weights of a trained network"):
        load(path)
