"""The section of the comparison shows what compare.json holds, and no column without a value."""

from pathlib import Path

import pytest

from pipeline.compare import compared
from pipeline.page import comparison, inputs
from pipeline.page.html import Section, Table
from pipeline.runs import records, study
from tests.pipeline.page.written import paths, write_everything, write_json, write_params, write_run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_everything(tmp_path)
    return tmp_path


def section(root: Path) -> Section | None:
    return comparison.comparison_section(inputs.read_inputs(paths(root), "2026-01-31"))


def write_comparison(root: Path) -> None:
    """compare.json as the compare stage makes it."""
    runs = records.read(root / "runs", root / "evaluate")
    write_json(root / "compare.json", compared([study.outcome(one) for one in runs], "bp", {"nbp": 69.0, "bp": 100.0}))


def tables(root: Path) -> list[Table]:
    return [block for block in section(root).blocks if isinstance(block, Table)]


def test_without_a_comparison_there_is_no_section(root: Path) -> None:
    assert section(root) is None


def test_one_seed_has_differences_and_no_test_over_seeds(root: Path) -> None:
    write_comparison(root)
    first, second = tables(root)
    assert "p over seeds" not in first.header
    row = dict(zip(first.header, first.rows[1], strict=True))
    assert (row["Method"], row["Seeds"], row["Memory / BP"], row["Time / BP"]) == ("NBP", "1", "0.69", "1.00")
    assert row["Steps / BP"] == "1.00 (1 of 1)"
    assert [line[0] for line in second.rows] == ["NBP"]
    assert any("One seed shared with bp" in getattr(block, "text", "") for block in section(root).blocks)


def test_two_seeds_have_a_deviation_and_a_test_over_seeds(root: Path) -> None:
    write_params(root, seeds="[0, 1]")
    write_run(root, "nbp", 1)
    write_run(root, "bp", 1)
    write_comparison(root)
    row = dict(zip(tables(root)[0].header, tables(root)[0].rows[1], strict=True))
    assert "p over seeds" in row
    assert "±" in row["Test accuracy, %"] and "±" in row["minus BP, points"]


def test_without_a_reference_nothing_is_compared(root: Path) -> None:
    write_params(root, methods="[nbp]")
    runs = records.read(root / "runs", root / "evaluate", ["nbp"])
    write_json(root / "compare.json", compared([study.outcome(one) for one in runs], "bp"))
    (table,) = tables(root)
    assert not any("/" in name or "minus" in name for name in table.header)
