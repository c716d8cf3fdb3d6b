"""The counts of the ingest stage as tables, whatever they are."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.page.html import Section, Table, Text, plain, show
from pipeline.page.inputs import SPLITS, Inputs

TITLES = {
    "rows": "Faces per split and expression",
    "constant_faces": "Constant faces: all pixels equal",
    "identical_faces": "Identical faces: all pixels equal",
    "dropped": "Training faces dropped, by rule",
    "written": "Faces written per split",
    "redundant_rows_within": "faces that repeat an earlier one of the same split",
    "rows_with_a_copy_in": "faces of a split (column) with a copy in another (row)",
}


def audit_section(inputs: Inputs) -> Section | None:
    """The counts of the ingest stage, whatever they are, as tables."""
    if inputs.audit is None:
        return None
    texts = [Text(text) for text in audit_highlights(inputs.audit, inputs.names["train"])]
    return Section("Audit of the data", [*texts, *audit_tables(inputs.audit)])


def audit_highlights(audit: Mapping[str, Any], train: str) -> Iterator[str]:
    """The count that flatters test scores, where the audit has it; train: what the training split is called."""
    copied = audit.get("identical_faces", {}).get("rows_with_a_copy_in", {}).get("train", {}).get("test")
    total = audit.get("rows", {}).get("test", {}).get("total")
    if isinstance(copied, int) and total:
        yield (
            f"{copied:,} of {total:,} test faces ({copied / total:.1%}) have an identical copy in {train} as the file "
            "was read. Splits for validation and test are never edited; the results above are therefore also given "
            "without copies."
        )


def audit_tables(audit: Mapping[str, Any]) -> Iterator[Table]:
    """One table per group of counts: single counts, then mappings of counts with a row each."""
    loose = {key: value for key, value in audit.items() if not isinstance(value, dict)}
    if loose:
        yield counts_table("Counts", loose)
    for key, value in audit.items():
        if isinstance(value, dict):
            yield from group_tables(TITLES.get(key, plain(key)), value)


def group_tables(title: str, group: Mapping[str, Any]) -> Iterator[Table]:
    """Tables of nested counts, one per level."""
    single = {key: value for key, value in group.items() if not isinstance(value, dict)}
    rows = {key: value for key, value in group.items() if is_counts(value)}
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    columns = [name for name in SPLITS if name in columns] + [name for name in columns if name not in SPLITS]
    if single and not (rows and list(single) == ["total"]):
        yield counts_table(title, single)
    if rows and all(key in TITLES for key in rows):
        for key, value in rows.items():
            yield counts_table(f"{title.split(':')[0]}: {TITLES[key]}", value)
    elif rows:
        body = [[plain(key), *(show(row.get(name)) for name in columns)] for key, row in rows.items()]
        whole = f" ({show(single['total'])} in all)" if list(single) == ["total"] else ""
        yield Table(title + whole, ("", *map(plain, columns)), body)
    for key, value in group.items():
        if isinstance(value, dict) and not is_counts(value):
            yield from group_tables(f"{title.split(':')[0]}: {TITLES.get(key, plain(key))}", value)


def is_counts(value: object) -> bool:
    """Whether this is a mapping of single values."""
    return isinstance(value, dict) and not any(isinstance(inner, dict) for inner in value.values())


def counts_table(title: str, counts: Mapping[str, Any]) -> Table:
    """Single values side by side."""
    return Table(title, list(map(plain, counts)), [[show(value) for value in counts.values()]], ())
