"""A picture from the camera, by OpenCV."""

import numpy as np
from PIL import Image

from pipeline.pictures.detect import available
from pipeline.pictures.open import Picture
from pipeline.process import InputError

FRAMES = 10  # the last of them is taken: a camera needs some to find its exposure


def take() -> Picture:
    """What the first camera sees; raises InputError where there is no camera or no OpenCV."""
    if not available():
        raise InputError("--camera: OpenCV is not installed; pip install '.[photo]'")
    import cv2

    log = cv2.utils.logging  # which would tell a missing camera in lines of its own
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(0)
    try:
        for _ in range(FRAMES):
            there, frame = capture.read()
            if not there:
                raise InputError("--camera: no camera gives a picture")
    finally:
        capture.release()
    return Picture("camera", Image.fromarray(np.ascontiguousarray(frame[..., ::-1])), ())
