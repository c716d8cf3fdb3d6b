"""Units on several workers: who worked when, what they handed on, their memory; and the tables of docs/results.md."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

from pipeline.metrics import DASH
from pipeline.page import figures, tables
from pipeline.page.architecture import FILLS, LINES
from pipeline.page.figures import STYLE
from pipeline.page.html import Picture, Section, Table, Text, dropped, listed, method_name
from pipeline.page.inputs import Inputs, method_of
from pipeline.runs import records
from pipeline.runs.records import Run

Worker = Mapping[str, Any]  # of timing.json

HEADER = ("Run", "Worker", "Units", "Work in a step, ms", "Handed on in a step, MiB", "Memory at most, MiB")
PICTURED = "nbp 2 workers"  # the row of parallel.json whose workers docs/img/workers.svg shows


def workers_section(inputs: Inputs) -> Section | None:
    """Runs whose units learnt on several workers: a picture of the first of each method, and a table."""
    runs = {one.method: one for one in reversed(inputs.runs) if one.timing.get("workers")}
    if not runs:
        return None
    shown = [runs[name] for name in inputs.methods if name in runs]
    rows = [[f"{method_name(one.method)}, seed {one.seed}", *row] for one in shown for row in table_rows(one)]
    table = Table("What each worker did, means over the training", HEADER, rows, left=(0, 2))
    return Section("Units on several workers", [*map(timeline, shown), table, *map(Text, notes(inputs))])


def table_rows(one: Run) -> Iterator[list[str]]:
    """A row for each worker of a run."""
    for place, worker in enumerate(one.timing["workers"]):
        numbers = (f"{worker['busy_ms']:,.0f}", f"{worker['sent_mib']:.1f}", f"{worker['peak_mib']:,.0f}")
        yield [str(place + 1), listed(worker["units"]), *numbers]


def notes(inputs: Inputs) -> Iterator[str]:
    """What the numbers are, and which methods cannot share their units."""
    yield (
        "No gradient comes back, so a worker takes the next batch while the following one still learns from the last. "
        "The numbers are those of one worker. Memory is all that the process held, its libraries included."
    )
    whole = [one.method for one in inputs.runs if crosses(one)]
    if whole:
        names = listed([method_name(name) for name in dict.fromkeys(whole)])
        yield f"Trained on one worker, because gradients cross the whole network: {names}."


def crosses(one: Run) -> bool:
    """Whether the gradients of a run cross the borders of units."""
    return method_of(one).get("units", "network") == "network" or method_of(one).get("gradients") == "pass"


def timeline(one: Run) -> Picture:
    """The picture of a run's workers."""
    workers = one.timing["workers"]
    steps = len(workers[0]["spans"])
    fact = f"{len(workers)} workers in the first {steps} steps of {method_name(one.method)}, seed {one.seed}"
    name = f"workers-{one.method}-{one.seed}.svg"
    caption = f"Who worked when: {fact}. A number is a step; it has one colour on all workers."
    return figures.picture(name, gantt(workers), caption, f"Times of {fact}.")


@style.context(STYLE)
def gantt(workers: Sequence[Worker]) -> Figure:
    """A lane for each worker, with a bar for each step from its begin to its end."""
    figure = Figure(figsize=(9.6, 0.9 + 0.5 * len(workers)), layout="constrained")
    axes = figure.subplots()
    right = max(end for worker in workers for *_, end in worker["spans"])
    for place, worker in enumerate(workers):
        for step, begin, end in worker["spans"]:
            fill, edge = FILLS[step % len(FILLS)], LINES[step % len(LINES)]
            axes.barh(place, end - begin, left=begin, height=0.72, color=fill, edgecolor=edge, linewidth=0.8)
            if end - begin > right / 60:
                axes.text((begin + end) / 2, place, str(step + 1), ha="center", va="center", size=7.5)
    names = [worker["units"] for worker in workers]
    labels = [own[0] if len(own) == 1 else f"{own[0]} to\n{own[-1]}" for own in names]
    axes.set_yticks(range(len(workers)), labels)
    axes.set(xlabel="seconds", xlim=(0, right * 1.01))
    axes.invert_yaxis()
    axes.tick_params(left=False)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    return figure


def pictured(folder: Path) -> Figure | None:
    """The picture of docs/method.md; None where parallel.json holds no workers' times."""
    rows = {row["row"]: row for row in records.read_json(folder / "parallel.json")["rows"]}
    workers = rows.get(PICTURED, {}).get("workers")
    return gantt(workers) if workers else None


def ways(folder: Path) -> tables.Table:
    """Every way to use the cores: speed, memory, what was sent, time to the accuracy."""
    found = records.read_json(folder / "parallel.json")
    rows = {row["row"]: row for row in found["rows"]}
    header = ("training", "faces per second", "times one process", "of the bound, %", "sent in a step, MiB",
              "memory of a process, MiB", "of the one that leads, MiB", "minutes to the accuracy")  # fmt: skip
    cells = zip(*(way(row, rows, found["batch"]) for row in found["rows"]), strict=True)
    columns = dropped(dict(zip(header, map(list, cells), strict=True)))
    return list(columns), list(zip(*columns.values(), strict=True))


def way(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], batch: int) -> list[str]:
    """The cells of a row; the bound is that of the worker who works longest in a step."""
    rate, workers = row["faces_per_second"], row.get("workers") or []
    alone = rows.get(alone_of(row["row"]), {}).get("faces_per_second")
    busiest = max((worker["busy_ms"] for worker in workers), default=None)
    peaks = [worker["peak_mib"] for worker in workers] or row.get("peak_mib", [])
    leader = row["peak_mib"] if workers and "peak_mib" in row else []
    together = 2 if row["row"].endswith("twice") else 1  # trainings that end at the same time
    return [
        f"`{row['row']}`",
        f"{rate:,.0f}" + spread(row.get("rounds", ())),
        f"{rate / alone:.2f}" if alone else DASH,
        f"{100 * busiest / row['step_ms']:.0f}" if busiest else DASH,
        ", ".join(f"{worker['sent_mib']:.1f}" for worker in workers[:-1]) or DASH,
        ", ".join(f"{peak:,.0f}" for peak in peaks) or DASH,
        ", ".join(f"{peak:,.0f}" for peak in leader) or DASH,
        f"{row['steps'] * batch * together / rate / 60:.1f}" if row.get("steps") else DASH,
    ]


def spread(rates: Sequence[float]) -> str:
    """The slowest and the fastest of several rounds."""
    return f" ({min(rates):,.0f} to {max(rates):,.0f})" if len(rates) > 1 else ""


def alone_of(text: str) -> str:
    """The row of the same training in one process."""
    words = text.removesuffix("_ddp").split()
    return " ".join(words[:1] + [word for word in words[1:2] if word.startswith("balanced:")])


def memory(folder: Path) -> tables.Table:
    """MiB of the largest worker, and its share of back-propagation's, by units and number of workers."""
    rows = [row for row in records.read_json(folder / "memory.json")["rows"] if not row["added"]]
    counts = sorted({row["workers"] for row in rows})
    found = {(row["units"], row["workers"]): f"{max(row['peak_mib']):,.0f} ({row['ratio']:.2f})" for row in rows}
    header = ["units", *(f"{count} worker{'s' * (count > 1)}, MiB (/ BP)" for count in counts)]
    names = dict.fromkeys(row["units"] for row in rows)
    return header, [[name, *(found.get((name, count), DASH) for count in counts)] for name in names]


def depth(folder: Path) -> tables.Table:
    """MiB of the largest worker as blocks are added to the network."""
    rows = records.read_json(folder / "memory.json")["rows"]
    added = sorted({row["added"] for row in rows})
    found = {(row["units"], row["workers"], row["added"]): f"{max(row['peak_mib']):,.0f}" for row in rows}
    header = ["units", "workers", *(f"{blocks} blocks added, MiB" for blocks in added)]
    names = dict.fromkeys((row["units"], row["workers"]) for row in rows)
    return header, [[units, str(n), *(found.get((units, n, blocks), DASH) for blocks in added)] for units, n in names]


TABLES: dict[str, Callable[[Path], tables.Table]] = {"parallel": ways, "memory": memory, "memory-depth": depth}
