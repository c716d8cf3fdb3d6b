"""Claims about bench/between.py: runs of two studies are paired by seed, and only conditions may differ."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from bench import between
from pipeline.process import InputError
from pipeline.runs.study import NETWORK

STUDY = Path(__file__).parents[2] / "docs/study"
METHODS = ["nbp", "deep_supervision"]


@pytest.fixture(scope="module")
def found() -> pd.DataFrame:
    """The table of the tracked studies."""
    rows = between.rows(between.only(STUDY / "main.csv", METHODS), between.only(STUDY / "bp-size.csv", ["bp"]))
    return pd.DataFrame(rows, columns=between.HEADER)


def best(name: str, method: str, column: str) -> pd.Series:
    """A column of each seed's chosen epoch, straight from a study's CSV."""
    rows = pd.read_csv(STUDY / name).query("method == @method and epoch == best_epoch")
    return rows.set_index("seed")[column]


@pytest.mark.parametrize(("split", "column"), [("PrivateTest", "test/accuracy"), ("PublicTest", "val/accuracy")])
def test_differences_and_their_p_are_those_of_a_paired_test_over_the_seeds_that_both_have(
    found: pd.DataFrame, split: str, column: str
) -> None:
    wide = best("bp-size.csv", "bp", column)
    own = best("main.csv", "nbp", column).loc[wide.index]
    row = found.query("method == 'nbp' and split == @split").iloc[0]
    test = stats.ttest_rel(own, wide)
    assert row["less the other, points"] == f"{100 * (own - wide).mean():+.1f}"
    assert row["95 %"] == "{:+.1f} to {:+.1f}".format(*(100 * bound for bound in test.confidence_interval()))
    assert row["p, seeds (Holm)"].startswith(f"{test.pvalue:.3f} (")
    assert row["seeds"] == str(len(wide)) == "5"


def test_steps_are_those_to_the_last_validation_accuracy_of_the_other(found: pd.DataFrame) -> None:
    own, wide = pd.read_csv(STUDY / "main.csv"), pd.read_csv(STUDY / "bp-size.csv")
    shares = []
    for seed, other in wide.groupby("seed"):
        goal, of = other.sort_values("epoch")[["val/accuracy", "epoch"]].iloc[-1]
        reached = own[(own["method"] == "nbp") & (own["seed"] == seed) & (own["val/accuracy"] >= goal)]["epoch"]
        shares += [reached.min() / of] if len(reached) else []
    row = found.query("method == 'nbp' and split == 'PublicTest'").iloc[0]
    assert row["steps / the other"] == f"{sum(shares) / len(shares):.2f} ({len(shares)} of {row['seeds']})"


def test_the_tracked_table_is_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = [str(STUDY / "main.csv"), str(STUDY / "bp-size.csv")]
    monkeypatch.setattr(sys, "argv", ["between", *studies, "--out", str(tmp_path / "size.csv")])
    between.main()
    assert (tmp_path / "size.csv").read_text() == (STUDY / "size.csv").read_text()


def test_a_comparison_can_be_of_some_seeds_and_of_the_network_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, main = tmp_path / "row.csv", str(STUDY / "main.csv")
    options = ["--methods", "nbp", "--reference", "bp", "--alone", "--seeds", "0", "1", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["between", main, main, *options])
    between.main()
    (row,) = pd.read_csv(out).to_dict("records")
    pair = [best("main.csv", name, f"test/{NETWORK}").loc[[0, 1, 2]] for name in ("nbp", "bp")]
    test = stats.ttest_rel(*pair)
    assert (row["split"], row["seeds"]) == ("PrivateTest, network alone", 3)
    assert row["95 %"] == "{:+.1f} to {:+.1f}".format(*(100 * bound for bound in test.confidence_interval()))
    for seeds in (["9"], ["0", "9"]):
        monkeypatch.setattr(
            sys, "argv", ["between", main, main, "--seeds", *seeds, "--out", str(tmp_path / "none.csv")]
        )
        with pytest.raises(InputError, match=r"--seeds: .* has no run of bp with one of them"):
            between.main()


def test_one_shared_seed_gives_a_difference_without_a_test() -> None:
    own, wide = between.only(STUDY / "main.csv", ["nbp"]), between.only(STUDY / "bp-size.csv", ["bp"])
    (row, _) = between.rows(own, wide[:1])
    assert row[4] != "–"
    assert row[5:7] == ["–", "–"]


def test_runs_scored_on_other_faces_are_refused() -> None:
    own, wide = between.only(STUDY / "main.csv", ["nbp"]), between.only(STUDY / "bp-size.csv", ["bp"])
    with pytest.raises(InputError, match="the test faces differ"):
        between.rows(own, [replace(one, split="other") for one in wide])


def test_studies_without_a_common_seed_are_refused() -> None:
    own, wide = between.only(STUDY / "main.csv", ["nbp"]), between.only(STUDY / "bp-size.csv", ["bp"])
    with pytest.raises(InputError, match="nbp: no seed of the other study, which has 99"):
        between.rows(own, [replace(wide[0], seed=99)])


def test_a_method_without_runs_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = [str(STUDY / "main.csv"), str(STUDY / "bp-size.csv")]
    out = tmp_path / "size.csv"
    monkeypatch.setattr(sys, "argv", ["between", *studies, "--methods", "nobody", "--out", str(out)])
    with pytest.raises(InputError, match=r"main\.csv: no run of 'nobody', expected one of bp, "):
        between.main()
    assert not [*tmp_path.iterdir()]


def test_the_table_has_a_header_and_two_rows_a_method() -> None:
    with (STUDY / "size.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == between.HEADER
    assert [row[:2] for row in rows] == [[name, split] for name in METHODS for split in ("PrivateTest", "PublicTest")]
