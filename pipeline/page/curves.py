"""Curves over epochs and parameters as pure functions of tables; the same input gives the same bytes."""

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

from pipeline.page.figures import FAINT, INK, METHOD_COLOURS, OTHER_COLOURS, STYLE, colour, dashes
from pipeline.page.html import method_name

UNIT_COLOURS = "viridis"
IN_A_PANEL = 8  # lines that a legend inside a panel may name
NAMED_BLOCKS = 14  # of an information plane; the names of more would hide the paths


class Curve(NamedTuple):
    """What one method did: its history per seed, columns as in history.csv."""

    method: str
    histories: Sequence[pd.DataFrame]


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


def blocks(history: pd.DataFrame) -> list[str]:
    """Names of the blocks whose CKA with image and label a history holds."""
    ending = "/cka_image"
    names = [
        name[len("block/") : -len(ending)] for name in history if name.startswith("block/") and name.endswith(ending)
    ]
    return [name for name in names if f"block/{name}/cka_label" in history]


def own_units(history: pd.DataFrame) -> list[str]:
    """Blocks that are units of the method themselves, by the units whose loss a history holds."""
    return [name for name in blocks(history) if f"unit/{name}/loss" in history]


@style.context(STYLE)
def information_plane(curves: Sequence[Curve]) -> Figure:
    """CKA with the label over CKA with the image, a path over epochs per block; mean over seeds, one scale for all.

    Blocks that are units of the method are drawn in colour, the others in grey; without such blocks all are alike.
    """
    columns = min(2, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(4.8 * columns, 4.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    means = [pd.concat(curve.histories).groupby("epoch").mean(numeric_only=True) for curve in curves]
    for axes, curve, mean in zip(panels, curves, means, strict=False):
        _paths(axes, mean)
        axes.set(title=method_name(curve.method))
        axes.grid(True, axis="both")
        axes.label_outer()
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    panels[0].margins(x=0.16, y=0.08)  # for the names at the ends of the paths
    for axes, mean in zip(panels, means, strict=False):
        _names(axes, mean)
    figure.supxlabel("CKA with the image", size=9)
    figure.supylabel("CKA with the label", size=9)
    return figure


def _paths(axes: Axes, mean: pd.DataFrame) -> None:
    own = own_units(mean) or blocks(mean)
    tints = dict(zip(own, _shades(len(own)), strict=True))
    for name in sorted(blocks(mean), key=lambda name: name in own):  # the method's own units lie on top
        x, y = mean[f"block/{name}/cka_image"], mean[f"block/{name}/cka_label"]
        tint, width = tints.get(name, FAINT), 2.0 if name in own else 0.9
        axes.plot(x, y, color=tint, linewidth=width, alpha=1 if name in own else 0.7, gid=name)
        axes.scatter(x.iloc[:1], y.iloc[:1], s=22, facecolor="white", edgecolor=tint, zorder=3)
        axes.scatter(x.iloc[-1:], y.iloc[-1:], s=30 if name in own else 14, color=tint, zorder=3)


def _names(axes: Axes, mean: pd.DataFrame) -> None:
    """The name of each block beside the end of its path, moved up where it would lie on another."""
    own, found = own_units(mean), blocks(mean)
    if len(found) > NAMED_BLOCKS:
        found = own if len(own) <= NAMED_BLOCKS else []
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    taken: list[tuple[float, float, float]] = []
    ends = {
        name: (mean[f"block/{name}/cka_image"].iloc[-1], mean[f"block/{name}/cka_label"].iloc[-1]) for name in found
    }
    for name, (x, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        start, height, width = (x - left) / (right - left) + 0.02, (y - low) / (high - low), 0.024 * len(name)
        for other, other_width, level in taken:
            if start < other + other_width and other < start + width and height < level + 0.042:
                height = level + 0.042
        taken.append((start, width, height))
        weight = "bold" if name in own else "normal"
        axes.text(start, height, name, size=7.5, weight=weight, va="center", color=INK, transform=axes.transAxes)


def _shades(count: int) -> NDArray[np.float64]:
    return colormaps[UNIT_COLOURS](np.linspace(0.0, 0.88, max(1, count)))[:count]
