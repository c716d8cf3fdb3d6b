"""DVCLive: metrics per epoch for DVC's plots."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.sinks import Row, Sink


@contextmanager
def dvclive(folder: Path, history: list[Row]) -> Iterator[Sink]:
    """Metrics per epoch by DVCLive, begun anew from the history: its own way of resuming doubles rows after a kill."""
    from dvclive.live import Live

    with Live(dir=str(folder), save_dvc_exp=False, dvcyaml=None, report=None) as live:

        def log(row: Row) -> None:
            live.step = int(row["epoch"])
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    live.log_metric(name, value)
            live.make_summary()

        for row in history:
            log(row)
        yield lambda record: log({"epoch": record.epoch} | record.scalars) if record.complete else None
