"""Where answers go: lines of text, JSON objects, a table, annotated pictures."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.pictures import annotate
from pipeline.pictures.annotate import Drawn
from pipeline.pictures.answers import Answer, Model
from pipeline.pictures.sources import Item

FOUND, TAKEN = "found by the detector", "taken as a face crop"


class Writer(Protocol):
    """Takes what there is to say of the faces of a picture."""

    def __call__(self, item: Item, found: Sequence[Answer]) -> None: ...


@dataclass(frozen=True)
class Lines:
    """One line of text per face."""

    top: int

    def __call__(self, item: Item, found: Sequence[Answer]) -> None:
        for number, answer in enumerate(found, 1):
            name = item.name if len(found) == 1 else f"{item.name} face {number}"
            units = ", ".join(f"{unit} {short(own, 1)}" for unit, own in answer.units.items())
            where = "box " + ",".join(map(str, item.boxes[number - 1])) if item.found else TAKEN
            opinions = "" if [*answer.units] == ["network"] else f" | {units}"
            print(f"{name}: {short(answer.probabilities, self.top)}{opinions} | {'; '.join((where, *item.notes))}")


@dataclass(frozen=True)
class Objects:
    """One JSON object per face and line."""

    model: Model
    top: int

    def __call__(self, item: Item, found: Sequence[Answer]) -> None:
        for number, answer in enumerate(found, 1):
            record = {
                "picture": item.name,
                "face": number,
                "box": list(item.boxes[number - 1]),
                "how": FOUND if item.found else TAKEN,
                "notes": list(item.notes),
                "expression": answer.expression,
                "probabilities": dict(list(answer.probabilities.items())[: self.top]),
                "units": answer.units,
                "multiply_adds": answer.multiply_adds,
                "weights": {"name": self.model.name, "sha256": self.model.sha256},
            }
            if answer.importance is not None:
                record["importance"] = [[round(value, 4) for value in row] for row in answer.importance.tolist()]
            print(json.dumps(record, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"))


class Rows:
    """One row of CSV per face, with the probability of every class and each unit's favourite."""

    def __init__(self, model: Model) -> None:
        self.model, self.units = model, [unit.name for unit in model.network.units]
        self.writer = csv.writer(sys.stdout, lineterminator="\n")
        self.writer.writerow(
            ["picture", "face", "x", "y", "width", "height", "how", "expression", *model.network.names]
            + [f"unit {name}" for name in self.units]
            + ["multiply_adds", "notes", "weights", "sha256"]
        )

    def __call__(self, item: Item, found: Sequence[Answer]) -> None:
        for number, answer in enumerate(found, 1):
            row: list[Any] = [item.name, number, *item.boxes[number - 1], FOUND if item.found else TAKEN]
            row += [answer.expression, *(f"{answer.probabilities[name]:.6f}" for name in self.model.network.names)]
            row += [next(iter(answer.units.get(name, {"": 0.0}))) for name in self.units]
            row += [answer.multiply_adds, "; ".join(item.notes), self.model.name, self.model.sha256]
            self.writer.writerow(row)


@dataclass(frozen=True)
class Pictures:
    """Annotated pictures in a folder."""

    folder: Path

    def __call__(self, item: Item, found: Sequence[Answer]) -> None:
        annotate.save(annotate.annotate(item.image, drawn(item, found)), self.folder, item.name)


def drawn(item: Item, found: Sequence[Answer]) -> list[Drawn]:
    """The faces of a picture as they are drawn into it."""
    return [
        Drawn(box, text(answer), None if answer.importance is None else answer.importance.numpy())
        for box, answer in zip(item.boxes, found, strict=True)
    ]


def text(answer: Answer) -> list[str]:
    """The vote and the units' opinions, as a picture shows them."""
    units = [f"{name}: {short(own, 1)}" for name, own in answer.units.items() if name != "network"]
    return [short(answer.probabilities, 3), *units]


def short(probabilities: dict[str, float], top: int) -> str:
    """The `top` most likely classes with their probabilities."""
    return ", ".join(f"{name} {value:.2f}" for name, value in list(probabilities.items())[:top])
