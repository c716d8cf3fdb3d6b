"""Runs as their folders describe them: run.json says what a run is, nothing is read out of a folder's name."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from pipeline.process import InputError, atomic, write_json

ABOUT = "run.json"
LOOKS = "looks"  # of an evaluation at each face: two where it takes the mirror image as well
METHOD = "method"  # the part of the parameters in which comparable runs may differ
ADDED: dict[str, object] = {  # unknown to older runs; with these values nothing changes
    "train.wrong_labels": 0.0,
    "train.label_smoothing": 0.0,
    "train.augmentation.erasing": 0.0,
    "train.optimizer.name": "adam",
    "train.optimizer.weight_decay": 0.0,
}


@dataclass(frozen=True)
class Data:
    """What a run learnt from: a hash of its data files, the number of training faces, whether they are drawn."""

    fingerprint: str
    faces: int
    drawn: bool
    classes: tuple[str, ...]


@dataclass(frozen=True)
class About:
    """run.json: what a run is. parameters: model, train and the method's, resolved; code: commit and fingerprint."""

    method: str
    seed: int
    profile: str
    parameters: dict[str, Any]
    data: Data
    code: dict[str, str | None] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1
    workers: int = 1


@dataclass(frozen=True)
class Run:
    """One training and what is known of it; scores and predictions are None before it has been evaluated.

    history: a row per epoch. training: metrics.json. timing: timing.json. scores: metrics.json of the evaluation.
    predictions: a row per test face.
    """

    folder: Path
    about: About
    history: pd.DataFrame
    training: dict[str, Any]
    timing: dict[str, Any]
    scores: dict[str, Any] | None
    predictions: pd.DataFrame | None

    @property
    def name(self) -> str:
        """The folder's name, for messages and captions."""
        return self.folder.name

    @property
    def method(self) -> str:
        """How the network was trained."""
        return self.about.method

    @property
    def seed(self) -> int:
        """Where weights, data order and augmentation come from."""
        return self.about.seed


def read(
    runs: Path, evaluations: Path, methods: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> list[Run]:
    """The finished runs below `runs`, of these methods and seeds alone where they are given, in their order.

    Raises InputError where none is there, or none of a method or seed that was asked for, where files are missing or
    damaged, and where two runs share method and seed.
    """
    folders = sorted(path.parent for path in runs.glob("*/metrics.json"))
    nameless = [path.name for path in folders if not (path / ABOUT).exists()]
    if nameless:
        print(f"note: no {ABOUT} in {runs}: {', '.join(nameless)}; left out, train again", file=sys.stderr)
    found = [(folder, read_about(folder / ABOUT)) for folder in folders if folder.name not in nameless]
    wanted = [one for one in found if _is_wanted(one[1], methods, seeds)]
    left = [folder.name for folder, about in found if not _is_wanted(about, methods, seeds)]
    if left:
        print(f"note: not among the methods and seeds asked for, left out: {', '.join(left)}", file=sys.stderr)
    if not wanted:
        raise InputError(f"{runs}: no finished run; expected folders with {ABOUT}, history.csv and metrics.json")
    _check_asked("method", methods, {about.method for _, about in wanted}, runs)
    _check_asked("seed", seeds, {about.seed for _, about in wanted}, runs)
    _check_unique(wanted)
    order = list(methods) if methods else sorted({about.method for _, about in wanted})
    wanted.sort(key=lambda one: (order.index(one[1].method), one[1].seed))
    return [_read(folder, about, evaluations / folder.name) for folder, about in wanted]


def _is_wanted(about: About, methods: Sequence[str] | None, seeds: Sequence[int] | None) -> bool:
    return (methods is None or about.method in methods) and (seeds is None or about.seed in seeds)


def _check_asked(what: str, asked: Sequence[Any] | None, found: set[Any], runs: Path) -> None:
    lost = [str(one) for one in asked or () if one not in found]
    if lost:
        raise InputError(f"{runs}: no finished run of {what} {', '.join(lost)}, which was asked for")


def _check_unique(found: Iterable[tuple[Path, About]]) -> None:
    seen: dict[tuple[str, int], Path] = {}
    for folder, about in found:
        other = seen.setdefault((about.method, about.seed), folder)
        if other != folder:
            raise InputError(
                f"{other} and {folder}: both are {about.method} with seed {about.seed}; expected one run of each"
            )


def write(
    folder: Path,
    about: dict[str, Any],
    history: Sequence[Mapping[str, float]],
    metrics: dict[str, Any],
    seconds: Sequence[float],
    **more_timing: object,
) -> None:
    """What a training leaves beside its weights: history.csv, run.json, timing.json, and last metrics.json.

    history: a row per epoch. seconds: of each epoch. metrics.json holds no times, so that DVC sees equal runs as equal.
    """
    with atomic(folder / "history.csv") as path, path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(dict.fromkeys(name for row in history for name in row)))
        table.writeheader()
        table.writerows(history)
    write_json(folder / ABOUT, about)
    timing = {"seconds_per_epoch": list(seconds), "threads": about["threads"], "device": about["device"]}
    write_json(folder / "timing.json", timing | more_timing)
    write_json(folder / "metrics.json", metrics)


def training_metrics(
    history: Sequence[Mapping[str, float]], best_epoch: int, parameters: int, collapsed: bool
) -> dict[str, Any]:
    """metrics.json of a training: accuracies and losses of its best epoch, counted from 1."""
    best = history[best_epoch - 1]
    return {
        "best_epoch": best_epoch,
        "epochs": len(history),
        "steps": history[-1]["step"],
        "parameters": parameters,
        "train": {"loss": best["train/loss"], "accuracy": best["train/accuracy"]},
        "val": {"loss": best["val/loss"], "accuracy": best["val/accuracy"]},
        "collapsed": collapsed,
    }


def read_about(path: Path) -> About:
    """run.json; raises InputError where it is missing or lacks something, naming the key."""
    try:
        return TypeAdapter(About).validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected the one that the train stage writes") from error
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises InputError where the file holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except ValueError as error:
        raise InputError(f"{path}: no JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _read(folder: Path, about: About, evaluation: Path) -> Run:
    evaluated = (evaluation / "metrics.json").exists()
    if evaluated and (evaluation / ABOUT).exists() and read_about(evaluation / ABOUT) != about:
        raise InputError(f"{evaluation / ABOUT}: not the run in {folder}; evaluate again")
    training = read_json(folder / "metrics.json")
    return Run(
        folder,
        about,
        read_history(folder / "history.csv", training.get("epochs")),
        training,
        read_json(folder / "timing.json") if (folder / "timing.json").exists() else {},
        read_json(evaluation / "metrics.json") if evaluated else None,
        read_predictions(evaluation / "predictions.parquet") if evaluated else None,
    )


def read_history(path: Path, epochs: int | None = None) -> pd.DataFrame:
    """A row per epoch; raises InputError where there is no such table, it lacks a column or number, or is cut off.

    epochs: how many rows there should be; None: any number.
    """
    try:
        content = path.read_bytes()
        history = pd.read_csv(io.BytesIO(content))
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{path}: {error}; expected the history that the train stage writes") from error
    for name in ("epoch", "step", "val/accuracy"):
        if name not in history:
            raise InputError(f"{path}: no column {name}, found {', '.join(history.columns[:5])}")
        numbers = pd.to_numeric(history[name], errors="coerce")
        if numbers.isna().any():
            line = int(numbers.isna().idxmax())
            raise InputError(f"{path}: line {line + 2}: {name}: expected a number, found {history[name][line]}")
    if not content.endswith(b"\n"):
        raise InputError(f"{path}: its last line is cut off")
    if epochs is not None and len(history) != epochs:
        raise InputError(f"{path}: expected {epochs} epochs, as metrics.json says, found {len(history)}")
    return history


def read_predictions(path: Path) -> pd.DataFrame:
    """A row per test face; raises InputError where the file is missing, damaged or lacks row, label or predicted."""
    try:
        predictions = pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: {reason}; expected the predictions that the evaluate stage writes") from error
    for name in ("row", "label", "predicted"):
        if name not in predictions:
            raise InputError(f"{path}: no column {name}, found {', '.join(predictions.columns[:5])}")
    return predictions


def check_alike(runs: Sequence[Run]) -> None:
    """Raise InputError, naming the runs, unless all learnt from the same data with the same parameters.

    Profile, data, network, training and what else the parameters hold have to agree over all runs; a method's own
    parameters over the runs of that method. Device, threads and tracking may differ.
    """
    first = {one.method: one for one in reversed(runs)}
    for one in runs:
        _check_same(runs[0], one, conditions)
        _check_same(first[one.method], one, method_conditions)


def check_one_look(runs: Sequence[Run]) -> None:
    """Raise InputError where an evaluation also looked at mirror images: beside others it would be no fair score."""
    for one in runs:
        if one.scores and one.scores.get(LOOKS, 1) > 1:
            raise InputError(f"{one.folder}: evaluated with --mirror; evaluate again without, or into another folder")


def _check_same(first: Run, second: Run, what: Callable[[About], dict[str, Any]]) -> None:
    ours, theirs = what(first.about), what(second.about)
    name = next((name for name in ours | theirs if ours.get(name) != theirs.get(name)), None)
    if name is not None:
        raise InputError(
            f"{first.folder} and {second.folder}: {name} is {ours.get(name)!r} and {theirs.get(name)!r}; expected runs "
            "of the same data and parameters: remove or retrain those that are out of date"
        )


def conditions(about: About) -> dict[str, Any]:
    """What comparable runs have in common, by dotted name; a parameter of ADDED only where it changes something."""
    rest = {key: value for key, value in about.parameters.items() if key != METHOD}
    data = {"fingerprint": about.data.fingerprint, "faces": about.data.faces, "drawn": about.data.drawn}
    found = {"profile": about.profile} | dict(_flat({"data": data} | rest))
    return {name: value for name, value in found.items() if name not in ADDED or value != ADDED[name]}


def method_conditions(about: About) -> dict[str, Any]:
    """What runs of one method have in common beside that: the method's own parameters, by dotted name."""
    return dict(_flat({"method": about.parameters.get("method", {})}))


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
