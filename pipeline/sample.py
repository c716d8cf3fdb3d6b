"""Stage `sample`: a CSV in FER2013's layout with drawn faces, so that everything runs without the real data.

`python -m pipeline.sample OUT.csv` draws 48x48 grey faces. An expression is a random combination of facial action
units (AU) around its prototype in EMFACS (Ekman, Irwin & Rosenberg 1994), under random identity, pose, light,
occlusion, blur and noise. Row n depends on the seed and on n alone, so a longer file begins with the shorter one.

Rows come in blocks of 200 that hold every expression in every split: 160 Training, 20 PublicTest, 20 PrivateTest, each
in the ratio 3:1:3:5:3:2:3 (disgust is rare and happy common, as in FER2013). The last row of a block is a flaw for the
audit to find, in turn: a copy of an earlier face, a copy, a copy under another label, a copy, an all-black face.
`--flawless` leaves the flaws out. A fourth column, `drawn`, says in the file itself that no person was photographed.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm import tqdm

from pipeline.data.drawing import SIDE, draw_face
from pipeline.data.expressions import PROTOTYPES
from pipeline.process import InputError, atomic, command_line, run

BLOCK = 200
USAGES = {"Training": 8, "PublicTest": 1, "PrivateTest": 1}
SHARES = (3, 1, 3, 5, 3, 2, 3)  # rows of each expression in 20
FLAWS = ("copy", "copy", "conflict", "copy", "black")
COLUMNS = 12  # faces per expression in the picture


@lru_cache(maxsize=2)
def schedule(seed: int, block: int) -> tuple[tuple[int, str], ...]:
    """Label and Usage of the 200 rows of a block, every expression in every split, in random order."""
    rows = [
        (label, usage)
        for usage, times in USAGES.items()
        for label, share in enumerate(SHARES)
        for _ in range(share * times)
    ]
    order = np.random.default_rng([seed, block, BLOCK]).permutation(len(rows))
    return tuple(rows[i] for i in order)


def face_of_row(seed: int, index: int, flawless: bool = False) -> NDArray[np.uint8]:
    """The 48x48 face of data row `index` (from 0), flaws of the module's docstring included."""
    block, position = divmod(index, BLOCK)
    rows = schedule(seed, block)
    label = rows[position][0]
    flaw = "" if flawless or position < BLOCK - 1 else FLAWS[block % len(FLAWS)]
    if flaw == "black":
        return np.zeros((SIDE, SIDE), dtype=np.uint8)
    if flaw:
        same = flaw == "copy"
        position = next(i for i, (other, _) in enumerate(rows) if (other == label) == same)
        label = rows[position][0]
    return draw_face(label, seed, block * BLOCK + position)


def csv_lines(count: int, seed: int, flawless: bool) -> Iterator[str]:
    """Header and `count` data rows `emotion,pixels,Usage,drawn`, each with its line end."""
    yield "emotion,pixels,Usage,drawn\n"
    for index in tqdm(range(count), desc="sample", unit=" faces", disable=None):
        label, usage = schedule(seed, index // BLOCK)[index % BLOCK]
        pixels = " ".join(map(str, face_of_row(seed, index, flawless).ravel().tolist()))
        yield f"{label},{pixels},{usage},1\n"


def contact_sheet(seed: int) -> Image.Image:
    """A picture of the first 12 faces of each expression, flaws aside: one row of faces, with its name, for each."""
    size, margin = 2 * SIDE, 70
    sheet = Image.new("L", (margin + COLUMNS * size, len(PROTOTYPES) * size), 255)
    rows = [row for block in (0, 1) for row in schedule(seed, block)]
    for label, expression in enumerate(PROTOTYPES):
        ImageDraw.Draw(sheet).text((6, label * size + size // 2 - 6), expression, fill=0)
        indices = [index for index, row in enumerate(rows) if row[0] == label][:COLUMNS]
        for column, index in enumerate(indices):
            face = Image.fromarray(draw_face(label, seed, index)).resize((size, size), Image.Resampling.BICUBIC)
            sheet.paste(face, (margin + column * size, label * size))
    return sheet


def check(arguments: argparse.Namespace) -> None:
    """Raise InputError for values that cannot give a data set."""
    if arguments.rows < BLOCK:
        raise InputError(f"--rows {arguments.rows}: expected {BLOCK} or more, so that every split has every expression")
    if arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed}: expected 0 or more")
    for path in (arguments.out, arguments.picture):
        if path is not None and path.is_dir():
            raise InputError(f"{path}: expected the name of a file, found a folder")
    if arguments.picture == arguments.out:
        raise InputError(f"--picture {arguments.picture}: expected another file than OUT.csv")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = command_line(
        "python -m pipeline.sample",
        "Write a CSV in FER2013's layout with drawn faces.",
        "example: python -m pipeline.sample data/sample.csv --rows 4000 --seed 0 --picture sheet.png",
    )
    result.add_argument("out", type=Path, metavar="OUT.csv", help="the CSV to write")
    result.add_argument("--rows", type=int, default=4000, help="number of faces, at least 200 (default: %(default)s)")
    result.add_argument("--seed", type=int, default=0, help="another seed, other faces (default: %(default)s)")
    result.add_argument("--picture", type=Path, metavar="SHEET.png", help="also draw 12 faces of each expression here")
    result.add_argument("--flawless", action="store_true", help="no copied, contradicting and black faces")
    return result


def main() -> None:
    """Write the CSV and, if asked for, the picture: both or neither."""
    arguments = parser().parse_args()
    check(arguments)
    with ExitStack() as outputs:
        csv = outputs.enter_context(atomic(arguments.out))
        if arguments.picture is not None:
            contact_sheet(arguments.seed).save(outputs.enter_context(atomic(arguments.picture)), format="PNG")
        with csv.open("w", encoding="ascii", newline="\n") as file:
            file.writelines(csv_lines(arguments.rows, arguments.seed, arguments.flawless))


if __name__ == "__main__":
    run(main)
