"""A network is an ordered list of named nodes; a partition into units says how far a gradient may travel."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

IMAGE = "image"

Words = Literal["network", "block", "layer", "balanced:2", "balanced:3", "balanced:4", "balanced:6", "balanced:8"]
Cuts = Words | list[str]


class Node(NamedTuple):
    """A module with the names of the earlier nodes (or "image") whose features it takes, in order."""

    name: str
    module: nn.Module
    inputs: tuple[str, ...]


class Unit(NamedTuple):
    """Consecutive nodes that are trained by one loss.

    inputs: the earlier features that its nodes take. outputs: the features that later units take (the last unit: its
    last node's). dropped: features that no later unit takes, so that they can be freed once this unit has run.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dropped: tuple[str, ...]


def checked(nodes: Sequence[Node]) -> Sequence[Node]:
    """The nodes; raises ValueError where a name is taken or no name of a module, or an input is no earlier node."""
    known, blocks = {IMAGE}, {prefix(name) for name, _, _ in nodes if "/" in name}
    for name, _, inputs in nodes:
        if name in known or not name or "." in name:
            raise ValueError(f"node {name!r}: expected a name of its own without a dot")
        if name in blocks:
            raise ValueError(f"node {name!r}: other nodes have this name before a slash; expected one of its own")
        if hasattr(nn.ModuleDict, name) or hasattr(nn.ModuleDict, prefix(name)):
            raise ValueError(f"node {name!r}: PyTorch has a method of this name; expected another")
        if strange := [each for each in inputs if each not in known]:
            raise ValueError(f"node {name!r}: input {strange[0]!r} is none of the nodes before it")
        known.add(name)
    return nodes


def check_outputs(units: Sequence[Unit], shapes: Mapping[str, Sequence[int]], classes: int) -> None:
    """Raise ValueError where a hidden unit hands on other than square maps (n, c, h, w), or the network no logits.

    shapes: of the features of all nodes for one image, by name.
    """
    for name in [name for unit in units[:-1] for name in unit.outputs]:
        if len(shapes[name]) != 4 or shapes[name][2] != shapes[name][3]:
            square = "square " if len(shapes[name]) == 4 else ""
            found = _shown(shapes[name])
            raise ValueError(f"node {name!r}: expected {square}maps (n, c, h, w) of a hidden unit, found {found}")
    last = units[-1].outputs[0]
    if tuple(shapes[last][1:]) != (classes,):
        raise ValueError(f"node {last!r}: expected logits (n, {classes}), found {_shown(shapes[last])}")


def _shown(shape: Sequence[int]) -> str:
    return f"({', '.join(['n', *map(str, shape[1:])])})"


def units(nodes: Sequence[Node], cuts: Cuts) -> list[Unit]:
    """Partition nodes into units.

    cuts: "network" one unit, which is back-propagation; "block" one unit per name prefix before "/"; "layer" one unit
    per node; or a list of node names or prefixes after whose last node the gradient stops. "balanced:K" becomes such a
    list by `partition.resolved`, which knows the shapes.
    Raises ValueError for a cut that names no node, or the last one, and for another word.
    """
    groups = _groups(nodes, cuts)
    result = []
    for i, group in enumerate(groups):
        later = {name for g in groups[i + 1 :] for node in g for name in node.inputs}
        here = [node.name for node in group]
        earlier = [IMAGE] + [node.name for g in groups[:i] for node in g]
        outputs = tuple(name for name in here if name in later) or (here[-1],)
        own = {name for node in group for name in node.inputs}
        used = own | later
        inputs = tuple(name for name in earlier if name in own)
        dropped = tuple(name for name in earlier if name in used and name not in later)
        result.append(Unit(_name(here, nodes, cuts), tuple(group), inputs, outputs, dropped))
    return result


def walk(
    units: Iterable[Unit], features: dict[str, Tensor]
) -> Generator[tuple[Unit, dict[str, Tensor]], dict[str, Tensor], None]:
    """Yield every unit with its inputs, in order; the caller sends the unit's outputs back before the next one.

    A feature is let go after its last use. The loop reads::

        walking = walk(units, {IMAGE: images})
        for unit, inputs in walking:
            walking.send(outputs of the unit)
    """
    live = dict(features)
    for unit in units:
        live |= yield unit, {name: live[name] for name in unit.inputs}
        for name in unit.dropped:
            live.pop(name, None)
        yield unit, {}  # what `send` returns; the caller's loop goes on from here


def _groups(nodes: Sequence[Node], cuts: Cuts) -> list[list[Node]]:
    if cuts == "network":
        return [list(nodes)]
    if cuts == "layer":
        return [[node] for node in nodes]
    if cuts == "block":
        ends = list({prefix(node.name): node.name for node in nodes}.values())
    elif isinstance(cuts, str):
        raise ValueError(f"units: expected network, block, layer, balanced:K or a list; {_no_cut(nodes, cuts)}")
    else:
        ends = [_last(nodes, cut) for cut in cuts]
    groups: list[list[Node]] = [[]]
    for node in nodes:
        groups[-1].append(node)
        if node.name in ends and node is not nodes[-1]:
            groups.append([])
    return groups


def _last(nodes: Sequence[Node], cut: str) -> str:
    names = [node.name for node in nodes if cut in (node.name, prefix(node.name))]
    if not names or names[-1] == nodes[-1].name:
        raise ValueError(f"units: {_no_cut(nodes, cut)}")
    return names[-1]


def _no_cut(nodes: Sequence[Node], cut: str) -> str:
    known = ", ".join(dict.fromkeys(prefix(node.name) for node in nodes[:-1]))
    return f"{cut!r} is no node after which a gradient can stop; the network has {known}"


def _name(here: list[str], nodes: Sequence[Node], cuts: Cuts) -> str:
    if cuts in ("network", "layer"):
        return "network" if cuts == "network" else here[0]
    # A cut inside a block leaves two units in it: only a whole block gives a unit its name.
    torn = {prefix(node.name) for node in nodes if node.name not in here}
    ends = [name if prefix(name) in torn else prefix(name) for name in (here[0], here[-1])]
    return "-".join(dict.fromkeys(ends))


def prefix(name: str) -> str:
    """The part of a node's name before the slash: "block1" of "block1/3"."""
    return name.split("/")[0]


def run(
    nodes: Iterable[Node], features: dict[str, Tensor], keep: Iterable[str], recompute: bool = False
) -> dict[str, Tensor]:
    """Run nodes in order on the given features and return the features named in `keep`, in that order.

    A feature is let go after its last consumer, so that what autograd does not need is freed at once. recompute: of a
    node only the inputs are kept for the backward pass, which runs it again (Chen et al., arXiv:1604.06174).
    """
    nodes, keep = list(nodes), tuple(keep)
    last = {name: i for i, node in enumerate(nodes) for name in node.inputs}
    live = dict(features)
    for i, node in enumerate(nodes):
        inputs = [live[name] for name in node.inputs]
        live[node.name] = _recomputed(node.module, inputs) if recompute else node.module(*inputs)
        for name in node.inputs:
            if last[name] == i and name not in keep:
                live.pop(name, None)
    return {name: live[name] for name in keep}


def _recomputed(module: nn.Module, inputs: list[Tensor]) -> Tensor:
    feature: Tensor = checkpoint(
        module, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_untouched(module))
    )
    return feature


@contextmanager
def _statistics_untouched(module: nn.Module) -> Iterator[None]:
    """A second pass over the same batch must not count twice in the running statistics."""
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    try:
        yield
    finally:
        for name, value in module.named_buffers():
            value.copy_(buffers[name])
