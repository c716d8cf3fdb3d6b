"""Partitions of a list of nodes into units, walking over them, and running nodes."""

import re
import weakref

import pytest
import torch
from torch import Tensor, nn

from cfpn.graph import IMAGE, Cuts, Node, Unit, prefix, run, units, walk
from cfpn.heads import Head
from cfpn.network import CFPN, Network, build

CUTS: list[Cuts] = ["network", "block", "layer", [], ["a"], ["a", "b/1"], ["a/0", "b/0"], ["c"]]
NETWORKS = ["toy", "cfpn"]


class Sum(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return sum(inputs) + 1.0


def toy() -> list[Node]:
    """Skips over one, two and all nodes; b/1 is the end of a dead branch."""
    table = [("a/0", IMAGE), ("a/1", "a/0"), ("b/0", "a/0 a/1"), ("b/1", "b/0"), ("c", "a/1 b/0"), ("d", f"c {IMAGE}")]
    return [Node(name, Sum(), tuple(inputs.split())) for name, inputs in table]


def network(name: str) -> list[Node]:
    return toy() if name == "toy" else build(CFPN(input_size=16, width=16), 0)


def names(nodes: list[Node], cuts: Cuts) -> list[list[str]]:
    return [[node.name for node in unit.nodes] for unit in units(nodes, cuts)]


def test_network_is_one_unit() -> None:
    assert names(toy(), "network") == [["a/0", "a/1", "b/0", "b/1", "c", "d"]]
    assert units(toy(), "network")[0].name == "network"


def test_block_cuts_where_the_prefix_changes() -> None:
    assert names(toy(), "block") == [["a/0", "a/1"], ["b/0", "b/1"], ["c"], ["d"]]
    assert [unit.name for unit in units(toy(), "block")] == ["a", "b", "c", "d"]


def test_layer_makes_a_unit_of_every_node() -> None:
    assert names(toy(), "layer") == [[node.name] for node in toy()]
    assert [unit.name for unit in units(toy(), "layer")] == [node.name for node in toy()]


def test_a_list_cuts_after_nodes_and_prefixes_and_leaves_the_rest_as_one_unit() -> None:
    assert names(toy(), ["a", "b/0"]) == [["a/0", "a/1"], ["b/0"], ["b/1", "c", "d"]]
    assert names(toy(), ["b"]) == [["a/0", "a/1", "b/0", "b/1"], ["c", "d"]]
    assert [unit.name for unit in units(toy(), ["b"])] == ["a-b", "c-d"]


@pytest.mark.parametrize("cuts", [["a", "z"], ["a/2"], ["d"], ["image"], "blocks"])
def test_a_cut_after_which_no_gradient_can_stop_is_refused(cuts: Cuts) -> None:
    with pytest.raises(ValueError, match="no node after which a gradient can stop; the network has a, b, c"):
        units(toy(), cuts)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_units_partition_the_nodes_in_order_under_names_of_their_own(kind: str, cuts: Cuts) -> None:
    nodes = network(kind)
    if kind == "cfpn" and isinstance(cuts, list):
        cuts = [{"a": "block1", "b": "block2", "c": "pyramid1"}[cut[0]] + cut[1:] for cut in cuts]
        cuts = [cut.replace("pyramid1/", "pyramid1/up") for cut in cuts]
    partition = units(nodes, cuts)
    assert [node for unit in partition for node in unit.nodes] == nodes
    assert len({unit.name for unit in partition}) == len(partition)


def test_two_units_inside_one_block_have_different_names() -> None:
    found = [unit.name for unit in units(network("cfpn"), ["block1/2", "block1/4", "block2"])]
    assert found == ["block1/0-block1/2", "block1/3-block1/4", "block1/5-block2", "block3-classifier"]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("cuts", ["network", "block", "layer"])
def test_outputs_are_what_later_units_take(kind: str, cuts: Cuts) -> None:
    partition = units(network(kind), cuts)
    for i, unit in enumerate(partition):
        later = {name for other in partition[i + 1 :] for node in other.nodes for name in node.inputs}
        here = [node.name for node in unit.nodes]
        assert list(unit.outputs) == ([name for name in here if name in later] or here[-1:])


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("cuts", ["network", "block", "layer"])
def test_inputs_are_the_earlier_features_that_a_unit_takes_in_the_order_of_the_network(kind: str, cuts: Cuts) -> None:
    nodes, before = network(kind), [IMAGE]
    for unit in units(nodes, cuts):
        taken = {name for node in unit.nodes for name in node.inputs}
        assert list(unit.inputs) == [name for name in before if name in taken]
        before += [node.name for node in unit.nodes]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("cuts", ["network", "block", "layer"])
def test_every_feature_that_is_taken_is_dropped_once_and_after_its_last_consumer(kind: str, cuts: Cuts) -> None:
    partition = units(network(kind), cuts)
    taken = [{name for node in unit.nodes for name in node.inputs} for unit in partition]
    dropped_at = {name: i for i, unit in enumerate(partition) for name in unit.dropped}
    assert len(dropped_at) == sum(len(unit.dropped) for unit in partition)
    crossing = {IMAGE} | {name for unit in partition for name in unit.outputs}
    for name in crossing & set().union(*taken):
        assert dropped_at[name] == max(i for i, inputs in enumerate(taken) if name in inputs)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("cuts", ["network", "block", "layer", []], ids=str)
def test_units_run_one_after_the_other_give_what_the_network_gives(kind: str, cuts: Cuts) -> None:
    nodes = network(kind)
    for node in nodes:
        node.module.eval()
    image = torch.rand(2, 1, 16, 16)
    features = {IMAGE: image}
    for unit in units(nodes, cuts):
        features |= run(unit.nodes, features, unit.outputs)
        features = {name: feature for name, feature in features.items() if name not in unit.dropped}
    expected = run(nodes, {IMAGE: image}, [nodes[-1].name])
    assert torch.equal(features[nodes[-1].name], expected[nodes[-1].name])


def walked(partition: list[Unit], features: dict[str, Tensor]) -> list[tuple[str, list[str], dict[str, Tensor]]]:
    """Name, names of the inputs, and outputs of every unit of a walk."""
    found, walking = [], walk(partition, features)
    for unit, inputs in walking:
        outputs = run(unit.nodes, inputs, unit.outputs)
        walking.send(outputs)
        found.append((unit.name, list(inputs), outputs))
    return found


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("cuts", ["network", "block", "layer", []], ids=str)
def test_a_walk_gives_every_unit_its_inputs_and_ends_with_what_the_network_gives(kind: str, cuts: Cuts) -> None:
    nodes = network(kind)
    for node in nodes:
        node.module.eval()
    image, partition = torch.rand(2, 1, 16, 16), units(nodes, cuts)
    found = walked(partition, {IMAGE: image})
    assert [(name, inputs) for name, inputs, _ in found] == [(unit.name, list(unit.inputs)) for unit in partition]
    expected = run(nodes, {IMAGE: image}, [nodes[-1].name])
    assert torch.equal(found[-1][2][nodes[-1].name], expected[nodes[-1].name])


def test_a_walk_hands_on_the_very_features_that_were_sent_back() -> None:
    walking, sent = walk(units(toy(), "layer"), {IMAGE: torch.zeros(1)}), {}
    for unit, inputs in walking:
        assert all(feature is sent[name] for name, feature in inputs.items() if name != IMAGE)
        sent[unit.name] = torch.rand(1)
        walking.send({unit.name: sent[unit.name]})
    assert list(sent) == [node.name for node in toy()]


def test_a_walk_lets_a_feature_go_after_its_last_use() -> None:
    partition, made, alive = units(toy(), "layer"), {}, []
    walking = walk(partition, {IMAGE: torch.zeros(1)})
    for unit, inputs in walking:
        outputs = run(unit.nodes, inputs, unit.outputs)
        made |= {name: weakref.ref(feature) for name, feature in outputs.items()}
        walking.send(outputs)
        del inputs, outputs
        alive.append({name for name, feature in made.items() if feature() is not None and name not in ("b/1", "d")})
    assert alive == [{"a/0"}, {"a/0", "a/1"}, {"a/1", "b/0"}, {"a/1", "b/0"}, {"c"}, set()]


def test_a_walk_lets_the_image_go_after_its_last_use() -> None:
    chain = [Node(f"n{i}", Sum(), (f"n{i - 1}" if i else IMAGE,)) for i in range(3)]
    features = {IMAGE: torch.zeros(1)}
    image, walking = weakref.ref(features[IMAGE]), walk(units(chain, "layer"), features)
    unit, inputs = next(walking)
    features.clear()
    assert image() is inputs[IMAGE]
    walking.send(run(unit.nodes, inputs, unit.outputs))
    del inputs
    assert image() is None


def test_a_walk_leaves_the_given_features_alone() -> None:
    given = {IMAGE: torch.zeros(1)}
    walked(units(toy(), "block"), given)
    assert list(given) == [IMAGE]


def test_a_walk_without_the_outputs_of_a_unit_does_not_go_on() -> None:
    walking = walk(units(toy(), "block"), {IMAGE: torch.zeros(1)})
    next(walking)
    with pytest.raises(TypeError):
        next(walking)


def test_run_returns_the_features_in_the_order_asked_for() -> None:
    # A set would give the channels of a unit's head another order in every process.
    for keep in (["c", "a/0", "d", "b/1", "a/1", "b/0"], ["b/0", "b/1", "a/0", "a/1"]):
        assert list(run(toy(), {IMAGE: torch.zeros(1)}, keep)) == keep


def test_run_leaves_the_given_features_alone() -> None:
    given = {IMAGE: torch.zeros(1)}
    run(toy(), given, ["d"])
    assert list(given) == [IMAGE]


def test_run_frees_a_feature_after_its_last_consumer() -> None:
    alive: list[int] = []
    made: list[weakref.ref[Tensor]] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result = x + 1
            made.append(weakref.ref(result))
            alive.append(sum(reference() is not None for reference in made))
            return result

    chain = [Node(f"n{i}", Counting(), (f"n{i - 1}" if i else IMAGE,)) for i in range(6)]
    run(chain, {IMAGE: torch.zeros(1)}, ["n5"])
    assert alive == [1, 2, 2, 2, 2, 2]


def test_a_prefix_is_what_stands_before_the_slash() -> None:
    assert [prefix(name) for name in ("block1/3", "fusion3")] == ["block1", "fusion3"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([("a", IMAGE), ("a", "a")], "node 'a': expected a name of its own without a dot"),
        ([("a.b", IMAGE)], "node 'a.b': expected a name of its own without a dot"),
        ([("", IMAGE)], "node '': expected a name of its own without a dot"),
        ([(IMAGE, IMAGE)], "node 'image': expected a name of its own"),
        ([("a", IMAGE), ("b", "c")], "node 'b': input 'c' is none of the nodes before it"),
        ([("a", "b"), ("b", IMAGE)], "node 'a': input 'b' is none of the nodes before it"),
        ([("half", IMAGE)], "node 'half': PyTorch has a method of this name"),
        ([("keys/0", IMAGE)], "node 'keys/0': PyTorch has a method of this name"),
        ([("stem", IMAGE), ("stem/1", "stem")], "node 'stem': other nodes have this name before a slash"),
    ],
)
def test_a_table_that_is_no_network_is_refused_by_its_node(table: list[tuple[str, str]], said: str) -> None:
    nodes = [Node(name, Sum(), tuple(inputs.split())) for name, inputs in table]
    with pytest.raises(ValueError, match=re.escape(said)):
        Network(nodes, "network", input_size=8, head=Head())


@pytest.mark.parametrize(
    ("hidden", "last", "said"),
    [
        (nn.Flatten(), nn.Linear(64, 7), "node 'a': expected maps (n, c, h, w) of a hidden unit, found (n, 64)"),
        (Sum(), Sum(), "node 'b': expected logits (n, 7), found (n, 1, 8, 8)"),
        (
            nn.MaxPool2d((2, 1)),
            Sum(),
            "node 'a': expected square maps (n, c, h, w) of a hidden unit, found (n, 1, 4, 8)",
        ),
        (Sum(), nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "node 'b': expected logits (n, 7), found (n, 3)"),
    ],
)
def test_outputs_that_no_unit_can_learn_from_are_refused_before_the_first_step(
    hidden: nn.Module, last: nn.Module, said: str
) -> None:
    nodes = [Node("a", hidden, (IMAGE,)), Node("b", last, ("a",))]
    with pytest.raises(ValueError, match=re.escape(said)):
        Network(nodes, "layer", input_size=8, head=Head(width=8))


@pytest.mark.parametrize("cuts", ["one", "blocks", "balanced:x", "balanced:", "2", ""])
def test_a_word_that_is_no_way_to_cut_is_refused_whole(cuts: str) -> None:
    with pytest.raises(
        ValueError, match=f"units: expected network, block, layer, balanced:K or a list; '{cuts}' is no"
    ):
        Network(toy(), cuts, input_size=8, head=Head())
