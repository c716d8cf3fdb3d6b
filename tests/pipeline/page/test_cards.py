"""The tables of the model card and of the data card."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline import docs
from pipeline.metrics import wilson
from pipeline.page import cards

ROOT = Path(__file__).parents[3]
STUDY = ROOT / "docs/study"
PAGES = {"card": ROOT / "docs/model-card.md", "data": ROOT / "docs/data-card.md"}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with the raw numbers of both cards, to change."""
    for name in ("card.json", "audit.json"):
        shutil.copy(STUDY / name, tmp_path)
    return tmp_path


def change(path: Path, *keys: str | int) -> None:
    """Add one to a number in a JSON file."""
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] += 1
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", cards.TABLES)
def test_every_table_stands_on_its_page_and_has_full_rows(name: str) -> None:
    assert PAGES[name.partition("-")[0]].read_text().count(f"<!-- table: {name} -->") == 1
    header, rows = cards.TABLES[name](STUDY)
    assert {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize(
    ("page", "file", "keys"),
    [
        ("card", "card.json", ("nbp", "scores", "test", "correct")),
        ("card", "card.json", ("nbp", "confusion", 0, 0)),
        ("card", "card.json", ("nbp", "damage", 3, "correct")),
        ("card", "card.json", ("nbp", "negative_log_likelihood")),
        ("card", "card.json", ("nbp", "confidence", 0, "correct")),
        ("card", "card.json", ("nbp", "parameters")),
        ("data", "audit.json", ("rows", "test", "fear")),
        ("data", "audit.json", ("constant_faces", "val")),
        ("data", "audit.json", ("identical_faces", "groups_with_conflicting_labels")),
        ("data", "audit.json", ("identical_faces", "rows_with_a_copy_in", "train", "test")),
    ],
)
def test_a_page_differs_when_one_number_of_its_data_does(
    study: Path, page: str, file: str, keys: tuple[str | int, ...]
) -> None:
    path = PAGES[page]
    text = path.read_text()
    assert docs.filled(text, study, path) == text
    change(study / file, *keys)
    assert docs.filled(text, study, path) != text


def test_wilsons_interval_is_that_of_a_textbook() -> None:
    assert wilson(0.8, 100) == pytest.approx((0.7112, 0.8666), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0, 0.2775), abs=1e-4)


def test_a_share_of_no_face_is_a_dash() -> None:
    assert cards.share(0, 0) == (cards.DASH, cards.DASH)
    assert cards.share(80, 100) == ("80.0", "71.1 to 86.7")


def test_a_class_has_its_recall_precision_and_most_frequent_mistake() -> None:
    card = {"classes": ["a", "b", "c"], "confusion": [[6, 1, 3], [0, 5, 0], [2, 0, 2]]}
    rows = [row[1:4] + row[5:] for row in cards.by_class("it", card)]
    assert rows == [
        ("a", "10", "60.0", "75.0", "c, 30.0 %"),
        ("b", "5", "100.0", "83.3", cards.DASH),
        ("c", "4", "50.0", "40.0", "a, 50.0 %"),
    ]
