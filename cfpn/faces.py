"""Faces as one resident uint8 tensor; batches, augmentation and resizing happen on the device."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfpn import schema
from cfpn.schema import EXPRESSIONS

ORDER, WRONG, SAMPLE = 3, 4, 5  # second part of a generator's key; training has 1 and 2
MEAN, DEVIATION = 0.5, 0.25  # of pixels in 0..1; fixed, so that a face is the same input whatever the data set
ERASED_AREA, ASPECT = (0.02, 0.33), 3.3  # of random erasing: least and most share, most height to width or inverse


@dataclass(frozen=True)
class Faces:
    """pixels (n, c, h, w) uint8, labels (n,) int64, rows (n,) int64: row numbers in the source; names of the classes.

    drawn: whether the faces are drawn and not photographs.
    """

    pixels: Tensor
    labels: Tensor
    rows: Tensor
    classes: tuple[str, ...] = EXPRESSIONS
    drawn: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """Height and width in pixels."""
        return self.pixels.shape[-1]

    @property
    def channels(self) -> int:
        """1 of grey faces, 3 of colour."""
        return self.pixels.shape[1]

    def to(self, device: torch.device) -> "Faces":
        """The same faces on another device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device), rows=self.rows.to(device))

    def first(self, count: int) -> "Faces":
        """The first `count` faces; all of them for 0."""
        n = count or None
        return replace(self, pixels=self.pixels[:n], labels=self.labels[:n], rows=self.rows[:n])

    def sample(self, count: int) -> "Faces":
        """`count` faces drawn from all, always the same ones, in their order; all of them where there are no more."""
        order = torch.randperm(len(self.labels), generator=generator(0, SAMPLE))
        i = order[:count].sort().values.to(self.labels.device)
        return replace(self, pixels=self.pixels[i], labels=self.labels[i], rows=self.rows[i])


@dataclass(frozen=True)
class Augmentation:
    """Random change of every training face in every epoch.

    flip: mirror half of them. shift in pixels of the stored face, rotation in degrees and scale as a share are each
    drawn uniformly from [-value, value]. erasing: the share of faces that lose a rectangle to mid grey (Zhong et al.:
    Random Erasing, AAAI 2020): 2 to 33 % of the image, its height 1/3.3 to 3.3 of its width, as in torchvision.
    Raises ValueError for less than 0, for a scale of 1 or more, and for a share above 1.
    """

    flip: bool = False
    shift: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("shift", "rotation", "scale", "erasing"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"augmentation.{name}: expected 0 or more, found {getattr(self, name)}")
        if self.scale >= 1:
            raise ValueError(f"augmentation.scale: expected less than 1, found {self.scale}")
        if self.erasing > 1:
            raise ValueError(f"augmentation.erasing: expected 1 or less, found {self.erasing}")

    @property
    def moves(self) -> bool:
        """Whether faces are mirrored, shifted, turned or scaled."""
        return bool(self.flip or self.shift or self.rotation or self.scale)


def load(path: Path) -> Faces:
    """Read a split from Parquet; raises ValueError, which names the file, where it is none."""
    pixels, labels, rows, description = schema.read(path)
    tensors = [torch.from_numpy(array) for array in (pixels, labels, rows)]
    return Faces(tensors[0], tensors[1], tensors[2], description.classes, description.drawn)


def mislabelled(faces: Faces, share: float, seed: int) -> Faces:
    """The same faces; about `share` of them have another label, each other class with the same chance.

    A face is known by its row: all faces of one row are mislabelled alike, whatever their order, the other faces and
    the method.
    """
    if not share or not len(faces):
        return faces
    rows, random = faces.rows.cpu(), generator(seed, WRONG)
    draw, which = torch.rand(int(rows.max()) + 1, 2, generator=random, dtype=torch.float64)[rows].unbind(1)
    further = 1 + (which * (len(faces.classes) - 1)).long()
    moved = torch.where(draw < share, further, 0).to(faces.labels.device)
    return replace(faces, labels=(faces.labels + moved) % len(faces.classes))


def per_pass(side: int) -> int:
    """How many images of this side a forward pass without gradients takes: their maps fit where 256 of 48x48 do."""
    return max(1, min(256, 256 * 48**2 // side**2))


def batches(faces: Faces, size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels (size, c, h, w) and labels (size,) in an order drawn from (seed, epoch); an incomplete batch is left out.

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
    """Network input (n, c, size, size), channels last, of pixels (n, c, h, w) uint8; bilinear as in paper IV.B."""
    x = (pixels.float() / 255 - MEAN) / DEVIATION
    if x.shape[-2:] != (size, size):
        x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)


def augment(x: Tensor, how: Augmentation, random: torch.Generator, side: int) -> Tensor:
    """Images (n, c, h, w) of faces stored at side x side, each changed in a way of its own."""
    if how.moves:
        x = _moved(x, how, random, side)
    return _erased(x, how.erasing, random) if how.erasing else x


def _moved(x: Tensor, how: Augmentation, random: torch.Generator, side: int) -> Tensor:
    """Each image under an affine map of its own; the border is the nearest pixel."""
    draw = torch.rand(5, len(x), generator=random).to(x.device) * 2 - 1
    angle, zoom = draw[0] * math.radians(how.rotation), 1 + draw[1] * how.scale
    mirror = torch.where((draw[2] < 0) & how.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    move = draw[3:] * (2 * how.shift / side)
    theta = torch.stack(
        [torch.stack([mirror * cos, -mirror * sin, move[0]], 1), torch.stack([sin, cos, move[1]], 1)], 1
    )
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _erased(x: Tensor, share: float, random: torch.Generator) -> Tensor:
    """A rectangle of each image of the share is 0, which is mid grey; it lies within the image."""
    chosen, area, ratio, top, left = torch.rand(5, len(x), generator=random).to(x.device)
    area = ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0])
    ratio = torch.exp((2 * ratio - 1) * math.log(ASPECT))
    height, width = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
    rows = _between(x.shape[-2], top * (1 - height), height)
    columns = _between(x.shape[-1], left * (1 - width), width)
    rectangle = rows[:, :, None] & columns[:, None, :] & (chosen < share)[:, None, None]
    return x.masked_fill(rectangle[:, None], 0.0)


def _between(size: int, start: Tensor, length: Tensor) -> Tensor:
    """Which of `size` pixels (n, size) have their centre in [start, start + length) (n,), shares of the side."""
    centres = (torch.arange(size, device=start.device) + 0.5) / size
    return (centres >= start[:, None]) & (centres < (start + length)[:, None])
