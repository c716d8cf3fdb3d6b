"""Runs that learnt from wrong labels -> one small table of raw results: what they know, what they learnt by heart.

`train.wrong_labels` gives a share of the training faces another label (`cfpn.faces.mislabelled`). A row holds

- `accuracy`: on the test faces, whose labels are true;
- `by_heart`: share of the faces with a wrong label that the network names by that wrong label;
- `seen_through`: share of them that it names by their true label.

The table gains the runs found, one after the other, and keeps those it had.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench import robustness
from cfpn import prediction
from cfpn.allocator import keep_freed_memory
from cfpn.faces import Faces, mislabelled
from cfpn.network import Network
from pipeline import evaluate
from pipeline.page import measurements
from pipeline.page.tables import markdown
from pipeline.process import InputError, run
from pipeline.runs import about, records

EXAMPLE = """example:
  python -m bench.wrong_labels docs/study/wrong-labels.csv --runs runs --splits data/splits
"""
RUN = ["wrong_labels", "method", "seed"]


def measured(network: Network, train: Faces, test: Faces, share: float, seed: int) -> dict[str, Any]:
    """What a row holds; train: the faces that the run saw, with true labels; it saw `share` of them with another."""
    taught = mislabelled(train, share, seed).labels
    wrong = taught != train.labels
    named = prediction.predict(network, train.pixels[wrong]).argmax(1)
    return {
        "accuracy": prediction.accuracy(prediction.predict(network, test.pixels), test.labels),
        "wrong": int(wrong.sum()),
        "by_heart": (named == taught[wrong]).double().mean().item(),
        "seen_through": (named == train.labels[wrong]).double().mean().item(),
    }


def gathered(table: Path, runs: Path, train: Faces, test: Faces, fingerprint: str) -> pd.DataFrame:
    """Rows of `table`, if it exists, with those of all runs that learnt from wrong labels; written after each run.

    fingerprint: of the data, as run.json has it.
    """
    trained = {one: weights for one, weights in map(run_and_weights, robustness.trained(runs).values()) if one[0]}
    faces = {one: seen(weights, train, fingerprint) for one, weights in trained.items()}
    robustness.check_alike(table, RUN, trained, by=RUN)
    robustness.check_kind(trained.values(), train)
    kept, found = robustness.others(table, trained, RUN, by=RUN), []
    for one, weights in trained.items():
        print(weights.parent, flush=True)
        share, _, seed = one
        row = {"wrong_labels": share} | measured(evaluate.load_network(weights), faces[one], test, share, seed)
        found.append(robustness.labelled(weights, [row], by=RUN))
        robustness.write(table, [*kept, *found], RUN)
    return pd.concat([*kept, *found]).sort_values(RUN)


def seen(weights: Path, train: Faces, fingerprint: str) -> Faces:
    """The faces that a run saw, with true labels; raises InputError where it saw others, or these augmented."""
    own = records.read_about(weights.parent / records.ABOUT)
    if own.parameters["train"].get("faces") == "augmented":
        raise InputError(f"{weights.parent}: expected a run that learnt from the faces as they are")
    if own.data.fingerprint != fingerprint:
        raise InputError(f"{weights.parent}: learnt from other faces than those of --splits")
    faces = train.first(own.parameters["train"].get("limit", 0))
    if len(faces) != own.data.faces:
        raise InputError(f"{weights.parent}: learnt from {own.data.faces} faces, and --splits holds {len(faces)}")
    return faces


def run_and_weights(weights: Path) -> tuple[tuple[float, str, int], Path]:
    """What a run is, in the columns of RUN, and its weights."""
    own = records.read_about(weights.parent / records.ABOUT)
    return (own.parameters["train"].get("wrong_labels", 0.0), own.method, own.seed), weights


def main() -> None:
    """Command line."""
    args = robustness.of_runs("python -m bench.wrong_labels", __doc__, EXAMPLE).parse_args()
    torch.set_num_threads(1)  # more of them spin against whatever else runs
    keep_freed_memory()
    train, test = (evaluate.load_faces(args.splits / f"{name}.parquet") for name in ("train", "test"))
    own = about.digest([args.splits / "train.parquet", args.splits / "val.parquet"])
    table = gathered(args.table, args.runs, train, test, own)
    print(markdown(*measurements.wrong_labels(table)))


if __name__ == "__main__":
    run(main)
