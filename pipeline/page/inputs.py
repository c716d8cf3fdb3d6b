"""What the page is made from: runs with their evaluations, the splits, the augmented faces, measurements, sweeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cfpn import schema
from cfpn.schema import EXPRESSIONS, Description
from pipeline import params as parameters
from pipeline.page import sweeps
from pipeline.page.files import optional_json
from pipeline.page.sweeps import Sweep
from pipeline.process import InputError
from pipeline.runs import records
from pipeline.runs.records import Run

SPLITS = ("train", "val", "test")
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}  # as FER2013 calls them
SHOWN = ("profile", "source", "run")  # of params.yaml
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
    def names(self) -> dict[str, str]:
        """What each split is called."""
        return USAGES if self.expressions else {"train": "training", "val": "validation", "test": "test"}

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
        comparison=read_comparison(paths.comparison),
        sweeps=sweeps.read(paths.sweeps, paths.splits, paths.augmented) if paths.sweeps else [],
        date=date,
    )


def read_comparison(path: Path) -> dict[str, Any] | None:
    """compare.json, None where there is none; raises InputError for another file."""
    found = optional_json(path)
    if found and not {"reference", "quantities", "methods", "notes"} <= found.keys():
        raise InputError(f"{path}: expected the compare.json of the compare stage")
    return found


def read_settings(path: Path) -> dict[str, Any]:
    """profile, source and run of params.yaml; raises InputError where there is no such mapping."""
    content = parameters.read(path)
    if "profile" not in content:
        raise InputError(f"{path}: expected the key 'profile'")
    if not isinstance(content.get("run", {}), dict):
        raise InputError(f"{path}: run: expected methods and seeds, found {content['run']!r}")
    for name, value in content.get("run", {}).items():
        if not isinstance(value, list):
            raise InputError(f"{path}: run.{name}: expected a list, found {value!r}")
    return {"source": "?", "run": {}} | {name: content[name] for name in SHOWN if name in content}


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
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; the ingest stage writes it") from error
    except ValueError as error:
        raise InputError(str(error)) from error


def read_runs(folder: Path, evaluations: Path, settings: Mapping[str, Any]) -> list[Run]:
    """The runs that params.yaml names, in its order; raises InputError where there is none or they are not alike."""
    wanted = settings["run"]
    runs = records.read(folder, evaluations, wanted.get("methods"), wanted.get("seeds"))
    for one in runs:
        if one.about.profile != settings["profile"]:
            raise InputError(
                f"{one.folder}: of profile {one.about.profile}; params.yaml has {settings['profile']}, train again"
            )
    records.check_alike(runs)
    records.check_one_look(runs)
    return runs


def name_of(one: Run) -> str:
    """What the page calls a run, whatever its folder is called."""
    return f"{one.method}-{one.seed}"


def method_of(one: Run) -> Mapping[str, Any]:
    """The parameters of a run's method."""
    method: Mapping[str, Any] = one.about.parameters.get("method", {})
    return method


def scores_of(one: Run) -> Mapping[str, Any]:
    """The evaluation of a run, empty before there is one."""
    return one.scores or {}


def collapsed(one: Run) -> bool:
    """Whether training or evaluation found a run no better than naming the largest class."""
    return bool(one.training.get("collapsed") or scores_of(one).get("collapsed"))


def seconds_of(one: Run) -> float | None:
    """Seconds of a whole training, None where they are unknown."""
    return sum(one.timing["seconds_per_epoch"]) if one.timing.get("seconds_per_epoch") else None


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
