"""Results of runs as a comparison takes them: from the runs' folders, or from the tracked tables of a study.

NAME.csv has one row per run and epoch: method, seed, the history, and the test scores of the chosen epoch as
"test/<metric>". NAME-faces.csv has one row per run: which test faces it names rightly, one bit each, in base64.
Both gain the runs collected and keep those they had, so that a study may be made in pieces and on several machines.
"""

import base64
import hashlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.metrics import NAMES
from pipeline.process import InputError, atomic, json_hash, only_one
from pipeline.runs.records import LOOKS, Run, conditions, method_conditions
from pipeline.runs.significance import ROUNDING

KEYS = ["method", "seed", "epoch"]
NETWORK = "network_accuracy"  # of the network's own classifier, where units vote; else the accuracy
FACES = "test_faces"
CONDITIONS, OF_METHOD = "conditions", "method_conditions"
MIRROR = "_mirror"  # ends the name of a method whose networks look at each face and at its mirror image
BITS = ["method", "seed", "split", "faces", "correct"]


@dataclass(frozen=True)
class Outcome:
    """What is compared of one run.

    where: folder or table, for messages. history: a row per epoch; where the network looked twice, without its blocks,
    which the same network's row of one look describes. scores: by name of METRICS, and NETWORK and FACES.
    correct: which test faces are named rightly; split: a hash of those faces' rows and labels. seconds: mean of an
    epoch; place: device, threads and workers. conditions: a hash of data and shared parameters, and
    method_conditions one of the method's own. Unknown: None, "".
    """

    where: str
    method: str
    seed: int
    history: pd.DataFrame
    scores: dict[str, float | None]
    best_epoch: int
    correct: NDArray[np.bool_] | None = None
    split: str = ""
    seconds: float | None = None
    place: tuple[str, int, int] | None = None
    conditions: str = ""
    method_conditions: str = ""

    @property
    def validation(self) -> float:
        """Validation accuracy of the chosen epoch."""
        return float(self.history.loc[self.history["epoch"] == self.best_epoch, "val/accuracy"].iloc[0])

    def steps_to(self, goal: float, column: str = "val/accuracy") -> float | None:
        """Steps after which `column`, else the validation accuracy, is first at a goal or above; None: never."""
        accuracy = self.history["val/accuracy"]
        reached = self.history.get(column, accuracy).fillna(accuracy) >= goal - ROUNDING
        return float(self.history.loc[reached, "step"].min()) if reached.any() else None


def outcome(run: Run) -> Outcome:
    """The results of a run that has been evaluated; raises InputError where scores are missing."""
    scores, predictions = run.scores, run.predictions
    if scores is None or predictions is None:
        raise InputError(f"{run.folder}: not evaluated; run the evaluate stage first")
    if "best_epoch" not in run.training:
        raise InputError(f"{run.folder}: metrics.json has no best_epoch; train again")
    if "accuracy" not in scores or FACES not in scores:
        raise InputError(f"{run.folder}: its evaluation has no accuracy or no {FACES}; evaluate again")
    *_, last = scores.get("accuracy_by_unit") or [None]
    alone = scores["accuracy_by_unit"][last] if last is not None else scores["accuracy"]
    own = run.history.get(f"unit/{last}/accuracy", run.history["val/accuracy"])
    twice = scores.get(LOOKS, 1) > 1
    history = run.history[[name for name in run.history if not (twice and name.startswith("block/"))]]
    seconds = run.timing.get("seconds_per_epoch")
    return Outcome(
        where=str(run.folder),
        method=run.method + MIRROR * twice,
        seed=run.seed,
        history=pd.concat([history, own.rename(f"val/{NETWORK}")], axis=1),
        scores={name: scores.get(name) for name in (*NAMES, FACES)} | {NETWORK: alone},
        best_epoch=run.training["best_epoch"],
        correct=(predictions["label"] == predictions["predicted"]).to_numpy(),
        split=hashlib.sha256(predictions[["row", "label"]].astype("int64").to_numpy().tobytes()).hexdigest()[:16],
        seconds=statistics.fmean(seconds) if seconds else None,
        place=(run.about.device, run.about.threads, run.about.workers),
        conditions=json_hash(conditions(run.about)),
        method_conditions=json_hash(method_conditions(run.about)),
    )


def faces_table(table: Path) -> Path:
    """Where the bits of a study's table stand."""
    return table.with_name(f"{table.stem}-faces.csv")


def read(table: Path) -> list[Outcome]:
    """The runs of a study, in the order of its table; raises InputError where there is none."""
    rows, bits = _rows(table), _bits(faces_table(table))
    if not len(rows):
        raise InputError(f"{table}: no such study; expected one row per run and epoch")
    runs = rows.groupby(["method", "seed"], sort=False)
    found = [_outcome(table, str(method), int(seed), own, bits.get((method, seed))) for (method, seed), own in runs]
    for one in found:
        if one.best_epoch not in set(one.history["epoch"]):
            raise InputError(f"{one.where}: best_epoch is {one.best_epoch}; expected one of its epochs")
    return found


def _outcome(table: Path, method: str, seed: int, rows: pd.DataFrame, bits: dict[str, Any] | None) -> Outcome:
    rows = rows.sort_values("epoch", ignore_index=True)
    first = rows.iloc[0]
    names = {name: f"test/{name}" for name in (*NAMES, FACES, NETWORK)}
    scores = {name: _known(first[column]) if column in rows else None for name, column in names.items()}
    hashes = [text if isinstance(text := first.get(name), str) else "" for name in (CONDITIONS, OF_METHOD)]
    return Outcome(
        where=f"{table}: {method}, seed {seed}",
        method=method,
        seed=seed,
        history=rows,
        scores=scores,
        best_epoch=int(first["best_epoch"]),
        correct=_unpacked(bits, scores[FACES], f"{faces_table(table)}: {method}, seed {seed}") if bits else None,
        split=bits["split"] if bits else "",
        conditions=hashes[0],
        method_conditions=hashes[1],
    )


def _known(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


def _rows(table: Path) -> pd.DataFrame:
    """The table as it stands, numbers to the last bit; empty where there is no file."""
    if not table.exists():
        return pd.DataFrame()
    needed = (*KEYS, "step", "best_epoch", "val/accuracy", "test/accuracy")
    rows = _table_of(table, needed, {CONDITIONS: object, OF_METHOD: object})
    for name in needed:
        empty = (rows[name] if name == "method" else pd.to_numeric(rows[name], errors="coerce")).isna()
        if empty.any():
            line, kind = int(empty.idxmax()), "a name" if name == "method" else "a number"
            raise InputError(f"{table}: line {line + 2}: {name}: expected {kind}, found {rows[name][line]}")
    return rows


def _table_of(path: Path, columns: Sequence[str], types: dict[str, Any]) -> pd.DataFrame:
    """A CSV table; raises InputError where it is none or lacks one of the columns."""
    try:
        rows = pd.read_csv(path, dtype=types)
    except ValueError as error:
        raise InputError(f"{path}: no table: {error}") from error
    for name in columns:
        if name not in rows:
            raise InputError(f"{path}: no column {name}, found {', '.join(rows.columns[:5])}")
    return rows


def _bits(table: Path) -> dict[tuple[str, int], dict[str, Any]]:
    if not table.exists():
        return {}
    rows = _table_of(table, BITS, {"split": str, "correct": str}).to_dict("records")
    return {(row["method"], row["seed"]): row for row in rows}


def _packed(correct: NDArray[np.bool_]) -> str:
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def _unpacked(bits: dict[str, Any], faces: float | None, where: str) -> NDArray[np.bool_]:
    """Which test faces are named rightly; raises InputError for a cell that is cut off or of other faces."""
    try:
        packed = np.frombuffer(base64.b64decode(bits["correct"], validate=True), np.uint8)
        count = int(bits["faces"])
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: expected a number of faces and their bits in base64: {error}") from error
    if len(packed) != -(-count // 8) or faces not in (None, count):
        raise InputError(f"{where}: {8 * len(packed)} bits for {count} faces; expected one bit for each test face")
    return np.unpackbits(packed, count=count).astype(bool)


def collect(table: Path, outcomes: Sequence[Outcome]) -> None:
    """Add runs to a study's two tables, or replace theirs; both are written whole.

    Raises InputError for a run scored on other faces, or trained from other data or parameters, than one that stays,
    and where another process is adding runs.
    """
    with only_one(table.parent):
        _collect(table, outcomes)


def _collect(table: Path, outcomes: Sequence[Outcome]) -> None:
    found = {(one.method, one.seed) for one in outcomes}
    stay = [one for one in (read(table) if table.exists() else []) if (one.method, one.seed) not in found]
    check_alike([*stay, *outcomes])
    rows, bits = _rows(table), list(_bits(faces_table(table)).values())
    if len(rows):
        rows = rows[[key not in found for key in zip(rows["method"], rows["seed"], strict=True)]]
    rows = pd.concat([rows, *(_table(one) for one in outcomes)]).sort_values(KEYS)
    # What blocks know is of 32 bits. Their shortest digits halve a table, which git holds.
    rows = rows.astype({name: "float32" for name in rows if name.startswith("block/")})
    bits = [row for row in bits if (row["method"], row["seed"]) not in found]
    bits += [row for one in outcomes for row in _bit_rows(one)]
    with atomic(table) as path, atomic(faces_table(table)) as faces:
        rows[KEYS + [name for name in rows if name not in KEYS]].to_csv(path, index=False, lineterminator="\n")
        order = pd.DataFrame(bits, columns=BITS).sort_values(["method", "seed"])
        order.to_csv(faces, index=False, lineterminator="\n")


def _bit_rows(one: Outcome) -> list[dict[str, Any]]:
    if one.correct is None:
        return []
    about = {"method": one.method, "seed": one.seed, "split": one.split, "faces": len(one.correct)}
    return [about | {"correct": _packed(one.correct)}]


def _table(one: Outcome) -> pd.DataFrame:
    about = {"method": one.method, "seed": one.seed, "best_epoch": one.best_epoch}
    about |= {f"test/{name}": value for name, value in one.scores.items()}
    hashes = {CONDITIONS: one.conditions, OF_METHOD: one.method_conditions}
    about |= {name: text for name, text in hashes.items() if text}
    return pd.concat([one.history, pd.DataFrame(about, index=one.history.index)], axis=1)


def check_alike(outcomes: Sequence[Outcome]) -> None:
    """Raise InputError, naming two runs, unless all are scored on the same faces and made under the same conditions.

    Runs of one method have to agree in its own parameters as well. What is not known of a run, as of those of older
    tables, is not compared.
    """
    kinds: tuple[tuple[str, Callable[[Outcome], object]], ...] = (
        ("the test faces", lambda one: one.split),
        ("the number of test faces", lambda one: one.scores[FACES]),
        ("data or parameters", lambda one: one.conditions),
    )
    for what, value in kinds:
        _check_same(outcomes, what, value)
    for method in {one.method: None for one in outcomes}:
        own = [one for one in outcomes if one.method == method]
        _check_same(own, f"parameters of {method}", lambda one: one.method_conditions)


def _check_same(outcomes: Sequence[Outcome], what: str, value: Callable[[Outcome], object]) -> None:
    known = [one for one in outcomes if value(one)]
    for one in known[1:]:
        if value(one) != value(known[0]):
            raise InputError(f"{known[0].where} and {one.where}: {what} differ; they cannot stand in one comparison")
