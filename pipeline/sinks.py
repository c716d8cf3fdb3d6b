"""Where the records of a training go: progress bar, DVCLive, Weights & Biases. The history is the truth."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfpn.training import Record

if TYPE_CHECKING:
    from wandb import Run

Row = dict[str, float]
Sink = Callable[[Record], None]


@contextmanager
def progress_bar(title: str, steps: int, done: int) -> Iterator[Sink]:
    """A bar on standard error, none without a terminal, and a line per epoch on standard output."""
    from tqdm import tqdm

    with tqdm(total=steps, initial=done, desc=title, unit="step", disable=None) as bar:

        def show(record: Record) -> None:
            if record.complete:
                shown = ", ".join(f"{name} {value:.4f}" for name, value in record.scalars.items() if "unit" not in name)
                tqdm.write(f"{title} epoch {record.epoch}: {shown} ({record.seconds:.0f} s)", file=sys.stdout)
            else:
                bar.update(record.step - bar.n)

        yield show


@contextmanager
def dvclive(folder: Path, history: list[Row]) -> Iterator[Sink]:
    """Metrics per epoch by DVCLive, begun anew from the history: its own way of resuming doubles rows after a kill."""
    from dvclive import Live

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


@contextmanager
def wandb(
    project: str, group: str, name: str, identity: str, config: dict[str, Any], history: list[Row], folder: Path
) -> Iterator[Sink]:
    """One W&B run, offline unless logged in; an offline run begun before is replaced by a replay of the history.

    An online run begun before gets the rows of the history that it lacks. Trouble with W&B is said on standard error
    and never ends a training.
    """
    run = None
    with forgiving("no W&B run, the training goes on without"):
        run = _begin(project, group, name, identity, config, history, folder)

    def log(record: Record) -> None:
        if run is not None and record.complete:
            with forgiving(f"epoch {record.epoch} is not in W&B"):
                run.log({"epoch": record.epoch, "step": record.step} | record.scalars, step=record.epoch)

    try:
        yield log
    finally:
        if run is not None:
            with forgiving("the W&B run was not finished"):
                run.finish()


@contextmanager
def forgiving(what: str) -> Iterator[None]:
    """Say what W&B raises, of whatever kind, on standard error and go on: it never fails a training or a sweep."""
    try:
        yield
    except Exception as error:
        print(f"warning: {what}: {type(error).__name__}: {error}", file=sys.stderr)


def _begin(
    project: str, group: str, name: str, identity: str, config: dict[str, Any], history: list[Row], folder: Path
) -> "Run":
    import wandb as client

    mode = os.environ.get("WANDB_MODE") or ("online" if client.login(prompt=False) else "offline")
    if mode != "online":
        for stale in (folder / "wandb").glob(f"offline-run-*-{identity}"):
            shutil.rmtree(stale)
    run = client.init(
        project=project, group=group, name=name, id=identity, resume="allow", mode=mode, dir=folder,
        config=config, settings=client.Settings(silent=True, console="off"),
    )  # fmt: skip
    run.define_metric("*", step_metric="epoch")
    first = run.step if mode == "online" else 0  # of an online run: one behind its last row
    for row in history:
        if row["epoch"] >= first:
            run.log(row, step=int(row["epoch"]))
    return run


def dump(path: Path, value: object) -> None:
    """Strict JSON, sorted, for a metrics file; raises ValueError for a number that is not finite."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")
