"""Where the CSV is: a file, a folder that holds it, or an archive, which its content tells and not its name."""

import errno
import gzip
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from pipeline.process import InputError

COMPETITION = "challenges-in-representation-learning-facial-expression-recognition-challenge"
FILE_NAMES: tuple[str, ...] = (
    "fer2013.csv",
    "fer2013/fer2013.csv",
    "icml_face_data.csv",
    "fer2013.csv.gz",
    "icml_face_data.csv.gz",
)
FILE_NAMES += ("fer2013.tar.gz", "fer2013.zip", "icml_face_data.csv.zip", f"{COMPETITION}.zip")
PLAIN_NAME = "train.csv"  # of Kaggle's too, but elsewhere also of a list of labels beside pictures
SUFFIXES = (".csv", ".csv.gz", ".tar.gz", ".zip")
HOW_TO_GET = (
    f"FER2013 is on Kaggle: download it by hand from https://www.kaggle.com/c/{COMPETITION}/data or with Kaggle's "
    f"client: kaggle competitions download {COMPETITION}"
)
BUFFER = 1 << 20  # bytes
DEEPEST = 5  # packings around the CSV: a file can be made that unpacks to itself
ENCRYPTED = 1  # bit of a zip member's flags
PICTURES = (".jpg", ".jpeg", ".png")
DAMAGES = (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)


def locate(source: Path) -> Path:
    """The file that `source` stands for: itself, itself with a suffix, or a file of Kaggle's in this folder.

    Raises InputError that lists the names looked for, where, and how to get the data.
    """
    folder = source.parent
    names: tuple[str, ...] = (source.name,)
    if source.is_dir():
        folder, names = source, (*FILE_NAMES, PLAIN_NAME)
    elif not source.suffix:
        names += tuple(source.name + suffix for suffix in SUFFIXES)
    for name in names:
        if (folder / name).exists() and not (folder / name).is_dir():
            return folder / name
    where = f"looked in {folder.absolute()} for {', '.join(names)}"
    raise InputError(f"{source}: no FER2013 file found; {where}. {HOW_TO_GET}")


def has_csv(folder: Path) -> bool:
    """Whether a folder holds one of Kaggle's files, under a name that nothing else has."""
    return any((folder / name).is_file() for name in FILE_NAMES)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open the CSV, unpacked as often as it is packed; raises InputError where an archive is damaged or lacks a CSV."""
    try:
        with ExitStack() as stack:
            yield unpack(stack.enter_context(io.BufferedReader(path.open("rb", buffering=0), BUFFER)), path, stack)
    except NotImplementedError as error:  # a way of packing that Python's zipfile does not know
        raise InputError(f"{path}: {error}; unpack it first") from error
    except (*DAMAGES, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # a damaged zip seeks before 0
            if error.filename is None:
                raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
            raise
        raise InputError(f"{path}: damaged or cut off archive ({error}); get it again. {HOW_TO_GET}") from error


def unpack(file: io.BufferedReader, path: Path, stack: ExitStack, depth: int = 0) -> io.BufferedReader:
    """The CSV inside `file`, whatever packing its first bytes announce; `stack` closes what is opened."""
    head = file.peek(512)
    inner: Any  # all three can be read, but have no type in common
    if head.startswith(b"\x1f\x8b"):
        inner = stack.enter_context(gzip.GzipFile(fileobj=file, mode="rb"))  # its own guess fails for gzip in gzip
    elif head.startswith(b"PK\x03\x04"):
        inner = stack.enter_context(csv_in_zip(stack.enter_context(zipfile.ZipFile(file)), path))
    elif head[257:262] == b"ustar":
        inner = stack.enter_context(csv_in_tar(file, path, stack))
    else:
        return file
    if depth == DEEPEST:
        raise InputError(f"{path}: packed more than {DEEPEST} times; unpack it first")
    return unpack(stack.enter_context(io.BufferedReader(inner, BUFFER)), path, stack, depth + 1)


def csv_in_zip(archive: zipfile.ZipFile, path: Path) -> IO[bytes]:
    """The CSV of a zip archive; raises InputError where a password protects it."""
    name = choose(archive.namelist(), path)
    if archive.getinfo(name).flag_bits & ENCRYPTED:
        raise InputError(f"{path}: {name} is protected by a password; unpack it first")
    return archive.open(name)


def choose(names: Sequence[str], path: Path) -> str:
    """The member of an archive that holds the faces: Kaggle's names first, else the first CSV."""
    for wanted in (*FILE_NAMES, PLAIN_NAME):
        for name in names:
            if is_named(name, wanted):
                return name
    return next(filter(is_csv, names), None) or refuse_archive(names, path)


def csv_in_tar(file: io.BufferedReader, path: Path, stack: ExitStack) -> IO[bytes]:
    """The CSV of a tar archive, which is read forwards: again from its start unless the best name comes up."""
    archive = stack.enter_context(tarfile.TarFile.open(fileobj=file, mode="r|"))
    names: list[str] = []
    for member in filter(tarfile.TarInfo.isfile, archive):
        if is_named(member.name, FILE_NAMES[0]):
            return archive.extractfile(member) or refuse_archive(names, path)
        names.append(member.name)
    wanted = choose(names, path)
    file.seek(0)
    archive = stack.enter_context(tarfile.TarFile.open(fileobj=file, mode="r|"))
    member = next(member for member in archive if member.isfile() and member.name == wanted)
    return archive.extractfile(member) or refuse_archive(names, path)


def is_named(name: str, wanted: str) -> bool:
    """Whether a member of an archive has this name, in whatever folder."""
    return name == wanted or name.endswith(f"/{wanted}")


def is_csv(name: str) -> bool:
    """Whether a member's name is that of a CSV, and not of the shadow that macOS adds to it."""
    return name.endswith(".csv") and not name.rpartition("/")[2].startswith(".")


def refuse_archive(names: Sequence[str], path: Path) -> NoReturn:
    """Raise InputError for an archive without a CSV."""
    if any(name.lower().endswith(PICTURES) for name in names):
        raise InputError(f"{path}: no .csv in the archive but pictures; unpack it and give the folder")
    raise InputError(f"{path}: no .csv in the archive; it holds {', '.join(names[:10]) or 'nothing'}. {HOW_TO_GET}")
