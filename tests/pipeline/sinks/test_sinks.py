"""Claims about pipeline/sinks.py: what DVCLive and W&B show is the history, also after a resumed run."""

import json
import math
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import pytest

from cfpn.training import Record
from pipeline import sinks

EPOCHS = [Record(epoch, 10 * epoch, 1.5, {"val/accuracy": 0.1 * epoch}, complete=True) for epoch in (1, 2, 3)]
HISTORY = [{"epoch": r.epoch, "step": r.step} | r.scalars for r in EPOCHS]
STEP = Record(0, 4, 0.2, {"train/loss": 9.0}, complete=False)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_dvclive_writes_the_same_files_for_a_resumed_run_as_for_an_undisturbed_one(tmp_path: Path) -> None:
    with sinks.dvclive(tmp_path / "whole", []) as sink:
        for record in EPOCHS:
            sink(record)
    with sinks.dvclive(tmp_path / "resumed", HISTORY[:2]) as sink:
        sink(STEP)
        sink(EPOCHS[2])
    whole = files(tmp_path / "whole")
    assert whole == files(tmp_path / "resumed")
    rows = whole["plots/metrics/val/accuracy.tsv"].decode().split("\n")[1:4]
    assert [row.split("\t")[0] for row in rows] == ["1", "2", "3"]


def test_a_line_per_epoch_is_printed_and_none_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    with sinks.progress_bar("nbp-0", 30, 0) as sink:
        sink(STEP)
        sink(EPOCHS[0])
    assert capsys.readouterr().out == "nbp-0 epoch 1: val/accuracy 0.1000 (2 s)\n"


def wandb_run(folder: Path, history: list[dict[str, float]]) -> AbstractContextManager[sinks.Sink]:
    return sinks.wandb("project", "group", "nbp-0", "abc123", {"seed": 0}, history, folder)


def test_an_offline_wandb_run_resumed_holds_every_epoch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with wandb_run(tmp_path, []) as sink:
        sink(EPOCHS[0])
    with wandb_run(tmp_path, HISTORY[:1]) as sink:
        sink(EPOCHS[1])
        sink(EPOCHS[2])
    (run,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(run)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    records = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    items = [record["history"]["item"] for record in records if record.get("type") == "history"]
    assert [(i["_step"], i["epoch"], i["val/accuracy"]) for i in items] == [
        (row["epoch"], row["epoch"], row["val/accuracy"]) for row in HISTORY
    ]


class Online:
    """A W&B run on a server that has every row before `step`; rows that cannot be logged are an error."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.rows: list[tuple[int, float]] = []

    def define_metric(self, *_: object, **__: object) -> None:
        pass

    def log(self, row: dict[str, float], step: int) -> None:
        assert step >= self.step
        self.rows.append((step, row["val/accuracy"]))

    def finish(self) -> None:
        raise RuntimeError("the connection is gone")


@pytest.mark.parametrize(("step", "missing"), [(0, [1, 2]), (2, [2]), (3, [])])
def test_an_online_run_interrupted_gets_every_epoch_that_it_lacks(
    step: int, missing: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    run = Online(step)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    with wandb_run(tmp_path, HISTORY[:2]) as sink:
        sink(EPOCHS[2])
    assert run.rows == [(epoch, HISTORY[epoch - 1]["val/accuracy"]) for epoch in [*missing, 3]]
    assert capsys.readouterr().err == "warning: the W&B run was not finished: RuntimeError: the connection is gone\n"


def test_a_folder_that_wandb_cannot_write_does_not_end_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def refuse(**_: object) -> None:
        raise wandb.Error("no room")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(wandb, "init", refuse)
    with wandb_run(tmp_path, []) as sink:
        sink(EPOCHS[0])
    assert "no room" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["login", "log", "finish"])
def test_whatever_fails_in_wandb_does_not_end_a_training(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def refuse(*_: object, **__: object) -> None:
        raise wandb.errors.AuthenticationError("bad key")

    run = mock.MagicMock(step=0, **({f"{broken}.side_effect": refuse} if broken != "login" else {}))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", refuse if broken == "login" else lambda **_: False)
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    with wandb_run(tmp_path, []) as sink:
        sink(EPOCHS[0])
    assert "bad key" in capsys.readouterr().err


@pytest.mark.parametrize(("known", "missing"), [(0, [1, 2, 3]), (2, [2, 3]), (3, [3]), (4, [])])
def test_an_online_run_gains_the_epochs_that_it_lacks(
    known: int, missing: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that holds epochs 1 to 3 says that its next step is 4."""
    import wandb

    run = mock.MagicMock(step=known)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    with wandb_run(tmp_path, HISTORY):
        pass
    assert [call.kwargs["step"] for call in run.log.call_args_list] == missing


def test_a_metrics_file_is_strict_sorted_json(tmp_path: Path) -> None:
    sinks.dump(tmp_path / "m.json", {"b": 1, "a": {"c": 0.5}})
    assert list(json.loads((tmp_path / "m.json").read_text())) == ["a", "b"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        sinks.dump(tmp_path / "m.json", {"a": math.nan})
