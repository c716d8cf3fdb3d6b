"""Faces on their way from a reader to the Parquet files: a chunk of pixels and what the audit needs of each face."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audit import Face


class Row(NamedTuple):
    """A line of the CSV after the checks of its short fields; None where the value is at fault or absent."""

    number: int
    label: int | None
    split: str | None
    pixels: bytes | None = None


class Cut(NamedTuple):
    """Shares in 0..1 of the faces that go to the validation and the test split where the file does not say."""

    validation: float
    test: float
    seed: int


class Chunk(NamedTuple):
    """Faces in the order of the file: pixels (n, 2304) uint8 and, for each row of it, what the audit needs."""

    pixels: NDArray[np.uint8]
    faces: list[Face]


def identify(rows: Iterable[Row], pixels: NDArray[np.uint8], cut: Cut | None) -> list[Face]:
    """What the audit needs of each row; a row without a split gets one by `cut`."""
    constant = pixels.min(axis=1) == pixels.max(axis=1)
    faces = []
    for row, face, flat in zip(rows, pixels, constant.tolist(), strict=True):
        digest = blake2b(face, digest_size=16).digest()
        faces.append(Face(row.number, row.split or split_by_identity(digest, cut), row.label, digest, flat))
    return faces


def split_by_identity(digest: bytes, cut: Cut) -> str:
    """The split of a face of this digest: uniform over seeds, equal for equal faces."""
    drawn = int.from_bytes(blake2b(digest, digest_size=8, key=str(cut.seed).encode()).digest()) / 2**64
    return "test" if drawn < cut.test else "val" if drawn < cut.test + cut.validation else "train"
