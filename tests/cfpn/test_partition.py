"""Units and segments of equal cost."""

import random
from itertools import accumulate, combinations, pairwise

import pytest
import torch

from cfpn.heads import Head
from cfpn.network import CFPN, Network, build
from cfpn.partition import balanced, node_costs, resolved

SMALL = CFPN(input_size=32, width=16, layers=3, pyramids=1)


def runs(costs: list[int], starts: list[int]) -> list[int]:
    return [sum(costs[a:b]) for a, b in pairwise([0, *starts, len(costs)])]


def test_the_most_expensive_run_is_as_cheap_as_any_cut_allows() -> None:
    draw = random.Random(0)
    for _ in range(200):
        costs = [draw.randint(1, 9) for _ in range(draw.randint(1, 8))]
        parts = draw.randint(1, len(costs))
        found = runs(costs, balanced(costs, parts))
        others = (runs(costs, list(starts)) for starts in combinations(range(1, len(costs)), parts - 1))
        assert len(found) == parts
        assert min(found) > 0
        assert max(found) == min(map(max, others))


def test_of_equally_good_cuts_the_shortest_runs_stand_at_the_beginning() -> None:
    assert balanced([1, 1, 1], 2) == [1]
    draw = random.Random(1)
    for _ in range(200):
        costs = [draw.randint(1, 3) for _ in range(draw.randint(2, 7))]
        parts = draw.randint(2, len(costs))
        cuts = [list(starts) for starts in combinations(range(1, len(costs)), parts - 1)]
        best = min(max(runs(costs, cut)) for cut in cuts)
        assert balanced(costs, parts) == min(cut for cut in cuts if max(runs(costs, cut)) == best)


@pytest.mark.parametrize("parts", [0, 4])
def test_more_parts_than_items_are_refused(parts: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 to 3 parts, found {parts}"):
        balanced([1, 2, 3], parts)


def test_a_nodes_cost_is_what_it_reads_and_writes() -> None:
    nodes = build(SMALL, 0)
    network = Network(nodes, "network", input_size=32, head=Head())
    costs = dict(zip((node.name for node in nodes), node_costs(nodes, network.shapes), strict=True))
    assert costs["block1/0"] == 32 * 32 + 10 * 16 * 16
    assert costs["block1/2"] == (10 + 2 + 2) * 16 * 16
    assert costs["block2/0"] == 16 * 16 * 16 + 10 * 8 * 8


@pytest.mark.parametrize("parts", [2, 4])
def test_balanced_units_are_cut_from_shapes_and_stand_resolved_in_the_settings(parts: int) -> None:
    nodes = build(SMALL, 0)
    network = Network(nodes, f"balanced:{parts}", input_size=32, head=Head())
    assert len(network.units) == parts
    assert network.settings["cuts"] == resolved(f"balanced:{parts}", nodes, network.shapes)
    costs = node_costs(nodes, network.shapes)
    found = runs(costs, list(accumulate(len(unit.nodes) for unit in network.units))[:-1])
    assert max(found) == min(max(runs(costs, [*at])) for at in combinations(range(1, len(costs)), parts - 1))
    again = Network(build(SMALL, 0), network.settings["cuts"], input_size=32, head=Head())
    assert [unit.name for unit in again.units] == [unit.name for unit in network.units]


def test_more_balanced_units_than_nodes_are_refused_by_name() -> None:
    nodes = build(SMALL, 0)[:2]
    shapes = {"image": torch.Size((1, 1, 8, 8))} | {node.name: torch.Size((1, 1, 8, 8)) for node in nodes}
    with pytest.raises(ValueError, match="units: 'balanced:3' asks for more units than the 2 nodes of the network"):
        resolved("balanced:3", nodes, shapes)


def test_other_cuts_stay_as_they_are() -> None:
    assert resolved("block", [], {}) == "block"
    assert resolved(["block1"], [], {"image": torch.Size((1, 1, 8, 8))}) == ["block1"]
