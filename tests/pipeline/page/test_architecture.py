"""The drawings of the network hold what its table of nodes holds."""

from types import SimpleNamespace

import pytest

from cfpn.graph import IMAGE, prefix, units
from cfpn.network import CFPN, build
from pipeline.page import architecture
from pipeline.page.figures import WRONG

MODEL = {"name": "cfpn", "input_size": 32, "width": 16, "blocks": 3, "layers": 2, "pyramids": 2, "channels": 3}


@pytest.mark.parametrize(("cuts", "bars"), [("network", 0), (["block1"], 1), (["block1", "block2"], 3)])
def test_every_connection_between_units_has_a_red_bar(cuts: str | list[str], bars: int) -> None:
    nodes = build(CFPN(**MODEL), 0)
    sizes = {IMAGE: (3, 32, 32)} | {node.name: (1, 1, 1) for node in nodes}
    axes = architecture.network(units(nodes, cuts), sizes).axes[0]
    assert sum(line.get_color() == WRONG for line in axes.lines) == bars


def test_no_red_bar_stands_where_gradients_pass() -> None:
    nodes = build(CFPN(**MODEL), 0)
    sizes = {IMAGE: (3, 32, 32)} | {node.name: (1, 1, 1) for node in nodes}
    axes = architecture.network(units(nodes, ["block1", "block2"]), sizes, cuts=False).axes[0]
    assert not any(line.get_color() == WRONG for line in axes.lines)
    one = SimpleNamespace(
        method="deep_supervision",
        about=SimpleNamespace(parameters={"method": {"units": ["block1"], "gradients": "pass"}}),
    )
    own = architecture.whole_picture(one, units(nodes, ["block1"]), sizes)
    assert "gradients pass between them" in own.caption and "red bar" not in own.caption


def test_the_drawing_is_of_a_method_that_cuts_gradients_where_one_has_run() -> None:
    kinds = {
        "bp": {"units": "network"},
        "deep": {"units": ["block1"], "gradients": "pass"},
        "nbp": {"units": ["block1"]},
    }
    runs = [
        SimpleNamespace(method=name, about=SimpleNamespace(parameters={"method": one})) for name, one in kinds.items()
    ]
    assert architecture.most_units(runs).method == "nbp"
    assert architecture.most_units(runs[:2]).method == "deep"
    assert architecture.most_units(runs[:1]).method == "bp"


def test_every_node_has_a_box_and_a_dense_block_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = build(CFPN(**MODEL), 0)
    sizes = {IMAGE: (3, 32, 32)} | {node.name: (4, 8, 8) for node in nodes}
    texts = [text.get_text() for text in architecture.network(units(nodes, "network"), sizes).axes[0].texts]
    single = [node for node in nodes if not prefix(node.name).startswith("block")]
    assert len(texts) == 1 + 3 + len(single) + 2  # image, blocks, other nodes, names of the pyramids
    assert "block1\n8² × 12" in texts and "image\n32² × 3" in texts


def test_boxes_do_not_lie_on_each_other() -> None:
    for pyramids in (1, 3):
        places = architecture.layout(build(CFPN(**MODEL | {"pyramids": pyramids}), 0))
        assert len(set(places.values())) == len(places)


def test_the_steps_of_a_layer_are_those_of_its_weights() -> None:
    layer = {node.name: node.module for node in build(CFPN(**MODEL), 0)}["block2/2"]
    assert architecture.steps(layer) == [
        "14 maps\njoined",
        "W: 14\nweights",
        "depthwise\n3×3",
        "pointwise\n1×1",
        "batch\nnorm",
        "ReLU\n2 maps",
    ]


def test_parameters_are_those_of_the_network_without_heads() -> None:
    assert architecture.parameters(MODEL) == sum(
        weight.numel() for node in build(CFPN(**MODEL), 0) for weight in node.module.parameters()
    )
    assert architecture.parameters({}) is None
