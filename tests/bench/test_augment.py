"""Claims about bench/augment.py: the stage runs as it is, and its result is checked before its speed counts."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bench import augment as module
from bench.measured import Measured
from cfpn import schema
from pipeline.process import InputError


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training split of 14 faces."""
    path = tmp_path_factory.mktemp("splits") / "train.parquet"
    pixels = np.random.default_rng(0).integers(0, 256, (14, 2304), dtype=np.uint8)
    schema.write(path, pixels, np.arange(14) % 7, np.arange(1, 15), schema.Description())
    return path


@pytest.mark.parametrize(("bar", "code", "verdict"), [(1e-3, 0, "met   "), (1e9, 1, "MISSED")])
def test_the_verdict_and_the_exit_code_follow_the_bar(
    bar: float,
    code: int,
    verdict: str,
    train: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "BAR", bar)
    monkeypatch.setattr(sys, "argv", ["augment", str(train), "--rounds", "1"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    said = capsys.readouterr().out.splitlines()
    assert int(ended.value.code or 0) == code
    assert said[0].startswith("14 faces: ")
    assert said[1].startswith(verdict)


def test_a_file_that_is_no_split_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.parquet"
    path.write_text("emotion,pixels\n")
    monkeypatch.setattr(sys, "argv", ["augment", str(path)])
    with pytest.raises(InputError, match=r"train\.parquet: no Parquet file"):
        module.main()


def test_a_stage_that_fails_is_told(train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measured", lambda command: Measured(2, "", 1.0, 1.0, 50.0))
    with pytest.raises(InputError, match="did not write seven rows for each face"):
        module.measure(train)
