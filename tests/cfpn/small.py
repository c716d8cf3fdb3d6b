"""Small faces, networks and trainings that several tests share."""

import itertools
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cfpn.checkpoint import tensors
from cfpn.faces import Augmentation, Faces, images
from cfpn.graph import IMAGE, Cuts, Node
from cfpn.heads import Head
from cfpn.layers import Classifier, SeparableConvolution
from cfpn.network import CFPN, Network, build
from cfpn.objectives import LocalLoss
from cfpn.recipe import Recipe
from cfpn.schedule import Schedule
from cfpn.training import Method, Record, State, start, train, train_step

SIDE, SIZE, BATCH, RATE = 48, 16, 8, 0.005
CPU = torch.device("cpu")
MODEL = CFPN(input_size=SIZE, width=16, blocks=2, layers=2, pyramids=1)
LOSS = LocalLoss(pool=4, grid=2, head=Head(hidden=1, width=8))
ALONE = replace(LOSS, classifier_weight=0.0)
ONE_CYCLE = Schedule(shape="one_cycle")
RECIPE = Recipe(epochs=3, batch=BATCH, augmentation=Augmentation(flip=True, shift=2, rotation=10, scale=0.1))
LOCAL: list[Cuts] = ["block", "layer", ["block1"], ["block1/1", "block2"]]
local = pytest.mark.parametrize("cuts", LOCAL, ids=str)
partition = pytest.mark.parametrize("cuts", ["network", *LOCAL], ids=str)


def faces(number: int, seed: int = 0) -> Faces:
    """Noise, brighter for higher labels."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 7, (number,), generator=random)
    pixels = torch.randint(0, 100, (number, SIDE, SIDE), generator=random) + 20 * labels[:, None, None]
    return Faces(pixels.to(torch.uint8)[:, None], labels, torch.arange(1, number + 1))


def method(cuts: Cuts, **fields: object) -> Method:
    return Method(**{"units": cuts, "local_loss": LOSS} | fields)


BP = method("network")
VOTING = method(["block1/1", "block1"], vote=True)


def begin(
    how: Method, seed: int = 0, nodes: list[Node] | None = None, average: float = 0.0, recipe: Recipe | None = None
) -> State:
    recipe = recipe or Recipe(batch=BATCH, average=average)
    return start(nodes or build(MODEL, seed), how, recipe, SIZE, seed, CPU)


def data(step: int = 0) -> tuple[Tensor, Tensor]:
    chosen = faces(BATCH, seed=step)
    return images(chosen.pixels, SIZE), chosen.labels


def steps(state: State, how: Method, number: int = 3) -> list[dict[str, float]]:
    state.network.train()
    return [one_step(state, how, data(step), step) for step in range(number)]


def one_step(state: State, how: Method, batch: tuple[Tensor, Tensor], step: int) -> dict[str, float]:
    return train_step(state, how, *batch, how.schedule.rates(step, 10**6, len(state.learners)))


def epochs(state: State, how: Method, recipe: Recipe, number: int = 99, seed: int = 0) -> list[Record]:
    """The records of complete epochs, at most `number`."""
    records = train(state, how, recipe, faces(20), faces(9, seed=1), seed)
    return list(itertools.islice((record for record in records if record.complete), number))


def trained(how: Method = BP, seed: int = 0) -> State:
    state = begin(how, seed)
    steps(state, how)
    return state


def nodes_of(network: Network) -> list[Node]:
    return [node for unit in network.units for node in unit.nodes]


def weights(nodes: list[Node]) -> dict[str, Tensor]:
    """Parameters and buffers as "<node>.<name>"."""
    return {f"{n.name}.{key}": value for n in nodes for key, value in n.module.state_dict().items()}


def saved(state: State) -> dict[str, Tensor]:
    """As a file gives it back: the values in the plain layout, shared with nobody."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors(state).items()
    }


def snapshot(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in found.items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert set(a) == set(b)
    return [name for name in a if not torch.equal(a[name], b[name])]


def own(state: State) -> list[set[Tensor]]:
    """The parameters of every unit's optimiser."""
    return [{p for group in learner.optimizer.param_groups for p in group["params"]} for learner in state.learners]


def plain(nodes: Iterable[Node], features: dict[str, Tensor]) -> dict[str, Tensor]:
    for node in nodes:
        features[node.name] = node.module(*[features[name] for name in node.inputs])
    return features


def chain(blocks: int, per_block: int = 2, width: int = 8) -> list[Node]:
    """Blocks of equal separable convolutions at full size, and a classifier."""
    nodes, before = [], IMAGE
    for block, layer in itertools.product(range(blocks), range(per_block)):
        module = SeparableConvolution(width if nodes else 1, width, "relu")
        nodes.append(Node(f"block{block}/{layer}", module, (before,)))
        before = nodes[-1].name
    return [*nodes, Node("classifier", Classifier(width, 7), (before,))]
