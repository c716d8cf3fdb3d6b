"""Pictures of faces and predictions as pure functions of arrays and tables; the same input gives the same bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from pipeline.metrics import BINS, wilson
from pipeline.page.html import Picture, method_name

Pixels = NDArray[np.uint8]

FACE = 48  # units of a drawn face's side, whatever its pixels

METHOD_COLOURS = {"nbp": "#0b6fb8", "bp": "#d4600c"}
OTHER_COLOURS = ("#2a8a57", "#8a4fb5", "#b8860b", "#c2416f", "#4c6272", "#6b7a1e")  # as dark as those of METHOD_COLOURS
INK, FAINT, RIGHT, WRONG = "#22272e", "#8b949e", "#1f7a45", "#c0341d"
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


def picture(name: str, figure: Figure, caption: str, alt: str, wide: bool = True) -> Picture:
    """The figure as a file of that name, SVG or PNG by its ending, with what the page asks of a picture."""
    content = svg(figure) if name.endswith(".svg") else png(figure)
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    smallest = min((float(text.get_fontsize()) for text in texts), default=9.0) * 96 / 72
    return Picture(name, content, caption, alt, 96 * figure.get_figwidth(), smallest, wide)


def _encode(figure: Figure, **options: Any) -> bytes:  # noqa: ANN401 (of savefig)
    buffer = io.BytesIO()
    with style.context(STYLE):
        figure.savefig(buffer, **options)
    return buffer.getvalue()


@style.context(STYLE)
def face_grid(
    faces: Pixels, captions: Sequence[str], columns: int, colours: Sequence[str] = (), rows: Sequence[str] = ()
) -> Figure:
    """Faces (n, channels, side, side) row by row with a caption below each; a blank caption leaves the cell empty.

    colours: one per caption. rows: a title above each row of `columns` faces.
    """
    count = -(-len(faces) // columns)
    lines = max(caption.count("\n") + 1 for caption in captions)
    above, below = (17 if rows else 2), 3 + 8 * lines  # forty-eighths of a face
    height, width = FACE + above + below, FACE + 5
    figure = Figure(figsize=(columns * width / 56, count * height / 56))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, columns * width), ylim=(count * height, 0))
    axes.axis("off")
    for i, (face, caption) in enumerate(zip(faces, captions, strict=True)):
        x, y = (i % columns) * width + 2.5, (i // columns) * height + above
        if caption:
            extent = (x, x + FACE, y + FACE, y)
            axes.imshow(shown(face), cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="nearest")
        axes.text(
            x + FACE / 2, y + FACE + 2, literal(caption), ha="center", va="top", size=7.5,
            color=(colours or [INK] * (i + 1))[i],
        )  # fmt: skip
    for i, title in enumerate(rows):
        axes.text(2.5, i * height + above - 4, literal(title), va="bottom", weight="bold")
    axes.set(xlim=(0, columns * width), ylim=(count * height, 0), aspect="auto")
    return figure


def literal(text: str) -> str:
    """A text for matplotlib, which takes what stands between two dollars for mathematics."""
    return text.replace("$", r"\$")


def shown(face: Pixels) -> Pixels:
    """Pixels (channels, side, side) as a picture: colours where there are three channels, else the mean in grey."""
    return face.transpose(1, 2, 0) if len(face) == 3 else face.mean(0).astype(np.uint8)


@style.context(STYLE)
def histograms(counts: Mapping[str, Sequence[int]], classes: Sequence[str]) -> Figure:
    """Faces per class, one panel per title; counts of shape (classes,)."""
    figure = Figure(figsize=(9.6, 1.2 + 0.24 * len(classes)), layout="constrained")
    for axes, (title, values) in zip(np.atleast_1d(figure.subplots(1, len(counts))), counts.items(), strict=True):
        total = max(1, sum(values))
        bars = axes.barh([*map(literal, classes)], values, color="#5b7f9e", height=0.72)
        axes.bar_label(bars, [f"{value:,}  {value / total:.1%}" for value in values], padding=3, size=7.5)
        axes.set(title=f"{title} · {sum(values):,}", xlim=(0, max(1, *values) * 1.45))
        axes.invert_yaxis()
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.tick_params(left=False, bottom=False, labelbottom=False)
    return figure


@style.context(STYLE)
def confusion(matrix: NDArray[np.int64], classes: Sequence[str], title: str) -> Figure:
    """Counts (classes, classes), rows actual and columns predicted; the shade is the share of the row."""
    share = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    size = 1.2 + 0.5 * max(7, len(classes))
    figure = Figure(figsize=(size, size - 0.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        tint = "white" if share[row, column] > 0.55 else INK
        text = f"{count:,}\n{share[row, column]:.0%}" if count else "·"
        axes.text(column, row, text, ha="center", va="center", size=7.5, color=tint)
    names = [literal(name) for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), names)
    axes.set(title=title, xlabel="predicted", ylabel="actual")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def confidences(predictions: pd.DataFrame) -> pd.Series:
    """The largest probability of each row; probabilities are the columns p0, p1, ..."""
    return predictions.filter(regex=r"^p\d+$").max(axis=1)


def bins(predictions: pd.DataFrame) -> pd.DataFrame:
    """Per bin of confidence: mean confidence, accuracy with Wilson's 95 % interval (low, high), share of the faces."""
    confidence = confidences(predictions)
    correct = (predictions["label"] == predictions["predicted"]).astype(float)
    place = np.ceil(confidence * BINS).clip(1, BINS).astype(int)
    grouped = pd.DataFrame({"confidence": confidence, "accuracy": correct}).groupby(place)
    table, count = grouped.mean(), grouped.size()
    low, high = wilson(table["accuracy"], count)
    return table.assign(low=low, high=high, share=count / len(predictions))


@style.context(STYLE)
def reliability(runs: Mapping[str, tuple[str, pd.DataFrame]], methods: Sequence[str]) -> Figure:
    """Accuracy over confidence with intervals in bins of 1 % of the faces or more, above a histogram of confidence.

    runs: name -> (method, predictions).
    """
    figure = Figure(figsize=(4.7, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
    named: set[str] = set()
    for method, predictions in runs.values():
        label = None if method in named else method_name(method)
        _reliability_of(above, below, bins(predictions), colour(method, methods), label)
        named.add(method)
    above.set(title="Reliability", ylabel="accuracy", xlim=(0, 1.02), ylim=(-0.03, 1.03))
    below.set(xlabel="confidence", ylabel="share of faces")
    for axes in (above, below):
        axes.grid(True, axis="both")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    below.xaxis.set_major_formatter(PercentFormatter(1))
    above.legend(loc="upper left", fontsize=8)
    return figure


def _reliability_of(above: Axes, below: Axes, table: pd.DataFrame, tint: str, label: str | None) -> None:
    """One run: dots with intervals above, where a bin's few faces are more than chance, and the bins' shares below."""
    kept = table[table["share"] >= 0.01]
    reach = [kept["accuracy"] - kept["low"], kept["high"] - kept["accuracy"]]
    above.errorbar(
        kept["confidence"], kept["accuracy"], np.clip(reach, 0, None), color=tint, marker="o", markersize=3.5,
        linewidth=1.2, elinewidth=0.9, label=label,
    )  # fmt: skip
    shares = table["share"].reindex(range(1, BINS + 1), fill_value=0.0)
    below.stairs(shares, np.linspace(0, 1, BINS + 1), color=tint, fill=True, alpha=0.2)
    below.stairs(shares, np.linspace(0, 1, BINS + 1), color=tint, linewidth=1.2)
