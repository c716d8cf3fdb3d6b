"""Tables of docs/results.md that `bench` measures: steps, their memory and limits, faces damaged or attacked."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.metrics import DASH
from pipeline.page.comparison import p_value
from pipeline.page.html import mean_and_deviation
from pipeline.page.tables import Table
from pipeline.runs import records
from pipeline.runs.significance import holm, interval, over_seeds


def robustness(found: pd.DataFrame) -> Table:
    """Per method the accuracy in %, mean over seeds, under every kind of damage."""
    means = found.groupby(["damage", "level", "method"], sort=False)["accuracy"].mean().unstack() * 100
    cells = zip(means.index, means.to_numpy(), strict=True)
    rows = [[name, f"{level:g}", *(f"{value:.1f}" for value in values)] for (name, level), values in cells]
    return ["damage", "level", *means.columns], rows


def attacks(found: pd.DataFrame) -> Table:
    """Per method the accuracy in % under every attack, mean over seeds and standard deviation."""
    groups = found.groupby(["attack", "eps", "method"], sort=False)["accuracy"]
    cells = groups.agg(list).unstack()
    rows = [
        [
            name,
            f"{eps:g}",
            *(DASH if isinstance(one, float) else mean_and_deviation([100 * x for x in one], 1) for one in row),
        ]
        for (name, eps), row in zip(cells.index, cells.to_numpy(), strict=True)
    ]
    return ["attack", "eps", *cells.columns], rows


def wrong_labels(found: pd.DataFrame) -> Table:
    """Per share of wrong labels and method, in %: mean and standard deviation over seeds."""
    names = ["accuracy", "by_heart", "seen_through"]
    groups = found.groupby(["wrong_labels", "method"])
    rows = [
        [f"{100 * share:g}", method, str(len(own)), *(mean_and_deviation([*(100 * own[name])], 1) for name in names)]
        for (share, method), own in groups
    ]
    return ["wrong labels, %", "method", "seeds", "Test accuracy, %", "learnt by heart, %", "seen through, %"], rows


def differences(found: pd.DataFrame, setting: Sequence[str], reference: str, methods: Sequence[str]) -> Table:
    """Accuracy of methods less that of the reference with the same seed, in points: mean, 95 % interval over seeds, p.

    setting: columns that say under what a row was measured, e.g. attack and eps. p is of a paired t-test over seeds,
    after Holm's correction for the number of methods.
    """
    rows = []
    for where, own in found.groupby(list(setting), sort=False):
        accuracies = 100 * own.pivot(index="seed", columns="method", values="accuracy")
        pairs = {method: list((accuracies[method] - accuracies[reference]).dropna()) for method in methods}
        corrected = holm({method: over_seeds(pair) for method, pair in pairs.items()})
        settings = [value if isinstance(value, str) else f"{value:g}" for value in where]
        rows += [[*settings, method, *difference(pairs[method], corrected[method])] for method in methods]
    return [*setting, "method", "seeds", f"less {reference}, points", "95 %", "p (Holm)"], rows


def difference(pair: Sequence[float], p_holm: float | None) -> list[str]:
    """Number of seeds, mean difference, its interval and p; dashes where there is no spread."""
    bounds = interval(pair)
    reach = DASH if bounds is None else f"{bounds[0]:+.1f} to {bounds[1]:+.1f}"
    return [str(len(pair)), f"{np.mean(pair):+.1f}", reach, p_value({"p_holm": p_holm})]


def steps(bench: Mapping[str, Any]) -> Table:
    """Time and memory of a step beside those of the first method."""
    first = bench["rows"][0]["method"]
    rows = []
    for row in bench["rows"]:
        low_high = row.get("step_ratio_quartiles") if row["method"] != first else None
        time = f"{row['step_ratio']:.2f}" + (f" ({low_high[0]:.2f} to {low_high[1]:.2f})" if low_high else "")
        known = [f"{row[key]:,.0f}" if key in row else DASH for key in ("step_ms", "peak_mib")]
        rows.append([row["method"], time, f"{row['peak_ratio']:.2f}", *known])
    return ["method", f"mean time / {first} (quartiles of pairs)", f"peak memory / {first}", "ms", "MiB"], rows


def depth(found: Sequence[Mapping[str, Any]]) -> Table:
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
    return ["method", *(f"{count} added, MiB" for count in added), f"{added[-2]} to {added[-1]}"], rows


def roofline(parts: pd.DataFrame) -> Table:
    """Every part of a step with its time and the limit of the machine."""
    rows = [
        [str(row.part), f"{row.measured_ms:.2f}", f"{row.limit_ms:.2f}", str(row.limit), f"{row.times_limit:.2f}"]
        for row in parts.itertuples()
    ]
    return ["part", "ms", "limit, ms", "which limit", "time / limit"], rows


TABLES: dict[str, Callable[[Path], Table]] = {
    "robustness": lambda folder: robustness(pd.read_csv(folder / "robustness.csv")),
    "attacks": lambda folder: attacks(pd.read_csv(folder / "attacks.csv")),
    "attacks48": lambda folder: attacks(pd.read_csv(folder / "attacks48.csv")),
    "attacks48-differences": lambda folder: differences(
        pd.read_csv(folder / "attacks48.csv"), ["attack", "eps"], "local_ce", ["nbp", "nbp_more_hsic"]
    ),
    "wrong-labels": lambda folder: wrong_labels(pd.read_csv(folder / "wrong-labels.csv")),
    "wrong-labels-differences": lambda folder: differences(
        pd.read_csv(folder / "wrong-labels.csv"), ["wrong_labels"], "local_ce_two_layer_heads", ["nbp_two_layer_heads"]
    ),
    "step": lambda folder: steps(records.read_json(folder / "step.json")),
    "step48": lambda folder: steps(records.read_json(folder / "step48.json")),
    "step224": lambda folder: steps(records.read_json(folder / "step224.json")),
    "depth": lambda folder: depth(records.read_json(folder / "depth.json")["rows"]),
    "roofline": lambda folder: roofline(pd.read_csv(folder / "roofline.csv")),
}
