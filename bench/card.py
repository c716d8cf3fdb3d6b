"""Weights that come with the library, and the splits of FER2013 -> the raw numbers of docs/model-card.md, data-card.md.

`python -m bench.card` writes card.json (counts of faces per weights) and audit.json (what ingest counted) into
docs/study. They hold counts and means, and no picture. `make docs` makes the tables from them.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.robustness import damaged
from cfpn import prediction, weights
from cfpn.allocator import keep_freed_memory
from cfpn.faces import Faces
from cfpn.network import Network
from pipeline import evaluate, metrics
from pipeline.pictures import explain
from pipeline.pictures.explain import PATCH
from pipeline.process import InputError, command_line, file_hash, run, write_json
from pipeline.runs import records

EXAMPLE = """example:
  python -m bench.card --splits data/splits
"""
BINS = 10  # of confidence, of equal width
RUN = ("method", "seed", "profile", "code", "data")  # of what the weights say of their training
EXPLAINED, DELETED = 500, 0.2  # test faces whose explanation is tested; share of their pixels that is deleted
NONE = torch.zeros(0, dtype=torch.bool)


def write(names: Sequence[str], splits: Path, out: Path) -> None:
    """Write card.json and audit.json into `out`; raises InputError where a file is missing or faces are drawn."""
    val, test = (evaluate.load_faces(splits / f"{split}.parquet") for split in ("val", "test"))
    if val.drawn or test.drawn:
        raise InputError(f"{splits}: drawn faces; expected the splits of FER2013, which `pipeline.ingest` writes")
    copies = evaluate.copies(test, splits / "train.parquet")
    card = {name: measured(weights.named(name), val, test, copies) for name in names}
    write_json(out / "audit.json", records.read_json(splits / "audit.json"))
    write_json(out / "card.json", card)


def measured(path: Path, val: Faces, test: Faces, copies: Tensor) -> dict[str, Any]:
    """All that the card tells of a weights file; copies (n,) bool: test faces that the training split holds too."""
    network = evaluate.load_network(path)
    evaluate.check_classes(network, test, path)
    probabilities = prediction.predict(network, test.pixels)
    right = probabilities.argmax(1) == test.labels
    return {
        "sha256": file_hash(path),
        "bytes": path.stat().st_size,
        "parameters": sum(tensor.numel() for tensor in network.parameters()),
        "exit": network.about.get("exit"),
        "run": made(network.about.get("training", {})),
        "classes": list(network.names),
        "scores": {
            "val": count(answers(network, val) == val.labels),
            "test": count(right),
            "test_without_copies": count(right[~copies]),
        },
        "confusion": confusion(test.labels, probabilities.argmax(1), len(network.names)),
        "damage": [
            {
                "damage": name,
                "level": level,
                **count(prediction.predict(network, faces.pixels).argmax(1) == test.labels),
            }
            for name, level, faces in damaged(test)
        ],
        "expected_calibration_error": metrics.expected_calibration_error(probabilities, test.labels, NONE),
        "negative_log_likelihood": metrics.negative_log_likelihood(probabilities, test.labels, NONE),
        "confidence": confidence(probabilities, right),
        "deletion": deletion(network, test.pixels[:EXPLAINED]),
    }


def answers(network: Network, faces: Faces) -> Tensor:
    """The likeliest class (n,) of every face, by the full vote where units vote."""
    return prediction.predict(network, faces.pixels).argmax(1)


def made(training: dict[str, Any]) -> dict[str, Any]:
    """How the weights were made, of what their metadata say."""
    recipe = training.get("parameters", {}).get("train", {})
    return {key: training.get(key) for key in RUN} | {key: recipe.get(key) for key in ("epochs", "batch")}


def count(right: Tensor) -> dict[str, int]:
    """Faces, and those that were classified as labelled; right: (n,) bool."""
    return {"faces": len(right), "correct": int(right.sum())}


def confusion(labels: Tensor, predicted: Tensor, classes: int) -> list[list[int]]:
    """Faces by label (rows) and answer (columns)."""
    counts: list[list[int]] = (
        torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, -1).tolist()
    )
    return counts


def deletion(network: Network, pixels: Tensor) -> dict[str, Any]:
    """Mean probability of the answer, and how much of it goes with a fifth of the pixels (n, c, h, w) uint8.

    "lost" has mean and standard error by what is deleted: the most important pixels, random ones, random patches.
    """
    answered = prediction.predict(network, pixels).argmax(1)
    before = explain.log_probability(network, pixels.float(), answered).exp()
    random = torch.rand(pixels[:, 0].shape, generator=torch.Generator().manual_seed(0))
    patches = random[:, ::PATCH, ::PATCH].repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    orders = {"important": explain.importance(network, pixels, answered), "random": random, "patches": patches}
    lost = {}
    for name, order in orders.items():
        left = explain.log_probability(network, explain.deleted(pixels, order, DELETED), answered).exp()
        error = (before - left).std() / math.sqrt(len(pixels))
        lost[name] = {"mean": round((before - left).mean().item(), 4), "standard_error": round(error.item(), 4)}
    return {"faces": len(pixels), "probability": round(before.mean().item(), 4), "lost": lost}


def confidence(probabilities: Tensor, right: Tensor) -> list[dict[str, float]]:
    """Per bin of the answer's probability that is not empty: its ends, faces, correct ones, mean probability."""
    sure = probabilities.amax(1).double()
    place = (sure * BINS).ceil().clamp(1, BINS)
    found = []
    for number in range(1, BINS + 1):
        if (own := place == number).any():
            ends = {"above": (number - 1) / BINS, "up_to": number / BINS}
            found.append(ends | count(right[own]) | {"mean": round(sure[own].mean().item(), 4)})
    return found


def main() -> None:
    """Command line."""
    parser = command_line("python -m bench.card", __doc__, EXAMPLE)
    parser.add_argument("--splits", type=Path, default=Path("data/splits"), help="of FER2013 (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/study"), help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    write(weights.names(), args.splits, args.out)
    print(f"{args.out}: card.json and audit.json of {', '.join(weights.names())}; now `make docs`")


if __name__ == "__main__":
    run(main)
