"""Readers take damaged input or refuse it as documented; `python -m bench.fuzz` draws more of the same."""

import contextlib
import json
import sys
import time
from pathlib import Path

import pytest

from bench import fuzz

COUNTS = {"ingest": 25, "split": 30, "weights": 25, "picture": 60, "files": 10, "overrides": 12}


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_damaged_input_is_taken_or_refused_as_documented(target: str) -> None:
    fuzz.fuzz(target, COUNTS[target], seed=0)


def test_an_input_that_takes_too_long_is_a_fault_and_time_alone_is_none() -> None:
    with pytest.raises(AssertionError, match=r"more than 0\.02 s of the processor"), fuzz.limited(0.02):
        while True:
            pass
    with fuzz.limited(0.02):
        time.sleep(0.04)


def test_an_input_that_takes_too_long_is_a_fault_though_a_reader_calls_it_damaged() -> None:
    def reader() -> None:
        with contextlib.suppress(Exception):
            while True:
                pass

    with pytest.raises(AssertionError, match=r"more than 0\.02 s of the processor"), fuzz.limited(0.02):
        reader()


def test_the_command_tries_as_many_inputs_as_it_is_told_and_keeps_the_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "AT_ONCE", 8)
    words = ["fuzz", "--only", "picture", "--cases", "20", "--seed", "3", "--out", str(tmp_path / "fuzz.json")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        fuzz.main()
    assert ended.value.code == 0
    found = json.loads((tmp_path / "fuzz.json").read_text())["picture"]
    assert found["cases"] >= 20
    assert (found["seed"], found["faults"]) == (3, 0)


def test_a_fault_is_printed_and_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, inputs = fuzz.TARGETS["picture"]
    monkeypatch.setitem(fuzz.TARGETS, "picture", (lambda form, changes: 1 / 0, inputs))
    assert fuzz.batch("picture", 0) == {"cases": 0, "faults": 1}
    assert "picture, seed 0:" in capsys.readouterr().err
