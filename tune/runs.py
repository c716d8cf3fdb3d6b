"""Runs that `python -m pipeline.compare` reads: a folder per trial that came to its end, as the train stage writes it.

RUN/{run.json, history.csv, metrics.json, timing.json} stand below runs/, and of a sweep that scores the test split
RUN/{run.json, metrics.json, predictions.parquet} below evaluate/. Weights are not kept.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from cfpn.faces import Faces
from pipeline import compare, evaluate
from pipeline.process import InputError, atomic, write_json
from pipeline.runs import records, study
from tune import names
from tune.outcome import Outcome

RUNS, EVALUATIONS, COMPARISON = "runs", "evaluate", "compare"
NEW = ".new"  # where they are written


def write(folder: Path, outcomes: list[Outcome], test: Faces | None, copied: np.ndarray | None) -> None:
    """Write the runs of all complete trials below `folder`, in place of those of an earlier sweep of this name.

    They are swapped in once all are written: a full disk leaves the earlier ones whole.
    test: the test split where it was scored; copied (n,): which of its faces training has seen.
    """
    new = folder / NEW
    shutil.rmtree(new, ignore_errors=True)
    kinds = (RUNS,) if test is None else (RUNS, EVALUATIONS)
    for kind in kinds:
        (new / kind).mkdir(parents=True)  # also where no trial is complete: DVC wants its outputs
    for one in outcomes:
        if one.status == "complete" and one.about is not None and one.score is not None:
            name = names.identifier(one.config)
            run(new / RUNS / name, one)
            if test is not None:
                evaluation(new / EVALUATIONS / name, one, test, torch.tensor(copied))
    for kind in (RUNS, EVALUATIONS, COMPARISON):
        shutil.rmtree(folder / kind, ignore_errors=True)
    for kind in kinds:
        (new / kind).rename(folder / kind)
    new.rmdir()


def run(folder: Path, one: Outcome) -> None:
    """What the train stage leaves but for the weights."""
    assert one.score is not None and one.about is not None
    summary, score = one.summary, one.score
    metrics = records.training_metrics(summary.history, summary.best_epoch, score.parameters, score.collapsed)
    records.write(folder, one.about, summary.history, metrics, [place["seconds"] for place in summary.places])


def evaluation(folder: Path, one: Outcome, test: Faces, copied: Tensor) -> None:
    """What the evaluate stage leaves."""
    assert one.score is not None and one.score.test_probabilities is not None
    probabilities = torch.from_numpy(one.score.test_probabilities)
    with atomic(folder / "metrics.json") as path:
        path.write_text(json.dumps(one.score.test, indent=2, allow_nan=False) + "\n")
    with atomic(folder / "predictions.parquet") as path, path.open("wb") as file:
        pq.write_table(evaluate.predictions(probabilities, test, copied), file, compression="zstd")
    write_json(folder / "run.json", one.about)


def comparison(folder: Path) -> str:
    """The tables of the compare stage over the runs of a sweep over methods, written to `folder`/compare.

    Returns the Markdown table, or why there is none.
    """
    (folder / COMPARISON).mkdir(exist_ok=True)
    try:
        outcomes = [study.outcome(one) for one in records.read(folder / RUNS, folder / EVALUATIONS)]
        found = compare.compared(outcomes, compare.REFERENCE)
        compare.write(folder / COMPARISON, found)
    except InputError as error:
        return f"not compared: {error}"
    return compare.markdown(found)
