"""A progress bar on standard error, and a line per epoch on standard output."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cfpn.training import Record
from pipeline.sinks import Sink


@contextmanager
def progress_bar(title: str, steps: int, done: int) -> Iterator[Sink]:
    """A bar on standard error, none without a terminal, and a line per epoch on standard output."""
    from tqdm import tqdm

    with tqdm(total=steps, initial=done, desc=title, unit="step", disable=None) as bar:

        def show(record: Record) -> None:
            if record.complete:
                found = record.scalars.items()
                shown = ", ".join(f"{name} {value:.4f}" for name, value in found if name.startswith(("train/", "val/")))
                tqdm.write(f"{title} epoch {record.epoch}: {shown} ({record.seconds:.0f} s)", file=sys.stdout)
            else:
                bar.update(record.step - bar.n)

        yield show
