"""Damaged input of every kind into every reader: each must take it or refuse it as documented.

`python -m bench.fuzz --minutes 60` draws inputs until the time is up, `--cases 5000` so many of each kind; --only names
some kinds, --out keeps the counts. tests/test_fuzz.py runs a few hundred of the same. The property of a reader: it
returns, or raises InputError that begins with the file's name (and is one line, but for the rows of a CSV); no part of
an output is left; no input takes more than five seconds of the processor.
"""

import contextlib
import gzip
import io
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from bench.origin import origin
from cfpn import checkpoint, schema, training
from cfpn.network import CFPN, build
from cfpn.recipe import Recipe
from pipeline import evaluate, params
from pipeline.ingest import ingest
from pipeline.pictures.open import open_picture
from pipeline.process import InputError, command_line, run, write_json
from pipeline.runs import records
from pipeline.runs import session as sessions

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 5.0  # seconds of the processor for one input
AT_ONCE = 200  # inputs from one seed of the command
USAGES = ("Training", "PublicTest", "PrivateTest")
TOKENS = [
    *[b"", b",", b";", b"\t", b'"', b"\n", b"\r", b"\0", b" ", b"-1", b"256", b"1e9", b"nan", b"\xff", b"\xef\xbb\xbf"],
    *[b"emotion", b"pixels", b"Usage", b"PublicTest", b"{", b"[", b": ", b"&a", b"*a", b"!!python/name:os.system"],
]
WORDS: list[Any] = [
    *[None, True, -1, 0, 1, 3.5, 10**30, float("inf"), float("nan"), "", "nbp", "block1", "none", "cfpn", [], {}],
]
MODEL = CFPN(input_size=16, width=16, blocks=2, layers=1, pyramids=1)
PARAMETERS = ("params.yaml", "methods.yaml", "profiles/sample.yaml")
PICTURES = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


class Edit(NamedTuple):
    """One damage: `token` in place of `length` bytes at a share of the content."""

    place: float
    length: int
    token: bytes


def edits(most: int = 4) -> st.SearchStrategy[list[Edit]]:
    """A few damages, many of a byte, some of a whole part."""
    lengths = st.one_of(st.integers(0, 3), st.sampled_from([64, 5000, 1 << 30]))
    tokens = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8))
    return st.lists(st.builds(Edit, st.floats(0, 1), lengths, tokens), max_size=most)


def damaged(content: bytes, changes: list[Edit]) -> bytes:
    """The content after all changes."""
    for place, length, token in changes:
        start = int(place * len(content))
        content = content[:start] + token + content[start + length :]
    return content


def zipped(content: bytes) -> bytes:
    """A ZIP with the content as fer2013.csv."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fer2013/fer2013.csv", content)
    return file.getvalue()


def tarred(content: bytes) -> bytes:
    """A tar archive with the content as fer2013.csv."""
    file, member = io.BytesIO(), tarfile.TarInfo("fer2013/fer2013.csv")
    with tarfile.open(fileobj=file, mode="w") as archive:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


PACKINGS: dict[str, list[Callable[[bytes], bytes]]] = {
    "csv": [],
    "gz": [gzip.compress],
    "zip": [zipped],
    "tar": [tarred],
    "tar.gz": [tarred, gzip.compress],
    "zip.gz": [zipped, gzip.compress],
}


@cache
def some_csv() -> bytes:
    """A whole CSV with two faces of each split."""
    random = np.random.default_rng(0)
    rows = [f"{i % 7},{' '.join(map(str, random.integers(0, 256, 2304)))},{USAGES[i % 3]}" for i in range(6)]
    return "\n".join(["emotion,pixels,Usage", *rows, ""]).encode()


@cache
def some_split() -> bytes:
    """A whole split as Parquet."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (9, 1, 48, 48), np.uint8)
    return written(lambda path: schema.write(path, pixels, np.arange(9) % 7, np.arange(9), schema.Description()))


@cache
def some_state() -> training.State:
    """A small training before its first step."""
    return training.start(build(MODEL, 0), training.Method(units="block"), Recipe(), 16, 0, torch.device("cpu"))


@cache
def some_weights() -> bytes:
    """The weights file of that network."""
    network = some_state().network
    about = checkpoint.about(network, asdict(MODEL), schema.EXPRESSIONS)
    return written(lambda path: sessions.write(network.predicting(), about, path))


@cache
def some_checkpoint() -> bytes:
    """The checkpoint of that training."""
    return written(lambda path: sessions.save(sessions.Session(some_state()), path))


@cache
def some_picture(form: str) -> bytes:
    """A whole picture of a format."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 32, 3), np.uint8))
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


def written(write: Callable[[Path], object]) -> bytes:
    """What a function writes into a file."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


def refused(read: Callable[[], object], name: str | Path = "", lines: int = 1) -> bool:
    """Whether a reader refuses its input as documented; raises AssertionError where it does so in another way."""
    try:
        read()
    except InputError as error:
        text = str(error)
        assert text.startswith(str(name)), f"the message does not begin with {name}: {text}"
        assert len(text.splitlines()) <= lines, f"more than {lines} lines: {text}"
        return True
    return False


def check_ingest(packing: str, inside: list[Edit], outside: list[Edit]) -> None:
    """A damaged CSV, packed and damaged again: four files or none."""
    content = damaged(some_csv(), inside)
    for pack in PACKINGS[packing]:
        content = pack(content)
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / f"fer2013.{packing}", Path(folder) / "splits"
        source.write_bytes(damaged(content, outside))
        wrong = refused(lambda: ingest(source, out), source, lines=100)
        left = sorted(path.name for path in out.iterdir()) if out.exists() else []
        assert left == ([] if wrong else ["audit.json", "test.parquet", "train.parquet", "val.parquet"])
        if not wrong:
            evaluate.load_faces(out / "train.parquet")


def check_split(changes: list[Edit]) -> None:
    """A damaged Parquet file as faces, and as the training split in which copies are looked for."""
    with tempfile.TemporaryDirectory() as folder:
        path, whole = Path(folder) / "train.parquet", Path(folder) / "test.parquet"
        path.write_bytes(damaged(some_split(), changes))
        whole.write_bytes(some_split())
        refused(lambda: evaluate.load_faces(path), path)
        refused(lambda: evaluate.copies(evaluate.load_faces(whole), path), path)


def check_weights(changes: list[Edit]) -> None:
    """A damaged file of weights, and a damaged checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(damaged(some_weights(), changes))
        refused(lambda: evaluate.load_network(path), path)
        path.write_bytes(damaged(some_checkpoint(), changes))
        refused(lambda: sessions.restore(sessions.Session(some_state()), path), path)


def check_picture(form: str, changes: list[Edit]) -> None:
    """A damaged picture."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        path.write_bytes(damaged(some_picture(form), changes))
        refused(lambda: open_picture(path), path)


def check_files(name: str, changes: list[Edit]) -> None:
    """Damaged text of a parameter file beside the whole others."""
    with tempfile.TemporaryDirectory() as folder:
        path, files = Path(folder) / "damaged.yaml", some_files()
        path.write_bytes(damaged((ROOT / name).read_bytes(), changes))

        def load() -> params.Params:
            raw = params.read(path)
            changed = (files._replace(common=raw), files._replace(methods=raw),
                       files._replace(profiles=files.profiles | {"sample": raw}))  # fmt: skip
            return params.resolve(changed[PARAMETERS.index(name)])

        refused(load, lines=20)


def check_overrides(overrides: dict[str, Any], texts: list[str]) -> None:
    """Overrides by name, and as texts of a command line."""
    refused(lambda: params.resolve(some_files(), overrides), lines=20)
    refused(lambda: params.resolve(some_files(), params.assignments(texts)), lines=20)


@cache
def some_files() -> params.Files:
    """The parameter files of the project."""
    return params.read_files(ROOT / "params.yaml")


def names(value: object, prefix: str = "") -> list[str]:
    """Dotted names of all groups and values of a parameter file."""
    if not isinstance(value, dict):
        return [prefix]
    return [prefix] * bool(prefix) + [n for k, v in value.items() for n in names(v, f"{prefix}.{k}".strip("."))]


def overrides() -> st.SearchStrategy[tuple[dict[str, Any], list[str]]]:
    """Names that there are and others, with values of any kind."""
    files = some_files()
    known = names(files.common | files.profiles["sample"] | {"methods": files.methods})
    name = st.one_of(st.sampled_from(known), st.text(max_size=12), st.sampled_from(known).map(lambda n: n + ".x"))
    leaf = st.one_of(st.sampled_from(WORDS), st.text(max_size=8), st.integers(), st.floats())
    value = st.recursive(leaf, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=6), v, max_size=3))
    text = st.builds("{}{}{}".format, name, st.sampled_from(["=", "", "=="]), st.text(max_size=12))
    return st.tuples(st.dictionaries(name, value, max_size=3), st.lists(text, max_size=3))


TARGETS: dict[str, tuple[Callable[..., None], Callable[[], st.SearchStrategy[tuple[Any, ...]]]]] = {
    "ingest": (check_ingest, lambda: st.tuples(st.sampled_from(list(PACKINGS)), edits(), edits(2))),
    "split": (check_split, lambda: st.tuples(edits())),
    "weights": (check_weights, lambda: st.tuples(edits())),
    "picture": (check_picture, lambda: st.tuples(st.sampled_from(PICTURES), edits())),
    "files": (check_files, lambda: st.tuples(st.sampled_from(PARAMETERS), edits())),
    "overrides": (check_overrides, overrides),
}


def fuzz(target: str, count: int, seed: int) -> int:
    """Check `count` inputs of one kind that are drawn from a seed; raises what a reader must not raise.

    Returns how many were checked: fewer where there are no more that differ.
    """
    check, inputs = TARGETS[target]
    checked = 0

    def one(drawn: tuple[Any, ...]) -> None:
        nonlocal checked
        checked += 1
        with limited(LONGEST):
            check(*drawn)

    how = hypothesis.settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    hypothesis.seed(seed)(how(hypothesis.given(inputs())(one)))()
    return checked


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise AssertionError in what takes more of the processor, also where a reader takes that error for damage."""

    def stop(*_: object) -> None:
        raise AssertionError(f"more than {seconds:g} s of the processor")

    former, start = signal.signal(signal.SIGPROF, stop), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)
    if time.process_time() - start > seconds:
        stop()


def batch(target: str, seed: int) -> dict[str, int]:
    """Check the inputs of one seed; returns how many were checked and how many faults they showed, which it prints."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return {"cases": fuzz(target, AT_ONCE, seed), "faults": 0}
    except Exception as error:
        print(f"{target}, seed {seed}:", file=sys.stderr)
        traceback.print_exception(error)
        return {"cases": 0, "faults": 1}


def main() -> None:
    """Command line."""
    parser = command_line("python -m bench.fuzz", __doc__, "example: python -m bench.fuzz --only picture --minutes 10")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: %(default)s)")
    parser.add_argument("--cases", type=int, help="so many inputs of each kind, however long it takes")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS), help="kinds of input")
    parser.add_argument("--seed", type=int, default=0, help="the first one (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a JSON file whose counts of these kinds are written anew")
    args = parser.parse_args()
    end = time.monotonic() + 60 * (args.minutes if args.cases is None else float("inf"))
    made: dict[str, Any] = dict(origin())
    done = {target: {"cases": 0, "faults": 0, "seed": args.seed, "seeds": 0} for target in args.only}
    # Of a seed whose check ended at a fault, all inputs count as tried.
    tried = dict.fromkeys(args.only, 0)
    while waiting := [name for name in args.only if args.cases is None or tried[name] < args.cases]:
        for target in waiting:
            for key, value in batch(target, args.seed + done[target]["seeds"]).items():
                done[target][key] += value
            done[target]["seeds"] += 1
            tried[target] = done[target]["cases"] + AT_ONCE * done[target]["faults"]
        if time.monotonic() > end:
            break
    if args.out:
        former = records.read_json(args.out) if args.out.exists() else {}
        write_json(args.out, former | {target: made | counts for target, counts in done.items()})
    print(", ".join(f"{target}: {one['cases']} inputs, {one['faults']} faults" for target, one in done.items()))
    sys.exit(int(any(counts["faults"] for counts in done.values())))


if __name__ == "__main__":
    run(main)
