"""The report's pictures as pure functions of arrays and tables; the same input gives the same bytes."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from cfpn.data import EXPRESSIONS, SIDE

Pixels = NDArray[np.uint8]

METHOD_COLOURS = {"nbp": "#0b6fb8", "bp": "#d4600c"}
OTHER_COLOURS = ("#2a8a57", "#8a4fb5", "#b8860b", "#c2416f", "#4c6272", "#6b7a1e")  # as dark as those of METHOD_COLOURS
UNIT_COLOURS = "viridis"
INK, FAINT, RIGHT, WRONG = "#22272e", "#8b949e", "#1f7a45", "#c0341d"
IN_A_PANEL = 8  # lines that a legend inside a panel may name
BINS = 15  # of confidence, as in the calibration error
STYLE = (
    "default",  # not what a user's matplotlibrc says
    {
        "font.family": "DejaVu Sans",  # comes with matplotlib, so that a picture is the same everywhere
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "axes.grid.axis": "y",
        "grid.color": "#e4e7eb",
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "svg.fonttype": "path",
        "svg.hashsalt": "cfpn",
    },
)


class Curve(NamedTuple):
    """What one method did: its history per seed, columns as in history.csv."""

    method: str
    histories: Sequence[pd.DataFrame]


def method_name(method: str) -> str:
    """A method as the page writes it."""
    return {"nbp": "NBP", "bp": "BP"}.get(method, method)


def colour(method: str, methods: Sequence[str]) -> str:
    """NBP and BP have colours of their own, others take theirs in order."""
    others = [name for name in methods if name not in METHOD_COLOURS]
    return METHOD_COLOURS.get(method) or OTHER_COLOURS[others.index(method) % len(OTHER_COLOURS)]


def dashes(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Of validation and training; where colours come again, they are dotted."""
    others = [name for name in methods if name not in METHOD_COLOURS]
    again = method not in METHOD_COLOURS and others.index(method) >= len(OTHER_COLOURS)
    return (":", "-.") if again else ("-", "--")


def svg(figure: Figure) -> bytes:
    """The figure as SVG without date; text is drawn as paths."""
    return _encode(figure, format="svg", metadata={"Date": None, "Creator": None})


def png(figure: Figure) -> bytes:
    """The figure as PNG; at 168 dots per inch a pixel of a face grid is exactly 3 wide."""
    return _encode(figure, format="png", dpi=168, metadata={"Software": None})


def _encode(figure: Figure, **options: object) -> bytes:
    buffer = io.BytesIO()
    with style.context(STYLE):
        figure.savefig(buffer, **options)
    return buffer.getvalue()


@style.context(STYLE)
def face_grid(
    faces: Pixels, captions: Sequence[str], columns: int, colours: Sequence[str] = (), rows: Sequence[str] = ()
) -> Figure:
    """Faces (n, 48, 48) row by row with a caption below each; a blank caption leaves the cell empty.

    colours: one per caption. rows: a title above each row of `columns` faces.
    """
    count = -(-len(faces) // columns)
    lines = max(caption.count("\n") + 1 for caption in captions)
    above, below = (17 if rows else 2), 3 + 8 * lines  # pixels of a face
    height, width = SIDE + above + below, SIDE + 5
    figure = Figure(figsize=(columns * width / 56, count * height / 56))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, columns * width), ylim=(count * height, 0))
    axes.axis("off")
    for i, (face, caption) in enumerate(zip(faces, captions, strict=True)):
        x, y = (i % columns) * width + 2.5, (i // columns) * height + above
        if caption:
            axes.imshow(face, cmap="gray", vmin=0, vmax=255, extent=(x, x + SIDE, y + SIDE, y), interpolation="nearest")
        axes.text(
            x + SIDE / 2, y + SIDE + 2, caption, ha="center", va="top", size=7.5, color=(colours or [INK] * (i + 1))[i]
        )
    for i, title in enumerate(rows):
        axes.text(2.5, i * height + above - 4, title, va="bottom", weight="bold")
    axes.set(xlim=(0, columns * width), ylim=(count * height, 0), aspect="auto")
    return figure


@style.context(STYLE)
def histograms(counts: Mapping[str, Sequence[int]]) -> Figure:
    """Faces per expression, one panel per title; counts of shape (7,)."""
    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    for axes, (title, values) in zip(np.atleast_1d(figure.subplots(1, len(counts))), counts.items(), strict=True):
        total = max(1, sum(values))
        bars = axes.barh(EXPRESSIONS, values, color="#5b7f9e", height=0.72)
        axes.bar_label(bars, [f"{value:,}  {value / total:.1%}" for value in values], padding=3, size=7.5)
        axes.set(title=f"{title} · {sum(values):,}", xlim=(0, max(1, *values) * 1.45))
        axes.invert_yaxis()
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.tick_params(left=False, bottom=False, labelbottom=False)
    return figure


@style.context(STYLE)
def learning_curves(
    curves: Sequence[Curve], majority: float | None, splits: Sequence[str] = ("val", "train")
) -> Figure:
    """Accuracy and loss over epochs; mean over seeds with a band from the least to the largest."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    methods = [curve.method for curve in curves]
    panels = figure.subplots(1, 2)
    for axes, metric in zip(panels, ("accuracy", "loss"), strict=True):
        for curve in curves:
            for split in splits:
                label = f"{method_name(curve.method)}, {'validation' if split == 'val' else 'training'}"
                dash = dashes(curve.method, methods)[split == "train"]
                _band(axes, curve.histories, f"{split}/{metric}", colour(curve.method, methods), dash, label)
        axes.set(title=metric.capitalize(), xlabel="epoch")
        axes.grid(True)
        axes.xaxis.get_major_locator().set_params(integer=True)
    if majority is not None:
        panels[0].axhline(majority, color=FAINT, linewidth=1, linestyle=":", label="largest class alone")
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    panels[1].set_ylabel("cross-entropy, nats")
    lines = panels[0].get_legend_handles_labels()
    if len(lines[0]) > IN_A_PANEL:
        panels[1].legend(*lines, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    else:
        panels[0].legend(loc="best", fontsize=8)
    return figure


def _band(axes: Axes, histories: Sequence[pd.DataFrame], column: str, tint: str, dash: str, label: str) -> None:
    found = [history[["epoch", column]] for history in histories if column in history]
    if not found:
        return
    grouped = pd.concat(found).groupby("epoch")[column]
    mean, least, largest = grouped.mean(), grouped.min(), grouped.max()
    marker = "o" if len(mean) == 1 else None
    axes.plot(
        mean.index, mean, dash, color=tint, label=label, marker=marker, linewidth=1.8 if dash in ("-", ":") else 1.2
    )
    if len(found) > 1:
        axes.fill_between(mean.index, least, largest, color=tint, alpha=0.15, linewidth=0)


@style.context(STYLE)
def sweep_curves(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Validation accuracy of every setting over epochs, a panel per title; bands reach from the least to the largest.

    Frames have the columns setting, label, tint (equal ones share a colour, numbers a scale), epoch, n and
    val/accuracy/mean, /min, /max.
    """
    figure = Figure(figsize=(9.6, 3.9 if len(panels) == 1 else 4.6), layout="constrained")
    strokes = _strokes(pd.concat([curves["tint"] for curves in panels.values()]))
    row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "ncols": 2}
    for axes, (title, curves) in zip(row, panels.items(), strict=True):
        for _, own in curves.groupby("setting", sort=False):
            _setting(axes, own.sort_values("epoch"), *strokes[own["tint"].iloc[0]])
        axes.set(title=title, xlabel="epoch")
        axes.grid(True)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(**(beside if len(panels) == 1 else below), fontsize=8)
    row[0].set_ylabel("validation accuracy")
    return figure


def _setting(axes: Axes, own: pd.DataFrame, tint: str, dash: str) -> None:
    mean, low, high = (own[f"val/accuracy/{how}"] for how in ("mean", "min", "max"))
    marker = "o" if len(own) == 1 else None
    axes.plot(own["epoch"], mean, dash, color=tint, label=own["label"].iloc[0], linewidth=1.6, marker=marker)
    if (own["n"] > 1).any():
        axes.fill_between(own["epoch"], low, high, color=tint, alpha=0.12, linewidth=0)


def _strokes(keys: pd.Series) -> dict[object, tuple[str, str]]:
    """Colour and dash of each key: numbers along a scale, others apart from each other."""
    if pd.api.types.is_numeric_dtype(keys):
        unique = sorted(keys.unique())
        return {key: (to_hex(shade), "-") for key, shade in zip(unique, _shades(len(unique)), strict=True)}
    distinct = [(tint, dash) for dash in ("-", "--", ":") for tint in (*METHOD_COLOURS.values(), *OTHER_COLOURS)]
    return dict(zip(keys.unique(), itertools.cycle(distinct), strict=False))


@style.context(STYLE)
def best_over(name: str, best: pd.DataFrame) -> Figure:
    """Best accuracy (columns mean, min, max over seeds) over a positive parameter, the index in ascending order."""
    figure = Figure(figsize=(4.7, 3.4), layout="constrained")
    axes = figure.subplots()
    reach = [best["mean"] - best["min"], best["max"] - best["mean"]]
    axes.errorbar(best.index, best["mean"], np.clip(reach, 0, None), color=METHOD_COLOURS["nbp"], marker="o", capsize=3)
    if best.index[-1] >= 10 * best.index[0]:
        axes.set_xscale("log")
    if len(best) <= 8:
        axes.set_xticks(best.index, [f"{value:.9g}" for value in best.index])
        axes.minorticks_off()
    axes.set(xlabel=name, ylabel="validation accuracy, best epoch")
    axes.grid(True)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


@style.context(STYLE)
def confusion(matrix: NDArray[np.int64], title: str) -> Figure:
    """Counts (7, 7), rows actual and columns predicted; the shade is the share of the row."""
    share = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    figure = Figure(figsize=(4.7, 4.3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        tint = "white" if share[row, column] > 0.55 else INK
        text = f"{count:,}\n{share[row, column]:.0%}" if count else "·"
        axes.text(column, row, text, ha="center", va="center", size=7.5, color=tint)
    axes.set_xticks(range(len(EXPRESSIONS)), EXPRESSIONS, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(EXPRESSIONS)), EXPRESSIONS)
    axes.set(title=title, xlabel="predicted", ylabel="actual")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


@style.context(STYLE)
def reliability(runs: Mapping[str, tuple[str, pd.DataFrame]], methods: Sequence[str]) -> Figure:
    """Accuracy over confidence in bins of 1 % of the faces or more; run name -> (method, predictions)."""
    figure = Figure(figsize=(4.7, 4.3), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
    named: set[str] = set()
    for method, table in runs.values():
        confidence = table[[f"p{i}" for i in range(len(EXPRESSIONS))]].max(axis=1)
        correct = (table["label"] == table["predicted"]).astype(float)
        bins = np.ceil(confidence * BINS).clip(1, BINS)
        grouped = pd.DataFrame({"confidence": confidence, "accuracy": correct}).groupby(bins)
        sizes = grouped.size() / len(table)
        sizes = sizes[sizes >= 0.01]  # what fewer faces say is chance
        means = grouped.mean().loc[sizes.index]
        tint = colour(method, methods)
        axes.plot(
            means["confidence"],
            means["accuracy"],
            color=tint,
            linewidth=1.2,
            label=None if method in named else method_name(method),
        )
        named.add(method)
        axes.scatter(means["confidence"], means["accuracy"], s=10 + 300 * sizes, color=tint, alpha=0.5, linewidth=0)
    axes.set(title="Reliability", xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(-0.03, 1.03))
    axes.grid(True, axis="both")
    axes.legend(loc="upper left", fontsize=8)
    return figure


def planes(history: pd.DataFrame) -> list[str]:
    """Names of the units whose dependence on input and labels a history holds."""
    units = [column[len("unit/") : -len("/hsic_x")] for column in history if column.endswith("/hsic_x")]
    return [unit for unit in units if f"unit/{unit}/hsic_y" in history]


@style.context(STYLE)
def information_plane(curves: Sequence[Curve]) -> Figure:
    """Dependence on the labels over that on the input, a path over epochs per unit; mean over seeds."""
    figure = Figure(figsize=(4.8 * len(curves), 4.1), layout="constrained")
    for axes, curve in zip(np.atleast_1d(figure.subplots(1, len(curves))), curves, strict=True):
        mean = pd.concat(curve.histories).groupby("epoch").mean()
        units = planes(mean)
        tints = _shades(len(units))
        for unit, tint in zip(units, tints, strict=True):
            x, y = mean[f"unit/{unit}/hsic_x"], mean[f"unit/{unit}/hsic_y"]
            axes.plot(x, y, color=tint, linewidth=1.4, label=unit if len(units) <= 10 else None)
            axes.scatter(x.iloc[:1], y.iloc[:1], s=22, facecolor="white", edgecolor=tint, zorder=3)
            axes.scatter(x.iloc[-1:], y.iloc[-1:], s=30, color=tint, zorder=3)
        axes.set(title=method_name(curve.method), xlabel="dependence on the input")
        axes.set_ylabel("dependence on the labels")
        axes.grid(True, axis="both")
        if 0 < len(units) <= 10:
            axes.legend(loc="best", fontsize=8)
    return figure


def _shades(count: int) -> NDArray[np.float64]:
    return colormaps[UNIT_COLOURS](np.linspace(0.0, 0.88, max(1, count)))[:count]
