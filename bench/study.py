"""Runs and their evaluations -> one small table of raw results, and from it the comparison of the methods with BP.

Where units vote, what the network's own classifier reaches without the others stands beside it ("network alone").
The table gains the runs found and keeps those it had, so that a study may be made in pieces and on several machines.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from pipeline import figures
from pipeline.process import InputError, atomic, run

EXAMPLE = """example:
  python -m bench.study docs/nbp-study.csv --runs runs --evaluations results/evaluate --figure docs/nbp-study.svg
"""
KEYS = ["method", "seed", "epoch"]
NETWORK = "network_accuracy"  # of the network's own classifier
SCORES = ["accuracy", "accuracy_without_copies", "macro_f1", "expected_calibration_error", "negative_log_likelihood"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.study",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", type=Path, help="CSV of raw results, one row per run and epoch")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--evaluations", type=Path, default=Path("results/evaluate"))
    parser.add_argument("--figure", type=Path, help="SVG to write: validation accuracy and loss over epochs")
    parser.add_argument("--reference", default="bp", help="the method that others are compared with")
    args = parser.parse_args()
    table = gathered(args.table, args.runs, args.evaluations)
    if args.reference not in set(table["method"]):
        raise InputError(f"--reference: no run of {args.reference!r} in {args.table} or {args.runs}")
    with atomic(args.table) as path:
        table.to_csv(path, index=False, lineterminator="\n")
    if args.figure:
        with atomic(args.figure) as path:
            path.write_bytes(curves(table))
    print(markdown(compared(table, args.reference)))


def gathered(table: Path, runs: Path, evaluations: Path) -> pd.DataFrame:
    """Rows of `table`, if it exists, with those of all runs that have been evaluated; a run found replaces its rows."""
    parts = []
    for history in sorted(runs.glob("*-*/history.csv")):
        method, seed = history.parent.name.rsplit("-", 1)
        scores = evaluations / history.parent.name / "metrics.json"
        if scores.exists():
            test = json.loads(scores.read_text())
            about = {"method": method, "seed": int(seed)} | {f"test/{name}": test[name] for name in SCORES}
            about["best_epoch"] = json.loads((history.parent / "metrics.json").read_text())["best_epoch"]
            rows = pd.read_csv(history)
            *_, last = test.get("accuracy_by_unit") or [None]
            if last is not None:
                about[f"test/{NETWORK}"] = test["accuracy_by_unit"][last]
                about[f"val/{NETWORK}"] = rows[f"unit/{last}/accuracy"]
            parts.append(pd.concat([rows, pd.DataFrame(about, index=rows.index)], axis=1))
    rows = joined(table, parts, KEYS, runs)
    rows = rows.copy()  # in one piece: a unit per layer has over a hundred columns
    for split in ("val", "test"):
        alone = rows.get(f"{split}/{NETWORK}", rows[f"{split}/accuracy"])
        rows[f"{split}/{NETWORK}"] = alone.fillna(rows[f"{split}/accuracy"])
    return rows[KEYS + [name for name in rows if name not in KEYS]]


def joined(table: Path, parts: list[pd.DataFrame], keys: list[str], runs: Path) -> pd.DataFrame:
    """Rows of `table`, if it exists, with those of `parts`, found in `runs`, which replace rows of the same keys."""
    parts = ([pd.read_csv(table)] if table.exists() else []) + parts
    if not parts:
        raise InputError(f"{runs}: no evaluated run, and no table {table}")
    return pd.concat(parts).drop_duplicates(keys, keep="last").sort_values(keys)


def curves(table: pd.DataFrame) -> bytes:
    """SVG of the validation of every method, the mean over seeds with a band from the least to the largest."""
    drawn = [
        figures.Curve(method, [history for _, history in rows.groupby("seed")])
        for method, rows in table.groupby("method", sort=False)
    ]
    return figures.svg(figures.learning_curves(drawn, None, splits=["val"]))


def compared(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """One row per method: scores over seeds, the paired difference from the reference, and steps to its accuracy.

    steps: share of the reference's steps after which a method's validation accuracy first reaches the one that the
    reference ends with, mean over the seeds in which it does; reached: how many of the `paired` seeds, those that both
    have, these are. network, network steps, network reached: the test accuracy and the same two of the network alone.
    """
    ends = table.sort_values("epoch").groupby(["method", "seed"]).last()
    rows = []
    for method, own in ends.groupby("method"):
        own = own.droplevel("method")
        base = ends.loc[reference]
        seeds = own.index.intersection(base.index)
        difference = (own.loc[seeds, "test/accuracy"] - base.loc[seeds, "test/accuracy"]).to_numpy()
        shares = [steps_share(table, method, reference, seed, "accuracy") for seed in seeds]
        alone = [steps_share(table, method, reference, seed, NETWORK) for seed in seeds]
        rows.append(
            {"method": method, "seeds": len(own)}
            | {f"{name} mean": own[f"test/{name}"].mean() for name in SCORES}
            | {"accuracy sd": own["test/accuracy"].std(), "difference": difference.mean() if len(seeds) else np.nan}
            | {
                "p": paired(difference) if method != reference else np.nan,
                "steps": pd.Series(shares).mean(),
                "reached": int(np.isfinite(shares).sum()),
                "network": own[f"test/{NETWORK}"].mean(),
                "network steps": pd.Series(alone).mean(),
                "network reached": int(np.isfinite(alone).sum()),
                "paired": len(seeds),
            }
        )
    return pd.DataFrame(rows).sort_values("accuracy mean", ascending=False, ignore_index=True)


def steps_share(table: pd.DataFrame, method: str, reference: str, seed: int, measure: str) -> float:
    """See `compared`; measure: "accuracy", or that of the network alone."""
    own, base = (table[(table["method"] == name) & (table["seed"] == seed)] for name in (method, reference))
    base = base.sort_values("epoch")
    reached = own[own[f"val/{measure}"] >= base["val/accuracy"].iloc[-1]]
    return reached["step"].min() / base["step"].iloc[-1] if len(reached) else np.nan


def paired(difference: np.ndarray) -> float:
    """p of a paired two-sided t-test of no difference; NaN for fewer than two pairs or no spread."""
    return stats.ttest_1samp(difference, 0).pvalue if len(difference) > 1 and np.ptp(difference) else np.nan


def markdown(rows: pd.DataFrame) -> str:
    """The comparison as a Markdown table, shares in per cent."""
    lines = [
        "| method | seeds | test accuracy | sd | minus BP | p | without copies | macro-F1 | ECE | NLL | steps / BP "
        "| network alone | its steps / BP |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for _, row in rows.iterrows():
        shares = ["accuracy mean", "accuracy sd", "difference"]
        accuracy, deviation, difference = (_number(100 * row[name], 2) for name in shares)
        rest = [_number(100 * row[f"{name} mean"], 1) for name in SCORES[1:4]]
        cells = [row["method"], row["seeds"], accuracy, deviation, difference, _number(row["p"], 3), *rest]
        reached = f"{_number(row['steps'], 2)} ({row['reached']} of {row['paired']})"
        alone = f"{_number(row['network steps'], 2)} ({row['network reached']} of {row['paired']})"
        cells += [_number(row["negative_log_likelihood mean"], 3), reached, _number(100 * row["network"], 2), alone]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _number(value: float, digits: int) -> str:
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


if __name__ == "__main__":
    run(main)
