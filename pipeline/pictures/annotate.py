"""A picture with its faces' boxes, expressions, units' opinions, and what the network looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.pictures.detect import Box
from pipeline.pictures.open import SUFFIXES
from pipeline.process import atomic, only_one

LARGEST, SMALLEST = 1600, 480  # pixels of the longer side of what is drawn
LONGEST = 200  # bytes of a name before its number and suffix; file systems take 255
LINE, LETTERS = (255, 209, 0), (20, 20, 20)
HEAT = (220, 30, 30)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
STRONGEST = 0.65  # share of HEAT where the network looked most


@dataclass(frozen=True)
class Drawn:
    """A face as it is drawn: lines of text, and the importance (h, w) of its pixels where it was explained."""

    box: Box
    lines: Sequence[str]
    importance: NDArray[np.float32] | None = None


def annotate(image: Image.Image, faces: Sequence[Drawn]) -> Image.Image:
    """A coloured copy of an upright picture with its faces, the longer side between 480 and 1600 pixels."""
    longer = max(image.size)
    scale = min(max(longer, SMALLEST), LARGEST) / longer
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    result = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    boxes = [scaled(face.box, scale) for face in faces]
    for face, box in zip(faces, boxes, strict=True):
        if face.importance is not None:
            heat(result, box, face.importance)
    draw, font = ImageDraw.Draw(result), ImageFont.load_default(max(12, max(size) // 50))
    for face, box in zip(faces, boxes, strict=True):
        write(draw, box, face.lines, font, size)
    return result


def scaled(box: Box, scale: float) -> Box:
    """A box in the picture as it is drawn, a pixel wide and high at least."""
    x, y, width, height = (round(value * scale) for value in box)
    return Box(x, y, max(1, width), max(1, height))


def heat(image: Image.Image, box: Box, importance: NDArray[np.float32]) -> None:
    """Lay red over a face, the more the more important a pixel is; what speaks against the class stays as it is."""
    positive = np.clip(importance, 0, None)
    share = positive / max(float(positive.max()), 1e-12) * STRONGEST * 255
    mask = Image.fromarray(share.astype(np.uint8)).resize((box.width, box.height), Image.Resampling.BICUBIC)
    image.paste(Image.new("RGB", mask.size, HEAT), (box.x, box.y), mask)


def write(draw: ImageDraw.ImageDraw, box: Box, lines: Sequence[str], font: Font, size: tuple[int, int]) -> None:
    """A frame around a face and its text below it, moved to where it can be read."""
    width = max(1, max(size) // 300)
    right, bottom = box.x + box.width - 1, box.y + box.height - 1
    draw.rectangle((box.x, box.y, right, bottom), outline=LINE, width=width)
    text = "\n".join(lines)
    x0, y0, x1, y1 = draw.multiline_textbbox((0, 0), text, font=font)
    left = max(0, min(box.x, size[0] - (x1 - x0) - 4))
    top = max(0, min(bottom + 1, size[1] - (y1 - y0) - 6))
    draw.rectangle((left, top, left + x1 - x0 + 4, top + y1 - y0 + 6), fill=LINE)
    draw.multiline_text((left + 2 - x0, top + 2 - y0), text, font=font, fill=LETTERS)


def save(image: Image.Image, folder: Path, name: str) -> Path:
    """Write a picture as PNG under the stem of `name`, with a number after it where that is taken; returns its path."""
    plain = Path(name.replace(":", "-"))
    stem = (plain.stem if plain.suffix.lower() in SUFFIXES else plain.name).lstrip(".")
    stem = stem.encode(errors="replace")[:LONGEST].decode(errors="ignore") or "picture"
    with only_one(folder, wait=True):  # so that of two processes both keep their pictures
        path, number = folder / f"{stem}.png", 1
        while path.exists():
            number += 1
            path = folder / f"{stem}-{number}.png"
        with atomic(path) as temporary:
            image.save(temporary, "PNG")
    return path
