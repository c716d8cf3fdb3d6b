"""The page's part about sweeps: paper Figs 9 to 11 and Table II from the tables of tune.results and bench.cost.

Per sweep: under which conditions it ran, validation accuracy over epochs, over a numeric axis the best of it, and the
numbers with how the trials ended.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from pipeline.metrics import DASH, METRICS, Metric
from pipeline.page import curves, figures
from pipeline.page.files import SOUND, read_table
from pipeline.page.html import (
    Picture,
    Section,
    Table,
    Text,
    counted,
    dropped,
    flatten,
    mean_and_deviation,
    method_name,
    percent,
    plain,
)
from pipeline.process import InputError, file_hash
from pipeline.runs.records import read_json

if TYPE_CHECKING:
    from pipeline.page.inputs import Inputs

MODELS, RATE, SEED = "models", "train.schedule.learning_rate", "seed"  # axes of sweeps
VALIDATION = "val/accuracy"
DRAWN = 12  # settings of one panel; more lines than these cannot be told apart
TITLES = {
    "activation": "Activation functions (paper Fig 9)",
    "learning_rate": "Learning rates (paper Fig 10)",
    "beta": "The weight beta of the labels against the input (paper eq 4)",
    "models": "Networks (paper Fig 11)",
}
SCORES = {"Validation accuracy, %": (VALIDATION, METRICS[0])}
SCORES |= {metric.header: (f"test/{metric.name}", metric) for metric in METRICS}
COSTS = {
    "Step, ms": "step_ms",
    "Step, ratio": "step_ratio",
    "Parameters": "parameters",
    "Multiply-adds": "multiply_adds",
    "Peak memory, MiB": "peak_mib",
    "Peak memory, ratio": "peak_ratio",
}
MEASURED = ("batch", "input_size", "rounds", "device", "threads")  # columns of cost.csv: how it was measured


class Sweep(NamedTuple):
    """Tables of a sweep, and sweep.json as `about`.

    axes: what varies but for the seed; curves: a row per setting and epoch, over seeds; trials: a row per trial;
    networks: of a sweep over networks, a row per network and kind of learning rate with accuracies and, once measured,
    costs; own_faces: whether it ran on the faces of the page.
    """

    name: str
    about: dict[str, Any]
    axes: list[str]
    curves: pd.DataFrame
    trials: pd.DataFrame
    networks: Any  # a table, or None
    own_faces: bool

    @property
    def title(self) -> str:
        """What the page calls it."""
        return TITLES.get(self.name, f"Sweep {plain(self.name)}")


def read(folder: Path, splits: Path, augmented: Path) -> list[Sweep]:
    """Sweeps that have run, those of the paper's figures first; raises InputError for a damaged table."""
    found = {path.parent.name for path in folder.glob("*/sweep.json")}  # the last file that a sweep writes
    names = [name for name in TITLES if name in found] + sorted(found - set(TITLES))
    faces = {"original": splits / "train.parquet", "augmented": augmented}  # as sweep.json names them
    faces |= {name: splits / f"{name}.parquet" for name in ("val", "test")}
    return [read_sweep(folder / name, faces) for name in names]


def read_sweep(folder: Path, faces: Mapping[str, Path] | None = None) -> Sweep:
    """One sweep; the page's `faces`, where there are any, tell whether it ran on them."""
    about = read_json(folder / "sweep.json")
    missing = [key for key in ("space", "fixed", "method", "params", "data") if key not in about]
    if missing:
        raise InputError(f"{folder / 'sweep.json'}: no key {missing[0]}")
    trials = read_table(folder / "trials.csv", [*about["space"], "status", VALIDATION])
    axes = [name for name in trials if name in about["space"] and name != SEED]  # sweep.json sorts them by name
    spread = [f"{VALIDATION}/{how}" for how in ("mean", "min", "max")]
    curves = read_table(folder / "curves.csv", ["setting", *axes, "epoch", "n", *spread])
    networks = read_networks(folder, RATE in axes) if MODELS in axes else None
    own = faces is not None and all(
        faces[name].exists() and file_hash(faces[name]) == digest for name, digest in about["data"].items()
    )
    return Sweep(folder.name, about, axes, curves, trials, networks, own)


def read_networks(folder: Path, tuned: bool) -> pd.DataFrame:
    """models.csv beside cost.csv where steps have been measured; InputError where that is of networks of other sizes.

    tuned: whether the learning rate varied; otherwise all rows of a network hold the same numbers.
    """
    networks = read_table(folder / "models.csv", [MODELS, "rate", RATE, "parameters"])
    networks = networks if tuned else networks.drop_duplicates(MODELS)
    if not (folder / "cost.csv").exists():
        return networks
    costs = read_table(folder / "cost.csv", [MODELS, "parameters", "step_ms", *MEASURED]).set_index(MODELS)
    measured = networks[MODELS].map(costs["parameters"])
    other = networks[MODELS][measured.notna() & networks["parameters"].notna() & (measured != networks["parameters"])]
    if len(other):
        raise InputError(f"{folder / 'cost.csv'}: of another {other.iloc[0]} than models.csv; run bench.cost again")
    networks = networks.assign(parameters=measured.fillna(networks["parameters"]))
    return networks.join(costs.drop(columns="parameters"), on=MODELS)


def parameters_section(inputs: "Inputs") -> Section | None:
    """Paper Figs 9 and 10, beta, and every other sweep over parameters."""
    blocks = [block for sweep in inputs.sweeps if sweep.networks is None for block in parameter_blocks(sweep)]
    return Section("Sweeps", blocks) if blocks else None


def parameter_blocks(sweep: Sweep) -> Iterator[Picture | Table | Text]:
    """Conditions, curves, best accuracy over a numeric axis, and the numbers."""
    yield conditions(sweep)
    yield from curves_picture(sweep)
    yield from best_picture(sweep)
    yield setting_table(sweep)


def networks_section(inputs: "Inputs") -> Section | None:
    """Paper Fig 11 and Table II."""
    blocks = [block for sweep in inputs.sweeps if sweep.networks is not None for block in network_blocks(sweep)]
    return Section("Networks compared", blocks) if blocks else None


def network_blocks(sweep: Sweep) -> Iterator[Picture | Table | Text]:
    """Conditions, curves at the common learning rate and at each network's own where both ran, and the numbers."""
    yield conditions(sweep)
    yield from curves_picture(sweep)
    yield network_table(sweep)
    yield from map(Text, network_notes(sweep))


def summary(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a sweep's table on a page of docs/: a row per network at its one rate, else per setting."""
    sweep = read_sweep(folder)
    table = setting_table(sweep) if sweep.networks is None or RATE in sweep.axes else network_table(sweep)
    return list(table.header), [list(map(str, row)) for row in table.rows]


def picture(folder: Path) -> Figure | None:
    """The curves of a sweep on a page of docs/; None where no trial had a whole epoch."""
    sweep = read_sweep(folder)
    panels = panels_of(sweep)
    return figure(sweep, panels) if panels else None


def figure(sweep: Sweep, panels: Mapping[str, pd.DataFrame]) -> Figure:
    """The curves of the panels."""
    return curves.sweep_curves({title: drawn(panel, sweep.axes) for title, panel in panels.items()})


def conditions(sweep: Sweep) -> Text:
    """Profile, what was set otherwise, method, seeds and faces of a sweep; a box where the faces are not the page's."""
    fixed = ", ".join(f"{name} {value}" for name, value in flatten(sweep.about["fixed"]))
    parts = [
        f"profile {sweep.about['params']['profile']}" + (f" with {fixed}" if fixed else ""),
        *([f"method {method_name(sweep.about['method'])}"] if sweep.networks is None else []),
        f"{counted(sweep.trials[SEED].nunique(), 'seed')} per setting",
        "the faces of this page" if sweep.own_faces else "other faces than those of this page",
    ]
    return Text(f"{sweep.title}: {'; '.join(parts)}.", "" if sweep.own_faces else "note")


def curves_picture(sweep: Sweep) -> Iterator[Picture]:
    """Validation accuracy over epochs, a line per setting; nothing where no trial had a whole epoch."""
    panels = panels_of(sweep)
    if not panels:
        return
    whole = pd.concat(panels.values())
    caption = f"{sweep.title}: validation accuracy over {counted(whole['epoch'].max(), 'epoch')}."
    if whole["n"].max() > 1:
        caption += " Lines are means over seeds, bands reach from the least to the largest."
    if (count := max(panel["setting"].nunique() for panel in panels.values())) > DRAWN:
        caption += f" Of {count} settings the {DRAWN} best are drawn."
    name = f"sweep-{sweep.name}.svg"
    yield figures.picture(name, figure(sweep, panels), caption, leader(whole, sweep.axes))


def leader(rows: pd.DataFrame, axes: Sequence[str]) -> str:
    """Which setting comes highest, for readers who cannot see the curves."""
    best = rows.loc[[rows[f"{VALIDATION}/mean"].idxmax()]]
    value = percent(best[f"{VALIDATION}/mean"].iloc[0])
    return f"Curves of validation accuracy. {labels(best, axes)[0]} comes highest, at {value}."


def panels_of(sweep: Sweep) -> dict[str, pd.DataFrame]:
    """The curves of a sweep by the title of their panel: one per kind of learning rate, where networks have several."""
    several = sweep.networks is not None and RATE in sweep.axes
    panels = rate_panels(sweep) if several else {"": sweep.curves}
    return {title: panel for title, panel in panels.items() if len(panel)}


def rate_panels(sweep: Sweep) -> dict[str, pd.DataFrame]:
    """Curves of a sweep over networks by kind of learning rate."""
    kinds = {"common": "the common learning rate", "tuned": "each network's own learning rate"}
    points = {title: sweep.networks[sweep.networks["rate"] == kind] for kind, title in kinds.items()}
    return {title: sweep.curves.merge(rows[[MODELS, RATE]], on=[MODELS, RATE]) for title, rows in points.items()}


def drawn(curves: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """The best settings, in their order, with what figures.sweep_curves asks for: `label` and `tint`."""
    best = curves.groupby("setting", sort=False)[f"{VALIDATION}/mean"].max()
    kept = curves[curves["setting"].isin(best.sort_values(ascending=False, kind="stable").index[:DRAWN])]
    key = MODELS if MODELS in axes else axes[0] if len(axes) == 1 else "setting"
    return kept.assign(label=labels(kept, axes), tint=kept[key])


def labels(table: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """The setting of each row in words; an axis is named only where the value alone would not tell."""
    alone = (MODELS, RATE) if MODELS in axes else axes if len(axes) == 1 else ()
    words = {axis: "" if axis in alone else f"{word(axis)} " for axis in axes}
    rows = table.to_dict("records")
    return [", ".join(name + number(row[axis]) for axis, name in words.items()) or "default" for row in rows]


def word(axis: str) -> str:
    """The last part of a dotted name, as words."""
    return plain(axis.rpartition(".")[2])


def number(value: object) -> str:
    """A parameter's value."""
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def best_picture(sweep: Sweep) -> Iterator[Picture]:
    """Best accuracy over the axis, where there is one and trials learnt something at three or more positive numbers.

    A value at which a trial failed or diverged is not called the best.
    """
    if len(sweep.axes) != 1:
        return
    (axis,) = sweep.axes
    known = sweep.trials.dropna(subset=[VALIDATION])
    if known[axis].dtype.kind in "if" and known[axis].nunique() > 2 and known[axis].min() > 0:
        best = known.groupby(axis)[VALIDATION].agg(["mean", "min", "max"])
        caption = f"Validation accuracy of the best epoch over {word(axis)}; bars reach from the least to the largest."
        lost = sweep.trials.loc[~sweep.trials["status"].isin(SOUND), axis]
        top = best_words(word(axis), best["mean"], sorted(set(lost)))
        name = f"sweep-{sweep.name}-best.svg"
        yield figures.picture(name, curves.best_over(word(axis), best), caption, top, wide=False)


def best_words(axis: str, means: pd.Series, lost: Sequence[float]) -> str:
    """Which value of an axis has the best mean, of those without a failed or diverged trial, and which had one."""
    sound, words = means.drop(lost, errors="ignore"), []
    if len(sound):
        words.append(f"The best mean, {percent(sound.max())}, is at {axis} {number(sound.idxmax())}.")
    if lost:
        words.append(f"Trials failed or diverged at {', '.join(map(number, lost))}.")
    return " ".join(words)


def setting_table(sweep: Sweep) -> Table:
    """Best validation accuracy of every setting over its seeds, and how its trials ended."""
    rows, trials = [], sweep.trials.assign(label=labels(sweep.trials, sweep.axes))
    for setting, group in trials.groupby("label", sort=False):
        values = [100 * value for value in group[VALIDATION].dropna()]
        ended = group["status"].value_counts(sort=False)
        endings = ", ".join(f"{count} {status}" for status, count in ended.items())
        rows.append([setting, mean_and_deviation(values, 1), endings])
    first = word(sweep.axes[0]).capitalize() if len(sweep.axes) == 1 else "Setting"
    header = (first, "Validation accuracy, %", "Trials")
    return Table(f"{sweep.title}: best epoch, mean over seeds", header, rows, (0, 2))


def network_table(sweep: Sweep) -> Table:
    """Paper Table II: a row per network and kind of learning rate; columns without any value are left out."""
    records = sweep.networks.astype(object).where(sweep.networks.notna(), None).to_dict("records")
    columns = {
        "Network": [row[MODELS] for row in records],
        "Learning rate": [f"{row['rate']}: {DASH if row[RATE] is None else number(row[RATE])}" for row in records],
    }
    columns |= {title: [score(row, *how) for row in records] for title, how in SCORES.items()}
    columns |= {title: [cost(row, key) for row in records] for title, key in COSTS.items()}
    columns |= {"Failed trials": [str(row.get("failed") or DASH) for row in records]}
    kept = dropped(columns)
    title = "Networks side by side (paper Table II)" if sweep.name == "models" else f"{sweep.title}: side by side"
    return Table(title, list(kept), list(zip(*kept.values(), strict=True)), (0, 1))


def score(row: Mapping[str, Any], key: str, metric: Metric) -> str:
    """Mean and deviation over seeds."""
    mean, deviation = row.get(f"{key}/mean"), row.get(f"{key}/std")
    if mean is None:
        return DASH
    return metric.text(mean) + (f" ± {metric.text(deviation)}" if deviation is not None else "")


def cost(row: Mapping[str, Any], key: str) -> str:
    """A count, time, size or ratio; a ratio with its quartiles where it has any."""
    value, low, high = (row.get(f"{key}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return DASH
    if key.endswith("_ratio"):
        return f"{value:.2f}" + (f" ({low:.2f} to {high:.2f})" if low is not None and low < high else "")
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"


def network_notes(sweep: Sweep) -> Iterator[str]:
    """What the table's numbers are."""
    if RATE in sweep.axes:
        yield (
            "Common is the learning rate of the profile; tuned is the one of the best mean validation accuracy over "
            "seeds, on which the test split has no say. ± is the standard deviation over seeds."
        )
    elif sweep.about.get("rates"):
        yield "Tuned is the learning rate that an earlier sweep chose on validation for this network."
    measured = sweep.networks.dropna(subset="step_ms") if "step_ms" in sweep.networks else sweep.networks.iloc[:0]
    if len(measured):
        how = ", ".join(f"{plain(name)} {number(measured.iloc[0][name])}" for name in MEASURED)
        yield (
            f"Times and memory are of a training step ({how}): the steps of all networks alternate in one run. Ratios "
            "are to the first network, with quartiles over pairs of steps. Multiply-adds are of a forward pass of one "
            "face."
        )
