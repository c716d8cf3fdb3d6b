"""Picture files of any mode, depth, orientation and size -> upright pictures in 8 bits, or one line that says why not.

Rules for what could be read in two ways:
- The content tells the format, not the name: PNG, JPEG, GIF, BMP, TIFF, WebP, AVIF and PNM are read.
- The EXIF orientation is applied, so that a picture is seen as a viewer shows it.
- What is transparent is composed on white.
- More than 8 bits are scaled down: from the bits that the file names, as 12 in a TIFF, else 0..65535 for integers, 0..1
  for floats, or 0..255 where all values fit.
- Of several frames or pages the first is taken, and the answer says so.
- Refused: more than 100 megapixels (unread), a shorter side below 24 pixels, and what is damaged or no picture.
"""

import io
import unicodedata
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.process import InputError

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM")  # none that starts another program
SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".ppm", ".pgm", ".pbm"}
MOST_PIXELS = 100_000_000
SMALLEST = 24  # pixels of the shorter side; half of what the network takes
STREAM_LIMIT = 1 << 28  # bytes that are read of a pipe
WHITE = (255, 255, 255, 255)  # behind what is transparent
BITS, MEANING, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF: bits of a sample; what its values mean, and one such meaning
HIDDEN = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's categories of what breaks a line or a terminal
TURNING = {"\u061c", *map(chr, (*range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)))}  # direction


class Picture(NamedTuple):
    """An upright picture: image is grey ("L") or coloured ("RGB"); notes say what was left out or changed."""

    name: str
    image: Image.Image
    notes: tuple[str, ...]


def open_picture(path: Path) -> Picture:
    """The picture of a file; raises InputError, which begins with the path, where there is none that can be used."""
    name = shown(path)
    try:
        with path.open("rb") as file:
            seekable = file.seekable()
            return read(file if seekable else io.BytesIO(whole(file, name)), name)
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error


def whole(file: IO[bytes], name: str) -> bytes:
    """All bytes of a pipe; raises InputError where there are more than STREAM_LIMIT."""
    data = file.read(STREAM_LIMIT + 1)
    if len(data) > STREAM_LIMIT:
        raise InputError(f"{name}: more than {STREAM_LIMIT >> 20} MiB come through a pipe; name the file instead")
    return data


def read(file: IO[bytes], name: str) -> Picture:
    """The picture of an open file that can seek; raises InputError, which begins with the name."""
    start = file.read(16)
    if not start:
        raise InputError(f"{name}: empty file; expected a picture")
    file.seek(0)
    with warnings.catch_warnings():  # Pillow warns of oddities that it then reads well
        warnings.simplefilter("ignore")
        try:
            Image.init()  # which of the formats this Pillow was built for is known only then
            with Image.open(file, formats=[form for form in FORMATS if form in Image.OPEN]) as image:
                check_size(image, name)
                frames = getattr(image, "n_frames", 1)
                tags = getattr(image, "tag_v2", {})  # of a TIFF; the turned copy lacks them
                upright = eight_bits(turned(image), tags)
        except InputError:
            raise
        except UnidentifiedImageError as error:
            raise InputError(f"{name}: no picture that is read here; it begins with {start!r}") from error
        except Image.DecompressionBombError as error:
            raise InputError(f"{name}: more than {MOST_PIXELS // 10**6} megapixels; not read") from error
        except MemoryError as error:
            raise InputError(f"{name}: not enough memory to read this picture") from error
        except Exception as error:  # a damaged file makes the decoders of Pillow raise almost anything
            raise InputError(f"{name}: damaged picture: {str(error) or type(error).__name__}") from error
    notes = (f"first of {frames} frames",) if frames > 1 else ()
    return Picture(name, upright, notes)


def check_size(image: Image.Image, name: str) -> None:
    """Raise InputError where a picture that is not read yet is too large or too small."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise InputError(f"{name}: {width}x{height} is more than {MOST_PIXELS // 10**6} megapixels; not read")
    if min(width, height) < SMALLEST:
        raise InputError(
            f"{name}: {width}x{height} is too small; expected {SMALLEST} pixels or more in both directions"
        )


def turned(image: Image.Image) -> Image.Image:
    """The picture, read, as its EXIF orientation wants it; damaged EXIF data are ignored, as viewers do."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the same holds for its reader of EXIF data
        return image.copy()


def eight_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """The picture as "L" or "RGB", composed on white where it is transparent; tags: of its TIFF file, else empty."""
    if image.mode[0] in "IF":
        return scaled(image, tags)
    if image.has_transparency_data or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def scaled(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """A grey picture of more than 8 bits ("I;16", "I", "F") in 8 bits."""
    values = np.asarray(image).astype(np.float32)  # of 100 megapixels 400 MB, so the rest happens in place
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite")
    clear = values == image.info.get("transparency", -1)
    largest = float(values.max())
    (bits,) = tags.get(BITS, (16,))
    ranges = {"F": (1, 255, 65535), "I": (255, 65535)}.get(image.mode, (2**bits - 1,))
    values *= 255 / next((top for top in ranges if largest <= top), largest)
    if tags.get(MEANING) == WHITE_IS_ZERO:
        np.subtract(255, values, out=values)
    values[clear] = 255
    return Image.fromarray(np.rint(np.clip(values, 0, 255, out=values), out=values).astype(np.uint8))


def shown(path: Path | str) -> str:
    """A path as text for one line: bytes that are not UTF-8, and what controls a line or turns it, as escapes."""
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if controls(c) else c for c in text)


def controls(character: str) -> bool:
    """Whether a character breaks a line, commands a terminal or turns the direction of what follows."""
    return unicodedata.category(character) in HIDDEN or character in TURNING
