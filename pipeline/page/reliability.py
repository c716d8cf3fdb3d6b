"""Tables of docs/reliability.md, from docs/study/faults.json, fuzz.json and soak.json of bench/."""

from pathlib import Path

from pipeline.page.tables import Table
from pipeline.runs import records

READERS = {
    "ingest": "CSV, gzip, ZIP and tar archives, into ingest",
    "picture": "pictures, into predict",
    "files": "parameter files, into the schema",
    "overrides": "overrides of the command line, into the schema",
    "split": "Parquet files, into evaluate",
    "weights": "weights into evaluate, checkpoints into train",
}  # kinds of bench.fuzz, in words
ORIGIN = ("date", "commit", "command", "machine")


def faults(folder: Path) -> Table:
    """Per cell what a user sees, the exit code, and what the next run gives."""
    cells = records.read_json(folder / "faults.json")["cells"]
    header = ("fault", "stage", "the user sees", "exit code", "the next dvc repro gives")
    return header, [
        (cell["fault"], cell["stage"], cell["said"].replace("|", "/"), str(cell["code"]), cell["then"])
        for cell in cells
    ]


def fuzz(folder: Path) -> Table:
    """Per kind of input how many were tried, from which seeds, and the faults that they showed."""
    found = records.read_json(folder / "fuzz.json")
    header = ("damaged input", "tried", "seeds", "faults")
    return header, [
        (text, f"{one['cases']:,}", f"{one['seed']} to {one['seed'] + one['seeds'] - 1}", str(one["faults"]))
        for name, text in READERS.items()
        if (one := found.get(name))
    ]


def soak(folder: Path) -> Table:
    """Per run and quantity what it was after the first ten epochs or trials, and at the end."""
    path = folder / "soak.json"
    rows = records.read_json(path)["rows"] if path.exists() else []
    header = ("run", "what", "after ten", "at the end", "change, %")
    return header, [
        (row["run"], row["what"], f"{row['first']:,.0f}", f"{row['last']:,.0f}",
         f"{100 * (row['last'] / row['first'] - 1):+.1f}")
        for row in rows
    ]  # fmt: skip


def origins(folder: Path) -> Table:
    """What made the three tables."""
    soaked = folder / "soak.json"
    sources = [*records.read_json(folder / "faults.json")["cells"], *records.read_json(folder / "fuzz.json").values()]
    sources += [records.read_json(soaked)] if soaked.exists() else []
    rows = dict.fromkeys(tuple(one[name] for name in ORIGIN) for one in sources)
    return ORIGIN, [(date, commit, f"`{command}`", machine) for date, commit, command, machine in rows]


TABLES = {"faults": faults, "fuzz": fuzz, "soak": soak, "reliability-origins": origins}
