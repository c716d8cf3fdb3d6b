"""What a source of faces holds: faces per class, changed labels, constant and identical faces, and what a rule drops.

Two faces are identical when all their pixels are. About 7 % of the test faces of FER2013 have an identical copy in
Training, which flatters every test score that is not told apart; so the audit counts them and the test split stays.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from cfpn.schema import EXPRESSIONS

SPLITS = ("train", "val", "test")
RULES = {
    "constant": "training faces whose pixels are all equal",
    "conflicting": "training faces whose copies in the training split carry another label",
    "copies": "training faces that also stand in the validation or test split",
    "duplicates": "all but the first of identical training faces",
}

Count = int | Mapping[str, "Count"]


class Face(NamedTuple):
    """One face: its number in the source, split, label, digest of the pixels, whether all of them are equal.

    `given` is the label in the source where the votes of FER+ have changed it, else None.
    """

    row: int
    split: str
    label: int
    digest: bytes
    constant: bool
    given: int | None = None


def audit(
    faces: Sequence[Face], rules: Collection[str] = (), classes: Sequence[str] = EXPRESSIONS
) -> tuple[dict[str, Count], set[int]]:
    """The audit of a source as nested counts, and the row numbers that `rules` (keys of RULES) drop.

    All counts describe the file as it was read, but for `dropped` (per rule) and `written` (per split). Every key is
    there for every file, so that two audits can be compared.
    """
    every_group = by_pixels(faces)
    groups = [group for group in every_group if len(group) > 1]
    reasons = drop(every_group, rules)
    reason_counts = Counter(reasons.values())
    written = Counter(face.split for face in faces if face.row not in reasons)
    report: dict[str, Count] = {
        "rows": {"total": len(faces)} | {split: per_class(faces, split, classes) for split in SPLITS},
        "labels_changed": per_split(face.split for face in faces if face.given is not None),
        "constant_faces": per_split(face.split for face in faces if face.constant),
        "identical_faces": {
            "groups": len(groups),
            "redundant_rows": sum(len(group) - 1 for group in groups),
            "groups_with_conflicting_labels": sum(map(conflicting, groups)),
            "redundant_rows_within": {split: redundant(groups, split) for split in SPLITS},
            "rows_with_a_copy_in": copies_across(groups),
        },
        "dropped": {rule: reason_counts[rule] for rule in RULES} | {"total": len(reasons)},
        "written": {split: written[split] for split in SPLITS},
    }
    return report, set(reasons)


def per_class(faces: Iterable[Face], split: str, classes: Sequence[str]) -> Mapping[str, Count]:
    """Rows of a split: the total and those of each class."""
    counts = Counter(face.label for face in faces if face.split == split)
    return {"total": counts.total()} | {name: counts[label] for label, name in enumerate(classes)}


def per_split(splits: Iterable[str]) -> Mapping[str, Count]:
    """How often each split occurs, and the total."""
    counts = Counter(splits)
    return {"total": counts.total()} | {split: counts[split] for split in SPLITS}


def by_pixels(faces: Iterable[Face]) -> list[list[Face]]:
    """Groups of identical faces, a single face being one as well; groups and their faces in the order of the file."""
    groups: defaultdict[bytes, list[Face]] = defaultdict(list)
    for face in faces:
        groups[face.digest].append(face)
    return list(groups.values())


def conflicting(group: Iterable[Face]) -> bool:
    """Whether identical faces carry more than one label."""
    return len({face.label for face in group}) > 1


def redundant(groups: Iterable[Sequence[Face]], split: str) -> int:
    """Rows of a split that repeat an earlier face of the same split."""
    return sum(max(0, sum(face.split == split for face in group) - 1) for group in groups)


def copies_across(groups: Iterable[Sequence[Face]]) -> Mapping[str, Count]:
    """Rows of each split that have an identical face in another: `{"train": {"val": ..., "test": ...}, ...}`.

    The outer key is the split that holds the copy, the inner one the split whose rows are counted:
    `["train"]["test"]` is the number of test faces that a model may have seen in training.
    """
    counts = {holder: dict.fromkeys([split for split in SPLITS if split != holder], 0) for holder in SPLITS}
    for group in groups:
        members = Counter(face.split for face in group)
        for holder in members:
            for split in members.keys() - {holder}:
                counts[holder][split] += members[split]
    return {holder: dict(row) for holder, row in counts.items()}


def drop(groups: Iterable[Sequence[Face]], rules: Collection[str]) -> dict[int, str]:
    """Row number -> the first rule, in the order of RULES, that drops the face; only training faces are dropped."""
    reasons: dict[int, str] = {}
    for group in groups if rules else ():
        training = [face for face in group if face.split == "train"]
        matches = {
            "constant": [face for face in training if face.constant],
            "conflicting": training if conflicting(training) else [],
            "copies": training if len(training) < len(group) else [],
            "duplicates": training[1:],
        }
        for rule in RULES:
            if rule in rules:
                reasons |= {face.row: rule for face in matches[rule] if face.row not in reasons}
    return reasons
