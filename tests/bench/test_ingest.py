"""Claims about bench/ingest.py: three programs read one file, and each bar is judged by the median of the rounds."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bench import ingest as module
from bench.ingest import VARIANTS, Measurement, measure, report
from pipeline.process import InputError


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 40 faces in Kaggle's layout."""
    path = tmp_path_factory.mktemp("csv") / "faces.csv"
    random = np.random.default_rng(0)
    usages = ["Training"] * 8 + ["PublicTest", "PrivateTest"]
    rows = [f"{k % 7},{' '.join(map(str, random.integers(0, 256, 2304)))},{usages[k % 10]}" for k in range(40)]
    path.write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_program_reads_the_file_and_tells_what_it_took(variant: str, faces: Path) -> None:
    found = measure(variant, faces)
    assert 0 < found.work < found.whole
    assert found.processor > 0
    assert found.memory > 20


def test_a_file_that_a_program_cannot_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    with pytest.raises(InputError, match=r"none\.csv: the variant ingest failed"):
        measure("ingest", path)


def rounds(memory: float = 100, fromstring: float = 2, split: float = 4) -> list[dict[str, Measurement]]:
    """Three rounds in which the loaders take so many times the stage's time; one round is an outlier."""
    times = {"ingest": 1.0, "fromstring": fromstring, "split": split}
    usual = {name: Measurement(time, time, time, memory) for name, time in times.items()}
    return [usual, usual, usual | {"ingest": Measurement(9, 9, 9, memory)}]


def test_bars_are_judged_by_medians_of_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(rounds())
    assert "met    2.00 times (whole processes: 2.00 times) as fast as fromstring" in capsys.readouterr().out


@pytest.mark.parametrize("missed", [{"memory": 401}, {"fromstring": 0.9}, {"split": 2.9}])
def test_a_missed_bar_is_told(missed: dict[str, float], capsys: pytest.CaptureFixture[str]) -> None:
    assert not report(rounds(**missed))
    assert capsys.readouterr().out.count("MISSED") == 1


def test_no_round_is_refused(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ingest", str(faces), "--rounds", "0"])
    with pytest.raises(InputError, match="--rounds: expected 1 or more, found 0"):
        module.main()
