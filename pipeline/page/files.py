"""Reading JSON and CSV files, with faults that name the file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.process import InputError


def optional_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file."""
    return read_json(path) if path.exists() else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises InputError where the file holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except ValueError as error:
        raise InputError(f"{path}: no JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


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
