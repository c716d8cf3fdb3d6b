"""A folder `split/class/picture` -> chunks of faces, every picture checked.

Rules for what the layouts leave open:
- Splits are the folders train (training), val (valid, validation) and test, in small or capital letters. They stand in
  the given folder or in one below it.
- A cut takes a split that has no folder from the training pictures, by face identity as in a CSV. Without a training
  folder the given folder holds the classes, and the cut makes all splits.
- FER2013 as a folder has no validation split: there the names tell, since PublicTest_*.jpg and PrivateTest_*.jpg both
  lie in test. The names do not matter where there is a validation folder.
- Classes are the folders below. Where they are FER2013's seven, whatever their spelling (angry, anger), they get the
  paper's names and order; else the names of the folders in alphabetical order.
- Row n is the n-th picture by the order of the paths' bytes. The faces are written in an order that hashes of the paths
  decide, so that the first thousand hold every class.
- All pictures are squares of one size, all grey or all in colour. EXIF orientations are applied.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from cfpn.schema import EXPRESSIONS, Description
from pipeline.data.chunks import CHUNK, FAULTS_SHOWN, Chunk, Cut, Row, fault_list, identify
from pipeline.process import InputError

FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
PREFIXES = {"Training_": "train", "PublicTest_": "val", "PrivateTest_": "test"}
SPELLINGS = {"angry": "anger", "disgusted": "disgust", "fearful": "fear", "happiness": "happy", "sadness": "sad"}
SPELLINGS |= {"surprised": "surprise", "neutral": "normal"} | {name: name for name in EXPRESSIONS}
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}  # as opened -> as read
LARGEST = 1024  # pixels of a side
CLASSES_ALONE = "."  # stands for the folder of a split where there is none


class Picture(NamedTuple):
    """A picture by its path below the root, with its number in alphabetical order from 1, its split and its class.

    split: None where a cut gives it one.
    """

    number: int
    name: str
    split: str | None
    label: int


class Shape(NamedTuple):
    """Side in pixels and number of channels of a square picture."""

    side: int
    channels: int


def find(folder: Path) -> Path | None:
    """The folder that holds the splits: `folder` or one in it; None where there is no training split."""
    if not folder.is_dir():
        return None
    for root in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if "train" in split_folders(root).values():
            return root
    return None


def split_folders(root: Path) -> dict[str, str]:
    """Name of a folder in `root` -> the split that it stands for."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    return {name: FOLDERS[name.lower()] for name in names if name.lower() in FOLDERS}


def holds_classes(folder: Path) -> bool:
    """Whether there are pictures in folders of this one, as a cut of classes without splits needs them."""
    return bool(list(pictures_below(folder)))  # all of them, since a listing that is left half-read stays open


def read(root: Path, cut: Cut | None = None) -> tuple[Description, Iterator[Chunk]]:
    """What the faces of a folder are, and the faces; raises InputError where there are none.

    cut: of the training pictures, for splits without a picture. After the last picture the chunks raise InputError with
    the faults, if there were any.
    """
    pictures, classes = listing(root, cut)
    shape = next((shape for one in pictures if isinstance(shape := shape_of(root / one.name), Shape)), None)
    if shape is None:
        raise InputError(f"{root / pictures[0].name}: {shape_of(root / pictures[0].name)}; expected a square picture")
    try:
        description = Description(shape.side, shape.channels, classes)
    except ValueError as error:
        raise InputError(f"{root}: {error}") from error
    return description, chunks(root, pictures, shape, cut)


def listing(root: Path, cut: Cut | None = None) -> tuple[list[Picture], tuple[str, ...]]:
    """All pictures in the order in which they are written, and the names of the classes."""
    folders = split_folders(root)
    if cut is not None and "train" not in folders.values():
        folders = {CLASSES_ALONE: "train"}
    named = "val" not in folders.values()
    names = [f"{split}/{entry}" for split in folders for entry in pictures_below(root / split)]
    if not names:
        raise InputError(f"{root}: no picture in a folder split/class; expected {', '.join(SUFFIXES)}")
    names.sort(key=os.fsencode)
    classes = class_names(root, {name.split("/")[1] for name in names})
    tell_left_out(root, folders, set(names))
    pictures = []
    for number, name in enumerate(names, 1):
        folder, kind, file = name.split("/")
        by_name = [split for prefix, split in PREFIXES.items() if named and file.startswith(prefix)]
        label = classes.index(kind if kind in classes else SPELLINGS[kind.lower()])
        pictures.append(Picture(number, name, (by_name or [folders[folder]])[0], label))
    check_learnt(root, pictures, classes)
    if cut is not None:
        pictures = to_be_cut(root, pictures, cut)
    pictures.sort(key=lambda one: blake2b(os.fsencode(one.name), digest_size=8).digest())
    return pictures, classes


def to_be_cut(root: Path, pictures: Sequence[Picture], cut: Cut) -> list[Picture]:
    """The pictures, those of the training split without a split; raises InputError for a share of one that is there."""
    there = {one.split for one in pictures}
    for split, share, option in (("val", cut.validation, "--validation-share"), ("test", cut.test, "--test-share")):
        if share and split in there:
            raise InputError(f"{root}: its folders or file names tell the split {split}; leave out {option}")
    return [one._replace(split=None) if one.split == "train" else one for one in pictures]


def check_learnt(root: Path, pictures: Sequence[Picture], classes: Sequence[str]) -> None:
    """Raise InputError for a class without a picture to learn from, such as one that is spelled in two ways."""
    learnt = {one.label for one in pictures if one.split == "train"}
    if missing := [name for label, name in enumerate(classes) if label not in learnt]:
        raise InputError(f"{root}: no training picture of {', '.join(missing)}; the training split has other classes")


def pictures_below(folder: Path) -> Iterator[str]:
    """`class/file` of each picture in the classes of a split; hidden files are none."""
    for kind in os.scandir(folder):
        if kind.is_dir() and not kind.name.startswith("."):
            for file in os.scandir(kind):
                if file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".") and file.is_file():
                    yield f"{kind.name}/{file.name}"


def tell_left_out(root: Path, folders: Iterable[str], names: set[str]) -> None:
    """Say on standard error how many files of the splits are no pictures split/class/picture; hidden ones are none."""
    below = (Path(parent, name) for split in folders for parent, _, files in os.walk(root / split) for name in files)
    paths = {path.relative_to(root) for path in below} - {Path(name) for name in names}
    if left := sorted(path.as_posix() for path in paths if all(part[0] != "." for part in path.parts)):
        told = f"{len(left)} files are no pictures in a folder split/class, among them {left[0]}"
        print(f"note: {root}: {told}; left out", file=sys.stderr)


def class_names(root: Path, folders: set[str]) -> tuple[str, ...]:
    """Names of the classes by label: the paper's where the folders are its seven expressions.

    Raises InputError for names that differ in case alone, or that are no text.
    """
    for name in sorted(folders):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{root}: class {os.fsencode(name)!r}: the name of the folder is not UTF-8") from error
    if {SPELLINGS.get(name.lower()) for name in folders} == set(EXPRESSIONS):
        return EXPRESSIONS
    kinds: dict[str, str] = {}
    for name in sorted(folders):
        if (other := kinds.setdefault(name.lower(), name)) != name:
            raise InputError(
                f"{root}: classes {other} and {name} differ in case alone; expected one folder name per class"
            )
    return tuple(sorted(folders))


def chunks(root: Path, pictures: Sequence[Picture], shape: Shape, cut: Cut | None) -> Iterator[Chunk]:
    """Decode all pictures; no chunk follows the first fault, but all pictures are checked."""
    faults: list[str] = []
    count = 0
    with tqdm(desc="ingest", total=len(pictures), unit=" faces", disable=None) as progress:
        for start in range(0, len(pictures), CHUNK):
            some = pictures[start : start + CHUNK]
            faces = [decode(root / one.name, shape) for one in some]
            found = [f"{one.name}: {face}" for one, face in zip(some, faces, strict=True) if isinstance(face, str)]
            count += len(found)
            faults += found[: FAULTS_SHOWN - len(faults)]
            progress.update(len(some))
            if not count:
                pixels = np.stack(faces)
                yield Chunk(pixels, identify([Row(one.number, one.label, one.split) for one in some], pixels, cut))
    if faults:
        raise InputError(fault_list(root, len(pictures), "pictures", faults, count))


def shape_of(path: Path) -> Shape | str:
    """Side and channels of a picture, which is not decoded, or what is wrong with it."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return shape_or_fault(image)
    except Exception as error:
        return reason(error)


def shape_or_fault(image: Image.Image) -> Shape | str:
    """Side and channels of an open picture, or what no data set of faces can have."""
    if image.width != image.height:
        return f"found {image.width}x{image.height}; expected a square"
    if image.width > LARGEST:
        return f"found a side of {image.width:,} pixels; expected {LARGEST:,} at most"
    if image.mode not in MODES or "transparency" in image.info:
        kind = "transparent" if image.mode in MODES else image.mode
        return f"found the mode {kind}; expected grey or colour with 8 bits and without transparency"
    return Shape(image.width, len(MODES[image.mode].replace("L", "1")))


def decode(path: Path, shape: Shape) -> NDArray[np.uint8] | str:
    """Pixels (channels * side * side,) of a picture, or what is wrong with it."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            found = shape_or_fault(image)
            if found != shape:
                return found if isinstance(found, str) else f"found {told(found)}; expected {told(shape)}"
            pixels = np.asarray(ImageOps.exif_transpose(image).convert(MODES[image.mode]))
    except Exception as error:
        return reason(error)
    return (pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)).reshape(-1)


def told(shape: Shape) -> str:
    """A shape as a message shows it."""
    return f"{shape.side}x{shape.side} {'in colour' if shape.channels > 1 else 'grey'}"


def reason(error: Exception) -> str:
    """Why a picture cannot be read; the decoders of a damaged picture raise whatever they like."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    if isinstance(error, UnidentifiedImageError):
        return f"no picture; expected one of {', '.join(FORMATS)}"
    return f"damaged picture ({str(error).partition(chr(10))[0] or type(error).__name__})"
