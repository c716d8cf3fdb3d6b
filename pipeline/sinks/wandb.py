"""Weights & Biases: one run per training, offline unless logged in; the history is the truth."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfpn.training import Record
from pipeline.sinks import Row, Sink, forgiving

if TYPE_CHECKING:
    from wandb import Run


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
