"""What a trained network says of faces: probabilities, votes, and the pixels that it takes."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from cfpn.faces import images
from cfpn.graph import IMAGE
from cfpn.network import CFPN, build
from cfpn.prediction import accuracy, features, predict, unit_log_probabilities, vote
from cfpn.recipe import Recipe
from cfpn.training import start
from tests.cfpn.small import (
    BP,
    CPU,
    SIZE,
    VOTING,
    begin,
    differing,
    faces,
    method,
    nodes_of,
    plain,
    snapshot,
    trained,
    weights,
)


@pytest.mark.parametrize("batch", [1, 3, 4, 256, None])
def test_predictions_do_not_hang_on_the_batch_size(batch: int | None) -> None:
    state, some = trained(), faces(11, seed=5)
    found = predict(state.averaged, some.pixels, batch)
    assert found.shape == (11, 7)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, predict(state.averaged, some.pixels, 11), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(11))


def test_a_pass_takes_as_many_faces_as_the_size_of_images_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    state, sizes = begin(BP), []
    monkeypatch.setattr("cfpn.faces.per_pass", lambda side: 3 if side == SIZE else 0)
    nodes_of(state.network)[0].module.register_forward_hook(lambda module, given, made: sizes.append(len(made)))
    unit_log_probabilities(state.network, faces(8).pixels)
    assert sizes == [3, 3, 2]


def test_a_vote_is_the_geometric_mean_of_the_units_own_classifiers() -> None:
    state, some = trained(VOTING), faces(11, seed=5)
    for learner in state.learners[:-1]:
        nn.init.normal_(learner.head.classifier.weight, generator=torch.Generator().manual_seed(1))
        learner.head.eval()
    found, product = predict(state.averaged, some.pixels), torch.ones(11, 7).double()
    features = {IMAGE: images(some.pixels, SIZE)}
    with torch.no_grad():
        for unit, head in ((learner.unit, learner.head) for learner in state.learners):
            features |= plain(unit.nodes, features)
            maps = torch.cat([features[name] for name in unit.outputs], 1)
            logits = maps if head is None else head.classifier(head(F.avg_pool2d(maps, 2)))  # 8x8 to 4x4
            product *= logits.double().softmax(1)
    expected = product ** (1 / 3)
    torch.testing.assert_close(found.double(), expected / expected.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_without_a_vote_the_network_alone_predicts() -> None:
    state, some = trained(method(["block1"])), faces(11, seed=5)
    alone = start(copy.deepcopy(nodes_of(state.network)), BP, Recipe(), SIZE, 0, CPU)
    torch.testing.assert_close(predict(state.averaged, some.pixels), predict(alone.averaged, some.pixels))


@pytest.mark.parametrize(("right", "count"), [(379, 400), (1, 3), (0, 7)])
def test_an_accuracy_is_the_exact_ratio_so_that_all_tables_round_it_alike(right: int, count: int) -> None:
    labels = torch.tensor([1] * right + [0] * (count - right))
    assert accuracy(F.one_hot(torch.ones(count, dtype=torch.int64), 7).float(), labels) == right / count


def test_predictions_keep_the_order_of_the_faces() -> None:
    state, some = trained(), faces(11, seed=5)
    backwards = some.pixels.flip(0)
    torch.testing.assert_close(predict(state.averaged, some.pixels, 4), predict(state.averaged, backwards, 4).flip(0))


def test_predictions_do_not_hang_on_the_mode_before_and_change_no_weight() -> None:
    state, some = trained(), faces(11, seed=5)
    before, found = snapshot(weights(nodes_of(state.network))), []
    for mode in (True, False):
        state.network.train(mode)
        found.append(predict(state.averaged, some.pixels))
    assert torch.equal(*found)
    assert not differing(weights(nodes_of(state.network)), before)


def test_features_do_not_hang_on_the_mode_before_and_leave_evaluation_mode() -> None:
    network, some = trained().averaged, faces(11, seed=5)
    name = network.units[-1].name
    expected = features(network.eval(), some.pixels, name)
    found = features(network.train(), some.pixels, name)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert not network.training


@pytest.mark.parametrize("together", [True, False])
def test_a_vote_is_in_proportion_to_the_geometric_mean_or_it_is_the_last_units(together: bool) -> None:
    units = {name: torch.randn(5, 7).log_softmax(1) for name in "abc"}
    product = torch.stack([logs.double().exp() for logs in units.values()]).prod(0) ** (1 / 3)
    expected = product / product.sum(1, keepdim=True) if together else units["c"].double().exp()
    torch.testing.assert_close(vote(units, together).double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("vote", [True, False])
def test_log_probabilities_are_told_of_every_unit_with_a_classifier_the_networks_own_last(vote: bool) -> None:
    state, some = trained(method(["block1/1", "block1"], vote=vote)), faces(5)
    found = unit_log_probabilities(state.averaged, some.pixels)
    assert list(found) == [unit.name for unit in state.network.units]
    for logs in found.values():
        torch.testing.assert_close(logs.exp().sum(1), torch.ones(5))


def kinds() -> dict[str, Tensor | np.ndarray]:
    """The same five faces in all forms that are taken."""
    pixels = faces(5, seed=3).pixels
    array = pixels.numpy()
    locked = array.copy()
    locked.flags.writeable = False
    mirrored = np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    return {
        "tensor (n, c, h, w)": pixels,
        "tensor (n, h, w)": pixels[:, 0],
        "array (n, c, h, w)": array,
        "array (n, h, w)": array[:, 0],
        "array that must not be written": locked[:, 0],
        "array with a negative stride": mirrored,
        "strided tensor": pixels.repeat_interleave(2, 3)[..., ::2],
    }


@pytest.mark.parametrize("kind", kinds())
def test_faces_may_be_arrays_or_tensors_with_or_without_a_channel(kind: str) -> None:
    network = trained(VOTING).averaged
    expected = predict(network, faces(5, seed=3).pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = predict(network, kinds()[kind])
    assert torch.equal(found, expected)
    assert (found.shape, found.dtype) == ((5, 7), torch.float32)


def test_prediction_leaves_the_given_array_alone() -> None:
    array = faces(5).pixels.numpy().copy()
    before = array.copy()
    predict(trained().averaged, array)
    assert (array == before).all()


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (torch.zeros(48, 48, dtype=torch.uint8), r"uint8 of shape \(48, 48\)"),
        (torch.zeros(2, 3, 48, 48, dtype=torch.uint8), r"uint8 of shape \(2, 3, 48, 48\)"),
        (torch.zeros(2, 48, 48, 1, dtype=torch.uint8), r"uint8 of shape \(2, 48, 48, 1\)"),
        (torch.zeros(2, 1, 1, 48, 48, dtype=torch.uint8), r"uint8 of shape \(2, 1, 1, 48, 48\)"),
        (torch.zeros(2, 1, 48, 48), r"float32 of shape \(2, 1, 48, 48\)"),
        (np.zeros((2, 48, 48)), r"float64 of shape \(2, 48, 48\)"),
        (np.zeros((2, 48, 48), np.int64), r"int64 of shape \(2, 48, 48\)"),
        (np.zeros((2, 48, 48), object), r"object of shape \(2, 48, 48\)"),
        (np.zeros((48, 48, 3), np.uint8)[None], r"uint8 of shape \(1, 48, 48, 3\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pixels_of_another_shape_or_type_are_refused(wrong: Tensor | np.ndarray, found: str) -> None:
    expected = rf"^pixels: expected uint8 of shape \(n, 1, h, w\), found .*{found}$"
    with pytest.raises(ValueError, match=expected):
        predict(begin(BP).network, wrong)


def test_a_network_of_colour_images_refuses_grey_ones() -> None:
    model = CFPN(input_size=SIZE, width=16, blocks=2, layers=2, pyramids=1, channels=3)
    state = start(build(model, 0), BP, Recipe(), SIZE, 0, CPU, channels=3)
    assert predict(state.network, torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 7)
    for grey in (torch.zeros(2, 48, 48, dtype=torch.uint8), torch.zeros(2, 1, 48, 48, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"expected uint8 of shape \(n, 3, h, w\)"):
            predict(state.network, grey)


@pytest.mark.parametrize("shape", [(16, 16), (48, 48), (16, 24), (100, 30)])
def test_faces_of_any_side_are_taken(shape: tuple[int, int]) -> None:
    found = predict(trained().averaged, torch.full((2, *shape), 128, dtype=torch.uint8))
    torch.testing.assert_close(found.sum(1), torch.ones(2))


def test_no_faces_give_no_probabilities() -> None:
    assert predict(trained(VOTING).averaged, np.zeros((0, 48, 48), np.uint8)).shape == (0, 7)


@pytest.mark.parametrize("batch", [None, 2])
def test_the_features_of_a_unit_are_what_its_nodes_gave(batch: int | None) -> None:
    network, some, seen = trained(VOTING).averaged, faces(5), {}
    for name, module in network.nodes.items():
        module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    predict(network, some.pixels)
    expected = dict(seen)
    for unit in network.units:
        found = features(network, some.pixels, unit.name, batch)
        assert list(found) == list(unit.outputs)
        for name, maps in found.items():
            torch.testing.assert_close(maps, expected[name], rtol=1e-4, atol=1e-5)


def test_the_features_of_a_unit_that_there_is_not_are_refused_with_the_names() -> None:
    network = begin(VOTING).network
    known = ", ".join(unit.name for unit in network.units)
    with pytest.raises(ValueError, match=f"^unit: expected one of {known}, found 'block9'$"):
        features(network, faces(1).pixels, "block9")


@pytest.mark.parametrize("wrong", [Image.new("L", (48, 48)), [[0]], "face.png"], ids=["picture", "list", "path"])
def test_what_is_neither_array_nor_tensor_is_refused_by_its_kind(wrong: object) -> None:
    with pytest.raises(ValueError, match=f"^pixels: expected an array or a tensor, found {type(wrong).__name__}$"):
        predict(begin(BP).network, wrong)
