"""How hard the drawn faces are: `python -m bench.sample data/sample.csv`.

A pixel-linear model (logistic regression on scaled pixels, its C chosen on PublicTest) against a plain CNN (four 3x3
convolutions with batch norm, Adam, random flips, a fixed number of epochs). Both learn from Training, and both
accuracies are those of PrivateTest. The sample should stay below 65 % for the first and well above 80 % for the second.
"""

import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from cfpn.schema import EXPRESSIONS
from pipeline.process import InputError, command_line, run

SPLITS = ("Training", "PublicTest", "PrivateTest")
STRENGTHS = (1e-4, 1e-3, 1e-2)


class Split(NamedTuple):
    """Pixels in 0..1 of shape (n, 2304) and labels of shape (n,)."""

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]


def read(path: Path) -> list[Split]:
    """The three splits of a CSV with the columns emotion, pixels and Usage; InputError when one is missing or empty."""
    table = pd.read_csv(path)
    if missing := {"emotion", "pixels", "Usage"} - set(table.columns):
        raise InputError(
            f"{path}: expected the columns emotion, pixels and Usage, found no {', '.join(sorted(missing))}"
        )
    splits = []
    for usage in SPLITS:
        rows = table[table["Usage"] == usage]
        if rows.empty:
            raise InputError(f"{path}: no rows with Usage {usage}")
        pixels = np.array([text.split() for text in rows["pixels"]], dtype=np.float32) / np.float32(255)
        splits.append(Split(pixels, rows["emotion"].to_numpy(dtype=np.int64, copy=True)))
    return splits


def majority_accuracy(train: Split, test: Split) -> float:
    """Share of test faces that have the commonest training label."""
    return float(np.mean(test.labels == np.bincount(train.labels).argmax()))


def linear_accuracy(train: Split, val: Split, test: Split) -> tuple[float, float]:
    """Test accuracy of the pixel-linear model, and its C."""
    scaler = StandardScaler().fit(train.pixels)
    fits = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaler.transform(train.pixels), train.labels)
        fits.append((model.score(scaler.transform(val.pixels), val.labels), strength, model))
    _, strength, best = max(fits, key=lambda fit: fit[:2])
    return float(best.score(scaler.transform(test.pixels), test.labels)), strength


def plain_cnn(width: int = 24) -> nn.Sequential:
    """Four convolutions, each halving the map, and one linear layer."""
    sizes = [1, width, 2 * width, 3 * width, 4 * width]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * width * 9, len(EXPRESSIONS)))


def images(split: Split) -> torch.Tensor:
    """Faces of shape (n, 1, 48, 48), each with mean 0."""
    faces = torch.from_numpy(split.pixels).reshape(-1, 1, 48, 48)
    return faces - faces.mean(dim=(2, 3), keepdim=True)


def cnn_predictions(train: Split, test: Split, epochs: int, seed: int, width: int) -> NDArray[np.int64]:
    """Labels, of shape (n,), that the plain CNN gives the test faces after its last epoch."""
    torch.manual_seed(seed)
    model = plain_cnn(width)
    faces, labels = images(train), torch.from_numpy(train.labels)
    batches = [len(faces) // 64, 64]
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * batches[0])
    for _ in range(epochs):
        for rows in torch.randperm(len(faces))[: batches[0] * batches[1]].reshape(batches):
            flip = torch.rand(len(rows), 1, 1, 1) < 0.5
            batch = torch.where(flip, faces[rows].flip(3), faces[rows])
            loss = nn.functional.cross_entropy(model(batch), labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        labels_given: NDArray[np.int64] = model(images(test)).argmax(1).numpy()
    return labels_given


def main() -> None:
    """Print both accuracies and how long each took."""
    parser = command_line(
        "python -m bench.sample",
        "Measure a pixel-linear model and a plain CNN on a CSV in FER2013's layout.",
        "example: python -m bench.sample data/sample.csv",
    )
    parser.add_argument("csv", type=Path, metavar="FILE.csv")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the CNN (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the CNN (default: %(default)s)")
    parser.add_argument(
        "--width", type=int, default=24, help="channels of the CNN's first layer (default: %(default)s)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, val, test = read(arguments.csv)
    print(f"rows: {len(train.labels)} / {len(val.labels)} / {len(test.labels)}")
    print(f"majority: {majority_accuracy(train, test):.1%}")
    start = time.perf_counter()
    accuracy, strength = linear_accuracy(train, val, test)
    print(f"pixel-linear (C = {strength:g}): {accuracy:.1%} in {time.perf_counter() - start:.0f} s")
    start = time.perf_counter()
    right = cnn_predictions(train, test, arguments.epochs, arguments.seed, arguments.width) == test.labels
    print(f"plain CNN ({arguments.epochs} epochs): {right.mean():.1%} in {time.perf_counter() - start:.0f} s")
    recalls = (f"{name} {right[test.labels == label].mean():.0%}" for label, name in enumerate(EXPRESSIONS))
    print("recall of the plain CNN:", ", ".join(recalls))


if __name__ == "__main__":
    run(main)
