"""Claims about bench/faults.py: its cells are those of the workflow, and it tells a right cell from a wrong one."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bench import faults
from pipeline.process import InputError
from pipeline.runs import records

ROOT = Path(__file__).resolve().parents[2]


def commands(file: str) -> dict[str, str]:
    """The commands of each stage as one text."""
    stages = YAML(typ="safe").load(ROOT / file)["stages"]
    return {name: " ".join([one["cmd"]] if isinstance(one["cmd"], str) else one["cmd"]) for name, one in stages.items()}


def test_every_stage_of_the_workflow_and_a_sweep_are_walked_by_their_own_commands() -> None:
    workflow = commands("dvc.yaml")
    own = {name.partition("@")[0]: one for name, one in faults.STAGES.items()}
    assert set(own) == {*workflow, "sweep"}
    for name, text in (workflow | {"sweep": commands("sweeps/dvc.yaml")["sweep"]}).items():
        assert own[name].runs in text.split()


def test_every_stage_meets_every_fault_that_it_can() -> None:
    cells = set(faults.CELLS)
    assert len(cells) == len(faults.CELLS)
    assert {(stage, fault) for fault in faults.EVERYWHERE for stage in faults.STAGES} <= cells
    assert {fault for _, fault in cells} == set(faults.CODES)
    assert {stage for stage, fault in cells if fault == "damaged input"} == {
        name for name, one in faults.STAGES.items() if one.reads
    }


def test_ctrl_c_reaches_the_stages_of_a_background_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(folder: Path) -> None:
        raise InputError(f"{signal.getsignal(signal.SIGINT) is not signal.SIG_IGN} in {folder.name}")

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for a job with & behind it
    monkeypatch.setattr(faults, "prepared", prepared)
    monkeypatch.setattr(sys, "argv", ["faults"])
    try:
        with pytest.raises(InputError, match="True in project"):
            faults.main()
    finally:
        signal.signal(signal.SIGINT, before)


def test_missing_cells_want_the_file_that_has_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["faults", "--missing"])
    with pytest.raises(SystemExit) as ended:
        faults.main()
    assert ended.value.code == 2
    assert "--missing: expected --out FILE" in capsys.readouterr().err


def test_the_cells_on_the_page_are_those_of_today_and_all_right() -> None:
    shown = records.read_json(ROOT / "docs/study/faults.json")["cells"]
    assert [(cell["stage"], cell["fault"]) for cell in shown] == faults.CELLS
    assert [cell for cell in shown if not cell["right"]] == []


def test_a_cell_takes_the_place_of_its_former_one_and_all_stand_in_their_order(tmp_path: Path) -> None:
    places = [faults.CELLS[5], faults.CELLS[2], faults.CELLS[5]]
    for number, (stage, fault) in enumerate(places):
        faults.keep(tmp_path / "faults.json", {"stage": stage, "fault": fault, "code": number})
    kept = records.read_json(tmp_path / "faults.json")["cells"]
    assert [(cell["stage"], cell["fault"]) for cell in kept] == [faults.CELLS[2], faults.CELLS[5]]
    assert [cell["code"] for cell in kept] == [1, 2]


def test_a_run_that_was_cut_off_goes_on_with_the_cells_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, reached = tmp_path / "faults.json", []

    def walk(base: Path, stage: str, fault: str, wanted: dict[str, str]) -> dict[str, object]:
        reached.append((stage, fault))
        return {"stage": stage, "fault": fault, "right": True}

    for name, double in {"prepared": Path, "results": lambda folder: {}, "walk": walk}.items():
        monkeypatch.setattr(faults, name, double)
    faults.keep(out, {"stage": "ingest", "fault": "SIGTERM", "right": True})
    words = ["--stages", "ingest", "sample", "--faults", "SIGTERM", "--missing", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["faults", *words])
    faults.main()
    assert reached == [("sample", "SIGTERM")]
    assert set(faults.walked(out)) == {("sample", "SIGTERM"), ("ingest", "SIGTERM")}


DVC = "ERROR: failed to reproduce 'ingest': failed to run: python -m pipeline.ingest x y --drop none, exited with {}"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (f"error: x.csv: no such file\n{DVC.format(2)}", 2, "error: x.csv: no such file"),
        (f"Running stage\n{DVC.format(-9)}\n", -9, "ERROR: failed to reproduce 'ingest'"),
        ("warning: W&B runs are written offline\nepoch 1\n", 7, "warning: W&B runs are written offline"),
        ("x=1   failed, or its worker was lost; tried again\n", 7, "x=1 failed, or its worker was lost; tried again"),
        (
            "a worker was lost; its epoch begins again\n\x1b[33m(raylet)\x1b[0m A worker died",
            7,
            "a worker was lost; its epoch begins again",
        ),
        (f"stopping; what is done is kept\n{DVC.format(130)}", 130, "stopping; what is done is kept"),
        ("", 7, "nothing"),
    ],
)
def test_code_and_last_word_are_the_stages_own_where_it_has_any(text: str, code: int, said: str) -> None:
    assert faults.code(faults.Seen(7, text)) == code
    assert faults.said(text) == said


@pytest.mark.parametrize(("first", "code"), [(0, 2), (255, faults.DISTURBED)])
def test_a_process_that_fails_by_the_one_that_came_second_is_wrong_whatever_that_one_says(
    first: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".faults").mkdir()
    (tmp_path / ".faults/seen.json").write_text(json.dumps([2, "error: another process writes there"]))
    monkeypatch.setattr(faults, "forget", lambda *_: None)
    monkeypatch.setattr(faults, "dvc", lambda *_, **__: faults.Seen(first, DVC.format(2) if first else ""))
    found = faults.code(faults.strike(tmp_path, "ingest", "second process"))
    assert found == code
    assert (found in faults.CODES["second process"]) == (first == 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project of the first stage alone."""
    folder = tmp_path_factory.mktemp("faults") / "project"
    faults.project(folder)
    workflow = YAML(typ="safe").load(folder / "dvc.yaml")
    YAML(typ="safe").dump({"stages": {"sample": workflow["stages"]["sample"]}}, folder / "dvc.yaml")
    assert faults.dvc(folder, "sample", "repro").code == 0
    yield folder


@pytest.mark.slow
@pytest.mark.parametrize("fault", faults.EVERYWHERE)
def test_a_stage_survives_every_fault_and_tells_how_it_ended_where_no_shell_is_named(
    base: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHELL", raising=False)
    wanted = faults.results(base)
    assert set(wanted) == {"data/sample.csv"}
    cell = faults.walk(base, "sample", fault, wanted)
    assert cell["right"], cell
    assert cell["code"] in faults.CODES[fault]
    assert cell["then"] == "same results"


@pytest.mark.slow
def test_other_results_after_a_fault_are_found(base: Path) -> None:
    cell = faults.walk(base, "sample", "SIGTERM", {"data/sample.csv": "another hash"})
    assert not cell["right"]
    assert cell["then"] == "other results: data/sample.csv"
