"""Tables of docs/model-card.md and docs/data-card.md, from docs/study/card.json and audit.json of `bench.card`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cfpn.schema import EXPRESSIONS
from pipeline.metrics import DASH, wilson
from pipeline.page.tables import Table
from pipeline.runs import records

FACES = {
    "val": "PublicTest, on which the epoch was chosen",
    "test": "PrivateTest",
    "test_without_copies": "PrivateTest without copies",
}
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
INTERVAL = "95 % interval, %"


def weights(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and numbers of all weights on the card."""
    yield from records.read_json(folder / "card.json").items()


def share(correct: int, faces: int) -> tuple[str, str]:
    """A share in %, and its 95 % interval by Wilson; dashes where there is no face."""
    if not faces:
        return DASH, DASH
    low, high = wilson(correct / faces, faces)
    return f"{100 * correct / faces:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"


def counted(found: Mapping[str, Any]) -> tuple[str, str, str]:
    """Faces, accuracy and interval of a row with the keys faces and correct."""
    return f"{found['faces']:,}", *share(found["correct"], found["faces"])


def scores(folder: Path) -> Table:
    """Accuracy on both test splits, and without copies."""
    header = ("weights", "faces", "n", "accuracy, %", INTERVAL)
    return header, [
        (name, FACES[key], *counted(card["scores"][key])) for name, card in weights(folder) for key in FACES
    ]


def classes(folder: Path) -> Table:
    """Per label: recall with n and interval, precision, and the answer by which it is missed most."""
    header = ("weights", "label", "n", "recall, %", INTERVAL, "precision, %", "most often taken for")
    return header, [row for name, card in weights(folder) for row in by_class(name, card)]


def by_class(name: str, card: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """The rows of some weights."""
    names, matrix = card["classes"], card["confusion"]
    for label, row in enumerate(matrix):
        faces, right = sum(row), row[label]
        answered = sum(other[label] for other in matrix)
        missed = max((number for number in range(len(row)) if number != label), key=row.__getitem__)
        wrong = f"{names[missed]}, {100 * row[missed] / faces:.1f} %" if row[missed] else DASH
        yield name, names[label], f"{faces:,}", *share(right, faces), share(right, answered)[0], wrong


def damage(folder: Path) -> Table:
    """Accuracy on damaged faces."""
    header = ("weights", "damage", "level", "n", "accuracy, %", INTERVAL)
    rows = [(name, row) for name, card in weights(folder) for row in card["damage"]]
    return header, [(name, row["damage"], f"{row['level']:g}", *counted(row)) for name, row in rows]


def calibration(folder: Path) -> Table:
    """Two numbers on all faces: how far confidence is from accuracy, and the negative log likelihood."""
    header = ("weights", "n", "expected calibration error, points", "negative log likelihood, nats")
    return header, [calibrated(name, card) for name, card in weights(folder)]


def calibrated(name: str, card: Mapping[str, Any]) -> Sequence[str]:
    """The row of some weights."""
    error, loss = card["expected_calibration_error"], card["negative_log_likelihood"]
    return name, f"{card['scores']['test']['faces']:,}", f"{100 * error:.1f}", f"{loss:.3f}"


def confidence(folder: Path) -> Table:
    """Accuracy by the probability of the answer."""
    header = ("weights", "probability of the answer", "mean, %", "n", "accuracy, %", INTERVAL)
    rows = [(name, row) for name, card in weights(folder) for row in card["confidence"]]
    ends = [f"{row['above']:.1f} to {row['up_to']:.1f}" for _, row in rows]
    means = [f"{100 * row['mean']:.1f}" for _, row in rows]
    cells = zip(rows, ends, means, strict=True)
    return header, [(name, end, mean, *counted(row)) for (name, row), end, mean in cells]


def made(folder: Path) -> Table:
    """How each of the weights was trained."""
    header = ("weights", "method", "seed", "profile", "epochs", "training faces", "code", "parameters", "MB", "SHA-256")
    return header, [(name, *made_of(card)) for name, card in weights(folder)]


def made_of(card: Mapping[str, Any]) -> Iterator[str]:
    """The cells of some weights."""
    run = card["run"]
    yield from (f"`{run['method']}`", str(run["seed"]), f"`{run['profile']}`", str(run["epochs"]))
    yield from (f"{run['data']['faces']:,}", run["code"]["commit"], f"{card['parameters']:,}")
    yield from (f"{card['bytes'] / 1e6:.2f}", f"`{card['sha256'][:12]}`")


def rows(folder: Path) -> Table:
    """Faces per class and split, with the share of each class in the split."""
    found = records.read_json(folder / "audit.json")["rows"]
    header = ("class", *(f"{usage}, n (%)" for usage in USAGES.values()))
    cells = [(name, *(part(found[split], name) for split in USAGES)) for name in EXPRESSIONS]
    return header, [*cells, ("all", *(f"{found[split]['total']:,}" for split in USAGES))]


def part(split: Mapping[str, int], name: str) -> str:
    """Faces of a class, and their share of the split."""
    return f"{split[name]:,} ({100 * split[name] / split['total']:.1f})"


def faults(folder: Path) -> Table:
    """What is known to be wrong with the faces, by split."""
    found = records.read_json(folder / "audit.json")
    same = found["identical_faces"]
    across = same["rows_with_a_copy_in"]
    kinds: dict[str, Mapping[str, int]] = {"all pixels equal": found["constant_faces"]}
    kinds["repeats an earlier face of its split"] = same["redundant_rows_within"]
    kinds |= {f"has a copy in {usage}": across[split] for split, usage in USAGES.items()}
    table = [(kind, *(f"{n[one]:,}" if one in n else DASH for one in USAGES)) for kind, n in kinds.items()]
    return ("faces", *USAGES.values()), table


def groups(folder: Path) -> Table:
    """Groups of identical faces in the whole file."""
    found = records.read_json(folder / "audit.json")
    same = found["identical_faces"]
    counts = {
        "faces": found["rows"]["total"],
        "groups of identical faces": same["groups"],
        "faces that repeat an earlier one": same["redundant_rows"],
        "groups whose faces carry more than one label": same["groups_with_conflicting_labels"],
    }
    return ("in the three splits together", "n"), [(kind, f"{n:,}") for kind, n in counts.items()]


TABLES: dict[str, Callable[[Path], Table]] = {
    "card-scores": scores,
    "card-classes": classes,
    "card-damage": damage,
    "card-calibration": calibration,
    "card-confidence": confidence,
    "card-made": made,
    "data-rows": rows,
    "data-faults": faults,
    "data-groups": groups,
}
