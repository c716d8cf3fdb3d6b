"""Where the records of a training go; each sink is a context manager that yields a function of a record."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing it takes seconds, and a process that only writes needs none of it
    from cfpn.training import Record

Row = dict[str, float]
Sink = Callable[["Record"], None]


@contextmanager
def forgiving(what: str) -> Iterator[None]:
    """Say what a sink raises, of whatever kind, on standard error and go on: it never fails a training or a sweep."""
    try:
        yield
    except Exception as error:
        print(f"warning: {what}: {type(error).__name__}: {error}", file=sys.stderr)
