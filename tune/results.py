"""Tidy tables of a sweep: what happened in each trial and epoch, and means over seeds for the figures.

Every table but timing.csv holds the same bytes whenever the same sweep is run.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import metrics as test_metrics
from pipeline import process
from pipeline.page.files import SOUND
from pipeline.process import InputError, atomic, write_json
from tune import names, spaces
from tune.names import METRIC, MODELS, RATE, SEED, Config
from tune.outcome import Outcome
from tune.spaces import Sweep

CURVES = ("val/accuracy", "val/loss", "train/accuracy", "train/loss")  # of Figs 8-11
TEST = (*test_metrics.NAMES, "accuracy_standard_error", "majority_accuracy", "collapsed")


def probe(folder: Path) -> None:
    """Raise InputError where `folder` takes no file of 1 MiB, for want of space or of rights: not after all trials."""
    try:
        process.probe(folder)
    except OSError as error:
        raise InputError(f"--out: cannot write to {folder}: {error}") from error


def write(folder: Path, sweep: Sweep, about: dict[str, Any], outcomes: list[Outcome]) -> None:
    """Write all tables of a sweep into `folder`, each as a whole or not at all; InputError where it takes none."""
    try:
        _write(folder, sweep, about, outcomes)
    except OSError as error:
        raise InputError(f"--out: cannot write to {folder}: {error}; --resume writes it once it can") from error


def _write(folder: Path, sweep: Sweep, about: dict[str, Any], outcomes: list[Outcome]) -> None:
    rows = trials(outcomes)
    tables = {
        "epochs.csv": epochs(outcomes),
        "trials.csv": rows,
        "curves.csv": curves(outcomes),
        "timing.csv": timing(outcomes),
    }
    if sweep.models:
        tables["models.csv"] = models(rows, spaces.common_rate(sweep), sweep.rates)
    for name, table in tables.items():
        with atomic(folder / name) as path:
            table.to_csv(path, index=False, lineterminator="\n")
    write_json(folder / "metrics.json", metrics(outcomes))
    write_json(folder / "sweep.json", about)


def axes(outcomes: list[Outcome]) -> list[str]:
    """Names of the axes, the seed last."""
    return list(outcomes[0].config) if outcomes else [SEED]


def point(config: Config) -> dict[str, str]:
    """The columns that say which trial a row is of."""
    return {"trial": names.identifier(config)} | {name: names.cell(value) for name, value in config.items()}


def epochs(outcomes: list[Outcome]) -> pd.DataFrame:
    """One row per trial and complete epoch with all its metrics; empty cells where a network lacks a metric."""
    rows = [point(outcome.config) | row for outcome in outcomes for row in outcome.summary.history]
    return pd.DataFrame(rows, columns=None if rows else ["trial", *axes(outcomes), "epoch", "step", *CURVES])


def trials(outcomes: list[Outcome]) -> pd.DataFrame:
    """One row per trial: how it ended, and its metrics at the best validation epoch."""
    return pd.DataFrame([point(outcome.config) | _trial(outcome) for outcome in outcomes])


def _trial(outcome: Outcome) -> dict[str, Any]:
    history, best, score = outcome.summary.history, outcome.summary.best_epoch, outcome.score
    row = history[best - 1] if history else {}
    test = (score.test if score is not None else None) or {}
    return (
        {"status": outcome.status, "reason": outcome.reason, "epochs": len(history), "best_epoch": best or None}
        | {"collapsed": score.collapsed if score is not None else None}
        | {name: row.get(name) for name in CURVES}
        | {"parameters": score.parameters if score is not None else None}
        | {f"test/{name}": test[name] for name in TEST if name in test}
    )


def timing(outcomes: list[Outcome]) -> pd.DataFrame:
    """One row per trial and epoch with what no two runs share: node, seconds, memory."""
    rows = [point(outcome.config) | place for outcome in outcomes for place in outcome.summary.places]
    return pd.DataFrame(rows, columns=None if rows else ["trial", *axes(outcomes), "epoch", "seconds", "node"])


def curves(outcomes: list[Outcome]) -> pd.DataFrame:
    """Mean, standard deviation, smallest and largest value over seeds of each setting and epoch (Figs 9 to 11).

    n says over how many trials; the deviation is empty where it is one. Trials that diverged count until they did.
    """
    table = epochs(outcomes)
    settings = [name for name in axes(outcomes) if name != SEED]
    table.insert(0, "setting", [names.setting(one.config) for one in outcomes for _ in one.summary.history])
    groups = table.groupby(["setting", *settings, "epoch"], sort=False, dropna=False)
    result = groups.size().rename("n").to_frame()
    for name in CURVES:
        for how in ("mean", "std", "min", "max"):
            result[f"{name}/{how}"] = groups[name].agg(how)
    return result.reset_index()


def metrics(outcomes: list[Outcome]) -> dict[str, Any]:
    """For `dvc metrics diff`: how many trials ended how, and each setting's best validation accuracy over seeds."""
    rows = trials(outcomes)
    settings = pd.Series([names.setting(outcome.config) for outcome in outcomes], rows.index, dtype=object)
    result: dict[str, Any] = {"trials": rows["status"].value_counts().to_dict()}
    for name, group in rows.groupby(settings, sort=False):
        result[str(name)] = {"val": _spread(group[METRIC])}
        if "test/accuracy" in group:
            result[str(name)]["test"] = _spread(group["test/accuracy"])
    return result


def _spread(values: pd.Series) -> dict[str, Any]:
    values = values.dropna()
    if not len(values):
        return {"n": 0}
    deviation = {"std": float(values.std())} if len(values) > 1 else {}
    return {"n": len(values), "accuracy": float(values.mean())} | deviation


def models(rows: pd.DataFrame, common: float, rates: Mapping[str, float]) -> pd.DataFrame:
    """Table II's accuracies: each network at the common learning rate and at the one best for it on validation.

    Of equally good rates the smallest is taken; the test split has no say. A rate at which a seed failed is not chosen.
    rates: the tuned ones, where an earlier sweep chose them and this one ran no others.
    """
    result = []
    rows = rows.assign(**{RATE: pd.to_numeric(rows[RATE])}) if RATE in rows else rows
    for name, group in rows.groupby(MODELS, sort=False):
        chosen = tuned_rate(group) if RATE in group else common
        kinds = {"tuned": rates[str(name)]} if rates else {"common": common, "tuned": chosen}
        for kind, rate in kinds.items():
            own = group[group[RATE] == rate] if RATE in group and rate is not None else group.iloc[:0]
            own = own if RATE in group else group
            result.append({MODELS: name, "rate": kind, RATE: rate} | _accuracies(own))
    return pd.DataFrame(result)


def tuned_rate(group: pd.DataFrame) -> float | None:
    """The learning rate of the best mean validation accuracy over seeds; None where every rate had a failed trial."""
    sound = group.groupby(RATE).filter(lambda one: one["status"].isin(SOUND).all())
    means = sound.groupby(RATE)["val/accuracy"].mean()
    return float(means.idxmax()) if len(means) else None


def _accuracies(own: pd.DataFrame) -> dict[str, Any]:
    names = [name for name in ("val/accuracy", "test/accuracy", "test/accuracy_without_copies") if name in own]
    result: dict[str, Any] = {"n": len(own), "failed": int((~own["status"].isin(SOUND)).sum())}
    for name in names:
        values = own[name].dropna()
        result |= {f"{name}/mean": values.mean() if len(values) else None}
        result |= {f"{name}/std": values.std() if len(values) > 1 else None}
    parameters = own["parameters"].dropna()
    return result | {"parameters": int(parameters.iloc[0]) if len(parameters) else None}


def table(outcomes: list[Outcome]) -> str:
    """The best validation accuracy of each setting over its seeds, in columns to read; the best one is marked.

    A setting with a failed or diverged trial is not called the best, as no such rate is tuned.
    """
    rows = trials(outcomes)
    settings = pd.Series([names.setting(outcome.config) for outcome in outcomes], rows.index, name="setting")
    groups = rows.groupby(settings, sort=False)[METRIC].agg(["count", "mean", "std"])
    groups.columns = ["trials", "mean", "sd"]
    remarks = {name: [one.remark for one in outcomes if names.setting(one.config) == name] for name in groups.index}
    means = groups["mean"][rows["status"].isin(SOUND).groupby(settings, sort=False).all()].dropna()
    best = means.idxmax() if len(means) else None
    groups["note"] = [_note(remarks[name], name == best) for name in groups.index]
    text = groups.to_string(float_format=lambda value: f"{value:.4f}", na_rep="-", index_names=False)
    return f"{METRIC} at each trial's best epoch, mean and standard deviation over seeds:\n{text}"


def _note(remarks: list[str], best: bool) -> str:
    counts = Counter(filter(None, remarks))
    return ", ".join((["best"] if best else []) + [f"{count} {what}" for what, count in counts.items()])


def table2(networks: pd.DataFrame) -> str:
    """The paper's Table II for the terminal: every network at the common learning rate and at its own, as it ran."""
    columns = {"models": "network", "rate": "rate", RATE: "learning rate", "n": "trials", "failed": "failed"}
    columns |= {f"{METRIC}/mean": "val mean", f"{METRIC}/std": "val sd"}
    columns |= {"test/accuracy/mean": "test mean", "test/accuracy/std": "test sd", "parameters": "parameters"}
    shown = networks[[name for name in columns if name in networks]].rename(columns=columns)
    numbers = shown.columns.difference(["network", "rate"])
    shown = shown.astype(dict.fromkeys(numbers, float))  # None of a network that failed becomes a dash
    text = shown.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="-")
    return f"Table II, accuracies of networks (means over seeds):\n{text}"
