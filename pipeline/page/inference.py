"""What an answer costs and what leaving early spares, from docs/study/latency.json of `bench.latency` and card.json."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.metrics import DASH
from pipeline.page.cards import weights
from pipeline.page.figures import STYLE, colour
from pipeline.page.html import method_name
from pipeline.page.tables import Table
from pipeline.runs import records

NETWORKS = {
    "alexnet": "AlexNet",
    "inception_v2": "Inception v2",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "densenet121": "DenseNet-121",
}  # of the literature
DELETED = {"important": "the most important pixels", "random": "random pixels", "patches": "random patches of 8x8"}
LEAST_SPAN = 6.0  # points of accuracy on an axis
Row = Mapping[str, Any]


def rows(folder: Path) -> list[dict[str, Any]]:
    """All that was measured, in its order."""
    found: list[dict[str, Any]] = records.read_json(folder / "latency.json")["rows"]
    return found


def costs(folder: Path) -> Table:
    """Size, multiply-adds and time of every network, by the full vote and with the exit that is stored."""
    header = ["network", "parameters", "MB", "MB as ONNX", "million multiply-adds", "PyTorch, 1 face, ms"]
    header += ["128 faces, ms", "ONNX, 1 face, ms", "128 faces, ms"]
    return header, [tuple(cost(row)) for row in rows(folder) if row["exit"] is None or row["stored"]]


def cost(row: Row) -> Iterator[str]:
    """The cells of a network."""
    name = NETWORKS.get(row["network"]) or f"CFPN by {method_name(row['network'])}"
    yield name if row["exit"] is None else f"{name}, leaving at {row['exit']:.2f}"
    yield f"{row['parameters']:,}"
    yield from (f"{row['bytes'][kind] / 1e6:.2f}" for kind in ("safetensors", "onnx"))
    yield f"{row['multiply_adds'] / 1e6:.2f}"
    for engine in ("torch", "onnx"):
        yield from (milliseconds(row, engine, batch) for batch in ("1", "128"))


def milliseconds(row: Row, engine: str, batch: str) -> str:
    """The mean time of an answer; a dash where there is none."""
    found = row["ms"].get(engine, {}).get(batch)
    if not found:
        return DASH
    return f"{found['mean']:,.0f}" if found["mean"] >= 100 else f"{found['mean']:.3g}"


def leaving(folder: Path) -> Table:
    """Accuracy, multiply-adds and time for every probability at which faces leave."""
    whole = "of the full vote's"
    header = ["weights", "exit", "PublicTest, %", "PrivateTest, %", "million multiply-adds a face", whole]
    header += ["ms, one face at a time", whole, "ms, 128 at once", whole]
    found = [row for row in rows(folder) if "scores" in row]
    full = {row["network"]: row for row in found if row["exit"] is None}
    return header, [tuple(left(row, full[row["network"]])) for row in found]


def left(row: Row, full: Row) -> Iterator[str]:
    """The cells of weights with an exit; full: their row without one."""
    yield f"`{row['network']}`"
    yield "none" if row["exit"] is None else f"{row['exit']:.2f}" + (", stored" if row["stored"] else "")
    yield from (f"{100 * share(row['scores'][split]):.1f}" for split in ("val", "test"))
    yield f"{row['multiply_adds'] / 1e6:.2f}"
    yield f"{row['multiply_adds'] / full['multiply_adds']:.2f}"
    for batch in ("1", "128"):
        yield milliseconds(row, "torch", batch)
        yield f"{row['ms']['torch'][batch]['mean'] / full['ms']['torch'][batch]['mean']:.2f}"


def share(score: Mapping[str, int]) -> float:
    """Accuracy."""
    return score["correct"] / score["faces"]


def int8(folder: Path) -> Table:
    """What 8 bits cost and spare."""
    header = ["weights", "file", "MB", "PublicTest, %", "PrivateTest, %", "1 face, ms", "128 faces, ms"]
    found = [row for row in rows(folder) if "int8_scores" in row]
    return header, [tuple(in_bits(row, bits)) for row in found for bits in (32, 8)]


def in_bits(row: Row, bits: int) -> Iterator[str]:
    """The cells of weights as ONNX with so many bits."""
    size, scores = (row["bytes"]["onnx"], "scores") if bits == 32 else (row["int8_bytes"], "int8_scores")
    yield from (f"`{row['network']}`", f"{bits} bits", f"{size / 1e6:.2f}")
    yield from (f"{100 * share(row[scores][split]):.1f}" for split in ("val", "test"))
    yield from (milliseconds(row, "onnx" if bits == 32 else "int8", batch) for batch in ("1", "128"))


def deletion(folder: Path) -> Table:
    """How much of the answer's probability goes with a fifth of the pixels."""
    header = ("weights", "faces", "mean probability of the answer", "deleted", "lowered by", "standard error")
    return header, [tuple(deleted(name, card["deletion"], what)) for name, card in weights(folder) for what in DELETED]


def deleted(name: str, found: Mapping[str, Any], what: str) -> Iterator[str]:
    """The cells of weights and what is deleted."""
    yield from (f"`{name}`", f"{found['faces']}", f"{found['probability']:.3f}", DELETED[what])
    yield from (f"{found['lost'][what][key]:.3f}" for key in ("mean", "standard_error"))


@style.context(STYLE)
def anytime(found: Sequence[Row]) -> Figure:
    """Accuracy on PrivateTest over multiply-adds and over measured time, a line of exits per method.

    A square is the full vote, a ring marks the exit that is stored. found: the rows of latency.json.
    """
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    own = [row for row in found if "scores" in row]
    methods = list(dict.fromkeys(row["network"] for row in own))
    for method in methods:
        points = sorted((row for row in own if row["network"] == method), key=lambda row: row["exit"] or 2)
        accuracies = [100 * share(row["scores"]["test"]) for row in points]
        over = [row["multiply_adds"] / 1e6 for row in points], [row["ms"]["torch"]["1"]["mean"] for row in points]
        for axes, values in zip(panels, over, strict=True):
            draw(axes, points, values, accuracies, colour(method, methods), method_name(method))
    panels[0].set(xlabel="million multiply-adds a face", ylabel="accuracy on PrivateTest, %", title="Arithmetic")
    panels[1].set(xlabel="ms a face, one at a time, PyTorch on one core", title="Measured time")
    panels[0].legend(loc="upper left", fontsize=8)
    for axes in panels:
        axes.grid(True, axis="both")
        axes.set_xlim(left=0)
    return figure


@style.context(STYLE)
def early(points: Mapping[str, NDArray[np.float64]], split: str) -> Figure:
    """Accuracy in % over million multiply-adds, rows (2,) of both per method: its exits, and last the whole network.

    split: what the axis calls the faces that were classified.
    """
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes, methods = figure.subplots(), list(points)
    for method, rows in points.items():
        tint, (over, accuracies) = colour(method, methods), rows.T
        axes.plot(over, accuracies, "-o", color=tint, markersize=4, linewidth=1.5, label=method_name(method))
        axes.plot(over[-1:], accuracies[-1:], "s", color=tint, markersize=7)
    low, high = axes.get_ylim()
    spare = max(0, LEAST_SPAN - (high - low)) / 2  # so that chance does not look like a difference
    axes.set(xlabel="million multiply-adds a face", ylabel=f"accuracy on {split}, %", ylim=(low - spare, high + spare))
    axes.set_xlim(left=0)
    axes.grid(True, axis="both")
    axes.legend(loc="lower right", fontsize=9)
    return figure


def draw(axes: Axes, points: Sequence[Row], x: Sequence[float], y: Sequence[float], tint: str, label: str) -> None:
    """One method in one panel."""
    axes.plot(x, y, "-o", color=tint, markersize=4, linewidth=1.5, label=label)
    axes.plot(x[-1:], y[-1:], "s", color=tint, markersize=7)
    for row, here, height in zip(points, x, y, strict=True):
        if row["exit"] is not None and row["stored"]:
            axes.plot([here], [height], "o", markersize=11, markerfacecolor="none", markeredgecolor=tint)


TABLES: dict[str, Callable[[Path], Table]] = {"cost": costs, "leaving": leaving, "int8": int8, "deletion": deletion}
