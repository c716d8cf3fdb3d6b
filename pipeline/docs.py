"""`make docs`: tracked results of studies -> the marked tables and the curves of README.md and docs/.

`python -m pipeline.docs` writes every table between `<!-- table: NAME -->` and `<!-- end -->` anew, the curves
docs/study/NAME.svg, README's figure, those of leaving early and of workers. `--check` writes nothing and fails where a
table differs from its data.

Names of tables:
- STUDY: the comparison of docs/study/STUDY.csv with BP, e.g. `main`.
- STUDY-seeds: each of its runs.
- robustness: the methods on damaged faces, from docs/study/robustness.csv.
- step: time and memory of a step, from docs/study/step.json, which `python -m bench.step --out` writes.
- parallel: every way to use two cores, from docs/study/parallel.json, which `python -m bench.parallel --out` writes.
- memory, memory-depth: of the largest worker, from docs/study/memory.json, which `python -m bench.memory --out` writes.
- headline: README's table, from main.csv and step.json.
- claims: the paper's claims, from main.csv, width48.csv and step.json.
- card-..., data-...: the model card and the data card, from card.json and audit.json, which `python -m bench.card`
  writes.
- cost, leaving, int8, deletion: what an answer costs, from cost.json of `python -m bench.latency`, and card.json.
- faults, fuzz, soak, reliability-origins: what `make faults`, `make soak` and `python -m bench.fuzz` found.
- any other: the rows of docs/study/NAME.csv as they stand, e.g. `sweep-beta`.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import compare
from pipeline.compare import PRIMARY, QUANTITIES, REFERENCE
from pipeline.metrics import DASH
from pipeline.page import cards, claims, inference, reliability, workers
from pipeline.page.banner import banner
from pipeline.page.curves import Curve, learning_curves
from pipeline.page.figures import svg
from pipeline.process import InputError, atomic, command_line, run
from pipeline.runs import records, study
from pipeline.runs.study import Outcome

MADE = cards.TABLES | inference.TABLES | reliability.TABLES | workers.TABLES
MARK = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- end -->", re.DOTALL)
LABELS = {
    "bp": "BP: back-propagation",
    "nbp": "NBP: four units that vote",
    "nbp_early": "NBP whose units stop early",
    "deep_supervision": "Deep supervision: NBP's losses, gradients pass",
}  # rows of README's table


def filled(text: str, folder: Path, where: Path) -> str:
    """The text of a page with every marked table made anew; raises InputError for a name without data, or no end."""
    if text.count("<!-- table:") != len(MARK.findall(text)):
        raise InputError(f"{where}: a mark '<!-- table: NAME -->' lacks its '<!-- end -->'")
    return MARK.sub(lambda mark: f"<!-- table: {mark[1]} -->\n\n{table(mark[1], folder)}\n\n<!-- end -->", text)


def table(name: str, folder: Path) -> str:
    """A table by its name; folder: docs/study. A CSV that is of no runs stands as it is."""
    if name == "robustness":
        return robustness(pd.read_csv(folder / "robustness.csv"))
    if name in ("step", "step224"):
        return steps(records.read_json(folder / f"{name}.json"))
    if name == "depth":
        return depth(records.read_json(folder / "depth.json")["rows"])
    if name == "roofline":
        return roofline(pd.read_csv(folder / "roofline.csv"))
    if name in MADE:
        return lines(*MADE[name](folder))
    if name == "claims":
        return lines(claims.HEADER, claims.claims(folder))
    if name == "headline":
        return headline(study.read(folder / "main.csv"), records.read_json(folder / "step.json"))
    if name.endswith("-seeds"):
        return seeds(study.read(folder / f"{name.removesuffix('-seeds')}.csv"))
    path = folder / f"{name}.csv"
    if path.exists() and "epoch" not in pd.read_csv(path, nrows=0):
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        return lines(header, rows)
    return compare.markdown(compare.compared(study.read(path), REFERENCE))


def lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def robustness(rows: pd.DataFrame) -> str:
    """Per method the accuracy in %, mean over seeds, under every kind of damage."""
    means = rows.groupby(["damage", "level", "method"], sort=False)["accuracy"].mean().unstack() * 100
    cells = zip(means.index, means.to_numpy(), strict=True)
    return lines(
        ["damage", "level", *means.columns],
        [[name, f"{level:g}", *(f"{value:.1f}" for value in values)] for (name, level), values in cells],
    )


def steps(bench: Mapping[str, Any]) -> str:
    """Time and memory of a step beside those of the first method."""
    first = bench["rows"][0]["method"]
    rows = []
    for row in bench["rows"]:
        low_high = row.get("step_ratio_quartiles") if row["method"] != first else None
        time = f"{row['step_ratio']:.2f}" + (f" ({low_high[0]:.2f} to {low_high[1]:.2f})" if low_high else "")
        known = [f"{row[key]:,.0f}" if key in row else DASH for key in ("step_ms", "peak_mib")]
        rows.append([row["method"], time, f"{row['peak_ratio']:.2f}", *known])
    return lines(["method", f"time / {first} (quartiles)", f"peak memory / {first}", "ms", "MiB"], rows)


def depth(found: Sequence[Mapping[str, Any]]) -> str:
    """Peak memory of a step as blocks are added; growth is that from one added block on."""
    added = list(found[0]["peak_mib"])
    rows = [
        [
            row["method"],
            *(f"{row['peak_mib'][count]:,.0f}" for count in added),
            f"{row['ratio_of_the_last_two'] - 1:+.1%}",
        ]
        for row in found
    ]
    return lines(["method", *(f"{count} added, MiB" for count in added), f"{added[-2]} to {added[-1]}"], rows)


def roofline(parts: pd.DataFrame) -> str:
    """Every part of a step with its time and the limit of the machine."""
    rows = [
        [str(row.part), f"{row.measured_ms:.2f}", f"{row.limit_ms:.2f}", str(row.limit), f"{row.times_limit:.2f}"]
        for row in parts.itertuples()
    ]
    return lines(["part", "ms", "limit, ms", "which limit", "time / limit"], rows)


def seeds(outcomes: Sequence[Outcome]) -> str:
    """Each run with its test scores."""
    shown = [one for one in QUANTITIES if any(compare.value(run, one) is not None for run in outcomes)]
    rows = [
        [run.method, str(run.seed), *(one.text(compare.value(run, one)) for one in shown), str(run.best_epoch)]
        for run in outcomes
    ]
    return lines(["method", "seed", *(one.header for one in shown), "best epoch"], rows)


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
            share = (one["steps"] or {}).get("share")
            time, memory = (cost.get(name, {}).get(key) for key in ("step_ratio", "peak_ratio"))
            runs = f"{mean}{spread} ({len(one['seeds'])} seeds)"
            rows.append([label, runs, ratio(share), f"{ratio(time)}; {ratio(memory)}"])
    costs = ["steps to BP's final accuracy, all of BP's = 1", "time; memory of a step, BP's = 1"]
    faces = f"{comparison['test_faces']:,}" if comparison["test_faces"] else "the"
    table = lines(["method", PRIMARY.header, *costs], rows)
    return f"{table}\n\nMean ± standard deviation over seeds, on {faces} PrivateTest faces."


def ratio(value: float | None) -> str:
    """A ratio with two digits; a dash where it is unknown."""
    return DASH if value is None else f"{value:.2f}"


def curves(outcomes: Sequence[Outcome]) -> bytes:
    """SVG of the validation of every method, the mean over seeds with a band from the least to the largest."""
    methods = dict.fromkeys(one.method for one in outcomes)
    drawn = [Curve(name, [one.history for one in outcomes if one.method == name]) for name in methods]
    return svg(learning_curves(drawn, None, splits=["val"]))


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
    for path in sorted(folder.glob("*.csv")):
        if "epoch" in pd.read_csv(path, nrows=0):
            with atomic(path.with_suffix(".svg")) as temporary:
                temporary.write_bytes(curves(study.read(path)))
    figures = {
        "network": banner(root / "params.yaml", study.read(folder / "main.csv")),
        "anytime": inference.anytime(inference.rows(folder)),
        "workers": workers.pictured(folder),
    }
    for name, figure in figures.items():
        if figure is not None:
            with atomic(root / f"docs/img/{name}.svg") as temporary:
                temporary.write_bytes(svg(figure))


if __name__ == "__main__":
    run(main)
