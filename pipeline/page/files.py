"""Reading JSON and CSV files, with faults that name the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.process import InputError
from pipeline.runs.records import read_json

SOUND = ("complete", "stopped")  # in the column status of a sweep's trials: those whose accuracy counts in a choice


def optional_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file."""
    return read_json(path) if path.exists() else None


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV with at least these columns; only an empty cell is missing: "null" and "None" are values of a parameter."""
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{path}: not the table of a sweep: {error}") from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputError(f"{path}: no column {missing[0]}, found {', '.join(table.columns[:5])}")
    return table
