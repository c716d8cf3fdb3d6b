"""The votes of FER+ (Barsoum et al. 2016): ten people looked at each face of FER2013 again.

`fer2013new.csv` has a line for each row of the full fer2013.csv, in the same order, and counts of votes in ten columns.
A face gets the expression that has more votes than every other column. Where there is none, or where contempt, unknown
or "no face" (NF) has the most votes, it keeps its label. The test split is relabelled as well.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cfpn.schema import EXPRESSIONS
from pipeline.data.audit import Face
from pipeline.data.chunks import Chunk
from pipeline.data.csv_reader import USAGES
from pipeline.process import InputError

EMOTIONS = dict(  # column of FER+ -> expression
    zip(("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"), EXPRESSIONS, strict=True)
)
VOTED = (*EMOTIONS, "contempt", "unknown", "NF")


class Vote(NamedTuple):
    """The split of a row and its label by majority; None where its Usage is unknown or where there is no majority."""

    split: str | None
    label: int | None


def read(path: Path) -> list[Vote]:
    """The votes row by row; raises InputError where the file does not hold votes."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, strict=True, skipinitialspace=True)
            missing = [name for name in ("Usage", *VOTED) if name not in (lines.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: no column {missing[0]}; expected fer2013new.csv of FER+")
            return [vote(line, path, number) for number, line in enumerate(lines, 1)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}; expected fer2013new.csv of FER+") from error


def vote(line: Mapping[str, str | None], path: Path, number: int) -> Vote:
    """One row of votes."""
    counts = {}
    for name in VOTED:
        text = (line[name] or "").strip()
        if not (text.isdecimal() and text.isascii() and len(text) < 4):
            raise InputError(f"{path}: row {number}, column {name}: found {text[:40]!r}; expected a number of votes")
        counts[name] = int(text)
    most = max(counts.values())
    winners = [name for name in VOTED if counts[name] == most]
    clear = len(winners) == 1 and winners[0] in EMOTIONS
    label = EXPRESSIONS.index(EMOTIONS[winners[0]]) if clear else None
    return Vote(USAGES.get((line["Usage"] or "").strip().encode()), label)


def changed(face: Face, voted: Vote, source: Path, path: Path) -> Face:
    """A face with the label of its votes, which keeps the given one where it differs."""
    if face.split != voted.split:
        raise InputError(
            f"{source}: row {face.row} is in the split {face.split}, but not in {path}; expected one order"
        )
    if voted.label is None or voted.label == face.label:
        return face
    return face._replace(label=voted.label, given=face.label)


def relabel(chunks: Iterable[Chunk], votes: list[Vote], source: Path, path: Path) -> Iterator[Chunk]:
    """The same faces with the labels of the votes in `path`.

    Raises InputError where a row has another Usage than its votes, or where `source` has another number of rows.
    """
    rows = 0
    for chunk in chunks:
        rows += len(chunk.faces)
        if rows > len(votes):
            raise InputError(f"{source}: more rows than the {len(votes):,} of {path}; expected the file that it is for")
        yield Chunk(chunk.pixels, [changed(face, votes[face.row - 1], source, path) for face in chunk.faces])
    if rows < len(votes):
        raise InputError(f"{source}: {rows:,} rows, but {path} has {len(votes):,}; expected the full fer2013.csv")
