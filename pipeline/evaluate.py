"""Stage `evaluate`: the weights of a run on the test split -> metrics, predictions and the confusion matrix.

`python -m pipeline.evaluate RUN_DIR SPLITS_DIR OUT_DIR` writes metrics.json, predictions.parquet, confusion.csv and a
copy of run.json, all of them or none, the same bytes every time. Every test face counts once and as it is: nothing is
drawn at random.

Rules for what could be read in two ways:
- A test face is a copy when all its pixels equal those of a face of the training split; accuracy_without_copies leaves
  such faces out and is null where no other is left.
- A class that the test split lacks has no entry under `recall` and does not count in macro-F1, unless it is predicted.
- A run has collapsed when its accuracy is not more than one standard error above the share of the largest class.
"""

import csv
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from cfpn import anytime, checkpoint, prediction
from cfpn.allocator import keep_freed_memory
from cfpn.faces import Faces, load
from cfpn.network import Network
from cfpn.schema import EXPRESSIONS, reader
from pipeline import networks
from pipeline.metrics import METRICS
from pipeline.process import InputError, atomic, command_line, only_one, run, thread_count
from pipeline.runs.chance import collapsed, majority, standard_error
from pipeline.runs.records import ABOUT, LOOKS

CPU = torch.device("cpu")
ROWS_AT_ONCE = 2048  # of the training split


def evaluate(run_folder: Path, splits: Path, out: Path, device: torch.device, mirror: bool = False) -> dict[str, Any]:
    """Write metrics.json, predictions.parquet, confusion.csv and a copy of run.json into `out`; returns the metrics.

    mirror: the network looks at each face and at its mirror image, and both looks vote.
    Raises InputError where weights or splits are missing, damaged or do not fit; then nothing is written.
    """
    if out.resolve() == run_folder.resolve():
        raise InputError(f"{out}: expected another folder than the run's, which has a metrics.json of its own")
    network = load_network(run_folder / "model.safetensors", device)
    faces = load_faces(splits / "test.parquet")
    check_classes(network, faces, run_folder)
    copied = copies(faces, splits / "train.parquet")
    found = looks(network, faces.pixels, mirror)
    probabilities = prediction.vote(found, network.vote).cpu()
    check_finite(probabilities, faces, run_folder)
    report = metrics(probabilities, faces.labels, copied, faces.classes) | by_unit(found, faces.labels)
    report |= arithmetic(network, found, faces.labels, 1 + mirror) | {LOOKS: 1 + mirror}
    with only_one(out), ExitStack() as outputs:
        paths = [outputs.enter_context(atomic(out / name)) for name in ("metrics.json", "predictions.parquet")]
        confusion = outputs.enter_context(atomic(out / "confusion.csv"))
        paths[0].write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
        with paths[1].open("wb") as file:  # Arrow refuses paths that are not UTF-8
            pq.write_table(predictions(probabilities, faces, copied), file, compression="zstd")
        write_confusion(confusion, faces, probabilities.argmax(1))
        if (run_folder / ABOUT).exists():  # so that an evaluation says by itself what was evaluated
            outputs.enter_context(atomic(out / ABOUT)).write_bytes((run_folder / ABOUT).read_bytes())
        else:  # nor may it say what was evaluated before
            (out / ABOUT).unlink(missing_ok=True)
    return report


def load_network(path: Path, device: torch.device = CPU) -> Network:
    """The network that weights describe, in evaluation mode.

    Raises InputError where the file is missing, is none or describes no known model, and for a tensor whose name, shape
    or values are wrong, naming it.
    """
    try:
        return checkpoint.load(path, networks.described).to(device)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected the weights that the train stage writes") from error
    except ValueError as error:
        raise InputError(str(error)) from error


def load_faces(path: Path) -> Faces:
    """The faces of a split; raises InputError where it is missing, empty or not one."""
    try:
        faces = load(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected a split written by the ingest stage") from error
    except ValueError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    if not len(faces):
        raise InputError(f"{path}: no face in it")
    return faces


def looks(network: Network, pixels: Tensor, mirror: bool) -> dict[str, Tensor]:
    """Log probabilities (n, classes) of every unit for pixels (n, c, h, w); with `mirror` those of both looks."""
    found = prediction.unit_log_probabilities(network, pixels)
    if not mirror:
        return found
    other = prediction.unit_log_probabilities(network, pixels.flip(-1))
    return {name: ((logs + other[name]) / 2).log_softmax(1) for name, logs in found.items()}


def copies(faces: Faces, train: Path) -> Tensor:
    """Which faces (n,) have an identical copy in the training split; it is read in parts, 5 MB at a time."""
    own = [face.tobytes() for face in faces.pixels.numpy()]
    wanted, found = set(own), set()
    try:
        with reader(train, ROWS_AT_ONCE) as (_, _, batches):
            for batch in batches:
                found |= wanted.intersection(face.tobytes() for face in batch.pixels)
    except FileNotFoundError as error:
        raise InputError(f"{train}: no such file; expected a split written by the ingest stage") from error
    except ValueError as error:
        raise InputError(str(error)) from error
    return torch.tensor([face in found for face in own])


def check_classes(network: Network, faces: Faces, run_folder: Path) -> None:
    """Raise InputError where the weights were trained on other classes, or on pictures of another kind."""
    if (network.names, network.channels) != (faces.classes, faces.pixels.shape[1]):
        trained = f"{', '.join(network.names)}; {network.channels} channels"
        raise InputError(
            f"{run_folder}: trained on {trained}; the test split has {', '.join(faces.classes)}; "
            f"{faces.pixels.shape[1]} channels"
        )


def check_finite(probabilities: Tensor, faces: Faces, run_folder: Path) -> None:
    """Raise InputError with the first row whose probabilities (n, classes) are not finite."""
    wrong = (~probabilities.isfinite().all(1)).nonzero().flatten()
    if len(wrong):
        row = faces.rows[wrong[0]].item()
        raise InputError(f"{run_folder}: the probabilities of row {row} of the test split are not finite")


def metrics(
    probabilities: Tensor, labels: Tensor, copied: Tensor, classes: Sequence[str] = EXPRESSIONS
) -> dict[str, Any]:
    """Metrics of probabilities (n, classes) against labels (n,); copied (n,) bool marks faces that training may know.

    All of METRICS, and what tells their worth: counts, standard error, largest class, recall per class, `collapsed`.
    """
    # Imported here because it loads matplotlib and scipy: a second or more in every worker of a sweep.
    from torchmetrics.functional.classification import multiclass_recall

    report: dict[str, Any] = {metric.name: metric.compute(probabilities, labels, copied) for metric in METRICS}
    accuracy, count = report["accuracy"], len(labels)
    support = torch.bincount(labels, minlength=len(classes))
    recall = multiclass_recall(probabilities, labels, len(classes), average="none").tolist()
    return report | {
        "accuracy_standard_error": standard_error(accuracy, count),
        "test_faces": count,
        "test_faces_without_copies": int((~copied).sum()),
        "majority_accuracy": majority(labels),
        "recall": {name: recall[label] for label, name in enumerate(classes) if support[label]},
        "collapsed": collapsed(accuracy, labels),
    }


def by_unit(units: dict[str, Tensor], labels: Tensor) -> dict[str, Any]:
    """Accuracy of every unit's own classifier, the network's last, and of the vote of all, where there are several."""
    if len(units) < 2:
        return {}
    single = {name: prediction.accuracy(logs.cpu(), labels) for name, logs in units.items()}
    together = prediction.vote(units, together=True).cpu()
    return {"accuracy_by_unit": single, "accuracy_of_vote": prediction.accuracy(together, labels)}


def arithmetic(network: Network, units: dict[str, Tensor], labels: Tensor, times: int = 1) -> dict[str, Any]:
    """Multiply-adds of an answer; where units vote also `early`: the same and accuracy for faces that leave early."""
    costs = times * torch.tensor(anytime.multiply_adds(network), dtype=torch.float64)
    report: dict[str, Any] = {"multiply_adds": int(costs[-1])}
    if network.vote:
        left = {sure: anytime.leave(units, sure) for sure in anytime.EXITS}
        report["early"] = [
            {
                "exit": sure,
                "accuracy": prediction.accuracy(votes.cpu(), labels),
                "multiply_adds": costs[asked.cpu() - 1].mean().item(),
            }
            for sure, (votes, asked) in left.items()
        ]
    return report


def predictions(probabilities: Tensor, faces: Faces, copied: Tensor) -> pa.Table:
    """One row per face: row in the source, label, predicted label, whether it is a copy, probabilities p0, p1, ..."""
    columns = {
        "row": pa.array(faces.rows.numpy(), pa.int32()),
        "label": pa.array(faces.labels.numpy(), pa.int8()),
        "predicted": pa.array(probabilities.argmax(1).numpy(), pa.int8()),
        "copy": pa.array(copied.numpy(), pa.bool_()),
    }
    return pa.table(columns | {f"p{i}": pa.array(p.numpy(), pa.float32()) for i, p in enumerate(probabilities.T)})


def write_confusion(path: Path, faces: Faces, predicted: Tensor) -> None:
    """One line per face with the names of its label and of the prediction."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("actual", "predicted"))
        pairs = zip(faces.labels.tolist(), predicted.tolist(), strict=True)
        writer.writerows((faces.classes[label], faces.classes[guess]) for label, guess in pairs)


def main() -> None:
    """Command line of the stage."""
    parser = command_line(
        "python -m pipeline.evaluate",
        "Score the weights of a run on the test split.",
        "example: python -m pipeline.evaluate runs/nbp-0 data/splits results/mirror/nbp-0 --mirror",
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a run's folder: model.safetensors is read")
    parser.add_argument("splits", type=Path, metavar="SPLITS_DIR", help="test.parquet and train.parquet are read")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="where the files go")
    parser.add_argument(
        "--mirror", action="store_true", help="let a look at each face and one at its mirror image vote"
    )
    parser.add_argument("--threads", type=thread_count, default=1, help="of the CPU (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: cuda is not available here; take auto or cpu")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    name = "cuda" if arguments.device != "cpu" and torch.cuda.is_available() else "cpu"
    report = evaluate(arguments.run, arguments.splits, arguments.out, torch.device(name), arguments.mirror)
    print(json.dumps({key: report[key] for key in ("accuracy", "accuracy_standard_error", "collapsed")}))


if __name__ == "__main__":
    run(main)
