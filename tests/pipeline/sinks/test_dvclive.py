"""What DVCLive shows is the history, also after a resumed run."""

from pathlib import Path

from cfpn.training import Record
from pipeline.sinks.dvclive import dvclive

EPOCHS = [Record(epoch, 10 * epoch, 1.5, {"val/accuracy": 0.1 * epoch}, complete=True) for epoch in (1, 2, 3)]
HISTORY = [{"epoch": r.epoch, "step": r.step} | r.scalars for r in EPOCHS]
STEP = Record(0, 4, 0.2, {"train/loss": 9.0}, complete=False)


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
