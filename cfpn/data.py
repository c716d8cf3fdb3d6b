"""Faces as one resident uint8 tensor; batches, augmentation and resizing happen on the device."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

EXPRESSIONS = ("anger", "disgust", "fear", "happy", "sad", "surprise", "normal")  # paper Table I
SIDE = 48
ORDER = 3  # second part of a generator's key; training has 1 and 2
MEAN, DEVIATION = 0.5, 0.25  # of pixels in 0..1; fixed, so that a face is the same input whatever the data set


class Faces(NamedTuple):
    """pixels (n, 48, 48) uint8, labels (n,) int64, rows (n,) int64: the row numbers in the CSV."""

    pixels: Tensor
    labels: Tensor
    rows: Tensor

    def to(self, device: torch.device) -> "Faces":
        """The same faces on another device."""
        return Faces(*(tensor.to(device) for tensor in self))

    def first(self, count: int) -> "Faces":
        """The first `count` faces; all of them for 0."""
        return Faces(*(tensor[: count or None] for tensor in self))


@dataclass(frozen=True)
class Augmentation:
    """Random change of every training face in every epoch.

    flip: mirror half of them; shift in pixels of 48, rotation in degrees and scale as a share: each drawn uniformly
    from [-value, value].
    """

    flip: bool = False
    shift: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.flip or self.shift or self.rotation or self.scale)


def load(path: Path) -> Faces:
    """Read a split from Parquet; raises ValueError where a column is missing or the pixels are not 48x48."""
    table = pq.read_table(path)
    missing = [name for name in ("pixels", "label", "row") if name not in table.column_names]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]!r}; expected a split written by the ingest stage")
    column = table["pixels"].combine_chunks()
    if column.type != pa.binary(SIDE * SIDE):
        raise ValueError(f"{path}: expected {SIDE * SIDE} pixels in every row, found {column.type}")
    pixels = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, SIDE, SIDE)[column.offset :][: len(column)]
    labels, rows = (torch.from_numpy(table[name].to_numpy().astype(np.int64)) for name in ("label", "row"))
    return Faces(torch.from_numpy(pixels.copy()), labels, rows)


def batches(faces: Faces, size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels (size, 48, 48) and labels (size,) in an order drawn from (seed, epoch); an incomplete batch is left out.

    Raises ValueError where there are fewer faces than one batch.
    """
    if len(faces.labels) < size:
        raise ValueError(f"train.batch: {size} is more than the {len(faces.labels)} training faces")
    order = torch.randperm(len(faces.labels), generator=generator(seed, ORDER, epoch)).to(faces.pixels.device)
    for chosen in order[: len(order) // size * size].view(-1, size):
        yield faces.pixels[chosen], faces.labels[chosen]


def generator(*key: int) -> torch.Generator:
    """A generator on the CPU seeded by a tuple of numbers below 2^32, equal on every platform."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def images(pixels: Tensor, size: int) -> Tensor:
    """Network input (n, 1, size, size), channels last, of pixels (n, 48, 48) uint8; bilinear as in paper IV.B."""
    x = (pixels[:, None].float() / 255 - MEAN) / DEVIATION
    if size != SIDE:
        x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)


def augment(x: Tensor, how: Augmentation, random: torch.Generator) -> Tensor:
    """Images (n, 1, h, w), each under an affine map of its own; the border is the nearest pixel."""
    if not how:
        return x
    draw = torch.rand(5, len(x), generator=random).to(x.device) * 2 - 1
    angle, zoom = draw[0] * math.radians(how.rotation), 1 + draw[1] * how.scale
    mirror = torch.where((draw[2] < 0) & how.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    move = draw[3:] * (2 * how.shift / SIDE)
    theta = torch.stack(
        [torch.stack([mirror * cos, -mirror * sin, move[0]], 1), torch.stack([sin, cos, move[1]], 1)], 1
    )
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)
