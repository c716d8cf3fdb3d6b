"""What a training says on the terminal."""

import pytest

from cfpn.training import Record
from pipeline.sinks.progress import progress_bar

EPOCHS = [Record(epoch, 10 * epoch, 1.5, {"val/accuracy": 0.1 * epoch}, complete=True) for epoch in (1, 2, 3)]
HISTORY = [{"epoch": r.epoch, "step": r.step} | r.scalars for r in EPOCHS]
STEP = Record(0, 4, 0.2, {"train/loss": 9.0}, complete=False)


def test_a_line_per_epoch_is_printed_and_none_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("nbp-0", 30, 0) as sink:
        sink(STEP)
        sink(EPOCHS[0])
    assert capsys.readouterr().out == "nbp-0 epoch 1: val/accuracy 0.1000 (2 s)\n"
