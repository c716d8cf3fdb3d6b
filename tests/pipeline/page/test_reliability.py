"""The tables of docs/reliability.md."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import docs
from pipeline.page import reliability

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/reliability.md"
MADE = {"date": "2026-01-02", "commit": "abc", "command": "python -m bench.x", "machine": "a machine"}
CELL = {"stage": "train@nbp-0", "fault": "kill -9", "code": -9, "said": "a | b", "then": "same results", "right": True}
FILES: dict[str, Any] = {
    "faults.json": {"cells": [CELL | MADE, CELL | MADE | {"stage": "ingest"}]},
    "fuzz.json": {
        "picture": {"cases": 10_000, "faults": 0, "seed": 7, "seeds": 50} | MADE,
        "ingest": {"cases": 100_000, "faults": 1, "seed": 0, "seeds": 500} | MADE | {"commit": "def"},
    },
    "soak.json": MADE | {"rows": [{"run": "200 epochs", "what": "memory", "first": 500, "last": 510, "right": True}]},
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("name", reliability.TABLES)
def test_every_table_stands_on_its_page_and_has_full_rows(name: str, study: Path) -> None:
    assert PAGE.read_text().count(f"<!-- table: {name} -->") == 1
    lines = docs.table(name, study).splitlines()
    assert len(lines) > 2
    assert len({line.count("|") for line in lines}) == 1


def test_a_cell_says_what_is_seen_and_what_comes_next(study: Path) -> None:
    _, (first, second) = reliability.faults(study)
    assert first == ("kill -9", "train@nbp-0", "a / b", "-9", "same results")
    assert second[1] == "ingest"


def test_counts_seeds_and_faults_of_each_kind_stand_in_their_order(study: Path) -> None:
    _, rows = reliability.fuzz(study)
    assert [row[1:] for row in rows] == [("100,000", "0 to 499", "1"), ("10,000", "7 to 56", "0")]


def test_growth_is_in_percent(study: Path) -> None:
    assert reliability.soak(study)[1] == [("200 epochs", "memory", "500", "510", "+2.0")]


def test_what_made_the_tables_is_told_once(study: Path) -> None:
    _, rows = reliability.origins(study)
    assert [row[1] for row in rows] == ["abc", "def"]
