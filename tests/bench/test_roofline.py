"""Claims about bench/roofline.py."""

import csv
import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from bench import roofline
from bench.counts import Work, additions, convolution_work, head_work, separable_work
from bench.roofline import Machine, Part
from cfpn.graph import Node
from cfpn.heads import Head, UnitHead
from cfpn.layers import SeparableConvolution
from cfpn.network import CFPN, build
from pipeline.process import InputError

CPU = torch.device("cpu")
TINY = CFPN(input_size=16, width=16, layers=2, pyramids=1)


def test_a_convolution_counts_products_of_each_output_and_every_tensor_once() -> None:
    x, kernel = torch.zeros(2, 3, 8, 8), nn.Conv2d(3, 5, 3, padding=1, bias=False)
    forward, backward = convolution_work(kernel, x, kernel(x), wanted=True)
    macs, elements = 2 * 8 * 8 * 3 * 5 * 9, (2 * 3 * 64, 2 * 5 * 64)
    assert forward == Work(macs, sum(elements) + 4 * elements[1])
    assert backward == Work(2 * macs, 2 * sum(elements) + 6 * elements[1])


@pytest.mark.parametrize("wanted", [True, False])
def test_a_separable_convolution_counts_the_depthwise_output_again_and_gradients_that_are_wanted(wanted: bool) -> None:
    maps = [torch.zeros(2, c, 64, 64).requires_grad_(wanted) for c in (3, 1)]
    layer, pixels = SeparableConvolution(4, 5, "relu"), 2 * 64 * 64
    forward, backward = separable_work(layer, maps, layer(*maps))
    assert forward.macs == pixels * 4 * (9 + 5)
    assert backward.macs == pixels * 4 * (2 * 9 + 2 * 5 + 9 * wanted)
    assert forward.numbers == pixels * (4 + 4 + 4 + 5 + 4 * 5)


def test_a_head_counts_its_convolutions_and_averages_only_maps_that_are_larger() -> None:
    head, maps = UnitHead(Head(hidden=2, width=8), 6, 4, 7), [torch.zeros(2, 2, 8, 8), torch.zeros(2, 4, 4, 4)]
    pixels, embedding = 2 * 4 * 4, 2 * 8 * 2 * 2
    products = 3 * pixels * (6 * 8 + 8 * 9 + 8 * 8) + 3 * embedding * 7
    averaged = 2 * (2 * 2 * 64 + 2 * 2 * 16)
    moved = 3 * pixels * ((6 + 8) + (8 + 8) + (8 + 8)) + 2 * 10 * pixels * 8
    assert head_work(head, maps) == Work(products, averaged + moved + 2 * (pixels * 8 + embedding) + 2 * embedding)


def test_gradients_of_a_feature_with_several_consumers_are_added_up() -> None:
    features = {"a": torch.zeros(2, 3, 4, 4, requires_grad=True), "b": torch.zeros(1, requires_grad=True)}
    nodes = [Node("x", nn.Identity(), ("a",)), Node("y", nn.Identity(), ("a", "b")), Node("z", nn.Identity(), ("a",))]
    assert additions(nodes, features) == Work(0, 2 * 3 * 96)


def test_nodes_that_lead_nowhere_have_no_backward_pass() -> None:
    edges = {"a": ("image",), "b": ("a",), "c": ("a",), "d": ("c",)}
    nodes = [Node(name, nn.Identity(), inputs) for name, inputs in edges.items()]
    assert [node.name for node in roofline.reaching(nodes, ["b"])] == ["a", "b"]


def test_a_step_has_every_block_its_head_and_kernel_the_optimiser_and_the_averaging() -> None:
    found = roofline.measure(build(TINY, 0), 16, 4, 1, CPU)
    blocks = [f"block{i} {what}" for i in range(1, 5) for what in ("forward", "backward", "head", "HSIC")]
    rest = [
        f"{part} {way}" for part in ("fusion1", "pyramid1", "fusion3", "classifier") for way in ("forward", "backward")
    ]
    assert [part.name for part in found] == [*blocks, *rest, "optimiser", "averaging"]
    assert all(part.seconds > 0 and part.work.numbers > 0 for part in found)


def test_the_limit_is_the_larger_of_traffic_and_arithmetic_and_that_of_a_step_their_sum() -> None:
    limits = Machine(bandwidth=4e6, rate=1e6)
    parts = [Part("moves", Work(1e3, 1e6), 2.0), Part("computes", Work(3e6, 1e6), 6.0)]
    moves, computes, step = roofline.rows(parts, limits)
    assert (moves["limit"], moves["limit_ms"], moves["times_limit"]) == ("memory", 1000.0, 2.0)
    assert (computes["limit"], computes["limit_ms"], computes["times_limit"]) == ("arithmetic", 3000.0, 2.0)
    assert (step["limit"], step["limit_ms"], step["measured_ms"], step["times_limit"]) == ("sum", 4000.0, 8000.0, 2.0)


def test_the_machine_has_finite_limits() -> None:
    assert all(0 < value < math.inf for value in roofline.machine(CPU, side=64, mib=4))


def test_table_csv_and_picture_name_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figure = tmp_path / "out.csv", tmp_path / "out.svg"
    parts = [Part("one", Work(1e6, 1e6), 0.1), Part("two", Work(0, 1e6), 0.1)]
    monkeypatch.setattr(roofline, "measure", lambda *_: parts)
    monkeypatch.setattr(roofline, "machine", lambda _: Machine(1e9, 1e9))
    monkeypatch.setattr(roofline, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["roofline", "--out", str(out), "--figure", str(figure)])
    roofline.main()
    with out.open() as file:
        assert [row["part"] for row in csv.DictReader(file)] == ["one", "two", "step"]
    assert ElementTree.parse(figure).getroot().tag.endswith("svg")
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("one", "two", "step"))


@pytest.mark.parametrize("options", [["--batch", "2"], ["--rounds", "0"], ["--width", "7"]])
def test_bad_options_are_refused(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(sys, "argv", ["roofline", *options])
    with pytest.raises(InputError, match="expected"):
        roofline.main()
