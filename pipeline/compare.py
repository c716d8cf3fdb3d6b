"""Stage `compare`: runs and their evaluations -> every method beside a reference, with tests of the differences.

`python -m pipeline.compare OUT_DIR` writes compare.json and compare.md, both or none, the same bytes for the same runs.
`python -m pipeline.compare --collect docs/study/NAME.csv` adds the runs to the tracked tables of a study instead.
`python -m pipeline.compare --study docs/study/NAME.csv` compares what such tables hold, and needs no runs.

compare.json:
- reference: the method that others are compared with; null where there is none.
- test_faces: how many faces the test accuracies are of.
- quantities: [{name, header, digits, percent}], in the order of the tables. A share in 0..1 has percent true.
- methods: by name, the reference first, then by test accuracy:
  - seeds: [int].
  - quantities: by name {values, mean, sd}; values by seed in the order of `seeds`, null where unknown. sd is null
    below two seeds.
  - seconds_per_epoch: {values, mean, sd} or null. peak_mib: memory of a step from the bench, or null.
  - steps, network_steps: {share, reached, of}, null where no seed is shared with the reference. share: of the
    reference's steps until the validation accuracy that it ends with is first reached, mean over the `reached` of `of`
    seeds; null where none does. network_steps: by the network's own classifier alone, null where that is
    unknown.
  - against: null for the reference and where no seed is shared, else
    - seeds: [int], those that both have.
    - quantities: by name {values, mean, sd, p, p_holm}: differences from the reference; p of the paired t-test over
      seeds, null below two.
    - faces: null without stored predictions, else {seeds, faces, p, p_holm, by_seed: [{seed, only_method,
      only_reference, p}]}: the test over faces of the test accuracy.
    - time_ratio: of the seconds of an epoch, mean over seeds that ran in like places; null where unknown.
    - peak_ratio: of the peak memory, or null.
- notes: [str], what a reader has to know.

p_holm is p after Holm's correction over the methods compared. See pipeline/runs/significance.py for the tests.
"""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.metrics import DASH, METRICS, Quantity
from pipeline.page import tables
from pipeline.process import InputError, atomic, command_line, only_one, run
from pipeline.runs import records, study
from pipeline.runs.significance import deviation, holm, mean, over_faces, over_seeds
from pipeline.runs.study import FACES, NETWORK, Outcome

VALIDATION = Quantity("validation_accuracy", "Validation accuracy", 1, True)
QUANTITIES: tuple[Quantity, ...] = (*METRICS, VALIDATION, Quantity(NETWORK, "Network alone", 1, True))
PRIMARY, REFERENCE = METRICS[0], "bp"

Pairs = Sequence[tuple[Outcome, Outcome]]


def compared(outcomes: Sequence[Outcome], reference: str, peaks: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The content of compare.json; peaks: MiB of a step by method. Raises InputError for runs that are not alike."""
    study.check_alike(outcomes)
    peaks = peaks or {}
    methods: dict[str, list[Outcome]] = {}
    for one in outcomes:
        methods.setdefault(one.method, []).append(one)
    found = {name: _method(own, _pairs(own, methods.get(reference, [])), peaks) for name, own in methods.items()}
    if reference in found:
        found[reference]["against"] = None
    _set_holm(found)
    order = sorted(found, key=lambda name: (name != reference, -found[name]["quantities"][PRIMARY.name]["mean"]))
    return {
        "reference": reference if reference in methods else None,
        "test_faces": int(outcomes[0].scores[FACES] or 0) or None,
        "quantities": [
            {"name": one.name, "header": one.header, "digits": one.digits, "percent": one.percent} for one in QUANTITIES
        ],
        "methods": {name: found[name] for name in order},
        "notes": list(_notes(found, reference)),
    }


def _pairs(own: Sequence[Outcome], base: Sequence[Outcome]) -> Pairs:
    others = {one.seed: one for one in base}
    return [(one, others[one.seed]) for one in own if one.seed in others]


def _method(own: Sequence[Outcome], pairs: Pairs, peaks: Mapping[str, float]) -> dict[str, Any]:
    seconds = [one.seconds for one in own]
    return {
        "seeds": [one.seed for one in own],
        "quantities": {one.name: _spread([value(run, one) for run in own]) for one in QUANTITIES},
        "seconds_per_epoch": _spread(seconds) if any(value is not None for value in seconds) else None,
        "peak_mib": peaks.get(own[0].method),
        "steps": _steps(pairs, "val/accuracy") if pairs else None,
        "network_steps": _steps(pairs, f"val/{NETWORK}") if pairs and own[0].scores.get(NETWORK) else None,
        "against": _against(pairs, peaks) if pairs else None,
    }


def value(one: Outcome, quantity: Quantity) -> float | None:
    """A quantity of one run; None where it is unknown."""
    return one.validation if quantity is VALIDATION else one.scores.get(quantity.name)


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {"values": list(values), "mean": mean(known), "sd": deviation(known)}


def _against(pairs: Pairs, peaks: Mapping[str, float]) -> dict[str, Any]:
    peak, base_peak = (peaks.get(one.method) for one in pairs[0])
    return {
        "seeds": [one.seed for one, _ in pairs],
        "quantities": {one.name: _difference(pairs, one) for one in QUANTITIES},
        "faces": _faces(pairs),
        "time_ratio": mean([a.seconds / b.seconds for a, b in pairs if a.seconds and b.seconds and a.place == b.place]),
        "peak_ratio": peak / base_peak if peak and base_peak else None,
    }


def _difference(pairs: Pairs, quantity: Quantity) -> dict[str, Any]:
    both = [(value(one, quantity), value(other, quantity)) for one, other in pairs]
    values = [None if a is None or b is None else a - b for a, b in both]
    known = [value for value in values if value is not None]
    return _spread(values) | {"p": over_seeds(known), "p_holm": None}


def _steps(pairs: Pairs, column: str) -> dict[str, Any]:
    shares = [share for one, other in pairs if (share := steps_share(one, other, column)) is not None]
    return {"share": mean(shares), "reached": len(shares), "of": len(pairs)}


def steps_share(one: Outcome, other: Outcome, column: str = "val/accuracy") -> float | None:
    """Share of the other's steps after which `column` of one reaches the other's last validation accuracy.

    None where it never does.
    """
    end = other.history.sort_values("epoch").iloc[-1]
    steps = one.steps_to(end["val/accuracy"], column)
    return None if steps is None else float(steps / end["step"])


def _faces(pairs: Pairs) -> dict[str, Any] | None:
    differences = {
        one.seed: own.astype(np.int64) - base.astype(np.int64)
        for one, other in pairs
        if (own := one.correct) is not None and (base := other.correct) is not None
    }
    if not differences:
        return None
    by_seed = [
        {"seed": seed, "only_method": int((own > 0).sum()), "only_reference": int((own < 0).sum())}
        | {"p": over_faces(own)}
        for seed, own in differences.items()
    ]
    together = np.sum(list(differences.values()), axis=0)
    faces = {"seeds": list(differences), "faces": len(together), "p": over_faces(together), "p_holm": None}
    return faces | {"by_seed": by_seed}


def _set_holm(found: dict[str, dict[str, Any]]) -> None:
    """Set every p_holm."""
    compared = {name: one["against"] for name, one in found.items() if one["against"]}
    families = [{name: one["quantities"][quantity.name] for name, one in compared.items()} for quantity in QUANTITIES]
    families.append({name: one["faces"] for name, one in compared.items() if one["faces"]})
    for tests in families:
        for name, value in holm({name: test["p"] for name, test in tests.items()}).items():
            tests[name]["p_holm"] = value


def _notes(found: Mapping[str, Mapping[str, Any]], reference: str | None) -> Iterator[str]:
    if reference not in found:
        yield "There is no reference method among the runs: nothing is compared."
        return
    compared = {name: one["against"] for name, one in found.items() if one["against"]}
    single = [name for name, one in compared.items() if len(one["seeds"]) < 2]
    if single:
        yield f"One seed shared with {reference}, hence no test over seeds: {_listed(single, compared)}."
    equal = [name for name in compared if name not in single and _untested(compared[name])]
    if equal:
        yield f"The same difference with every seed, hence no test over seeds: {_listed(equal, compared)}."
    without = [name for name, one in compared.items() if not one["faces"]]
    if without:
        yield f"No seed whose predictions are stored for both, hence no test over faces: {_listed(without, compared)}."
    alone = [name for name, one in found.items() if name != reference and not one["against"]]
    if alone:
        yield f"No seed shared with {reference}, hence no comparison: {', '.join(alone)}."


def _untested(against: Mapping[str, Any]) -> bool:
    return against["quantities"][PRIMARY.name]["p"] is None


def _listed(names: Sequence[str], among: Collection[str]) -> str:
    return "all methods" if len(names) == len(among) else ", ".join(names)


def markdown(comparison: Mapping[str, Any]) -> str:
    """The content of compare.json as a Markdown table, its notes below; columns without any value are left out."""
    columns = _columns(comparison)
    rows = [[cell(name, one) for _, cell in columns] for name, one in comparison["methods"].items()]
    kept = [i for i in range(len(columns)) if any(row[i] != DASH for row in rows)]
    table = tables.markdown([columns[i][0] for i in kept], [[row[i] for i in kept] for row in rows])
    return "\n\n".join([table, *comparison["notes"]])


Columns = list[tuple[str, Callable[[str, Mapping[str, Any]], str]]]


def _columns(comparison: Mapping[str, Any]) -> Columns:
    """Header and cell of each column; a cell is made from a method's name and its part of compare.json."""
    base = comparison["reference"]
    return [
        ("method", lambda name, _: name),
        ("seeds", lambda _, one: str(len(one["seeds"]))),
        (PRIMARY.header, lambda _, one: _mean(one, PRIMARY, 1)),
        ("sd", lambda _, one: PRIMARY.text(one["quantities"][PRIMARY.name]["sd"], 1)),
        (f"minus {base}, points", lambda _, one: _mean(one["against"], PRIMARY, 1)),
        ("p, seeds (Holm)", lambda _, one: p_cell(one["against"] and one["against"]["quantities"][PRIMARY.name])),
        ("p, faces (Holm; seeds)", lambda _, one: p_cell(one["against"] and one["against"]["faces"])),
        *((other.header, _mean_of(other)) for other in QUANTITIES[1:-1]),
        (f"steps / {base}", lambda _, one: steps_cell(one["steps"])),
        (QUANTITIES[-1].header, lambda _, one: _mean(one, QUANTITIES[-1], 1)),
        (f"its steps / {base}", lambda _, one: steps_cell(one["network_steps"])),
        ("s / epoch", lambda _, one: _ratio((one["seconds_per_epoch"] or {}).get("mean"), 1)),
        (f"time / {base}", lambda _, one: _ratio((one["against"] or {}).get("time_ratio"), 2)),
        (f"memory / {base}", lambda _, one: _ratio((one["against"] or {}).get("peak_ratio"), 2)),
    ]


def _mean_of(quantity: Quantity) -> Callable[[str, Mapping[str, Any]], str]:
    return lambda _, one: _mean(one, quantity, 0)


def _mean(one: Mapping[str, Any] | None, quantity: Quantity, more: int) -> str:
    return quantity.text(one["quantities"][quantity.name]["mean"], more) if one else DASH


def p_cell(test: Mapping[str, Any] | None) -> str:
    """p of a test, p by Holm, and of a test over faces the number of its seeds."""
    if not test or test["p"] is None:
        return DASH
    seeds = f"; {len(test['seeds'])}" if "seeds" in test else ""
    return f"{_p(test['p'])} ({_p(test['p_holm'])}{seeds})"


def steps_cell(steps: Mapping[str, Any] | None) -> str:
    """Share of the reference's steps, and how many seeds reach its last accuracy."""
    return f"{_ratio(steps['share'], 2)} ({steps['reached']} of {steps['of']})" if steps else DASH


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _ratio(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def peaks(bench: Path | None) -> dict[str, float]:
    """MiB of a step by method, as bench.step wrote them; empty where there is no such file."""
    if bench is None or not bench.exists():
        return {}
    try:
        return {row["method"]: row["peak_mib"] for row in records.read_json(bench).get("rows", [])}
    except (KeyError, TypeError) as error:
        raise InputError(f"{bench}: a row without method and peak_mib; expected the file of bench.step") from error


def outcomes_of(args: argparse.Namespace) -> list[Outcome]:
    """The outcomes that the command line asks for: of runs, of a study, or of a study to which runs are added.

    Raises InputError for a --reference without a run; then nothing is added.
    """
    found = study.read(args.study) if args.study else evaluated(args)
    known = study.read(args.collect) if args.collect and args.collect.exists() else []
    if args.reference and args.reference not in {one.method for one in (*known, *found)}:
        raise InputError(f"--reference: no run of {args.reference!r} in {args.study or args.collect or args.runs}")
    if args.collect:
        study.collect(args.collect, found)
        return study.read(args.collect)
    return found


def evaluated(args: argparse.Namespace) -> list[Outcome]:
    """The evaluated runs that the command line asks for; raises InputError for none, or where they are not alike."""
    runs = records.read(args.runs, args.evaluations, args.methods, args.seeds)
    records.check_alike(runs)
    waiting = [one.name for one in runs if one.scores is None]
    if waiting:
        print(f"note: not evaluated, left out: {', '.join(waiting)}", file=sys.stderr)
    if len(waiting) == len(runs):
        raise InputError(f"{args.evaluations}: no evaluation of any run in {args.runs}; run the evaluate stage first")
    return [study.outcome(one) for one in runs if one.scores is not None]


def write(out: Path, comparison: Mapping[str, Any]) -> None:
    """Write compare.json and compare.md into `out`, both or none."""
    with only_one(out), ExitStack() as outputs:
        data, table = (outputs.enter_context(atomic(out / name)) for name in ("compare.json", "compare.md"))
        data.write_text(json.dumps(comparison, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        table.write_text(markdown(comparison) + "\n", encoding="utf-8")


def main() -> None:
    """Command line of the stage."""
    parser = command_line(
        "python -m pipeline.compare",
        "Compare the methods of the workflow's runs with a reference.",
        "example: python -m pipeline.compare results/compare --methods nbp bp --seeds 0 1 2",
    )
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT_DIR", help="where compare.json and compare.md go")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    parser.add_argument("--evaluations", type=Path, default=Path("results/evaluate"), help="default: %(default)s")
    parser.add_argument("--bench", type=Path, help="JSON of bench.step with the memory of a step; may be missing")
    parser.add_argument("--methods", nargs="+", help="compare these alone (default: all there are)")
    parser.add_argument("--seeds", nargs="+", type=int, help="compare these alone (default: all there are)")
    parser.add_argument("--reference", help=f"compare with this method (default: {REFERENCE}, if it is there)")
    parser.add_argument("--collect", type=Path, metavar="CSV", help="add the runs to the tables of a study instead")
    parser.add_argument("--study", type=Path, metavar="CSV", help="compare what the tables of a study hold instead")
    args = parser.parse_args()
    if sum(one is not None for one in (args.out, args.collect, args.study)) != 1:
        parser.error("expected one of OUT_DIR, --collect CSV and --study CSV")
    if args.study and (args.methods or args.seeds):
        parser.error("--methods and --seeds choose among runs; --study compares all that it holds")
    outcomes = outcomes_of(args)
    comparison = compared(outcomes, args.reference or REFERENCE, peaks(args.bench))
    if args.out:
        write(args.out, comparison)
    print(markdown(comparison))


if __name__ == "__main__":
    run(main)
