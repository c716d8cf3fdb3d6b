"""Methods are compared seed by seed and face by face, and every number says what it rests on."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline import compare
from pipeline.process import InputError
from pipeline.runs import records, study
from pipeline.runs.significance import over_faces

WriteRun = Callable[..., Path]
FACES = 40


def right(first: int, last: int) -> list[bool]:
    """Faces named rightly: those from first to last."""
    return [first <= face < last for face in range(FACES)]


@pytest.fixture
def folder(write_run: WriteRun, tmp_path: Path) -> Path:
    for seed, test in ((0, 0.50), (1, 0.52)):
        write_run("bp", seed, [0.1, 0.2, 0.3, 0.4], test, right(0, 20))
    for seed, test in ((0, 0.56), (1, 0.54)):
        write_run("nbp", seed, [0.3, 0.4, 0.5, 0.5], test, right(2, 30), seconds=1.0)
    write_run("eq4", 0, [0.1, 0.1, 0.1, 0.1], 0.25, right(0, 10))
    write_run("cka", 0, [0.1, 0.1, 0.4, 0.3], 0.26, right(0, 10))
    write_run("cka", 1, [0.1, 0.1, 0.1, 0.3], 0.25, right(0, 9))
    return tmp_path


def found(folder: Path, reference: str = "bp", **chosen: dict[str, float]) -> dict[str, Any]:
    runs = records.read(folder / "runs", folder / "evaluations")
    return compare.compared([study.outcome(one) for one in runs], reference, **chosen)


def command(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    places = ("--runs", str(folder / "runs"), "--evaluations", str(folder / "evaluations"))
    monkeypatch.setattr(sys, "argv", ["compare", *arguments, *places])
    compare.main()


def test_a_method_is_compared_with_the_reference_of_the_same_seed(folder: Path) -> None:
    methods = found(folder)["methods"]
    nbp = methods["nbp"]
    assert nbp["seeds"] == [0, 1]
    assert nbp["quantities"]["accuracy"]["mean"] == pytest.approx(0.55)
    assert nbp["quantities"]["accuracy"]["sd"] == pytest.approx(np.std([0.56, 0.54], ddof=1))
    difference = nbp["against"]["quantities"]["accuracy"]
    assert difference["values"] == pytest.approx([0.06, 0.02])
    assert difference["p"] == pytest.approx(stats.ttest_rel([0.56, 0.54], [0.50, 0.52]).pvalue)
    assert methods["eq4"]["against"]["quantities"]["accuracy"]["values"] == pytest.approx([-0.25])
    assert methods["bp"]["against"] is None


def test_validation_accuracy_is_that_of_the_chosen_epoch(folder: Path) -> None:
    assert found(folder)["methods"]["nbp"]["quantities"]["validation_accuracy"]["values"] == [0.3, 0.3]


def test_with_one_seed_there_is_no_p_over_seeds_and_it_is_said(folder: Path) -> None:
    comparison = found(folder)
    assert comparison["methods"]["eq4"]["against"]["quantities"]["accuracy"]["p"] is None
    assert "One seed shared with bp, hence no test over seeds: eq4." in comparison["notes"]
    assert "hence no test over seeds: eq4." in compare.markdown(comparison)


def test_differences_without_spread_are_not_tested_and_it_is_said(write_run: WriteRun, tmp_path: Path) -> None:
    for method, test in (("bp", 0.5), ("nbp", 0.75)):
        for seed in (0, 1):
            write_run(method, seed, test=test)
    assert "The same difference with every seed, hence no test over seeds: all methods." in found(tmp_path)["notes"]


def test_faces_are_tested_seed_by_seed_and_together(folder: Path) -> None:
    faces = found(folder)["methods"]["nbp"]["against"]["faces"]
    own = np.array(right(2, 30), int) - np.array(right(0, 20), int)
    assert (faces["seeds"], faces["faces"]) == ([0, 1], FACES)
    assert faces["by_seed"][1] == {"seed": 1, "only_method": 10, "only_reference": 2, "p": over_faces(own)}
    assert faces["p"] == over_faces(2 * own)


def test_p_values_are_corrected_over_the_methods_compared(folder: Path) -> None:
    methods = found(folder)["methods"]
    tests = {name: methods[name]["against"]["faces"] for name in ("nbp", "eq4", "cka")}
    least = min(tests, key=lambda name: tests[name]["p"])
    assert tests[least]["p_holm"] == pytest.approx(3 * tests[least]["p"])
    seeds = {name: methods[name]["against"]["quantities"]["accuracy"] for name in ("nbp", "cka")}
    assert min(test["p_holm"] for test in seeds.values()) == pytest.approx(2 * min(t["p"] for t in seeds.values()))


def test_steps_are_counted_to_the_accuracy_that_the_reference_ends_with(folder: Path) -> None:
    methods = found(folder)["methods"]
    assert methods["bp"]["steps"] == {"share": 1.0, "reached": 2, "of": 2}
    assert methods["nbp"]["steps"] == {"share": 0.5, "reached": 2, "of": 2}
    assert methods["eq4"]["steps"] == {"share": None, "reached": 0, "of": 1}
    assert methods["cka"]["steps"] == {"share": 0.75, "reached": 1, "of": 2}
    written = compare.markdown(found(folder))
    assert all(cell in written for cell in ("0.75 (1 of 2)", "0.50 (2 of 2)", "– (0 of 1)"))


@pytest.mark.parametrize(("faces", "share"), [(2195, 0.5), (2194, None)])
def test_the_same_share_of_faces_reaches_the_goal_however_many_bits_stored_it(faces: int, share: float | None) -> None:
    single, double = float(np.float32(2195 / 3589)), faces / 3589  # the first is the larger by rounding alone
    assert single > double
    assert compare.steps_share(trained([double, 0.5]), trained([0.5, single])) == share


def trained(accuracies: list[float]) -> study.Outcome:
    table = pd.DataFrame({"epoch": [1, 2], "step": [10, 20], "val/accuracy": accuracies})
    return study.Outcome("here", "nbp", 0, table, {}, 1)


def test_time_and_memory_stand_beside_the_reference(folder: Path) -> None:
    nbp = found(folder, peaks={"bp": 400.0, "nbp": 300.0})["methods"]["nbp"]
    assert nbp["seconds_per_epoch"]["mean"] == 1.0
    assert (nbp["against"]["time_ratio"], nbp["against"]["peak_ratio"], nbp["peak_mib"]) == (0.5, 0.75, 300.0)


@pytest.mark.parametrize("other", [{"device": "cuda"}, {"threads": 4}, {"workers": 2}], ids=str)
def test_times_of_unlike_machines_are_not_compared(
    write_run: WriteRun, tmp_path: Path, other: dict[str, object]
) -> None:
    write_run("bp", 0)
    write_run("nbp", 0, about=other)
    assert found(tmp_path)["methods"]["nbp"]["against"]["time_ratio"] is None


def test_without_the_reference_methods_stand_for_themselves_and_it_is_said(folder: Path) -> None:
    comparison = found(folder, "none")
    assert comparison["reference"] is None
    assert all(one["against"] is None for one in comparison["methods"].values())
    assert comparison["notes"] == ["There is no reference method among the runs: nothing is compared."]
    assert "minus" not in compare.markdown(comparison)


def test_seeds_that_only_one_of_two_methods_has_are_not_paired(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("bp", 0)
    write_run("nbp", 1)
    comparison = found(tmp_path)
    assert comparison["methods"]["nbp"]["against"] is None
    assert "No seed shared with bp, hence no comparison: nbp." in comparison["notes"]


def test_the_stage_writes_the_same_strict_json_every_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        command(folder, monkeypatch, str(folder / name))
    assert (folder / "one/compare.json").read_bytes() == (folder / "two/compare.json").read_bytes()
    json.loads((folder / "one/compare.json").read_text(), parse_constant=pytest.fail)
    assert (folder / "one/compare.md").read_text() == compare.markdown(found(folder)) + "\n"


def test_the_stage_compares_the_methods_and_seeds_it_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(folder, monkeypatch, str(folder / "out"), "--methods", "nbp", "bp", "--seeds", "1")
    comparison = json.loads((folder / "out/compare.json").read_text())
    assert {name: one["seeds"] for name, one in comparison["methods"].items()} == {"bp": [1], "nbp": [1]}


def test_runs_of_other_data_are_refused_before_anything_is_written(
    folder: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("late", 0, about={"profile": "paper"})
    with pytest.raises(InputError, match=r"bp 0 and .*late 0: profile is 'sample' and 'paper'"):
        command(folder, monkeypatch, str(folder / "out"))
    assert not (folder / "out").exists()


def test_an_unevaluated_run_is_left_out_and_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "evaluations/nbp 1/metrics.json").unlink()
    command(folder, monkeypatch, str(folder / "out"))
    assert "not evaluated, left out: nbp 1" in capsys.readouterr().err


def test_without_any_evaluation_there_is_nothing_to_compare(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evaluations" / write_run("bp", 0).name / "metrics.json").unlink()
    with pytest.raises(InputError, match="run the evaluate stage first"):
        command(tmp_path, monkeypatch, str(tmp_path / "out"))


def test_runs_are_collected_into_a_study_that_gives_the_same_comparison(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(folder, monkeypatch, "--collect", str(folder / "main.csv"))
    collected = compare.compared(study.read(folder / "main.csv"), "bp")
    direct = found(folder)
    for name, one in direct["methods"].items():
        assert collected["methods"][name]["quantities"] == one["quantities"]
        assert collected["methods"][name]["steps"] == one["steps"]
        assert (collected["methods"][name]["against"] or {}).get("faces") == (one["against"] or {}).get("faces")
    assert compare.markdown(collected) in capsys.readouterr().out


def test_a_study_is_compared_without_its_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command(folder, monkeypatch, "--collect", str(folder / "main.csv"))
    collected = capsys.readouterr().out
    before = (folder / "main.csv").read_bytes()
    command(tmp_path / "nowhere", monkeypatch, "--study", str(folder / "main.csv"))
    assert capsys.readouterr().out == collected
    assert (folder / "main.csv").read_bytes() == before


@pytest.mark.parametrize("options", [(), ("out", "--study", "a.csv"), ("--study", "a.csv", "--seeds", "0")])
def test_one_thing_is_compared_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(folder, monkeypatch, *options)
    assert ended.value.code == 2
    assert "--study" in capsys.readouterr().err


def test_an_unknown_reference_is_an_input_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--reference: no run of 'np'"):
        command(folder, monkeypatch, str(folder / "out"), "--reference", "np")


def test_a_study_is_not_changed_where_the_reference_is_unknown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--reference: no run of 'np'"):
        command(folder, monkeypatch, "--collect", str(folder / "main.csv"), "--reference", "np")
    assert not [*folder.glob("main*")]


def test_memory_is_read_from_the_bench_where_there_is_one(tmp_path: Path) -> None:
    assert compare.peaks(None) == compare.peaks(tmp_path / "none.json") == {}
    (tmp_path / "bench.json").write_text('{"rows": [{"method": "bp", "peak_mib": 394.0}]}')
    assert compare.peaks(tmp_path / "bench.json") == {"bp": 394.0}
