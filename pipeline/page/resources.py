"""Accuracy over what it costs: minutes on two cores, and memory of a step. Drawn from the tracked tables of studies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipeline.page.figures import STYLE, colour
from pipeline.page.html import method_name
from pipeline.runs import records, study
from pipeline.runs.study import Outcome

WAYS = {
    "bp": ("bp", "one core", ":"),
    "bp_ddp": ("bp", "two cores, data-parallel", "-"),
    "deep_supervision": ("deep_supervision", "one core", ":"),
    "deep_supervision_ddp": ("deep_supervision", "two cores, data-parallel", "-"),
    "nbp": ("nbp", "one core", ":"),
    "nbp 2 workers": ("nbp", "two cores, units in parallel", "-"),
}  # rows of parallel.json: method, what its label adds, dashes


@style.context(STYLE)
def resources(folder: Path) -> Figure:
    """Validation accuracy over minutes, and test accuracy over peak memory, means over seeds.

    folder: holds main.csv, parallel.json (faces per second) and step.json (MiB), of one size of network and batch.
    """
    by_method, steps = runs(folder / "main.csv"), records.read_json(folder / "step.json")
    drawn = {method: by_method[method] for method, *_ in WAYS.values()}
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    time, memory = figure.subplots(1, 2)
    draw_time(time, drawn, records.read_json(folder / "parallel.json"))
    draw_memory(memory, drawn, steps["rows"])
    memory.set_title("Memory")
    finish(time, memory)
    return figure


@style.context(STYLE)
def partitions(folder: Path) -> Figure:
    """Test accuracy over the peak memory of a step, for back-propagation and for NBP cut into ever smaller units.

    folder: holds partition.csv and step48.json, of one size of network and batch.
    """
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.subplots()
    draw_memory(axes, runs(folder / "partition.csv"), records.read_json(folder / "step48.json")["rows"])
    finish(axes)
    return figure


def runs(path: Path) -> dict[str, list[Outcome]]:
    """The runs of a study by method."""
    outcomes = study.read(path)
    return {name: [one for one in outcomes if one.method == name] for name in (one.method for one in outcomes)}


def finish(*every: Axes) -> None:
    """Grid, and accuracy in %."""
    for axes in every:
        axes.grid(True, axis="both")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))


def draw_time(axes: Axes, by_method: Mapping[str, Sequence[Outcome]], measured: Mapping[str, Any]) -> None:
    """A line per way to use two cores, from the first epoch to the last."""
    rates = {row["row"]: row["faces_per_second"] for row in measured["rows"]}
    for row, (method, how, dashes) in WAYS.items():
        mean = pd.concat([one.history for one in by_method[method]]).groupby("step")["val/accuracy"].mean()
        minutes = mean.index.to_numpy() * measured["batch"] / rates[row] / 60
        label = f"{method_name(method)}, {how}"
        axes.plot(minutes, mean, dashes, color=colour(method, list(by_method)), linewidth=1.6, label=label)
    axes.set(xlabel="minutes", ylabel="accuracy on PublicTest", title="Time", xlim=(0, None))
    axes.legend(loc="lower right", fontsize=8)


def draw_memory(axes: Axes, by_method: Mapping[str, Sequence[Outcome]], rows: Sequence[Mapping[str, Any]]) -> None:
    """A point per method of both, with the spread of its seeds."""
    known = [row for row in rows if row["method"] in by_method]
    for row in known:
        method = row["method"]
        scores = [one.scores["accuracy"] or np.nan for one in by_method[method]]
        spread = np.std(scores, ddof=1) if len(scores) > 1 else 0
        tint = colour(method, list(by_method))
        axes.errorbar(
            row["peak_mib"], np.mean(scores), spread, fmt="o", color=tint, capsize=3, label=method_name(method)
        )
    axes.set(xlabel="peak memory of a step, MiB", ylabel="accuracy on PrivateTest")
    axes.set_xlim(0, 1.15 * max(row["peak_mib"] for row in known))
    axes.legend(loc="lower left", fontsize=8)
