"""Runs and their evaluations, written as the stages write them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.metrics import NAMES

WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Write a run below runs/ and its evaluation below evaluations/; returns the run's folder."""

    def write(
        method: str,
        seed: int,
        accuracies: Sequence[float] = (0.1, 0.2, 0.3, 0.4),
        test: float = 0.5,
        correct: Sequence[bool] = (True, False),
        about: dict[str, Any] | None = None,
        units: dict[str, float] | None = None,
        seconds: float = 2.0,
        folder: str | None = None,
    ) -> Path:
        name = folder or f"{method} {seed}"  # nothing may be read out of it
        run, evaluation = tmp_path / "runs" / name, tmp_path / "evaluations" / name
        run.mkdir(parents=True)
        evaluation.mkdir(parents=True)
        epochs = range(1, len(accuracies) + 1)
        history = pd.DataFrame({"epoch": epochs, "step": [10 * e for e in epochs], "val/accuracy": accuracies})
        history.assign(**{"val/loss": 1.0}).to_csv(run / "history.csv", index=False)
        scores = dict.fromkeys(NAMES, 0.5) | {"accuracy": test, "test_faces": len(correct)}
        scores |= {"accuracy_by_unit": units, "accuracy_of_vote": test} if units else {}
        own = {
            "method": method,
            "seed": seed,
            "profile": "sample",
            "parameters": {
                "model": {"width": 32},
                "train": {"epochs": len(accuracies)},
                "method": {"units": "network" if method == "bp" else "block"},
            },
            "data": {"fingerprint": "f", "faces": 4, "drawn": True, "classes": ["a", "b"]},
            "code": {"commit": None, "fingerprint": "c"},
            "device": "cpu",
            "threads": 1,
            "workers": 1,
        } | (about or {})
        rows = range(1, len(correct) + 1)
        predictions = pd.DataFrame({"row": rows, "label": 0, "predicted": [int(not right) for right in correct]})
        predictions.to_parquet(evaluation / "predictions.parquet")
        timing = {"seconds_per_epoch": [seconds] * len(accuracies), "threads": 1, "device": "cpu"}
        for path, content in (
            (run / "run.json", own),
            (run / "metrics.json", {"best_epoch": 1, "epochs": len(accuracies)}),
            (run / "timing.json", timing),
            (evaluation / "metrics.json", scores),
        ):
            path.write_text(json.dumps(content))
        return run

    return write
