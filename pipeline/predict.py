"""Command `predict`: pictures -> the expression of every face in them.

`python -m pipeline.predict PATH...` takes picture files, folders, CSV files with a column `pixels`, and `-` for
standard input, and writes one line per face. What cannot be read is told on standard error, the rest is done, and the
exit code is then 2. pipeline/pictures/open.py says how a picture is read.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from cfpn import anytime, weights
from cfpn.allocator import keep_freed_memory
from cfpn.network import Network
from pipeline.pictures import detect
from pipeline.pictures.answers import Model, answers, load_model
from pipeline.pictures.sources import Item, Reader
from pipeline.pictures.writers import Lines, Objects, Pictures, Rows, Writer
from pipeline.process import InputError, command_line, flush, run, thread_count

TOP = 3  # classes that are told
EXAMPLE = """examples:
  python -m pipeline.predict photo.jpg                       every face with its three most likely expressions
  python -m pipeline.predict faces/ --csv > faces.csv        a table
  python -m pipeline.predict photo.jpg --out seen --explain  pictures with boxes and what the network looked at
  python -m pipeline.predict --camera --json                 what the camera sees
"""
FACES = """auto: search pictures of more than 96 pixels for faces where OpenCV is installed; detect: search all;
crop: take the middle square of each for a face (default: %(default)s)"""
EXIT = """a face leaves once the vote of the units so far gives a class this probability; without a number that of the
weights"""
BATCH = 64  # faces at once
HELD = 50_000_000  # pixels of pictures that wait for their answer


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items in groups of about BATCH faces, fewer where their pictures are large."""
    group: list[Item] = []
    for item in items:
        group.append(item)
        held = sum(one.image.width * one.image.height for one in group)
        if sum(len(one.pixels) for one in group) >= BATCH or held >= HELD:
            yield group
            group = []
    if group:
        yield group


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = command_line("python -m pipeline.predict", __doc__, EXAMPLE)
    add = result.add_argument
    add("paths", nargs="*", metavar="PATH", help="picture, folder, CSV, or - for standard input")
    add("--camera", action="store_true", help="take a picture with the camera first; needs OpenCV")
    add("--weights", default=weights.BEST, metavar="NAME|FILE", help="of the network (default: %(default)s)")
    add("--faces", choices=("auto", "detect", "crop"), default="auto", help=FACES)
    add("--top", type=int, metavar="K", help=f"likeliest classes that are told (default: {TOP}; --csv tells all)")
    add("--exit", type=float, nargs="?", const=True, metavar="P", help=EXIT)
    form = result.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per line")
    form.add_argument("--csv", action="store_true", help="a table")
    add("--out", type=Path, metavar="DIR", help="write annotated pictures there")
    add("--explain", action="store_true", help="what the network looked at: in the pictures of --out, in --json")
    add("--threads", type=thread_count, default=1, help="of the CPU (default: %(default)s)")
    return result


def checked(args: argparse.Namespace, network: Network) -> float | None:
    """Raise InputError for arguments that do not fit together; returns the probability at which faces leave."""
    if not (args.paths or args.camera):
        raise InputError("expected a PATH or --camera")
    if args.explain and not (args.out or args.json):
        raise InputError("--explain: expected --out DIR or --json beside it, which show what the network looked at")
    if args.top is not None and (args.csv or args.top < 1):
        raise InputError("--top: expected 1 or more, and not with --csv, which tells all classes")
    if args.out and os.path.realpath(args.out) in map(os.path.realpath, args.paths):
        raise InputError(f"--out {args.out}: pictures are read there; another folder is needed")
    if args.faces == "detect" and not detect.available():
        raise InputError("--faces detect: OpenCV is not installed; pip install '.[photo]'")
    sure: float | None = network.about.get("exit") if args.exit is True else args.exit
    if args.exit is True and sure is None:
        raise InputError("--exit: these weights store no probability; give one, as --exit 0.6")
    if sure is not None:
        try:
            anytime.check(network, sure)
        except ValueError as error:
            raise InputError(f"--{error}") from error
    return sure


def writers(args: argparse.Namespace, model: Model) -> list[Writer]:
    """Where answers go."""
    top = args.top or TOP
    text: Writer = Lines(top)
    if args.json:
        text = Objects(model, top)
    elif args.csv:
        text = Rows(model)
    return [text, Pictures(args.out)] if args.out else [text]


def main() -> None:
    """Command line of the stage."""
    args = parser().parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    model = load_model(args.weights)
    sure, outputs = checked(args, model.network), writers(args, model)
    if not (args.json or args.csv):
        print(f"weights {model.name}, sha256 {model.sha256[:12]}", file=sys.stderr)
    faults: list[str] = []

    def report(fault: str) -> None:
        faults.append(fault)
        print(f"error: {fault}", file=sys.stderr)

    side = detect.side_of(model.network)
    remark = partial(print, file=sys.stderr)
    reader = Reader(model.network.channels, args.faces, report, remark, args.out, side)
    taken = reader.camera() if args.camera else ()
    for group in batches(chain(taken, reader.items(args.paths))):
        pixels = torch.cat([torch.tensor(item.pixels) for item in group])
        found = iter(answers(model, pixels, sure, args.explain))
        for item in group:
            own = [next(found) for _ in item.boxes]
            for output in outputs:
                output(item, own)
    flush()
    if faults:
        sys.exit(2)


if __name__ == "__main__":
    run(main)
