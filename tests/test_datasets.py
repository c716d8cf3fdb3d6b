"""Other data than faces of 48x48 go through training, evaluation and comparison without a change of code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from ruamel.yaml import YAML
from sklearn.datasets import load_digits

from cfpn.schema import Description, write

ROOT = Path(__file__).resolve().parents[1]
Data = tuple[NDArray[np.uint8], NDArray[np.int64], Description]


def digits() -> Data:
    """The first 1,000 of scikit-learn's handwritten digits: 8x8, grey, ten classes."""
    found = load_digits()
    pixels = (found.images[:1000] * 15).astype(np.uint8)[:, None]
    return pixels, found.target[:1000], Description(side=8, channels=1, classes=tuple("0123456789"))


def patches() -> Data:
    """Made up: 32x32, three channels, ten classes, each with a colour of its own and noise."""
    random = np.random.default_rng(0)
    labels = np.arange(400) % 10
    colours = random.integers(0, 200, (10, 3, 1, 1))
    pixels = (colours[labels] + random.integers(0, 50, (400, 3, 32, 32))).astype(np.uint8)
    return pixels, labels, Description(side=32, channels=3, classes=tuple(f"colour {i}" for i in range(10)))


def project(folder: Path, data: Data, epochs: int) -> None:
    """The parameter files at a small size, and the data cut into three splits."""
    yaml = YAML(typ="safe", pure=True)
    for name in ("params.yaml", "methods.yaml"):
        shutil.copy(ROOT / name, folder)
    profile = yaml.load(ROOT / "profiles/sample.yaml")
    profile["model"] |= {"width": 16, "input_size": 32, "layers": 2, "pyramids": 1}
    profile["train"] |= {"epochs": epochs, "batch": 32, "augmentation": {"flip": False, "shift": 0}, "average": 0.9}
    (folder / "profiles").mkdir()
    yaml.dump(profile, folder / "profiles/sample.yaml")
    (folder / "data/splits").mkdir(parents=True)
    pixels, labels, description = data
    order = np.random.default_rng(1).permutation(len(labels))
    parts = np.split(order, [len(order) * 6 // 10, len(order) * 8 // 10])
    for name, part in zip(("train", "val", "test"), parts, strict=True):
        path = folder / f"data/splits/{name}.parquet"
        write(path, pixels[part], labels[part].astype(np.int8), part.astype(np.int32), description)


def run(folder: Path, *words: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environment, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "epochs", "least"), [(digits, 12, 0.8), (patches, 10, 0.5)])
def test_data_of_another_size_and_kind_are_learnt_scored_and_compared(
    tmp_path: Path, data: object, epochs: int, least: float
) -> None:
    assert callable(data)
    project(tmp_path, data(), epochs)
    for method in ("nbp", "bp"):
        run(tmp_path, "pipeline.train", f"runs/{method}-0", "--method", method, "--seed", "0")
        run(tmp_path, "pipeline.evaluate", f"runs/{method}-0", "data/splits", f"results/evaluate/{method}-0")
    run(tmp_path, "pipeline.compare", "results/compare")
    found = json.loads((tmp_path / "results/compare/compare.json").read_text())["methods"]
    accuracies = {name: one["quantities"]["accuracy"]["mean"] for name, one in found.items()}
    print(accuracies)
    assert set(accuracies) == {"nbp", "bp"}
    assert min(accuracies.values()) > least
