"""What stands on the command line -> pictures with their faces: files, folders, standard input, CSV files of faces."""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.data.csv_reader import Fault, parse_pixels, read_lines, split_line
from pipeline.pictures import camera, detect
from pipeline.pictures.detect import SIDE, Box
from pipeline.pictures.open import SUFFIXES, Picture, open_picture, read, shown, whole
from pipeline.process import InputError

Search = Literal["auto", "detect", "crop"]
Report = Callable[[str], None]
STANDARD_INPUT, ITS_NAME = "-", "standard input"
HEADER_BYTES = 1 << 16  # in which a CSV's header must end to be known on standard input


@dataclass(frozen=True)
class Item:
    """A picture and its faces: pixels (n, channels, side, side) uint8, and where each stands in the upright image.

    found: whether a detector found the faces; else the middle square was taken for one.
    """

    name: str
    image: Image.Image
    boxes: Sequence[Box]
    pixels: NDArray[np.uint8]
    found: bool
    notes: tuple[str, ...]


def faces(path: Path | str, channels: int = 1, search: Search = "auto", side: int = SIDE) -> Tensor:
    """The faces in a picture file as `cfpn.predict` takes them, (n, channels, side, side) uint8; raises InputError.

    search: as in `Reader`; without OpenCV that is the middle square of the picture. side: of the faces that the network
    learnt from. A CSV of faces is no picture here.
    """

    def refuse(fault: str) -> NoReturn:
        raise InputError(fault)

    (item,) = Reader(channels, search, refuse, refuse, side=side).item(open_picture(Path(path)))
    return torch.from_numpy(item.pixels)


@dataclass(frozen=True)
class Reader:
    """Reads items; what cannot be read goes to `report` as one line, what holds no face to `remark`.

    channels: of the network. search: "detect" finds faces, "crop" takes the middle square; "auto" takes pictures of at
    most two sides, and all where there is no OpenCV, for faces that are cut out already. leave_out: a folder that is
    not entered. side: of the faces that the network learnt from. advice: what to do where no face is found.
    """

    channels: int
    search: Search
    report: Report
    remark: Report
    leave_out: Path | None = None
    side: int = SIDE
    advice: str = "; --faces crop takes the picture for one"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InputError(f"these weights take {self.channels} channels; expected 1 (grey) or 3 (coloured)")

    def items(self, paths: Iterable[str]) -> Iterator[Item]:
        """Items of all paths, in order; a folder's files by name, its subfolders' after them."""
        for path in paths:
            try:
                if not path:
                    raise InputError("PATH: expected a file or a folder, found nothing between the quotes")
                yield from self.standard_input() if path == STANDARD_INPUT else self.below(Path(path))
            except InputError as error:
                self.report(str(error))
            except OSError as error:
                self.report(f"{shown(path)}: {error.strerror or error}")

    def camera(self) -> Iterator[Item]:
        """The item of a picture from the camera."""
        try:
            yield from self.item(camera.take())
        except InputError as error:
            self.report(str(error))

    def below(self, path: Path) -> Iterator[Item]:
        """Items of a file, or of the pictures in a folder."""
        if not path.is_dir():
            yield from self.file(path)
            return
        files = list(self.walk(path))
        self.tell_left_out(path)
        if not files:
            raise InputError(f"{shown(path)}: no picture in this folder; looked for {', '.join(sorted(SUFFIXES))}")
        for file in files:
            try:
                yield from self.file(file)
            except InputError as error:
                self.report(str(error))

    def walk(self, folder: Path) -> Iterator[Path]:
        """Picture files below a folder; hidden ones and `leave_out` are passed over."""
        for path in self.every(folder, self.unreadable):
            if path.suffix.lower() in SUFFIXES and is_file_or_dangling(path):
                yield path

    def every(self, folder: Path, unreadable: Callable[[OSError], None] | None = None) -> Iterator[Path]:
        """All files below a folder, sorted, each folder once; hidden ones and `leave_out` are passed over."""
        passed = {os.path.realpath(one) for one in (folder, self.leave_out) if one}
        for parent, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
            below = sorted(name for name in folders if name[0] != ".")
            folders.clear()
            for name in below:
                if (
                    real := os.path.realpath(Path(parent, name))
                ) not in passed:  # a link may lead to a folder that holds it
                    passed.add(real)
                    folders.append(name)
            yield from (Path(parent, name) for name in sorted(names) if name[0] != ".")

    def tell_left_out(self, folder: Path) -> None:
        """Remark how many files below a folder are no pictures by their names; hidden ones are not counted."""
        left = sorted({path.name for path in self.every(folder) if path.suffix.lower() not in SUFFIXES})
        if left:
            self.remark(f"note: {shown(folder)}: other files than pictures left out, among them {shown(left[0])}")

    def unreadable(self, error: OSError) -> None:
        """Report a folder that cannot be entered."""
        self.report(f"{shown(error.filename)}: {error.strerror}")

    def file(self, path: Path) -> Iterator[Item]:
        """The item of a picture, or one per row of a CSV."""
        if path.suffix.lower() != ".csv":
            yield from self.item(open_picture(path))
            return
        try:
            with path.open("rb") as file:
                yield from self.rows(file, path)
        except OSError as error:
            raise InputError(f"{shown(path)}: {error.strerror or error}") from error

    def standard_input(self) -> Iterator[Item]:
        """A picture or a CSV; a column `pixels` in the first line tells."""
        if sys.stdin is None:
            raise InputError(f"{ITS_NAME}: closed")
        data = whole(sys.stdin.buffer, ITS_NAME)
        header = data[:HEADER_BYTES].split(b"\n")[0].removeprefix(b"\xef\xbb\xbf")
        if b"pixels" in [field.strip(b' "\r') for field in header.split(b",")]:
            yield from self.rows(io.BytesIO(data), Path(ITS_NAME))
        else:
            yield from self.item(read(io.BytesIO(data), ITS_NAME))

    def item(self, picture: Picture) -> Iterator[Item]:
        """The picture with its faces; none where the detector finds no face."""
        image, notes = picture.image, picture.notes
        cut_out = max(image.size) <= detect.CROP * self.side or not detect.available()
        if self.search == "crop" or (self.search == "auto" and cut_out):
            boxes, found = [detect.middle(image)], False
            if image.width != image.height:
                notes += (f"middle square of {image.width}x{image.height}",)
        elif not (boxes := detect.find(image)):
            self.remark(f"{picture.name}: no face found{self.advice}")
            return
        else:
            found = True
        pixels = np.stack([detect.cut(image, box, self.channels, self.side) for box in boxes])
        yield Item(picture.name, image, boxes, pixels, found, notes)

    def rows(self, file: IO[bytes], path: Path) -> Iterator[Item]:
        """One item per row of a CSV with a column `pixels`; labels and other columns are not looked at."""
        if self.channels != 1:
            raise InputError(f"{shown(path)}: a CSV holds grey faces; these weights take {self.channels} channels")
        if self.side != SIDE:
            raise InputError(f"{shown(path)}: a CSV holds faces of {SIDE}x{SIDE}; these weights saw {self.side} pixels")
        lines = read_lines(file, path)
        names = [field.decode("utf-8", "replace").strip() for field in split_line(_header(next(lines, b""))) or []]
        if names.count("pixels") != 1:
            raise InputError(
                f"{shown(path)}: expected one column pixels, found the header {shown(','.join(names))[:80]}"
            )
        number = 0
        for number, line in enumerate(lines, 1):
            fields = split_line(line)
            if fields is None or len(fields) != len(names):
                self.report(f"{shown(path)}, row {number}: expected {len(names)} fields, found {len(fields or ())}")
                continue
            face = parse_pixels(fields[names.index("pixels")], number)
            if isinstance(face, Fault):
                self.report(f"{shown(path)}, row {number}, column pixels: found {face.found}; expected {face.expected}")
                continue
            pixels = face.reshape(1, 1, SIDE, SIDE)
            image = Image.fromarray(pixels[0, 0])
            yield Item(f"{shown(path)}:{number}", image, [Box(0, 0, SIDE, SIDE)], pixels, False, ())
        if not number:
            self.report(f"{shown(path)}: no row after the header")


def is_file_or_dangling(path: Path) -> bool:
    """Whether a path is a file, or one that is not there or not to be read: that is said when it is opened."""
    try:
        return path.is_file() or (path.is_symlink() and not path.exists())
    except PermissionError:  # in a folder that can be listed and not entered
        return True


def _header(line: bytes) -> bytes:
    return line.removeprefix(b"\xef\xbb\xbf")
