"""DVCLive: metrics per epoch for DVC's plots; trouble with it never ends a training."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.sinks import Row, Sink, forgiving

if TYPE_CHECKING:
    from dvclive.live import Live

    from cfpn.training import Record


@contextmanager
def dvclive(folder: Path, history: Sequence[Row]) -> Iterator[Sink]:
    """Metrics per epoch by DVCLive, begun anew from the history: its own way of resuming doubles rows after a kill.

    At the end all files are written again: a second `dvc repro` may have deleted some under the first.
    Trouble with DVCLive is said on standard error and never ends a training.
    """
    rows, live = list(history), None
    with forgiving("no live metrics of DVCLive"):
        live = begin(folder, rows)

    def log(record: "Record") -> None:
        if record.complete:
            rows.append({"epoch": record.epoch} | record.scalars)
            if live is not None:
                with forgiving(f"epoch {record.epoch} is not in DVCLive"):
                    write(live, rows[-1:])

    try:
        yield log
    finally:
        if live is not None:
            with forgiving("epochs may be missing in DVCLive"):
                shutil.rmtree(live.plots_dir, ignore_errors=True)
                write(live, rows)
                live.end()  # type: ignore[no-untyped-call] # DVCLive has no types


def begin(folder: Path, rows: Iterable[Row]) -> "Live":
    """DVCLive in place of what the folder held, with these rows."""
    from dvclive.live import Live

    live = Live(dir=str(folder), save_dvc_exp=False, dvcyaml=None, report=None)
    write(live, rows)
    return live


def write(live: "Live", rows: Iterable[Row]) -> None:
    """Add rows of a history."""
    for row in rows:
        live.step = int(row["epoch"])
        for name, value in row.items():
            if name not in ("epoch", "step"):
                live.log_metric(name, value)
        live.make_summary()  # type: ignore[no-untyped-call] # DVCLive has no types
