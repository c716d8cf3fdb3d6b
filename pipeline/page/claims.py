"""The table of docs/claims.md: each claim of the paper beside what the tracked studies say of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import compare
from pipeline.compare import PRIMARY, REFERENCE, VALIDATION
from pipeline.metrics import DASH, Quantity
from pipeline.page.tables import Table
from pipeline.runs import records, study
from pipeline.runs.significance import interval
from pipeline.runs.study import Outcome

CERTAIN = 0.05  # p after Holm's correction, below which a difference is called one
QUARTER = 0.25  # of BP's steps: our reading of Fig 8, where BP has not converged at the end
FULL = "width 96, 20 epochs"
SMALL = "width 48, 8 epochs"
STEP_HERE = "`nbp`, width 96, 48x48, batch 128"
STEP_THERE = "`paper_eq4`: eq (4), a unit per layer; width 128, 224x224, batch 4"
SPLITS = {"PrivateTest": PRIMARY, "PublicTest": VALIDATION}
STUDY, SHORT, STEP, STEP224 = "A", "B", "C", "D"  # commands below the table
TIME, MEMORY = "A step of NBP takes less time than one of BP", "NBP takes less memory than BP"
CONTROL = "(our control) Stopping the gradient between units"
TOO_FEW = "too few seeds to say"
HEADER = ("The paper says", "Its number", "Here", "Setting", "Verdict", "Command")

Methods = Mapping[str, Any]
Bounds = tuple[float, float]


class Claim(NamedTuple):
    """A row of the table."""

    text: str
    paper: str
    ours: str
    setting: str
    verdict: str
    command: str


def claims(folder: Path) -> list[Claim]:
    """Every claim that a tracked table can answer; folder: docs/study."""
    outcomes = study.read(folder / "main.csv")
    full = compare.compared(outcomes, REFERENCE)["methods"]
    short = compare.compared(study.read(folder / "width48.csv"), REFERENCE)["methods"]
    return [
        accuracy(full),
        steps(full),
        *costs(folder),
        term(outcomes),
        far(
            "HSIC alone trains the hidden units, by eq (4)",
            "eq4",
            full,
            f"{FULL}; three hidden units that stop early, on pooled features; the last unit by cross-entropy",
            STUDY,
        ),
        far(
            "Each layer can be trained separately",
            "layers",
            short,
            f"{SMALL}; debiased CKA; a hidden unit learns in one step of four, the first for 65 % of them",
            SHORT,
        ),
        control(outcomes),
    ]


def costs(folder: Path) -> Iterator[Claim]:
    """Time and memory of a step of this project's NBP, and of the paper's at the paper's size."""
    here, there = (_bench(folder / name) for name in ("step.json", "step224.json"))
    for text, key in ((TIME, "step_ratio"), (MEMORY, "peak_ratio")):
        yield cost(text, here["nbp"][key], STEP_HERE, STEP)
        row = cost(text, there["paper_eq4"][key], STEP_THERE, STEP224)
        yield row._replace(verdict=f"{row.verdict} in a step of four faces")


def _bench(path: Path) -> dict[str, Any]:
    return {row["method"]: row for row in records.read_json(path)["rows"]}


def accuracy(found: Methods) -> Claim:
    """NBP against BP on the test faces."""
    against = found["nbp"]["against"]["quantities"][PRIMARY.name]
    p = against["p_holm"]
    if against["mean"] <= 0:
        verdict = "does not hold"
    else:
        verdict = "holds for this form" if p is not None and p < CERTAIN else "better, not beyond doubt"
    setting = f"{FULL}; `nbp`: four units with classifiers that vote"
    return Claim("NBP is more accurate than BP", "higher", pair(found, "nbp"), setting, verdict, STUDY)


def steps(found: Methods) -> Claim:
    """Steps of NBP to the accuracy that BP ends with."""
    own = found["nbp"]["steps"] or {"share": None, "reached": 0, "of": 0}
    share = own["share"]
    if share is None or share >= 1:
        verdict = "does not hold"
    elif own["reached"] < own["of"]:
        verdict = f"only {own['reached']} of {own['of']} seeds reach it"
    else:
        verdict = "holds" if share <= QUARTER else "fewer steps, but not a quarter"
    ours = DASH if share is None else f"{share:.2f} of BP's steps"
    return Claim(
        "NBP converges in at most a quarter of BP's steps (our reading)",
        "2,500 steps; BP not by 10,000 epochs",
        ours,
        FULL,
        verdict,
        STUDY,
    )


def cost(text: str, ratio: float, setting: str, command: str) -> Claim:
    """Time or memory of a step beside BP's."""
    verdict = "holds" if ratio < 0.95 else "about the same" if ratio <= 1.05 else "does not hold"
    return Claim(text, "less", f"{ratio:.2f} of BP's", setting, verdict, command)


def term(outcomes: Sequence[Outcome]) -> Claim:
    """NBP against itself without the HSIC term; with early stops as long as two seeds have not run it without them."""
    own, without = "nbp", "local_ce"
    if len(less(outcomes, own, without)) < 2:
        own, without = "nbp_early", "local_ce_early"
    found = {split: bounds(outcomes, own, without, what) for split, what in SPLITS.items()}
    seeds = {one.seed for one in outcomes if one.method == without}
    same = [one for one in outcomes if one.seed in seeds]
    text, count = "The HSIC term is what makes NBP accurate", len(less(outcomes, own, without))
    setting = f"{FULL}, {count} seeds: `{own}` less `{without}`; a tenth of the classifier's weight"
    verdicts = {split: part(found[split], less(same, own, REFERENCE, what)) for split, what in SPLITS.items()}
    if TOO_FEW in verdicts.values():
        return Claim(text, DASH, DASH, setting, TOO_FEW, STUDY)
    ours = "With it: " + "; ".join(f"{split} {points(each)}" for split, each in found.items() if each)
    return Claim(text, DASH, ours, setting, "; ".join(f"{split}: {one}" for split, one in verdicts.items()), STUDY)


def part(found: Bounds | None, leads: Sequence[float]) -> str:
    """Whether a difference within these bounds makes the lead of the same seeds: it does as more than half of it."""
    if found is None or not leads:
        return TOO_FEW
    (low, high), lead = found, sum(leads) / len(leads)
    if high < 0:
        return "not seen, it costs accuracy"
    if low > lead / 2:
        return "holds"
    if high < lead / 2:
        return f"not seen, at most {100 * high:.1f} of a lead of {100 * lead:.1f} points"
    return "not decided"


def less(outcomes: Sequence[Outcome], method: str, other: str, what: Quantity = PRIMARY) -> list[float]:
    """A quantity of a method less that of another, for every seed that both have."""
    both = [one for one in outcomes if one.method in (method, other)]
    against = compare.compared(both, other)["methods"][method]["against"]
    return list(against["quantities"][what.name]["values"]) if against else []


def bounds(outcomes: Sequence[Outcome], method: str, other: str, what: Quantity = PRIMARY) -> Bounds | None:
    """95 % interval of the mean of `less`: of that over seeds and that over test faces the wider; None as `interval`.

    Seeds that happen to agree would else give an interval that the number of faces cannot support.
    """
    differences = less(outcomes, method, other, what)
    intervals = [interval(differences), interval(less_by_face(outcomes, method, other) if what is PRIMARY else [])]
    if intervals[0] is None:
        return None
    mean, half = float(np.mean(differences)), max((high - low) / 2 for low, high in filter(None, intervals))
    return mean - half, mean + half


def less_by_face(outcomes: Sequence[Outcome], method: str, other: str) -> list[float]:
    """For each test face, whether a method is right less whether the other is; mean over seeds that stored both."""
    correct = {(one.method, one.seed): one.correct.astype(int) for one in outcomes if one.correct is not None}
    seeds = [seed for name, seed in correct if name == method and (other, seed) in correct]
    return [float(one) for one in np.mean([correct[method, i] - correct[other, i] for i in seeds], 0)] if seeds else []


def points(found: Bounds) -> str:
    """Mean and 95 % interval of a difference of accuracies, in points."""
    mean = round(50 * sum(found), 1) + 0.0  # no minus before a zero
    return f"{mean:+.1f} points ({100 * found[0]:+.1f} to {100 * found[1]:+.1f} at 95 %)"


def far(text: str, method: str, found: Methods, setting: str, command: str) -> Claim:
    """A method without trained classifiers against BP."""
    behind = found[REFERENCE]["quantities"][PRIMARY.name]["mean"] - found[method]["quantities"][PRIMARY.name]["mean"]
    verdict = "learns, far behind BP" if behind > 0.05 else "holds"
    return Claim(text, DASH, pair(found, method), setting, verdict, command)


def control(outcomes: Sequence[Outcome]) -> Claim:
    """Deep supervision, whose gradients pass, against NBP of the same seeds: what the missing gradients cost."""
    found = {split: bounds(outcomes, "nbp", "deep_supervision", what) for split, what in SPLITS.items()}
    count = len(less(outcomes, "nbp", "deep_supervision"))
    setting = f"{FULL}, {count} seeds; deep supervision has the same heads, and BP's rate"
    if None in found.values():
        return Claim(CONTROL, DASH, DASH, setting, TOO_FEW, STUDY)
    ours = "; ".join(f"{split} {points(own)}" for split, own in found.items() if own)
    words = {split: "costs accuracy" if own and own[1] < 0 else "no cost seen" for split, own in found.items()}
    verdict = "; ".join(f"{word} on {split}" for split, word in words.items())
    return Claim(CONTROL, DASH, f"NBP less deep supervision: {ours}", setting, verdict, STUDY)


def pair(found: Methods, method: str) -> str:
    """Test accuracy of a method and of BP."""
    own, other = (found[name]["quantities"][PRIMARY.name] for name in (method, REFERENCE))
    return f"{plus_minus(own)}; BP {plus_minus(other)}"


def plus_minus(own: Mapping[str, Any]) -> str:
    """Mean ± standard deviation in %."""
    mean, deviation = (PRIMARY.text(own[key]) for key in ("mean", "sd"))
    return f"{mean} %" if deviation == DASH else f"{mean} ± {deviation} %"


TABLES: dict[str, Callable[[Path], Table]] = {"claims": lambda folder: (HEADER, claims(folder))}
