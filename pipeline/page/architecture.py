"""Paper Figs 1 to 3 from the table of nodes: a dense block, a separable convolution, the network in its units."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import nn

from cfpn.graph import IMAGE, Node, Unit, prefix, run, units
from cfpn.network import LEVELS
from cfpn.partition import resolved
from pipeline import networks
from pipeline.page import figures
from pipeline.page.figures import FAINT, INK, METHOD_COLOURS, OTHER_COLOURS, STYLE, WRONG
from pipeline.page.html import Picture, Section, listed, method_name
from pipeline.page.inputs import Inputs, method_of
from pipeline.runs.records import Run

Place = tuple[float, float]

FILLS = ("#cfe3f5", "#fbdcc4", "#cdebd8", "#e6d6f2", "#f6e6b4", "#f4cfdd", "#d5dde3", "#e0e6bf")  # of units, in turn
LINES = (*METHOD_COLOURS.values(), *OTHER_COLOURS)


def network_section(inputs: Inputs) -> Section | None:
    """Paper Figs 1 to 3; None where the network is no CFPN."""
    one = most_units(inputs.runs)
    model = one.about.parameters.get("model", {})
    if model.get("name") != "cfpn":
        return None
    nodes = networks.described(dict(model))
    sizes = shapes(nodes, one, inputs)
    cuts = method_of(one).get("units", "network")
    parts = units(nodes, resolved(cuts, nodes, {name: torch.Size(size) for name, size in sizes.items()}))
    middle = [node for node in nodes if prefix(node.name) == "block2"]
    return Section(
        "Network",
        [
            whole_picture(one, parts, sizes),
            dense_picture(middle, sizes),
            layer_picture(middle[-1].name, middle[-1].module),
        ],
    )


def most_units(runs: Sequence[Run]) -> Run:
    """The first run whose method cuts gradients, or else has units, or else the first."""
    several = [one for one in runs if method_of(one).get("units", "network") != "network"]
    cut = [one for one in several if not passes(one)]
    return (cut or several or list(runs))[0]


def passes(one: Run) -> bool:
    """Whether gradients pass between the units of a run's method."""
    return bool(method_of(one).get("gradients") == "pass")


def parameters(model: Mapping[str, Any]) -> int | None:
    """Parameters of a network without heads; None where run.json does not tell the network."""
    if not model:
        return None
    return sum(weight.numel() for node in networks.described(dict(model)) for weight in node.module.parameters())


def shapes(nodes: Sequence[Node], one: Run, inputs: Inputs) -> dict[str, tuple[int, ...]]:
    """Shape (channels, side, side) of every node's output, of the image too."""
    side = one.about.parameters["model"]["input_size"]
    image = torch.zeros(1, inputs.about.channels, side, side)
    names = [node.name for node in nodes]
    for node in nodes:
        node.module.eval()
    with torch.no_grad():
        found = run(nodes, {IMAGE: image}, names)
    return {IMAGE: tuple(image.shape[1:])} | {name: tuple(found[name].shape[1:]) for name in names}


def whole_picture(one: Run, parts: Sequence[Unit], sizes: Mapping[str, tuple[int, ...]]) -> Picture:
    """Paper Fig 3 with the units in colour."""
    names = [unit.name for unit in parts]
    shown = listed(names) if len(names) <= 6 else f"{', '.join(names[:3])} and so on to {names[-1]}"
    cut = "Back-propagation trains it as one unit."
    if len(parts) > 1:
        rule = "Each has a loss, and gradients pass between them." if passes(one) else "No gradient passes a red bar."
        cut = f"{method_name(one.method)} cuts it into {len(parts)} units: {shown}. {rule}"
    caption = f"The network (paper Fig 3). A box names its feature maps: side² × number. {cut}"
    return figures.picture(
        "network.svg", network(parts, sizes, not passes(one)), caption, f"The network from image to classes. {cut}"
    )


def dense_picture(nodes: Sequence[Node], sizes: Mapping[str, tuple[int, ...]]) -> Picture:
    """Paper Fig 1."""
    total = sum(sizes[node.name][0] for node in nodes)
    fact = f"Each of {len(nodes) - 1} layers takes all maps before it; together they give {total} maps."
    caption = f"The dense block block2 (paper Fig 1). {fact} Every arrow carries one learnt weight per map."
    return figures.picture("dense-block.svg", dense_block(nodes, sizes), caption, f"A dense block. {fact}", wide=False)


def layer_picture(name: str, layer: nn.Module) -> Picture:
    """Paper Fig 2."""
    boxes = steps(layer)
    fact = f"Its steps are {listed([text.replace(chr(10), ' ') for text in boxes])}."
    caption = f"The separable convolution of {name} (paper Fig 2). {fact}"
    return figures.picture("separable-convolution.svg", chain(boxes), caption, f"A layer. {fact}", wide=False)


def steps(layer: Any) -> list[str]:  # noqa: ANN401 (a SeparableConvolution)
    """What a separable convolution does, read from its weights."""
    maps, (out, _, side, _) = len(layer.connection), layer.pointwise.weight.shape
    kernel = "×".join(map(str, layer.depthwise.shape[2:]))
    return [
        f"{maps} maps\njoined",
        f"W: {maps}\nweights",
        f"depthwise\n{kernel}",
        f"pointwise\n{side}×{side}",
        "batch\nnorm",
        f"{type(layer.act).__name__}\n{out} maps",
    ]


@style.context(STYLE)
def network(parts: Sequence[Unit], sizes: Mapping[str, tuple[int, ...]], cuts: bool = True) -> Figure:
    """The nodes as boxes in the colours of their units, blocks as one box each; a red bar where a gradient is cut.

    cuts: whether gradients are cut between units at all.
    """
    nodes = [node for unit in parts for node in unit.nodes]
    unit_of = {box(node.name): i for i, unit in enumerate(parts) for node in unit.nodes}
    places = {IMAGE: (0.0, 0.0)} | layout(nodes)
    right, low = max(x for x, _ in places.values()), min(y for _, y in places.values())
    figure, axes = canvas(right + 1, 1.9 - low, 0.78, below=0.5 - low)
    for start, end in dict.fromkeys((box(name), box(node.name)) for node in nodes for name in node.inputs):
        if start != end:
            cut = cuts and start != IMAGE and unit_of[start] != unit_of[end]
            connect(axes, route(start, end, places), cut)
    for name in dict.fromkeys(prefix(node.name) for node in nodes if "pyramid" in node.name):
        x, y = places[f"{name}/down{LEVELS}"]
        axes.text(x + 0.5, y - 0.55, name, ha="center", size=7.5, weight="bold")
    for name, place in places.items():
        draw_box(axes, place, f"{title(name)}\n{size(name, nodes, sizes)}", unit_of.get(name))
    return figure


def route(start: str, end: str, places: Mapping[str, Place]) -> list[Place]:
    """The corners of a line between boxes; a long one goes around the boxes between them."""
    (x, y), (to_x, to_y) = places[start], places[end]
    if prefix(start) == "fusion1":  # above all
        return [(x, y), (x + 0.5, y), (x + 0.5, 1), (to_x, 1), (to_x, to_y)]
    if end == "fusion3":  # below the pyramids
        return [(x, y), (x + 0.5, y), (x + 0.5, to_y), (to_x, to_y)]
    if start.endswith("/up1") and end.endswith("/up1"):  # over the top of the next pyramid
        return [(x, y), (x, 0.6), (to_x, 0.6), (to_x, to_y)]
    return [(x, y), (to_x, to_y)]


def box(name: str) -> str:
    """The box that a node is drawn in: a dense block is one."""
    return prefix(name) if prefix(name).startswith("block") else name


def title(name: str) -> str:
    """What stands in a box; the place tells the pyramid."""
    return name.rpartition("/")[2]


def layout(nodes: Sequence[Node]) -> dict[str, Place]:
    """Columns from left to right; in a pyramid level 1 on top, going down on the left and up on the right.

    The parts of fusion1 stand above each other, and what follows the pyramids stands below them.
    """
    places: dict[str, Place] = {}
    column = 0.0
    for group in dict.fromkeys(box(node.name) if "block" in node.name else prefix(node.name) for node in nodes):
        column += 1
        members = [node.name for node in nodes if prefix(node.name) == group]
        if group.startswith("pyramid"):
            places |= {name: (column + ("/up" in name), 1.0 - level(name)) for name in members}
            column += 1
        elif group.startswith("block"):
            places[group] = (column, 0.0)
        else:
            top = -LEVELS - 0.1 if group in ("fusion3", "classifier") else 0.0
            places |= {name: (column, top + i) for i, name in enumerate(members)}
    return places


def level(name: str) -> int:
    """The level of a pyramid's node; what feeds a pyramid is level 1."""
    return int(name[-1]) if "/up" in name or "/down" in name else 1


def size(name: str, nodes: Sequence[Node], sizes: Mapping[str, tuple[int, ...]]) -> str:
    """Side² × maps of a box."""
    members = [node.name for node in nodes if box(node.name) == name] or [name]
    maps, side = sum(sizes[member][0] for member in members), sizes[members[-1]][1:]
    return f"{side[0]}² × {maps}" if side else str(maps)


@style.context(STYLE)
def dense_block(nodes: Sequence[Node], sizes: Mapping[str, tuple[int, ...]]) -> Figure:
    """The nodes of a dense block in a row, an arc from each to every one that takes its maps."""
    figure, axes = canvas(len(nodes), 3.0, 0.78, below=0.5)
    own = [node.name for node in nodes]
    for i, node in enumerate(nodes):
        for name in node.inputs:
            if name in own:
                arc(axes, own.index(name), i)
        draw_box(axes, (i, 0), f"o{i}\n{sizes[node.name][0]} maps", i and 1)
    return figure


@style.context(STYLE)
def chain(texts: Sequence[str]) -> Figure:
    """Boxes in a row, each leading to the next."""
    figure, axes = canvas(len(texts), 1.1, 0.78, below=0.55)
    for i, text in enumerate(texts):
        if i:
            connect(axes, [(i - 1, 0), (i, 0)], cut=False)
        draw_box(axes, (i, 0), text, 0 if i in (0, len(texts) - 1) else 1)
    return figure


def canvas(columns: float, height: float, inches: float, below: float) -> tuple[Figure, Axes]:
    """Axes without frame for boxes at whole numbers, which reach `below` under 0."""
    figure = Figure(figsize=(columns * inches, height * 0.62))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(-below, height - below))
    axes.axis("off")
    return figure, axes


def draw_box(axes: Axes, place: Place, text: str, unit: int | None) -> None:
    """A box with text in the colours of a unit; None is no unit's."""
    x, y = place
    fill, line = ("white", FAINT) if unit is None else (FILLS[unit % len(FILLS)], LINES[unit % len(LINES)])
    frame = FancyBboxPatch((x - 0.41, y - 0.33), 0.82, 0.66, boxstyle="round,pad=0,rounding_size=0.06", zorder=3)
    frame.set(facecolor=fill, edgecolor=line, linewidth=1)
    axes.add_patch(frame)
    axes.text(x, y, text, ha="center", va="center", size=7.5, color=INK, zorder=4, linespacing=1.25)


def connect(axes: Axes, corners: Sequence[Place], cut: bool) -> None:
    """A line through corners, with a red bar across its beginning where the gradient is cut."""
    axes.plot(*zip(*corners, strict=True), color=FAINT, linewidth=0.9, zorder=1)
    if cut:
        middle, y = corners[0][0] + 0.5, corners[0][1]
        axes.plot([middle, middle], [y - 0.28, y + 0.28], color=WRONG, linewidth=3, zorder=5, solid_capstyle="butt")


def arc(axes: Axes, start: int, end: int) -> None:
    """An arrow over the boxes between two places of a row."""
    bend = f"arc3,rad=-{0.45 if end - start > 1 else 0}"
    arrow = FancyArrowPatch((start, 0.34), (end, 0.34), arrowstyle="-|>", mutation_scale=7, connectionstyle=bend)
    arrow.set(color=FAINT, linewidth=0.9, zorder=1)
    axes.add_patch(arrow)
