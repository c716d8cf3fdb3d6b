"""Faces for a GPU: the splits of the ingest stage, or FER2013 as one Parquet file of JPEGs."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from cfpn import faces
from cfpn.faces import Faces
from pipeline.process import InputError

SPLITS = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
COLUMNS = ["usage", "emotion", "jpeg"]


def load(path: Path) -> dict[str, Faces]:
    """Training, validation and test faces of a folder of splits or a file of JPEGs; InputError where it is neither."""
    try:
        return _folder(path) if path.is_dir() else _jpegs(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: {error}; expected a folder of splits, or a Parquet file with {COLUMNS}") from error


def fingerprint(splits: dict[str, Faces]) -> str:
    """A hash of the pixels and labels of all splits."""
    whole = hashlib.sha256()
    for one in splits.values():
        whole.update(one.pixels.numpy().tobytes())
        whole.update(one.labels.numpy().tobytes())
    return whole.hexdigest()[:16]


def _folder(path: Path) -> dict[str, Faces]:
    return {split: faces.load(path / f"{split}.parquet") for split in SPLITS}


def _jpegs(path: Path) -> dict[str, Faces]:
    table = pq.read_table(path, columns=COLUMNS)
    usage, labels = (table[name].to_numpy() for name in COLUMNS[:2])
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")) for jpeg in table["jpeg"].to_pylist()])
    rows = np.arange(len(labels))
    return {split: _chosen(pixels, labels, rows, usage == name) for split, name in SPLITS.items()}


def _chosen(pixels: np.ndarray, labels: np.ndarray, rows: np.ndarray, chosen: np.ndarray) -> Faces:
    own = [torch.from_numpy(array[chosen].copy()) for array in (pixels[:, None], labels.astype(np.int64), rows)]
    return Faces(own[0], own[1], own[2])
