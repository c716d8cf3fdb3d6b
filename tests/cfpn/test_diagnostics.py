"""Diagnostics are what independent references give, and change nothing in a training."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from cfpn import diagnostics
from cfpn.diagnostics import diagnose
from cfpn.faces import Faces, images
from cfpn.graph import IMAGE, Node, prefix
from cfpn.heads import Head
from cfpn.network import CFPN, build
from cfpn.objectives import LocalLoss
from cfpn.prediction import validate
from cfpn.recipe import Recipe
from cfpn.training import Method, State, start, train
from tests.cfpn import plain

SIZE = 16
MODEL = CFPN(input_size=SIZE, width=16, blocks=2, layers=2, pyramids=1)
LOSS = LocalLoss(pool=plain.POOL, grid=plain.GRID, input_pool=plain.INPUT_POOL, head=Head(hidden=1, width=8))
LOCAL, DEEP = Method(units=["block1"], local_loss=LOSS), Method(units=["block1"], local_loss=LOSS, gradients="pass")
BP = Method(units="network")
BLOCKS = ["block1", "block2", "fusion1", "pyramid1", "fusion3"]  # all but the last, the classifier
averages = pytest.mark.parametrize("average", [0.0, 0.9])
methods = pytest.mark.parametrize("method", [LOCAL, DEEP, BP], ids=["local", "deep", "bp"])


def begin(method: Method, average: float = 0.0, epochs: int = 0) -> State:
    """A training after so many epochs of three steps."""
    recipe = Recipe(average=average, batch=16, epochs=max(1, epochs))
    state = start(build(MODEL, 0), method, recipe, SIZE, 0, torch.device("cpu"))
    if epochs:
        list(train(state, method, recipe, plain.faces(48, 2), plain.faces(16, 3), 0))
    return state


def nodes_of(state: State, averaged: bool) -> list[Node]:
    network = state.averaged if averaged else state.network
    return [node for unit in network.units for node in unit.nodes]


def averaged_to(maps: np.ndarray, side: int) -> np.ndarray:
    """Maps (n, c, h, h) averaged to (n, c, side, side), window by window."""
    h = maps.shape[-1]
    edges = [(i * h // side, math.ceil((i + 1) * h / side)) for i in range(side)]
    return np.stack(
        [np.stack([maps[:, :, a:b, c:d].mean((2, 3)) for c, d in edges], -1) for a, b in edges], -2
    )  # rows of windows, windows of a row


def test_a_pass_takes_as_many_faces_as_the_size_of_images_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    state, sizes = begin(LOCAL), []
    monkeypatch.setattr("cfpn.faces.per_pass", lambda side: 3 if side == SIZE else 0)
    nodes = diagnostics.nodes_of(state)
    nodes[0].module.register_forward_hook(lambda module, given, made: sizes.append(len(made)))
    diagnostics.representations(nodes, plain.faces(8, 3).pixels, SIZE, 2)
    assert sizes == [3, 3, 2]


def features(nodes: list[Node], faces: Faces, side: int) -> dict[str, np.ndarray]:
    """Of every block but the last: what later blocks take of it, averaged to side x side or to its smallest map."""
    for node in nodes:
        node.module.eval()
    found = {IMAGE: images(faces.pixels, SIZE)}
    with torch.no_grad():
        plain.run(nodes, found)
    result = {}
    for block in BLOCKS:
        taken = {name for node in nodes for name in node.inputs if prefix(node.name) != block}
        maps = [
            found[node.name].double().numpy() for node in nodes if prefix(node.name) == block and node.name in taken
        ]
        least = min([side, *(m.shape[-1] for m in maps)])
        result[block] = np.concatenate([averaged_to(m, least).reshape(len(m), -1) for m in maps], 1)
    return result


def cosine_kernel(z: np.ndarray) -> np.ndarray:
    rows = z - z.mean(0)
    return np.array([[a @ b / math.sqrt((a @ a) * (b @ b)) for b in rows] for a in rows])


def naive_unbiased_hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741  (as in Song et al.)
    """Three means over tuples of distinct indices (Song et al., JMLR 2012, section 2.2)."""
    n = range(len(k))
    two = np.mean([k[i, j] * l[i, j] for i, j in itertools.permutations(n, 2)])
    three = np.mean([k[i, j] * l[i, q] for i, j, q in itertools.permutations(n, 3)])
    four = np.mean([k[i, j] * l[q, r] for i, j, q, r in itertools.permutations(n, 4)])
    return float(two - 2 * three + four)


def naive_debiased_cka(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    return naive_unbiased_hsic(k, l) / math.sqrt(naive_unbiased_hsic(k, k) * naive_unbiased_hsic(l, l))


@averages
def test_information_is_the_debiased_cka_of_sums_over_tuples_of_faces(average: float) -> None:
    state, validation = begin(LOCAL, average, epochs=1), plain.faces(10, 1)
    found = diagnose(state, LOCAL, plain.faces(40, 0), validation)
    image = cosine_kernel(averaged_to(images(validation.pixels, SIZE).double().numpy(), 12).reshape(10, -1))
    label = np.array([[float(a == b) for b in validation.labels] for a in validation.labels])
    for block, z in features(nodes_of(state, averaged=True), validation, 4).items():
        kernel = cosine_kernel(z)
        expected = naive_debiased_cka(kernel, image), naive_debiased_cka(kernel, label)
        names = f"block/{block}/cka_image", f"block/{block}/cka_label"
        assert tuple(found[name] for name in names) == pytest.approx(expected, abs=2e-5)
        assert expected[0] != pytest.approx(expected[1], abs=0.01)


def test_information_is_of_faces_drawn_from_all_of_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "INFORMATION_FACES", 8)
    state, training = begin(LOCAL), plain.faces(40, 0)
    few, many = (diagnose(state, LOCAL, training, plain.faces(30, 1).sample(n)) for n in (8, 30))
    names = [f"block/{block}/{what}" for block in BLOCKS for what in ("cka_image", "cka_label")]
    assert [few[name] for name in names] == [many[name] for name in names]


def test_no_quantity_of_a_sorted_split_is_of_its_first_class_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []

    def noting(own: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda labels, *others, **more: (seen.append(set(labels.tolist())), own(labels, *others, **more))[1]

    for name in ("INFORMATION_FACES", "PROBE_FACES"):
        monkeypatch.setattr(diagnostics, name, 40)
    monkeypatch.setattr(diagnostics, "label_kernel", noting(diagnostics.label_kernel))
    monkeypatch.setattr(F, "one_hot", noting(F.one_hot))
    split = plain.faces(400, 6)
    order = split.labels.argsort(stable=True)
    split = replace(split, pixels=split.pixels[order], labels=split.labels[order])
    assert len(set(split.labels[:40].tolist())) == 1
    diagnose(begin(LOCAL), LOCAL, split, split)
    assert [len(classes) for classes in seen[:2]] == [7, 7]


def test_gradients_and_probes_are_of_faces_drawn_from_all_of_a_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "PROBE_FACES", 40)
    split = plain.faces(400, 6)
    order = split.labels.argsort(stable=True)
    split = replace(split, pixels=split.pixels[order], labels=split.labels[order])
    state, drawn = begin(LOCAL), split.sample(40)
    assert len(set(drawn.labels.tolist())) == 7
    assert diagnostics.gradients(state, LOCAL, split, 40) == diagnostics.gradients(state, LOCAL, drawn, 40)
    found, expected = (diagnostics.probes(nodes_of(state, averaged=False), own, own, SIZE) for own in (split, drawn))
    assert found == expected


def test_blocks_that_give_vectors_are_measured_as_they_are() -> None:
    modules = {"one": nn.Conv2d(1, 4, 3, 2, 1), "two": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
               "three": nn.Linear(4, 7)}  # fmt: skip
    inputs = [(IMAGE,), ("one",), ("two",)]
    nodes = [Node(name, module, own) for (name, module), own in zip(modules.items(), inputs, strict=True)]
    pixels = plain.faces(9, 7).pixels
    found = diagnostics.representations(nodes, pixels, SIZE, 2)
    maps = modules["one"](images(pixels, SIZE))
    assert torch.equal(found["two"], modules["two"](maps))
    assert found["one"].shape == (9, 16)


@averages
def test_probes_are_scikit_learns_ridge_on_standardised_features(average: float) -> None:
    state, fit, test = begin(LOCAL, average, epochs=1), plain.faces(60, 4), plain.faces(200, 5)
    found = diagnose(state, LOCAL, fit, test)
    known, unknown = (features(nodes_of(state, averaged=True), part, 2) for part in (fit, test))
    accuracies = []
    for block in BLOCKS:
        mean, deviation = known[block].mean(0), known[block].std(0, ddof=1)
        # The intercept is a column of ones, and shrinks as the other weights do.
        a, b = (
            np.c_[(f - mean) / np.maximum(deviation, 1e-6), np.ones(len(f))] for f in (known[block], unknown[block])
        )
        ridge = Ridge(alpha=0.01 * len(a), fit_intercept=False, solver="svd").fit(a, np.eye(7)[fit.labels])
        accuracies.append(float(np.mean(ridge.predict(b).argmax(1) == test.labels.numpy())))
    assert [found[f"block/{block}/probe_accuracy"] for block in BLOCKS] == pytest.approx(accuracies, abs=1e-9)
    assert max(accuracies) > 0.5  # the labels can be told from the brightness of these faces
    assert len(set(accuracies)) > 2


def gradients(nodes: list[Node], loss: Callable[[dict[str, Tensor]], Tensor], x: Tensor) -> dict[str, Tensor]:
    """Gradient of a loss of all features, none of them detached, by block."""
    for node in nodes:
        node.module.train().zero_grad()
    found = {IMAGE: x}
    plain.run(nodes, found)
    loss(found).backward()
    return {block: gradient_of(nodes, block) for block in [*BLOCKS, "classifier"]}


def gradient_of(nodes: list[Node], block: str) -> Tensor:
    parameters = [p for node in nodes if prefix(node.name) == block for p in node.module.parameters()]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


@averages
@methods
def test_gradients_are_those_of_a_plain_backward_pass(method: Method, average: float) -> None:
    state, faces = begin(method, average, epochs=1), plain.faces(40, 0)
    found = diagnose(state, method, faces, plain.faces(30, 1))
    nodes, x = nodes_of(state, averaged=False), images(faces.pixels, SIZE)

    def at_the_end(features: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(features["classifier"], faces.labels)

    def at_block1(features: dict[str, Tensor]) -> Tensor:
        maps = [features[f"block1/{i}"] for i in range(3)]
        return plain.local_loss(maps, x, faces.labels, state.learners[0].head.train())

    true = gradients(nodes, at_the_end, x)
    own = dict(true)
    if method is not BP:  # no later loss reaches block1 where gradients stop; where they pass, both do
        own["block1"] = gradients(nodes, at_block1, x)["block1"] + (true["block1"] if method is DEEP else 0)
    for block in true:
        cosine = F.cosine_similarity(own[block], true[block], dim=0).item()
        assert found[f"block/{block}/gradient_norm"] == pytest.approx(own[block].norm().item(), rel=1e-4)
        assert found[f"block/{block}/bp_cosine"] == pytest.approx(cosine, abs=1e-4)
    assert (abs(found["block/block1/bp_cosine"]) < 0.99) == (method is not BP)


@averages
@methods
def test_weights_running_statistics_and_gradients_stay_as_they_are(method: Method, average: float) -> None:
    state = begin(method, average, epochs=1)
    modules = [state.network, state.averaged]
    before = [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in modules]
    diagnose(state, method, plain.faces(40, 0), plain.faces(30, 1))
    for module, old in zip(modules, before, strict=True):
        assert [name for name, tensor in module.state_dict().items() if not torch.equal(tensor, old[name])] == []
        assert all(p.grad is None for p in module.parameters())


def test_dropout_is_drawn_alike_for_both_gradients_and_the_generator_stays_as_it_was() -> None:
    nodes = [
        Node("one", nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 8), nn.Dropout(0.5)), (IMAGE,)),
        Node("two", nn.Linear(8, 7), ("one",)),
    ]
    state = start(nodes, BP, Recipe(), SIZE, 0, torch.device("cpu"))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    found = diagnostics.gradients(state, BP, plain.faces(20, 0))
    assert {name: value for name, value in found.items() if "cosine" in name} == {
        "block/one/bp_cosine": pytest.approx(1), "block/two/bp_cosine": pytest.approx(1)
    }  # fmt: skip
    assert torch.equal(torch.random.get_rng_state(), before)


@averages
def test_a_validation_between_two_diagnoses_changes_nothing(average: float) -> None:
    state, faces, validation = begin(LOCAL, average, epochs=1), plain.faces(40, 0), plain.faces(30, 1)
    state.network.train()
    first = diagnose(state, LOCAL, faces, validation)
    validate(state.averaged, validation)
    state.network.eval()
    assert diagnose(state, LOCAL, faces, validation) == first
