"""Claims about bench/naive.py: the naive network is the same graph in another order."""

import sys

import torch

from bench import naive
from cfpn import network as networks
from cfpn.graph import IMAGE, run
from cfpn.network import CFPN

SMALL = CFPN(input_size=16, width=16, layers=1, pyramids=1)


def test_the_naive_network_has_the_same_feature_sizes() -> None:
    nodes = networks.build(SMALL, 0)
    names = [node.name for node in nodes]
    with torch.no_grad():
        shapes = {name: f.shape for name, f in run(nodes, {IMAGE: torch.zeros(2, 1, 16, 16)}, names).items()}
        other = run(naive.naive(networks.build(SMALL, 0), "relu"), {IMAGE: torch.zeros(2, 1, 16, 16)}, names)
    assert {name: f.shape for name, f in other.items()} == shapes


def test_both_variants_take_steps_in_processes_of_their_own() -> None:
    small = ["model.input_size=16", "model.width=16", "model.layers=1", "model.pyramids=1", "train.batch=8"]
    result = naive.measure([sys.executable, "-m", "bench.naive", "--set", *small], 2)
    assert result["ratio"] == result["cfpn_ms"] / result["naive_ms"] > 0
