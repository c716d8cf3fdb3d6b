"""The table of nodes against the sizes that the paper states, and the network made of it."""

import copy
import json
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from cfpn.graph import IMAGE, Cuts, Node, run, units
from cfpn.heads import Head
from cfpn.layers import Classifier, Fusion3, SeparableConvolution
from cfpn.network import CFPN, Network, build
from cfpn.training import Method
from tests.cfpn.small import ALONE, BP, LOCAL, begin, chain, differing, method

Sizes = dict[str, tuple[int, ...]]


def sizes(model: CFPN) -> Sizes:
    """(channels, height, width) of every node's feature, from shapes alone."""
    with torch.device("meta"):
        nodes = build(model, 0)
        image = torch.empty(2, 1, model.input_size, model.input_size)
        features = run(nodes, {IMAGE: image}, [node.name for node in nodes])
    return {name: tuple(feature.shape[1:]) for name, feature in features.items()}


@pytest.fixture(scope="module")
def paper() -> Sizes:
    return sizes(CFPN())


def stacked(found: Sizes, names: tuple[str, ...]) -> tuple[int, ...]:
    assert len({found[name][1:] for name in names}) == 1
    return (sum(found[name][0] for name in names), *found[names[0]][1:])


def inputs(name: str, model: CFPN | None = None) -> tuple[str, ...]:
    with torch.device("meta"):
        return next(node.inputs for node in build(model or CFPN(), 0) if node.name == name)


@pytest.mark.parametrize(("block", "side"), [(1, 112), (2, 56), (3, 28), (4, 14)])
def test_blocks_end_at_the_papers_sizes_after_five_dense_layers(paper: Sizes, block: int, side: int) -> None:
    names = tuple(name for name in paper if name.startswith(f"block{block}/"))
    assert len(names) == 1 + 5
    assert stacked(paper, names) == (128, side, side)


@pytest.mark.parametrize("block", [1, 2, 3, 4])
@pytest.mark.parametrize("layer", [1, 2, 3, 4, 5])
def test_a_dense_layer_takes_every_earlier_map_of_its_block(block: int, layer: int) -> None:
    assert inputs(f"block{block}/{layer}") == tuple(f"block{block}/{i}" for i in range(layer))


def test_the_base_feature_is_half_deep_and_half_shallow(paper: Sizes) -> None:
    assert paper["fusion1/deep"] == paper["fusion1/shallow"] == (64, 28, 28)
    assert inputs("fusion1/deep") == tuple(f"block4/{i}" for i in range(6))
    assert inputs("fusion1/shallow") == tuple(f"block3/{i}" for i in range(6))
    assert inputs("pyramid1/down2") == ("fusion1/deep", "fusion1/shallow")


@pytest.mark.parametrize("pyramid", [1, 2, 3])
def test_a_pyramid_has_five_levels_down_and_up_again(paper: Sizes, pyramid: int) -> None:
    level1 = inputs(f"pyramid{pyramid}/down2")
    assert stacked(paper, level1) == (128, 28, 28)
    for level, side in zip(range(2, 6), (14, 7, 4, 2), strict=True):
        assert paper[f"pyramid{pyramid}/down{level}"] == (64, side, side)
    for level, side in zip(range(1, 5), (28, 14, 7, 4), strict=True):
        assert paper[f"pyramid{pyramid}/up{level}"] == (64, side, side)


@pytest.mark.parametrize("pyramid", [1, 2, 3])
def test_a_map_on_the_way_up_takes_the_level_beside_it_and_the_one_above(pyramid: int) -> None:
    at = f"pyramid{pyramid}"
    assert inputs(f"{at}/up4") == (f"{at}/down4", f"{at}/down5")
    assert inputs(f"{at}/up3") == (f"{at}/down3", f"{at}/up4")
    assert inputs(f"{at}/up2") == (f"{at}/down2", f"{at}/up3")
    assert inputs(f"{at}/up1") == (*inputs(f"{at}/down2"), f"{at}/up2")


@pytest.mark.parametrize("pyramid", [2, 3])
def test_fusion2_puts_the_last_pyramids_map_beside_the_base(paper: Sizes, pyramid: int) -> None:
    assert inputs(f"pyramid{pyramid}/down2") == (f"pyramid{pyramid}/fusion2", f"pyramid{pyramid - 1}/up1")
    assert inputs(f"pyramid{pyramid}/fusion2") == ("fusion1/deep", "fusion1/shallow")
    assert paper[f"pyramid{pyramid}/fusion2"] == paper[f"pyramid{pyramid - 1}/up1"] == (64, 28, 28)


def test_fusion3_weighs_the_seven_pixel_maps_of_all_pyramids(paper: Sizes) -> None:
    assert inputs("fusion3") == ("pyramid1/up3", "pyramid2/up3", "pyramid3/up3")
    assert [paper[name] for name in inputs("fusion3")] == [(64, 7, 7)] * 3
    assert paper["fusion3"] == (192, 7, 7)
    with torch.device("meta"):
        fusion3 = next(node.module for node in build(CFPN(), 0) if node.name == "fusion3")
    assert isinstance(fusion3, Fusion3)
    assert fusion3.f1[2].out_features == fusion3.f2[2].in_features == 24


def test_the_network_ends_in_seven_logits(paper: Sizes) -> None:
    assert list(paper)[-1] == "classifier"
    assert paper["classifier"] == (7,)


@pytest.mark.parametrize("model", [CFPN(input_size=48, width=32), CFPN(input_size=17, width=16, blocks=3, layers=7)])
def test_other_sizes_fit_together_too(model: CFPN) -> None:
    found = sizes(model)
    last = stacked(found, tuple(f"block{model.blocks}/{i}" for i in range(model.layers + 1)))
    assert last[:2] == (model.width, -(-model.input_size // 2**model.blocks))
    assert found["fusion1/deep"] == found["fusion1/shallow"]
    assert found["classifier"] == (7,)


def prefixes(model: CFPN, start: str) -> int:
    return len({name.split("/")[0] for name in sizes(model) if name.startswith(start)})


@pytest.mark.parametrize("number", [2, 3, 5])
def test_the_number_of_blocks_is_effective(number: int) -> None:
    assert prefixes(CFPN(input_size=48, width=16, blocks=number), "block") == number


@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_number_of_pyramids_is_effective(number: int) -> None:
    model = CFPN(input_size=48, width=16, pyramids=number)
    assert prefixes(model, "pyramid") == number
    assert sizes(model)["fusion3"][0] == number * 8


@pytest.mark.parametrize("number", [1, 3, 7])
def test_the_number_of_dense_layers_is_effective_and_leaves_the_width(number: int) -> None:
    found = sizes(CFPN(input_size=48, width=32, layers=number))
    names = tuple(name for name in found if name.startswith("block2/"))
    assert len(names) == number + 1
    assert stacked(found, names)[0] == 32


@pytest.mark.parametrize(("name", "kind"), [("relu", nn.ReLU), ("tanh", nn.Tanh), ("elu", nn.ELU)])
def test_the_activation_is_effective_everywhere(name: str, kind: type) -> None:
    nodes = build(CFPN(input_size=16, width=16, activation=name), 0)
    for node in nodes[1:]:
        if not isinstance(node.module, Fusion3 | Classifier):
            assert isinstance(node.module, SeparableConvolution)
            assert isinstance(node.module.act, kind)
    assert isinstance(nodes[0].module[2], kind)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"width": 0}, "width"),
        ({"width": 8}, "width"),
        ({"width": 24}, "width"),
        ({"width": -16}, "width"),
        ({"activation": "gelu"}, "activation"),
        ({"blocks": 1}, "blocks"),
        ({"pyramids": 0}, "pyramids"),
        ({"layers": 0}, "layers"),
        ({"layers": 8}, "layers"),
        ({"input_size": 0}, "input_size"),
        ({"input_size": 15}, "input_size"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused_by_name(bad: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"model.*{named}"):
        CFPN(**bad)


def state(nodes: list[Node]) -> Iterator[Tensor]:
    return iter(nn.ModuleDict({node.name: node.module for node in nodes}).state_dict().values())


def test_one_seed_gives_one_network_and_another_seed_another() -> None:
    model = CFPN(input_size=16, width=16)
    assert all(map(torch.equal, state(build(model, 3)), state(build(model, 3))))
    kernels = [build(model, seed)[0].module[0].weight for seed in (3, 4)]
    assert not torch.equal(*kernels)


def test_building_neither_disturbs_nor_hears_the_global_generator() -> None:
    model = CFPN(input_size=16, width=16)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build(model, 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert all(map(torch.equal, state(first), state(build(model, 0))))


def test_modules_stand_under_their_nodes_names() -> None:
    nodes = build(CFPN(input_size=16, width=16), 0)
    network = Network(nodes, "network", input_size=16, head=Head())
    assert list(network.nodes) == [node.name for node in nodes]
    assert "nodes.block1/1.depthwise" in network.state_dict()


def test_weights_of_convolutions_lie_channels_last() -> None:
    for node in build(CFPN(input_size=16, width=16), 0):
        for parameter in node.module.parameters():
            assert parameter.dim() != 4 or parameter.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, 2), (4, 7)])
def test_channels_and_classes_are_those_of_the_data(channels: int, classes: int) -> None:
    nodes = build(CFPN(input_size=16, width=16, channels=channels, classes=classes), 0)
    assert nodes[0].module[0].weight.shape[1] == channels
    assert run(nodes, {IMAGE: torch.zeros(2, channels, 16, 16)}, ["classifier"])["classifier"].shape == (2, classes)


SMALL = CFPN(input_size=16, width=16, blocks=2, layers=2, pyramids=1)
HEAD = Head(hidden=1, width=8)
CUTS: list[Cuts] = ["network", *LOCAL]
every_partition = pytest.mark.parametrize("cuts", CUTS, ids=str)


def network(cuts: Cuts, **fields: object) -> Network:
    return Network(build(SMALL, 0), cuts, **{"input_size": 16, "head": HEAD} | fields)


@every_partition
def test_settings_make_the_same_network_again_by_way_of_json(cuts: Cuts) -> None:
    given = {"pool": 4, "classifies": False, "vote": False, "head": Head(hidden=2, width=5)}
    first = network(cuts, **given, seed=3)
    settings = json.loads(json.dumps(first.settings))
    assert settings == first.settings
    again = Network(build(SMALL, 0), **(settings | {"head": Head(**settings["head"])}), seed=3)
    assert again.settings == first.settings
    assert [unit.name for unit in again.units] == [unit.name for unit in first.units]
    assert not differing(again.state_dict(), first.state_dict())


@every_partition
@pytest.mark.parametrize("classifies", [True, False])
def test_forward_gives_logits_of_every_unit_that_classifies_and_the_networks_own_last(
    cuts: Cuts, classifies: bool
) -> None:
    found = network(cuts, classifies=classifies).eval()
    for head in found.heads.values():
        nn.init.normal_(head.classifier.weight, generator=torch.Generator().manual_seed(1))
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = found(images)
        nodes = [node for unit in found.units for node in unit.nodes]
        features = run(nodes, {IMAGE: images}, [node.name for node in nodes])
        expected = {
            unit.name: found.heads[unit.name].logits([features[name] for name in unit.outputs])
            for unit in found.units[:-1]
            if classifies
        }
    expected[found.units[-1].name] = features["classifier"]
    assert list(logits) == list(expected)
    assert not differing(logits, expected)


@every_partition
def test_every_hidden_unit_has_a_head_and_the_last_one_has_none(cuts: Cuts) -> None:
    assert list(network(cuts).heads) == [unit.name for unit in units(build(SMALL, 0), cuts)[:-1]]


def test_heads_are_drawn_from_the_seed_without_touching_nodes_or_the_global_generator() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (network("block", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not differing(first.state_dict(), again.state_dict())
    changed = differing(first.state_dict(), other.state_dict())
    assert changed
    assert all(name.startswith("heads.") for name in changed)


@pytest.mark.parametrize(("pool", "size"), [(6, 4), (2, 2), (0, 4)])
def test_a_head_takes_maps_of_the_pool_or_of_the_smallest_output(pool: int, size: int) -> None:
    found = Network(build(CFPN(input_size=16, width=16), 0), ["block2"], input_size=16, head=HEAD, pool=pool)
    assert [head.size for head in found.heads.values()] == [size]


@every_partition
@pytest.mark.parametrize("classifies", [True, False])
def test_predictions_need_the_nodes_and_heads_where_they_classify(cuts: Cuts, classifies: bool) -> None:
    found = network(cuts, classifies=classifies)
    names = {f"nodes.{node.name}.{name}" for node in build(SMALL, 0) for name in node.module.state_dict()}
    heads = {name for name in found.state_dict() if name.startswith("heads.")}
    assert set(found.predicting()) == (names | heads if classifies else names)
    assert bool(heads) == (cuts != "network")
    assert all(found.predicting()[name] is not None for name in names)


def test_a_network_computes_on_the_modules_that_its_state_dict_names() -> None:
    first = network("block").eval()
    second, images = copy.deepcopy(first), torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        for tensor in second.parameters():
            tensor.mul_(0.5)
        logits = second(images)
        assert differing(first(images), logits)
        first.load_state_dict(second.state_dict())
        assert not differing(first(images), logits)


@pytest.mark.parametrize("how", [method("block"), method("layer", local_loss=ALONE)], ids=["classifies", "alone"])
def test_a_network_counts_without_heads_where_they_do_not_vote(how: Method) -> None:
    assert begin(how).network.count() == sum(p.numel() for node in build(SMALL, 0) for p in node.module.parameters())


def test_parameters_are_counted_once_and_buffers_not() -> None:
    network = (1 + 9 + 8 + 16) + (8 + 72 + 64 + 16) + (8 * 7 + 7)
    assert begin(BP, nodes=chain(2, 1, 8), average=0.9).network.count() == network


def test_the_parameters_of_heads_count_where_they_vote() -> None:
    network, head = (1 + 9 + 8 + 16) + (8 + 72 + 64 + 16) + (8 * 7 + 7), (8 * 8 + 16) + (8 * 4 * 7 + 7)
    for vote in (True, False):
        state = begin(method(["block0"], vote=vote), nodes=chain(2, 1, 8))
        assert state.network.count() == network + vote * head


def test_nodes_that_lie_on_another_device_make_a_network_there() -> None:
    with torch.device("meta"):
        nodes = build(SMALL, 0)
    found = Network(nodes, "block", input_size=16, head=HEAD)
    assert found.shapes == network("block").shapes
    assert {weight.device.type for weight in found.nodes.parameters()} == {"meta"}
