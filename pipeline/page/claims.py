"""The table of docs/claims.md: each claim of the paper beside what the tracked studies say of it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import compare
from pipeline.compare import PRIMARY, REFERENCE
from pipeline.metrics import DASH
from pipeline.page.tables import Table
from pipeline.runs import records, study

CERTAIN = 0.05  # p after Holm's correction, below which a difference is called one
QUARTER = 0.25  # of BP's steps, the paper's claim
FULL = "width 96, 20 epochs"
SMALL = "width 48, 8 epochs"
STUDY, SHORT, STEP = "A", "B", "C"  # commands below the table
HEADER = ("The paper says", "Its number", "Here", "Setting", "Verdict", "Command")

Methods = Mapping[str, Any]


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
    main, small = (compare.compared(study.read(folder / name), REFERENCE) for name in ("main.csv", "width48.csv"))
    bench = {row["method"]: row for row in records.read_json(folder / "step.json")["rows"]}
    full, short = main["methods"], small["methods"]
    return [
        accuracy(full),
        steps(full),
        cost("A step of NBP takes less time than one of BP", "step_ratio", bench),
        cost("NBP takes less memory than BP", "peak_ratio", bench),
        term(full),
        far("HSIC alone trains the hidden units, eq (4) as printed", "eq4", short, "units are blocks that stop early"),
        far("Each layer can be trained separately", "layers", short, "debiased CKA, a layer learns in a step of four"),
        control(full),
    ]


def accuracy(found: Methods) -> Claim:
    """NBP against BP on the test faces."""
    against = found["nbp"]["against"]["quantities"][PRIMARY.name]
    p = against["p_holm"]
    if against["mean"] <= 0:
        verdict = "does not hold"
    else:
        verdict = "holds" if p is not None and p < CERTAIN else "better, not beyond doubt"
    return Claim("NBP is more accurate than BP", "higher", pair(found, "nbp"), FULL, verdict, STUDY)


def steps(found: Methods) -> Claim:
    """Steps of NBP to the accuracy that BP ends with."""
    share = (found["nbp"]["steps"] or {}).get("share")
    if share is None or share >= 1:
        verdict = "does not hold"
    else:
        verdict = "holds" if share <= QUARTER else "fewer steps, but not a quarter"
    ours = DASH if share is None else f"{share:.2f} of BP's steps"
    return Claim("NBP converges in a quarter of BP's steps", "0.25", ours, FULL, verdict, STUDY)


def cost(text: str, key: str, bench: Mapping[str, Mapping[str, float]]) -> Claim:
    """Time or memory of a step of NBP beside BP's."""
    value = bench["nbp"][key]
    verdict = "holds" if value < 0.95 else "about the same" if value <= 1.05 else "does not hold"
    return Claim(text, "less", f"{value:.2f} of BP's", "width 96, batch 128", verdict, STEP)


def term(found: Methods) -> Claim:
    """NBP against itself without the HSIC term; with early stops as long as nobody has run the pair without them."""
    names = ("nbp", "local_ce") if "local_ce" in found else ("nbp_early", "local_ce_early")
    own, without = (found[name]["quantities"][PRIMARY.name] for name in names)
    difference, doubt = own["mean"] - without["mean"], max(own["sd"] or 0, without["sd"] or 0)
    verdict = "makes the difference" if difference > 2 * doubt else "adds nothing to accuracy"
    ours = f"{plus_minus(own)} with its term, {plus_minus(without)} without"
    return Claim("The HSIC term is what makes NBP accurate", DASH, ours, FULL, verdict, STUDY)


def far(text: str, method: str, found: Methods, setting: str) -> Claim:
    """A method without trained classifiers against BP."""
    behind = found[REFERENCE]["quantities"][PRIMARY.name]["mean"] - found[method]["quantities"][PRIMARY.name]["mean"]
    verdict = "learns, far behind BP" if behind > 0.05 else "holds"
    return Claim(text, DASH, pair(found, method), f"{SMALL}; {setting}", verdict, SHORT)


def control(found: Methods) -> Claim:
    """Deep supervision against NBP: what the missing gradients cost."""
    own, other = (found[name]["quantities"][PRIMARY.name] for name in ("nbp", "deep_supervision"))
    doubt = max(own["sd"] or 0, other["sd"] or 0)
    verdict = "costs accuracy" if other["mean"] - own["mean"] > doubt else "costs nothing that can be seen"
    ours = f"NBP {plus_minus(own)}; deep supervision {plus_minus(other)}"
    return Claim("(our control) Stopping the gradient between units", DASH, ours, FULL, verdict, STUDY)


def pair(found: Methods, method: str) -> str:
    """Test accuracy of a method and of BP."""
    own, other = (found[name]["quantities"][PRIMARY.name] for name in (method, REFERENCE))
    return f"{plus_minus(own)}; BP {plus_minus(other)}"


def plus_minus(own: Mapping[str, Any]) -> str:
    """Mean ± standard deviation in %."""
    mean, deviation = (PRIMARY.text(own[key]) for key in ("mean", "sd"))
    return f"{mean} %" if deviation == DASH else f"{mean} ± {deviation} %"


TABLES: dict[str, Callable[[Path], Table]] = {"claims": lambda folder: (HEADER, claims(folder))}
