"""Every partition learns what a plain loop learns, bit for bit; units may run in threads of their own."""

import copy
import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpn.faces import batches, images
from cfpn.graph import IMAGE, Cuts, Node
from cfpn.heads import Head
from cfpn.learner import unit_step
from cfpn.network import CFPN, build
from cfpn.objectives import LocalLoss
from cfpn.schedule import Schedule
from cfpn.training import Method, Recipe, State, start, train
from tests.cfpn import plain

SIZE, BATCH, STEPS, RATE, CLASSES = 16, 8, 4, 0.005, 7
MODEL = CFPN(input_size=SIZE, width=16, blocks=2, layers=2, pyramids=1)
LOSS = LocalLoss(pool=plain.POOL, grid=plain.GRID, input_pool=plain.INPUT_POOL, head=Head(hidden=1, width=8))
FACES, VALIDATION = plain.faces(BATCH * STEPS, 0), plain.faces(8, 1)
NAMES = [node.name for node in build(MODEL, 0)]
BLOCKS = ["block1/2", "block2/2", "fusion1/shallow", "pyramid1/up1", "fusion3"]  # last nodes of the first five


class Trained(NamedTuple):
    """Losses of all units by step, and the weights of the network and of the heads after the last."""

    losses: list[list[float]]
    weights: dict[str, Tensor]
    heads: list[dict[str, Tensor]]


def begin(cuts: Cuts, gradients: str = "stop") -> tuple[State, Method, Recipe]:
    method = Method(units=cuts, gradients=gradients, local_loss=LOSS, schedule=Schedule(learning_rate=RATE))
    recipe = Recipe(epochs=1, batch=BATCH)
    return start(build(MODEL, 0), method, recipe, SIZE, 0, torch.device("cpu")), method, recipe


def of_the_library(state: State, method: Method, recipe: Recipe) -> Trained:
    records = [record.scalars for record in train(state, method, recipe, FACES, VALIDATION, 0)]
    names = [f"unit/{learner.unit.name}/loss" for learner in state.learners[:-1]] + ["train/loss"]
    losses = [[scalars[name] for name in names] for scalars in records[:STEPS]]
    return Trained(losses, weights(nodes(state)), [learner.head.state_dict() for learner in state.learners[:-1]])


def nodes(state: State) -> list[Node]:
    return [node for learner in state.learners for node in learner.unit.nodes]


def weights(network: Sequence[Node]) -> dict[str, Tensor]:
    return {f"{node.name}.{key}": value for node in network for key, value in node.module.state_dict().items()}


def copies(state: State) -> tuple[list[Node], list[nn.Module]]:
    """Network and heads as they are before the first step, in training mode."""
    network, heads = copy.deepcopy((nodes(state), [learner.head for learner in state.learners[:-1]]))
    nn.ModuleList([node.module for node in network] + heads).train()
    return network, heads


def data() -> list[tuple[Tensor, Tensor]]:
    return [(images(pixels, SIZE), labels) for pixels, labels in batches(FACES, BATCH, 0, 0)]


def adam(modules: Sequence[nn.Module]) -> torch.optim.Adam:
    return torch.optim.Adam(nn.ModuleList(modules).parameters(), lr=RATE, fused=True)


def back_propagation(network: list[Node]) -> Trained:
    """Rumelhart et al. 1986: one loss at the end of the network, one optimiser."""
    optimizer, losses = adam([node.module for node in network]), []
    for x, labels in data():
        features = {IMAGE: x}
        plain.run(network, features)
        loss = F.cross_entropy(features["classifier"], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append([loss.item()])
    return Trained(losses, weights(network), [])


def without_back_propagation(network: list[Node], heads: list[nn.Module], lasts: Sequence[str]) -> Trained:
    """The paper's training: part by part, each on detached features, with a loss and an optimiser of its own."""
    parts, losses = plain.split(network, lasts), []
    own = [[node.module for node in part] + heads[i : i + 1] for i, part in enumerate(parts)]
    optimizers = [adam(modules) for modules in own]
    for x, labels in data():
        features, of_step = {IMAGE: x}, []
        for i, part in enumerate(parts):
            plain.run(part, features)
            if i < len(heads):
                maps = [features[name] for name in plain.outputs(parts, i)]
                loss = plain.local_loss(maps, x, labels, heads[i])
            else:
                loss = F.cross_entropy(features["classifier"], labels)
            optimizers[i].zero_grad()
            loss.backward()
            optimizers[i].step()
            features = {name: feature.detach() for name, feature in features.items()}
            of_step.append(loss.item())
        losses.append(of_step)
    return Trained(losses, weights(network), [head.state_dict() for head in heads])


def deep_supervision(network: list[Node], heads: list[nn.Module], lasts: Sequence[str]) -> Trained:
    """Lee et al. 2015: the sum of the same losses, whose gradients pass through the whole network."""
    parts, losses = plain.split(network, lasts), []
    optimizer = adam([node.module for node in network] + heads)
    for x, labels in data():
        features, of_step = {IMAGE: x}, []
        for i, part in enumerate(parts):
            plain.run(part, features)
            if i < len(heads):
                maps = [features[name] for name in plain.outputs(parts, i)]
                of_step.append(plain.local_loss(maps, x, labels, heads[i]))
        of_step.append(F.cross_entropy(features["classifier"], labels))
        optimizer.zero_grad()
        sum(of_step).backward()
        optimizer.step()
        losses.append([loss.item() for loss in of_step])
    return Trained(losses, weights(network), [head.state_dict() for head in heads])


def assert_same(found: Trained, expected: Trained) -> None:
    assert found.losses == expected.losses
    for mine, other in zip([found.weights, *found.heads], [expected.weights, *expected.heads], strict=True):
        assert list(mine) == list(other)
        assert [name for name in mine if not torch.equal(mine[name], other[name])] == []
    moved = [name for name, before in weights(build(MODEL, 0)).items() if not torch.equal(before, found.weights[name])]
    assert {name.partition(".")[0] for name in moved} == set(NAMES)


def test_one_unit_is_back_propagation() -> None:
    state, *how = begin("network")
    network, _ = copies(state)
    assert_same(of_the_library(state, *how), back_propagation(network))


def test_blocks_with_detached_features_are_training_without_back_propagation() -> None:
    state, *how = begin("block")
    network, heads = copies(state)
    assert_same(of_the_library(state, *how), without_back_propagation(network, heads, BLOCKS))


def test_blocks_whose_gradients_pass_are_deep_supervision() -> None:
    state, *how = begin("block", "pass")
    network, heads = copies(state)
    assert_same(of_the_library(state, *how), deep_supervision(network, heads, BLOCKS))


def test_a_unit_per_layer_is_the_same_loop_over_layers() -> None:
    state, *how = begin("layer")
    network, heads = copies(state)
    assert_same(of_the_library(state, *how), without_back_propagation(network, heads, NAMES[:-1]))


def test_a_cut_inside_a_block_is_the_same_loop_over_its_two_parts() -> None:
    state, *how = begin(["block1/1", "block2"])
    network, heads = copies(state)
    expected = without_back_propagation(network, heads, ["block1/1", "block2/2"])
    assert_same(of_the_library(state, *how), expected)


def test_the_partitions_learn_different_weights() -> None:
    cases = [("network", "stop"), ("block", "stop"), ("block", "pass"), ("layer", "stop"), (["block1/1"], "stop")]
    first = [of_the_library(*begin(*case)).weights["block1/0.0.weight"] for case in cases]
    assert not any(torch.equal(a, b) for i, a in enumerate(first) for b in first[:i])


@pytest.mark.parametrize("cuts", ["block", "layer", ["block1/1", "block2"]], ids=str)
def test_units_in_threads_of_their_own_fed_by_queues_learn_the_same_bits(cuts: Cuts) -> None:
    expected = of_the_library(*begin(cuts))
    state, _, _ = begin(cuts)
    state.network.train()
    queues = [queue.Queue() for _ in range(len(state.learners) + 1)]

    def work(place: int) -> list[float]:
        """Take what the unit before has made, learn, hand on what later units take; None is the end."""
        learner, losses = state.learners[place], []
        try:
            while (item := queues[place].get()) is not None:
                features, targets = item
                outputs, loss = unit_step(learner, features, targets, RATE)
                losses.append(loss.item())
                live = features | outputs
                queues[place + 1].put(
                    ({name: live[name] for name in live if name not in learner.unit.dropped}, targets)
                )
        finally:
            queues[place + 1].put(None)
        return losses

    with ThreadPoolExecutor(len(state.learners)) as pool:
        threads = [pool.submit(work, place) for place in range(len(state.learners))]
        for x, labels in data():  # all at once: a unit learns from a batch while the next still has the one before
            queues[0].put(({IMAGE: x}, LOSS.targets(x, labels, CLASSES)))
        queues[0].put(None)
        losses = [list(of_step) for of_step in zip(*(thread.result() for thread in threads), strict=True)]
    heads = [learner.head.state_dict() for learner in state.learners[:-1]]
    assert_same(Trained(losses, weights(nodes(state)), heads), expected)
