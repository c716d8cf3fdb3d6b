"""Methods of one study less a method of another, which was made under other conditions -> a small table.

`pipeline.compare` refuses such runs, since most differences of that kind are mistakes. Here the difference is the
question: BP of more parameters, for example. Runs are paired by their seed, and have to share the test faces.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import compare
from pipeline.compare import PRIMARY, QUANTITIES, REFERENCE, VALIDATION
from pipeline.metrics import DASH, Quantity
from pipeline.page.claims import SPLITS
from pipeline.process import InputError, atomic, command_line, run
from pipeline.runs import study
from pipeline.runs.significance import interval
from pipeline.runs.study import Outcome

EXAMPLE = "example: python -m bench.between docs/study/main.csv docs/study/bp-size.csv --out docs/study/size.csv"
HEADER = [
    "method",
    "split",
    "seeds",
    "accuracy, %",
    "less the other, points",
    "95 %",
    "p, seeds (Holm)",
    "p, faces (Holm; seeds)",
    "steps / the other",
]
OTHER = "the other"
ALONE = {"PrivateTest, network alone": QUANTITIES[-1]}


def rows(
    own: Sequence[Outcome], others: Sequence[Outcome], quantities: Mapping[str, Quantity] = SPLITS
) -> list[list[str]]:
    """A row for each method of `own` and each quantity, over the seeds of `others`: runs of one method.

    Holm's correction is over the methods, for each split on its own. Steps are those to the validation accuracy that
    the other ends with, as a share of its own, and in how many seeds it is reached. Raises InputError for other test
    faces, and for a method that shares no seed.
    """
    seeds = {one.seed for one in others}
    # Conditions differ on purpose: without their hash they are not asked to be alike.
    paired = [replace(one, conditions="") for one in own if one.seed in seeds]
    for name in dict.fromkeys(one.method for one in own):
        if name not in {one.method for one in paired}:
            raise InputError(f"{name}: no seed of the other study, which has {', '.join(map(str, sorted(seeds)))}")
    twins = [replace(one, conditions="", method=OTHER) for one in others]
    found = compare.compared([*twins, *paired], OTHER)["methods"]
    return [row for name in dict.fromkeys(one.method for one in own) for row in _method(name, found[name], quantities)]


def _method(name: str, one: Mapping[str, Any], quantities: Mapping[str, Quantity]) -> Iterator[list[str]]:
    against, steps = one["against"], compare.steps_cell(one["steps"])
    for split, quantity in quantities.items():
        less = against["quantities"][quantity.name]
        bounds, faces = interval(less["values"]), against["faces"] if quantity is PRIMARY else None
        yield [
            name,
            split,
            str(len(against["seeds"])),
            quantity.text(one["quantities"][quantity.name]["mean"]),
            f"{100 * less['mean']:+.1f}",
            f"{100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f}" if bounds else DASH,
            compare.p_cell(less),
            compare.p_cell(faces),
            steps if quantity is VALIDATION else DASH,
        ]


def only(table: Path, methods: Sequence[str]) -> list[Outcome]:
    """The runs of these methods in a study, in the order of the methods; InputError for a method without runs."""
    outcomes = study.read(table)
    for name in methods:
        if name not in (known := dict.fromkeys(one.method for one in outcomes)):
            raise InputError(f"{table}: no run of {name!r}, expected one of {', '.join(known)}")
    return [one for name in methods for one in outcomes if one.method == name]


def main() -> None:
    """Command line."""
    parser = command_line(
        "python -m bench.between", "Compare methods of two studies made under other conditions.", EXAMPLE
    )
    parser.add_argument("study", type=Path, help="CSV of `pipeline.compare --collect`")
    parser.add_argument("other", type=Path, help="one more, made under other conditions")
    parser.add_argument("--methods", nargs="+", default=["nbp", "deep_supervision"], help="of the first study")
    parser.add_argument("--reference", default=REFERENCE, help="method of the other study")
    parser.add_argument("--seeds", nargs="+", type=int, help="compare these alone (default: all that both have)")
    parser.add_argument("--alone", action="store_true", help="by the network's own classifier, without the heads")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    args = parser.parse_args()
    others = only(args.other, [args.reference])
    if args.seeds and (odd := sorted({*args.seeds} - {one.seed for one in others})):
        raise InputError(f"--seeds: {args.other} has no run of {args.reference} with one of them: {odd[0]}")
    others = [one for one in others if one.seed in (args.seeds or [one.seed])]
    found = rows(only(args.study, args.methods), others, ALONE if args.alone else SPLITS)
    with atomic(args.out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *found])


if __name__ == "__main__":
    run(main)
