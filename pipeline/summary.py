"""First command of the stage `compare`: all runs in few numbers and curves, for DVC's metrics, plots and `exp show`.

`python -m pipeline.summary OUT_DIR` writes metrics.json and plots/*.csv, the same bytes for the same runs:
- metrics.json: per method accuracy, accuracy_without_copies and macro_f1 of the test split and val_accuracy of the best
  epoch, means over seeds; then the number of training faces.
- plots/val_accuracy.csv, val_loss.csv: a line per method; unit_accuracy.csv, cka_label.csv: a line per method and unit
  or block, all means over seeds. plots/confusion.csv: the share of each class that is predicted as each.

Folders of runs and evaluations that params.yaml does not ask for move to .former/: what is left of other seeds or
methods would make DVC see another folder than the one that it recorded.
"""

import itertools
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import params as parameters
from pipeline.process import InputError, atomic, command_line, run
from pipeline.runs import records
from pipeline.runs.records import Run

SCORES = ("accuracy", "accuracy_without_copies", "macro_f1")
CURVES: dict[str, tuple[str, str]] = {  # file -> pattern of the history's columns, label of its line
    "val_accuracy": (r"val/accuracy", "{method}"),
    "val_loss": (r"val/loss", "{method}"),
    "unit_accuracy": (r"unit/(.+)/accuracy", "{method} {part}"),
    "cka_label": (r"block/(.+)/cka_label", "{method} {part}"),
}
FORMER = Path(".former")


def metrics(runs: Sequence[Run]) -> dict[str, Any]:
    """The content of metrics.json."""
    result: dict[str, Any] = {}
    for method in dict.fromkeys(one.method for one in runs):
        own = [one for one in runs if one.method == method]
        scores = {name: _mean(one.scores.get(name) if one.scores else None for one in own) for name in SCORES}
        result[method] = scores | {"val_accuracy": _mean(one.training["val"]["accuracy"] for one in own)}
    return result | {"training_faces": runs[0].about.data.faces}


def _mean(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found else round(sum(found) / len(found), 4)  # type: ignore[arg-type]


def curve(runs: Sequence[Run], pattern: str, label: str) -> pd.DataFrame:
    """A row per epoch and line: epoch, setting and value, the mean over seeds."""
    rows = []
    for one in runs:
        for name in one.history:
            found = re.fullmatch(pattern, name)
            if found:
                setting = label.format(method=one.method, part=found[1] if found.groups() else "")
                values = zip(one.history["epoch"], one.history[name], strict=True)
                rows += [(int(epoch), setting, value) for epoch, value in values]
    table = pd.DataFrame(rows, columns=["epoch", "setting", "value"])
    return table.groupby(["setting", "epoch"], sort=False, as_index=False)["value"].mean()[list(table)].round(6)


def confusion(runs: Sequence[Run]) -> pd.DataFrame:
    """A row per method, label and prediction: the share of the label's faces that are predicted so, all seeds."""
    tables = []
    for one in runs:
        if one.predictions is not None:
            names = dict(enumerate(one.about.data.classes))
            table = one.predictions[["label", "predicted"]].apply(lambda column, names=names: column.map(names))
            tables.append(table.assign(setting=one.method))
    if not tables:
        return pd.DataFrame(columns=["setting", "actual", "predicted", "share"])
    counts = pd.concat(tables).rename(columns={"label": "actual"}).groupby(["setting", "actual", "predicted"]).size()
    shares = counts / counts.groupby(["setting", "actual"]).transform("sum")
    return shares.round(4).rename("share").reset_index()


def summary(runs: Sequence[Run], out: Path) -> None:
    """Write metrics.json and the plots, all of them or none."""
    tables = {name: curve(runs, *how) for name, how in CURVES.items()} | {"confusion": confusion(runs)}
    with ExitStack() as outputs:
        numbers = outputs.enter_context(atomic(out / "metrics.json"))
        numbers.write_text(json.dumps(metrics(runs), indent=2, allow_nan=False) + "\n")  # methods in their order
        for name, table in tables.items():
            table.to_csv(outputs.enter_context(atomic(out / "plots" / f"{name}.csv")), index=False, lineterminator="\n")


def put_aside(folder: Path, wanted: Callable[[str], bool], to: Path) -> None:
    """Move the folders below `folder` that are not wanted to `to`; what was put there before gets a number."""
    for own in sorted(folder.iterdir()) if folder.is_dir() else []:
        if own.is_dir() and not wanted(own.name):
            target, before = to / own.name, ""
            if target.exists():
                places = (target.with_name(f"{own.name}.{number}") for number in itertools.count(1))
                earlier = target.rename(next(place for place in places if not place.exists()))
                before = f"; the earlier one is {earlier}"
            to.mkdir(parents=True, exist_ok=True)
            shutil.move(own, target)
            print(f"{own}: not asked for in params.yaml, moved to {target}{before}", file=sys.stderr)


def main() -> None:
    """Command line of the stage."""
    parser = command_line(
        "python -m pipeline.summary",
        "Write the numbers and curves of all runs that `dvc metrics` and `dvc plots` show. Folders of runs and "
        "evaluations that params.yaml does not ask for move to .former/.",
        "example: python -m pipeline.summary results",
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="where metrics.json and plots/ go")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    parser.add_argument("--evaluations", type=Path, default=Path("results/evaluate"), help="default: %(default)s")
    args = parser.parse_args()
    asked = parameters.load(args.params).run
    names = {f"{method}-{seed}" for method in asked.methods for seed in asked.seeds}  # as dvc.yaml names the folders
    for folder, kind in ((args.runs, "runs"), (args.evaluations, "evaluate")):
        put_aside(folder, names.__contains__, FORMER / kind)
    missing = sorted(names - {path.parent.name for path in args.runs.glob("*/run.json")})
    if missing:
        raise InputError(f"{args.runs}: no run {', '.join(missing)}; `dvc repro` trains it")
    runs = records.read(args.runs, args.evaluations, asked.methods, asked.seeds)
    records.check_one_look(runs)
    summary(runs, args.out)


if __name__ == "__main__":
    run(main)
