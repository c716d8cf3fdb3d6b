"""The paired comparison of the methods from compare.json, whose format stands in pipeline/compare.py."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.compare import steps_cell
from pipeline.metrics import DASH
from pipeline.page.html import Section, Table, Text, dropped, method_name
from pipeline.page.inputs import Inputs

Numbers = Mapping[str, Any]


def comparison_section(inputs: Inputs) -> Section | None:
    """Every method beside the reference: accuracies, differences with their tests, steps, time and memory."""
    found = inputs.comparison
    if not found or not found.get("methods"):
        return None
    tables = [main_table(found)] if found["reference"] is None else [main_table(found), difference_table(found)]
    texts = [Text(text) for text in [*found["notes"], *explanations(found)]]
    return Section("Comparison", [*(table for table in tables if table.rows), *texts])


def main_table(found: Numbers) -> Table:
    """A row per method; columns without any value are left out."""
    base = method_name(found["reference"] or "")
    first = found["quantities"][0]
    header = ["Method", "Seeds", first["header"], f"minus {base}, points", "p over seeds", "p over faces"]
    header += [f"Steps / {base}", f"Steps of the network alone / {base}", f"Time / {base}", f"Memory / {base}"]
    rows = [main_row(name, one, first) for name, one in found["methods"].items()]
    columns = {title: [row[i] for row in rows] for i, title in enumerate(header)}
    kept = dropped(columns)
    title = f"Every method beside {base}" if base else "Every method"
    return Table(title, list(kept), list(zip(*kept.values(), strict=True)))


def main_row(name: str, one: Numbers, first: Numbers) -> list[str]:
    """One method; first: the quantity that is compared."""
    against = one["against"] or {}
    difference = (against.get("quantities") or {}).get(first["name"])
    return [
        method_name(name),
        str(len(one["seeds"])),
        spread(one["quantities"].get(first["name"]), first),
        spread(difference, first, signed=True),
        p_value(difference),
        p_value(against.get("faces")),
        steps_cell(one.get("steps")),
        steps_cell(one.get("network_steps")),
        ratio(against.get("time_ratio")),
        ratio(against.get("peak_ratio")),
    ]


def difference_table(found: Numbers) -> Table:
    """Differences of every other quantity from the reference."""
    others = found["quantities"][1:]
    columns: dict[str, list[str]] = {"Method": []} | {one["header"]: [] for one in others}
    for name, one in found["methods"].items():
        if not one["against"]:
            continue
        columns["Method"].append(method_name(name))
        for quantity in others:
            numbers = one["against"]["quantities"].get(quantity["name"])
            text = spread(numbers, quantity, signed=True)
            p = p_value(numbers)
            columns[quantity["header"]].append(text if p == DASH else f"{text} (p {p})")
    kept = dropped(columns)
    title = f"Differences from {method_name(found['reference'])}; shares in points"
    return Table(title, list(kept), list(zip(*kept.values(), strict=True)))


def spread(numbers: Numbers | None, quantity: Numbers, signed: bool = False) -> str:
    """Mean ± standard deviation in the quantity's digits."""
    if not numbers or numbers["mean"] is None:
        return DASH
    scale, digits = (100, quantity["digits"]) if quantity["percent"] else (1, quantity["digits"])
    mean = f"{scale * numbers['mean']:{'+' if signed else ''}.{digits}f}"
    return mean if numbers["sd"] is None else f"{mean} ± {scale * numbers['sd']:.{digits}f}"


def p_value(test: Numbers | None) -> str:
    """p after Holm's correction."""
    if not test or test.get("p_holm") is None:
        return DASH
    return "< 0.001" if test["p_holm"] < 0.001 else f"{test['p_holm']:.3f}"


def ratio(value: float | None) -> str:
    """A ratio with two digits."""
    return DASH if value is None else f"{value:.2f}"


def explanations(found: Numbers) -> Iterator[str]:
    """What the numbers are."""
    if found["reference"] is None:
        return
    base = method_name(found["reference"])
    yield (
        f"± is the standard deviation over seeds. Differences are paired: a method and {base} of the same seed have "
        "the same initial weights and order of faces. p over seeds is of a paired t-test: would other seeds show the "
        "same? p over faces is of a paired test on the predictions: would other faces? Both are corrected for the "
        "number of methods (Holm)."
    )
    yield (
        f"Steps / {base} is the share of {base}'s steps after which a method first has the validation accuracy that "
        f"{base} ends with: the mean over the seeds that reach it, and how many do. Time is of an epoch, memory of a "
        "training step."
    )
