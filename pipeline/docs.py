"""`make docs`: tracked results of studies -> the marked tables and the curves of README.md and docs/.

`python -m pipeline.docs` writes every table between `<!-- table: NAME -->` and `<!-- end -->` anew, the curves
docs/study/NAME.svg that a page shows, README's figure, those of leaving early, of workers, and of accuracy over time
and memory.
`--check` writes nothing and fails where a table differs from its data.

Names of tables:
- STUDY: the comparison of docs/study/STUDY.csv with BP, e.g. `main`.
- STUDY-seeds: each of its runs.
- robustness, attacks, attacks48, wrong-labels: the methods on damaged faces, on attacked ones, and after wrong labels,
  from the CSV files of these names. attacks48-differences, wrong-labels-differences: what HSIC adds there.
- step, step48, step224, depth, roofline: a step's time, memory and limits, from the files that bench.step, bench.depth
  and bench.roofline write with --out.
- parallel: every way to use two cores, from docs/study/parallel.json, which `python -m bench.parallel --out` writes.
- memory, memory-depth: of the largest worker, from docs/study/memory.json, which `python -m bench.memory --out` writes.
- headline: README's table, from main.csv and step.json.
- claims: the paper's claims, from main.csv, width48.csv, step.json and step224.json.
- card-..., data-...: the model card and the data card, from card.json and audit.json, which `python -m bench.card`
  writes.
- cost, leaving, int8, deletion: what an answer costs, from latency.json of `python -m bench.latency`, and card.json.
- faults, fuzz, soak, reliability-origins: what `make faults`, `make soak` and `python -m bench.fuzz` found.
- SWEEP: of docs/study/SWEEP/, which holds sweep.json, trials.csv and curves.csv of `tune/sweep.py`, of networks also
  models.csv and perhaps cost.csv. Its curves go to docs/img/sweep-SWEEP.svg.
- any other: the rows of docs/study/NAME.csv as they stand, e.g. `sweep-beta`.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pipeline import compare
from pipeline.compare import PRIMARY, QUANTITIES, REFERENCE
from pipeline.metrics import DASH
from pipeline.page import cards, claims, inference, measurements, reliability, resources, sweeps, workers
from pipeline.page.banner import banner
from pipeline.page.comparison import ratio
from pipeline.page.curves import Curve, learning_curves
from pipeline.page.figures import svg
from pipeline.page.tables import markdown
from pipeline.process import InputError, atomic, command_line, run
from pipeline.runs import records, study
from pipeline.runs.study import Outcome

MADE = cards.TABLES | claims.TABLES | inference.TABLES | measurements.TABLES | reliability.TABLES | workers.TABLES
MARK = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- end -->", re.DOTALL)
LABELS = {
    "bp": "BP: back-propagation",
    "nbp": "NBP: four units that vote",
    "deep_supervision": "Deep supervision: NBP's losses and heads, gradients pass",
    "deep_supervision_two_layer_heads": "Deep supervision with heads of two layers, not three",
}  # rows of README's table


def filled(text: str, folder: Path, where: Path) -> str:
    """The text of a page with every marked table made anew; raises InputError for a name without data, or no end."""
    if text.count("<!-- table:") != len(MARK.findall(text)):
        raise InputError(f"{where}: a mark '<!-- table: NAME -->' lacks its '<!-- end -->'")
    return MARK.sub(lambda mark: f"<!-- table: {mark[1]} -->\n\n{table(mark[1], folder)}\n\n<!-- end -->", text)


def table(name: str, folder: Path) -> str:
    """A table by its name; folder: docs/study. A CSV that is of no runs stands as it is."""
    if name in MADE:
        return markdown(*MADE[name](folder))
    if name == "headline":
        return headline(study.read(folder / "main.csv"), records.read_json(folder / "step.json"))
    if name.endswith("-seeds"):
        return seeds(study.read(folder / f"{name.removesuffix('-seeds')}.csv"))
    path = folder / f"{name}.csv"
    if (folder / name / "sweep.json").exists():
        if path.exists():
            raise InputError(f"{path} and {folder / name}/ both want to be the table {name!r}; rename one")
        return markdown(*sweeps.summary(folder / name))
    if path.exists() and "epoch" not in pd.read_csv(path, nrows=0):
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        return markdown(header, rows)
    return compare.markdown(compare.compared(study.read(path), REFERENCE))


def seeds(outcomes: Sequence[Outcome]) -> str:
    """Each run with its test scores."""
    shown = [one for one in QUANTITIES if any(compare.value(run, one) is not None for run in outcomes)]
    rows = [
        [run.method, str(run.seed), *(one.text(compare.value(run, one)) for one in shown), str(run.best_epoch)]
        for run in outcomes
    ]
    return markdown(["method", "seed", *(one.header for one in shown), "best epoch"], rows)


def headline(outcomes: Sequence[Outcome], bench: Mapping[str, Any]) -> str:
    """README's table: the methods of LABELS that have runs, and a sentence on the test faces."""
    comparison = compare.compared(outcomes, REFERENCE)
    cost = {row["method"]: row for row in bench["rows"]}
    rows = []
    for name, label in LABELS.items():
        if (one := comparison["methods"].get(name)) is not None:
            own = one["quantities"][PRIMARY.name]
            mean, deviation = (PRIMARY.text(own[key]) for key in ("mean", "sd"))
            spread = "" if deviation == DASH else f" ± {deviation}"
            steps = one["steps"] or {"share": None, "reached": 0, "of": 0}
            few = f" ({steps['reached']} of {steps['of']} seeds)" if steps["reached"] < steps["of"] else ""
            time, memory = (cost.get(name, {}).get(key) for key in ("step_ratio", "peak_ratio"))
            runs = f"{mean}{spread} ({len(one['seeds'])} seeds)"
            rows.append([label, runs, ratio(steps["share"]) + few, f"{ratio(time)}; {ratio(memory)}"])
    costs = ["steps to BP's final accuracy, all of BP's = 1", "time; memory of a step, BP's = 1"]
    faces = f"{comparison['test_faces']:,}" if comparison["test_faces"] else "the"
    table = markdown(["method", PRIMARY.header, *costs], rows)
    return f"{table}\n\nMean ± standard deviation over seeds, on {faces} PrivateTest faces."


def curves(outcomes: Sequence[Outcome]) -> bytes:
    """SVG of the validation of every method, the mean over seeds with a band from the least to the largest.

    Runs with the same curve, one training scored in two ways, are drawn once.
    """
    methods = dict.fromkeys(one.method for one in outcomes)
    every = [Curve(name, [one.history for one in outcomes if one.method == name]) for name in methods]
    seen = [[history["val/loss"].tolist() for history in curve.histories] for curve in every]
    drawn = [curve for place, curve in enumerate(every) if seen[place] not in seen[:place]]
    return svg(learning_curves(drawn, None, splits=["val"]))


def sweep_figures(folder: Path) -> dict[str, Figure | None]:
    """The curves of every sweep whose tables are tracked, by the name of their picture."""
    return {f"sweep-{path.parent.name}": sweeps.picture(path.parent) for path in sorted(folder.glob("*/sweep.json"))}


def pages(root: Path) -> list[Path]:
    """README.md and the pages of docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def main() -> None:
    """Command line."""
    parser = command_line(
        "python -m pipeline.docs",
        "Write the marked tables of README.md and docs/ from docs/study/.",
        "example: python -m pipeline.docs --check",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a table differs from its data")
    arguments, root = parser.parse_args(), Path()
    folder = root / "docs/study"
    written = {path: (text := path.read_text(), filled(text, folder, path)) for path in pages(root)}
    stale = [path for path, (old, new) in written.items() if old != new]
    if arguments.check:
        if stale:
            raise InputError(f"{', '.join(map(str, stale))}: tables differ from their data; run `make docs`")
        return
    for path in stale:
        with atomic(path) as temporary:
            temporary.write_text(written[path][1])
    shown = "".join(new for _, new in written.values())
    for path in sorted(folder.glob("*.csv")):
        if f"study/{path.stem}.svg" in shown and "epoch" in pd.read_csv(path, nrows=0):
            with atomic(path.with_suffix(".svg")) as temporary:
                temporary.write_bytes(curves(study.read(path)))
    figures: dict[str, Figure | None] = {
        "network": banner(root / "params.yaml", study.read(folder / "main.csv")),
        "anytime": inference.anytime(inference.rows(folder)),
        "workers": workers.pictured(folder),
        "resources": resources.resources(folder),
        "partitions": resources.partitions(folder),
    }
    figures |= sweep_figures(folder)
    for name, figure in figures.items():
        if figure is not None:
            with atomic(root / f"docs/img/{name}.svg") as temporary:
                temporary.write_bytes(svg(figure))


if __name__ == "__main__":
    run(main)
