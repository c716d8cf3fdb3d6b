"""The tables of README and docs are what their data say."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from pipeline import docs
from pipeline.page import measurements
from pipeline.page.tables import markdown
from pipeline.process import InputError
from pipeline.runs import records, study
from pipeline.runs.study import Outcome
from tests.pipeline.page.test_sweeps import write_sweep

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "docs/study"


@pytest.mark.parametrize("page", docs.pages(ROOT), ids=lambda path: path.name)
def test_a_marked_table_holds_its_data(page: Path) -> None:
    """`make docs` mends it."""
    text = page.read_text()
    assert docs.filled(text, STUDY, page) == text


def test_pages_hold_marked_tables() -> None:
    assert {path.name for path in docs.pages(ROOT) if "<!-- table:" in path.read_text()} >= {"README.md", "results.md"}


def test_a_changed_number_is_found_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(STUDY, tmp_path / "docs/study")
    first = "before ![](docs/study/main.svg)\n<!-- table: plain -->\n"
    (tmp_path / "README.md").write_text(f"{first}| 1 |\n<!-- end -->\nafter\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["docs", "--check"])
    with pytest.raises(InputError, match=r"README\.md: tables differ"):
        docs.main()
    monkeypatch.setattr(sys, "argv", ["docs"])
    monkeypatch.setattr(docs, "curves", lambda outcomes: b"drawn")
    monkeypatch.setattr(docs, "banner", lambda params, outcomes: Figure())
    docs.main()
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(f"{first}\n| method |")
    assert text.endswith("\n<!-- end -->\nafter\n")
    drawn = [path.name for path in (tmp_path / "docs/study").glob("*.svg") if path.read_bytes() == b"drawn"]
    assert drawn == ["main.svg"]  # no picture that no page shows
    assert (tmp_path / "docs/img/network.svg").read_bytes().startswith(b"<?xml")
    monkeypatch.setattr(sys, "argv", ["docs", "--check"])
    docs.main()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: nothing -->\n<!-- end -->", r"nothing\.csv: no such study"),
        ("<!-- table: plain -->\n| 1 |\n", "lacks its"),
    ],
)
def test_a_mark_without_data_or_end_is_an_input_error(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        docs.filled(text, STUDY, Path("README.md"))


def test_a_table_that_is_of_no_runs_stands_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "beta.csv").write_text('beta,"accuracy, %"\n1,25.0\n"1,000",37.3 ± 1\n')
    assert docs.table("beta", tmp_path).splitlines() == [
        "| beta | accuracy, % |",
        "| --- | --- |",
        "| 1 | 25.0 |",
        "| 1,000 | 37.3 ± 1 |",
    ]


def test_a_folder_of_a_sweeps_tables_is_a_table_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "splits").mkdir()
    for name in ("train", "val"):
        (tmp_path / f"splits/{name}.parquet").write_text(name)
    write_sweep(tmp_path, "activation", [{"model.activation": "relu"}, {"model.activation": "tanh"}])
    shutil.copytree(tmp_path / "sweeps/activation", tmp_path / "docs/study/shapes")
    rows = docs.table("shapes", tmp_path / "docs/study").splitlines()[2:]
    assert rows == ["| relu | 31.0 ± 1.4 | 2 complete |", "| tanh | 41.0 ± 1.4 | 2 complete |"]
    assert [*docs.sweep_figures(tmp_path / "docs/study")] == ["sweep-shapes"]
    (tmp_path / "docs/study/shapes.csv").touch()
    with pytest.raises(InputError, match=r"shapes\.csv and .*shapes/ both want to be the table"):
        docs.table("shapes", tmp_path / "docs/study")


def test_the_table_of_robustness_has_a_column_per_method_with_means_over_seeds() -> None:
    rows = [("bp", 0, 0.5), ("bp", 1, 0.6), ("nbp", 0, 0.7)]
    table = pd.DataFrame([{"method": m, "seed": s, "damage": "noise", "level": 8.0, "accuracy": a} for m, s, a in rows])
    assert markdown(*measurements.robustness(table)).splitlines()[::2] == [
        "| damage | level | bp | nbp |",
        "| noise | 8 | 55.0 | 70.0 |",
    ]


def test_curves_name_every_method_and_are_the_same_every_time() -> None:
    outcomes = study.read(STUDY / "plain.csv")
    drawn = docs.curves(outcomes)
    assert drawn == docs.curves(outcomes)
    assert all(name in drawn.decode() for name in ("nbp_early", "BP", "hsic_class_means"))


def test_one_training_scored_in_two_ways_is_one_curve() -> None:
    one, *_ = study.read(STUDY / "plain.csv")
    twin, other = replace(one, method="twin"), replace(one, method="other", history=one.history * 2)
    drawn = docs.curves([one, twin, other]).decode()
    assert "other" in drawn
    assert "twin" not in drawn


def test_readmes_table_has_four_columns_a_row_per_method_and_the_number_of_faces() -> None:
    found = docs.table("headline", STUDY).splitlines()
    rows = [line.strip("| ").split(" | ") for line in found if line.startswith("|")]
    assert {len(row) for row in rows} == {4}
    assert [row[0] for row in rows[2:]] == list(docs.LABELS.values())
    assert found[-1].endswith("PrivateTest faces.")


def test_readmes_table_counts_the_seeds_where_not_all_reach_bps_accuracy() -> None:
    def late(one: Outcome) -> Outcome:
        return (
            replace(one, history=one.history.assign(**{"val/accuracy": 0.0}))
            if one.method == "nbp" and one.seed > 0
            else one
        )

    outcomes = [late(one) for one in study.read(STUDY / "main.csv")]
    found = docs.headline(outcomes, records.read_json(STUDY / "step.json"))
    (row,) = [line for line in found.splitlines() if line.startswith("| NBP")]
    assert "(1 of 5 seeds)" in row.split(" | ")[2]


def test_depth_tells_the_growth_from_one_added_block_on() -> None:
    found = [{"method": "nbp", "peak_mib": {"0": 95.0, "1": 100.0, "5": 101.0}, "ratio_of_the_last_two": 1.01}]
    assert markdown(*measurements.depth(found)).splitlines() == [
        "| method | 0 added, MiB | 1 added, MiB | 5 added, MiB | 1 to 5 |",
        "| --- | --- | --- | --- | --- |",
        "| nbp | 95 | 100 | 101 | +1.0% |",
    ]


def test_roofline_tells_each_part_beside_its_limit() -> None:
    parts = {"part": ["block1"], "measured_ms": [3.0], "limit_ms": [2.0], "limit": ["memory"], "times_limit": [1.5]}
    assert (
        markdown(*measurements.roofline(pd.DataFrame(parts))).splitlines()[-1]
        == "| block1 | 3.00 | 2.00 | memory | 1.50 |"
    )
