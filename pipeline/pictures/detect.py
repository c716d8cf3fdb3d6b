"""Faces in a picture: those that OpenCV's cascade finds where it is installed, else the middle square of the picture.

The detector is that of Viola & Jones (CVPR 2001), of the kind that cut FER2013's faces out of their photographs.
"""

import threading
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cfpn.network import Network
from cfpn.schema import Description
from pipeline.pictures.open import SMALLEST
from pipeline.process import InputError

SIDE = Description().side  # of a face of FER2013
CROP = 2  # a picture whose longer side is at most so many sides of a face is one that someone has cut out already
LARGEST = 1024  # pixels of the longer side when faces are searched for
CASCADE = "haarcascade_frontalface_default.xml"
SCALE, NEIGHBOURS = 1.1, 6  # step between sizes; how many windows must agree
ONE_AT_A_TIME = threading.Lock()  # OpenCV's detector answers wrongly where two threads ask it at once


class Box(NamedTuple):
    """A rectangle in pixels of the upright picture."""

    x: int
    y: int
    width: int
    height: int


def available() -> bool:
    """Whether OpenCV is installed."""
    return find_spec("cv2") is not None


def opencv() -> Any:  # noqa: ANN401 - OpenCV has no types
    """OpenCV; InputError where it is installed and does not load, as without libraries of the system that it needs."""
    try:
        import cv2
    except ImportError as error:
        raise InputError(f"OpenCV is installed and does not load ({error}); --faces crop does without it") from error
    return cv2


@cache
def cascade() -> Any:  # noqa: ANN401 - OpenCV has no types
    """OpenCV's detector of frontal faces, in the file that it ships; InputError where that is missing."""
    path = Path(opencv().__file__).with_name("data") / CASCADE
    detector = opencv().CascadeClassifier(str(path)) if path.is_file() else None
    if detector is None or detector.empty():
        raise InputError(f"{path}: OpenCV's detector of faces is not there; --faces crop does without it")
    return detector


def find(image: Image.Image) -> list[Box]:
    """Boxes of the faces in an upright picture, from left to right; needs OpenCV."""
    shrink = max(1.0, max(image.size) / LARGEST)
    small = image.convert("L").resize([max(1, round(side / shrink)) for side in image.size], reducing_gap=2.0)
    least = max(SMALLEST, round(SMALLEST / shrink))
    even = opencv().equalizeHist(np.asarray(small))
    with ONE_AT_A_TIME:
        found = cascade().detectMultiScale(even, scaleFactor=SCALE, minNeighbors=NEIGHBOURS, minSize=(least, least))
    return sorted(Box(*(round(int(value) * shrink) for value in box)) for box in found)


def middle(image: Image.Image) -> Box:
    """The largest square in the middle of a picture."""
    side = min(image.size)
    return Box((image.width - side) // 2, (image.height - side) // 2, side, side)


def side_of(network: Network) -> int:
    """Height and width of the faces that a network learnt from, in pixels; weights that do not say it saw FER2013's."""
    return int(network.about.get("side", SIDE))


def cut(image: Image.Image, box: Box, channels: int, side: int = SIDE) -> NDArray[np.uint8]:
    """The face in a box as the network takes it: (channels, side, side) uint8, grey by ITU-R 601, averaged if shrunk.

    A grey picture of side x side pixels comes out as it is.
    """
    corners = (box.x, box.y, box.x + box.width, box.y + box.height)
    face = image.crop(corners).convert("L" if channels == 1 else "RGB")
    if face.size != (side, side):
        face = face.resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(face)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
