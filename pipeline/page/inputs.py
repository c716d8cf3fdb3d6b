"""What the page is made from: runs with their evaluations, the splits, the augmented faces, measurements, sweeps."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cfpn import schema
from cfpn.schema import EXPRESSIONS, Description
from pipeline.page import sweeps
from pipeline.page.files import optional_json, read_json
from pipeline.page.sweeps import Sweep
from pipeline.process import InputError

SPLITS = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}  # file name -> Usage in FER2013
FER2013 = {"train": 28709, "val": 3589, "test": 3589}  # faces of each split, as published

Pixels = NDArray[np.uint8]


class Paths(NamedTuple):
    """Where the inputs lie; `sweeps` None leaves sweeps out. Augmented faces, bench and comparison may be missing."""

    runs: Path = Path("runs")
    evaluations: Path = Path("results/evaluate")
    splits: Path = Path("data/splits")
    augmented: Path = Path("data/augmented.parquet")
    bench: Path = Path("results/bench.json")
    comparison: Path = Path("results/compare/compare.json")
    params: Path = Path("params.yaml")
    sweeps: Path | None = None


class Split(NamedTuple):
    """pixels (n, channels, side, side) uint8, labels (n,), rows (n,): the rows' numbers in the source."""

    pixels: Pixels
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    about: Description


class Run(NamedTuple):
    """What is known of one training; evaluation and predictions are None before the evaluate stage.

    about: run.json. training: metrics.json. timing: timing.json.
    """

    about: dict[str, Any]
    training: dict[str, Any]
    history: pd.DataFrame
    timing: dict[str, Any]
    evaluation: dict[str, Any] | None
    predictions: pd.DataFrame | None

    @property
    def method(self) -> str:
        """How it was trained."""
        return self.about["method"]

    @property
    def seed(self) -> int:
        """The seed of its weights and of the order of the faces."""
        return self.about["seed"]

    @property
    def name(self) -> str:
        """What the page calls it."""
        return f"{self.method}-{self.seed}"

    @property
    def collapsed(self) -> bool:
        """Whether training or evaluation found it at the share of the largest class."""
        return bool(self.training.get("collapsed") or (self.evaluation or {}).get("collapsed"))

    @property
    def scores(self) -> dict[str, Any]:
        """The evaluation, empty before there is one."""
        return self.evaluation or {}

    @property
    def seconds(self) -> float | None:
        """Seconds of the whole training."""
        return sum(self.timing["seconds_per_epoch"]) if self.timing.get("seconds_per_epoch") else None


class Inputs(NamedTuple):
    """All that the sections read.

    settings: profile, source and run of params.yaml. transforms: one face (channels, side, side) by transform.
    date: the day of the page.
    """

    settings: dict[str, Any]
    splits: dict[str, Split]
    audit: dict[str, Any] | None
    runs: list[Run]
    transforms: dict[str, Pixels]
    bench: dict[str, Any] | None
    comparison: dict[str, Any] | None
    sweeps: list[Sweep]
    date: str

    @property
    def methods(self) -> list[str]:
        """Methods with at least one run, in the order of params.yaml."""
        return list(dict.fromkeys(one.method for one in self.runs))

    @property
    def about(self) -> Description:
        """Side, channels and classes of the faces."""
        return self.splits["train"].about

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.about.classes

    @property
    def drawn(self) -> bool:
        """Whether any split holds faces of the sample stage."""
        return any(split.about.drawn for split in self.splits.values())

    @property
    def expressions(self) -> bool:
        """Whether the data have FER2013's form: its seven expressions on grey faces of 48x48."""
        return self.about == Description(drawn=self.about.drawn) and self.classes == EXPRESSIONS

    @property
    def noun(self) -> str:
        """What a class is called."""
        return "expression" if self.expressions else "class"

    @property
    def counts(self) -> dict[str, int]:
        """Rows per split as the source had them, before any was dropped."""
        found = {name: len(split.labels) for name, split in self.splits.items()}
        return {name: rows_read(self.audit or {}, name) or count for name, count in found.items()}

    def of(self, method: str) -> list[Run]:
        """The runs of a method."""
        return [one for one in self.runs if one.method == method]


def rows_read(audit: Mapping[str, Any], split: str) -> int | None:
    """Rows of a split in the audit; None where it does not tell."""
    rows = audit.get("rows")
    counts = rows.get(split) if isinstance(rows, dict) else None
    return counts.get("total") if isinstance(counts, dict) else None


def read_inputs(paths: Paths, date: str) -> Inputs:
    """Read everything; raises InputError for what is missing and needed, or damaged."""
    settings = read_settings(paths.params)
    splits = read_splits(paths.splits)
    return Inputs(
        settings=settings,
        splits=splits,
        audit=optional_json(paths.splits / "audit.json"),
        runs=read_runs(paths.runs, paths.evaluations, settings),
        transforms=read_transforms(paths.augmented) if paths.augmented.exists() else {},
        bench=optional_json(paths.bench),
        comparison=optional_json(paths.comparison),
        sweeps=sweeps.read(paths.sweeps, paths.splits, paths.augmented) if paths.sweeps else [],
        date=date,
    )


def read_settings(path: Path) -> dict[str, Any]:
    """profile, source and run of params.yaml; raises InputError where there is no such mapping."""
    try:
        content = YAML(typ="safe").load(path)
    except (FileNotFoundError, YAMLError) as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(content, dict) or "profile" not in content:
        raise InputError(f"{path}: expected a mapping with the key 'profile'")
    return {"source": "?", "run": None} | {
        name: content[name] for name in ("profile", "source", "run") if name in content
    }


def read_splits(folder: Path) -> dict[str, Split]:
    """The three splits; raises InputError where one is missing or of another kind than the others."""
    splits = {name: read_split(folder / f"{name}.parquet") for name in SPLITS}
    kinds = {(split.about.side, split.about.channels, split.about.classes) for split in splits.values()}
    if len(kinds) > 1:
        raise InputError(f"{folder}: the splits differ in side, channels or classes; ingest again")
    return splits


def read_split(path: Path) -> Split:
    """A split's faces; raises InputError where there is none."""
    try:
        return Split(*schema.read(path))
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{error}; expected a split written by the ingest stage") from error


def read_runs(folder: Path, evaluations: Path, settings: Mapping[str, Any]) -> list[Run]:
    """The runs of params.yaml's profile that its `run` names, in its order; all of the profile where it has no `run`.

    Raises InputError where there is none, or where two runs have the same method and seed.
    """
    found = [(path.parent, read_about(path)) for path in sorted(folder.glob("*/run.json"))]
    found = [(place, about) for place, about in found if (place / "metrics.json").exists()]
    mine = [(place, about) for place, about in found if about["profile"] == settings["profile"]]
    wanted = settings["run"] and [
        (method, seed) for method in settings["run"]["methods"] for seed in settings["run"]["seeds"]
    ]
    chosen = [one for one in mine if not wanted or key(one[1]) in wanted]
    chosen.sort(key=lambda one: wanted.index(key(one[1])) if wanted else 0)
    left_out = [place.name for place, about in found if (place, about) not in chosen]
    if left_out:
        print(f"note: params.yaml does not name these runs, left out: {', '.join(left_out)}", file=sys.stderr)
    if not chosen:
        names = ", ".join(f"{method} with seed {seed}" for method, seed in wanted or [])
        raise InputError(
            f"{folder}: no finished run of profile {settings['profile']}; looked for {names or 'run.json'}"
        )
    refuse_twins(chosen)
    return [read_run(place, about, evaluations / place.name) for place, about in chosen]


def key(about: Mapping[str, Any]) -> tuple[str, int]:
    """Method and seed of a run."""
    return about["method"], about["seed"]


def refuse_twins(runs: Iterable[tuple[Path, Mapping[str, Any]]]) -> None:
    """Raise InputError for two runs with the same method and seed."""
    places: dict[tuple[str, int], Path] = {}
    for place, about in runs:
        if (first := places.setdefault(key(about), place)) != place:
            raise InputError(
                f"{place}: another run of {about['method']} with seed {about['seed']} is {first}; keep one"
            )


def read_about(path: Path) -> dict[str, Any]:
    """run.json; raises InputError where a key that the page needs is missing."""
    about = read_json(path)
    for name in ("method", "seed", "profile", "parameters"):
        if name not in about:
            raise InputError(f"{path}: no key {name}; train again")
    return about


def read_run(folder: Path, about: dict[str, Any], evaluation: Path) -> Run:
    """One run and, if it has been evaluated, what came out; raises InputError where the evaluation is of another."""
    evaluated = (evaluation / "metrics.json").exists()
    if evaluated and optional_json(evaluation / "run.json") not in (None, about):
        raise InputError(f"{evaluation / 'run.json'}: not the run in {folder}; evaluate again")
    try:
        history = pd.read_csv(folder / "history.csv")
        predictions = pd.read_parquet(evaluation / "predictions.parquet") if evaluated else None
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{folder}: history or predictions: {error}") from error
    if "epoch" not in history:
        raise InputError(f"{folder / 'history.csv'}: no column epoch, found {', '.join(history.columns[:5])}")
    return Run(
        about=about,
        training=read_json(folder / "metrics.json"),
        history=history,
        timing=optional_json(folder / "timing.json") or {},
        evaluation=read_json(evaluation / "metrics.json") if evaluated else None,
        predictions=predictions,
    )


def read_transforms(path: Path) -> dict[str, Pixels]:
    """The variants (channels, side, side) of the first source face by transform, in the order of the file."""
    result: dict[str, Pixels] = {}
    try:
        file = pq.ParquetFile(path)
        about, source = schema.describe(file.schema_arrow), None
        shape = (about.channels, about.side, about.side)
        for batch in file.iter_batches(1024, columns=["pixels", "transform", "row"]):
            rows = batch["row"].to_numpy()
            source = rows[0] if source is None else source
            for i in np.flatnonzero(rows == source):
                name = batch["transform"][i].as_py()
                result[name] = np.frombuffer(batch["pixels"][i].as_py(), np.uint8).reshape(shape)
            if result and not (rows == source).any():
                break
    except (ValueError, KeyError) as error:
        raise InputError(f"{path}: {error}; expected the file of the augment stage") from error
    return result
