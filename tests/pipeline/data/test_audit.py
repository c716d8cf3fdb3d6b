import json
import random
from collections.abc import Sequence

import pytest

from cfpn.schema import EXPRESSIONS
from pipeline.data.audit import RULES, SPLITS, Face, audit


def random_faces(seed: int, count: int = 60) -> list[Face]:
    """Faces of which many are identical; those of digest b"0" are constant."""
    chance = random.Random(seed)
    faces = []
    for row in range(1, count + 1):
        digest = str(chance.randrange(count // 2)).encode()
        split = chance.choices(SPLITS, [8, 2, 1])[0]
        faces.append(Face(row, split, chance.choice([0, 0, 0, 3, 6]), digest, digest == b"0"))
    chance.shuffle(faces)
    return [face._replace(row=row) for row, face in enumerate(faces, 1)]


def copies(face: Face, faces: Sequence[Face]) -> list[Face]:
    return [other for other in faces if other.digest == face.digest and other.row != face.row]


@pytest.mark.parametrize("seed", range(5))
def test_counts_of_identical_faces_equal_those_of_all_pairs(seed: int) -> None:
    faces = random_faces(seed)
    found = audit(faces)[0]["identical_faces"]
    first = [face for face in faces if not any(other.row < face.row for other in copies(face, faces))]
    assert found["groups"] == sum(bool(copies(face, faces)) for face in first)
    assert found["redundant_rows"] == len(faces) - len(first)
    assert found["groups_with_conflicting_labels"] == sum(
        any(other.label != face.label for other in copies(face, faces)) for face in first
    )
    for holder in SPLITS:
        earlier = [
            [o for o in copies(f, faces) if o.split == f.split and o.row < f.row] for f in faces if f.split == holder
        ]
        assert found["redundant_rows_within"][holder] == sum(map(bool, earlier))
        for split in set(SPLITS) - {holder}:
            expected = sum(
                any(other.split == holder for other in copies(face, faces)) for face in faces if face.split == split
            )
            assert found["rows_with_a_copy_in"][holder][split] == expected


def test_rows_and_constant_faces_are_counted_per_split_and_expression() -> None:
    faces = random_faces(0)
    report, _ = audit(faces)
    assert report["rows"]["total"] == len(faces)
    for split in SPLITS:
        rows = [face for face in faces if face.split == split]
        assert report["rows"][split] == {"total": len(rows)} | {
            name: sum(face.label == label for face in rows) for label, name in enumerate(EXPRESSIONS)
        }
        assert report["constant_faces"][split] == sum(face.constant for face in rows)
    assert report["constant_faces"]["total"] == sum(face.constant for face in faces)


def keys(report: object, path: str = "") -> list[str]:
    if not isinstance(report, dict):
        return [path]
    return [key for name, value in report.items() for key in keys(value, f"{path}/{name}")]


def test_every_audit_has_the_same_keys_so_that_two_can_be_compared() -> None:
    reports = [audit([])[0], audit(random_faces(1))[0], audit(random_faces(2), tuple(RULES))[0]]
    assert len({tuple(keys(report)) for report in reports}) == 1
    assert json.loads(json.dumps(reports[1])) == reports[1]


def test_an_empty_file_counts_nothing() -> None:
    report, dropped = audit([], tuple(RULES))
    assert dropped == set()
    assert set(json.dumps(report)) & set("123456789") == set()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_drops_what_its_meaning_says_and_nothing_else(rule: str, seed: int) -> None:
    faces = random_faces(seed)
    expected = set()
    for face in faces:
        others = copies(face, faces)
        training = [other for other in others if other.split == "train"]
        matches = {
            "constant": face.constant,
            "conflicting": any(other.label != face.label for other in training),
            "copies": any(other.split != "train" for other in others),
            "duplicates": any(other.row < face.row for other in training),
        }
        if face.split == "train" and matches[rule]:
            expected.add(face.row)
    report, dropped = audit(faces, (rule,))
    assert dropped == expected
    assert report["dropped"] == dict.fromkeys(RULES, 0) | {rule: len(expected), "total": len(expected)}


@pytest.mark.parametrize("seed", range(5))
def test_rules_together_drop_the_union_and_count_each_face_under_the_first(seed: int) -> None:
    faces = random_faces(seed)
    report, dropped = audit(faces, tuple(RULES))
    union: set[int] = set()
    for rule in RULES:
        alone = audit(faces, (rule,))[1]
        assert report["dropped"][rule] == len(alone - union)
        union |= alone
    assert dropped == union
    assert report["dropped"]["total"] == len(union)
    assert sum(report["written"].values()) == len(faces) - len(dropped)


def test_the_order_in_which_rules_are_named_does_not_matter() -> None:
    faces = random_faces(3)
    assert audit(faces, tuple(RULES)) == audit(faces, tuple(reversed(RULES)))


def test_dropping_changes_neither_what_is_counted_of_the_file_nor_the_other_splits() -> None:
    faces = random_faces(4)
    plain, dropping = audit(faces)[0], audit(faces, tuple(RULES))[0]
    for key in ("rows", "constant_faces", "identical_faces"):
        assert plain[key] == dropping[key]
    for split in ("val", "test"):
        assert dropping["written"][split] == plain["written"][split]
