"""Stage `augment`: seven rows for each training face, itself and the six transforms of the paper (section IV.B).

`python -m pipeline.augment TRAIN.parquet OUT.parquet` writes, for each face in the order of the file, the rows
original, flip, clockwise, counterclockwise, half, double, noise. `transform` names the row, `row` is the source's.

What the paper leaves open:
- Rotations (by 45 degrees, as a person sees the picture) and scales keep the centre and the frame: half scale
  leaves a border around the face, double scale shows its middle. Values between pixels are bilinear; at half scale
  that is the mean of 2x2 pixels, if the side is even.
- What lies outside the source face is its nearest pixel (`--border border`), so that no edge appears that a face does
  not have; `zeros` is black and `reflection` mirrors.
- The noise is Gaussian with a standard deviation of `--sigma` grey levels (of 255), rounded and clipped to 0..255. It
  depends on the seed and the source row alone, so neither batches, threads nor dropped rows change it.
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from cfpn.allocator import keep_freed_memory
from cfpn.schema import Batch, Description, SplitError, arrow_schema, column, reader, writer
from pipeline.process import InputError, atomic, command_line, run

BATCH, SMALL = 256, 48**2  # faces at once, of so many pixels; fewer of larger ones
TRANSFORMS = ("original", "flip", "clockwise", "counterclockwise", "half", "double", "noise")
BORDERS = ("border", "zeros", "reflection")
TRANSFORM = pa.field("transform", pa.dictionary(pa.int8(), pa.string()))


def augment(source: Path, target: Path, seed: int = 0, border: str = "border", sigma: float = 10.0) -> int:
    """Write seven rows for each face of `source`, a split as the ingest stage writes it; returns how many.

    seed: 0 or more; border: one of BORDERS; sigma: standard deviation of the noise in grey levels, 0 or more.
    Raises InputError where `source` is not such a split, or is `target`; then `target` is as before.
    """
    if source.resolve() == target.resolve():
        raise InputError(f"{target}: the faces are read there; another file is needed")
    with opened(source) as (parquet, description, batches), atomic(target) as path:
        count: int = parquet.metadata.num_rows
        schema = arrow_schema(description).append(TRANSFORM)
        with writer(path, schema) as sink, tqdm(desc="augment", total=count, unit=" faces", disable=None) as progress:
            for batch in parts(batches, max(1, BATCH * SMALL // (description.channels * description.side**2))):
                sink(as_rows(variants(batch.pixels, batch.rows, seed, border, sigma), batch, schema))
                progress.update(len(batch.rows))
        return len(TRANSFORMS) * count


def parts(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """The same faces, `count` at a time at most: the seven variants of a large one take much memory."""
    for batch in batches:
        for start in range(0, len(batch.rows), count):
            part = slice(start, start + count)
            yield Batch(batch.pixels[part], batch.labels[part], batch.rows[part])


@contextmanager
def opened(source: Path) -> Iterator[tuple[pq.ParquetFile, Description, Iterator[Batch]]]:
    """Open a split as `cfpn.schema.reader` does; raises InputError where it is none, empty or already augmented."""
    try:
        with reader(source, BATCH) as split:
            parquet = split[0]
            if TRANSFORM.name in parquet.schema_arrow.names:
                raise InputError(
                    f"{source}: column transform: already augmented; expected train.parquet of the ingest stage"
                )
            if not parquet.metadata.num_rows:
                raise InputError(f"{source}: no rows; expected at least one face")
            yield split
    except SplitError as error:
        raise InputError(str(error)) from error


def variants(
    pixels: NDArray[np.uint8], rows: NDArray[np.int32], seed: int, border: str, sigma: float
) -> NDArray[np.uint8]:
    """Faces (n, ..., side, side) and their source rows (n,) -> (n, 7, ..., side, side) uint8, ordered as TRANSFORMS."""
    faces = torch.from_numpy(pixels.astype(np.float32))
    noisy = faces + sigma * torch.from_numpy(noise(rows, faces.shape[1:], seed))
    stacked = torch.stack([faces, faces.flip(-1), *warp(faces, border), noisy], dim=1)
    return stacked.round_().clamp_(0, 255).to(torch.uint8).numpy()


def warp(faces: Tensor, border: str) -> Tensor:
    """Faces (n, ..., side, side) float32 -> (4, n, ..., side, side): clockwise, counterclockwise, half, double.

    All faces and their colours are channels of one picture, since all share the four maps.
    """
    side = faces.shape[-1]
    maps = torch.tensor([rotation(45), rotation(-45), scaling(0.5), scaling(2)])
    grid = F.affine_grid(maps, [len(maps), 1, side, side], align_corners=False)
    pictures = faces.reshape(-1, side, side).expand(len(maps), -1, -1, -1)
    warped = F.grid_sample(pictures, grid, mode="bilinear", padding_mode=border, align_corners=False)
    return warped.reshape(len(maps), *faces.shape)


def rotation(degrees: float) -> list[list[float]]:
    """Map (2, 3) from a place in the turned picture to its source; y points down, degrees are clockwise to the eye."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [[cos, sin, 0.0], [-sin, cos, 0.0]]


def scaling(factor: float) -> list[list[float]]:
    """Map (2, 3) from a place in the scaled picture to its source."""
    return [[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]]


def noise(rows: NDArray[np.int32], shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    """Standard normal noise (n, *shape); the counter-based generator is keyed by seed and source row."""
    keys = [np.array([seed, row], np.uint64) for row in rows]
    return np.stack([np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, np.float32) for key in keys])


def as_rows(pixels: NDArray[np.uint8], batch: Batch, schema: pa.Schema) -> pa.RecordBatch:
    """Faces (n, 7, ...) as 7n rows with the labels and rows of their sources and the names of the transforms."""
    labels, rows = (np.repeat(values, len(TRANSFORMS)) for values in (batch.labels, batch.rows))
    names = np.tile(np.arange(len(TRANSFORMS), dtype=np.int8), len(batch.rows))
    values = (pixels.reshape(len(names), -1), labels, rows)
    columns = [column(array, kind) for array, kind in zip(values, schema.types[:3], strict=True)]
    columns.append(pa.DictionaryArray.from_arrays(column(names, pa.int8()), list(TRANSFORMS)))
    return pa.record_batch(columns, schema=schema)


def main() -> None:
    """Command line of the stage."""
    parser = command_line(
        "python -m pipeline.augment",
        "Write each training face and its six transforms: flip, two rotations, two scales, noise.",
        "example: python -m pipeline.augment data/splits/train.parquet data/augmented.parquet --seed 0",
    )
    parser.add_argument("source", type=Path, metavar="TRAIN.parquet", help="the training split of the ingest stage")
    parser.add_argument("target", type=Path, metavar="OUT.parquet", help="where seven rows for each face go")
    parser.add_argument("--seed", type=parse_seed, default=0, help="of the noise (default: %(default)s)")
    parser.add_argument("--border", choices=BORDERS, default="border", help="outside the face (default: %(default)s)")
    parser.add_argument(
        "--sigma", type=parse_sigma, default=10.0, help="of the noise in grey levels of 255 (default: %(default)s)"
    )
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)  # writing takes longer than the maps, and threads that wait for each other cost more
    rows = augment(arguments.source, arguments.target, arguments.seed, arguments.border, arguments.sigma)
    print(f"{rows} rows")


def parse_seed(text: str) -> int:
    """A seed from 0 to 2^64 - 1; raises argparse.ArgumentTypeError at anything else."""
    if not (text.isdecimal() and int(text) < 2**64):
        raise argparse.ArgumentTypeError(f"{text!r}; expected an integer, 0 or more")
    return int(text)


def parse_sigma(text: str) -> float:
    """A finite number, 0 or more; raises argparse.ArgumentTypeError at anything else."""
    try:
        sigma = float(text)
    except ValueError:
        sigma = math.nan
    if not 0 <= sigma < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number, 0 or more")
    return sigma


if __name__ == "__main__":
    run(main)
