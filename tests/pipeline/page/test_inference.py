"""The tables and the figure of what an answer costs."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import docs
from pipeline.page import inference
from pipeline.page.figures import svg

ROOT = Path(__file__).parents[3]
STUDY, PAGE = ROOT / "docs/study", ROOT / "docs/predict.md"


def row(network: str, **more: object) -> dict[str, Any]:
    """A row of latency.json: an answer takes 2 ms in every engine and with every number of faces."""
    times = {batch: {"mean": 2.0, "low": 1.0, "median": 2.0, "high": 3.0} for batch in ("1", "128")}
    made = {"network": network, "exit": None, "parameters": 1000, "multiply_adds": 8e6}
    made |= {"bytes": {"safetensors": 4e6, "onnx": 5e6}, "ms": {"torch": times, "onnx": times}}
    return made | more


SCORES = {"val": {"faces": 10, "correct": 6}, "test": {"faces": 20, "correct": 13}}
EARLY = {"exit": 0.7, "stored": True, "multiply_adds": 6e6, "scores": SCORES, "ms": {"torch": row("")["ms"]["torch"]}}
INT8 = {"int8_bytes": 2e6, "int8_scores": SCORES | {"val": {"faces": 10, "correct": 5}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Numbers of a network with and without early exits, and of one of the literature."""
    full = row("nbp", scores=SCORES, **INT8)
    full["ms"]["int8"] = {"1": {"mean": 3.0}, "128": {"mean": 1.0}}
    rows = [full, row("nbp", **EARLY | {"exit": 0.5, "stored": False}), row("nbp", **EARLY), row("resnet18")]
    (tmp_path / "latency.json").write_text(json.dumps({"rows": rows}))
    return tmp_path


def test_costs_have_a_row_per_network_and_one_for_the_exit_that_is_stored(folder: Path) -> None:
    header, rows = inference.costs(folder)
    assert rows == [
        ("CFPN by NBP", "1,000", "4.00", "5.00", "8.00", "2", "2", "2", "2"),
        ("CFPN by NBP, leaving at 0.70", "1,000", "4.00", "5.00", "6.00", "2", "2", "–", "–"),
        ("ResNet-18", "1,000", "4.00", "5.00", "8.00", "2", "2", "2", "2"),
    ]
    assert len(header) == len(rows[0])


def test_leaving_has_a_row_per_exit_with_ratios_to_the_full_vote(folder: Path) -> None:
    header, rows = inference.leaving(folder)
    assert [one[:6] for one in rows] == [
        ("`nbp`", "none", "60.0", "65.0", "8.00", "1.00"),
        ("`nbp`", "0.50", "60.0", "65.0", "6.00", "0.75"),
        ("`nbp`", "0.70, stored", "60.0", "65.0", "6.00", "0.75"),
    ]
    assert {len(one) for one in rows} == {len(header)}


def test_eight_bits_stand_below_thirty_two(folder: Path) -> None:
    assert inference.int8(folder)[1] == [
        ("`nbp`", "32 bits", "5.00", "60.0", "65.0", "2", "2"),
        ("`nbp`", "8 bits", "2.00", "50.0", "65.0", "3", "1"),
    ]


def test_the_figure_has_a_line_per_method_in_both_panels_and_is_the_same_every_time(folder: Path) -> None:
    found = inference.rows(folder)
    figure = inference.anytime(found)
    for axes in figure.axes:
        (line,) = (line for line in axes.lines if line.get_label() == "NBP")
        assert list(line.get_ydata()) == [65, 65, 65]
    assert list(figure.axes[0].lines[0].get_xdata()) == [6, 6, 8]
    assert svg(figure) == svg(inference.anytime(found))


@pytest.mark.parametrize("name", inference.TABLES)
def test_every_table_stands_on_its_page_and_has_full_rows(name: str) -> None:
    assert PAGE.read_text().count(f"<!-- table: {name} -->") == 1
    header, rows = inference.TABLES[name](STUDY)
    assert rows
    assert {len(row) for row in rows} == {len(header)}


def test_the_costs_in_the_repository_are_of_the_weights_in_the_repository() -> None:
    """`python -m bench.latency`, then `make docs`, mend them."""
    card = json.loads((STUDY / "card.json").read_text())
    full = {row["network"]: row for row in inference.rows(STUDY) if row["exit"] is None and "scores" in row}
    assert full.keys() == card.keys()
    for name, own in full.items():
        for split in ("val", "test"):  # another machine may round a face or two across
            assert own["scores"][split]["correct"] == pytest.approx(card[name]["scores"][split]["correct"], abs=2)
    assert docs.table("cost", STUDY).count("|\n") >= len(full)
