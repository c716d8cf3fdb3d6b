"""Stage `ingest`: a FER2013 CSV or a folder of pictures -> one Parquet file per split and an audit of the data.

`python -m pipeline.ingest SOURCE OUT_DIR` writes train.parquet (Training), val.parquet (PublicTest), test.parquet
(PrivateTest) and audit.json, all of them or none. Where it is killed between the first and the last of them, audit.json
is missing. It takes:
- Kaggle's fer2013.csv and icml_face_data.csv, either of them inside .gz, .zip, .tar or .tar.gz (told by content, not by
  name), or a folder that holds one of them;
- a folder `split/class/picture`, such as FER2013 as pictures (`train/angry/Training_123.jpg`), where there is none of
  those files; a train.csv beside such folders is not read;
- a folder `class/picture`, with a cut.

`--ferplus fer2013new.csv` takes the labels from the votes of FER+; the audit says how many labels changed.

A source that does not name all splits needs a cut, asked for by `--validation-share`, `--test-share` or both: Kaggle's
train.csv, which has no Usage, or a folder without `val` or `test`. The cut goes by face identity: a hash of the pixels
and the seed decides. So identical faces share a split, and neither the order of the rows nor other rows matter. The
shares are met on average, not exactly.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from cfpn.allocator import keep_freed_memory
from cfpn.schema import ROW_GROUP, Description, arrow_schema, reader, record_batch, writer
from pipeline.data import csv_reader, ferplus, image_folder
from pipeline.data.archive import PLAIN_NAME, has_csv, locate, opened
from pipeline.data.audit import RULES, SPLITS, Count, Face, audit
from pipeline.data.chunks import Chunk, Cut
from pipeline.data.csv_reader import USAGES
from pipeline.process import InputError, atomic, command_line, only_one, run, writing

SPLITS_EXPECTED = "expected folders train, val and test, the file names of FER2013, or --validation-share, --test-share"


def ingest(
    source: Path, folder: Path, rules: Collection[str] = (), cut: Cut | None = None, votes: Path | None = None
) -> dict[str, Count]:
    """Write the three splits and the audit into `folder`; returns the audit.

    rules: keys of `pipeline.data.audit.RULES`, which drop training faces. cut: how to make the splits that the
    source does not name. votes: fer2013new.csv of FER+. Raises InputError with every fault; then nothing is written.
    """
    path = place(source, cut)
    with only_one(folder), ExitStack() as outputs:
        report_path = outputs.enter_context(atomic(folder / "audit.json"))
        paths = {split: outputs.enter_context(atomic(folder / f"{split}.parquet")) for split in SPLITS}
        with opened_faces(path, cut, votes) as (description, chunks):
            faces = write_splits(chunks, description, paths)
        report, dropped = audit(faces, rules, description.classes)
        check_splits(path, Counter(face.split for face in faces if face.row not in dropped), cut)
        if dropped:
            remove_rows(paths["train"], dropped)
        report_path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
        (folder / "audit.json").unlink(missing_ok=True)  # the new one comes after the splits
    return report


def place(source: Path, cut: Cut | None) -> Path:
    """The file that holds the CSV, or the folder of pictures where there is no CSV; raises InputError for neither."""
    if source.is_dir() and not has_csv(source):
        if (pictures := image_folder.find(source)) is not None:
            return pictures
        if not (source / PLAIN_NAME).is_file() and image_folder.holds_classes(source):
            if cut is None:
                raise InputError(f"{source}: no folder train; {SPLITS_EXPECTED}")
            return source
    return locate(source)


@contextmanager
def opened_faces(path: Path, cut: Cut | None, votes: Path | None) -> Iterator[tuple[Description, Iterator[Chunk]]]:
    """What the faces of a CSV or of a folder of pictures are, and the faces."""
    if path.is_dir():
        if votes is not None:
            raise InputError(f"{path}: its folders name the classes; leave out the votes")
        yield image_folder.read(path, cut)
        return
    with opened(path) as file:
        if votes is not None and cut is not None:
            raise InputError(f"{votes}: its votes are for the splits of the full fer2013.csv; leave out the cut")
        description, chunks = csv_reader.read(file, path, cut)
        yield description, chunks if votes is None else ferplus.relabel(chunks, ferplus.read(votes), path, votes)


def write_splits(chunks: Iterable[Chunk], description: Description, paths: Mapping[str, Path]) -> list[Face]:
    """Write each face to the Parquet file of its split, in the order of the source; returns all without pixels."""
    seen: list[Face] = []
    schema = arrow_schema(description)
    with ExitStack() as stack:
        sinks = {split: stack.enter_context(named_writer(path, schema)) for split, path in paths.items()}
        for chunk in chunks:
            seen += chunk.faces
            for split, sink in sinks.items():
                chosen = [index for index, face in enumerate(chunk.faces) if face.split == split]
                if chosen:
                    labels, rows = ([getattr(chunk.faces[i], name) for i in chosen] for name in ("label", "row"))
                    sink(record_batch(schema, chunk.pixels[chosen], np.array(labels), np.array(rows)))
    return seen


@contextmanager
def named_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """A writer whose errors name its own file, since three are open at once."""
    with writing(path), writer(path, schema) as sink:

        def take(batch: pa.RecordBatch) -> None:
            with writing(path):
                sink(batch)

        yield take


def check_splits(path: Path, written: Mapping[str, int], cut: Cut | None) -> None:
    """Raise InputError for splits without a face, which would end the training much later."""
    usages = {split: f"{split} ({usage.decode()})" for usage, split in USAGES.items()}
    if empty := [split for split in SPLITS if not written[split]]:
        named, advice = ", ".join(usages[split] for split in empty), "expected rows of every Usage that --drop leaves"
        if cut is not None:
            named, advice = ", ".join(empty), "raise the shares"
        elif path.is_dir():
            named, advice = ", ".join(empty), SPLITS_EXPECTED
        raise InputError(f"{path}: no face for the split {named}; {advice}; nothing was written")


def remove_rows(path: Path, rows: Collection[int]) -> None:
    """Rewrite a split without these row numbers."""
    unwanted = sorted(rows)
    with atomic(path) as kept, reader(path, ROW_GROUP) as (parquet, _, batches):
        schema = parquet.schema_arrow
        with writer(kept, schema) as sink:
            for batch in batches:
                wanted = ~np.isin(batch.rows, unwanted)
                sink(record_batch(schema, *(values[wanted] for values in batch)))


def parse_rules(text: str) -> tuple[str, ...]:
    """`none`, or names of RULES separated by commas; raises argparse.ArgumentTypeError at another name."""
    names = [name.strip() for name in text.split(",")]
    if names == ["none"]:
        return ()
    unknown = [name for name in names if name not in RULES]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown rule {unknown[0]!r}; expected none or {', '.join(RULES)}")
    return tuple(names)


def parse_share(text: str) -> float:
    """A share in 0..1, both ends excluded but for 0; raises argparse.ArgumentTypeError at anything else."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a share of the faces, 0 or more and less than 1")
    return share


def parse_cut(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Cut | None:
    """The cut that was asked for; ends the program where it leaves nothing to train on."""
    cut = Cut(arguments.validation_share, arguments.test_share, arguments.seed)
    if abs(cut.seed) >= 2**63:
        parser.error(f"--seed: expected a number of 64 bits, found {cut.seed}")
    if not cut.validation and not cut.test:
        return None
    if cut.validation + cut.test >= 1:
        parser.error("--validation-share and --test-share: expected a sum below 1")
    return cut


def main() -> None:
    """Command line of the stage."""
    parser = command_line(
        "python -m pipeline.ingest",
        "Check a CSV or pictures and write train.parquet, val.parquet, test.parquet and audit.json.",
        "example: python -m pipeline.ingest data/fer2013.csv data/splits --drop constant,duplicates",
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="the CSV, bare or inside .gz, .zip or .tar.gz, its folder, or a folder [split/]class/picture",
    )
    parser.add_argument("folder", type=Path, metavar="OUT_DIR", help="where the four files go")
    rules = "; ".join(f"{name}: {meaning}" for name, meaning in RULES.items())
    parser.add_argument(
        "--drop", type=parse_rules, default=(), metavar="RULES", help=f"none (default), or some of, by commas: {rules}"
    )
    parser.add_argument("--ferplus", type=Path, metavar="fer2013new.csv", help="take the labels from these votes")
    for name in ("validation", "test"):
        help_text = "only where the source does not name this split: share of the faces for it, cut by face identity"
        names = (f"--{name}-share", f"--{name}_share")  # dvc.yaml hands on the names that params.yaml has
        parser.add_argument(*names, type=parse_share, default=0.0, metavar="SHARE", help=help_text)
    parser.add_argument("--seed", type=int, default=0, help="of the cut (default: %(default)s)")
    arguments = parser.parse_args()
    keep_freed_memory()
    cut = parse_cut(parser, arguments)
    report = ingest(arguments.source, arguments.folder, arguments.drop, cut, arguments.ferplus)
    print(json.dumps({key: report[key] for key in ("written", "dropped", "labels_changed")}))


if __name__ == "__main__":
    run(main)
