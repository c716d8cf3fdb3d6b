"""Faces on their way from a reader to the Parquet files: a chunk of pixels and what the audit needs of each face."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audit import Face

CHUNK = 32  # faces that are read at once: few enough for the work arrays to stay in the cache
FAULTS_SHOWN = 20


class Row(NamedTuple):
    """A face before its pixels are read: its number in the source, label, split, and the text of its pixels in a CSV.

    None, or the label -1, stands where a value is at fault or absent.
    """

    number: int
    label: int
    split: str | None
    pixels: bytes | None = None


class Cut(NamedTuple):
    """Shares in 0..1 of the faces that go to the validation and the test split where the source does not say."""

    validation: float
    test: float
    seed: int


class Chunk(NamedTuple):
    """Some faces: pixels (n, channels * side * side) uint8 and, for each row of it, what the audit needs."""

    pixels: NDArray[np.uint8]
    faces: list[Face]


def identify(rows: Iterable[Row], pixels: NDArray[np.uint8], cut: Cut | None = None) -> list[Face]:
    """What the audit needs of each row; a row without a split gets one by `cut`."""
    constant = pixels.min(axis=1) == pixels.max(axis=1)
    faces = []
    for row, face, flat in zip(rows, pixels, constant.tolist(), strict=True):
        digest = blake2b(face, digest_size=16).digest()
        split = row.split
        if split is None:
            assert cut is not None  # else the reader refuses the file
            split = split_by_identity(digest, cut)
        faces.append(Face(row.number, split, row.label, digest, flat))
    return faces


def split_by_identity(digest: bytes, cut: Cut) -> str:
    """The split of a face of this digest: uniform over seeds, equal for equal faces."""
    drawn = int.from_bytes(blake2b(digest, digest_size=8, key=str(cut.seed).encode()).digest()) / 2**64
    return "test" if drawn < cut.test else "val" if drawn < cut.test + cut.validation else "train"


def fault_list(path: Path, total: int, kind: str, faults: Sequence[str], count: int) -> str:
    """The faults that are shown, one on a line, and how many more there are; `kind` is that of the `total` checked."""
    lines = [f"{path}: {count:,} fault{'s' * (count > 1)} in {total:,} {kind}; nothing was written"]
    lines += [f"  {fault}" for fault in faults]
    if count > len(faults):
        lines.append(f"  and {count - len(faults):,} more")
    return "\n".join(lines)
