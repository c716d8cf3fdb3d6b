"""Units and segments of equal cost: costs are counted from shapes, so that every machine cuts alike."""

import re
from collections.abc import Sequence
from itertools import accumulate

import torch

from cfpn.graph import Cuts, Node

Shapes = dict[str, torch.Size]


def node_costs(nodes: Sequence[Node], shapes: Shapes) -> list[int]:
    """Numbers that a pass over each node reads and writes for one image.

    shapes: of all features and the image, by name.

    A step is bound by memory traffic, so that this, and not multiply-adds, says what a node costs.
    """
    return [sum(shapes[name].numel() for name in (*node.inputs, node.name)) for node in nodes]


def balanced(costs: Sequence[int], parts: int) -> list[int]:
    """Where to cut a sequence into `parts` runs so that the most expensive is as cheap as can be: the first indices.

    Of several such cuts the one with the shortest runs at the beginning. Raises ValueError for more parts than items.
    """
    if not 1 <= parts <= len(costs):
        raise ValueError(f"expected 1 to {len(costs)} parts, found {parts}")
    limit = _smallest_limit(costs, parts)
    ends, end = [], len(costs)
    for part in range(parts, 1, -1):  # from the back: what fits goes to the later run
        start, total = end, 0
        while start > part - 1 and total + costs[start - 1] <= limit:
            start, total = start - 1, total + costs[start - 1]
        ends.append(start)
        end = start
    return ends[::-1]


def _smallest_limit(costs: Sequence[int], parts: int) -> int:
    """The least maximum of the sums of `parts` consecutive runs, by dynamic programming."""
    sums = [0, *accumulate(costs)]
    best = sums[1:]
    for part in range(2, parts + 1):
        best = [
            min(max(best[cut - 1], sums[end] - sums[cut]) for cut in range(part - 1, end))
            if end >= part
            else best[end - 1]
            for end in range(1, len(costs) + 1)
        ]
    return best[-1]


def resolved(cuts: Cuts, nodes: Sequence[Node], shapes: Shapes) -> Cuts:
    """Cuts without "balanced:K", in whose place stand the nodes after which K units of near equal cost end.

    Raises ValueError for more units than nodes.
    """
    if not isinstance(cuts, str) or not re.fullmatch(r"balanced:[0-9]+", cuts):
        return cuts
    parts = int(cuts.removeprefix("balanced:"))
    if parts > len(nodes):
        raise ValueError(f"units: {cuts!r} asks for more units than the {len(nodes)} nodes of the network")
    starts = balanced(node_costs(nodes, shapes), parts)
    return [nodes[start - 1].name for start in starts]
