"""What the methods cost: steps to BP's accuracy, training time, multiply-adds of an answer, step time and memory."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.compare import REFERENCE, steps_cell
from pipeline.metrics import DASH
from pipeline.page import comparison, inference
from pipeline.page.figures import picture
from pipeline.page.html import Section, Table, Text, dropped, duration, listed, method_name, show
from pipeline.page.inputs import Inputs, scores_of, seconds_of
from pipeline.page.results import own_parameters
from pipeline.runs.records import Run

COLUMNS = ("Method", "Steps", "Steps to BP's accuracy", "Training time", "its ratio to BP", "An epoch")
WIDE_HEADS = 0.45  # share of the heads in the parameters at width 96, the network of README's table
TITLES = {
    "method": "Method",
    "step_ms": "Step, ms",
    "step_ratio": "Step, ratio",
    "step_ratio_quartiles": "its quartiles",
    "peak_mib": "Peak memory, MiB",
    "peak_ratio": "Peak memory, ratio",
}


def training_section(inputs: Inputs) -> Section:
    """Steps to the accuracy that BP ends with, and the time of whole trainings."""
    rows = [training_row(inputs, method) for method in inputs.methods]
    columns = dropped(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
    table = Table("Steps and time, means over seeds", list(columns), list(zip(*columns.values(), strict=True)))
    return Section("Cost of a training", [table, *map(Text, training_notes(list(columns)))])


def training_notes(columns: Sequence[str]) -> Iterator[str]:
    """What the numbers are."""
    if COLUMNS[2] in columns:
        yield (
            "Steps to BP's accuracy is the share of BP's steps after which a method first has the validation accuracy "
            "that BP of the same seed ends with. It is the mean over the seeds that reach it."
        )
    if COLUMNS[4] in columns:
        yield "The ratio is of the time of an epoch, where both ran on like devices, threads and workers."
    yield (
        "Times are of all training steps, without validation and diagnostics, on the machine named above. "
        "Other work on it lengthens them."
    )


def training_row(inputs: Inputs, method: str) -> list[str]:
    """Steps and times of one method, in the order of COLUMNS."""
    runs = inputs.of(method)
    times = [time for one in runs if (time := seconds_of(one))]
    epochs = [time for one in runs for time in one.timing.get("seconds_per_epoch", [])]
    found = inputs.comparison or {}
    known = (found.get("methods") or {}).get(method) or {}
    against_bp = found.get("reference") == REFERENCE
    ratio = (known.get("against") or {}).get("time_ratio") if against_bp else None
    return [
        method_name(method),
        f"{np.mean([one.training['steps'] for one in runs]):,.0f}",
        steps_cell(known.get("steps") if against_bp else None),
        duration(float(np.mean(times))) if times else DASH,
        comparison.ratio(ratio),
        duration(float(np.mean(epochs))) if epochs else DASH,
    ]


def answers_section(inputs: Inputs) -> Section | None:
    """What an answer costs where faces may leave early; None where no network votes."""
    scored = {name: [one for one in inputs.of(name) if "multiply_adds" in scores_of(one)] for name in inputs.methods}
    points = {name: answers(runs) for name, runs in scored.items() if runs}
    if all(len(rows) == 1 for rows in points.values()):
        return None
    caption = (
        "Accuracy over the multiply-adds of an answer, means over seeds. A square is the answer of the whole network. "
        "At a dot a face leaves as soon as the vote of the units so far gives a class a probability, "
        "0.40 at the left to 0.95 at the right."
    )
    texts = [
        f"{method_name(name)} answers with {rows[-1, 0]:.1f} million multiply-adds and is right in {rows[-1, 1]:.1f} %"
        + (f", at the first exit with {rows[0, 0]:.1f} million and {rows[0, 1]:.1f} %" if len(rows) > 1 else "")
        for name, rows in points.items()
    ]
    alt = ". ".join(texts) + "."
    figure = inference.early(points, inputs.names["test"])
    return Section("Cost of an answer", [picture("early-exits.svg", figure, caption, alt, wide=False)])


def answers(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Million multiply-adds and accuracy in % of every exit and of the whole network, (exits + 1, 2), means of runs."""
    rows = [[*scores_of(one).get("early", []), scores_of(one)] for one in runs]
    pairs = [[(row["multiply_adds"] / 1e6, 100 * row["accuracy"]) for row in points] for points in rows]
    means: NDArray[np.float64] = np.mean(pairs, 0)
    return means


def step_section(inputs: Inputs) -> Section | None:
    """Speed and memory of a step, where they have been measured."""
    if not inputs.bench or not inputs.bench.get("rows"):
        return None
    names = list(dict.fromkeys(name for row in inputs.bench["rows"] for name in row))
    rows = [[show(row.get(name), name) for name in names] for row in inputs.bench["rows"]]
    setting = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in inputs.bench.items() if key != "rows")
    caption = f"One training step: {setting}" if setting else "One training step"
    table = Table(caption, [TITLES.get(name, name) for name in names], rows)
    return Section("Speed and memory", [table, *map(Text, other_ratios(inputs))])


def other_ratios(inputs: Inputs) -> Iterator[str]:
    """Why the ratios of the sample profile are not those of README."""
    if inputs.settings["profile"] != "sample":
        return
    yield (
        "These ratios differ from those in README, which are of the profile fer2013-cpu: 48×48 FER2013 faces and a "
        "network of width 96."
    )
    shares = [head_share(one) for one in inputs.runs]
    if found := [share for share in shares if share]:
        more = " So they take a larger part of a step here." if max(found) > WIDE_HEADS else ""
        yield (
            f"The heads of the units do not shrink with the network. They hold {max(found):.0%} of the parameters that "
            f"predict here and {WIDE_HEADS:.0%} at width 96.{more}"
        )


def head_share(one: Run) -> float | None:
    """Share of the heads in the parameters that predict; None where they do not vote."""
    own = own_parameters(one)
    return None if own is None or own == one.training["parameters"] else 1 - own / one.training["parameters"]


def figures_note(inputs: Inputs) -> Section | None:
    """Where paper Figs 9 to 11 come from, on a page without them; the workflow's page links the one of the sweeps."""
    known = {sweep.name for sweep in inputs.sweeps}
    missing = [name for name in ("activation", "learning_rate", "models") if name not in known]
    if not missing:
        return None
    commands = [f"make sweep NAME={name}" for name in missing]
    text = (
        "Figs 9, 10 and 11 of the paper compare activation functions, learning rates and networks. They need many "
        f"trainings and have commands of their own: {listed(commands)}. Then make sweep NAME=report writes a page like "
        "this one with their figures"
    )
    note = Text(f"{text}.") if inputs.sweeps else Text(f"{text}:", link="../sweeps/report/index.html")
    return Section("More figures of the paper", [note])
