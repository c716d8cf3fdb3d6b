"""Inputs of a page as the stages write them: splits, runs with run.json, evaluations, parameters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cfpn import schema
from cfpn.schema import Description
from pipeline import report
from pipeline.metrics import NAMES
from pipeline.page import inputs
from pipeline.page.inputs import Paths

TRANSFORMS = ("original", "flip", "clockwise", "counterclockwise", "half", "double", "noise")
PARAMS = """
profile: sample
source: {source}
run:
  methods: {methods}
  seeds: {seeds}
"""
METHODS = {
    "nbp": {
        "units": ["block1", "block2", "block3"],
        "gradients": "stop",
        "vote": True,
        "schedule": {"learning_rate": 0.01, "first_unit_stops_at": 0.65},
        "local_loss": {
            "hsic": {"estimator": "debiased_cka", "beta": 100.0},
            "hsic_weight": 0.1,
            "classifier_weight": 1.0,
        },
    },
    "bp": {"units": "network", "vote": False},
}
AUDIT = {
    "rows": {"train": {"total": 40, "anger": 7}, "val": {"total": 21, "anger": 5}, "test": {"total": 30, "anger": 6}},
    "constant_faces": {"total": 3, "train": 2, "val": 1, "test": 0},
    "identical_faces": {
        "groups_with_conflicting_labels": 4,
        "rows_with_a_copy_in": {"train": {"val": 8, "test": 9}, "val": {"train": 11, "test": 12}},
    },
    "dropped": {"duplicates": 13},
}
DRAWN = Description(drawn=True)


def write_split(path: Path, count: int, seed: int, first_row: int, about: Description = DRAWN) -> None:
    """A split of random faces, one class after the other."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, about.channels, about.side, about.side), np.uint8)
    labels = np.arange(count) % len(about.classes)
    schema.write(path, pixels, labels, np.arange(first_row, first_row + count), about)


def write_augmented(path: Path, blockwise: bool) -> None:
    """Three faces under seven transforms; the pixels of a variant are its index."""
    keys = [(row, i) for row in (4, 5, 6) for i in range(7)]
    keys = sorted(keys, key=lambda key: key[1]) if blockwise else keys
    columns = {
        "pixels": pa.array([bytes([10 * row + i]) * 2304 for row, i in keys], pa.binary(2304)),
        "label": pa.array([0] * len(keys), pa.int8()),
        "transform": pa.array([TRANSFORMS[i] for _, i in keys]).dictionary_encode(),
        "row": pa.array([row for row, _ in keys], pa.int32()),
    }
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(schema.arrow_schema(DRAWN).metadata), path)


def write_run(
    root: Path,
    method: str,
    seed: int = 0,
    collapsed: bool = False,
    planes: bool = False,
    folder: str = "",
    **about: object,
) -> None:
    """A run of three epochs and its evaluation; `about` overrides run.json."""
    folder = folder or f"{method}-{seed}"
    run, out = root / "runs" / folder, root / "evaluate" / folder
    run.mkdir(parents=True)
    out.mkdir(parents=True)
    test = inputs.read_split(root / "splits/test.parquet")
    for place in (run, out):
        write_json(place / "run.json", described(method, seed, test.about) | about)
    curve = {f"{split}/{what}": [0.3, 0.4, 0.5] for split in ("train", "val") for what in ("loss", "accuracy")}
    if planes:
        curve |= {"block/block1/cka_image": [0.5, 0.4, 0.3], "block/block1/cka_label": [0.1, 0.2, 0.3]}
    pd.DataFrame({"epoch": [1, 2, 3], "step": [5, 10, 15]} | curve).to_csv(run / "history.csv", index=False)
    training = {"best_epoch": 3, "epochs": 3, "steps": 15, "parameters": 12345, "majority_accuracy": 0.25}
    write_json(run / "metrics.json", training | {"collapsed": collapsed})
    write_json(run / "timing.json", {"seconds_per_epoch": [60.0, 61.0, 62.0], "threads": 1, "device": "cpu"})
    write_evaluation(out, test, collapsed, [seed, len(method)])


def described(method: str, seed: int, data: Description) -> dict[str, Any]:
    """run.json."""
    model = {"name": "cfpn", "input_size": 16, "width": 16, "layers": 1, "pyramids": 1}
    model |= {"channels": data.channels, "classes": len(data.classes)}
    train = {"faces": "original", "epochs": 3, "batch": 8}
    return {
        "method": method,
        "seed": seed,
        "profile": "sample",
        "parameters": {"model": model, "train": train, "method": METHODS.get(method, METHODS["bp"])},
        "data": {"fingerprint": "f", "faces": 40, "drawn": data.drawn, "classes": list(data.classes)},
        "code": {"commit": "0123456789abcdef", "fingerprint": "c"},
        "device": "cpu",
        "threads": 1,
        "workers": 1,
    }


def write_evaluation(out: Path, test: inputs.Split, collapsed: bool, seed: list[int]) -> None:
    """Predictions, right more often than not, or all of one class; and scores that belong to them."""
    count, classes = len(test.labels), len(test.about.classes)
    logits = np.random.default_rng(seed).normal(size=(count, classes)) + 2 * np.eye(classes)[test.labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    probabilities = np.eye(classes)[[3] * count] if collapsed else probabilities
    right = probabilities.argmax(1) == test.labels
    copied = test.rows % 5 == 0
    scores = dict.fromkeys(NAMES, 0.5) | {
        "accuracy": float(right.mean()),
        "accuracy_standard_error": float(np.sqrt(right.mean() * (1 - right.mean()) / count)),
        "accuracy_without_copies": float(right[~copied].mean()),
        "test_faces": count,
        "test_faces_without_copies": int((~copied).sum()),
        "majority_accuracy": float(np.bincount(test.labels).max() / count),
        "macro_f1": 0.321,
        "recall": {name: float(right[test.labels == i].mean()) for i, name in enumerate(test.about.classes)},
        "expected_calibration_error": 0.0123,
        "negative_log_likelihood": 1.5,
        "collapsed": collapsed,
    }
    write_json(out / "metrics.json", scores)
    columns = {"row": test.rows, "label": test.labels, "predicted": probabilities.argmax(1), "copy": copied}
    columns |= {f"p{i}": column.astype(np.float32) for i, column in enumerate(probabilities.T)}
    pd.DataFrame(columns).to_parquet(out / "predictions.parquet", index=False)


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def paths(root: Path) -> Paths:
    """Where the inputs of a page in `root` lie."""
    return Paths(
        runs=root / "runs",
        evaluations=root / "evaluate",
        splits=root / "splits",
        augmented=root / "augmented.parquet",
        bench=root / "bench.json",
        comparison=root / "compare.json",
        params=root / "params.yaml",
        sweeps=root / "sweeps",
    )


def write_params(root: Path, methods: str = "[nbp, bp]", seeds: str = "[0]", source: str = "data/sample.csv") -> None:
    (root / "params.yaml").write_text(PARAMS.format(methods=methods, seeds=seeds, source=source))


def write_splits(root: Path, about: Description = DRAWN) -> None:
    """Three splits."""
    (root / "splits").mkdir(exist_ok=True)
    for seed, (name, count) in enumerate((("train", 40), ("val", 21), ("test", 30))):
        write_split(root / f"splits/{name}.parquet", count, seed, 1 + 100 * seed, about)


def write_everything(root: Path) -> None:
    """Splits with an audit, parameters, an NBP run and a BP run."""
    write_splits(root)
    write_json(root / "splits/audit.json", AUDIT)
    write_params(root)
    write_run(root, "nbp", planes=True)
    write_run(root, "bp")


def build(root: Path, name: str = "out") -> str:
    """Write the page and return it."""
    report.report(root / name, inputs.read_inputs(paths(root), "2026-01-31"))
    return (root / name / "index.html").read_text(encoding="utf-8")
