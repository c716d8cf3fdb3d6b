"""What DVCLive shows is the history, also after a resumed run."""

import shutil
from pathlib import Path

import dvclive as client
import pytest

from cfpn.training import Record
from pipeline.sinks.dvclive import dvclive

EPOCHS = [Record(epoch, 10 * epoch, 1.5, {"val/accuracy": 0.1 * epoch}, complete=True) for epoch in (1, 2, 3)]
HISTORY = [{"epoch": r.epoch, "step": r.step} | r.scalars for r in EPOCHS]
STEP = Record(0, 4, 0.2, {"train/loss": 9.0}, complete=False)


@pytest.fixture(autouse=True)
def outside_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVCLive opens the repository that it is run in, and leaves it open."""
    monkeypatch.chdir(tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_dvclive_writes_the_same_files_for_a_resumed_run_as_for_an_undisturbed_one(tmp_path: Path) -> None:
    with dvclive(tmp_path / "whole", []) as sink:
        for record in EPOCHS:
            sink(record)
    with dvclive(tmp_path / "resumed", HISTORY[:2]) as sink:
        sink(STEP)
        sink(EPOCHS[2])
    whole = files(tmp_path / "whole")
    assert whole == files(tmp_path / "resumed")
    rows = whole["plots/metrics/val/accuracy.tsv"].decode().split("\n")[1:4]
    assert [row.split("\t")[0] for row in rows] == ["1", "2", "3"]


def test_files_that_are_deleted_under_a_training_are_whole_at_its_end(tmp_path: Path) -> None:
    with dvclive(tmp_path / "whole", []) as sink:
        for record in EPOCHS:
            sink(record)
    with dvclive(tmp_path / "cut", []) as sink:
        for record in EPOCHS:
            sink(record)
            shutil.rmtree(tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def refuse(*_: object, **__: object) -> None:
    raise KeyError("getpwuid(): uid not found: 4242")


@pytest.mark.parametrize("method", ["__init__", "log_metric", "end"])
def test_trouble_with_dvclive_is_told_and_ends_no_training(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client.Live, method, refuse)
    with dvclive(tmp_path / "live", HISTORY[:2]) as sink:
        sink(STEP)
        sink(EPOCHS[2])
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("warning: ") and "DVCLive: KeyError: " in line for line in lines)
