"""README's figure: a network in its units with the gradient cut between them, and the validation curves of a study."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cfpn.graph import IMAGE, Unit, prefix
from cfpn.network import Network
from pipeline import networks
from pipeline import params as parameters
from pipeline.page.architecture import FILLS, LINES
from pipeline.page.figures import FAINT, INK, STYLE, WRONG, colour
from pipeline.runs.study import Outcome

METHOD, PROFILE = "nbp", "fer2013-cpu"  # whose network is drawn
SHOWN = {"deep_supervision": "deep supervision", "nbp": "NBP", "bp": "BP"}  # whose curves are
WIDE, HIGH, GAP = 2.0, 0.95, 0.55  # of a unit's box
HEAD, VOTE = -1.05, -1.85  # heights of the heads and of the vote

Sizes = Mapping[str, tuple[int, ...]]


def banner(params: Path, outcomes: Sequence[Outcome]) -> Figure:
    """The figure: the network of METHOD in PROFILE above, the curves of SHOWN below."""
    units, sizes = network(params)
    return figure(units, sizes, [one for one in outcomes if one.method in SHOWN])


def network(params: Path) -> tuple[Sequence[Unit], Sizes]:
    """The units of METHOD in PROFILE, and the shape (channels, side, side) of every feature."""
    chosen = parameters.load(params, {"profile": PROFILE})
    model, method = chosen.model, chosen.methods[METHOD]
    nodes = networks.build(model, 0)
    made = Network(
        nodes, method.units, input_size=model.input_size, head=method.local_loss.head, pool=method.local_loss.pool
    )
    return made.units, {name: tuple(shape[1:]) for name, shape in made.shapes.items()}


@style.context(STYLE)
def figure(units: Sequence[Unit], sizes: Sizes, outcomes: Sequence[Outcome]) -> Figure:
    """Units above, curves of outcomes below."""
    whole = Figure(figsize=(9.6, 6.0))
    axes = whole.add_axes((0.01, 0.53, 0.98, 0.46))
    right = len(units) * (WIDE + GAP)
    axes.set(xlim=(-1.1, right - GAP + WIDE / 2 - 0.4), ylim=(VOTE - 0.35, 1.0), aspect="auto")
    axes.axis("off")
    draw_units(axes, units, sizes)
    draw_curves(whole.add_axes((0.07, 0.085, 0.92, 0.36)), outcomes)
    return whole


def draw_units(axes: Axes, units: Sequence[Unit], sizes: Sizes) -> None:
    """The image and the units from left to right, a red bar where the gradient stops, heads and the vote below."""
    box(axes, (-0.65, 0), 0.8, HIGH, f"image\n{side(sizes[IMAGE])}", None)
    places = [0.75 + WIDE / 2 + place * (WIDE + GAP) - 0.2 for place in range(len(units))]
    for place, (x, unit) in enumerate(zip(places, units, strict=True)):
        last = place == len(units) - 1
        before = -0.25 if not place else places[place - 1] + WIDE / 2
        line(axes, (before, x - WIDE / 2), (0, 0))
        if place:
            bar = (before + x - WIDE / 2) / 2
            axes.plot([bar, bar], [-0.42, 0.42], color=WRONG, linewidth=4, solid_capstyle="butt", zorder=5)
        line(axes, (x, x), (-HIGH / 2, VOTE))
        box(axes, (x, 0), WIDE, HIGH, contents(unit, sizes), place)
        box(axes, (x, HEAD), WIDE, 0.5, "cross-entropy" if last else "head: its own loss", place)
    box(axes, ((places[0] + places[-1]) / 2, VOTE), places[-1] - places[0] + WIDE, 0.4,
        f"vote: mean log probability of the {len(units)} classifiers", None)  # fmt: skip
    axes.text(places[0] + (WIDE + GAP) / 2, 0.62, "no gradient passes a red bar", color=WRONG, size=9, ha="center")


def line(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    """A line behind the boxes."""
    axes.plot(x, y, color=FAINT, linewidth=0.9, zorder=1)


def contents(unit: Unit, sizes: Sizes) -> str:
    """What stands in a unit's box: its groups of nodes, two in a line, and its maps."""
    groups = dict.fromkeys(prefix(node.name) for node in unit.nodes)
    alike = [list(names) for _, names in groupby(groups, kind)]
    words = [names[0] if len(names) == 1 else f"{names[0]} to {names[-1][len(kind(names[0])) :]}" for names in alike]
    lines = [", ".join(words[start : start + 2]) for start in range(0, len(words), 2)]
    shape = sizes[unit.outputs[0]]
    maps = (
        f"{side(shape)} × {sum(sizes[name][0] for name in unit.outputs)}" if len(shape) > 1 else f"{shape[0]} classes"
    )
    return "\n".join([*lines, maps])


def kind(name: str) -> str:
    """A group's name without its number."""
    return name.rstrip("0123456789")


def side(shape: tuple[int, ...]) -> str:
    """The number of pixels of maps as a square."""
    return f"{shape[1]}²"


def box(axes: Axes, place: tuple[float, float], width: float, height: float, text: str, unit: int | None) -> None:
    """A box with text in the colours of a unit; None is no unit's."""
    fill, edge = ("white", FAINT) if unit is None else (FILLS[unit % len(FILLS)], LINES[unit % len(LINES)])
    corner = (place[0] - width / 2, place[1] - height / 2)
    shape = "round,pad=0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle=shape, facecolor=fill, edgecolor=edge, linewidth=1.2, zorder=3)
    )
    axes.text(*place, text, ha="center", va="center", size=8.5, color=INK, zorder=4, linespacing=1.25)


def draw_curves(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """Validation accuracy over epochs of each method: the mean over seeds, a band from the least to the largest."""
    names = [name for name in SHOWN if any(one.method == name for one in outcomes)]
    for name in names:
        tables = [one.history.set_index("epoch")["val/accuracy"] for one in outcomes if one.method == name]
        epochs = sorted(set[int].intersection(*(set(table.index) for table in tables)))  # which all seeds have
        of_epoch = [[table[epoch] for table in tables] for epoch in epochs]
        mean = [sum(values) / len(values) for values in of_epoch]
        tint = colour(name, list(SHOWN))
        axes.plot(epochs, mean, color=tint, linewidth=1.8, label=f"{SHOWN[name]} ({len(tables)} seeds)")
        axes.fill_between(epochs, [min(v) for v in of_epoch], [max(v) for v in of_epoch], color=tint, alpha=0.15, lw=0)
    axes.set(title="Validation accuracy on FER2013: mean and range over seeds", xlabel="epoch", xmargin=0.01)
    axes.grid(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="lower right")
